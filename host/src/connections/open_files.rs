//! Raises the limit of open files, and divides it between connections and what the process cannot go on without.
//!
//! A store or a log that cannot open a file fails, and with it the process. So files are reserved for them, and connections
//! get the rest.

use std::fmt;
use std::io;

#[cfg(unix)]
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{DEFAULT_MAX_CONNECTIONS, STATUS_CONNECTIONS};

/// Standard streams, listeners, the runtime's own descriptors, the pipes of the compiler's child, connections to a feed and
/// to Redis, look-ups of names, and one connection on each port that is accepted before it is counted.
const RESERVED_FOR_PROCESS: u64 = 64;

/// SQLite's connections take three files each (six connections); PostgreSQL's pools are 18 sockets.
const RESERVED_FOR_STORE: u64 = 32;

/// Tables of the embedded log that are kept open (128, see `bus::embedded_db`), and journals and tables that are written or
/// merged at the moment.
const RESERVED_FOR_LOG: u64 = 192;

/// A client of Kafka has a socket and a pipe (three files) for every broker that it speaks to: enough for ten of them.
const RESERVED_FOR_KAFKA_CLIENT: u64 = 30;

/// Clients of Kafka beside one for each thread that evaluates: members of the groups, projection, live trades, catching up,
/// and those that publish.
const KAFKA_CLIENTS: u64 = 8;

/// With room for fewer connections the process does not start: such a limit is a mistake.
const MIN_CONNECTIONS: u64 = 16;

/// What macOS takes at most where the hard limit is none (`OPEN_MAX` of its `sys/syslimits.h`).
const OPEN_MAX: u64 = 10_240;

/// What a process keeps files for.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// The embedded log or prices are used.
    pub embedded: bool,
    /// Threads that evaluate from Kafka; None if it is not used.
    pub kafka_workers: Option<usize>,
}

/// The limit of open files of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// How many files may be open; [`u64::MAX`] if as many as there can be.
    pub files: u64,
    /// The limit that was found at the start.
    pub before: u64,
}

/// The limit of open files leaves room for fewer connections than are wanted. The message says what to set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{wanted}: the limit of open files is {}, and {reserved} are kept for the store, the log and others, so that there is \
     room for {possible} connections; raise the hard limit of open files (ulimit -Hn) to {} or more{}",
    Files(*.files), .reserved + .needed, if *.asked { ", or lower --max-connections" } else { "" }
)]
pub struct TooFewFiles {
    wanted: String,
    asked: bool,
    files: u64,
    reserved: u64,
    possible: u64,
    needed: u64,
}

struct Files(u64);

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            u64::MAX => write!(f, "none"),
            files => write!(f, "{files}"),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Files(self.files).fmt(f)
    }
}

impl Limit {
    /// Returns the limit as it is.
    #[cfg(unix)]
    pub fn current() -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self { files, before: files }
    }

    /// There is no such limit here.
    #[cfg(not(unix))]
    pub fn current() -> Self {
        Self { files: u64::MAX, before: u64::MAX }
    }
}

/// Raises the soft limit of open files to the hard limit.
#[cfg(unix)]
pub fn raise_limit() -> io::Result<Limit> {
    let before = Limit::current().files;
    let maximum = getrlimit(Resource::Nofile).maximum;
    let hard = maximum.unwrap_or(u64::MAX);
    let raise = |files: u64| {
        let current = (files < u64::MAX).then_some(files);
        setrlimit(Resource::Nofile, Rlimit { current, maximum }).map(|()| Limit { files, before })
    };
    let raised = match before < hard {
        false => Ok(Limit { files: before, before }),
        true => raise(hard).or_else(|error| if before < OPEN_MAX { raise(OPEN_MAX) } else { Err(error) }),
    };
    Ok(raised?)
}

/// There is no such limit here.
#[cfg(not(unix))]
pub fn raise_limit() -> io::Result<Limit> {
    Ok(Limit::current())
}

impl Needs {
    /// Returns how many files are reserved.
    pub fn reserved(self) -> u64 {
        let for_log = if self.embedded { RESERVED_FOR_LOG } else { 0 };
        let kafka_clients = self.kafka_workers.map_or(0, |workers| KAFKA_CLIENTS.saturating_add(workers as u64));
        let for_kafka = kafka_clients.saturating_mul(RESERVED_FOR_KAFKA_CLIENT);
        RESERVED_FOR_PROCESS + RESERVED_FOR_STORE + for_log + for_kafka + u64::from(STATUS_CONNECTIONS)
    }

    /// Returns how many connections there is room for: as many as are asked for, or as the limit allows up to the default.
    pub fn connections(self, limit: Limit, asked: Option<u32>) -> Result<u32, TooFewFiles> {
        let reserved = self.reserved();
        let possible = limit.files.saturating_sub(reserved);
        let needed = asked.map_or(MIN_CONNECTIONS, u64::from);
        if possible < needed {
            let wanted = match asked {
                Some(asked) => format!("--max-connections {asked}"),
                None => format!("fewer than {MIN_CONNECTIONS} connections"),
            };
            return Err(TooFewFiles { wanted, asked: asked.is_some(), files: limit.files, reserved, possible, needed });
        }
        Ok(asked.unwrap_or_else(|| DEFAULT_MAX_CONNECTIONS.min(u32::try_from(possible).unwrap_or(u32::MAX))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMBEDDED: Needs = Needs { embedded: true, kafka_workers: None };
    const KAFKA: Needs = Needs { embedded: false, kafka_workers: Some(2) };

    #[track_caller]
    fn check(needs: Needs, files: u64, asked: Option<u32>, expect: Result<u32, &[&str]>) {
        let found = needs.connections(Limit { files, before: files }, asked);
        match (found, expect) {
            (Ok(found), Ok(expect)) => assert_eq!(found, expect),
            (Err(found), Err(expect)) => {
                let found = found.to_string();
                assert!(expect.iter().all(|part| found.contains(part)), "{expect:?} is not in {found}");
            }
            (found, expect) => panic!("{found:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn connections_get_what_the_store_and_the_log_do_not_need() {
        let reserved = EMBEDDED.reserved() as u32;
        check(EMBEDDED, 1_024, None, Ok(1_024 - reserved));
        check(EMBEDDED, 1_024, Some(100), Ok(100));
        check(KAFKA, 1_024, None, Ok(1_024 - KAFKA.reserved() as u32));
        check(EMBEDDED, 1_048_576, None, Ok(DEFAULT_MAX_CONNECTIONS));
        check(EMBEDDED, u64::MAX, None, Ok(DEFAULT_MAX_CONNECTIONS));
        check(EMBEDDED, u64::MAX, Some(100_000), Ok(100_000));
        let least = u64::from(reserved) + MIN_CONNECTIONS;
        check(EMBEDDED, least, None, Ok(MIN_CONNECTIONS as u32));
        check(
            EMBEDDED,
            least - 1,
            None,
            Err(&["fewer than 16 connections", &format!("(ulimit -Hn) to {least} or more")]),
        );
        check(
            EMBEDDED,
            1_024,
            Some(1_024),
            Err(&["--max-connections 1024", &(1_024 + reserved).to_string(), "lower --max-connections"]),
        );
        check(EMBEDDED, 0, None, Err(&["the limit of open files is 0"]));
    }
}
