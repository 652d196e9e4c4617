//! Learns what other processes have changed, and notifies them: LISTEN and NOTIFY, with the newest numbers as payload.
//!
//! Notifications are lost while there is no connection, and a dead one may look alive for long. So the newest numbers are
//! read after every new connection, and again from time to time, on the same connection: that shows whether it lives.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgNotification, PgPoolOptions};
use tocsin_base::retry::RetryPolicy;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{ACQUIRE_TIMEOUT, Announcement, Arc, Newest, StoreError, Tx};
use crate::NEWEST;

const REVISIONS: &str = "tocsin_revisions";
const FIRINGS: &str = "tocsin_firings";

/// Time between two looks at the newest numbers, heard of or not: the longest that a change can stay unnoticed while the
/// database answers.
const SCAN_INTERVAL: Duration = Duration::from_secs(5);

/// How long an answer may take, to such a look or to LISTEN, before the connection counts as dead.
const SCAN_TIMEOUT: Duration = Duration::from_secs(5);

/// Announces to all listeners what a transaction has made, once it is committed.
pub(super) async fn notify(transaction: &mut Tx, announcement: Announcement) -> Result<(), StoreError> {
    for (channel, number) in [(REVISIONS, announcement.revision), (FIRINGS, announcement.firing)] {
        let Some(number) = number else { continue };
        let notify = sqlx::query("SELECT pg_notify($1, $2)").bind(channel).bind(number.to_string());
        notify.execute(&mut **transaction).await?;
    }
    Ok(())
}

/// Listens until it is stopped.
pub(super) async fn run(options: PgConnectOptions, newest: Arc<Newest>, stop: CancellationToken) {
    let listening = async {
        let mut waits = RetryPolicy::NOTIFICATIONS.waits();
        loop {
            let begun = Instant::now();
            let lost = Box::pin(listen(&options, &newest)).await;
            if begun.elapsed() > SCAN_INTERVAL + SCAN_TIMEOUT {
                // It had heard something in between.
                waits.reset();
            }
            let wait = waits.next(rand::random());
            match lost {
                Ok(()) => info!(?wait, "the connection that hears of changes was lost; making another"),
                Err(error) => warn!(%error, ?wait, "changes of other processes are not heard of; trying again"),
            }
            sleep(wait).await;
        }
    };
    stop.run_until_cancelled(listening).await;
}

/// Listens until the connection is lost.
async fn listen(options: &PgConnectOptions, newest: &Newest) -> Result<(), sqlx::Error> {
    // A pool of its own: what becomes of a dead connection is not waited for.
    let pool = PgPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
    let pool = pool.acquire_timeout(ACQUIRE_TIMEOUT).connect_with(options.clone()).await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    in_time(listener.listen_all([REVISIONS, FIRINGS])).await?;
    loop {
        let (revision, firing): (i64, i64) = in_time(sqlx::query_as(NEWEST).fetch_one(&mut listener)).await?;
        newest.announce(Announcement { revision: Some(revision), firing: Some(firing) });
        if let Ok(lost) = timeout(SCAN_INTERVAL, hear(&mut listener, newest)).await {
            return lost;
        }
    }
}

/// Fails where the server does not answer: a connection that is stuck may look alive for long.
async fn in_time<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(SCAN_TIMEOUT, answer).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

async fn hear(listener: &mut PgListener, newest: &Newest) -> Result<(), sqlx::Error> {
    while let Some(notification) = listener.try_recv().await? {
        newest.announce(announcement(&notification));
    }
    Ok(())
}

/// The number in a notification; None if it is no number, since any client may notify.
fn announcement(notification: &PgNotification) -> Announcement {
    let number = notification.payload().parse().ok();
    match notification.channel() {
        REVISIONS => Announcement { revision: number, firing: None },
        _ => Announcement { revision: None, firing: number },
    }
}
