//! The one reader of the bus behind all trade sockets: a thread that tails every partition and hands each ticker's
//! trades to a channel of its own.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::extract::ws::Utf8Bytes;
use serde::Serialize;
use tocsin_bus::{Bus, BusError, Reader, Record};
use tocsin_engine::domain::{Position, Symbol, Tick};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, broadcast};
use tokio_util::sync::CancellationToken;

/// Trades of one ticker that a socket may be behind (about 400 KiB); then it is closed.
const MAX_BEHIND_TRADES: usize = 4096;

/// Records taken from the bus at a time; far fewer than [`MAX_BEHIND_TRADES`], so that no batch overruns a socket that
/// was up to date.
const BATCH_RECORDS: usize = 256;

/// How long a poll waits before it looks again by itself. Appends and the stop wake it sooner.
const POLL_TIMEOUT: Duration = Duration::from_secs(1);

/// Live trades by ticker. Cloning is cheap. Nothing is read before the first socket; a reader that failed is started
/// again by the next one.
#[derive(Clone)]
pub(in crate::api::rest) struct TradeFeed(Arc<Inner>);

struct Inner {
    bus: Bus,
    tickers: Arc<[Symbol]>,
    stop: CancellationToken,
    /// Owned by the thread, so that sockets see when it has ended.
    channels: Mutex<Weak<Channels>>,
}

type Channels = HashMap<Symbol, broadcast::Sender<Utf8Bytes>>;

/// A trade as the trading app writes it.
#[derive(Serialize)]
struct TradeFrame<'a> {
    #[serde(rename = "s")]
    symbol: &'a str,
    #[serde(rename = "p")]
    price: String,
    #[serde(rename = "q")]
    quantity: String,
    #[serde(rename = "T")]
    time_ms: i64,
}

/// Why trades are not to be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum TailError {
    /// The bus failed.
    #[error("trades cannot be read: {0}")]
    Bus(#[from] BusError),
    /// No thread.
    #[error("the thread that reads trades cannot be started: {0}")]
    Thread(#[from] std::io::Error),
    /// Not one of the tickers.
    #[error("{0} is not a ticker that is served")]
    Ticker(Symbol),
}

impl TradeFeed {
    pub(in crate::api::rest) fn new(bus: Bus, tickers: Arc<[Symbol]>, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner { bus, tickers, stop, channels: Mutex::default() }))
    }

    /// The trades of a ticker from now on, as frames.
    pub(super) async fn subscribe(&self, ticker: &Symbol) -> Result<broadcast::Receiver<Utf8Bytes>, TailError> {
        let mut shared = self.0.channels.lock().await;
        let channels = match shared.upgrade() {
            Some(channels) => channels,
            None => {
                let channels = self.start().await?;
                *shared = Arc::downgrade(&channels);
                channels
            }
        };
        channels.get(ticker).map(broadcast::Sender::subscribe).ok_or_else(|| TailError::Ticker(ticker.clone()))
    }

    async fn start(&self) -> Result<Arc<Channels>, TailError> {
        let channel = |ticker: &Symbol| (ticker.clone(), broadcast::Sender::new(MAX_BEHIND_TRADES));
        let channels: Arc<Channels> = Arc::new(self.0.tickers.iter().map(channel).collect());
        let (bus, stop) = (self.0.bus.clone(), self.0.stop.clone());
        let reader = reader_at_the_end(&bus).await?;
        let (owned, runtime) = (channels.clone(), Handle::current());
        std::thread::Builder::new().name("trades".into()).spawn(move || {
            if let Err(error) = tail(&runtime, &bus, reader, &owned, &stop) {
                tracing::error!(%error, "live trades have stopped until the next socket");
            }
        })?;
        Ok(channels)
    }
}

/// A reader of all partitions that sees what is published from now on.
async fn reader_at_the_end(bus: &Bus) -> Result<Reader, BusError> {
    let mut from = Vec::new();
    for partition in 0..bus.partitions() {
        from.push(Position { partition, offset: bus.end(partition).await? });
    }
    bus.reader(from)
}

fn tail(
    runtime: &Handle,
    bus: &Bus,
    mut reader: Reader,
    channels: &Channels,
    stop: &CancellationToken,
) -> Result<(), BusError> {
    let mut _wake_on_stop = reader.waker().wake_when_cancelled(runtime, stop);
    let mut batch = Vec::new();
    while !stop.is_cancelled() {
        match reader.poll(&mut batch, BATCH_RECORDS, POLL_TIMEOUT) {
            Ok(()) => batch.iter().for_each(|record| send(record, channels)),
            // Retention overtook the reader: what is lost is lost, and live trades go on from the end.
            Err(error @ BusError::OffsetOutOfRange { .. }) => {
                tracing::warn!(%error, "live trades fell behind retention and go on from the end");
                reader = runtime.block_on(reader_at_the_end(bus))?;
                _wake_on_stop = reader.waker().wake_when_cancelled(runtime, stop);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn send(record: &Record, channels: &Channels) {
    let Some(channel) = channels.get(&record.tick.symbol) else { return };
    if channel.receiver_count() > 0 {
        // Fails if the last socket left just now.
        let _ = channel.send(frame(&record.tick).into());
    }
}

/// A number's text is the shortest decimal that reads back as the same number.
fn frame(tick: &Tick) -> String {
    let frame = TradeFrame {
        symbol: tick.symbol.as_str(),
        price: tick.price.to_string(),
        quantity: tick.volume.to_string(),
        time_ms: tick.time_ms,
    };
    serde_json::to_string(&frame).expect("texts and an integer are JSON")
}

#[cfg(test)]
mod tests {
    use tocsin_engine::domain::Conditions;

    use super::*;

    #[track_caller]
    fn check(price: f64, volume: f64, expect: &str) {
        let tick =
            Tick::new(Symbol::parse("btcusdt").unwrap(), price, volume, 1_723_161_256_322, Conditions::default());
        assert_eq!(frame(&tick.unwrap()), expect);
    }

    #[test]
    fn a_frame_has_the_shortest_texts_of_its_numbers() {
        check(61800.30, 0.006, r#"{"s":"BTCUSDT","p":"61800.3","q":"0.006","T":1723161256322}"#);
        check(0.1 + 0.2, 1e-7, r#"{"s":"BTCUSDT","p":"0.30000000000000004","q":"0.0000001","T":1723161256322}"#);
        check(-37.0, 0.0, r#"{"s":"BTCUSDT","p":"-37","q":"0","T":1723161256322}"#);
    }
}
