//! A rule's params: the JSON Schema that people's values are checked against, and the packed record that the rule
//! reads.
//!
//! A manifest comes from a stranger, so a schema is limited to keywords that cost nothing to check: no references, no
//! regular expressions, no nesting.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jsonschema::error::ValidationErrorKind;
use serde::Deserialize;
use serde_json::{Map, Value};
use tocsin_rules_sdk::abi;

use crate::domain::Params;
use crate::limits::MAX_PARAMS;
use crate::manifest::{check_record_size, is_member_name};

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

/// Whole numbers below it are exact as doubles: 2^53.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// What a rule's params are and how they are packed.
#[derive(Clone, Debug)]
pub struct ParamsSpec {
    schema: Arc<Value>,
    validator: Arc<jsonschema::Validator>,
    layout: Vec<Field>,
    packed_bytes: usize,
}

/// One value that is not what a rule's schema asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamError {
    /// The member, such as `percent`; empty for the params as a whole.
    pub path: String,
    /// What is wrong with its value, and what would be right.
    pub message: String,
}

impl fmt::Display for ParamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "params: {}", self.message)
        } else {
            write!(f, "params.{}: {}", self.path, self.message)
        }
    }
}

#[derive(Clone, Debug)]
struct Field {
    name: String,
    kind: Kind,
    offset: usize,
    default: Option<Value>,
}

/// The most bytes of a packed param.
const MAX_FIELD_BYTES: usize = 8;

/// How a param is packed.
#[derive(Clone, Debug)]
enum Kind {
    F64,
    F32,
    I64,
    I32,
    U32,
    Bool,
    /// The index of the value in this list, as u32.
    Enum(Vec<Value>),
}

/// The wire form in the manifest.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawParams {
    #[serde(default)]
    schema: Option<Map<String, Value>>,
    #[serde(default)]
    layout: Vec<RawField>,
    #[serde(default)]
    size: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawField {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    offset: usize,
}

impl ParamsSpec {
    /// The JSON Schema, an object.
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    /// Bytes of the packed record.
    pub fn packed_bytes(&self) -> usize {
        self.packed_bytes
    }

    /// Checks a value against the schema, fills in defaults and packs it. All errors are returned, by path.
    pub fn pack(&self, value: &Value) -> Result<Params, Vec<ParamError>> {
        let Value::Object(given) = value else {
            return Err(vec![ParamError { path: String::new(), message: format!("{value} is not a JSON object") }]);
        };
        let properties = self.schema["properties"].as_object();
        let (mut full, unknown): (Map<_, _>, Map<_, _>) =
            given.clone().into_iter().partition(|(name, _)| properties.is_some_and(|known| known.contains_key(name)));
        for field in &self.layout {
            if let (false, Some(default)) = (full.contains_key(&field.name), &field.default) {
                full.insert(field.name.clone(), default.clone());
            }
        }
        let full = Value::Object(full);
        let told = self.validator.iter_errors(&full).map(|error| from_schema_error(&error));
        let unknown =
            unknown.keys().map(|name| ParamError { path: clip(name), message: "this rule has no such param".into() });
        let mut errors: Vec<ParamError> = told.chain(unknown).collect();
        let mut packed = vec![0; self.packed_bytes];
        if errors.is_empty() {
            for field in &self.layout {
                let place = &mut packed[field.offset..][..field.kind.bytes()];
                if let Err(message) = field.kind.pack(&full[&field.name], place) {
                    errors.push(ParamError { path: field.name.clone(), message });
                }
            }
        }
        if errors.is_empty() { Ok(Params { json: full.to_string(), packed }) } else { Err(errors) }
    }

    /// Checks a manifest's `params` member.
    pub(crate) fn check(raw: RawParams, wrong: &mut impl FnMut(String)) -> Option<Self> {
        let schema = raw.schema.unwrap_or_default();
        let properties = check_object_schema(&schema, wrong);
        check_record_size("manifest.params.size", raw.size, abi::MAX_PARAMS_BYTES, wrong);
        if raw.layout.len() > MAX_PARAMS {
            wrong(format!("manifest.params.layout: {} fields, more than the {MAX_PARAMS} allowed", raw.layout.len()));
            return None;
        }
        let layout = check_layout(&raw.layout, raw.size, &properties, wrong);
        let mut schema = schema;
        schema.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
        schema.insert("type".into(), "object".into());
        schema.insert("additionalProperties".into(), false.into());
        let schema = Value::Object(schema);
        let validator = jsonschema::draft202012::new(&schema)
            .map_err(|error| wrong(format!("manifest.params.schema: {error} (at {})", error.instance_path())))
            .ok()?;
        let spec = Self { schema: Arc::new(schema), validator: Arc::new(validator), layout, packed_bytes: raw.size };
        spec.check_defaults(wrong);
        Some(spec)
    }

    /// A default that its own schema refuses would make every alert fail that relies on it.
    fn check_defaults(&self, wrong: &mut impl FnMut(String)) {
        for field in &self.layout {
            let Some(default) = &field.default else { continue };
            let alone = serde_json::json!({ &field.name: default });
            let errors = self.validator.iter_errors(&alone).filter(|e| !e.instance_path().as_str().is_empty());
            for error in errors {
                wrong(format!("manifest.params.schema.properties.{}.default: {error}", field.name));
            }
            // Not in a record: its size and the field's offset may be what is wrong with them.
            let mut place = [0; MAX_FIELD_BYTES];
            if let Err(message) = field.kind.pack(default, &mut place[..field.kind.bytes()]) {
                wrong(format!("manifest.params.schema.properties.{}.default: {message}", field.name));
            }
        }
    }
}

/// Checks the outer object of a schema and the keywords of its properties; returns the properties.
fn check_object_schema(schema: &Map<String, Value>, wrong: &mut impl FnMut(String)) -> Map<String, Value> {
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
        if !is_member_name(name) {
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

/// Whether a property's lower bound lies above its upper one.
fn is_empty_range(property: &Map<String, Value>) -> bool {
    let bound = |keyword: &str| property.get(keyword).and_then(Value::as_f64);
    let (low, high) = (bound("minimum"), bound("maximum"));
    let (above, below) = (bound("exclusiveMinimum"), bound("exclusiveMaximum"));
    let crosses = |low: Option<f64>, high: Option<f64>| low.zip(high).is_some_and(|(low, high)| low > high);
    let meets = |low: Option<f64>, high: Option<f64>| low.zip(high).is_some_and(|(low, high)| low >= high);
    crosses(low, high) || meets(low, below) || meets(above, high) || meets(above, below)
}

fn check_layout(
    raw: &[RawField],
    packed_bytes: usize,
    properties: &Map<String, Value>,
    wrong: &mut impl FnMut(String),
) -> Vec<Field> {
    let mut layout: Vec<Field> = Vec::new();
    let mut taken: BTreeMap<usize, (usize, &str)> = BTreeMap::new();
    for (i, field) in raw.iter().enumerate() {
        let path = format!("manifest.params.layout[{i}]");
        let Some(property) = properties.get(&field.name) else {
            wrong(format!("{path}.name: {:?} is not a property of the schema", field.name));
            continue;
        };
        if layout.iter().any(|other| other.name == field.name) {
            wrong(format!("{path}.name: {:?} is laid out twice", field.name));
        }
        let Some((kind, schema_type)) = Kind::named(&field.kind, property) else {
            let known = "one of f64, f32, i64, i32, u32, bool, enum";
            wrong(format!("{path}.type: {:?} is not {known}", field.kind));
            continue;
        };
        if property["type"] != schema_type {
            wrong(format!("{path}.type: a param packed as {} has the schema type {schema_type:?}", field.kind));
        }
        if let Kind::Enum(values) = &kind
            && (values.is_empty() || !values.iter().all(Value::is_string))
        {
            wrong(format!("{path}.type: an enum needs a list of strings as the schema's `enum`"));
        }
        let (bytes, end) = (kind.bytes(), field.offset.saturating_add(kind.bytes()));
        if !field.offset.is_multiple_of(bytes) || end > packed_bytes {
            wrong(format!(
                "{path}.offset: {} does not place {bytes} aligned bytes inside the {packed_bytes} of manifest.params.size",
                field.offset
            ));
        }
        let before = taken.range(..end).next_back();
        if let Some((_, (_, other))) = before.filter(|(_, (other_end, _))| *other_end > field.offset) {
            wrong(format!("{path}.offset: {} overlaps {other:?}", field.offset));
        }
        taken.insert(field.offset, (end, &field.name));
        layout.push(Field {
            name: field.name.clone(),
            kind,
            offset: field.offset,
            default: property.get("default").cloned(),
        });
    }
    for name in properties.keys().filter(|name| !raw.iter().any(|field| field.name == **name)) {
        wrong(format!("manifest.params.layout: the property {name:?} is not laid out"));
    }
    layout
}

impl Kind {
    /// The kind of this name, and the type that its schema must have.
    fn named(text: &str, property: &Value) -> Option<(Self, &'static str)> {
        Some(match text {
            "f64" => (Self::F64, "number"),
            "f32" => (Self::F32, "number"),
            "i64" => (Self::I64, "integer"),
            "i32" => (Self::I32, "integer"),
            "u32" => (Self::U32, "integer"),
            "bool" => (Self::Bool, "boolean"),
            "enum" => (Self::Enum(property["enum"].as_array().cloned().unwrap_or_default()), "string"),
            _ => return None,
        })
    }

    fn bytes(&self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 | Self::U32 | Self::Bool | Self::Enum(_) => 4,
        }
    }

    /// Writes a value, already checked against the schema, to its place of [`Self::bytes`].
    fn pack(&self, value: &Value, place: &mut [u8]) -> Result<(), String> {
        let mut put = |bytes: &[u8]| place.copy_from_slice(bytes);
        match self {
            Self::F64 => put(&finite(value)?.to_le_bytes()),
            Self::F32 => {
                // A tiny number becomes zero here, and a zero has no sign.
                let number = finite(value)? as f32 + 0.0;
                if !number.is_finite() {
                    return Err(format!("{value} does not fit a 32-bit float"));
                }
                put(&number.to_le_bytes());
            }
            Self::I64 => put(&integer::<i64>(value, "a 64-bit integer")?.to_le_bytes()),
            Self::I32 => put(&integer::<i32>(value, "a 32-bit integer")?.to_le_bytes()),
            Self::U32 => put(&integer::<u32>(value, "an unsigned 32-bit integer")?.to_le_bytes()),
            Self::Bool => put(&u32::from(value == true).to_le_bytes()),
            Self::Enum(values) => {
                let index = values.iter().position(|known| known == value).ok_or("not in the list")?;
                put(&(index as u32).to_le_bytes());
            }
        }
        Ok(())
    }
}

fn finite(value: &Value) -> Result<f64, String> {
    // Adding +0.0 takes the sign from a zero, so that equal params have equal bytes.
    value.as_f64().filter(|n| n.is_finite()).map(|n| n + 0.0).ok_or_else(|| format!("{value} is not a finite number"))
}

/// A value that the schema has found to be an integer; JSON Schema counts 3.0 among them. `kind` names `T` for people.
fn integer<T: TryFrom<i64>>(value: &Value, kind: &str) -> Result<T, String> {
    let whole = value.as_i64().map(i128::from).or_else(|| value.as_f64().map(|number| number as i128));
    let fitting = whole.and_then(|whole| i64::try_from(whole).ok()).and_then(|whole| T::try_from(whole).ok());
    let fitting = fitting.ok_or_else(|| format!("{value} does not fit {kind}"))?;
    if value.as_f64().is_some_and(|number| value.is_f64() && number.abs() >= MAX_EXACT) {
        let most = MAX_EXACT as i64;
        return Err(format!(
            "{value}: from {most} on a number with a point or an exponent is not exact: write all its digits"
        ));
    }
    Ok(fitting)
}

/// One of the validator's errors in the words of this API.
fn from_schema_error(error: &jsonschema::ValidationError<'_>) -> ParamError {
    let path = error.instance_path().as_str().trim_start_matches('/').to_owned();
    let one = |path: String, message: String| ParamError { path, message };
    let value = clip(&error.instance().to_string());
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            one(property.as_str().unwrap_or_default().to_owned(), "is required".into())
        }
        ValidationErrorKind::Minimum { limit } => one(path, format!("{value} is below the minimum {limit}")),
        ValidationErrorKind::Maximum { limit } => one(path, format!("{value} is above the maximum {limit}")),
        ValidationErrorKind::ExclusiveMinimum { limit } => one(path, format!("{value} is not greater than {limit}")),
        ValidationErrorKind::ExclusiveMaximum { limit } => one(path, format!("{value} is not less than {limit}")),
        ValidationErrorKind::Enum { options } => one(path, format!("{value} is not one of {options}")),
        _ => one(path, clip(&error.to_string())),
    }
}

/// Shortens a text that a stranger wrote, for a message.
fn clip(text: &str) -> String {
    const MAX_CHARS: usize = 80;
    if text.chars().count() <= MAX_CHARS { text.into() } else { text.chars().take(MAX_CHARS).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Packs one integer param, written as `text`.
    fn pack(kind: &str, text: &str) -> Result<Vec<u8>, String> {
        let raw = json!({
            "schema": { "properties": { "n": { "type": "integer" } }, "required": ["n"] },
            "layout": [{ "name": "n", "type": kind, "offset": 0 }], "size": 8,
        });
        let spec = ParamsSpec::check(serde_json::from_value(raw).unwrap(), &mut |text| panic!("{text}")).unwrap();
        let value = serde_json::from_str(&format!("{{\"n\":{text}}}")).unwrap();
        spec.pack(&value).map(|params| params.packed).map_err(|mut errors| errors.remove(0).message)
    }

    #[test]
    fn params_of_a_rule_that_has_none_are_named() {
        let spec = ParamsSpec::check(RawParams::default(), &mut |text| panic!("{text}")).unwrap();
        let errors = spec.pack(&json!({"x": 1, "y": null})).unwrap_err();
        let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["params.x: this rule has no such param", "params.y: this rule has no such param"]);
    }

    #[test]
    fn an_integer_may_be_written_as_a_float_while_floats_are_exact() {
        for (kind, text, expect) in [
            ("i64", "3.0", 3),
            ("i64", "-0.0", 0),
            ("i64", "9007199254740991.0", 9_007_199_254_740_991),
            ("i64", "-9.007199254740991e15", -9_007_199_254_740_991),
            ("i64", "9223372036854775807", i64::MAX),
            ("i64", "-9223372036854775808", i64::MIN),
            ("i32", "2147483647.0", 2_147_483_647),
            ("u32", "4.294967295e9", 4_294_967_295),
        ] {
            assert_eq!(pack(kind, text).unwrap(), i64::to_le_bytes(expect), "{kind} {text}");
        }
    }

    #[test]
    fn an_integer_that_cannot_be_packed_is_told_why() {
        let inexact = "from 9007199254740992 on a number with a point or an exponent is not exact";
        for (kind, text, expect) in [
            ("i64", "9007199254740992.0", inexact),
            ("i64", "-1e16", inexact),
            ("i64", "9223372036854775808", "9223372036854775808 does not fit a 64-bit integer"),
            ("i64", "1e19", "1e+19 does not fit a 64-bit integer"),
            ("i64", "-1e300", "does not fit a 64-bit integer"),
            ("i32", "1e16", "does not fit a 32-bit integer"),
            ("i32", "2147483648", "2147483648 does not fit a 32-bit integer"),
            ("u32", "-1", "-1 does not fit an unsigned 32-bit integer"),
            ("u32", "1e300", "does not fit an unsigned 32-bit integer"),
            ("i64", "2.5", "2.5 is not of type \"integer\""),
        ] {
            let message = pack(kind, text).unwrap_err();
            assert!(message.contains(expect), "{kind} {text}: {message}");
        }
    }
}
