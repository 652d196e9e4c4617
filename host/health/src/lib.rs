//! The health of this process, from its start to its end: a registry of what components report and what probes find.
//!
//! It knows no other module. A component reports its status when that changes; a probe is run for every report. Each module
//! registers the probe of what it knows (`store::health`, `evaluator::health` and so on), and words its problems.

mod cached_query;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, join_all};

pub use self::cached_query::{ANSWER_TIMEOUT, CachedQuery};

/// Finds out what is wrong with something now.
pub trait Probe: Send + Sync + 'static {
    /// Returns the problems of this moment. It takes little longer than [`ANSWER_TIMEOUT`] at most: see [`CachedQuery`].
    fn check(&self) -> BoxFuture<'_, Problems>;
}

/// What a probe found, for people: what happened, to what, why, and what to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    /// Problems that keep the process from its work: it is not ready.
    pub blocking: Vec<String>,
    /// Problems beside which it goes on working.
    pub tolerable: Vec<String>,
}

/// The health of a process. Cloning is cheap.
#[derive(Clone)]
pub struct Health(Arc<Registry>);

struct Registry {
    about: About,
    order: &'static [&'static str],
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// By name, in whose order their problems are listed.
    components: BTreeMap<&'static str, Status>,
    /// In the order of `Registry::order`.
    probes: Vec<(&'static str, Arc<dyn Probe>)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Starting,
    Running,
    Draining,
}

/// What a component reported last.
#[derive(Clone, Default)]
struct Status {
    /// Why it does not work any more.
    failure: Option<String>,
    /// What keeps it from its work; it retries.
    problem: Option<String>,
    /// Which process does its work meanwhile.
    standby: Option<String>,
}

/// What a process is.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The roles that it runs.
    pub roles: Vec<&'static str>,
    /// Its backends by port: `bus`, `store`, `prices`, `firings`. Without secrets.
    pub backends: Vec<(&'static str, String)>,
}

/// Reports the status of a part of the process. Cloning is cheap.
#[derive(Clone)]
pub struct Component {
    health: Health,
    name: &'static str,
}

/// The health of a process at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthReport {
    /// Whether the process can do its work.
    pub ready: bool,
    /// The roles that it runs.
    pub roles: Vec<&'static str>,
    /// Its backends, by port.
    pub backends: Vec<(&'static str, String)>,
    /// The component that stands by, the process it waits for, and why; None if all components work.
    pub standby: Option<String>,
    /// What is wrong, for people: first what keeps the process from its work.
    pub problems: Vec<String>,
}

impl Problems {
    /// Returns problems beside which the process goes on working.
    pub fn tolerable(problems: impl IntoIterator<Item = String>) -> Self {
        Self { blocking: Vec::new(), tolerable: problems.into_iter().collect() }
    }
}

impl Component {
    /// Reports a problem, in place of one that was reported before. The process stays ready: the component retries.
    pub fn report(&self, problem: impl Into<String>) {
        self.update(|status| status.problem = Some(problem.into()));
    }

    /// Reports that the component has stopped working: the process is not ready.
    pub fn fail(&self, failure: impl Into<String>) {
        self.update(|status| status.failure = Some(failure.into()));
    }

    /// Reports that the component waits for the work that another process does.
    pub fn stand_by(&self, standby: String) {
        self.update(|status| *status = Status { problem: None, standby: Some(standby), ..status.clone() });
    }

    /// Reports that the component works.
    pub fn clear(&self) {
        self.update(|status| *status = Status::default());
    }

    fn update(&self, update: impl FnOnce(&mut Status)) {
        update(self.health.state().components.entry(self.name).or_default());
    }
}

impl Health {
    /// Creates the registry of a process that is starting. `order` names probes and components in the order in which their
    /// problems are listed; the others come last.
    pub fn new(about: About, order: &'static [&'static str]) -> Self {
        Self(Arc::new(Registry { about, order, state: Mutex::default() }))
    }

    /// Runs a probe for every report from now on, in place of an earlier one of that name.
    pub fn register(&self, name: &'static str, probe: impl Probe) {
        let mut state = self.state();
        state.probes.retain(|(other, _)| *other != name);
        state.probes.push((name, Arc::new(probe)));
        state.probes.sort_by_key(|(name, _)| self.rank(name));
    }

    /// Returns the handle by which a component reports its status.
    pub fn component(&self, name: &'static str) -> Component {
        Component { health: self.clone(), name }
    }

    /// Records that all roles have started.
    pub fn set_running(&self) {
        self.state().phase = Phase::Running;
    }

    /// Records that the process finishes the work it has begun, and begins no more.
    pub fn set_draining(&self) {
        self.state().phase = Phase::Draining;
    }

    /// Returns the description of a backend, by its port.
    pub fn backend(&self, port: &str) -> Option<String> {
        let mut backends = self.0.about.backends.iter();
        backends.find(|(name, _)| *name == port).map(|(_, backend)| backend.clone())
    }

    /// Runs the probes, all at a time, and returns what they found and what components reported.
    pub async fn report(&self) -> HealthReport {
        let (phase, components, probes) = {
            let state = self.state();
            (state.phase, state.components.clone(), state.probes.clone())
        };
        let check = |(name, probe): &(&'static str, Arc<dyn Probe>)| {
            let (rank, probe) = (self.rank(name), probe.clone());
            async move { (rank, probe.check().await) }
        };
        let found: Vec<(usize, Problems)> = join_all(probes.iter().map(check)).await;
        let mut problems: Vec<String> = match phase {
            Phase::Starting => vec!["the process is starting".into()],
            Phase::Running => Vec::new(),
            Phase::Draining => vec!["the process is stopping".into()],
        };
        problems.extend(self.blocking(&components, &found));
        let ready = problems.is_empty();
        problems.extend(components.values().filter_map(|status| status.problem.clone()));
        problems.extend(found.into_iter().flat_map(|(_, found)| found.tolerable));
        let standby = components.iter().find_map(|(name, status)| Some(format!("{name} {}", status.standby.as_ref()?)));
        let About { roles, backends } = self.0.about.clone();
        HealthReport { ready, roles, backends, standby, problems }
    }

    /// Returns what keeps the process from its work: components that failed, and what probes found, in the set order.
    fn blocking(&self, components: &BTreeMap<&'static str, Status>, found: &[(usize, Problems)]) -> Vec<String> {
        let mut blocking: Vec<(usize, &String)> = Vec::new();
        for (name, status) in components {
            blocking.extend(status.failure.iter().map(|failure| (self.rank(name), failure)));
        }
        for (rank, found) in found {
            blocking.extend(found.blocking.iter().map(|problem| (*rank, problem)));
        }
        blocking.sort_by_key(|(rank, _)| *rank);
        blocking.into_iter().map(|(_, problem)| problem.clone()).collect()
    }

    fn rank(&self, name: &str) -> usize {
        let order = self.0.order;
        order.iter().position(|known| *known == name).unwrap_or(order.len())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Finds(&'static str, &'static str);

    impl Probe for Finds {
        fn check(&self) -> BoxFuture<'_, Problems> {
            let problems = |text: &str| text.split_whitespace().map(str::to_owned).collect();
            Box::pin(async move { Problems { blocking: problems(self.0), tolerable: problems(self.1) } })
        }
    }

    #[tokio::test]
    async fn a_process_is_ready_while_it_runs_and_its_components_report_their_status() {
        let health = Health::new(About { roles: vec!["ingest"], ..About::default() }, &[]);
        let (ingest, deliver) = (health.component("ingest"), health.component("deliver"));
        assert!(!health.report().await.ready);
        health.set_running();
        deliver.report("firings wait");
        ingest.stand_by("for b, which holds the feed".into());
        let report = health.report().await;
        assert!(report.ready && report.roles == ["ingest"], "{report:?}");
        assert_eq!(report.problems, ["firings wait"]);
        assert_eq!(report.standby.as_deref(), Some("ingest for b, which holds the feed"));
        deliver.clear();
        assert!(health.report().await.standby.is_some(), "another component's");
        ingest.clear();
        let report = health.report().await;
        assert!(report.problems.is_empty() && report.standby.is_none(), "{report:?}");
        health.set_draining();
        assert!(!health.report().await.ready);
    }

    #[tokio::test]
    async fn problems_are_listed_in_a_set_order_and_those_that_block_come_first() {
        let health = Health::new(About::default(), &["store", "evaluate", "feed"]);
        health.set_running();
        health.register("feed", Finds("", "silent"));
        health.register("disk", Finds("full", ""));
        health.register("evaluate", Finds("halted", "late"));
        assert_eq!(health.report().await.problems, ["halted", "full", "late", "silent"]);
        health.register("store", Finds("away", "impure"));
        health.component("bus").report("waiting for the bus");
        health.component("evaluate").fail("stopped");
        let report = health.report().await;
        assert!(!report.ready);
        let expect = ["away", "stopped", "halted", "full", "waiting for the bus", "impure", "late", "silent"];
        assert_eq!(report.problems, expect);
        health.register("feed", Finds("", ""));
        assert_eq!(health.report().await.problems, expect[..7], "the later probe of a name counts");
    }
}
