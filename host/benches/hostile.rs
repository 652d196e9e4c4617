//! What hostile rules and hostile calls cost honest alerts on a running server: how late their firings come on the stream,
//! alone and among all of it, in one run.
//!
//! `cargo bench -p tocsin --bench hostile [-- COUNT]` starts a server on loopback with a simulated feed and 1,000 honest
//! alerts, then uploads 500 hostile rules, or so many, arms each on every symbol, and sends calls that no client should send.
//! It fails where an honest alert faults, or its firings come more than twice as late.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use reqwest::blocking::Client;
use serde_json::{Value, json};

/// Hostile rules, where no number is given.
const RULES: usize = 500;

/// Symbols of the feed. A hostile rule is armed on all of them: 10,000 bindings.
const SYMBOLS: usize = 20;

/// Ticks a second, of all symbols together.
const RATE: usize = 400;

/// Honest alerts.
const HONEST: usize = 1_000;

/// One honest alert of so many fires on every tick, as often as a binding may; the others wait for a price that never comes.
const FIRES_EVERY: usize = 50;

/// How long firings are timed alone, and once all hostile rules are armed.
const TIMED: Duration = Duration::from_secs(60);

/// How much later the firings of honest alerts may come, 99 of 100.
const MAX_RATIO: f64 = 2.0;

/// Threads that send hostile calls, each one after the other.
const CALLERS: usize = 4;

/// What a caller waits between two calls.
const CALL_INTERVAL: Duration = Duration::from_millis(20);

fn main() -> Result<()> {
    // What `cargo test --benches` asks for is no measurement.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let count = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(RULES);
    let folder = tempfile::tempdir()?;
    let server = Server::start(folder.path())?;
    let honest = server.arm_honest()?;
    let lags = server.watch(honest.clone())?;

    std::thread::sleep(TIMED);
    let alone = Quantiles::take(&lags)?;
    println!("{:<48} {:>9} {:>9} {:>9} {:>9}", "tick -> firing on the stream, ms", "p50", "p99", "max", "firings");
    println!("{:<48} {alone}", format!("{HONEST} honest alerts, {RATE} ticks/s"));

    let stop = AtomicBool::new(false);
    let calls = AtomicU64::new(0);
    let armed = std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (server, stop, calls) = (&server, &stop, &calls);
            scope.spawn(move || server.send_hostile_calls(caller, stop, calls));
        }
        let measured = (|| {
            let refused = server.arm_hostile(count)?;
            let uploading = Quantiles::take(&lags)?;
            println!("{:<48} {uploading}", format!("while {count} hostile rules are uploaded"));
            println!("  {refused} of them were refused, or taken out of service before their alert was made");
            std::thread::sleep(TIMED);
            Quantiles::take(&lags)
        })();
        stop.store(true, Relaxed);
        measured
    })?;
    println!("{:<48} {armed}", format!("among {} hostile bindings", count * SYMBOLS));
    println!("  {} hostile calls meanwhile", calls.load(Relaxed));
    println!("p99 among them is {:.2} times what it is alone", armed.p99 / alone.p99);
    server.check_honest(&honest)?;
    ensure!(armed.p99 <= alone.p99 * MAX_RATIO, "firings come more than {MAX_RATIO} times as late");
    Ok(())
}

/// How late firings came, milliseconds.
struct Quantiles {
    p50: f64,
    p99: f64,
    max: f64,
    count: usize,
}

impl Quantiles {
    /// Of all firings since the last call.
    fn take(lags: &Mutex<Vec<f64>>) -> Result<Self> {
        let mut lags = std::mem::take(&mut *lags.lock().expect("no thread panics with it"));
        ensure!(!lags.is_empty(), "no honest alert fired");
        lags.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| lags[((lags.len() - 1) as f64 * share) as usize];
        Ok(Self { p50: at(0.5), p99: at(0.99), max: at(1.0), count: lags.len() })
    }
}

impl std::fmt::Display for Quantiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>9.1} {:>9.1} {:>9.1} {:>9}", self.p50, self.p99, self.max, self.count)
    }
}

/// A running `tocsin serve`, which ends with this value.
struct Server {
    child: Child,
    rest: String,
    grpc: String,
    client: Client,
}

impl Server {
    fn start(data_dir: &std::path::Path) -> Result<Self> {
        let tickers: Vec<String> = (0..SYMBOLS).map(symbol).collect();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tocsin"))
            .args(["serve", "--log-format", "json", "--feed", "simulated", "--firings-at-once", "1", "--data-dir"])
            .arg(data_dir)
            .args(["--simulated-rate", &RATE.to_string(), "--tickers", &tickers.join(",")])
            .current_dir(data_dir)
            .env("PORT", "0")
            .env("GRPC_PORT", "0")
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the server")?;
        let mut log = BufReader::new(child.stderr.take().context("it is piped")?).lines();
        let (rest, grpc) = loop {
            let line = log.next().context("the server ended")??;
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            if let (Some(rest), Some(grpc)) = (line["rest"].as_str(), line["grpc"].as_str()) {
                break (rest.to_owned(), grpc.to_owned());
            }
        };
        // The pipe must not fill up.
        std::thread::spawn(move || log.for_each(drop));
        Ok(Self { child, rest, grpc, client: Client::new() })
    }

    fn create_alert(&self, alert: &Value) -> Result<Option<i64>> {
        let answer = self.client.post(format!("{}/api/v1/alerts", self.rest)).json(alert).send()?;
        if !answer.status().is_success() {
            return Ok(None);
        }
        Ok(answer.json::<Value>()?["id"].as_i64())
    }

    /// Arms the honest alerts, and returns their ids.
    fn arm_honest(&self) -> Result<HashSet<i64>> {
        let create = |i: usize| {
            let fires = i.is_multiple_of(FIRES_EVERY);
            let (target, repeat) = if fires { (0.01, "every") } else { (1e9, "once") };
            let alert = json!({
                "user_id": 1, "rule": "above", "symbols": [symbol(i % SYMBOLS)],
                "params": { "target": target + i as f64 / 1e6 }, "lifecycle": { "repeat": repeat },
            });
            self.create_alert(&alert)?.context("an honest alert was refused")
        };
        (0..HONEST).map(create).collect()
    }

    /// Reads the stream of firings from now on, and notes how late those of the honest alerts come.
    fn watch(&self, honest: HashSet<i64>) -> Result<Arc<Mutex<Vec<f64>>>> {
        let url = format!("{}/api/v1/firings/stream", self.rest);
        let client = Client::builder().timeout(None).build()?;
        let events = BufReader::new(client.get(url).send()?.error_for_status()?);
        let lags = Arc::<Mutex<Vec<f64>>>::default();
        let noted = lags.clone();
        std::thread::spawn(move || {
            for line in events.lines().map_while(Result::ok) {
                let Some(firing) = line.strip_prefix("data:") else { continue };
                let firing: Value = serde_json::from_str(firing.trim()).unwrap_or_default();
                let is_honest = firing["alert_id"].as_i64().is_some_and(|alert| honest.contains(&alert));
                if let (true, Some(published_ms)) = (is_honest, firing["timestamp"].as_i64()) {
                    noted.lock().expect("no thread panics with it").push(now_ms() - published_ms as f64);
                }
            }
        });
        Ok(lags)
    }

    /// Uploads hostile rules and arms each on every symbol. Returns for how many that was refused.
    fn arm_hostile(&self, count: usize) -> Result<usize> {
        let symbols: Vec<String> = (0..SYMBOLS).map(symbol).collect();
        let mut refused = 0;
        for rule in tocsin_testdata::hostile::disguised(count) {
            let upload =
                self.client.post(format!("{}/api/v1/rules", self.rest)).header("Content-Type", "application/wasm");
            let answer = upload.body(rule.module).send()?;
            let stored: Value = answer.json()?;
            let (Some(name), Some(version)) = (stored["name"].as_str(), stored["version"].as_str()) else {
                refused += 1;
                continue;
            };
            let alert = json!({
                "user_id": 2, "rule": name, "version": version, "symbols": symbols, "params": {},
                "lifecycle": { "repeat": "every" },
            });
            refused += usize::from(self.create_alert(&alert)?.is_none());
        }
        Ok(refused)
    }

    /// Sends what no client should, one call after the other.
    fn send_hostile_calls(&self, caller: usize, stop: &AtomicBool, calls: &AtomicU64) {
        let noise = |len: usize| -> Vec<u8> { (0..len).map(|i| (i * 167 + caller * 31) as u8).collect() };
        let address = self.grpc.rsplit('/').next().unwrap_or_default().to_owned();
        let post = |path: &str, kind: &str, body: Vec<u8>| {
            _ = self.client.post(format!("{}{path}", self.rest)).header("Content-Type", kind).body(body).send();
        };
        while !stop.load(Relaxed) {
            match calls.fetch_add(1, Relaxed) % 8 {
                0 => post("/api/v1/rules", "application/wasm", [b"\0asm\x01\0\0\0".to_vec(), noise(100_000)].concat()),
                1 => post("/api/v1/rules", "application/wasm", noise(2 << 20)),
                2 => post("/api/v1/alerts", "application/json", b"[".repeat(60_000)),
                3 => {
                    post("/api/v1/alerts", "application/json", br#"{"user_id":1,"rule":"above","symbols":[]}"#.to_vec())
                }
                4 => _ = self.client.get(format!("{}/api/v1/firings?after=%00&limit=99999999999", self.rest)).send(),
                5 => _ = self.client.get(format!("{}/{}", self.rest, "a".repeat(7_000))).send(),
                _ => {
                    if let Ok(mut socket) = TcpStream::connect(&address) {
                        _ = socket.set_read_timeout(Some(CALL_INTERVAL));
                        _ = socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
                        _ = socket.write_all(&noise(1_000));
                        _ = socket.read(&mut [0; 256]);
                    }
                }
            }
            std::thread::sleep(CALL_INTERVAL);
        }
    }

    /// All honest alerts are as they were.
    fn check_honest(&self, honest: &HashSet<i64>) -> Result<()> {
        for alert in honest {
            let shown: Value = self.client.get(format!("{}/api/v1/alerts/{alert}", self.rest)).send()?.json()?;
            ensure!(shown["bindings"][0]["status"] == "active", "an honest alert is not active: {shown}");
            let faults = self.client.get(format!("{}/api/v1/alerts/{alert}/faults", self.rest)).send()?;
            let faults: Value = faults.json()?;
            ensure!(faults["faults"] == json!([]), "an honest alert faulted: {faults}");
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn symbol(i: usize) -> String {
    format!("SYM{i}")
}

/// Unix milliseconds.
fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1e3
}
