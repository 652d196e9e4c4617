//! Backends that are away are waited for: told in the log and in `/health`, and tried again until they are there.

use std::fmt::Display;
use std::time::Duration;

use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::health::Part;

/// The first wait is up to so long.
const BASE: Duration = Duration::from_millis(500);

/// And none is longer: a backend that is back is seen soon.
const CAP: Duration = Duration::from_secs(10);

/// Tries to have `what` until that succeeds, or fails in a way that does not pass.
pub(super) async fn until_there<T, E: Display>(
    part: &Part,
    what: impl Display,
    is_transient: impl Fn(&E) -> bool,
    attempt: impl AsyncFn() -> Result<T, E>,
) -> Result<T, E> {
    let mut backoff = Backoff::new(BASE, CAP);
    let mut failed = false;
    // A broker that is away is silent for some time before that is an error.
    part.tell(format!("waiting for {what}"));
    loop {
        match attempt().await {
            Err(error) if is_transient(&error) => {
                let wait = backoff.next(rand::random());
                warn!(retry_in_ms = wait.as_millis() as u64, "{error}");
                part.tell(error.to_string());
                failed = true;
                tokio::time::sleep(wait).await;
            }
            ended => {
                if failed && ended.is_ok() {
                    info!("{what}: it is there");
                }
                part.clear();
                return ended;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;
    use crate::health::{About, Health};

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_waited_for_and_nothing_else() {
        let part = Health::new(About::default(), Arc::new(|| 0)).part("bus");
        let tries = AtomicU32::new(0);
        let attempt = async || match tries.fetch_add(1, Relaxed) {
            0..10 => Err("away"),
            10 => Ok(()),
            _ => Err("broken"),
        };
        let is_transient = |error: &&str| *error == "away";
        assert_eq!(until_there(&part, "bus", is_transient, attempt).await, Ok(()));
        assert_eq!(until_there(&part, "bus", is_transient, attempt).await, Err("broken"));
        assert_eq!(tries.load(Relaxed), 12);
    }
}
