//! Owns the playback: its position, who is subscribed to what, and what each client has been sent.
//!
//! One task, so that a trade goes to all its subscribers before the next is looked at. A client's queue is bounded: a
//! client that reads slowly holds the playback up, and nothing piles up in memory.

use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Write as _};

use tocsin_engine::domain::{Symbol, Tick};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::gate::{Gate, Passage};
use super::pace::Pace;
use super::recording::{RecordingError, Rows};
use super::{ReplayOptions, ReplayReport};

/// Frames that may wait for a client's socket.
pub(super) const FRAME_QUEUE: usize = 16;

/// What begins and ends a frame of trades.
const FRAME_HEAD: &str = r#"{"data":["#;
const FRAME_TAIL: &str = r#"],"type":"trade"}"#;

/// The number of a connection, from 1.
pub(super) type ClientId = u64;

/// What a connection sends to the player.
pub(super) enum Command {
    /// A client has come. Its connection is closed when `frames` is dropped.
    Join {
        client: ClientId,
        frames: mpsc::Sender<Message>,
    },
    Subscribe {
        client: ClientId,
        symbol: Symbol,
    },
    Unsubscribe {
        client: ClientId,
        symbol: Symbol,
    },
    /// A client has gone.
    Leave {
        client: ClientId,
    },
}

pub(super) struct Player {
    options: ReplayOptions,
    commands: mpsc::Receiver<Command>,
    stop: CancellationToken,
    clients: BTreeMap<ClientId, Client>,
    /// Distinct symbols over all clients.
    symbols: usize,
    gate: Gate,
    pace: Pace,
    report: ReplayReport,
}

struct Client {
    frames: mpsc::Sender<Message>,
    symbols: HashSet<Symbol>,
    /// The frame in the making, and how many trades it holds.
    frame: String,
    frame_trades: usize,
    /// Since the connection was made.
    sent_trades: u64,
    sent_frames: u64,
}

impl Player {
    pub(super) fn new(options: ReplayOptions, commands: mpsc::Receiver<Command>, stop: CancellationToken) -> Self {
        Self {
            gate: Gate::new(options.start_after),
            pace: Pace::new(options.speed),
            options,
            commands,
            stop,
            clients: BTreeMap::new(),
            symbols: 0,
            report: ReplayReport::default(),
        }
    }

    /// Plays the rows, then stays for the clients unless `close_at_end` is set.
    pub(super) async fn play(mut self, mut rows: Rows) -> Result<ReplayReport, RecordingError> {
        loop {
            if rows.is_empty() {
                self.flush_all().await; // reading may take a while: what is due goes out
            }
            let stop = self.stop.clone();
            let batch = match stop.run_until_cancelled(rows.recv()).await {
                Some(Some(batch)) => batch?,
                Some(None) => break,
                None => return Ok(self.report),
            };
            for tick in batch {
                if !self.wait_for(tick.time_ms).await {
                    return Ok(self.report);
                }
                self.deliver(&tick).await;
            }
        }
        self.flush_all().await;
        self.report.finished = true;
        self.tell_end();
        if !self.options.close_at_end {
            self.stay().await;
        }
        Ok(self.report)
    }

    /// Waits until a trade of this event time may be played; false if the server is stopped.
    async fn wait_for(&mut self, time_ms: i64) -> bool {
        loop {
            while let Ok(command) = self.commands.try_recv() {
                self.obey(command);
            }
            if self.stop.is_cancelled() {
                return false;
            }
            let now = Instant::now();
            let passage = self.gate.check(self.symbols, now);
            if passage != Passage::Open {
                self.pace.restart();
            }
            let until = match passage {
                Passage::Open => match self.pace.wait(time_ms, now) {
                    Some(wait) => Some(now + wait),
                    None => return true,
                },
                Passage::ClosedUntil(at) => Some(at),
                Passage::Closed => None,
            };
            self.flush_all().await;
            tokio::select! {
                () = self.stop.cancelled() => return false,
                Some(command) = self.commands.recv() => self.obey(command),
                () = sleep_until(until.unwrap_or(now)), if until.is_some() => {}
            }
        }
    }

    /// Lets clients come and go after the end.
    async fn stay(&mut self) {
        let stop = self.stop.clone();
        let obeying = async {
            while let Some(command) = self.commands.recv().await {
                self.obey(command);
            }
        };
        stop.run_until_cancelled(obeying).await;
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Join { client, frames } => {
                self.clients.insert(client, Client::new(frames));
            }
            // A client that was dropped may still be talking: it is not known any more.
            Command::Subscribe { client, symbol } => {
                if let Some(client) = self.clients.get_mut(&client)
                    && client.symbols.insert(symbol)
                {
                    self.gate.subscribed(Instant::now());
                }
            }
            Command::Unsubscribe { client, symbol } => {
                if let Some(client) = self.clients.get_mut(&client) {
                    client.symbols.remove(&symbol);
                }
            }
            Command::Leave { client } => {
                self.clients.remove(&client);
            }
        }
        self.count_symbols();
    }

    fn count_symbols(&mut self) {
        self.symbols = self.clients.values().flat_map(|client| &client.symbols).collect::<HashSet<_>>().len();
    }

    /// Gives a trade to all that are subscribed to it.
    async fn deliver(&mut self, tick: &Tick) {
        let drop_after = self.options.drop_every.filter(|trades| *trades > 0);
        let (mut wanted, mut full, mut finished) = (false, Vec::new(), Vec::new());
        for (id, client) in &mut self.clients {
            if client.symbols.contains(tick.symbol.as_str()) {
                wanted = true;
                client.add(tick);
                if drop_after == Some(client.sent_trades) {
                    finished.push(*id);
                } else if client.frame_trades >= self.options.trades_per_frame {
                    full.push(*id);
                }
            }
        }
        match self.report.sent.get_mut(&tick.symbol) {
            Some(count) if wanted => *count += 1,
            None if wanted => drop(self.report.sent.insert(tick.symbol.clone(), 1)),
            _ => self.report.passed_over += 1,
        }
        for id in full {
            self.flush(id).await;
        }
        for id in finished {
            self.flush(id).await;
            self.drop_client(id);
        }
    }

    /// Closes a connection behind what it has been sent.
    fn drop_client(&mut self, id: ClientId) {
        if let Some(client) = self.clients.remove(&id) {
            tracing::info!(client = id, trades = client.sent_trades, "dropping a client, as asked");
            self.report.drops += 1;
            self.gate.dropped(client.symbols.len(), Instant::now());
            self.count_symbols();
        }
    }

    async fn flush_all(&mut self) {
        let waiting: Vec<_> = self.clients.iter().filter(|(_, c)| c.frame_trades > 0).map(|(id, _)| *id).collect();
        for id in waiting {
            self.flush(id).await;
        }
    }

    /// Queues a client's frame, waiting for room. A client whose connection has ended is forgotten.
    async fn flush(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let mut messages = vec![client.take_frame()];
        if self.options.garbage_every.is_some_and(|every| every > 0 && client.sent_frames.is_multiple_of(every)) {
            messages.push(garbage(self.report.garbage));
            self.report.garbage += 1;
        }
        for message in messages {
            // None: the server is stopped, and a client that does not read must not hold that up.
            if !matches!(self.stop.run_until_cancelled(client.frames.send(message)).await, Some(Ok(()))) {
                self.clients.remove(&id);
                return self.count_symbols();
            }
        }
    }

    fn tell_end(&self) {
        let next = if self.options.close_at_end { "closing" } else { "the server stays up until it is stopped" };
        tracing::info!(
            trades = self.report.total_sent(),
            passed_over = self.report.passed_over,
            drops = self.report.drops,
            "the file has been played to its end; {next}"
        );
        for (symbol, trades) in &self.report.sent {
            tracing::info!(%symbol, trades, "sent");
        }
    }
}

impl Client {
    fn new(frames: mpsc::Sender<Message>) -> Self {
        Self { frames, symbols: HashSet::new(), frame: String::new(), frame_trades: 0, sent_trades: 0, sent_frames: 0 }
    }

    fn add(&mut self, tick: &Tick) {
        self.frame.push_str(if self.frame_trades == 0 { FRAME_HEAD } else { "," });
        // Rust writes the shortest digits that read back as the same f64, and never an exponent: plain JSON numbers.
        write!(
            self.frame,
            r#"{{"c":null,"p":{},"s":"{}","t":{},"v":{}}}"#,
            tick.price,
            Escaped(tick.symbol.as_str()),
            tick.time_ms,
            tick.volume
        )
        .expect("writing to a String cannot fail");
        self.frame_trades += 1;
        self.sent_trades += 1;
    }

    fn take_frame(&mut self) -> Message {
        self.frame.push_str(FRAME_TAIL);
        self.frame_trades = 0;
        self.sent_frames += 1;
        let capacity = self.frame.len();
        Message::text(std::mem::replace(&mut self.frame, String::with_capacity(capacity)))
    }
}

/// A symbol inside a JSON string. Of printable ASCII, JSON escapes two characters.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.contains(['"', '\\']) {
            return f.write_str(self.0);
        }
        for c in self.0.chars() {
            if matches!(c, '"' | '\\') {
                f.write_char('\\')?;
            }
            f.write_char(c)?;
        }
        Ok(())
    }
}

/// A frame that holds no trade, of one kind after the other.
fn garbage(number: u64) -> Message {
    const KINDS: [&str; 5] = [
        "}{ this is not JSON",
        "",
        r#"{"data":[{"s":"AAPL","p":1,"t":1"#,
        r#"{"data":[{"s":"AAPL","p":1,"t":1,"v":1}],"type":"news"}"#,
        r#"{"data":[{"s":"","p":1,"t":1,"v":1},{"s":"AAPL","p":"1","t":1,"v":1},{"s":"AAPL","p":1,"t":-1,"v":1},null],"type":"trade"}"#,
    ];
    match KINDS.get((number % (KINDS.len() as u64 + 1)) as usize) {
        Some(text) => Message::text(*text),
        None => Message::binary(vec![0xff, 0x00, 0xfe]),
    }
}

#[cfg(test)]
mod tests {
    use tocsin_engine::domain::Conditions;

    use super::*;

    #[test]
    fn a_frame_reads_back_bit_for_bit() {
        let (sender, _frames) = mpsc::channel(1);
        let mut client = Client::new(sender);
        let numbers = [1.14543, 0.1 + 0.2, 61837.63, 1e-5, 5e-324, 1e300, f64::MAX, 0.0, 31.245270191439438, -37.63];
        let symbol = Symbol::parse(r#"A"\B 1"#).unwrap();
        for number in numbers {
            let tick = Tick::new(symbol.clone(), number, number.abs(), 1_723_161_255_342, Conditions::default());
            client.add(&tick.unwrap());
        }
        let Message::Text(text) = client.take_frame() else { panic!("text") };
        let frame: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(frame["type"], "trade");
        for (trade, number) in frame["data"].as_array().unwrap().iter().zip(numbers) {
            assert_eq!(trade["p"].as_f64().unwrap().to_bits(), number.to_bits());
            assert_eq!(trade["v"].as_f64().unwrap().to_bits(), number.abs().to_bits());
            assert_eq!((&trade["s"], &trade["t"]), (&symbol.as_str().into(), &1_723_161_255_342_i64.into()));
        }
    }
}
