//! The thread that feeds a processor: it reads records from the bus, steps the processor through them, and sends what
//! comes of it to the committer.
//!
//! `rereads` reads records again where the processor asks for it; `outputs` turns what the processor returns into commits,
//! counters and log messages.

mod outputs;
mod rereads;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tocsin_bus::{Bus, BusError, Handover, Reader, Record, Waker};
use tocsin_engine::domain::{Position, Symbol};
use tocsin_engine::limits::THREAD_STACK_BYTES;
use tocsin_store::{Claim, Commit, SymbolAssignment};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use self::outputs::Outputs;
use super::changes::Changes;
use super::processor::{Input, Output, Processor, Restored};
use super::stats::Progress;
use super::{EvaluatorConfig, EvaluatorError, EvaluatorStats};

/// Ticks read at once.
const MAX_BATCH: usize = 1024;

/// How long ticks are evaluated before firings are sent to the committer and changes are applied. One tick may take longer,
/// where very many costly bindings watch its symbol: then what has fired so far is sent meanwhile, and a stop is obeyed.
const EVALUATION_TIME: Duration = Duration::from_millis(20);

/// How long to wait for ticks where nothing else is due.
const POLL_TIMEOUT: Duration = Duration::from_millis(250);

/// How long an evaluator that panicked waits for the store to take the rule version out of service.
const PANIC_WRITE_TIME: Duration = Duration::from_secs(20);

/// Wait before the bus is called again after it failed.
const RETRY_WAIT: Duration = Duration::from_millis(500);

/// What the coordinator sends to a worker. Messages are applied in their order.
pub(super) enum Message {
    /// Bindings have changed.
    Changes(Changes),
    /// A partition is the worker's from now on. The sender is dropped once its bindings are armed.
    Take { claim: Claim, restored: Box<Restored>, armed: oneshot::Sender<()> },
    /// Partitions are not the worker's any more.
    GiveUp(Vec<u32>, GiveUp),
}

/// How partitions are given up.
#[derive(Clone)]
pub(super) enum GiveUp {
    /// The group has revoked them: with a checkpoint. The handover is dropped once that is written.
    Revoked(#[expect(dead_code, reason = "its end is what is waited for")] Arc<Handover>),
    /// With a checkpoint, and they stay this evaluator's: it does not evaluate the log that is there.
    Halted,
    /// They are another evaluator's already: without a checkpoint.
    Lost,
}

/// What a worker sends to its committer. The order matters.
pub(super) enum WorkerOutput {
    /// A partition is the worker's.
    Claimed(Claim),
    /// Firings and faults, or checkpoints.
    Commit(Box<Commit>),
    /// Is dropped once all that was sent before it is written.
    Marker(Arc<()>),
    /// A rule version is taken out of service before the evaluator ends; the sender is notified once that is written.
    OutOfService(Box<Commit>, std::sync::mpsc::Sender<()>),
    /// The first tick of an unassigned symbol is on this partition.
    SymbolSeen(Symbol, u32),
    /// A partition is not evaluated until an operator acts, and why.
    Halted(u32, String),
    /// Partitions are not the worker's any more.
    GaveUp(Vec<u32>, GiveUp),
}

pub(super) struct Worker {
    bus: Bus,
    reader: Reader,
    /// What was read, and how much of it is evaluated.
    batch: Vec<Record>,
    evaluated: usize,
    processor: Processor,
    /// What the processor returned last; empty between steps.
    returned: Vec<Output>,
    outputs: Outputs,
    messages: mpsc::Receiver<Message>,
    stats: Arc<EvaluatorStats>,
    progress: Progress,
    /// The index by which it reports the usage of its rules.
    index: usize,
    checkpoint_interval: Duration,
    checkpoint_due: Instant,
    evaluation_time: Duration,
    stop: CancellationToken,
}

impl Worker {
    /// A worker without partitions.
    pub(super) fn new(
        bus: Bus,
        revision: u64,
        committer: mpsc::Sender<WorkerOutput>,
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
            processor: Processor::new(config.evaluation, revision),
            returned: Vec::new(),
            outputs: Outputs::new(committer, stats.clone()),
            messages,
            progress: stats.progress(),
            index: stats.add_worker(),
            stats,
            checkpoint_interval: config.checkpoint_interval,
            checkpoint_due: Instant::now() + config.checkpoint_interval,
            evaluation_time: EVALUATION_TIME,
            stop,
        })
    }

    pub(super) fn waker(&self) -> Waker {
        self.reader.waker()
    }

    /// Runs on a thread of its own, whose stack rules may use up. The receiver gets how it ended.
    pub(super) fn spawn(mut self) -> Result<oneshot::Receiver<Result<(), EvaluatorError>>, EvaluatorError> {
        let (done, receiver) = oneshot::channel();
        std::thread::Builder::new().name("tocsin-shard".into()).stack_size(THREAD_STACK_BYTES).spawn(move || {
            let ended = std::panic::catch_unwind(AssertUnwindSafe(|| self.run()));
            let ended = ended.unwrap_or_else(|panic| Err(self.panicked(panic.as_ref())));
            drop(self);
            // The receiver is gone only where the whole evaluator is.
            let _ = done.send(ended);
        })?;
        Ok(receiver)
    }

    fn run(&mut self) -> Result<(), EvaluatorError> {
        while !self.stop.is_cancelled() {
            self.turn()?;
        }
        self.checkpoint()
    }

    /// Applies what was sent, reads and evaluates some records, and takes a checkpoint if one is due.
    fn turn(&mut self) -> Result<(), EvaluatorError> {
        self.follow_messages()?;
        if self.processor.has_pending() {
            self.report_positions()?;
            self.step(Input::ApplyPending)?;
            self.outputs.count(&self.processor);
        }
        if self.evaluated == self.batch.len() {
            let wait = self.checkpoint_due.saturating_duration_since(Instant::now()).min(POLL_TIMEOUT);
            self.poll(wait)?;
        }
        self.evaluate_batch()?;
        if Instant::now() >= self.checkpoint_due {
            // Where states are larger than the store can write in an interval, checkpoints must not pile up in memory.
            if self.outputs.checkpoint_is_written() {
                self.checkpoint()?;
            }
            self.stats.report_usage(self.index, self.processor.usage());
            self.checkpoint_due = Instant::now() + self.checkpoint_interval;
        }
        Ok(())
    }

    /// Takes one turn as a simulator decides it: how long it evaluates (zero is one record), and whether a checkpoint is due.
    #[cfg(test)]
    pub(super) fn simulated_turn(&mut self, evaluation_time: Duration, checkpoint: bool) -> Result<(), EvaluatorError> {
        self.evaluation_time = evaluation_time;
        if checkpoint {
            self.checkpoint_due = Instant::now();
        }
        self.turn()
    }

    /// Ends as after a stop.
    #[cfg(test)]
    pub(super) fn simulated_end(mut self) -> Result<(), EvaluatorError> {
        self.checkpoint()
    }

    /// The engine panicked: the rule version that was being evaluated is taken out of service, durably, so that the next
    /// start does not evaluate it. Nothing else of this worker is written.
    fn panicked(&mut self, panic: &(dyn std::any::Any + Send)) -> EvaluatorError {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let text = text.unwrap_or("no message").to_owned();
        let Some(rule) = self.processor.evaluated_in_panic() else {
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
        if self.outputs.send(WorkerOutput::OutOfService(Box::new(commit), written)).is_err()
            || is_written.recv_timeout(PANIC_WRITE_TIME).is_err()
        {
            error!(rule = %rule.name, version = %rule.version, "the store did not take it out of service in time");
        }
        EvaluatorError::Panicked { rule: Box::new(rule), text }
    }

    fn follow_messages(&mut self) -> Result<(), EvaluatorError> {
        while let Ok(message) = self.messages.try_recv() {
            self.report_positions()?;
            match message {
                Message::Changes(changes) => {
                    for SymbolAssignment { symbol, partition } in &changes.assignments {
                        self.stats.assigned(symbol, *partition);
                    }
                    self.step(Input::Changes(changes))?;
                    self.reread()?;
                }
                Message::Take { claim, restored, armed } => {
                    self.take(claim, restored)?;
                    drop(armed);
                }
                Message::GiveUp(partitions, how) => self.give_up(partitions, how)?,
            }
        }
        Ok(())
    }

    fn take(&mut self, claim: Claim, restored: Box<Restored>) -> Result<(), EvaluatorError> {
        let (partition, from) = (claim.partition, restored.from);
        // Also where it halts at once: that is noted under the claim.
        self.outputs.send(WorkerOutput::Claimed(claim))?;
        match self.retry_bus(|worker| worker.reader.add(vec![from])) {
            Err(error @ BusError::OffsetOutOfRange { .. }) => return self.halt(partition, &error),
            added => added?,
        }
        self.step(Input::Take(restored))?;
        self.reread()
    }

    fn give_up(&mut self, partitions: Vec<u32>, how: GiveUp) -> Result<(), EvaluatorError> {
        if !matches!(how, GiveUp::Lost) {
            self.checkpoint()?;
        }
        self.drop_partitions(&partitions)?;
        self.outputs.send(WorkerOutput::GaveUp(partitions, how))
    }

    /// Stops evaluating one partition, and reports it: an operator has to decide how it goes on.
    fn halt(&mut self, partition: u32, why: &BusError) -> Result<(), EvaluatorError> {
        error!(partition, error = %why, "evaluation of a partition has halted");
        self.stats.halted(partition, why.to_string());
        self.checkpoint()?;
        self.drop_partitions(&[partition])?;
        self.outputs.send(WorkerOutput::Halted(partition, why.to_string()))
    }

    /// Evaluates partitions no more.
    fn drop_partitions(&mut self, partitions: &[u32]) -> Result<(), EvaluatorError> {
        self.stop_reading(partitions);
        self.step(Input::GiveUp(partitions))?;
        self.outputs.count(&self.processor);
        Ok(())
    }

    fn stop_reading(&mut self, partitions: &[u32]) {
        self.reader.remove(partitions);
        self.batch.drain(..self.evaluated);
        self.evaluated = 0;
        self.batch.retain(|record| !partitions.contains(&record.position.partition));
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

    /// Evaluates what was read, or as much of it as there is time for.
    fn evaluate_batch(&mut self) -> Result<(), EvaluatorError> {
        self.report_progress();
        let first = self.evaluated;
        let batch = std::mem::take(&mut self.batch);
        let evaluated = self.evaluate_until(&batch[first..], Instant::now() + self.evaluation_time);
        self.batch = batch;
        self.stats.ticks.fetch_add((self.evaluated - first) as u64, Relaxed);
        if let Some(partition) = evaluated? {
            self.stop_reading(&[partition]);
        }
        self.outputs.count(&self.processor);
        self.report_progress();
        self.outputs.flush()
    }

    /// Evaluates records until a deadline. Returns the partition of the one whose evaluation was interrupted.
    fn evaluate_until(&mut self, records: &[Record], deadline: Instant) -> Result<Option<u32>, EvaluatorError> {
        let mut now = Instant::now();
        for record in records {
            self.step_at(now, Input::Record(record))?;
            if let Some(partition) = self.outputs.take_interrupted() {
                return Ok(Some(partition));
            }
            self.evaluated += 1;
            now = Instant::now();
            if now >= deadline {
                break;
            }
        }
        Ok(None)
    }

    fn report_progress(&self) {
        self.progress.reached(self.batch.get(self.evaluated).map(|record| record.published_ms));
    }

    fn checkpoint(&mut self) -> Result<(), EvaluatorError> {
        self.report_positions()?;
        self.step(Input::Checkpoint)
    }

    /// Gives the processor the positions up to which partitions were read: there may be offsets without ticks behind the
    /// last ones.
    fn report_positions(&mut self) -> Result<(), EvaluatorError> {
        let read = self.processor.partitions().map(|partition| (partition, self.reader.position(partition)));
        let left = self.batch[self.evaluated..].iter().rev().map(|record| record.position);
        let next: BTreeMap<u32, u64> = read.chain(left.map(|position| (position.partition, position.offset))).collect();
        for (partition, offset) in next {
            self.step(Input::ReadTo(Position { partition, offset }))?;
        }
        Ok(())
    }

    fn step(&mut self, input: Input<'_>) -> Result<(), EvaluatorError> {
        self.step_at(Instant::now(), input)
    }

    /// Steps the processor at a time that was just read, and passes on what it returns. Meanwhile, firings of a long tick are
    /// sent, and a stop interrupts.
    fn step_at(&mut self, now: Instant, input: Input<'_>) -> Result<(), EvaluatorError> {
        let (outputs, stop, evaluation_time) = (&mut self.outputs, &self.stop, self.evaluation_time);
        let mut sent = now;
        let mut pause = |returned: &mut Vec<Output>| {
            if stop.is_cancelled() {
                return ControlFlow::Break(());
            }
            if sent.elapsed() >= evaluation_time {
                sent = Instant::now();
                // It fails where the committer is gone.
                if outputs.accept(returned).and_then(|()| outputs.flush()).is_err() {
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        };
        self.processor.step(input, &mut self.returned, &mut pause)?;
        self.outputs.accept(&mut self.returned)
    }

    /// Calls the bus again for as long as its brokers are away.
    fn retry_bus<T>(&mut self, mut call: impl FnMut(&mut Self) -> Result<T, BusError>) -> Result<T, BusError> {
        loop {
            match call(self) {
                Err(error) if error.is_transient() && !self.stop.is_cancelled() => {
                    warn!(%error, "evaluation waits for the bus");
                    std::thread::sleep(RETRY_WAIT);
                }
                other => return other,
            }
        }
    }
}
