//! The params of a rule: the JSON Schema that an alert's values are checked against, and the packed record that the rule
//! reads.
//!
//! A manifest is untrusted, so a schema is limited to keywords that are cheap to check: no references, no regular
//! expressions, no nesting.

mod kind;
mod layout;
mod schema;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use jsonschema::error::ValidationErrorKind;
use serde::Deserialize;
use serde_json::{Map, Value};
use tocsin_rules_sdk::abi;

use crate::domain::Params;
use crate::limits::MAX_PARAMS;
use crate::manifest::check_record_size;

use self::kind::{MAX_FIELD_BYTES, Rounded};
use self::layout::{Field, RawField, check_layout};
use self::schema::check_object_schema;

/// The schema and the layout of a rule's params.
#[derive(Clone, Debug)]
pub struct ParamsSpec {
    schema: Arc<Value>,
    validator: Arc<jsonschema::Validator>,
    layout: Vec<Field>,
    packed_bytes: usize,
}

/// A value that is invalid by a rule's schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamError {
    /// The name of the param, such as `percent`; empty for the params as a whole.
    pub path: String,
    /// What is wrong with the value, and what would be valid.
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

impl ParamsSpec {
    /// Returns the JSON Schema, an object.
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    /// Returns the size of the packed record, in bytes.
    pub fn packed_bytes(&self) -> usize {
        self.packed_bytes
    }

    /// Checks a value against the schema, fills in defaults and packs it.
    ///
    /// # Errors
    /// Everything that is wrong with the value.
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
        let invalid = self.validator.iter_errors(&full).map(|error| from_schema_error(&error));
        let unknown =
            unknown.keys().map(|name| ParamError { path: clip(name), message: "this rule has no such param".into() });
        let mut errors: Vec<ParamError> = invalid.chain(unknown).collect();
        let mut packed = vec![0; self.packed_bytes];
        if errors.is_empty() {
            errors = self.check_rounded(&full);
            for field in &self.layout {
                let place = &mut packed[field.offset..][..field.kind.bytes()];
                if let Err(message) = field.kind.pack(&full[&field.name], place) {
                    errors.push(ParamError { path: field.name.clone(), message });
                }
            }
        }
        if errors.is_empty() { Ok(Params { json: full.to_string(), packed }) } else { Err(errors) }
    }

    /// Checks valid values again as the rule reads them: packing may have rounded them past a bound.
    fn check_rounded(&self, given: &Value) -> Vec<ParamError> {
        let fields = self.layout.iter();
        let rounded = fields.filter_map(|field| Some((&*field.name, field.kind.rounded(given.get(&field.name)?)?)));
        let rounded: HashMap<&str, Rounded> = rounded.collect();
        if rounded.is_empty() {
            return Vec::new();
        }
        let mut packed = given.clone();
        for (name, Rounded { packed: number, .. }) in &rounded {
            packed[name] = (*number).into();
        }
        let name_both = |mut error: ParamError| {
            let Rounded { packed, float } = rounded.get(error.path.as_str())?;
            let value = &given[&error.path];
            error.message = format!("{value} is packed as the {float} {packed}, and {}", error.message);
            Some(error)
        };
        self.validator.iter_errors(&packed).filter_map(|error| name_both(from_schema_error(&error))).collect()
    }

    /// Checks the `params` member of a manifest.
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

    /// Checks the defaults by their own schema: an invalid one would fail every alert that relies on it.
    fn check_defaults(&self, wrong: &mut impl FnMut(String)) {
        for field in &self.layout {
            let Some(default) = &field.default else { continue };
            let alone = serde_json::json!({ &field.name: default });
            let errors = self.validator.iter_errors(&alone).filter(|e| !e.instance_path().as_str().is_empty());
            for error in errors {
                wrong(format!("manifest.params.schema.properties.{}.default: {error}", field.name));
            }
            for ParamError { message, .. } in self.check_rounded(&alone) {
                wrong(format!("manifest.params.schema.properties.{}.default: {message}", field.name));
            }
            // Not packed into a record, since its size or the field's offset may be wrong.
            let mut place = [0; MAX_FIELD_BYTES];
            if let Err(message) = field.kind.pack(default, &mut place[..field.kind.bytes()]) {
                wrong(format!("manifest.params.schema.properties.{}.default: {message}", field.name));
            }
        }
    }
}

/// Converts an error of the validator.
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

/// Shortens untrusted text for a message.
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
    fn params_of_a_rule_without_params_are_reported_by_name() {
        let spec = ParamsSpec::check(RawParams::default(), &mut |text| panic!("{text}")).unwrap();
        let errors = spec.pack(&json!({"x": 1, "y": null})).unwrap_err();
        let messages: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(messages, ["params.x: this rule has no such param", "params.y: this rule has no such param"]);
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
    fn the_error_for_an_integer_that_cannot_be_packed_says_why() {
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
