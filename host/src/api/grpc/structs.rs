//! `google.protobuf.Struct` and JSON, both ways.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value as ProtoValue};
use serde_json::{Map, Number, Value};

use crate::control::FieldViolation;

/// Whole numbers below it are exact as doubles: 2^53.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// The deepest value that is sent as such: clients stop decoding at 100 nested messages, and one level takes three.
const MAX_DEPTH: usize = 16;

/// JSON of a Struct. What JSON cannot hold is a violation of its path, which begins with `path`. How deep values nest
/// is bounded by prost, at 100 messages.
pub(super) fn to_json(path: &str, value: Struct) -> Result<Value, Vec<FieldViolation>> {
    let mut violations = Vec::new();
    let json = object(path, value, &mut violations);
    if violations.is_empty() { Ok(json) } else { Err(violations) }
}

fn object(path: &str, value: Struct, violations: &mut Vec<FieldViolation>) -> Value {
    let members = value.fields.into_iter().map(|(name, value)| {
        let json = json(&format!("{path}.{name}"), value, violations);
        (name, json)
    });
    Value::Object(members.collect::<Map<_, _>>())
}

fn json(path: &str, value: ProtoValue, violations: &mut Vec<FieldViolation>) -> Value {
    match value.kind {
        Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(value),
        Some(Kind::StringValue(value)) => Value::String(value),
        Some(Kind::NumberValue(number)) => json_number(number).unwrap_or_else(|| {
            violations.push(FieldViolation::new(path, format!("{number} is not a finite number")));
            Value::Null
        }),
        Some(Kind::StructValue(value)) => object(path, value, violations),
        Some(Kind::ListValue(list)) => {
            let items = list.values.into_iter().enumerate();
            items.map(|(i, item)| json(&format!("{path}[{i}]"), item, violations)).collect()
        }
        None => {
            violations.push(FieldViolation::new(path, "has no value: give one, or null"));
            Value::Null
        }
    }
}

/// A Struct knows only doubles: whole ones become integers again, so that integer params accept them.
fn json_number(number: f64) -> Option<Value> {
    if number.fract() == 0.0 && number.abs() < MAX_EXACT {
        return Some(Value::from(number as i64));
    }
    Number::from_f64(number).map(Value::Number)
}

/// The Struct of a JSON object; of any other value, an empty one.
pub(super) fn from_json(value: &Value) -> Struct {
    let Value::Object(members) = value else { return Struct::default() };
    nested_object(members, 1)
}

fn nested_object(members: &Map<String, Value>, depth: usize) -> Struct {
    Struct { fields: members.iter().map(|(name, value)| (name.clone(), nested(value, depth + 1))).collect() }
}

fn nested(value: &Value, depth: usize) -> ProtoValue {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        // Every JSON number has a nearest double.
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(value) => Kind::StringValue(value.clone()),
        Value::Array(_) | Value::Object(_) if depth > MAX_DEPTH => Kind::StringValue(value.to_string()),
        Value::Array(items) => {
            Kind::ListValue(ListValue { values: items.iter().map(|item| nested(item, depth + 1)).collect() })
        }
        Value::Object(members) => Kind::StructValue(nested_object(members, depth)),
    };
    ProtoValue { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use serde_json::json;

    use super::*;

    fn number(number: f64) -> ProtoValue {
        ProtoValue { kind: Some(Kind::NumberValue(number)) }
    }

    fn of(fields: impl IntoIterator<Item = (&'static str, ProtoValue)>) -> Struct {
        Struct { fields: fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() }
    }

    #[test]
    fn json_survives_a_struct() {
        let json = json!({
            "null": null, "yes": true, "text": "é", "whole": 300_000, "negative": -7, "fraction": 2.5, "tiny": 5e-324,
            "huge": 1e300, "list": [1, [2.5, {}]], "object": {"a": {"b": []}}, "": "no name",
        });
        assert_eq!(to_json("params", from_json(&json)).unwrap(), json);
        assert_eq!(from_json(&json!([1])), Struct::default());
    }

    #[test]
    fn whole_doubles_become_integers_while_they_are_exact() {
        for (given, expect) in [
            (3.0, json!(3)),
            (-0.0, json!(0)),
            (MAX_EXACT - 1.0, json!(9_007_199_254_740_991_i64)),
            (MAX_EXACT, json!(MAX_EXACT)),
            (-1e18, json!(-1e18)),
            (f64::MAX, json!(f64::MAX)),
        ] {
            assert_eq!(json_number(given), Some(expect));
        }
    }

    #[test]
    fn what_json_cannot_hold_is_named_by_its_path() {
        let list = ListValue { values: vec![number(1.0), number(f64::NEG_INFINITY)] };
        let inner = of([("b", number(f64::NAN)), ("c", ProtoValue { kind: None })]);
        let value = of([
            ("percent", number(f64::INFINITY)),
            ("list", ProtoValue { kind: Some(Kind::ListValue(list)) }),
            ("a", ProtoValue { kind: Some(Kind::StructValue(inner)) }),
            ("good", number(1.0)),
        ]);
        let mut violations = to_json("params", value).unwrap_err();
        violations.sort_by(|a, b| a.field.cmp(&b.field));
        let found: Vec<_> = violations.iter().map(|v| (v.field.as_str(), v.message.as_str())).collect();
        assert_eq!(
            found,
            [
                ("params.a.b", "NaN is not a finite number"),
                ("params.a.c", "has no value: give one, or null"),
                ("params.list[1]", "-inf is not a finite number"),
                ("params.percent", "inf is not a finite number"),
            ]
        );
    }

    #[test]
    fn deep_json_becomes_a_struct_that_clients_can_decode() {
        let deep = (0..100).fold(json!(1), |inner, _| json!({ "a": [inner] }));
        let bytes = from_json(&deep).encode_to_vec();
        assert!(Struct::decode(bytes.as_slice()).is_ok());
    }
}
