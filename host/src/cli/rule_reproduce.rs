//! `tocsin rule reproduce`: a fault's bundle, evaluated again without a server.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};
use tocsin_engine::domain::{Conditions, Digest, Position, RuleName, RuleRef, Symbol, Tick, parse_version};
use tocsin_engine::limits::{MAX_MODULE_BYTES, THREAD_STACK_BYTES};
use tocsin_engine::{Engine, Fault, FaultBundle, NotReproduced, Rule, reproduce as evaluate};

use super::failure::Failure;
use super::rule_check;
use crate::wire::BUNDLE_FORMAT;

/// The largest bundle, bytes: the largest module in base64, and the records in hexadecimal with room to spare.
pub(super) const MAX_BUNDLE_BYTES: usize = MAX_MODULE_BYTES / 3 * 4 + 512 * 1024;

/// A bundle as the server writes it; what is for people only is not read.
#[derive(Deserialize)]
struct Bundle {
    rule: BundleRule,
    params: String,
    state: String,
    tick: BundleTick,
    partition: u32,
    offset: u64,
    fuel: u64,
    fault: BundleFault,
}

#[derive(Deserialize)]
struct BundleRule {
    name: String,
    version: String,
    digest: String,
    module: String,
}

#[derive(Deserialize)]
struct BundleTick {
    symbol: String,
    price: f64,
    volume: f64,
    timestamp: i64,
    conditions: u64,
}

#[derive(Deserialize)]
struct BundleFault {
    kind: String,
    detail: String,
}

/// A fault that was seen again, and what the rule did now.
#[derive(Debug)]
pub(super) struct Seen(FaultBundle, String);

/// Evaluates a bundle again. A failure says what differs, or what is wrong with the bundle.
pub(super) fn reproduce(bytes: &[u8]) -> Result<Seen, Failure> {
    if bytes.len() > MAX_BUNDLE_BYTES {
        return Err(no_bundle("file", &format!("it is larger than {MAX_BUNDLE_BYTES} bytes")));
    }
    let format = serde_json::from_slice::<Value>(bytes).map_err(|error| no_bundle("file", &error))?;
    if format["format"] != BUNDLE_FORMAT {
        let text = format!("{}: this program reads format {BUNDLE_FORMAT}", format["format"]);
        return Err(no_bundle("format", &text));
    }
    let bundle: Bundle = serde_json::from_slice(bytes).map_err(|error| no_bundle("file", &error))?;
    let module = BASE64.decode(&bundle.rule.module).map_err(|error| no_bundle("rule.module", &error))?;
    let bundle = bundle.into_bundle()?;
    let got = Digest::of(&module);
    if got != bundle.rule.digest {
        let text = format!("the module's digest is {got}, but the bundle says {}", bundle.rule.digest);
        return Err(no_bundle("rule.digest", &text));
    }
    let engine = Engine::new().map_err(|error| Failure::Local(error.to_string()))?;
    let rule = engine.load(&module).map_err(rule_check::not_loaded)?;
    let did = evaluate_with_stack(&rule, &bundle)?.map_err(|error| {
        let text = error.to_string();
        Failure::Problem(json!({ "title": "the fault was not seen again", "detail": text, "error": text }))
    })?;
    Ok(Seen(bundle, did))
}

/// A rule may use up a larger stack than this thread has.
fn evaluate_with_stack(rule: &Rule, bundle: &FaultBundle) -> Result<Result<String, NotReproduced>, Failure> {
    let thread = std::thread::Builder::new().name("tocsin-reproduce".into()).stack_size(THREAD_STACK_BYTES);
    std::thread::scope(|scope| {
        let thread = thread.spawn_scoped(scope, || evaluate(rule, bundle));
        let thread = thread.map_err(|error| Failure::Local(format!("there is no room for a thread: {error}")))?;
        thread.join().map_err(|_| Failure::Local("the engine crashed on this bundle".into()))
    })
}

impl Bundle {
    fn into_bundle(self) -> Result<FaultBundle, Failure> {
        let Self { rule, tick, fault, .. } = self;
        let record = |field: &str, text: &str| hex::decode(text).map_err(|error| no_bundle(field, &error));
        let symbol = Symbol::parse(&tick.symbol).map_err(|error| no_bundle("tick.symbol", &error))?;
        let tick = Tick::new(symbol, tick.price, tick.volume, tick.timestamp, Conditions(tick.conditions));
        let kind = Fault::from_parts(&fault.kind, &fault.detail);
        Ok(FaultBundle {
            rule: RuleRef {
                name: RuleName::parse(&rule.name).map_err(|error| no_bundle("rule.name", &error))?,
                version: parse_version(&rule.version).map_err(|error| no_bundle("rule.version", &error))?,
                digest: rule.digest.parse().map_err(|error| no_bundle("rule.digest", &error))?,
            },
            tick: tick.map_err(|error| no_bundle("tick", &error))?,
            position: Position { partition: self.partition, offset: self.offset },
            params: record("params", &self.params)?,
            state: record("state", &self.state)?,
            fuel: self.fuel,
            fault: kind.ok_or_else(|| no_bundle("fault", &format!("{:?} is no fault", fault.kind)))?,
        })
    }
}

fn no_bundle(field: &str, reason: &dyn std::fmt::Display) -> Failure {
    let title = "this is not the bundle of a fault";
    let violations = json!([{ "field": field, "message": reason.to_string() }]);
    Failure::Problem(json!({ "title": title, "error": title, "violations": violations }))
}

impl Seen {
    pub(super) fn json(&self) -> Value {
        let FaultBundle { rule, fault, .. } = &self.0;
        json!({
            "reproduced": true, "kind": fault.kind(), "fault": fault.to_string(), "rule": rule.name.as_str(),
            "version": rule.version.to_string(), "digest": rule.digest.to_string(), "did": self.1,
        })
    }

    pub(super) fn text(&self) -> String {
        let FaultBundle { rule, tick, fault, .. } = &self.0;
        let did = if self.1 == fault.to_string() { String::new() } else { format!(": {}", self.1) };
        format!(
            "{} {} on {} at {}: the same fault again: {fault}{did}",
            rule.name, rule.version, tick.symbol, tick.price
        )
    }
}
