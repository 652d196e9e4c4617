//! Retries what needs a backend until it is there, and reports that it is away, in the log and in `/health`.

use std::fmt::Display;

use tocsin_base::retry::RetryPolicy;
use tocsin_health::Component;
use tracing::{info, warn};

/// Retries `attempt` until it succeeds, or fails with an error that is not transient. `what` is what it waits for.
pub(super) async fn until_there<T, E: Display>(
    component: &Component,
    what: impl Display,
    is_transient: impl Fn(&E) -> bool,
    attempt: impl AsyncFn() -> Result<T, E>,
) -> Result<T, E> {
    let mut waits = RetryPolicy::START.waits();
    let mut failed = false;
    // A broker that is away is silent for some time before that is an error.
    component.report(format!("waiting for {what}"));
    loop {
        match attempt().await {
            Err(error) if is_transient(&error) => {
                let wait = waits.next(rand::random());
                warn!(retry_in_ms = wait.as_millis() as u64, "{error}");
                component.report(error.to_string());
                failed = true;
                tokio::time::sleep(wait).await;
            }
            ended => {
                if failed && ended.is_ok() {
                    info!("{what}: available again");
                }
                component.clear();
                return ended;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;
    use tocsin_health::{About, Health};

    #[tokio::test(start_paused = true)]
    async fn transient_errors_are_retried_and_no_others() {
        let component = Health::new(About::default(), &[]).component("bus");
        let tries = AtomicU32::new(0);
        let attempt = async || match tries.fetch_add(1, Relaxed) {
            0..10 => Err("away"),
            10 => Ok(()),
            _ => Err("broken"),
        };
        let is_transient = |error: &&str| *error == "away";
        assert_eq!(until_there(&component, "bus", is_transient, attempt).await, Ok(()));
        assert_eq!(until_there(&component, "bus", is_transient, attempt).await, Err("broken"));
        assert_eq!(tries.load(Relaxed), 12);
    }
}
