//! The complete manifests of a rule that uses every feature and of one that uses none.

use serde_json::{Value, json};
use tocsin_rules_sdk::prelude::*;
use tocsin_rules_sdk::testing;

/// One field of each type.
#[derive(Params)]
#[repr(C)]
struct Everything {
    /// Quotes \" and back\\slashes,
    /// on two lines: é.
    ///
    /// A second paragraph, which is left out.
    #[param(min = 0.01, max = 100, default = 5, unit = "%")]
    percent: f64,
    #[param(exclusive_min = -1.5, exclusive_max = 1e21)]
    ratio: f32,
    #[param(min = -9223372036854775808, default = -3)]
    big: i64,
    #[param(max = 7)]
    small: i32,
    count: u32,
    #[param(default = true)]
    strict: bool,
    #[param(default = Side::AtLeast)]
    side: Side,
    r#type: Side,
}

#[derive(Choice, Clone, Copy)]
#[repr(u32)]
#[expect(dead_code, reason = "only alerts choose the other one")]
enum Side {
    Up,
    AtLeast,
}

#[derive(State)]
#[repr(C)]
struct Memory {
    sums: [f64; 3],
    pair: [Pair; 2],
    seen: u32,
    flags: [u8; 4],
}

#[derive(State, Clone, Copy)]
#[repr(C)]
struct Pair {
    low: f32,
    high: f32,
}

mod everything {
    use super::*;

    /// Fires never,
    /// but at length.
    ///
    /// More.
    #[rule(
        evidence("one", "two_2"),
        sleeps,
        name = "every-thing",
        migrates("0.0.1" => from_first, "0.0.3" | "0.1.0-rc.1" => from_first)
    )]
    pub(super) fn everything(_tick: &Tick, _params: &Everything, _memory: &mut Memory) -> Verdict {
        Verdict::hold()
    }

    fn from_first(_old: &f64, _params: &Everything, _memory: &mut Memory) -> bool {
        true
    }
}

mod nothing {
    use super::*;

    #[rule]
    pub(super) fn nothing(_tick: &Tick) -> Verdict {
        Verdict::fire()
    }
}

fn check<R: tocsin_rules_sdk::Rule>(expect: &Value) {
    let text = testing::manifest::<R>();
    assert_eq!(&serde_json::from_str::<Value>(&text).expect("a manifest is JSON"), expect, "{text}");
    assert_eq!(R::MANIFEST.json_bytes(), text.len());
}

#[test]
fn a_manifest_has_everything_from_the_source() {
    let properties = json!({
        "percent": {"type": "number", "description": "Quotes \\\" and back\\\\slashes, on two lines: é.",
                    "minimum": 0.01, "maximum": 100, "default": 5, "x-unit": "%"},
        "ratio": {"type": "number", "exclusiveMinimum": -1.5, "exclusiveMaximum": 1_000_000_000_000_000_000_000.0},
        "big": {"type": "integer", "minimum": i64::MIN, "default": -3},
        "small": {"type": "integer", "minimum": i32::MIN, "maximum": 7},
        "count": {"type": "integer", "minimum": 0, "maximum": u32::MAX},
        "strict": {"type": "boolean", "default": true},
        "side": {"type": "string", "enum": ["up", "at-least"], "default": "at-least"},
        "type": {"type": "string", "enum": ["up", "at-least"]},
    });
    let layout = json!([
        {"name": "percent", "type": "f64", "offset": 0},
        {"name": "ratio", "type": "f32", "offset": 8},
        {"name": "big", "type": "i64", "offset": 16},
        {"name": "small", "type": "i32", "offset": 24},
        {"name": "count", "type": "u32", "offset": 28},
        {"name": "strict", "type": "bool", "offset": 32},
        {"name": "side", "type": "enum", "offset": 36},
        {"name": "type", "type": "enum", "offset": 40},
    ]);
    let required = json!(["ratio", "small", "count", "type"]);
    let schema =
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    check::<everything::everything>(&json!({
        "abi": 1, "name": "every-thing", "version": "0.1.0", "description": "Fires never, but at length.",
        "author": "The Tocsin authors",
        "params": {"schema": schema, "layout": layout, "size": 48},
        "state": {"size": 48}, "evidence": ["one", "two_2"], "sleeps": true,
        "migrates": ["0.0.1", "0.0.3", "0.1.0-rc.1"],
    }));
}

#[test]
fn defaults_come_from_the_package() {
    let schema = json!({"type": "object", "properties": {}, "required": [], "additionalProperties": false});
    check::<nothing::nothing>(&json!({
        "abi": 1, "name": "tocsin-rules-sdk", "version": "0.1.0", "description": env!("CARGO_PKG_DESCRIPTION"),
        "author": "The Tocsin authors",
        "params": {"schema": schema, "layout": [], "size": 0},
        "state": {"size": 0}, "evidence": [], "sleeps": false,
    }));
}
