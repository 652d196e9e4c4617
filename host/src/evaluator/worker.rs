//! The thread that owns a shard: reads ticks, judges them, hands over what happened.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tocsin_engine::domain::{BindingId, Digest, Position};
use tocsin_engine::limits::THREAD_STACK_BYTES;
use tocsin_engine::{Arming, Event, Judging, Shard};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::restore::Restored;
use super::stats::Progress;
use super::{Change, Changes, EvaluatorConfig, EvaluatorError, EvaluatorStats};
use crate::bus::{Bus, BusError, Reader, Record, Waker};
use crate::store::{Checkpoint, Commit, HandedOver, NewFault};

/// Ticks read at once.
const MAX_BATCH: usize = 1024;

/// How long ticks are judged before firings are handed over, changes are applied and the stop is heard. One tick may take
/// longer, where very many costly bindings watch its symbol.
const JUDGING_TIME: Duration = Duration::from_millis(20);

/// Events after which a commit is handed over though its batch is not done.
const MAX_EVENTS: usize = 8192;

/// Bytes of records in fault bundles after which a commit is handed over: together with the queue of commits they bound
/// what a flood of faults can hold in memory.
const MAX_BUNDLE_BYTES: usize = 1024 * 1024;

/// How long to wait for ticks where nothing else is due.
const POLL_TIMEOUT: Duration = Duration::from_millis(250);

pub(super) struct Worker {
    bus: Bus,
    reader: Reader,
    /// What was read, and how much of it is judged.
    batch: Vec<Record>,
    judged: usize,
    shard: Shard,
    lanes: BTreeMap<u32, Lane>,
    /// Changes up to this revision are applied.
    revision: u64,
    commits: mpsc::Sender<Commit>,
    changes: mpsc::Receiver<Changes>,
    stats: Arc<EvaluatorStats>,
    progress: Progress,
    checkpoint_interval: Duration,
    judging: Judging,
    /// Bindings that left quarantine since the last checkpoint.
    recovered: Vec<BindingId>,
    counted: Counted,
    /// Bindings that the worker begins with on its own thread: it may have to catch up, and to wait for its committer.
    begin_with: Vec<(Arming, Position)>,
}

/// One partition.
#[derive(Default)]
struct Lane {
    /// Bindings that wait for the offset from which they count.
    waiting: Waiting,
    /// Ticks before this offset were published before this worker began, and may have been told by another one: until
    /// they are judged again as they were then, nothing is released and nothing handed over.
    told_until: u64,
    /// Bindings that are to be released from quarantine.
    release_due: Vec<BindingId>,
    /// Bindings that are to be handed over.
    hand_over_due: Vec<BindingId>,
    /// Position and revision at the last checkpoint.
    checkpointed: Option<(u64, u64)>,
}

type Waiting = BTreeMap<u64, Vec<Arming>>;

/// Bindings by partition.
type Bindings = BTreeMap<u32, Vec<BindingId>>;

/// What is done to bindings right behind a checkpoint that names them.
#[derive(Default)]
struct Behind {
    /// They are released from quarantine.
    released: Bindings,
    /// They are handed over to the store.
    handed_over: Bindings,
}

/// What this worker has added to the shared counters.
#[derive(Default)]
struct Counted {
    evaluations: u64,
    bindings: u64,
}

impl Worker {
    pub(super) fn new(
        bus: Bus,
        restored: Restored,
        revision: u64,
        commits: mpsc::Sender<Commit>,
        changes: mpsc::Receiver<Changes>,
        stats: Arc<EvaluatorStats>,
        config: &EvaluatorConfig,
    ) -> Result<Self, EvaluatorError> {
        let reader = bus.reader(restored.from.clone())?;
        let lanes = restored.from.iter().map(|from| (from.partition, Lane::default())).collect();
        let mut worker = Self {
            bus,
            reader,
            batch: Vec::new(),
            judged: 0,
            shard: Shard::new(config.judging),
            lanes,
            revision,
            commits,
            changes,
            progress: stats.progress(),
            stats,
            checkpoint_interval: config.checkpoint_interval,
            judging: config.judging,
            recovered: Vec::new(),
            counted: Counted::default(),
            begin_with: restored.new,
        };
        for arming in restored.armed {
            arm(&mut worker.shard, arming)?;
        }
        for binding in restored.released {
            release(&mut worker.shard, binding)?;
        }
        for told_until in restored.told_until {
            worker.lane(told_until.partition).told_until = told_until.offset;
        }
        for (binding, partition) in restored.release_due {
            worker.lane(partition).release_due.push(binding);
        }
        for (binding, partition) in restored.asked_for {
            worker.lane(partition).hand_over_due.push(binding);
        }
        worker.count_bindings();
        Ok(worker)
    }

    pub(super) fn waker(&self) -> Waker {
        self.reader.waker()
    }

    /// Runs on a thread of its own, whose stack rules may use up; the receiver hears how it ended.
    pub(super) fn spawn(
        mut self,
        stop: CancellationToken,
    ) -> Result<oneshot::Receiver<Result<(), EvaluatorError>>, EvaluatorError> {
        let (done, receiver) = oneshot::channel();
        std::thread::Builder::new().name("tocsin-shard".into()).stack_size(THREAD_STACK_BYTES).spawn(move || {
            let ended = self.run(&stop);
            drop(self);
            // Nobody listens only where the whole evaluator is gone.
            let _ = done.send(ended);
        })?;
        Ok(receiver)
    }

    fn run(&mut self, stop: &CancellationToken) -> Result<(), EvaluatorError> {
        let new = std::mem::take(&mut self.begin_with);
        self.arm_new(new)?;
        let mut checkpoint_due = Instant::now() + self.checkpoint_interval;
        while !stop.is_cancelled() {
            self.apply_changes()?;
            self.do_what_is_due()?;
            if self.judged == self.batch.len() {
                let wait = checkpoint_due.saturating_duration_since(Instant::now()).min(POLL_TIMEOUT);
                self.reader.poll(&mut self.batch, MAX_BATCH, wait)?;
                self.judged = 0;
            }
            self.judge()?;
            if Instant::now() >= checkpoint_due {
                self.checkpoint(Behind::default())?;
                checkpoint_due = Instant::now() + self.checkpoint_interval;
            }
        }
        self.checkpoint(Behind::default())
    }

    fn apply_changes(&mut self) -> Result<(), EvaluatorError> {
        let mut new = Vec::new();
        while let Ok(changes) = self.changes.try_recv() {
            for change in changes.list {
                match change {
                    Change::Arm(arming, counts_from) => new.push((*arming, counts_from)),
                    Change::Disarm(binding) => {
                        new.retain(|(arming, _)| arming.binding != binding);
                        self.shard.disarm(binding);
                        self.forget_waiting(|arming| arming.binding == binding);
                    }
                    Change::Release(binding, partition) => self.lane(partition).release_due.push(binding),
                    Change::HandOver(binding, partition) => self.lane(partition).hand_over_due.push(binding),
                    Change::DisarmRule(rule) => {
                        new.retain(|(arming, _)| arming.rule.reference().digest != rule);
                        self.disarm_rule(&rule);
                    }
                }
            }
            self.revision = changes.revision;
        }
        self.arm_new(new)
    }

    fn disarm_rule(&mut self, rule: &Digest) {
        self.shard.disarm_rule(rule);
        self.forget_waiting(|arming| arming.rule.reference().digest == *rule);
    }

    fn forget_waiting(&mut self, forgotten: impl Fn(&Arming) -> bool) {
        for lane in self.lanes.values_mut() {
            lane.waiting.retain(|_, armings| {
                armings.retain(|arming| !forgotten(arming));
                !armings.is_empty()
            });
        }
        self.count_bindings();
    }

    /// Releases bindings from quarantine, and lets go of those that are handed over.
    fn change_behind_checkpoint(&mut self, behind: Behind) -> Result<(), EvaluatorError> {
        let released: Vec<BindingId> = behind.released.values().flatten().copied().collect();
        let handed_over: HashSet<BindingId> = behind.handed_over.values().flatten().copied().collect();
        if released.is_empty() && handed_over.is_empty() {
            return Ok(());
        }
        self.checkpoint(behind)?;
        for binding in released {
            release(&mut self.shard, binding)?;
        }
        for binding in &handed_over {
            self.shard.disarm(*binding);
        }
        self.forget_waiting(|arming| handed_over.contains(&arming.binding));
        Ok(())
    }

    /// Releases and hands over where that is due.
    fn do_what_is_due(&mut self) -> Result<(), EvaluatorError> {
        let mut behind = Behind::default();
        let partitions: Vec<u32> = self.lanes.keys().copied().collect();
        for partition in partitions {
            let position = self.position(partition);
            let lane = self.lane(partition);
            if position >= lane.told_until {
                behind.released.entry(partition).or_default().append(&mut lane.release_due);
                behind.handed_over.entry(partition).or_default().append(&mut lane.hand_over_due);
            }
        }
        self.change_behind_checkpoint(behind)
    }

    fn lane(&mut self, partition: u32) -> &mut Lane {
        self.lanes.entry(partition).or_default()
    }

    /// Arms bindings that no checkpoint knows: each waits for its offset, or catches up from it.
    fn arm_new(&mut self, new: Vec<(Arming, Position)>) -> Result<(), EvaluatorError> {
        let mut behind: BTreeMap<u32, Waiting> = BTreeMap::new();
        for (arming, counts_from) in new {
            let partition = counts_from.partition;
            if self.shard.holds(arming.binding) {
                continue;
            }
            let waiting = match counts_from.offset.cmp(&self.position(partition)) {
                Ordering::Less => behind.entry(partition).or_default(),
                // A checkpoint that is taken now has to know it.
                Ordering::Equal => {
                    arm(&mut self.shard, arming)?;
                    continue;
                }
                Ordering::Greater => &mut self.lane(partition).waiting,
            };
            waiting.entry(counts_from.offset).or_default().push(arming);
        }
        for (partition, waiting) in behind {
            self.catch_up(partition, waiting)?;
        }
        self.count_bindings();
        Ok(())
    }

    /// Judges, for some bindings alone, the ticks that the shard has already passed, then adds them to the shard.
    fn catch_up(&mut self, partition: u32, mut waiting: Waiting) -> Result<(), EvaluatorError> {
        let Some(first) = waiting.keys().next().copied() else { return Ok(()) };
        let until = self.position(partition);
        let mut alone = Shard::new(self.judging);
        let mut reader = match self.bus.reader(vec![Position { partition, offset: first }]) {
            Err(BusError::OffsetOutOfRange { earliest, .. }) => {
                warn!(partition, first, earliest, "a new alert missed ticks that retention removed");
                self.bus.reader(vec![Position { partition, offset: earliest.min(until) }])?
            }
            other => other?,
        };
        let mut batch = Vec::new();
        while reader.position(partition) < until {
            reader.poll(&mut batch, MAX_BATCH, POLL_TIMEOUT)?;
            batch.retain(|record| record.position.offset < until);
            let mut events = Vec::new();
            for record in &batch {
                begin(&mut alone, &mut waiting, record.position.offset)?;
                alone.judge(&record.tick, record.position, &mut events)?;
            }
            self.hand_over(&mut events)?;
        }
        begin(&mut alone, &mut waiting, until)?;
        let absorbed = self.shard.absorb(&alone);
        absorbed.map_err(|error| EvaluatorError::Arm(0, error.to_string()))
    }

    /// Judges what was read, or as much of it as there is time for.
    fn judge(&mut self) -> Result<(), EvaluatorError> {
        self.tell_progress();
        let batch = std::mem::take(&mut self.batch);
        let judged = self.judge_some(&batch[self.judged..]);
        self.batch = batch;
        self.judged += judged?;
        self.tell_progress();
        Ok(())
    }

    fn tell_progress(&self) {
        self.progress.reached(self.batch.get(self.judged).map(|record| record.published_ms));
    }

    fn judge_some(&mut self, records: &[Record]) -> Result<usize, EvaluatorError> {
        let begun = Instant::now();
        let (mut events, mut bundle_bytes, mut judged) = (Vec::new(), 0, 0);
        for record in records {
            let position = record.position;
            if let Some(lane) = self.lanes.get_mut(&position.partition) {
                begin(&mut self.shard, &mut lane.waiting, position.offset)?;
            }
            let before = events.len();
            self.shard.judge(&record.tick, position, &mut events)?;
            judged += 1;
            bundle_bytes += events[before..].iter().map(record_bytes).sum::<usize>();
            if events.len() >= MAX_EVENTS || bundle_bytes >= MAX_BUNDLE_BYTES {
                bundle_bytes = 0;
                self.hand_over(&mut events)?;
            }
            if begun.elapsed() >= JUDGING_TIME {
                break;
            }
        }
        self.hand_over(&mut events)?;
        self.stats.ticks.fetch_add(judged as u64, Relaxed);
        let evaluations = self.shard.evaluations();
        self.stats.evaluations.fetch_add(evaluations - self.counted.evaluations, Relaxed);
        self.counted.evaluations = evaluations;
        Ok(judged)
    }

    /// The next offset of a partition to be judged.
    fn position(&self, partition: u32) -> u64 {
        let mut left = self.batch[self.judged..].iter().map(|record| record.position);
        let next = left.find(|position| position.partition == partition);
        next.map_or_else(|| self.reader.position(partition), |position| position.offset)
    }

    /// Hands events to the committer, waiting while its queue is full.
    fn hand_over(&mut self, events: &mut Vec<Event>) -> Result<(), EvaluatorError> {
        if events.is_empty() {
            return Ok(());
        }
        let mut commit = Commit::default();
        for event in events.drain(..) {
            match event {
                Event::Fired { firing, last } => commit.firings.push((firing, last)),
                Event::Faulted { alert, binding, fault, quarantined, bundle } => {
                    self.stats.faults.fetch_add(1, Relaxed);
                    if quarantined {
                        warn!(alert = alert.0, binding = binding.0, %fault, "a binding is quarantined");
                        self.stats.quarantined.fetch_add(1, Relaxed);
                        self.recovered.retain(|recovered| *recovered != binding);
                    }
                    commit.faults.push(NewFault { alert, binding, quarantined, bundle });
                }
                Event::Recovered { alert, binding } => {
                    info!(alert = alert.0, binding = binding.0, "a quarantined binding was tried again and is judged");
                    self.stats.recovered.fetch_add(1, Relaxed);
                    // Told with the checkpoint that remembers it: before, a replay would begin with it in quarantine.
                    self.recovered.push(binding);
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
        let nothing = commit.firings.is_empty() && commit.faults.is_empty() && commit.impure_rules.is_empty();
        if nothing { Ok(()) } else { self.send(commit) }
    }

    fn checkpoint(&mut self, mut behind: Behind) -> Result<(), EvaluatorError> {
        let mut groups: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for group in self.shard.take_changed() {
            groups.entry(self.bus.partition_of(&group.symbol)).or_default().push(group);
        }
        let mut checkpoints = Vec::new();
        let partitions: Vec<u32> = self.lanes.keys().copied().collect();
        for partition in &partitions {
            let next_offset = self.position(*partition);
            let lane = self.lanes.entry(*partition).or_default();
            let groups = groups.remove(partition).unwrap_or_default();
            let released = behind.released.remove(partition).unwrap_or_default();
            let handed_over = behind.handed_over.remove(partition).unwrap_or_default().into_iter();
            let shard = &self.shard;
            let handed_over: Vec<HandedOver> =
                handed_over.map(|binding| HandedOver { binding, saved: shard.saved(binding) }).collect();
            let now = (next_offset, self.revision);
            if groups.is_empty() && released.is_empty() && handed_over.is_empty() && lane.checkpointed == Some(now) {
                continue;
            }
            // What it releases changes no group before the next one: that must be written, and release nothing.
            lane.checkpointed = released.is_empty().then_some(now);
            let revision = self.revision;
            checkpoints.push(Checkpoint {
                partition: *partition,
                next_offset,
                revision,
                released,
                handed_over,
                groups,
            });
        }
        let recovered = std::mem::take(&mut self.recovered);
        if checkpoints.is_empty() { Ok(()) } else { self.send(Commit { checkpoints, recovered, ..Commit::default() }) }
    }

    fn send(&self, commit: Commit) -> Result<(), EvaluatorError> {
        let gone = |_| EvaluatorError::Ended("the committer is gone".into());
        self.commits.blocking_send(commit).map_err(gone)
    }

    fn count_bindings(&mut self) {
        let bindings = self.shard.len() as u64;
        self.stats.bindings.fetch_add(bindings.wrapping_sub(self.counted.bindings), Relaxed);
        self.counted.bindings = bindings;
    }
}

/// Arms the bindings whose offset has come.
fn begin(shard: &mut Shard, waiting: &mut Waiting, offset: u64) -> Result<(), EvaluatorError> {
    while let Some(entry) = waiting.first_entry().filter(|entry| *entry.key() <= offset) {
        for arming in entry.remove() {
            arm(shard, arming)?;
        }
    }
    Ok(())
}

fn release(shard: &mut Shard, binding: BindingId) -> Result<(), EvaluatorError> {
    let released = shard.release(binding);
    released.map(drop).map_err(|error| EvaluatorError::Arm(binding.0, error.to_string()))
}

/// The bytes of records that an event carries.
fn record_bytes(event: &Event) -> usize {
    match event {
        Event::Faulted { bundle, .. } => bundle.params.len() + bundle.state.len(),
        _ => 0,
    }
}

fn arm(shard: &mut Shard, arming: Arming) -> Result<(), EvaluatorError> {
    let binding = arming.binding.0;
    shard.arm(arming).map_err(|error| EvaluatorError::Arm(binding, error.to_string()))
}
