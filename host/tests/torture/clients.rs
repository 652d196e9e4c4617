//! Clients, while processes are killed: one creates alerts and deletes some of them, one does so around the first ticks of
//! fresh symbols, and one promotes a rule, through an API that is killed meanwhile. Each repeats a request until there is a
//! response, as clients with an `Idempotency-Key` may.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::StatusCode;
use reqwest::blocking::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::environment::{Environment, LOADED_PRICE, alert, fresh_symbol, member};
use crate::first_ticks;
use crate::load::{FreshTicks, Load};
use crate::processes::url_in;
use crate::topics::Topic;

/// As many alerts of the first client are there at a time.
const MAX_LIVE: usize = 60;

/// The longest pause between two of its requests, milliseconds.
const MAX_PAUSE_MS: u64 = 600;

/// How long a client waits for one answer. A promotion waits 30 s for evaluators.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

/// How long a request is repeated.
const PATIENCE: Duration = Duration::from_secs(180);

/// How long a promotion is repeated. It needs all partitions within 30 s, of which one or the other is away most of the time
/// on a busy machine; once the acts are over, all are there.
const PROMOTION_PATIENCE: Duration = Duration::from_secs(900);

const RETRY_WAIT: Duration = Duration::from_millis(200);

pub(crate) struct Clients {
    stop: Arc<AtomicBool>,
    /// Seeds of scripts about first ticks.
    scripts: Sender<u64>,
    /// At most one is asked for beside the one under way.
    promotions: SyncSender<()>,
    /// The version of the promotion that was requested last.
    requested: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<anyhow::Result<ClientReport>>>,
}

/// What the clients did.
#[derive(Default)]
pub(crate) struct ClientReport {
    pub(crate) created: Vec<Creation>,
    pub(crate) deleted: usize,
    /// The version that the rule was promoted to last.
    pub(crate) version: usize,
    /// Requests that had to be made again.
    pub(crate) again: usize,
    /// Symbols that had no tick before.
    pub(crate) fresh_symbols: usize,
}

/// An alert that was created, and where the partitions ended right before it was asked for and right after the answer.
pub(crate) struct Creation {
    pub(crate) alert: i64,
    pub(crate) before: Vec<i64>,
    pub(crate) after: Vec<i64>,
}

impl Clients {
    /// Begins; `log` is that of the API's process.
    pub(crate) fn start(environment: &Environment, log: &Path, seed: u64, load: &Load) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let version = Arc::new(Mutex::new(1));
        let (scripts, scripts_asked_for) = channel();
        let (promotions, promotions_asked_for) = sync_channel(1);
        let client = |number| ApiClient::new(environment, log, number, seed, version.clone());
        let (first, second, third) = (client(0)?, client(1)?, client(2)?);
        let symbols = [environment.simulated(), environment.loaded()].concat();
        let stopped = stop.clone();
        let come_and_go = std::thread::spawn(move || first.come_and_go(&symbols, &stopped));
        let (stopped, ticks) = (stop.clone(), load.fresh());
        let name = environment.name.clone();
        let fresh = (0..).map(move |number| fresh_symbol(&name, number));
        let first_ticks = std::thread::spawn(move || second.play_scripts(fresh, &ticks, &scripts_asked_for, &stopped));
        let (stopped, versions) = (stop.clone(), environment.walk_versions);
        let requested = Arc::new(AtomicUsize::new(1));
        let requests = requested.clone();
        let promote =
            std::thread::spawn(move || third.promote_all(versions, &promotions_asked_for, &requests, &stopped));
        Ok(Self { stop, scripts, promotions, requested, threads: vec![come_and_go, first_ticks, promote] })
    }

    /// Has alerts created and deleted around first ticks.
    pub(crate) fn play_first_ticks(&self, script: u64) {
        // The receiver is gone where that client failed: then its error ends the run.
        let _ = self.scripts.send(script);
    }

    /// Has a promotion requested at once, or right after the one that is under way.
    pub(crate) fn promote(&self) {
        let _ = self.promotions.try_send(());
    }

    /// The version of the promotion that was requested last, which may have ended.
    pub(crate) fn requested_version(&self) -> usize {
        self.requested.load(Relaxed)
    }

    /// The last request of each is answered.
    pub(crate) fn stop(self) -> anyhow::Result<ClientReport> {
        let Self { stop, scripts, promotions, threads, .. } = self;
        stop.store(true, Relaxed);
        drop((scripts, promotions));
        let mut all = ClientReport::default();
        for thread in threads {
            let one = thread.join().expect("clients do not panic").context("a client was not served")?;
            all.created.extend(one.created);
            all.deleted += one.deleted;
            all.version = all.version.max(one.version);
            all.again += one.again;
            all.fresh_symbols += one.fresh_symbols;
        }
        Ok(all)
    }
}

/// A client of the API.
pub(crate) struct ApiClient {
    /// The log of the API's process.
    log: PathBuf,
    ticks: Topic,
    /// What its keys begin with.
    key: String,
    client: Client,
    rng: StdRng,
    /// The version that the rule was promoted to last; locked during a promotion.
    version: Arc<Mutex<usize>>,
    report: ClientReport,
}

impl ApiClient {
    fn new(
        environment: &Environment,
        log: &Path,
        number: u64,
        seed: u64,
        version: Arc<Mutex<usize>>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            log: log.to_owned(),
            ticks: Topic::new(&environment.stack.brokers, environment.ticks_topic())?,
            key: format!("{}-{number}", environment.name),
            client: Client::builder().timeout(ANSWER_TIMEOUT).build()?,
            rng: StdRng::seed_from_u64(seed.rotate_left(32) ^ number),
            version,
            report: ClientReport::default(),
        })
    }

    fn come_and_go(mut self, symbols: &[String], stop: &AtomicBool) -> anyhow::Result<ClientReport> {
        let mut live = Vec::new();
        while !stop.load(Relaxed) {
            if live.len() >= MAX_LIVE || (!live.is_empty() && self.rng.random_ratio(1, 3)) {
                let chosen = self.rng.random_range(0..live.len());
                self.delete(live.swap_remove(chosen))?;
            } else {
                let many = self.rng.random_range(1..=3);
                let symbols: Vec<String> = symbols.sample(&mut self.rng, many).cloned().collect();
                live.push(self.create(&symbols)?);
            }
            std::thread::sleep(Duration::from_millis(self.rng.random_range(0..MAX_PAUSE_MS)));
        }
        Ok(self.report)
    }

    /// Plays scripts about first ticks, each on symbols of its own.
    fn play_scripts(
        mut self,
        mut symbols: impl Iterator<Item = String>,
        ticks: &Sender<FreshTicks>,
        scripts: &Receiver<u64>,
        stop: &AtomicBool,
    ) -> anyhow::Result<ClientReport> {
        while let Ok(script) = scripts.recv() {
            if stop.load(Relaxed) {
                break;
            }
            let (Some(one), Some(other)) = (symbols.next(), symbols.next()) else { break };
            first_ticks::play(&mut self, [one, other], ticks, script)?;
            self.report.fresh_symbols += 2;
        }
        Ok(self.report)
    }

    fn promote_all(
        mut self,
        versions: usize,
        asked_for: &Receiver<()>,
        requested: &AtomicUsize,
        stop: &AtomicBool,
    ) -> anyhow::Result<ClientReport> {
        let newest = self.version.clone();
        let mut version = 1;
        while version < versions && asked_for.recv().is_ok() && !stop.load(Relaxed) {
            let mut newest = newest.lock().expect("clients do not panic");
            version += 1;
            requested.store(version, Relaxed);
            let path = format!("api/v1/rules/walk/versions/{version}.0.0/promote");
            self.ask_for(PROMOTION_PATIENCE, |client, url| client.post(format!("{url}/{path}")).json(&json!({})))?;
            *newest = version;
        }
        self.report.version = version;
        Ok(self.report)
    }

    /// Creates an alert of some rule; its id.
    pub(crate) fn create(&mut self, symbols: &[String]) -> anyhow::Result<i64> {
        let target = json!({"target": LOADED_PRICE * (1.0 + self.rng.random_range(-3.0..3.0) / 100.0)});
        let chosen = ["tally", "frail", "walk", "above", "below"].choose(&mut self.rng).copied().unwrap_or("tally");
        let version = self.version.clone();
        let version = match version.try_lock() {
            Err(TryLockError::Poisoned(_)) => bail!("a client has panicked"),
            version => version.ok(),
        };
        let request = match (chosen, &version) {
            ("above" | "below", _) => {
                alert(chosen, symbols, &target, if symbols.len() == 1 { "every" } else { "once" })
            }
            // During a promotion it would stay on the version that is left. Without one it would be on the newest.
            ("walk", None) => alert("tally", symbols, &json!({}), "every"),
            ("walk", Some(version)) => {
                let mut request = alert("walk", symbols, &json!({}), "every");
                request["version"] = json!(format!("{version}.0.0"));
                request
            }
            _ => alert(chosen, symbols, &json!({}), "every"),
        };
        let version = if chosen == "walk" { version } else { None };
        let key = format!("{}-{}", self.key, self.report.created.len());
        let before = self.ticks.ends()?;
        let answer = self.ask(|client, url| {
            client.post(format!("{url}/api/v1/alerts")).header("Idempotency-Key", &key).json(&request)
        })?;
        drop(version);
        let created: Value = answer.json()?;
        let alert = member(&created, "id")?.as_i64().context("an id is a number")?;
        self.report.created.push(Creation { alert, before, after: self.ticks.ends()? });
        Ok(alert)
    }

    pub(crate) fn delete(&mut self, alert: i64) -> anyhow::Result<()> {
        self.ask(|client, url| client.delete(format!("{url}/api/v1/alerts/{alert}")))?;
        self.report.deleted += 1;
        Ok(())
    }

    /// Asks until there is an answer. What was deleted by an earlier try is gone, too.
    fn ask(&mut self, request: impl Fn(&Client, &str) -> RequestBuilder) -> anyhow::Result<Response> {
        self.ask_for(PATIENCE, request)
    }

    fn ask_for(
        &mut self,
        patience: Duration,
        request: impl Fn(&Client, &str) -> RequestBuilder,
    ) -> anyhow::Result<Response> {
        let (begun, mut first) = (Instant::now(), true);
        loop {
            let url = url_in(&self.log).context("the API has begun")?;
            let refused = match request(&self.client, &url).send() {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) if answer.status() == StatusCode::NOT_FOUND && !first => return Ok(answer),
                Ok(answer) => {
                    let (status, text) = (answer.status(), answer.text().unwrap_or_default());
                    // 409: another promotion, or the first try of this very request, is not at its end yet; this one was
                    // cancelled; or a partition has halted.
                    if status.is_client_error() && status != StatusCode::CONFLICT {
                        bail!("{status}: {text}");
                    }
                    format!("{status}: {text}")
                }
                Err(error) => error.to_string(),
            };
            ensure!(begun.elapsed() < patience, "asked again for {} s: {refused}", patience.as_secs());
            first = false;
            self.report.again += 1;
            std::thread::sleep(RETRY_WAIT);
        }
    }
}
