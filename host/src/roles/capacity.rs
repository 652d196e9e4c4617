//! Divides the limit of open files: how many connections and streams this process takes.

use anyhow::Context;
use tracing::{info, warn};

use crate::config::Settings;
use crate::connections::open_files::{Limit, Needs, raise_limit};
use crate::connections::{Connections, DEFAULT_MAX_STREAMS};

/// The part of the connections that streams may take by default, so that requests find room beside them.
const STREAMS_OF_CONNECTIONS: (u32, u32) = (3, 4);

/// Raises the limit of open files and returns the connections that it allows.
pub(super) fn connections(settings: &Settings) -> anyhow::Result<Connections> {
    let embedded = settings.kafka.is_none() || settings.prices.is_none();
    let kafka_workers = settings.kafka.as_ref().map(|_| settings.evaluator.workers);
    let needs = Needs { embedded, kafka_workers };
    let limit = raise_limit().unwrap_or_else(|error| {
        warn!(%error, "the limit of open files cannot be raised: going on with the present one");
        Limit::current()
    });
    let max = needs.connections(limit, settings.max_connections).context("dividing the limit of open files")?;
    let (part, of) = STREAMS_OF_CONNECTIONS;
    let max_streams = settings.max_streams.unwrap_or_else(|| DEFAULT_MAX_STREAMS.min(max / of * part));
    info!(
        limit = %limit, raised_from = limit.before, reserved = needs.reserved(), max_connections = max, max_streams,
        "open files: what the store, the log and others do not need is for connections"
    );
    Ok(Connections::new(max, max_streams))
}
