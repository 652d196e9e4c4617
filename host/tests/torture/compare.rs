//! The comparison: the tortured database, the topic of firings and the prices, with the reference and the topic of ticks.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use anyhow::Context as _;
use prost::Message as _;
use rdkafka::Message as _;
use rdkafka::message::Headers as _;
use reqwest::blocking::Client;
use serde_json::Value;
use tocsin_engine::GroupSnapshot;
use tocsin_proto::stock::StockTick;

use crate::clients::{ClientReport, Creation};
use crate::db::Db;
use crate::environment::Environment;
use crate::topics::{Topic, key};

/// The newest faults that a store keeps, over all bindings. Which those are depends on how partitions took turns.
const KEPT_FAULTS: i64 = 4096;

/// Differences of one kind that are printed in full.
const MAX_PRINTED: usize = 5;

/// What was recorded of each firing: its id, or where ids may differ its binding and tick, and the rest. The rule that is promoted does the same in all its versions. Of a
/// binding that was deleted all is compared up to where it was evaluated; but not its faults, of which only the newest are kept.
const FIRINGS: &str = r#"SELECT CASE WHEN "partition" IN (SELECT "partition" FROM torture_accepted)
    THEN concat_ws('/', binding_id, "partition", "offset") ELSE encode(id, 'hex') END || ' ' || concat_ws('|', alert_id, binding_id, symbol, price, volume,
    time_ms, conditions, "partition", "offset", rule_name,
    CASE WHEN rule_name <> 'walk' THEN rule_version || encode(rule_digest, 'hex') END, evidence)
    FROM firings LEFT JOIN torture_ended USING (binding_id) WHERE torture_ended IS NULL OR "offset" <= until"#;

const FAULTS: &str = r#"SELECT CASE WHEN "partition" IN (SELECT "partition" FROM torture_accepted)
    THEN concat_ws('/', binding_id, "partition", "offset") ELSE encode(id, 'hex') END || ' ' || concat_ws('|', binding_id, "partition", "offset", kind, fuel,
    encode(state, 'hex'), quarantined) FROM faults WHERE binding_id NOT IN (SELECT binding_id FROM torture_ended)"#;

const BINDINGS: &str = r#"SELECT id || ' ' || concat_ws('|', alert_id, symbol, "partition", counts_from, status, reason) FROM bindings
       WHERE id NOT IN (SELECT binding_id FROM torture_ended)"#;

const PARTITIONS: &str = r#"SELECT "partition" || ' ' || next_offset FROM partitions"#;

const STATES: &str = r#"SELECT concat_ws('|', "partition", s.tenant, r.name, s.symbol), records
    FROM group_states s JOIN rule_versions r ON (r.tenant, r.digest) = (s.tenant, s.rule_digest)"#;

/// What has no state worth comparing any more.
const ENDED: &str =
    "SELECT id::text FROM bindings WHERE status = 'triggered' UNION SELECT binding_id::text FROM torture_ended";

/// Firings of a version that come behind those of a newer one.
const SETBACKS: &str = r#"SELECT count(*) FROM (SELECT split_part(rule_version, '.', 1)::int AS version,
    lag(split_part(rule_version, '.', 1)::int) OVER (PARTITION BY binding_id ORDER BY "offset") AS before
    FROM firings WHERE rule_name = 'walk') walks WHERE version < before"#;

/// What was found.
#[derive(Default)]
pub(crate) struct Findings {
    lost: usize,
    duplicated: usize,
    different: usize,
}

impl Findings {
    pub(crate) fn are_none(&self) -> bool {
        self.lost + self.duplicated + self.different == 0
    }

    pub(crate) fn count_doubled(&mut self, many: usize) {
        self.duplicated += many;
    }

    /// Compares what there is under each key.
    pub(crate) fn compare<T: PartialEq + std::fmt::Debug>(
        &mut self,
        what: &str,
        found: &BTreeMap<String, T>,
        expected: &BTreeMap<String, T>,
    ) {
        let lost: Vec<_> = expected.iter().filter(|(key, _)| !found.contains_key(*key)).collect();
        let extra: Vec<_> = found.iter().filter(|(key, _)| !expected.contains_key(*key)).collect();
        let other = |(key, value): &(&String, &T)| expected.get(*key).is_some_and(|expected| expected != *value);
        let different: Vec<_> = found.iter().filter(other).collect();
        let compared = expected.len();
        println!(
            "torture: {what}: {compared} compared, {} lost, {} too many, {} different",
            lost.len(),
            extra.len(),
            different.len()
        );
        lost.iter().take(MAX_PRINTED).for_each(|one| println!("  lost: {one:?}"));
        extra.iter().take(MAX_PRINTED).for_each(|one| println!("  too many: {one:?}"));
        for (key, value) in different.iter().take(MAX_PRINTED) {
            println!("  different: {key}: {value:?}\n  expected: {:?}", expected[*key]);
        }
        self.lost += lost.len();
        self.duplicated += extra.len();
        self.different += different.len();
    }
}

/// Only partitions that had halted have begun anew where the log was accepted.
pub(crate) fn accepted(
    environment: &Environment,
    halted: &BTreeSet<String>,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let accepted = environment.db.texts(r#"SELECT "partition"::text FROM partitions WHERE generation > 0"#)?;
    let healthy: Vec<_> = accepted.iter().filter(|partition| !halted.contains(*partition)).collect();
    println!("torture: accepted: {} partitions that had not halted: {healthy:?}", healthy.len());
    findings.different += healthy.len();
    Ok(())
}

fn recorded_faults(db: &Db) -> anyhow::Result<i64> {
    db.number("SELECT coalesce(max(seq), 0) FROM faults")
}

/// Compares the databases.
pub(crate) fn databases(environment: &Environment, findings: &mut Findings) -> anyhow::Result<()> {
    let (found, expected) = (&environment.db, &environment.reference);
    let kinds = [("firings", FIRINGS), ("faults", FAULTS), ("bindings", BINDINGS), ("partitions", PARTITIONS)];
    for (what, query) in kinds {
        if what == "faults" && recorded_faults(found)?.max(recorded_faults(expected)?) > KEPT_FAULTS {
            println!(
                "torture: faults: more were recorded than are kept; what they led to is compared with the bindings"
            );
            continue;
        }
        findings.compare(what, &keyed(found, query)?, &keyed(expected, query)?);
    }
    let twice = r#"SELECT count(*) - count(DISTINCT (binding_id, "offset")) FROM firings"#;
    let twice = found.number(twice)?;
    println!("torture: firings: {twice} of a binding and a tick that has another one");
    findings.duplicated += twice as usize;
    let setbacks = found.number("SELECT count(*) FROM torture_setbacks")?;
    println!("torture: checkpoints: {setbacks} written by evaluators that had lost their partition");
    findings.different += setbacks as usize;
    let ended: HashSet<String> = found.texts(ENDED)?.into_iter().collect();
    findings.compare("states", &states(found, &ended)?, &states(expected, &ended)?);
    let setbacks = found.number(SETBACKS)?;
    println!("torture: promotions: {setbacks} firings of a version that was left before");
    findings.different += setbacks as usize;
    Ok(())
}

/// Every alert that was asked for is there once, counts from where its partition ended when it was created, and the live
/// ones are on the version that was promoted last. One that was deleted before its symbol was assigned counts nothing.
pub(crate) fn created(environment: &Environment, report: &ClientReport, findings: &mut Findings) -> anyhow::Result<()> {
    let first = environment.reference.number("SELECT max(id) + 1 FROM alerts")?;
    let query = format!(
        r#"SELECT concat_ws(' ', alert_id, "partition", counts_from) FROM bindings WHERE alert_id >= {first}
           AND ("partition" >= 0 OR status <> 'deleted') ORDER BY id"#
    );
    let mut bindings: BTreeMap<i64, Vec<(i64, i64)>> = BTreeMap::new();
    for row in environment.db.texts(&query)? {
        let numbers = row.split(' ').map(str::parse::<i64>).collect::<Result<Vec<_>, _>>()?;
        let [alert, partition, counts_from] = numbers[..] else { anyhow::bail!("{row} is no row") };
        bindings.entry(alert).or_default().push((partition, counts_from));
    }
    let mut alerts: HashSet<i64> = HashSet::new();
    for id in environment.db.texts(&format!("SELECT id::text FROM alerts WHERE id >= {first}"))? {
        alerts.insert(id.parse()?);
    }
    let (mut lost, mut elsewhere, mut waiting) = (0, 0, 0);
    for Creation { alert, before, after } in &report.created {
        lost += usize::from(!alerts.remove(alert));
        for (partition, counts_from) in bindings.remove(alert).unwrap_or_default() {
            // Each symbol has ticks behind the last alert that is created on it.
            let Ok(partition) = usize::try_from(partition) else {
                waiting += 1;
                println!("  alert {alert} waits for a first tick that was read");
                continue;
            };
            if !(before[partition]..=after[partition]).contains(&counts_from) {
                elsewhere += 1;
                println!("  alert {alert} counts from {partition}/{counts_from}, created in {before:?} to {after:?}");
            }
        }
    }
    let twice = alerts.len();
    let others = environment.db.number(&format!(
        "SELECT count(*) FROM bindings b JOIN alerts a ON a.id = b.alert_id
         WHERE a.rule_name = 'walk' AND b.status IN ('active', 'quarantined') AND a.rule_version <> '{}.0.0'",
        report.version
    ))?;
    println!(
        "torture: created: {lost} alerts are lost, {twice} were not asked for, {elsewhere} bindings count from elsewhere, \
         {waiting} wait for a first tick, {others} live bindings are on another version than the promoted one"
    );
    findings.lost += lost;
    findings.duplicated += twice;
    findings.different += elsewhere + waiting + others as usize;
    Ok(())
}

pub(crate) fn keyed(db: &Db, query: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let rows = db.texts(query)?.into_iter();
    rows.map(|row| {
        let (key, value) = row.split_once(' ').context("a row has a key")?;
        Ok((key.to_owned(), value.to_owned()))
    })
    .collect()
}

/// The records of live bindings, by group and binding.
fn states(db: &Db, ended: &HashSet<String>) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut states = BTreeMap::new();
    for (group, bytes) in db.records(STATES)? {
        for saved in GroupSnapshot::unpack(&bytes)? {
            if !ended.contains(&saved.binding.0.to_string()) {
                states.insert(format!("{group}|{}", saved.binding.0), saved.pack());
            }
        }
    }
    Ok(states)
}

/// Each firing is published at least once, nothing else is published, and an alert's are published in their order.
pub(crate) fn deliveries(environment: &Environment, findings: &mut Findings) -> anyhow::Result<()> {
    let recorded = environment.db.texts("SELECT encode(id, 'hex') || ' ' || alert_id FROM firings ORDER BY seq")?;
    let mut expected: HashMap<String, Vec<String>> = HashMap::new();
    for row in &recorded {
        let (id, alert) = row.split_once(' ').context("a row has an id")?;
        expected.entry(alert.to_owned()).or_default().push(id.to_owned());
    }
    let mut seen = HashSet::new();
    let mut published: HashMap<String, Vec<String>> = HashMap::new();
    let records = Topic::new(&environment.stack.brokers, environment.firings_topic())?.read(|message| {
        let headers = message.headers().context("a firing has headers")?;
        let id = headers.iter().find(|header| header.key == "ce_id").and_then(|header| header.value);
        let id = String::from_utf8_lossy(id.context("a firing has an id")?).replace('-', "");
        if seen.insert(id.clone()) {
            published.entry(key(&message)).or_default().push(id);
        }
        Ok(())
    })?;
    let known: HashSet<&String> = expected.values().flatten().collect();
    let unknown = seen.iter().filter(|id| !known.contains(id)).count();
    let lost = known.iter().filter(|id| !seen.contains(**id)).count();
    let disordered = expected.iter().filter(|(alert, ids)| published.get(*alert) != Some(ids)).count();
    println!(
        "torture: published on Kafka: {records} records of {} firings, {lost} lost, {unknown} unknown, \
         {disordered} of {} alerts in another order",
        seen.len(),
        expected.len()
    );
    findings.lost += lost;
    findings.duplicated += unknown;
    findings.different += disordered;
    Ok(())
}

/// What the ticks of a symbol come to.
#[derive(Default, Debug, PartialEq)]
struct Traded {
    price: f64,
    time_ms: i64,
    trades: u64,
}

/// Prices and candles hold each tick once. The API returns them; how often it is asked is the caller's.
pub(crate) fn prices(environment: &Environment, url: &str) -> anyhow::Result<Findings> {
    let mut expected: BTreeMap<String, Traded> = BTreeMap::new();
    Topic::new(&environment.stack.brokers, environment.ticks_topic())?.read(|message| {
        let tick = StockTick::decode(message.payload().unwrap_or_default())?;
        let traded = expected.entry(tick.symbol).or_default();
        if tick.timestamp >= traded.time_ms {
            (traded.price, traded.time_ms) = (tick.price, tick.timestamp);
        }
        traded.trades += u64::from(tick.volume > 0.0);
        Ok(())
    })?;
    let mut redis = environment.redis()?;
    let mut found = BTreeMap::new();
    for symbol in expected.keys() {
        let text = |key: String, redis: &mut redis::Connection| -> anyhow::Result<String> {
            Ok(redis::cmd("GET").arg(key).query::<Option<String>>(redis)?.unwrap_or_default())
        };
        let price = text(format!("price:{symbol}"), &mut redis)?.parse().unwrap_or_default();
        let time_ms = text(format!("price:{symbol}:timestamp"), &mut redis)?.parse().unwrap_or_default();
        let candles = format!("{url}/api/v1/candles/{}?interval=1h&limit=1000", symbol.replace(':', "%3A"));
        let candles: Value = Client::new().get(candles).send()?.json()?;
        // There are none of a symbol until its first tick is projected.
        let trades = candles["candles"].as_array().into_iter().flatten();
        let trades = trades.filter_map(|candle| candle["trades"].as_u64()).sum();
        found.insert(symbol.clone(), Traded { price, time_ms, trades });
    }
    let mut findings = Findings::default();
    findings.compare("prices and candles", &found, &expected);
    Ok(findings)
}

impl std::ops::AddAssign for Findings {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.different += other.different;
    }
}
