//! The environment: topics and databases of its own, rules, and alerts that are there before the first tick.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use reqwest::blocking::Client;
use serde_json::{Value, json};

use crate::db::Db;
use crate::processes::Process;
use crate::stack::Stack;

/// Symbols of the simulated feed, which the ingesters take.
const SIMULATED: usize = 8;

/// Where their prices begin, by the end of their names.
const SIMULATED_PRICE: f64 = 60_000.0;

/// Symbols of [`crate::load`].
const LOADED: usize = 12;

/// Ticks a second of the simulated feed.
const SIMULATED_RATE: &str = "150";

/// How long a process may take until it answers.
const READY_PATIENCE: Duration = Duration::from_secs(120);

/// Counts its ticks and adds their prices up, and fires with both at every eighth: a tick that is evaluated twice, not at all
/// or in another order shows in every firing from then on.
const TALLY: &str = r#"(module (memory (export "memory") 1)
  (func (export "evaluate") (param $tick i32) (param i32) (param $state i32) (param $verdict i32) (result i32)
    (f64.store (local.get $state) (f64.add (f64.load (local.get $state)) (f64.const 1)))
    (f64.store offset=8 (local.get $state)
      (f64.add (f64.load offset=8 (local.get $state)) (f64.load (local.get $tick))))
    (f64.store (local.get $verdict) (f64.load (local.get $state)))
    (f64.store offset=8 (local.get $verdict) (f64.load offset=8 (local.get $state)))
    (f64.eq (f64.load (local.get $state))
      (f64.mul (f64.const 8) (f64.trunc (f64.div (f64.load (local.get $state)) (f64.const 8))))))
  (@custom "tocsin.manifest"
    "{\"abi\":1,\"name\":\"tally\",\"version\":\"1.0.0\",\"state\":{\"size\":16},\"evidence\":[\"count\",\"sum\"]}"))"#;

/// The same, but traps at one volume, which [`crate::load`] gives to some ticks: it is quarantined, probed and recovers.
const FRAIL: &str = r#"(module (memory (export "memory") 1)
  (func (export "evaluate") (param $tick i32) (param i32) (param $state i32) (param $verdict i32) (result i32)
    (f64.store (local.get $state) (f64.add (f64.load (local.get $state)) (f64.const 1)))
    (if (f64.eq (f64.load offset=8 (local.get $tick)) (f64.const 13.5)) (then unreachable))
    (f64.store (local.get $verdict) (f64.load (local.get $state)))
    (f64.eq (f64.load (local.get $state))
      (f64.mul (f64.const 8) (f64.trunc (f64.div (f64.load (local.get $state)) (f64.const 8))))))
  (@custom "tocsin.manifest"
    "{\"abi\":1,\"name\":\"frail\",\"version\":\"1.0.0\",\"state\":{\"size\":8},\"evidence\":[\"count\"]}"))"#;

/// The most versions of the rule that is promoted while all this goes on.
const MAX_WALK_VERSIONS: usize = 60;

/// A version of it: each does the same, and takes over the states of all versions before it as they are. So it must fire as
/// if it had never been promoted, but for the version's name.
fn walk(number: usize) -> String {
    let older: Vec<String> = (1..number).map(|older| format!("\"{older}.0.0\"")).collect();
    let (migrates, migrate) = match older[..] {
        [] => (String::new(), ""),
        _ => (
            format!(r#","migrates":[{}]"#, older.join(",")),
            r#"(func (export "migrate") (param i32) (param $old i32) (param i32) (param $state i32) (result i32)
                 (f64.store (local.get $state) (f64.load (local.get $old)))
                 (f64.store offset=8 (local.get $state) (f64.load offset=8 (local.get $old)))
                 (i32.const 0))"#,
        ),
    };
    let manifest = format!(
        r#"{{"abi":1,"name":"walk","version":"{number}.0.0","state":{{"size":16}},"evidence":["count","sum"]{migrates}}}"#
    );
    let tally = TALLY.split("(@custom").next().unwrap_or_default();
    format!(r#"{tally} {migrate} (@custom "tocsin.manifest" "{}"))"#, manifest.replace('"', "\\\""))
}

/// Notes checkpoints that go back: one that is written by an evaluator that has lost its partition. The next one of the
/// present owner would hide it.
const SETBACKS: &str = r#"
    CREATE TABLE torture_setbacks ("partition" bigint, before bigint, after bigint);
    CREATE FUNCTION torture_note_setback() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO torture_setbacks VALUES (OLD."partition", OLD.next_offset, NEW.next_offset);
        RETURN NEW;
    END $$;
    CREATE TRIGGER torture_setback BEFORE UPDATE ON partitions
        FOR EACH ROW WHEN (NEW.next_offset < OLD.next_offset) EXECUTE FUNCTION torture_note_setback();"#;

/// The volume at which [`FRAIL`] traps.
pub(crate) const FRAIL_VOLUME: f64 = 13.5;

/// The price around which those of [`crate::load`] move.
pub(crate) const LOADED_PRICE: f64 = 100.0;

pub(crate) struct Environment {
    pub(crate) stack: Stack,
    /// Unlike any other run's.
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) db: Db,
    /// What the reference run works on.
    pub(crate) reference: Db,
    /// How many versions there are of the rule that is promoted.
    pub(crate) walk_versions: usize,
}

impl Environment {
    /// `promotions` are those for which there is a version each, as far as there may be so many.
    pub(crate) fn make(stack: Stack, promotions: usize) -> anyhow::Result<Self> {
        let name = format!("torture_{:016x}", rand::random::<u64>());
        let server = Db::new(stack.database_url.clone())?;
        server.execute(&format!("CREATE DATABASE {name}"))?;
        let (db, reference) = (server.beside(&name)?, server.beside(&format!("{name}_reference"))?);
        // Kept where something fails: the logs are there.
        let folder = tempfile::tempdir()?.keep();
        let walk_versions = (promotions + 1).min(MAX_WALK_VERSIONS);
        Ok(Self { stack, name, folder, db, reference, walk_versions })
    }

    pub(crate) fn ticks_topic(&self) -> String {
        format!("{}_ticks", self.name)
    }

    pub(crate) fn firings_topic(&self) -> String {
        format!("{}_firings", self.name)
    }

    /// Symbols that no other run has: prices are shared by all runs on one Redis.
    pub(crate) fn simulated(&self) -> Vec<String> {
        let run = self.name[8..].to_uppercase();
        (0..SIMULATED).map(|i| format!("{run}:S{i}BTCUSDT")).collect()
    }

    pub(crate) fn loaded(&self) -> Vec<String> {
        let run = self.name[8..].to_uppercase();
        (0..LOADED).map(|i| format!("{run}:L{i}")).collect()
    }

    /// The settings of all processes.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("KAFKA_BROKERS", self.stack.brokers.clone()),
            ("KAFKA_TOPIC", self.ticks_topic()),
            ("KAFKA_FIRINGS_TOPIC", self.firings_topic()),
            ("REDIS_ADDR", self.stack.redis.clone()),
            ("DATABASE_URL", self.db.url.clone()),
            ("TICKERS", self.simulated().join(",")),
            ("TOCSIN_SIMULATED_RATE", SIMULATED_RATE.to_owned()),
        ]
    }

    /// Creates the alerts, and copies the database before anything was evaluated.
    pub(crate) fn set_up(&self) -> anyhow::Result<()> {
        let mut api = Process::new(self, "api", 9)?;
        api.start(self, None)?;
        let url = await_ready(&api)?;
        let walks = (1..=self.walk_versions).map(walk);
        for rule in [TALLY.to_owned(), FRAIL.to_owned()].into_iter().chain(walks) {
            let request = Client::new().post(format!("{url}/api/v1/rules")).header("Content-Type", "application/wasm");
            let answer = request.body(wat::parse_str(rule)?).send()?;
            ensure!(answer.status().is_success(), "a rule is refused: {}", answer.text()?);
        }
        let alerts = self.alerts();
        for alert in &alerts {
            let answer = Client::new().post(format!("{url}/api/v1/alerts")).json(alert).send()?;
            ensure!(answer.status().is_success(), "an alert is refused: {}", answer.text()?);
        }
        api.stop()?;
        let bindings = self.db.number("SELECT count(*) FROM bindings")?;
        println!("torture: {} alerts, {bindings} bindings, database {}", alerts.len(), self.name);
        let server = Db::new(self.stack.database_url.clone())?;
        server.execute(&format!("CREATE DATABASE {0}_reference TEMPLATE {0}", self.name))?;
        self.db.execute(SETBACKS)
    }

    fn alerts(&self) -> Vec<Value> {
        let (simulated, loaded) = (self.simulated(), self.loaded());
        let all = [simulated.clone(), loaded.clone()].concat();
        let mut alerts = vec![alert("tally", &all, &json!({}), "every"), alert("frail", &loaded, &json!({}), "every")];
        alerts.push(
            json!({"user_id": 1, "symbols": all, "rule": "walk", "version": "1.0.0", "lifecycle": {"repeat": "every"}}),
        );
        for (symbols, price) in [(&simulated, SIMULATED_PRICE), (&loaded, LOADED_PRICE)] {
            let target = |percent: f64| json!({"target": price * (1.0 + percent / 100.0)});
            for (rule, sign) in [("above", 1.0), ("below", -1.0)] {
                alerts.extend([1.0, 4.0].map(|percent| alert(rule, symbols, &target(sign * percent), "once")));
                // One symbol each: an alert has an order of its own.
                let every = symbols.iter().map(|symbol| [symbol.clone()]);
                alerts.extend(every.map(|symbol| alert(rule, &symbol, &target(sign * 3.0), "every")));
            }
        }
        alerts
    }

    /// Removes all of it but the topics, which no other run meets. `fresh` is how many fresh symbols there were.
    pub(crate) fn tear_down(&self, fresh: usize) -> anyhow::Result<()> {
        let server = Db::new(self.stack.database_url.clone())?;
        server.execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name))?;
        server.execute(&format!("DROP DATABASE {}_reference WITH (FORCE)", self.name))?;
        let mut redis = self.redis()?;
        let fresh = (0..fresh).map(|number| fresh_symbol(&self.name, number)).collect();
        for symbol in [self.simulated(), self.loaded(), fresh].concat() {
            let candles = ["", ":1s", ":1m", ":5m", ":1h"].map(|interval| format!("candles:{symbol}{interval}"));
            let prices = [format!("price:{symbol}"), format!("price:{symbol}:timestamp")];
            redis::cmd("DEL").arg(&candles).arg(&prices).exec(&mut redis)?;
        }
        std::fs::remove_dir_all(&self.folder).context("cannot remove the folders of the processes")
    }

    pub(crate) fn redis(&self) -> anyhow::Result<redis::Connection> {
        Ok(redis::Client::open(format!("redis://{}/", self.stack.redis))?.get_connection()?)
    }
}

/// A symbol of a run that has no ticks until a client asks for them.
pub(crate) fn fresh_symbol(run: &str, number: usize) -> String {
    format!("{}:F{number}", run[8..].to_uppercase())
}

pub(crate) fn alert(rule: &str, symbols: &[String], params: &Value, repeat: &str) -> Value {
    json!({"user_id": 1, "symbols": symbols, "rule": rule, "params": params, "lifecycle": {"repeat": repeat}})
}

/// Waits until a process serves; where.
pub(crate) fn await_ready(process: &Process) -> anyhow::Result<String> {
    let begun = Instant::now();
    loop {
        if let Some(url) = process.url()
            && let Ok(answer) = Client::new().get(format!("{url}/ready")).send()
            && answer.status().is_success()
        {
            return Ok(url);
        }
        ensure!(begun.elapsed() < READY_PATIENCE, "{} is not ready", process.name);
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A number within JSON.
pub(crate) fn member<'a>(json: &'a Value, name: &str) -> anyhow::Result<&'a Value> {
    json.get(name).with_context(|| format!("there is no {name} in {json}"))
}
