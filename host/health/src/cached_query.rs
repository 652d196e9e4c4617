//! Queries a backend on behalf of all requests for the process's health: a request waits for a bounded time, and at most one
//! query is under way. A hundred probes at a time cost the backend one query.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// How long a request waits for an answer where there is an earlier one.
const WAIT_WITH_EARLIER_ANSWER: Duration = Duration::from_millis(20);

/// How old an earlier answer may be, and how long a request waits for the first one: a backend that has not answered for so
/// long counts as away.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The last answer of a backend, and when it came.
pub struct CachedQuery<T> {
    answer: watch::Sender<Option<(Instant, T)>>,
    under_way: Arc<AtomicBool>,
}

/// Clears the mark of a query that is under way, however it ends.
struct UnderWay(Arc<AtomicBool>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl<T> Default for CachedQuery<T> {
    fn default() -> Self {
        Self { answer: watch::Sender::new(None), under_way: Arc::default() }
    }
}

impl<T: Clone + Send + Sync + 'static> CachedQuery<T> {
    /// Returns what `query` answers, or an answer that is at most [`ANSWER_TIMEOUT`] old; None if there is none. While a query
    /// is under way, no other is begun.
    pub async fn run(&self, query: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let mut answers = self.answer.subscribe();
        if !self.under_way.swap(true, Ordering::AcqRel) {
            let (sender, ending) = (self.answer.clone(), UnderWay(self.under_way.clone()));
            tokio::spawn(async move {
                let answer = timeout(ANSWER_TIMEOUT, query).await;
                drop(ending);
                if let Ok(answer) = answer {
                    sender.send_replace(Some((Instant::now(), answer)));
                }
            });
        }
        let recent = |answers: &watch::Receiver<Option<(Instant, T)>>| {
            let answer = answers.borrow();
            answer.as_ref().filter(|(at, _)| at.elapsed() < ANSWER_TIMEOUT).map(|(_, answer)| answer.clone())
        };
        let wait = if recent(&answers).is_some() { WAIT_WITH_EARLIER_ANSWER } else { ANSWER_TIMEOUT };
        // Whether or not the answer came in time, the newest one there is counts.
        let _ = timeout(wait, answers.changed()).await;
        recent(&answers)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_answers_is_queried_each_time_and_once_at_a_time() {
        let (cached, queries) = (Arc::new(CachedQuery::default()), Arc::new(AtomicUsize::new(0)));
        let query = || {
            let queries = queries.clone();
            async move {
                sleep(Duration::from_millis(5)).await;
                queries.fetch_add(1, Ordering::Relaxed)
            }
        };
        for expect in 0..3 {
            assert_eq!(cached.run(query()).await, Some(expect));
        }
        let at_once = (0..100).map(|_| {
            let (cached, query) = (cached.clone(), query());
            tokio::spawn(async move { cached.run(query).await })
        });
        for answer in futures_util::future::join_all(at_once).await {
            assert_eq!(answer.unwrap(), Some(3));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_backend_delays_no_request_and_one_that_is_away_is_noticed() {
        let cached = CachedQuery::default();
        let takes = async |time: Duration| {
            let begun = Instant::now();
            let answer = cached.run(async move { sleep(time).await }).await;
            (answer.is_some(), begun.elapsed())
        };
        assert_eq!(takes(Duration::from_secs(1)).await, (true, Duration::from_secs(1)), "the first is waited for");
        let slow = Duration::from_secs(10);
        assert_eq!(takes(slow).await, (true, WAIT_WITH_EARLIER_ANSWER), "an earlier answer is good");
        sleep(ANSWER_TIMEOUT).await;
        assert_eq!(takes(slow).await, (false, ANSWER_TIMEOUT));
        // The last query is given up at this very moment.
        sleep(WAIT_WITH_EARLIER_ANSWER).await;
        assert_eq!(takes(Duration::ZERO).await, (true, Duration::ZERO), "it is back");
    }
}
