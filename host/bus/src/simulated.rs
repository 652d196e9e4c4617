//! A log in memory with Kafka's rules, which simulated processes share. Each call waits until the simulator lets it happen;
//! reading does not wait, and returns what the simulator lets be visible.

mod gate;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc as threads};

use tocsin_engine::domain::{Position, Tick};
use tokio::sync::mpsc;

use super::{Assignment, BusError, Handover, Record};

pub use self::gate::{Gate, Gates, Outcome};

/// The log. Cloning is cheap.
#[derive(Clone)]
pub struct SimulatedLog(Arc<Mutex<Log>>);

struct Log {
    identity: String,
    partitions: Vec<Partition>,
    poll: Poll,
}

#[derive(Default)]
struct Partition {
    earliest: u64,
    end: u64,
    /// By offset; offsets may be missing.
    records: Vec<Record>,
}

/// What the next polls of a worker return.
#[derive(Clone, Copy)]
pub struct Poll {
    /// At most so many records. Where it is 0, nothing new is visible; what was read before can be read again.
    pub records: usize,
    /// Which partition comes first.
    pub turn: usize,
}

/// The log as a process reaches it.
#[derive(Clone)]
pub struct SimulatedBus {
    log: SimulatedLog,
    gate: Gate,
    members: Arc<Mutex<Option<mpsc::UnboundedReceiver<Assignment>>>>,
}

/// A reader of some partitions.
pub struct SimulatedReader {
    log: SimulatedLog,
    next: Vec<Position>,
    /// Where partitions ended when they were taken: once the end is reached, all before is read.
    ends_when_taken: HashMap<u32, u64>,
    /// Whether it reads what was read before.
    again: bool,
}

/// A member of the group: the simulator decides what it is assigned.
pub struct SimulatedMembership(mpsc::UnboundedReceiver<Assignment>);

impl SimulatedLog {
    /// Creates an empty log of so many partitions.
    pub fn new(identity: &str, partitions: u32) -> Self {
        let partitions = (0..partitions).map(|_| Partition::default()).collect();
        Self(Arc::new(Mutex::new(Log { identity: identity.into(), partitions, poll: Poll { records: 0, turn: 0 } })))
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a tick to a partition.
    pub fn append(&self, partition: u32, tick: Tick) {
        let mut log = self.lock();
        let Partition { end, records, .. } = &mut log.partitions[partition as usize];
        records.push(Record { position: Position { partition, offset: *end }, published_ms: 0, tick });
        *end += 1;
    }

    /// Offsets that hold no tick, as Kafka's own records.
    pub fn skip(&self, partition: u32, offsets: u64) {
        self.lock().partitions[partition as usize].end += offsets;
    }

    /// Returns where each partition ends.
    pub fn ends(&self) -> Vec<u64> {
        self.lock().partitions.iter().map(|partition| partition.end).collect()
    }

    /// All records of a partition.
    pub fn records(&self, partition: u32) -> Vec<Record> {
        self.lock().partitions[partition as usize].records.clone()
    }

    /// Sets what the next polls return.
    pub fn set_poll(&self, poll: Poll) {
        self.lock().poll = poll;
    }

    fn check(&self, position: Position) -> Result<(), BusError> {
        let log = self.lock();
        let count = log.partitions.len() as u32;
        let partition = log.partitions.get(position.partition as usize);
        let unknown = BusError::UnknownPartition { partition: position.partition, partitions: count };
        let Partition { earliest, end, .. } = *partition.ok_or(unknown)?;
        let is_in_range = (earliest..=end).contains(&position.offset);
        if is_in_range { Ok(()) } else { Err(BusError::OffsetOutOfRange { position, earliest, end }) }
    }
}

impl SimulatedBus {
    /// The log for one process, and where to send what its member of the group is assigned.
    pub fn new(log: SimulatedLog, gate: Gate) -> (Self, mpsc::UnboundedSender<Assignment>) {
        let (assignments, member) = mpsc::unbounded_channel();
        (Self { log, gate, members: Arc::new(Mutex::new(Some(member))) }, assignments)
    }

    async fn pass(&self, call: &'static str) -> Result<(), BusError> {
        match self.gate.pass(call).await {
            Outcome::Done => Ok(()),
            Outcome::Refused | Outcome::Lost => Err(BusError::Kafka("the simulated brokers are away".into())),
            Outcome::Unanswered => std::future::pending().await,
        }
    }

    pub(crate) fn partitions(&self) -> u32 {
        self.log.lock().partitions.len() as u32
    }

    pub(crate) async fn identity(&self) -> Result<String, BusError> {
        self.pass("identity").await?;
        Ok(self.log.lock().identity.clone())
    }

    pub(crate) async fn end(&self, partition: u32) -> Result<u64, BusError> {
        self.pass("end").await?;
        Ok(self.log.ends()[partition as usize])
    }

    pub(crate) async fn ends(&self) -> Result<Vec<u64>, BusError> {
        self.pass("ends").await?;
        Ok(self.log.ends())
    }

    pub(crate) async fn earliest(&self, partition: u32) -> Result<u64, BusError> {
        self.pass("earliest").await?;
        Ok(self.log.lock().partitions[partition as usize].earliest)
    }

    pub(crate) async fn ensure_end(&self, position: Position) -> Result<(), BusError> {
        self.pass("ensure_end").await?;
        // A position before what is retained is no matter of the end.
        match self.log.check(position) {
            Err(BusError::OffsetOutOfRange { end, .. }) if position.offset <= end => Ok(()),
            checked => checked,
        }
    }

    pub(crate) fn reader(&self, from: Vec<Position>) -> Result<SimulatedReader, BusError> {
        let mut reader = SimulatedReader {
            log: self.log.clone(),
            next: Vec::new(),
            ends_when_taken: HashMap::new(),
            again: !from.is_empty(),
        };
        reader.add(from)?;
        Ok(reader)
    }

    /// # Panics
    /// If the process has joined before.
    pub(crate) fn join(&self) -> SimulatedMembership {
        let member = self.members.lock().unwrap_or_else(PoisonError::into_inner).take();
        SimulatedMembership(member.expect("a process joins its group once"))
    }
}

impl SimulatedReader {
    pub(crate) fn poll(&mut self, batch: &mut Vec<Record>, max_records: usize) -> Result<(), BusError> {
        batch.clear();
        for position in &self.next {
            self.log.check(*position)?;
        }
        let log = self.log.lock();
        let left = if self.again { log.poll.records.max(1) } else { log.poll.records };
        let mut left = left.min(max_records);
        let (count, turn) = (self.next.len(), log.poll.turn);
        for i in (0..count).map(|i| (i + turn) % count) {
            let Position { partition, offset } = self.next[i];
            let records = &log.partitions[partition as usize].records;
            let first = records.partition_point(|record| record.position.offset < offset);
            let read = &records[first..records.len().min(first + left)];
            batch.extend_from_slice(read);
            left -= read.len();
            if let Some(last) = read.last() {
                self.next[i].offset = last.position.offset + 1;
            } else if self.again && first == records.len() {
                self.next[i].offset = log.partitions[partition as usize].end;
            }
            if left > 0 && first + read.len() == records.len() {
                self.next[i].offset = self.next[i].offset.max(self.ends_when_taken[&partition]);
            }
        }
        Ok(())
    }

    pub(crate) fn add(&mut self, from: Vec<Position>) -> Result<(), BusError> {
        for position in from {
            if self.next.iter().any(|other| other.partition == position.partition) {
                return Err(BusError::DuplicatePartition(position.partition));
            }
            self.log.check(position)?;
            self.ends_when_taken.insert(position.partition, self.log.ends()[position.partition as usize]);
            self.next.push(position);
        }
        Ok(())
    }

    pub(crate) fn remove(&mut self, partitions: &[u32]) {
        self.next.retain(|position| !partitions.contains(&position.partition));
    }

    pub(crate) fn position(&self, partition: u32) -> u64 {
        let position = self.next.iter().find(|position| position.partition == partition);
        position.expect("a reader is asked about partitions that it was given").offset
    }
}

impl SimulatedMembership {
    pub(crate) async fn changed(&mut self) -> Result<Assignment, BusError> {
        match self.0.recv().await {
            Some(assignment) => Ok(assignment),
            None => std::future::pending().await,
        }
    }
}

/// A handover, and what is disconnected once it is done.
pub fn handover() -> (Handover, threads::Receiver<()>) {
    Handover::new()
}
