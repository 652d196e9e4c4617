//! Limits on the strings of a manifest, which are copied into alerts and firings, and displayed.

use serde_json::Value;

use crate::limits::{
    MAX_ENUM_VALUE_BYTES, MAX_NAME_BYTES, MAX_TEXT_BYTES, MAX_TITLE_BYTES, MAX_UNIT_BYTES, MAX_VERSION_BYTES,
};

/// Checks every string of a manifest, at any depth, and every member name.
pub(super) fn check_texts(manifest: &Value, wrong: &mut impl FnMut(String)) {
    walk("manifest", "", manifest, wrong);
}

/// Returns the longest string, in bytes, that a member may have.
fn max_bytes(member: &str) -> usize {
    match member {
        "version" | "migrates" => MAX_VERSION_BYTES,
        "description" | "author" => MAX_TEXT_BYTES,
        "title" | "$schema" => MAX_TITLE_BYTES,
        "x-unit" => MAX_UNIT_BYTES,
        "enum" | "default" => MAX_ENUM_VALUE_BYTES,
        _ => MAX_NAME_BYTES,
    }
}

fn walk(path: &str, member: &str, value: &Value, wrong: &mut impl FnMut(String)) {
    match value {
        Value::String(text) if text.len() > max_bytes(member) => {
            wrong(format!("{path}: {} bytes, more than the {} allowed", text.len(), max_bytes(member)));
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                walk(&format!("{path}[{i}]"), member, item, wrong);
            }
        }
        Value::Object(members) => {
            for (name, value) in members {
                let bytes = name.len();
                let name: String = name.chars().take(MAX_NAME_BYTES).collect();
                if bytes > MAX_NAME_BYTES {
                    wrong(format!(
                        "{path}: the name {name:?}… has {bytes} bytes, more than the {MAX_NAME_BYTES} allowed"
                    ));
                }
                walk(&format!("{path}.{name}"), &name, value, wrong);
            }
        }
        Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Null => {}
    }
}
