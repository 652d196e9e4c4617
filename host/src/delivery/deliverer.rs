//! One deliverer: leases a batch, publishes it, takes it out of the outbox, and so on.

use std::time::Duration;

use tocsin_base::failpoint;
use tocsin_base::retry::RetryPolicy;
use tocsin_health::Component;
use tocsin_store::{OutboxLease, Store};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::cloud_event::{self, Event};
use super::kafka::Publisher;
use super::{DeliveryConfig, DeliveryError};

/// Firings that are leased and published together. They are all that is kept in memory.
pub(super) const BATCH: u32 = 1_000;

/// How long an alert stays a deliverer's own after it was leased or renewed: so long its firings wait where the deliverer
/// dies.
const LEASE: Duration = Duration::from_secs(10);

/// How often leases are renewed while the brokers are waited for; and after so long that wait is reported.
const RENEW_EVERY: Duration = Duration::from_secs(3);

/// How often an outbox that was empty is looked at again unasked: for firings whose deliverer has died.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long after the stop firings are still published.
pub(super) const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Deliverer {
    store: Store,
    config: DeliveryConfig,
    component: Component,
    stop: CancellationToken,
    lease: OutboxLease,
    publisher: Option<Publisher>,
    /// Whether a problem was logged that is not over.
    is_failing: bool,
}

impl Deliverer {
    pub(super) fn new(store: Store, config: DeliveryConfig, component: Component, stop: CancellationToken) -> Self {
        let lease = OutboxLease { owner: config.owner.clone(), duration: LEASE };
        Self { store, config, component, stop, lease, publisher: None, is_failing: false }
    }

    pub(super) async fn run(mut self) {
        let mut waits = RetryPolicy::DELIVERY.waits();
        let mut news = None;
        let finish = finish_time(self.stop.clone());
        let mut finish = std::pin::pin!(finish);
        loop {
            let delivered = tokio::select! {
                delivered = self.round(&mut news) => delivered,
                () = &mut finish => Err(DeliveryError::Unfinished),
            };
            match delivered {
                Ok(true) => {
                    self.well();
                    waits.reset();
                }
                Ok(false) if self.stop.is_cancelled() => break,
                Ok(false) => self.wait_for_news(&mut news).await,
                Err(error) => {
                    self.failed(&error).await;
                    if self.stop.is_cancelled() {
                        break;
                    }
                    let wait = waits.next(rand::random());
                    self.stop.run_until_cancelled(sleep(wait)).await;
                }
            }
        }
    }

    /// Publishes one batch; false if there was nothing to publish.
    async fn round(&mut self, news: &mut Option<watch::Receiver<u64>>) -> Result<bool, DeliveryError> {
        if news.is_none() {
            *news = Some(self.store.newest_firing().await?);
        }
        if self.publisher.is_none() {
            self.publisher = Some(Publisher::open(&self.config.kafka).await?);
        }
        // Seen before reading: what is recorded meanwhile ends the wait for news.
        news.iter_mut().for_each(|news| _ = news.borrow_and_update());
        let leased = self.store.lease_outbox(&self.lease, BATCH).await?;
        if leased.is_empty() {
            self.well();
            return Ok(false);
        }
        failpoint::pass("after-lease");
        let (numbers, firings): (Vec<u64>, Vec<_>) = leased.into_iter().unzip();
        let events: Vec<Event> = firings.into_iter().map(|firing| cloud_event::of(firing, self.config.body)).collect();
        self.publish(&events).await?;
        failpoint::pass("after-publish-before-ack");
        self.store.ack_outbox(&self.config.owner, &numbers).await?;
        Ok(true)
    }

    /// Publishes, and keeps the leases meanwhile.
    async fn publish(&mut self, events: &[Event]) -> Result<(), DeliveryError> {
        let Some(publisher) = self.publisher.clone() else { return Ok(()) };
        let mut publishing = std::pin::pin!(publisher.publish(events));
        let mut renewals = interval_at(Instant::now() + RENEW_EVERY, RENEW_EVERY);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                published = &mut publishing => return published,
                _ = renewals.tick() => {}
            }
            self.report("firings wait for Kafka: the brokers have not acknowledged them");
            let renewal = self.store.renew_outbox(&self.lease);
            tokio::select! {
                published = &mut publishing => return published,
                renewed = renewal => match renewed {
                    // A batch is leased and given up as a whole.
                    Ok(0) => return Err(DeliveryError::LeaseLost),
                    Ok(_) => {}
                    Err(error) => debug!(%error, "the leases of the outbox are not renewed; trying again"),
                },
            }
        }
    }

    async fn wait_for_news(&self, news: &mut Option<watch::Receiver<u64>>) {
        let Some(firings) = news else { return };
        let closed = tokio::select! {
            changed = firings.changed() => changed.is_err(),
            () = sleep(LOOK_AGAIN) => false,
            () = self.stop.cancelled() => false,
        };
        if closed {
            *news = None;
        }
    }

    /// What was being published is forgotten with its producer, and others may publish it.
    async fn failed(&mut self, error: &DeliveryError) {
        self.publisher = None;
        self.report(&error.to_string());
        // A store that does not answer lets leases run out by itself.
        let _ = tokio::time::timeout(RENEW_EVERY, self.store.release_outbox(&self.config.owner)).await;
    }

    fn report(&mut self, problem: &str) {
        if !std::mem::replace(&mut self.is_failing, true) {
            warn!("{problem}; trying again");
        }
        self.component.report(problem);
    }

    fn well(&mut self) {
        if std::mem::take(&mut self.is_failing) {
            info!("firings are published again");
        }
        self.component.clear();
    }
}

/// Ends when no more firings are to be published.
async fn finish_time(stop: CancellationToken) {
    stop.cancelled().await;
    sleep_until(Instant::now() + FINISH_TIMEOUT).await;
}
