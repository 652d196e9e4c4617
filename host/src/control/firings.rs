//! Reading firings: in pages, and as they are recorded.

use std::collections::VecDeque;

use futures_util::Stream;
use futures_util::stream;
use tocsin_engine::domain::{AlertId, Firing, FiringId, Tenant};
use tokio::sync::watch;

use super::alerts::no_alert;
use super::{Control, ControlError, MAX_PAGE, Page, page, page_size};

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
    ) -> Result<(String, impl Stream<Item = Result<Firing, ControlError>> + Send + use<>), ControlError> {
        let newest = self.0.store.newest_firing().await?;
        let alert = self.existing_alert(tenant, alert).await?;
        let (cursor, after) = match (after, self.cursor(tenant, after).await?) {
            (Some(cursor), Some(after)) => (cursor.to_owned(), after),
            _ => match self.0.store.last_firing(tenant).await? {
                Some((seq, firing)) => (firing.id.to_string(), seq),
                None => (START.to_owned(), 0),
            },
        };
        let watch =
            Watch { control: self.clone(), tenant: tenant.clone(), alert, after, newest, read: VecDeque::new() };
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
    control: Control,
    tenant: Tenant,
    alert: Option<AlertId>,
    after: u64,
    newest: watch::Receiver<u64>,
    /// Read from the store and not yet given out.
    read: VecDeque<(u64, Firing)>,
}

impl Watch {
    /// The next firing; None when the store is closed.
    async fn next(&mut self) -> Result<Option<Firing>, ControlError> {
        loop {
            if let Some((seq, firing)) = self.read.pop_front() {
                self.after = seq;
                return Ok(Some(firing));
            }
            // Marked as seen before reading: a firing recorded meanwhile wakes the wait below.
            self.newest.borrow_and_update();
            let store = &self.control.0.store;
            self.read = store.firings(&self.tenant, self.alert, self.after, MAX_PAGE).await?.into();
            if self.read.is_empty() && self.newest.changed().await.is_err() {
                return Ok(None);
            }
        }
    }
}
