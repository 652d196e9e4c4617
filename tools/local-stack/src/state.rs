//! The state of a stack, kept in `state.json` in its folder between commands. It is written before and after each change,
//! atomically, under a lock.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::process::{Condition, Process};
use crate::service::Service;
use crate::{ports, random};

const FILE: &str = "state.json";

/// Stays when a stack is removed, since another command may wait for the lock.
pub(crate) const LOCK_FILE: &str = "lock";

/// A stack: what is chosen when it is first started, and its processes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) engine: Engine,
    /// Identifies the Kafka cluster, and whatever else must differ from another stack's.
    pub(crate) id: String,
    pub(crate) brokers: Vec<Broker>,
    pub(crate) redis_port: u16,
    pub(crate) postgres_port: u16,
    /// By the name of the service; empty with Docker.
    processes: BTreeMap<String, Process>,
}

/// What runs the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Engine {
    Local,
    Docker,
}

/// The ports of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Broker {
    pub(crate) port: u16,
    /// Reached by the other brokers.
    pub(crate) controller_port: u16,
}

impl State {
    pub(crate) fn new(engine: Engine, brokers: u8) -> Result<Self> {
        let brokers = vec![Broker { port: 0, controller_port: 0 }; brokers.into()];
        // 22 characters, of which the last holds two bits: <https://kafka.apache.org/41/operations/kraft/>.
        let id = format!("{:021x}A", random()? >> 44);
        let mut state = Self { engine, id, brokers, redis_port: 0, postgres_port: 0, processes: BTreeMap::new() };
        state.choose_ports()?;
        Ok(state)
    }

    /// Chooses ports, or other ports. No service may be running.
    pub(crate) fn choose_ports(&mut self) -> Result<()> {
        let mut chosen = ports::choose(2 * self.brokers.len() + 2)?.into_iter();
        let mut next = || chosen.next().expect("one port per use was chosen");
        for broker in &mut self.brokers {
            *broker = Broker { port: next(), controller_port: next() };
        }
        (self.redis_port, self.postgres_port) = (next(), next());
        Ok(())
    }

    /// Reads the state from the stack's folder. Returns `None` if there is no stack.
    pub(crate) fn load(folder: &Path) -> Result<Option<Self>> {
        let file = folder.join(FILE);
        let text = match std::fs::read(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("cannot read {}", file.display()))?,
        };
        let state = serde_json::from_slice(&text);
        state.with_context(|| format!("{} was not written by this version; remove the folder", file.display()))
    }

    pub(crate) fn save(&self, folder: &Path) -> Result<()> {
        let (file, new) = (folder.join(FILE), folder.join("state.json.new"));
        let text = serde_json::to_vec_pretty(self).context("a state is JSON")?;
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &file));
        written.with_context(|| format!("cannot write {}", file.display()))
    }

    /// Removes the file that [`State::load`] reads.
    pub(crate) fn remove(folder: &Path) -> Result<()> {
        let file = folder.join(FILE);
        std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
    }

    pub(crate) fn services(&self) -> Vec<Service> {
        Service::all(self.brokers.len() as u8)
    }

    pub(crate) fn ports(&self) -> Vec<u16> {
        let brokers = self.brokers.iter().flat_map(|broker| [broker.port, broker.controller_port]);
        brokers.chain([self.redis_port, self.postgres_port]).collect()
    }

    /// Returns the address of a service, as `host:port`.
    pub(crate) fn address(&self, service: Service) -> String {
        let port = match service {
            Service::Kafka(number) => self.brokers[usize::from(number) - 1].port,
            Service::Redis => self.redis_port,
            Service::Postgres => self.postgres_port,
        };
        format!("127.0.0.1:{port}")
    }

    pub(crate) fn process(&self, service: Service) -> Option<Process> {
        self.processes.get(&service.to_string()).copied()
    }

    pub(crate) fn set_process(&mut self, service: Service, process: Process) {
        self.processes.insert(service.to_string(), process);
    }

    pub(crate) fn condition(&self, service: Service) -> Condition {
        self.process(service).map_or(Condition::Stopped, Process::condition)
    }

    /// Returns the environment variables that the server reads, in the order in which they are printed.
    pub(crate) fn environment(&self) -> [(&'static str, String); 3] {
        let brokers = self.services().into_iter().filter(|service| matches!(service, Service::Kafka(_)));
        let brokers: Vec<String> = brokers.map(|service| self.address(service)).collect();
        let password = match self.engine {
            Engine::Local => "",
            Engine::Docker => ":tocsin",
        };
        let database = format!("postgres://tocsin{password}@{}/tocsin", self.address(Service::Postgres));
        [("KAFKA_BROKERS", brokers.join(",")), ("REDIS_ADDR", self.address(Service::Redis)), ("DATABASE_URL", database)]
    }
}

/// Locks a stack against other commands until the returned file is dropped. Its holder may change the stack.
pub(crate) fn lock(folder: &Path) -> Result<File> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let file = folder.join(LOCK_FILE);
    let open = OpenOptions::new().create(true).truncate(false).write(true).open(&file);
    let locked = open.and_then(|open| open.lock().map(|()| open));
    locked.with_context(|| format!("cannot lock {}", file.display()))
}

/// Returns the file that a service's output is appended to.
pub(crate) fn log_file(folder: &Path, service: Service) -> PathBuf {
    folder.join("logs").join(format!("{service}.log"))
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
    fn the_environment_names_every_service() {
        let mut state = State::new(Engine::Local, 2).unwrap();
        state.brokers = [1, 3].map(|port| Broker { port, controller_port: port + 1 }).to_vec();
        (state.redis_port, state.postgres_port) = (5, 6);
        let environment_of =
            |state: &State| state.environment().map(|(name, value)| format!("{name}={value}")).join(" ");
        let expect = "KAFKA_BROKERS=127.0.0.1:1,127.0.0.1:3 REDIS_ADDR=127.0.0.1:5 \
                      DATABASE_URL=postgres://tocsin@127.0.0.1:6/tocsin";
        assert_eq!(environment_of(&state), expect);
        state.engine = Engine::Docker;
        assert!(environment_of(&state).ends_with("postgres://tocsin:tocsin@127.0.0.1:6/tocsin"));
    }
}
