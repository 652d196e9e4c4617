//! Queries a backend on behalf of all requests for the process's health: a request waits for a bounded time, and at most one
//! query is under way. A hundred probes at a time cost the backend one query.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// How long an answer is waited for where there is an earlier one.
const PATIENCE: Duration = Duration::from_millis(20);

/// How old an earlier answer may be, and how long the first is waited for: a backend that has not answered for so long is
/// away.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// What was seen last, and when.
pub(super) struct Looks<T> {
    seen: watch::Sender<Option<(Instant, T)>>,
    under_way: Arc<AtomicBool>,
}

/// Says that no look is under way, however one ends.
struct UnderWay(Arc<AtomicBool>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl<T: Clone + Send + Sync + 'static> Looks<T> {
    pub(super) fn new() -> Self {
        Self { seen: watch::Sender::new(None), under_way: Arc::default() }
    }

    /// What `look` sees, or what was seen [`ANSWER_TIMEOUT`] ago at most; None if nothing was. While a look is under way no
    /// other one is begun.
    pub(super) async fn look(&self, look: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let mut seen = self.seen.subscribe();
        if !self.under_way.swap(true, Ordering::AcqRel) {
            let (sender, ending) = (self.seen.clone(), UnderWay(self.under_way.clone()));
            tokio::spawn(async move {
                let answer = timeout(ANSWER_TIMEOUT, look).await;
                drop(ending);
                if let Ok(answer) = answer {
                    sender.send_replace(Some((Instant::now(), answer)));
                }
            });
        }
        let earlier = |seen: &watch::Receiver<Option<(Instant, T)>>| {
            let seen = seen.borrow();
            seen.as_ref().filter(|(at, _)| at.elapsed() < ANSWER_TIMEOUT).map(|(_, answer)| answer.clone())
        };
        let patience = if earlier(&seen).is_some() { PATIENCE } else { ANSWER_TIMEOUT };
        // Whether it came in time or not: what counts is what is there.
        let _ = timeout(patience, seen.changed()).await;
        earlier(&seen)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_answers_is_asked_each_time_and_by_one_at_a_time() {
        let (looks, asked) = (Arc::new(Looks::new()), Arc::new(AtomicUsize::new(0)));
        let look = || {
            let asked = asked.clone();
            async move {
                sleep(Duration::from_millis(5)).await;
                asked.fetch_add(1, Ordering::Relaxed)
            }
        };
        for expect in 0..3 {
            assert_eq!(looks.look(look()).await, Some(expect));
        }
        let at_once = (0..100).map(|_| {
            let (looks, look) = (looks.clone(), look());
            tokio::spawn(async move { looks.look(look).await })
        });
        for answer in futures_util::future::join_all(at_once).await {
            assert_eq!(answer.unwrap(), Some(3));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_is_slow_holds_nobody_up_and_one_that_is_away_is_noticed() {
        let looks = Looks::new();
        let takes = async |time: Duration| {
            let begun = Instant::now();
            let answer = looks.look(async move { sleep(time).await }).await;
            (answer.is_some(), begun.elapsed())
        };
        assert_eq!(takes(Duration::from_secs(1)).await, (true, Duration::from_secs(1)), "the first is waited for");
        let slow = Duration::from_secs(10);
        assert_eq!(takes(slow).await, (true, PATIENCE), "an earlier answer is good");
        sleep(ANSWER_TIMEOUT).await;
        assert_eq!(takes(slow).await, (false, ANSWER_TIMEOUT));
        // The last look is given up at this very moment.
        sleep(PATIENCE).await;
        assert_eq!(takes(Duration::ZERO).await, (true, Duration::ZERO), "it is back");
    }
}
