//! The thread that owns a shard: reads ticks, judges them, hands over what happened.
//!
//! `lanes` is about its partitions, which come and go; `arming` about bindings that begin; `due` about what is done to
//! bindings right behind a checkpoint.

mod arming;
mod due;
mod lanes;

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tocsin_engine::domain::{AlertId, BindingId, Digest, Symbol};
use tocsin_engine::limits::THREAD_STACK_BYTES;
use tocsin_engine::{EvaluateError, EvaluationOptions, Event, Shard};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::arming::begin;
use self::lanes::Lane;
use super::stats::Progress;
use super::{Change, Changes, EvaluatorConfig, EvaluatorError, EvaluatorStats, Handed, Message};
use crate::bus::{Bus, BusError, Reader, Record, Waker};
use crate::store::{Commit, NewFault, SymbolAssignment};

/// Ticks read at once.
const MAX_BATCH: usize = 1024;

/// How long ticks are evaluated before firings are handed over and changes are applied. One tick may take longer, where very
/// many costly bindings watch its symbol: then what has fired so far is handed over meanwhile, and a stop is obeyed.
const EVALUATION_TIME: Duration = Duration::from_millis(20);

/// Events after which a commit is handed over though its batch is not done.
const MAX_EVENTS: usize = 8192;

/// Bytes of records in fault bundles after which a commit is handed over: together with the queue of commits they bound
/// what a flood of faults can hold in memory.
const MAX_BUNDLE_BYTES: usize = 1024 * 1024;

/// How long to wait for ticks where nothing else is due.
const POLL_TIMEOUT: Duration = Duration::from_millis(250);

/// How long an evaluator that panicked waits for the store to take the rule version out of service.
const PANIC_WRITE_TIME: Duration = Duration::from_secs(20);

/// Wait before the bus is asked again after it failed.
const RETRY_WAIT: Duration = Duration::from_millis(500);

pub(super) struct Worker {
    bus: Bus,
    reader: Reader,
    /// What was read, and how much of it is evaluated.
    batch: Vec<Record>,
    evaluated: usize,
    shard: Shard,
    /// The partitions that are its own.
    lanes: BTreeMap<u32, Lane>,
    /// The symbols that somebody watches or watched.
    homes: HashMap<Symbol, Home>,
    /// Changes up to this revision are applied.
    revision: u64,
    handed: mpsc::Sender<Handed>,
    messages: mpsc::Receiver<Message>,
    stats: Arc<EvaluatorStats>,
    progress: Progress,
    /// What it reports the usage of its rules by.
    number: usize,
    checkpoint_interval: Duration,
    /// Alive until the last checkpoint is written.
    unwritten_checkpoint: Weak<()>,
    evaluation: EvaluationOptions,
    counted: Counted,
    /// The partition of a tick, or of a catch-up, that a stop has broken off.
    broken_off: Option<u32>,
    /// New bindings that are catching up.
    catching_up: Option<Shard>,
    stop: CancellationToken,
}

/// Where the ticks of a symbol count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// On this partition alone.
    At(u32),
    /// Where the first one turns up.
    Awaited,
    /// The first one has turned up, and the store is to say whether it was the first of all.
    Seen,
}

/// What this worker has added to the shared counters.
#[derive(Default)]
struct Counted {
    evaluations: u64,
    bindings: u64,
}

impl Worker {
    /// A worker that has no partitions yet.
    pub(super) fn new(
        bus: Bus,
        revision: u64,
        handed: mpsc::Sender<Handed>,
        messages: mpsc::Receiver<Message>,
        stats: Arc<EvaluatorStats>,
        config: &EvaluatorConfig,
        stop: CancellationToken,
    ) -> Result<Self, EvaluatorError> {
        Ok(Self {
            reader: bus.reader(Vec::new())?,
            bus,
            batch: Vec::new(),
            evaluated: 0,
            shard: Shard::new(config.evaluation),
            lanes: BTreeMap::new(),
            homes: HashMap::new(),
            revision,
            handed,
            messages,
            progress: stats.progress(),
            number: stats.add_worker(),
            stats,
            checkpoint_interval: config.checkpoint_interval,
            unwritten_checkpoint: Weak::new(),
            evaluation: config.evaluation,
            counted: Counted::default(),
            broken_off: None,
            catching_up: None,
            stop,
        })
    }

    pub(super) fn waker(&self) -> Waker {
        self.reader.waker()
    }

    /// Runs on a thread of its own, whose stack rules may use up; the receiver hears how it ended.
    pub(super) fn spawn(mut self) -> Result<oneshot::Receiver<Result<(), EvaluatorError>>, EvaluatorError> {
        let (done, receiver) = oneshot::channel();
        std::thread::Builder::new().name("tocsin-shard".into()).stack_size(THREAD_STACK_BYTES).spawn(move || {
            let ended = std::panic::catch_unwind(AssertUnwindSafe(|| self.run()));
            let ended = ended.unwrap_or_else(|panic| Err(self.panicked(panic.as_ref())));
            drop(self);
            // Nobody listens only where the whole evaluator is gone.
            let _ = done.send(ended);
        })?;
        Ok(receiver)
    }

    fn run(&mut self) -> Result<(), EvaluatorError> {
        let mut checkpoint_due = Instant::now() + self.checkpoint_interval;
        while !self.stop.is_cancelled() {
            self.follow_messages()?;
            self.give_up_broken_off();
            self.do_what_is_due()?;
            if self.evaluated == self.batch.len() {
                let wait = checkpoint_due.saturating_duration_since(Instant::now()).min(POLL_TIMEOUT);
                self.poll(wait)?;
            }
            self.evaluate_batch()?;
            self.give_up_broken_off();
            if Instant::now() >= checkpoint_due {
                // Where states are larger than the store can write in an interval, checkpoints must not pile up in memory.
                if self.unwritten_checkpoint.strong_count() == 0 {
                    self.checkpoint()?;
                }
                self.stats.report_usage(self.number, self.shard.usage().collect());
                checkpoint_due = Instant::now() + self.checkpoint_interval;
            }
        }
        self.checkpoint()
    }

    /// Lets go of a partition whose states are those of no offset: its last checkpoint stays.
    fn give_up_broken_off(&mut self) {
        if let Some(partition) = self.broken_off.take() {
            self.forget(&[partition]);
        }
    }

    /// The engine panicked: the rule version that was being evaluated is taken out of service, durably, so that the next
    /// start does not evaluate it. Nothing else of this worker is written.
    fn panicked(&mut self, panic: &(dyn std::any::Any + Send)) -> EvaluatorError {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let text = text.unwrap_or("no message").to_owned();
        let catching_up = self.catching_up.as_ref().and_then(Shard::evaluated_in_panic);
        let Some(rule) = catching_up.or(self.shard.evaluated_in_panic()) else {
            return EvaluatorError::Ended(format!("an evaluator thread panicked: {text}"));
        };
        error!(
            rule = %rule.name, version = %rule.version, panic = %text,
            "the engine panicked while it evaluated a rule: the rule version is taken out of service"
        );
        let reason = format!("the engine panicked while it evaluated this rule version: {text}");
        let commit = Commit { impure_rules: vec![(rule.clone(), reason)], ..Commit::default() };
        // The process ends with this error: by then it must be written.
        let (written, is_written) = std::sync::mpsc::channel();
        if self.send(Handed::OutOfService(Box::new(commit), written)).is_err()
            || is_written.recv_timeout(PANIC_WRITE_TIME).is_err()
        {
            error!(rule = %rule.name, version = %rule.version, "the store did not take it out of service in time");
        }
        EvaluatorError::Panicked { rule: Box::new(rule), text }
    }

    fn poll(&mut self, wait: Duration) -> Result<(), EvaluatorError> {
        self.evaluated = 0;
        match self.reader.poll(&mut self.batch, MAX_BATCH, wait) {
            Err(error @ BusError::OffsetOutOfRange { position, .. }) => self.halt(position.partition, &error),
            Err(error) if error.is_transient() => {
                warn!(%error, "evaluation waits for the bus");
                std::thread::sleep(RETRY_WAIT);
                Ok(())
            }
            polled => Ok(polled?),
        }
    }

    fn follow_messages(&mut self) -> Result<(), EvaluatorError> {
        while let Ok(message) = self.messages.try_recv() {
            match message {
                Message::Changes(changes) => self.apply(changes)?,
                Message::Take(restored, taken) => {
                    self.take(*restored)?;
                    drop(taken);
                }
                Message::Leave(partitions, leaving) => self.leave(&partitions, leaving)?,
            }
        }
        Ok(())
    }

    fn apply(&mut self, changes: Changes) -> Result<(), EvaluatorError> {
        for SymbolAssignment { symbol, partition } in changes.homes {
            self.stats.assigned(&symbol, partition);
            self.homes.insert(symbol, partition.map_or(Home::Awaited, Home::At));
        }
        let partitions: Vec<u32> = self.lanes.keys().copied().collect();
        self.seek(&changes.sought, &partitions)?;
        let mut new = Vec::new();
        for change in changes.list {
            match change {
                Change::Arm(arming, counts_from) => new.push((*arming, counts_from)),
                Change::Disarm(binding) => {
                    new.retain(|(arming, _)| arming.binding != binding);
                    self.shard.disarm(binding);
                    self.forget_waiting(|arming| arming.binding == binding);
                    self.nothing_due(binding);
                }
                Change::Release(binding, partition) => self.when_due(partition, |lane| lane.due.unquarantine(binding)),
                Change::HandOver(asked, partition) => self.when_due(partition, |lane| lane.due.hand_over(asked)),
                Change::Keep(binding, partition) => self.when_due(partition, |lane| lane.due.keep(binding)),
                Change::DisarmRule(rule) => {
                    new.retain(|(arming, _)| arming.rule.reference().digest != rule);
                    self.disarm_rule(&rule);
                }
            }
        }
        self.revision = changes.revision;
        self.arm_new(new)
    }

    fn disarm_rule(&mut self, rule: &Digest) {
        let due = self.armed_and_due();
        self.shard.disarm_rule(rule);
        self.forget_waiting(|arming| arming.rule.reference().digest == *rule);
        for binding in due.into_iter().filter(|binding| !self.shard.holds(*binding)).collect::<Vec<_>>() {
            self.nothing_due(binding);
        }
    }

    /// Judges what was read, or as much of it as there is time for.
    fn evaluate_batch(&mut self) -> Result<(), EvaluatorError> {
        self.tell_progress();
        let batch = std::mem::take(&mut self.batch);
        let evaluated = self.evaluate_some(&batch[self.evaluated..]);
        self.batch = batch;
        self.evaluated += evaluated?;
        self.tell_progress();
        Ok(())
    }

    fn tell_progress(&self) {
        self.progress.reached(self.batch.get(self.evaluated).map(|record| record.published_ms));
    }

    fn evaluate_some(&mut self, records: &[Record]) -> Result<usize, EvaluatorError> {
        let begun = Instant::now();
        let (mut events, mut bundle_bytes, mut evaluated) = (Vec::new(), 0, 0);
        for record in records {
            let position = record.position;
            if let Some(lane) = self.lanes.get_mut(&position.partition) {
                begin(&mut self.shard, &self.stats, &mut lane.waiting, position.offset)?;
            }
            match self.homes.get(&record.tick.symbol) {
                Some(Home::At(home)) if *home == position.partition => {
                    let is_evaluated = self.evaluate(record, &mut events, &mut bundle_bytes)?;
                    if !is_evaluated {
                        self.broken_off = Some(position.partition);
                        break;
                    }
                }
                None => {}
                Some(_) => self.stray(record)?,
            }
            evaluated += 1;
            if events.len() >= MAX_EVENTS || bundle_bytes >= MAX_BUNDLE_BYTES {
                bundle_bytes = 0;
                self.hand_over(&mut events)?;
            }
            if begun.elapsed() >= EVALUATION_TIME {
                break;
            }
        }
        self.hand_over(&mut events)?;
        self.stats.ticks.fetch_add(evaluated as u64, Relaxed);
        let evaluations = self.shard.evaluations();
        self.stats.evaluations.fetch_add(evaluations - self.counted.evaluations, Relaxed);
        self.counted.evaluations = evaluations;
        Ok(evaluated)
    }

    /// Evaluates one tick, and adds to the bytes of records that all events carry. False if it was broken off by a stop:
    /// the states of its partition are those of no offset.
    fn evaluate(
        &mut self,
        record: &Record,
        events: &mut Vec<Event>,
        bundle_bytes: &mut usize,
    ) -> Result<bool, EvaluatorError> {
        let (handed, stop) = (&self.handed, &self.stop);
        let before = events.len();
        let (mut handed_over, mut early) = (Instant::now(), Vec::new());
        let mut between = |events: &mut Vec<Event>| {
            if stop.is_cancelled() {
                return ControlFlow::Break(());
            }
            if handed_over.elapsed() >= EVALUATION_TIME {
                handed_over = Instant::now();
                return hand_over_firings(handed, events, &mut early);
            }
            ControlFlow::Continue(())
        };
        let evaluated = self.shard.evaluate_in_turns(&record.tick, record.position, events, &mut between);
        // Firings that have left carried none, but the events behind them have moved up.
        let (counted, new) = if early.is_empty() { (*bundle_bytes, &events[before..]) } else { (0, &events[..]) };
        *bundle_bytes = counted + new.iter().map(record_bytes).sum::<usize>();
        for (alert, binding, last) in early {
            self.count_firing(alert, binding, last);
        }
        match evaluated {
            Ok(()) => Ok(true),
            Err(EvaluateError::Interrupted) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Reports a tick that does not count, since its symbol is assigned to another partition or to none yet.
    fn stray(&mut self, record: &Record) -> Result<(), EvaluatorError> {
        let (symbol, partition) = (&record.tick.symbol, record.position.partition);
        match self.homes.get(symbol) {
            Some(Home::At(home)) => self.stats.stray_tick(symbol, *home, partition),
            Some(Home::Awaited) => {
                self.homes.insert(symbol.clone(), Home::Seen);
                self.stats.unassigned_tick(symbol, record.position, record.published_ms);
                self.send(Handed::Seen(symbol.clone(), partition))?;
            }
            Some(Home::Seen) | None => {}
        }
        Ok(())
    }

    /// The next offset of each partition to be evaluated.
    fn positions(&self) -> BTreeMap<u32, u64> {
        let read = self.lanes.keys().map(|partition| (*partition, self.reader.position(*partition)));
        let left = self.batch[self.evaluated..].iter().rev().map(|record| record.position);
        read.chain(left.map(|position| (position.partition, position.offset))).collect()
    }

    /// Hands events to the committer, waiting while its queue is full.
    fn hand_over(&mut self, events: &mut Vec<Event>) -> Result<(), EvaluatorError> {
        if events.is_empty() {
            return Ok(());
        }
        let mut commit = Commit::default();
        for event in events.drain(..) {
            match event {
                Event::Fired { firing, last } => {
                    self.count_firing(firing.alert, firing.binding, last);
                    commit.firings.push((firing, last));
                }
                Event::Faulted { alert, binding, fault, quarantined, bundle } => {
                    self.stats.faults.fetch_add(1, Relaxed);
                    self.stats.count_alert(alert, |activity| activity.faults += 1);
                    if quarantined {
                        warn!(alert = alert.0, binding = binding.0, %fault, "a binding is quarantined");
                        self.stats.quarantined.fetch_add(1, Relaxed);
                        self.when_due(bundle.position.partition, |lane| {
                            lane.recovered.retain(|other| *other != binding)
                        });
                    }
                    commit.faults.push(NewFault { alert, binding, quarantined, bundle });
                }
                Event::Recovered { alert, binding, position } => {
                    info!(
                        alert = alert.0,
                        binding = binding.0,
                        "a quarantined binding was tried again and is evaluated"
                    );
                    self.stats.recovered.fetch_add(1, Relaxed);
                    // Told with the checkpoint that remembers it: before, a replay would begin with it in quarantine.
                    self.when_due(position.partition, |lane| lane.recovered.push(binding));
                }
                Event::Impure { rule, impurity } => {
                    error!(rule = %rule.name, version = %rule.version, %impurity, "a rule is impure: it is quarantined");
                    self.stats.impurities.fetch_add(1, Relaxed);
                    self.disarm_rule(&rule.digest);
                    commit.impure_rules.push((rule, impurity.to_string()));
                }
            }
        }
        self.count_bindings();
        if commit.is_empty() { Ok(()) } else { self.send(Handed::Events(Box::new(commit))) }
    }

    fn count_firing(&mut self, alert: AlertId, binding: BindingId, last: bool) {
        self.stats.count_alert(alert, |activity| activity.firings += 1);
        if last {
            self.nothing_due(binding);
        }
    }

    fn send(&self, handed: Handed) -> Result<(), EvaluatorError> {
        let gone = |_| EvaluatorError::Ended("the committer is gone".into());
        self.handed.blocking_send(handed).map_err(gone)
    }

    fn count_bindings(&mut self) {
        let bindings = self.shard.len() as u64;
        self.stats.bindings.fetch_add(bindings.wrapping_sub(self.counted.bindings), Relaxed);
        self.counted.bindings = bindings;
    }
}

/// Hands the firings among some events to the committer, and notes them in `early`. Breaks off where it is gone.
fn hand_over_firings(
    handed: &mpsc::Sender<Handed>,
    events: &mut Vec<Event>,
    early: &mut Vec<(AlertId, BindingId, bool)>,
) -> ControlFlow<()> {
    let mut commit = Commit::default();
    for event in std::mem::take(events) {
        match event {
            Event::Fired { firing, last } => {
                early.push((firing.alert, firing.binding, last));
                commit.firings.push((firing, last));
            }
            other => events.push(other),
        }
    }
    if !commit.is_empty() && handed.blocking_send(Handed::Events(Box::new(commit))).is_err() {
        return ControlFlow::Break(());
    }
    ControlFlow::Continue(())
}

/// The bytes of records that an event carries.
fn record_bytes(event: &Event) -> usize {
    match event {
        Event::Faulted { bundle, .. } => bundle.params.len() + bundle.state.len(),
        _ => 0,
    }
}
