//! The trial run: before a rule is accepted, it is evaluated on *golden ticks*, the extremes of what [`Tick`] allows. NaN and
//! infinities are not among them: no tick has one, so a rule may rely on that.
//!
//! There are two runs, each on fresh bindings, one binding for each set of params that can be derived from the schema (its
//! defaults, its lowest and its highest values):
//!
//! - **market**: what sources do deliver: zero and negative prices, no volume, much volume, equal and reversed times, all
//!   conditions. A fault here is one that alerts will have.
//! - **extreme**: numbers at the ends of their range, and then the market again. A trap, lack of fuel or a code without
//!   meaning is refused here too. Evidence that is not finite is not: two prices of 1e308 add up to infinity in any correct
//!   average, and such a tick costs a binding only the evaluation of that tick.
//!
//! Every call is audited for purity, and bindings that sleep are evaluated too: a rule is refused if it returns two answers
//! to the same input, or would have woken inside of its wake band.
//!
//! The trial proves nothing: a rule can distinguish it from the market. Then its bindings are quarantined like any others.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::domain::{
    AlertId, BindingId, Conditions, Lifecycle, MAX_TIME_MS, Params, Position, Repeat, Symbol, Tenant, Tick,
};
use crate::evaluate::Waking;
use crate::fault::Fault;
use crate::manifest::Manifest;
use crate::migration::{Migration, MigrationError};
use crate::params::ParamsSpec;
use crate::purity::Impurity;
use crate::runtime::Rule;
use crate::shard::{ArmError, Arming, EvaluationOptions, Event, Shard};
use crate::violation::{Code, Violation};

/// The repetitions of the market's ticks, so that rules over a window have some full ones. With three sets of params and at
/// most 1 ms per evaluation, this takes less than half a second for the most expensive rule.
const MARKET_ROUNDS: usize = 4;

/// The most faults that are reported of one run: an author needs the first ones.
const MAX_FAULTS: usize = 3;

/// An ordinary event time, Unix milliseconds.
const NOON_MS: i64 = 1_700_000_000_000;

/// A fault of the trial run.
#[derive(Clone, Debug, PartialEq)]
pub struct TrialFault {
    /// The golden tick.
    pub tick: Tick,
    /// What the rule did on it.
    pub wrong: Wrong,
}

/// What is wrong with a rule on a golden tick.
#[derive(Clone, Debug, PartialEq)]
pub enum Wrong {
    /// It faulted, with these params (JSON).
    Faulted(Fault, String),
    /// It is not a pure function of tick, params and state.
    Impure(Impurity),
}

/// The trial run could not be completed: the machine lacks memory, or is too slow.
#[derive(Debug, thiserror::Error)]
#[error("the trial run could not be completed: {0}")]
pub struct TrialError(String);

impl fmt::Display for TrialFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tick { price, volume, time_ms, conditions, .. } = &self.tick;
        write!(
            f,
            "on a tick of price {price:?}, volume {volume:?}, time_ms {time_ms} and conditions {:#x}",
            conditions.0
        )?;
        match &self.wrong {
            Wrong::Faulted(fault, params) => write!(f, " with the params {params}: {fault}"),
            Wrong::Impure(impurity) => write!(f, ": {impurity}"),
        }
    }
}

impl TrialFault {
    /// Returns the fault as a violation.
    pub fn violation(&self) -> Violation {
        Violation::new(Code::TrialFault, self.to_string())
    }
}

/// Evaluates a rule on the golden ticks, and returns the faults for which it must be refused. The calling thread needs a
/// stack of [`crate::limits::THREAD_STACK_BYTES`].
///
/// # Errors
/// Where the machine lacks memory or time.
pub fn trial(rule: &Rule) -> Result<Vec<TrialFault>, TrialError> {
    let params = sample_params(&rule.manifest().params);
    let market: Vec<Tick> = std::iter::repeat_n(market_ticks(), MARKET_ROUNDS).flatten().collect();
    let mut faults = run(rule, &params, &market)?;
    let extreme: Vec<Tick> = extreme_ticks().into_iter().chain(market_ticks()).collect();
    let refused = |found: &TrialFault| !matches!(found.wrong, Wrong::Faulted(Fault::BadEvidence(_), _));
    for found in run(rule, &params, &extreme)?.into_iter().filter(refused) {
        // The extreme ticks end with the market's.
        if !faults.iter().any(|known| known.to_string() == found.to_string()) {
            faults.push(found);
        }
    }
    Ok(faults)
}

/// Migrates a state of zeros, as that of an alert that has not been evaluated yet, from an older version, and returns the
/// reasons to refuse the rule. The calling thread needs the same stack.
///
/// # Errors
/// Where the machine lacks memory or time.
pub fn trial_migration(rule: &Rule, old: &Manifest) -> Result<Vec<Violation>, TrialError> {
    let migration = match Migration::new(rule, old) {
        Ok(migration) => migration,
        // The rule does not migrate from that version.
        Err(_) => return Ok(Vec::new()),
    };
    let mut violations = Vec::new();
    for params in sample_params(&rule.manifest().params) {
        let error = match migration.state(&params.packed, &vec![0; old.state_bytes]) {
            Ok(_) | Err(MigrationError::Refused(_)) => continue,
            Err(error @ MigrationError::Machine(_)) => return Err(TrialError(error.to_string())),
            Err(error) => error,
        };
        let message =
            format!("on a state of zeros of version {} with the params {}: {error}", old.version, params.json);
        violations.push(Violation::new(Code::TrialFault, message));
    }
    Ok(violations)
}

/// Evaluates ticks with one binding for each set of params, and returns the first faults.
fn run(rule: &Rule, params: &[Params], ticks: &[Tick]) -> Result<Vec<TrialFault>, TrialError> {
    let mut shard =
        Shard::new(EvaluationOptions { waking: Waking::Checked, audit_every_calls: 1, ..EvaluationOptions::default() });
    for (set, params) in params.iter().enumerate() {
        let id = set as i64;
        let armed = shard.arm(Arming {
            binding: BindingId(id),
            alert: AlertId(id),
            tenant: Tenant::standard(),
            symbol: symbol(),
            rule: rule.clone(),
            params: params.packed.clone(),
            lifecycle: Lifecycle { repeat: Repeat::Every },
            saved: None,
        });
        armed.map_err(|error: ArmError| TrialError(error.to_string()))?;
    }
    let (mut faults, mut events) = (Vec::new(), Vec::new());
    for (offset, tick) in ticks.iter().enumerate() {
        let position = Position { partition: 0, offset: offset as u64 };
        shard.evaluate(tick, position, &mut events).map_err(|error| TrialError(error.to_string()))?;
        for event in events.drain(..) {
            let wrong = match event {
                Event::Faulted { binding, fault, .. } => Wrong::Faulted(fault, params[binding.0 as usize].json.clone()),
                Event::Impure { impurity, .. } => Wrong::Impure(impurity),
                Event::Fired { .. } | Event::Recovered { .. } => continue,
            };
            let found = TrialFault { tick: tick.clone(), wrong };
            // Some golden ticks come twice.
            if faults.len() < MAX_FAULTS
                && !faults.iter().any(|known: &TrialFault| known.to_string() == found.to_string())
            {
                faults.push(found);
            }
        }
    }
    Ok(faults)
}

fn symbol() -> Symbol {
    Symbol::parse("GOLDEN").expect("a symbol")
}

fn tick((price, volume, time_ms, conditions): (f64, f64, i64, u64)) -> Tick {
    Tick::new(symbol(), price, volume, time_ms, Conditions(conditions)).expect("golden ticks are ticks")
}

/// Returns unusual ticks that sources do deliver.
fn market_ticks() -> Vec<Tick> {
    let ticks = [
        (100.0, 1.0, NOON_MS, 0),
        (100.0, 1.0, NOON_MS, 0),             // the same print again
        (101.5, 250.0, NOON_MS + 1, 1 << 12), // one condition
        (99.25, 0.0, NOON_MS + 60_000, 0),    // a price update without a trade
        (100.0, 3.0, NOON_MS - 3_600_000, 0), // an hour back
        (0.0, 1.0, NOON_MS + 60_001, 0),
        (-37.63, 1.0, NOON_MS + 60_002, 0), // oil on 2020-04-20
        (0.000_000_01, 1e12, NOON_MS + 60_003, 0),
        (69_000.0, 0.000_000_01, NOON_MS + 60_003, u64::MAX), // all conditions
        (700_000.0, 1e15, NOON_MS + 86_400_000, 1),
        (100.0, 1.0, NOON_MS + 7 * 86_400_000, 0), // after a week of silence
        (100.0, 1.0, NOON_MS, 0),                  // and back
    ];
    ticks.map(tick).to_vec()
}

/// Returns ticks with numbers at the ends of their ranges.
fn extreme_ticks() -> Vec<Tick> {
    let denormal = f64::from_bits(1);
    let ticks = [
        (1.0, 1.0, 0, 0),
        (1e308, 1.0, MAX_TIME_MS, 0),
        (-1e308, 1.0, 0, u64::MAX),
        (f64::MAX, f64::MAX, MAX_TIME_MS, 0),
        (f64::MIN, f64::MAX, MAX_TIME_MS, 0),
        (denormal, denormal, 1, 0),
        (-denormal, 0.0, 1, 0),
        (f64::MIN_POSITIVE, f64::MIN_POSITIVE, 0, 1),
        (0.0, 0.0, 0, 0),
        (0.0, f64::MAX, 0, 0),
        (9_007_199_254_740_993.0, 1.0, NOON_MS, 0), // behind the last exact integer
    ];
    ticks.map(tick).to_vec()
}

/// Which values a set of params prefers.
#[derive(Clone, Copy, PartialEq)]
enum Choice {
    Default,
    Lowest,
    Highest,
}

/// Returns distinct params that are valid by the schema. Empty if no combination of candidates is.
fn sample_params(spec: &ParamsSpec) -> Vec<Params> {
    let mut samples: Vec<Params> = Vec::new();
    for choice in [Choice::Default, Choice::Lowest, Choice::Highest] {
        if let Some(sample) = sample(spec, choice)
            && !samples.iter().any(|known| known.packed == sample.packed)
        {
            samples.push(sample);
        }
    }
    samples
}

/// Tries the candidates of each param until all are valid by the schema.
fn sample(spec: &ParamsSpec, choice: Choice) -> Option<Params> {
    let properties = spec.schema()["properties"].as_object().cloned().unwrap_or_default();
    let mut left: Map<String, Value> =
        properties.iter().map(|(name, property)| (name.clone(), Value::Array(candidates(property, choice)))).collect();
    loop {
        let best = |values: &Value| values.as_array().and_then(|values| values.last()).cloned();
        let given: Option<Map<String, Value>> =
            left.iter().map(|(name, values)| Some((name.clone(), best(values)?))).collect();
        match spec.pack(&Value::Object(given?)) {
            Ok(params) => return Some(params),
            // Each round removes a candidate of each param that is invalid, or ends the search.
            Err(errors) => {
                for error in errors {
                    left.get_mut(&error.path)?.as_array_mut()?.pop()?;
                }
            }
        }
    }
}

/// Returns values to try for a param, the preferred one last.
fn candidates(property: &Value, choice: Choice) -> Vec<Value> {
    let bound = |keyword: &str| property.get(keyword).cloned();
    let beyond = |keyword: &str, step: f64| {
        let limit = property.get(keyword)?.as_f64()?;
        // Also for integers: the validator accepts 2.0 as one.
        Some([json!(limit + step), json!(limit + step * 0.01)])
    };
    // A bound that is not a 32-bit float may be rounded to a number outside of the range; its inner neighbour is not.
    let inside = |keyword: &str, inwards: fn(f32) -> f32| {
        let limit = property.get(keyword)?.as_f64()?;
        Some(json!(f64::from(inwards(limit as f32))))
    };
    let low = [bound("minimum"), inside("minimum", f32::next_up)].into_iter();
    let low = low.chain(both(beyond("exclusiveMinimum", 1.0))).flatten();
    let high = [bound("maximum"), inside("maximum", f32::next_down)].into_iter();
    let high = high.chain(both(beyond("exclusiveMaximum", -1.0))).flatten();
    let (mut low, mut high): (Vec<Value>, Vec<Value>) = (low.collect(), high.collect());
    let listed = property.get("enum").and_then(Value::as_array).cloned().unwrap_or_default();
    low.extend(listed.first().cloned());
    high.extend(listed.last().cloned());
    let plain = match property["type"].as_str() {
        Some("boolean") => {
            low.push(json!(false));
            high.push(json!(true));
            Vec::new()
        }
        _ => [bound("multipleOf")].into_iter().flatten().chain([json!(1), json!(0), json!(100), json!(-1)]).collect(),
    };
    let default: Vec<Value> = bound("default").into_iter().collect();
    let by_rank = match choice {
        Choice::Default => [default, plain, low, high],
        Choice::Lowest => [low, default, plain, high],
        Choice::Highest => [high, default, plain, low],
    };
    let mut candidates = by_rank.concat();
    candidates.reverse();
    candidates
}

fn both(values: Option<[Value; 2]>) -> impl Iterator<Item = Option<Value>> {
    values.into_iter().flatten().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin;
    use crate::runtime::Engine;

    fn rule(manifest: &str, body: &str) -> Rule {
        let quoted: String = manifest.bytes().map(|byte| format!("\\{byte:02x}")).collect();
        let text = format!(
            r#"(module (memory (export "memory") 1) (@custom "tocsin.manifest" "{quoted}")
            (func (export "evaluate") (param $tick i32) (param $params i32) (param $state i32) (param $verdict i32)
              (result i32) {body}))"#
        );
        Engine::new().unwrap().load(&wat::parse_str(text).unwrap()).unwrap()
    }

    const PLAIN: &str = r#"{"abi":1,"name":"test","version":"1.0.0","evidence":["x"]}"#;

    fn faults(body: &str) -> Vec<TrialFault> {
        trial(&rule(PLAIN, body)).unwrap()
    }

    #[test]
    fn the_builtins_pass() {
        let engine = Engine::new().unwrap();
        for module in builtin::ALL {
            assert_eq!(trial(&engine.load(module).unwrap()).unwrap(), []);
        }
    }

    #[test]
    fn the_fault_names_the_golden_tick() {
        let price = "(f64.load (local.get $tick))";
        let cases = [
            // Converting a huge price to an integer traps.
            (format!("(i32.and (i32.trunc_f64_s {price}) (i32.const 0))"), "it trapped", "price 1e308"),
            // Division by the volume as an integer.
            (
                "(i32.and (i32.const 0) (i32.div_s (i32.const 1) (i32.trunc_sat_f64_s (f64.load offset=8 (local.get $tick)))))".into(),
                "it trapped",
                "volume 0.0",
            ),
            // As many iterations as milliseconds.
            (
                "(local $i i64) (local.set $i (i64.load offset=16 (local.get $tick)))
                 (loop $again (local.set $i (i64.sub (local.get $i) (i64.const 1)))
                   (br_if $again (i64.gt_s (local.get $i) (i64.const 0)))) (i32.const 0)".into(),
                "fuel",
                "time_ms 1700000000000",
            ),
            // A code without meaning, for negative prices.
            (format!("(i32.shl (f64.lt {price} (f64.const 0)) (i32.const 4))"), "code 16", "price -37.63"),
            // A write to the tick.
            ("(f64.store (local.get $tick) (f64.const 1)) (i32.const 0)".into(), "outside of its own", "price 100.0"),
            // Answers that alternate: a counter in memory of its own.
            (
                "(i32.store (i32.const 8) (i32.xor (i32.load (i32.const 8)) (i32.const 1))) (i32.load (i32.const 8))"
                    .into(),
                "differed",
                "price 100.0",
            ),
            // Evidence that is not finite on an ordinary tick: 1/price at zero.
            (
                format!("(f64.store (local.get $verdict) (f64.div (f64.const 1) {price})) (i32.const 1)"),
                "evidence number 0",
                "price 0.0",
            ),
        ];
        for (body, fault, at) in cases {
            let found = faults(&body);
            let text = found.iter().map(TrialFault::to_string).collect::<Vec<_>>().join("\n");
            assert!(text.contains(fault) && text.contains(at), "{body}: {text:?} lacks {fault:?} or {at:?}");
            assert!(found[0].violation().to_string().starts_with("[trial_fault] "));
        }
    }

    #[test]
    fn overflow_at_the_ends_of_the_range_is_accepted() {
        let square =
            "(f64.store (local.get $verdict) (f64.mul (f64.load (local.get $tick)) (f64.load (local.get $tick))))
            (i32.const 1)";
        assert_eq!(faults(square), []);
    }

    fn samples(properties: &str, layout: &str) -> Vec<Value> {
        let names: Vec<&str> = layout.split(' ').collect();
        let fields: Vec<Value> = names
            .iter()
            .enumerate()
            .map(|(i, field)| {
                let (name, kind) = field.split_once(':').unwrap();
                json!({"name": name, "type": kind, "offset": i * 8})
            })
            .collect();
        let properties: Value = serde_json::from_str(properties).unwrap();
        let required: Vec<&String> = properties.as_object().unwrap().keys().collect();
        let manifest = json!({"abi": 1, "name": "test", "version": "1.0.0", "params": {
            "schema": {"properties": properties, "required": required}, "layout": fields, "size": fields.len() * 8}});
        let rule = rule(&manifest.to_string(), "(i32.const 0)");
        sample_params(&rule.manifest().params)
            .iter()
            .map(|params| serde_json::from_str(&params.json).unwrap())
            .collect()
    }

    #[test]
    fn params_are_the_defaults_and_the_bounds() {
        assert_eq!(
            samples(r#"{"a":{"type":"number","default":5,"minimum":2,"maximum":9}}"#, "a:f64"),
            [json!({"a": 5}), json!({"a": 2}), json!({"a": 9})]
        );
        assert_eq!(samples(r#"{"a":{"type":"number","exclusiveMinimum":0}}"#, "a:f64"), [json!({"a": 1})]);
        assert_eq!(
            samples(r#"{"a":{"type":"number","exclusiveMinimum":0,"exclusiveMaximum":0.5}}"#, "a:f64"),
            [json!({"a": 0.01}), json!({"a": 0.49})]
        );
        assert_eq!(
            samples(r#"{"a":{"type":"integer","multipleOf":7,"minimum":3,"maximum":20}}"#, "a:i64"),
            [json!({"a": 7})]
        );
        assert_eq!(
            samples(r#"{"a":{"type":"string","enum":["x","y"]},"b":{"type":"boolean"}}"#, "a:enum b:bool"),
            [json!({"a": "x", "b": false}), json!({"a": "y", "b": true})]
        );
    }

    #[test]
    fn bounds_that_are_not_32_bit_floats_are_approached_from_inside() {
        let found = samples(r#"{"a":{"type":"number","minimum":0.7,"maximum":0.8}}"#, "a:f32");
        assert_eq!(found, [json!({"a": 0.700_000_047_683_715_8}), json!({"a": 0.799_999_952_316_284_2})]);
    }

    #[test]
    fn an_unsatisfiable_schema_has_no_samples() {
        assert!(samples(r#"{"a":{"type":"number","multipleOf":10,"minimum":1,"maximum":9}}"#, "a:f64").is_empty());
    }
}
