//! Those who come while the others are tortured: they create alerts, delete some of them and promote a rule, through an API
//! that is killed under their hands. Each asks again until there is an answer, as clients with an `Idempotency-Key` may.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::StatusCode;
use reqwest::blocking::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::environment::{Environment, LOADED_PRICE, WALK_VERSIONS, alert, member};
use crate::processes::url_in;
use crate::topics::Topic;

/// As many of their alerts are there at a time.
const MAX_LIVE: usize = 60;

/// One in so many requests is a promotion.
const PROMOTE_ONCE_IN: u32 = 40;

/// The longest pause between two requests, milliseconds.
const MAX_PAUSE_MS: u64 = 600;

/// How long a client waits for one answer. A promotion waits 30 s for evaluators.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

/// How long one asks again and again.
const PATIENCE: Duration = Duration::from_secs(180);

const RETRY_WAIT: Duration = Duration::from_millis(200);

pub(crate) struct Clients {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<ClientReport>>,
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
}

/// An alert that was created, and where the partitions ended right before it was asked for and right after the answer.
pub(crate) struct Creation {
    pub(crate) alert: i64,
    pub(crate) before: Vec<i64>,
    pub(crate) after: Vec<i64>,
}

impl Clients {
    /// Begins; `log` is that of the API's process.
    pub(crate) fn start(environment: &Environment, log: PathBuf, seed: u64) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut client = ApiClient {
            log,
            symbols: [environment.simulated(), environment.loaded()].concat(),
            ticks: Topic::new(&environment.stack.brokers, environment.ticks_topic())?,
            key: environment.name.clone(),
            client: Client::builder().timeout(ANSWER_TIMEOUT).build()?,
            rng: StdRng::seed_from_u64(seed.rotate_left(32)),
            live: Vec::new(),
            report: ClientReport { version: 1, ..ClientReport::default() },
        };
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Relaxed) {
                client.act()?;
                std::thread::sleep(Duration::from_millis(client.rng.random_range(0..MAX_PAUSE_MS)));
            }
            Ok(client.report)
        });
        Ok(Self { stop, thread })
    }

    /// The last visit ends.
    pub(crate) fn stop(self) -> anyhow::Result<ClientReport> {
        self.stop.store(true, Relaxed);
        self.thread.join().expect("clients do not panic").context("a client was not served")
    }
}

struct ApiClient {
    log: PathBuf,
    symbols: Vec<String>,
    ticks: Topic,
    /// What the keys of this run begin with.
    key: String,
    client: Client,
    rng: StdRng,
    live: Vec<i64>,
    report: ClientReport,
}

impl ApiClient {
    fn act(&mut self) -> anyhow::Result<()> {
        if self.report.version < WALK_VERSIONS && self.rng.random_ratio(1, PROMOTE_ONCE_IN) {
            self.promote()
        } else if self.live.len() >= MAX_LIVE || (!self.live.is_empty() && self.rng.random_ratio(1, 3)) {
            self.delete()
        } else {
            self.create()
        }
    }

    fn create(&mut self) -> anyhow::Result<()> {
        let many = self.rng.random_range(1..=3);
        let symbols: Vec<String> = self.symbols.sample(&mut self.rng, many).cloned().collect();
        let target = json!({"target": LOADED_PRICE * (1.0 + self.rng.random_range(-3.0..3.0) / 100.0)});
        let chosen = ["tally", "frail", "walk", "above", "below"].choose(&mut self.rng).copied().unwrap_or("tally");
        let mut request = match chosen {
            "above" | "below" => alert(chosen, &symbols, &target, if many == 1 { "every" } else { "once" }),
            _ => alert(chosen, &symbols, &json!({}), "every"),
        };
        if chosen == "walk" {
            // Without a version it would be the newest, which no alert is promoted to yet.
            request["version"] = json!(format!("{}.0.0", self.report.version));
        }
        let key = format!("{}-{}", self.key, self.report.created.len());
        let before = self.ends()?;
        let answer = self.ask(|client, url| {
            client.post(format!("{url}/api/v1/alerts")).header("Idempotency-Key", &key).json(&request)
        })?;
        let created: Value = answer.json()?;
        let alert = member(&created, "id")?.as_i64().context("an id is a number")?;
        self.report.created.push(Creation { alert, before, after: self.ends()? });
        self.live.push(alert);
        Ok(())
    }

    fn delete(&mut self) -> anyhow::Result<()> {
        let chosen = self.rng.random_range(0..self.live.len());
        let alert = self.live.swap_remove(chosen);
        self.ask(|client, url| client.delete(format!("{url}/api/v1/alerts/{alert}")))?;
        self.report.deleted += 1;
        Ok(())
    }

    fn promote(&mut self) -> anyhow::Result<()> {
        let version = self.report.version + 1;
        let path = format!("api/v1/rules/walk/versions/{version}.0.0/promote");
        self.ask(|client, url| client.post(format!("{url}/{path}")).json(&json!({})))?;
        self.report.version = version;
        Ok(())
    }

    /// Asks until there is an answer. What was deleted by an earlier try is gone, too.
    fn ask(&mut self, request: impl Fn(&Client, &str) -> RequestBuilder) -> anyhow::Result<Response> {
        let (begun, mut first) = (Instant::now(), true);
        loop {
            let url = url_in(&self.log).context("the API has begun")?;
            let refused = match request(&self.client, &url).send() {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) if answer.status() == StatusCode::NOT_FOUND && !first => return Ok(answer),
                Ok(answer) => {
                    let (status, text) = (answer.status(), answer.text().unwrap_or_default());
                    // 409: another promotion, or the first try of this very request, is not at its end yet.
                    if status.is_client_error() && status != StatusCode::CONFLICT {
                        bail!("{status}: {text}");
                    }
                    format!("{status}: {text}")
                }
                Err(error) => error.to_string(),
            };
            ensure!(begun.elapsed() < PATIENCE, "asked again for {} s: {refused}", PATIENCE.as_secs());
            first = false;
            self.report.again += 1;
            std::thread::sleep(RETRY_WAIT);
        }
    }

    /// Where the partitions end, as soon as the brokers answer.
    fn ends(&self) -> anyhow::Result<Vec<i64>> {
        let begun = Instant::now();
        loop {
            match self.ticks.ends() {
                Err(error) if begun.elapsed() > PATIENCE => return Err(error.context("the brokers return no ends")),
                Err(_) => std::thread::sleep(RETRY_WAIT),
                ends => return ends,
            }
        }
    }
}
