//! One simulated process: an evaluator, and the API calls that it serves.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tocsin_bus::simulated::Gates;
use tocsin_bus::simulated::{SimulatedBus, SimulatedLog};
use tocsin_bus::{Assignment, Bus};
use tocsin_engine::EvaluationOptions;
use tocsin_engine::domain::{Lifecycle, Repeat, Tenant};
use tocsin_store::simulated::{SimulatedDatabase, SimulatedStore};
use tocsin_store::{Idempotency, Store};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::super::tests::{CAPS, NOW_MS};
use super::super::{EvaluatorConfig, EvaluatorError, Parts, parts};
use super::rules::rules;
use super::world::{Request, symbol};
use crate::control::{Control, ControlError, CreateAlert, PromoteRule};
use crate::evaluator::worker::Worker;

/// More than a worker sends in one turn: it must not wait for its committer on the only thread.
const COMMIT_QUEUE: usize = 100_000;

pub(super) struct Process {
    /// No other process of a run, a restarted one neither, has it.
    pub(super) number: u32,
    pub(super) store: SimulatedStore,
    pub(super) control: Control,
    /// None once it is stopping.
    pub(super) workers: Vec<Worker>,
    /// The coordinator and the committers.
    pub(super) tasks: JoinSet<Result<(), EvaluatorError>>,
    pub(super) calls: JoinSet<Answer>,
    /// What the group has decided and the process has not heard of.
    pub(super) mail: VecDeque<Assignment>,
    assignments: mpsc::UnboundedSender<Assignment>,
    stop: CancellationToken,
    /// A call of it will never be answered.
    pub(super) hangs: bool,
    has_begun: oneshot::Receiver<()>,
    /// Whether its start is over: until then it fails where a backend is away, and is started again.
    begun: bool,
}

/// What a client was answered.
pub(super) enum Answer {
    Created { request: usize, answer: Result<i64, ControlError> },
    Deleted { alert: i64, answer: Result<(), ControlError> },
    Promoted(Result<(), ControlError>),
    Other,
}

impl Process {
    pub(super) async fn start(
        number: u32,
        workers: usize,
        log: SimulatedLog,
        database: &SimulatedDatabase,
        gates: &Gates,
    ) -> Self {
        let store = database.handle(gates.of(number));
        let (bus, assignments) = SimulatedBus::new(log, gates.of(number));
        let clock: tocsin_bus::Clock = Arc::new(|| NOW_MS);
        let (of, bus, cache) = (Store::Simulated(store.clone()), Bus::Simulated(bus), rules().cache.clone());
        let control = Control::new(of.clone(), bus.clone(), cache.clone(), clock.clone(), CAPS);
        let config = EvaluatorConfig {
            group: "evaluators".into(),
            workers,
            checkpoint_interval: Duration::from_secs(1_000_000),
            skip_lost_ticks: false,
            outbox: false,
            evaluation: EvaluationOptions::default(),
        };
        let stop = CancellationToken::new();
        let parts = parts(of, bus, cache, &config, clock, &stop, COMMIT_QUEUE).await;
        let Parts { workers: pairs, coordinator, has_begun } = parts.expect("a process starts");
        let (at_work, all_done) = mpsc::channel(1);
        let (mut workers, mut tasks) = (Vec::new(), JoinSet::new());
        for (worker, committer) in pairs {
            workers.push(worker);
            let at_work = at_work.clone();
            tasks.spawn(async move {
                let ended = committer.run().await;
                drop(at_work);
                ended
            });
        }
        drop(at_work);
        tasks.spawn(coordinator.run(stop.clone(), all_done));
        let (calls, mail) = (JoinSet::new(), VecDeque::new());
        Self {
            number,
            store,
            control,
            workers,
            tasks,
            calls,
            mail,
            assignments,
            stop,
            hangs: false,
            has_begun,
            begun: false,
        }
    }

    pub(super) fn has_begun(&mut self) -> bool {
        self.begun |= self.has_begun.try_recv().is_ok();
        self.begun
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Begins to stop, as when the process is asked to: workers take a last checkpoint.
    pub(super) fn stop(&mut self) -> Result<(), EvaluatorError> {
        self.stop.cancel();
        self.workers.drain(..).try_for_each(Worker::simulated_end)
    }

    /// The coordinator hears of what the group decided first.
    pub(super) fn deliver_mail(&mut self) -> bool {
        let Some(assignment) = self.mail.pop_front() else { return false };
        self.assignments.send(assignment).is_ok()
    }

    /// Sends a request for an alert. Its user is its own, so that what becomes of it can be found.
    pub(super) fn create(&mut self, number: usize, request: &Request) {
        let symbols = request.symbols.iter().map(|number| symbol(*number).as_str().to_owned()).collect();
        let idempotency = Idempotency { key: format!("request-{number}"), fingerprint: [number as u8; 32] };
        let repeat = if request.once { Repeat::Once } else { Repeat::Every };
        let create = CreateAlert {
            user_id: Some(number as i64 + 1),
            symbols: Some(symbols),
            version: Some("1.0.0".into()),
            lifecycle: Lifecycle { repeat },
            idempotency: Some(idempotency),
            ..super::super::tests::request("counter", &[])
        };
        let (control, request) = (self.control.clone(), number);
        self.calls.spawn(async move {
            let answer = control.create_alert(&Tenant::standard(), create).await;
            Answer::Created { request, answer: answer.map(|(alert, _)| alert.id.0) }
        });
    }

    pub(super) fn delete(&mut self, alert: i64) {
        let control = self.control.clone();
        self.calls.spawn(async move {
            let answer = control.delete_alert(&Tenant::standard(), alert).await;
            Answer::Deleted { alert, answer }
        });
    }

    pub(super) fn unquarantine(&mut self, alert: i64) {
        let control = self.control.clone();
        self.calls.spawn(async move {
            let _ = control.release_alert(&Tenant::standard(), alert, None).await;
            Answer::Other
        });
    }

    pub(super) fn promote(&mut self) {
        let control = self.control.clone();
        let (name, version) = ("counter".to_owned(), "2.0.0".to_owned());
        let request = PromoteRule { name, version, from: None, reset_state: false };
        self.calls
            .spawn(async move { Answer::Promoted(control.promote_rule(&Tenant::standard(), request).await.map(drop)) });
    }

    pub(super) fn cancel(&mut self) {
        let control = self.control.clone();
        self.calls.spawn(async move {
            let _ = control.cancel_promotion(&Tenant::standard(), "counter", "2.0.0").await;
            Answer::Other
        });
    }

    /// Looks once for a promotion that no process lives to end.
    pub(super) fn roll_back_abandoned(&mut self) {
        let control = self.control.clone();
        self.calls.spawn(async move {
            let _ = control.roll_back_abandoned_promotion().await;
            Answer::Other
        });
    }
}
