//! What a stack is, as its folder keeps it: `state.json`, so that every run of the task knows the same. It is written
//! before and after each change, in one step, under a lock.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::part::Part;
use super::process::{Condition, Process};
use super::{ports, random};

const FILE: &str = "state.json";

/// Stays when a stack is removed: another run may wait for it.
pub(super) const LOCK_FILE: &str = "lock";

/// A stack: what is decided when it comes up for the first time, and its processes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) engine: Engine,
    /// Names the Kafka cluster, and whatever else must not be mistaken for another stack's.
    pub(super) id: String,
    pub(super) brokers: Vec<Broker>,
    pub(super) redis_port: u16,
    pub(super) postgres_port: u16,
    /// By the name of their part; Docker's are its own.
    processes: BTreeMap<String, Process>,
}

/// What runs the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Engine {
    Local,
    Docker,
}

/// The ports of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Broker {
    pub(super) port: u16,
    /// For the other brokers.
    pub(super) controller_port: u16,
}

impl State {
    pub(super) fn new(engine: Engine, brokers: u8) -> Result<Self> {
        let brokers = vec![Broker { port: 0, controller_port: 0 }; brokers.into()];
        // 22 characters, of which the last holds two bits: <https://kafka.apache.org/41/operations/kraft/>.
        let id = format!("{:021x}A", random()? >> 44);
        let mut state = Self { engine, id, brokers, redis_port: 0, postgres_port: 0, processes: BTreeMap::new() };
        state.choose_ports()?;
        Ok(state)
    }

    /// Takes other ports, where nothing runs and somebody else has taken one of its own.
    pub(super) fn choose_ports(&mut self) -> Result<()> {
        let mut chosen = ports::choose(2 * self.brokers.len() + 2)?.into_iter();
        let mut next = || chosen.next().expect("as many were chosen");
        for broker in &mut self.brokers {
            *broker = Broker { port: next(), controller_port: next() };
        }
        (self.redis_port, self.postgres_port) = (next(), next());
        Ok(())
    }

    /// What the folder keeps, if it was ever up.
    pub(super) fn load(folder: &Path) -> Result<Option<Self>> {
        let file = folder.join(FILE);
        let text = match std::fs::read(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("cannot read {}", file.display()))?,
        };
        let state = serde_json::from_slice(&text);
        state.with_context(|| format!("{} is not what this version writes; remove the folder", file.display()))
    }

    pub(super) fn save(&self, folder: &Path) -> Result<()> {
        let (file, new) = (folder.join(FILE), folder.join("state.json.new"));
        let text = serde_json::to_vec_pretty(self).context("a state is JSON")?;
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &file));
        written.with_context(|| format!("cannot write {}", file.display()))
    }

    /// Removes what [`State::load`] finds.
    pub(super) fn remove(folder: &Path) -> Result<()> {
        let file = folder.join(FILE);
        std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
    }

    pub(super) fn parts(&self) -> Vec<Part> {
        Part::all(self.brokers.len() as u8)
    }

    pub(super) fn ports(&self) -> Vec<u16> {
        let brokers = self.brokers.iter().flat_map(|broker| [broker.port, broker.controller_port]);
        brokers.chain([self.redis_port, self.postgres_port]).collect()
    }

    /// Where clients reach a part, as `host:port`.
    pub(super) fn address(&self, part: Part) -> String {
        let port = match part {
            Part::Kafka(number) => self.brokers[usize::from(number) - 1].port,
            Part::Redis => self.redis_port,
            Part::Postgres => self.postgres_port,
        };
        format!("127.0.0.1:{port}")
    }

    pub(super) fn process(&self, part: Part) -> Option<Process> {
        self.processes.get(&part.to_string()).copied()
    }

    pub(super) fn set_process(&mut self, part: Part, process: Process) {
        self.processes.insert(part.to_string(), process);
    }

    pub(super) fn condition(&self, part: Part) -> Condition {
        self.process(part).map_or(Condition::Stopped, Process::condition)
    }

    /// The variables that the server reads, in the order in which they are told.
    pub(super) fn environment(&self) -> [(&'static str, String); 3] {
        let brokers = self.parts().into_iter().filter(|part| matches!(part, Part::Kafka(_)));
        let brokers: Vec<String> = brokers.map(|part| self.address(part)).collect();
        let password = match self.engine {
            Engine::Local => "",
            Engine::Docker => ":tocsin",
        };
        let database = format!("postgres://tocsin{password}@{}/tocsin", self.address(Part::Postgres));
        [("KAFKA_BROKERS", brokers.join(",")), ("REDIS_ADDR", self.address(Part::Redis)), ("DATABASE_URL", database)]
    }
}

/// Keeps other runs of the task from a stack, as long as it lives. Whoever has it may change the stack.
pub(super) fn lock(folder: &Path) -> Result<File> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let file = folder.join(LOCK_FILE);
    let open = OpenOptions::new().create(true).truncate(false).write(true).open(&file);
    let locked = open.and_then(|open| open.lock().map(|()| open));
    locked.with_context(|| format!("cannot lock {}", file.display()))
}

/// Where a part writes its log.
pub(super) fn log_file(folder: &Path, part: Part) -> PathBuf {
    folder.join("logs").join(format!("{part}.log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_read_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        assert!(State::load(folder.path()).unwrap().is_none());
        let state = State::new(Engine::Local, 3).unwrap();
        state.save(folder.path()).unwrap();
        let read = State::load(folder.path()).unwrap().unwrap();
        assert_eq!((read.ports(), read.id.len()), (state.ports(), 22));
        std::fs::write(folder.path().join(FILE), "{}").unwrap();
        assert!(State::load(folder.path()).unwrap_err().to_string().contains(FILE));
    }

    #[test]
    fn the_server_is_told_where_everything_is() {
        let mut state = State::new(Engine::Local, 2).unwrap();
        state.brokers = [1, 3].map(|port| Broker { port, controller_port: port + 1 }).to_vec();
        (state.redis_port, state.postgres_port) = (5, 6);
        let tells = |state: &State| state.environment().map(|(name, value)| format!("{name}={value}")).join(" ");
        let expect = "KAFKA_BROKERS=127.0.0.1:1,127.0.0.1:3 REDIS_ADDR=127.0.0.1:5 \
                      DATABASE_URL=postgres://tocsin@127.0.0.1:6/tocsin";
        assert_eq!(tells(&state), expect);
        state.engine = Engine::Docker;
        assert!(tells(&state).ends_with("postgres://tocsin:tocsin@127.0.0.1:6/tocsin"));
    }
}
