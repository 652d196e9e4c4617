//! The rules that are measured, each in all of its forms: native, WebAssembly, Lua and Rhai.

use std::error::Error;
use std::path::{Path, PathBuf};

use ema_cross::EmaCross;
use percent_move::PercentMove;
use serde_json::{Value, json};
use tocsin_engine::cost::Metering;
use tocsin_engine::{Engine, Rule};
use tocsin_rules_sdk::prelude::*;

use crate::Pass;
use crate::native;

/// A rule in all of its forms.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) params: Value,
    pub(crate) plugin: Box<dyn Fn(usize) -> Pass>,
    pub(crate) inlined: Box<dyn Fn(usize) -> Pass>,
    /// `None` if the rule needs the meter.
    pub(crate) certified: Option<Rule>,
    pub(crate) metered: Rule,
    /// Sources that define `new()`, which returns a binding, and `evaluate(binding, price, time_ms)`, which returns whether it
    /// fires.
    pub(crate) lua: String,
    pub(crate) rhai: String,
}

/// `threshold.wat` as native code.
#[derive(Params)]
#[repr(C)]
struct Threshold {
    /// The price to compare with.
    target: f64,
}

/// Fires when the price is at or above the target.
#[rule(evidence("target"))]
fn threshold(tick: &Tick, params: &Threshold, _state: &mut ()) -> Verdict {
    Verdict::fire_if(tick.price >= params.target).evidence([params.target])
}

/// Higher than all prices of the benchmark.
const NEVER: f64 = 1e9;

pub(crate) fn all() -> Result<Vec<Subject>, Box<dyn Error>> {
    let engine = Engine::new()?;
    let threshold_module = wat::parse_str(include_str!("threshold.wat"))?;
    let mut subjects = Vec::new();
    subjects.push(subject::<threshold>(
        &engine,
        "threshold",
        &threshold_module,
        json!({ "target": NEVER }),
        || Threshold { target: NEVER },
        [include_str!("threshold.lua"), include_str!("threshold.rhai")],
    )?);
    subjects.push(subject::<ema_cross::ema_cross>(
        &engine,
        "ema-cross",
        &example("ema-cross")?,
        json!({ "fast": 12, "slow": 26, "direction": "either" }),
        || EmaCross { fast: 12, slow: 26, direction: ema_cross::Direction::Either },
        [include_str!("ema_cross.lua"), include_str!("ema_cross.rhai")],
    )?);
    subjects.push(subject::<percent_move::percent_move>(
        &engine,
        "percent-move",
        &example("percent-move")?,
        json!({ "percent": 1000, "window_ms": 60000, "direction": "either" }),
        || PercentMove { percent: 1000.0, window_ms: 60000, direction: percent_move::Direction::Either },
        [include_str!("percent_move.lua"), include_str!("percent_move.rhai")],
    )?);
    Ok(subjects)
}

fn subject<R: tocsin_rules_sdk::Rule<Params: 'static, State: 'static> + 'static>(
    engine: &Engine,
    name: &'static str,
    module: &[u8],
    params: Value,
    native_params: fn() -> R::Params,
    [lua, rhai]: [&str; 2],
) -> Result<Subject, Box<dyn Error>> {
    let rule = engine.load(module)?;
    let certified = matches!(rule.metering(), Metering::Certified { .. }).then_some(rule);
    Ok(Subject {
        name,
        params,
        plugin: native::plugin::<R>(native_params),
        inlined: native::inlined::<R>(native_params),
        certified,
        metered: engine.load_metered(module)?,
        lua: lua.into(),
        rhai: rhai.into(),
    })
}

/// Reads a module that `cargo xtask rules` has built.
fn example(name: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    let path = target.join("rules").join(name).with_extension("wasm");
    std::fs::read(&path)
        .map_err(|error| format!("{}: {error}: build it with `cargo xtask rules`", path.display()).into())
}
