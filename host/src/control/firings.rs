//! Reading firings: in pages, and as they are recorded.

mod tail;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream;
use tocsin_engine::domain::{AlertId, Firing, FiringId, Tenant};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

pub use self::tail::Recorded;
pub(super) use self::tail::Tail;

use super::alerts::no_alert;
use super::{Control, ControlError, Page, page, page_size};

/// The cursor before the first firing.
pub const START: &str = "start";

impl Control {
    /// Firings in the order in which they were recorded. `after` is a page's cursor: the id of a firing, or [`START`].
    pub async fn firings(
        &self,
        tenant: &Tenant,
        alert: Option<i64>,
        after: Option<&str>,
        limit: Option<i64>,
    ) -> Result<Page<Firing>, ControlError> {
        let (limit, after) = page(page_size(limit, "limit"), self.cursor(tenant, after).await)?;
        let alert = self.existing_alert(tenant, alert).await?;
        let firings = self.0.store.firings(tenant, alert, after.unwrap_or(0), limit + 1).await?;
        let firings = firings.into_iter().map(|(_, firing)| firing).collect();
        Ok(Page::of(firings, limit, |firing: &Firing| firing.id.to_string()))
    }

    /// Firings as they are recorded, without end: behind `after`, the id of a firing or [`START`], or new ones only. A
    /// slow reader misses nothing: what it has not read waits in the store. Before them the cursor that they begin
    /// behind, so that a reader who loses them before the first one can go on without a gap.
    pub async fn watch_firings(
        &self,
        tenant: &Tenant,
        alert: Option<i64>,
        after: Option<&str>,
    ) -> Result<(String, impl Stream<Item = Result<Arc<Recorded>, ControlError>> + Send + use<>), ControlError> {
        // Before anything is read: what is recorded meanwhile is handed to it.
        let tail::Subscription { firings: live, after: live_after } = self.0.tail.subscribe().await?;
        let alert = self.existing_alert(tenant, alert).await?;
        let (cursor, after, is_behind) = match (after, self.cursor(tenant, after).await?) {
            (Some(cursor), Some(after)) => (cursor.to_owned(), after, after < live_after),
            _ => match self.0.store.last_firing(tenant).await? {
                // It is the tenant's last, so none that is not handed out is missing in between.
                Some((seq, firing)) => (firing.id.to_string(), seq, false),
                None => (START.to_owned(), 0, false),
            },
        };
        let watch = Watch {
            tail: self.0.tail.clone(),
            tenant: tenant.clone(),
            alert,
            after,
            live,
            is_behind,
            read: VecDeque::new(),
        };
        let firings = stream::unfold(Some(watch), async |watch| {
            let mut watch = watch?;
            match watch.next().await {
                Ok(Some(firing)) => Some((Ok(firing), Some(watch))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok((cursor, firings))
    }

    /// An alert's firings are asked for by its number. They outlive it: only one that never was is refused.
    async fn existing_alert(&self, tenant: &Tenant, alert: Option<i64>) -> Result<Option<AlertId>, ControlError> {
        match alert {
            Some(id) if self.0.store.has_had_alert(tenant, AlertId(id)).await? => Ok(Some(AlertId(id))),
            Some(id) => Err(no_alert(id)),
            None => Ok(None),
        }
    }

    async fn cursor(&self, tenant: &Tenant, after: Option<&str>) -> Result<Option<u64>, ControlError> {
        let Some(after) = after.filter(|after| !after.is_empty()) else { return Ok(None) };
        if after == START {
            return Ok(Some(0));
        }
        let wrong = || ControlError::invalid("after", "is not the id of a firing");
        let id: FiringId = after.parse().map_err(|_| wrong())?;
        self.0.store.firing_seq(tenant, id).await?.map(Some).ok_or_else(wrong)
    }
}

struct Watch {
    tail: Tail,
    tenant: Tenant,
    alert: Option<AlertId>,
    /// The last firing that was given out, or that is none of this watch's.
    after: u64,
    live: broadcast::Receiver<Arc<Recorded>>,
    /// There may be firings behind `after` that will not be handed to it live.
    is_behind: bool,
    /// Read from the store and not yet given out.
    read: VecDeque<Arc<Recorded>>,
}

impl Watch {
    /// The next firing; None once none can come any more.
    async fn next(&mut self) -> Result<Option<Arc<Recorded>>, ControlError> {
        loop {
            if let Some(recorded) = self.read.pop_front() {
                self.after = recorded.seq;
                return Ok(Some(recorded));
            }
            if self.is_behind {
                let (page, more) = self.tail.catch_up(&self.tenant, self.alert, self.after).await?;
                (self.read, self.is_behind) = (page.into(), more);
                continue;
            }
            match self.live.recv().await {
                // Read from the store already.
                Ok(recorded) if recorded.seq <= self.after => {}
                Ok(recorded) => {
                    self.after = recorded.seq;
                    if recorded.is_of(&self.tenant, self.alert) {
                        return Ok(Some(recorded));
                    }
                }
                Err(RecvError::Lagged(_)) => {
                    // In this order: what is recorded while the store is read is handed to it.
                    self.live = self.live.resubscribe();
                    self.is_behind = true;
                }
                Err(RecvError::Closed) => return Ok(None),
            }
        }
    }
}
