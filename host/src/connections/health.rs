//! The probe of connections and streams: what there was no room for within the last minute.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tocsin_health::{Health, Probe, Problems};

use super::{Connections, Inner};

/// How long a connection that was refused, or could not be accepted, is a problem.
const PROBLEM_FOR: Duration = Duration::from_secs(60);

/// Registers the probe `connections`.
pub fn register(health: &Health, connections: Connections) {
    health.register("connections", connections);
}

impl Probe for Connections {
    fn check(&self) -> BoxFuture<'_, Problems> {
        Box::pin(std::future::ready(Problems::tolerable(self.problems())))
    }
}

impl Connections {
    /// Returns the problems of the last minute, for people: refusals and failures to accept.
    pub fn problems(&self) -> Vec<String> {
        let Inner { budget, streams, failed, .. } = &*self.0;
        let lately = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() < PROBLEM_FOR);
        let mut problems = Vec::new();
        if lately(budget.last_refused()) {
            problems.push(format!(
                "connections are refused: all {} were in use within the last {} s ({} refused since the start); raise \
                 --max-connections, or the limit of open files (ulimit -n)",
                budget.max(),
                PROBLEM_FOR.as_secs(),
                budget.refused()
            ));
        }
        if lately(streams.last_refused()) {
            problems.push(format!(
                "streams are refused: all {} were open within the last {} s ({} refused since the start); raise \
                 --max-streams",
                streams.max(),
                PROBLEM_FOR.as_secs(),
                streams.refused()
            ));
        }
        let failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, error)) = failed.last.as_ref().filter(|(at, _)| lately(Some(*at))) {
            problems.push(format!(
                "connections cannot be accepted: {error} ({} times since the start, the last {} s ago); raise the limit of \
                 open files (ulimit -n)",
                failed.count,
                at.elapsed().as_secs()
            ));
        }
        problems
    }
}
