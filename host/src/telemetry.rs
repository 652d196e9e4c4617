//! The log: JSON lines for machines, readable lines for a terminal; always on standard error.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Readable on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Starts the log. `filter` is a level or a list of `target=level`, as tracing-subscriber's `EnvFilter` reads it.
pub fn start(format: LogFormat, filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| format!("--log {filter:?} is not a log filter such as `info` or `tocsin=debug`: {error}"))?;
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // Not printed with a macro that panics where standard error is closed.
        .log_internal_errors(false);
    let json = format == LogFormat::Json || (format == LogFormat::Auto && !terminal);
    // Only a test that starts two logs in a process meets the error.
    let _ = if json {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        builder.with_ansi(terminal).try_init()
    };
    Ok(())
}

/// Messages of one kind that are logged in [`LOG_INTERVAL`].
const MAX_LOGGED: u64 = 5;

/// The time after which messages of a kind are logged again, and how many were not.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Bounds the messages of one kind that are logged: a flood of firings or faults must not flood the log.
#[derive(Debug)]
pub(crate) struct LogBudget {
    begun: Instant,
    /// Messages since `begun`.
    count: u64,
}

impl LogBudget {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), count: 0 }
    }

    /// Returns how many messages were not logged in an interval that is over, if any; to be called before messages are
    /// counted, and from time to time where there are none.
    pub(crate) fn take_suppressed(&mut self) -> Option<u64> {
        if self.begun.elapsed() < LOG_INTERVAL {
            return None;
        }
        self.begun = Instant::now();
        Some(std::mem::take(&mut self.count).saturating_sub(MAX_LOGGED)).filter(|suppressed| *suppressed > 0)
    }

    /// Counts a message. True if it is to be logged.
    pub(crate) fn count(&mut self) -> bool {
        self.count += 1;
        self.count <= MAX_LOGGED
    }
}
