//! The layout of params in the packed record.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::kind::Kind;

#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) offset: usize,
    /// The value for alerts that leave the param out.
    pub(super) default: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawField {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    offset: usize,
}

/// Checks `params.layout` of a manifest. Returns the fields that can be read.
pub(super) fn check_layout(
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
        check_numbers(&kind, &field.name, property, wrong);
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

/// Checks the numbers that a value must equal or be a multiple of: if packing changes them, no value is valid.
fn check_numbers(kind: &Kind, name: &str, property: &Value, wrong: &mut impl FnMut(String)) {
    let listed = property["enum"].as_array().into_iter().flatten().enumerate();
    let listed = listed.map(|(i, value)| (format!("enum[{i}]"), value));
    let step = property.get("multipleOf").map(|value| ("multipleOf".to_owned(), value));
    for (keyword, value) in listed.chain(step).filter(|(_, value)| value.is_number()) {
        if let Err(message) = kind.check_exact(value) {
            wrong(format!("manifest.params.schema.properties.{name}.{keyword}: {message}"));
        }
    }
}
