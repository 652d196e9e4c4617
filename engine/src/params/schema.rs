//! Checks that a schema of params has only the allowed keywords: those of the object, and those of its properties. The
//! validator checks the rest.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::limits::MAX_NAME_BYTES;
use crate::manifest::is_member_name;

/// The schema keywords that a param may have.
const KEYWORDS: [&str; 11] = [
    "type",
    "title",
    "description",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "default",
    "enum",
    "x-unit",
];

/// Checks the object of a schema and the keywords of its properties. Returns the properties.
pub(super) fn check_object_schema(schema: &Map<String, Value>, wrong: &mut impl FnMut(String)) -> Map<String, Value> {
    for (keyword, value) in schema {
        let good = match keyword.as_str() {
            "type" => value == "object",
            "properties" => value.is_object(),
            "required" => value.is_array(),
            "additionalProperties" => value == false,
            "title" | "description" | "$schema" => value.is_string(),
            _ => false,
        };
        if !good {
            wrong(format!(
                "manifest.params.schema.{keyword}: use only type \"object\", properties, required, \
                 additionalProperties false, title and description"
            ));
        }
    }
    let properties = schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    for (name, property) in &properties {
        // A name that is too long is a violation already.
        if name.len() <= MAX_NAME_BYTES && !is_member_name(name) {
            wrong(format!(
                "manifest.params.schema.properties: {name:?} is not a name of letters, digits and underscores"
            ));
        }
        let Some(property) = property.as_object() else {
            wrong(format!("manifest.params.schema.properties.{name}: not an object"));
            continue;
        };
        if is_empty_range(property) {
            wrong(format!(
                "manifest.params.schema.properties.{name}: no value is within its bounds, so no alert could ever be created"
            ));
        }
        for keyword in ["title", "description", "x-unit"] {
            if property.get(keyword).is_some_and(|text| !text.is_string()) {
                wrong(format!("manifest.params.schema.properties.{name}.{keyword}: not a string"));
            }
        }
        check_choices(name, property, wrong);
        for keyword in property.keys().filter(|keyword| !KEYWORDS.contains(&keyword.as_str())) {
            wrong(format!(
                "manifest.params.schema.properties.{name}.{keyword}: not among the keywords of a param: {}",
                KEYWORDS.join(", ")
            ));
        }
    }
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    for name in required.filter(|name| !name.as_str().is_some_and(|name| properties.contains_key(name))) {
        wrong(format!("manifest.params.schema.required: {name} is not a property"));
    }
    let required: Vec<_> = schema.get("required").and_then(Value::as_array).into_iter().flatten().collect();
    for (name, property) in &properties {
        if property.get("default").is_none() && !required.contains(&&Value::from(name.as_str())) {
            wrong(format!("manifest.params.schema.properties.{name}: neither required nor with a default"));
        }
    }
    properties
}

/// Checks that a list of choices has no value twice: a choice is packed as its index.
fn check_choices(name: &str, property: &Map<String, Value>, wrong: &mut impl FnMut(String)) {
    let mut known = HashSet::new();
    for (i, value) in property.get("enum").and_then(Value::as_array).into_iter().flatten().enumerate() {
        if !known.insert(canonical(value)) {
            wrong(format!("manifest.params.schema.properties.{name}.enum[{i}]: {value} is listed twice"));
        }
    }
}

/// Returns a text that is the same for two values that are equal by JSON Schema, such as 1 and 1.0.
fn canonical(value: &Value) -> String {
    let whole = value.as_f64().filter(|number| value.is_f64() && number.fract() == 0.0);
    whole.map_or_else(|| value.to_string(), |number| format!("{}", number + 0.0))
}

/// Returns whether no number is between the bounds of a property.
fn is_empty_range(property: &Map<String, Value>) -> bool {
    let bound = |keyword: &str| property.get(keyword).and_then(Value::as_f64);
    let (low, high) = (bound("minimum"), bound("maximum"));
    let (above, below) = (bound("exclusiveMinimum"), bound("exclusiveMaximum"));
    let crosses = |low: Option<f64>, high: Option<f64>| low.zip(high).is_some_and(|(low, high)| low > high);
    let meets = |low: Option<f64>, high: Option<f64>| low.zip(high).is_some_and(|(low, high)| low >= high);
    crosses(low, high) || meets(low, below) || meets(above, high) || meets(above, below)
}
