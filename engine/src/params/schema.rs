//! A params schema: the outer object and its properties. The rest of it is the validator's.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::limits::MAX_NAME_BYTES;
use crate::manifest::is_member_name;

/// Schema keywords that a param may use.
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

/// Checks the outer object of a schema and the keywords of its properties; returns the properties.
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
        // Of a name that is too long all is said.
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

/// Refuses a list of values that has one twice: an alert's choice has one place in the list.
fn check_choices(name: &str, property: &Map<String, Value>, wrong: &mut impl FnMut(String)) {
    let mut known = HashSet::new();
    for (i, value) in property.get("enum").and_then(Value::as_array).into_iter().flatten().enumerate() {
        if !known.insert(canonical(value)) {
            wrong(format!("manifest.params.schema.properties.{name}.enum[{i}]: {value} is listed twice"));
        }
    }
}

/// A text that two values share if JSON Schema takes them for equal: 1 and 1.0 are.
fn canonical(value: &Value) -> String {
    let whole = value.as_f64().filter(|number| value.is_f64() && number.fract() == 0.0);
    whole.map_or_else(|| value.to_string(), |number| format!("{}", number + 0.0))
}

/// Whether a property's lower bound lies above its upper one.
fn is_empty_range(property: &Map<String, Value>) -> bool {
    let bound = |keyword: &str| property.get(keyword).and_then(Value::as_f64);
    let (low, high) = (bound("minimum"), bound("maximum"));
    let (above, below) = (bound("exclusiveMinimum"), bound("exclusiveMaximum"));
    let crosses = |low: Option<f64>, high: Option<f64>| low.zip(high).is_some_and(|(low, high)| low > high);
    let meets = |low: Option<f64>, high: Option<f64>| low.zip(high).is_some_and(|(low, high)| low >= high);
    crosses(low, high) || meets(low, below) || meets(above, high) || meets(above, below)
}
