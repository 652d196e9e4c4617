//! Manifests by a grammar, and params for them. They are nearly valid: a refused one has a single error, and any member may
//! be replaced by something else.

use arbitrary::{Result, Unstructured};
use serde_json::{Map, Value, json};

/// The types of a layout, each with its size in bytes and the type of the schema.
const KINDS: [(&str, u64, &str); 7] = [
    ("f64", 8, "number"),
    ("f32", 4, "number"),
    ("i64", 8, "integer"),
    ("i32", 4, "integer"),
    ("u32", 4, "integer"),
    ("bool", 4, "boolean"),
    ("enum", 4, "string"),
];

/// The keywords that bound a number.
const BOUNDS: [&str; 5] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];

/// One member in this many is replaced.
const ODD: u32 = 60;

/// Returns a manifest, and params of an alert.
pub fn manifest(u: &mut Unstructured<'_>) -> Result<(Vec<u8>, Value)> {
    let (mut properties, mut layout, mut required) = (Map::new(), Vec::new(), Vec::new());
    let (mut params, mut end) = (Map::new(), 0);
    for i in 0..u.int_in_range(0..=5)? {
        let (kind, bytes, schema_type) = *u.choose(&KINDS)?;
        let name = format!("p{i}");
        let property = property(u, schema_type)?;
        let offset = u64::next_multiple_of(end, bytes);
        end = offset + bytes;
        layout.push(
            json!({ "name": odd(u, json!(name))?, "type": odd(u, json!(kind))?, "offset": odd(u, json!(offset))? }),
        );
        if u.ratio(4, 5)? {
            params.insert(name.clone(), value(u, schema_type)?);
        }
        if property.get("default").is_none() {
            required.push(name.clone());
        }
        properties.insert(name, odd(u, property)?);
    }
    let evidence: Vec<String> = (0..u.int_in_range(0..=4)?).map(|i| format!("e{i}")).collect();
    let schema = odd(u, json!({ "type": "object", "properties": properties, "required": required }))?;
    let size = odd(u, json!(end.next_multiple_of(8)))?;
    let state = json!({ "size": u.int_in_range(0..=9)? * 8 });
    let sleeps = json!(u.arbitrary::<bool>()?);
    let mut manifest = json!({
        "abi": odd(u, json!(1))?,
        "name": odd(u, json!("fuzzed"))?,
        "version": odd(u, json!("1.0.0"))?,
        "params": odd(u, json!({ "schema": schema, "layout": layout, "size": size }))?,
        "state": odd(u, state)?,
        "evidence": odd(u, json!(evidence))?,
        "sleeps": odd(u, sleeps)?,
    });
    if u.ratio(1, ODD)? {
        manifest["other"] = anything(u)?;
    }
    Ok((manifest.to_string().into_bytes(), odd(u, Value::Object(params))?))
}

fn property(u: &mut Unstructured<'_>, schema_type: &str) -> Result<Value> {
    let mut property = json!({ "type": odd(u, json!(schema_type))? });
    if schema_type == "string" {
        property["enum"] = json!(["up", "down", u.arbitrary::<char>()?]);
    }
    if u.ratio(1, 3)? {
        property[*u.choose(&BOUNDS)?] = anything_numeric(u)?;
    }
    if u.ratio(1, 3)? {
        property["default"] = value(u, schema_type)?;
    }
    if u.ratio(1, 8)? {
        property["description"] = json!(u.arbitrary::<&str>()?);
    }
    Ok(property)
}

/// Returns a value, usually of the given type.
fn value(u: &mut Unstructured<'_>, schema_type: &str) -> Result<Value> {
    let value = match schema_type {
        "number" => anything_numeric(u)?,
        "integer" => {
            let bits = u.int_in_range(0..=63)?;
            json!(u.arbitrary::<i64>()? >> bits)
        }
        "boolean" => json!(u.arbitrary::<bool>()?),
        _ => json!(u.choose(&["up", "down", "left"])?),
    };
    odd(u, value)
}

fn anything_numeric(u: &mut Unstructured<'_>) -> Result<Value> {
    let is_small = u.arbitrary()?;
    Ok(if is_small { json!(u.arbitrary::<i8>()?) } else { json!(u.arbitrary::<f64>()?) })
}

/// Returns the value, or sometimes another.
fn odd(u: &mut Unstructured<'_>, value: Value) -> Result<Value> {
    if u.ratio(1, ODD)? { anything(u) } else { Ok(value) }
}

fn anything(u: &mut Unstructured<'_>) -> Result<Value> {
    Ok(match u.int_in_range(0..=6)? {
        0 => Value::Null,
        1 => json!(u.arbitrary::<bool>()?),
        2 => json!(u.arbitrary::<u64>()?),
        3 => anything_numeric(u)?,
        4 => json!(u.arbitrary::<&str>()?),
        5 => json!([anything_numeric(u)?]),
        _ => json!({ "type": u.arbitrary::<&str>()? }),
    })
}
