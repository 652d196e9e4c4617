//! Rules as text. What is shown comes from the manifest, which a stranger wrote: members may be missing.

use serde_json::{Map, Value};

use super::table::{pairs, plain, table};

/// What an upload led to.
pub(super) fn uploaded(rule: &Value) -> String {
    let what = if rule["created"] == true { "stored" } else { "was stored before" };
    format!("{} {} {what} ({})", text(&rule["name"]), text(&rule["version"]), text(&rule["digest"]))
}

/// What a promotion has moved.
pub(super) fn promoted(promoted: &Value) -> String {
    let count = |member: &str| promoted[member].as_u64().unwrap_or(0);
    let counted = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (alerts, symbols) = (counted(count("alerts"), "alert"), counted(count("bindings"), "live symbol"));
    format!("{alerts} ({symbols}) moved to {} {}", text(&promoted["name"]), text(&promoted["version"]))
}

/// What is left of a cancelled promotion.
pub(super) fn cancelled(cancelled: &Value) -> String {
    let (name, version) = (text(&cancelled["name"]), text(&cancelled["version"]));
    let given_back = cancelled["given_back"].as_u64().unwrap_or(0);
    format!("the promotion of {name} to {version} is cancelled; {given_back} live symbols are evaluated again")
}

/// A line for each rule.
pub(super) fn list(rules: &[Value]) -> String {
    let row = |rule: &Value| {
        let params = properties(&rule["manifest"]).map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        vec![text(&rule["name"]), text(&rule["version"]), params, text(&rule["manifest"]["description"])]
    };
    table(&["NAME", "VERSION", "PARAMS", "DESCRIPTION"], &rules.iter().map(row).collect::<Vec<_>>())
}

/// All about a rule.
pub(super) fn show(rule: &Value) -> String {
    let manifest = &rule["manifest"];
    let evidence: Vec<_> = manifest["evidence"].as_array().into_iter().flatten().map(text).collect();
    let mut lines = vec![
        ("name", text(&rule["name"])),
        ("version", text(&rule["version"])),
        ("digest", text(&rule["digest"])),
        ("description", text(&manifest["description"])),
        ("author", text(&manifest["author"])),
        ("evidence", evidence.join(", ")),
        ("state", format!("{} bytes an alert and symbol", manifest["state"]["size"].as_u64().unwrap_or(0))),
    ];
    let quarantine = &rule["quarantine"];
    if quarantine.is_object() {
        let quarantined = format!("since {}, for ever: {}", text(&quarantine["at"]), text(&quarantine["reason"]));
        lines.push(("quarantine", quarantined));
    }
    lines.retain(|(_, value)| !value.is_empty());
    let rows: Vec<_> = properties(manifest).map(|(name, schema)| param(name, schema)).collect();
    if rows.is_empty() {
        return format!("{}\nIt has no params.\n", pairs(&lines));
    }
    let heads = ["PARAM", "TYPE", "DEFAULT", "BOUNDS", "UNIT", "DESCRIPTION"];
    format!("{}\n{}", pairs(&lines), table(&heads, &rows))
}

fn param(name: &str, schema: &Value) -> Vec<String> {
    let default = match &schema["default"] {
        Value::Null => "required".into(),
        default => text(default),
    };
    vec![
        name.to_owned(),
        text(&schema["type"]),
        default,
        bounds(schema),
        text(&schema["x-unit"]),
        text(&schema["description"]),
    ]
}

/// The bounds of a param's value, in words.
fn bounds(schema: &Value) -> String {
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(text).collect::<Vec<_>>().join(" | ");
    }
    if let (Value::Number(low), Value::Number(high)) = (&schema["minimum"], &schema["maximum"]) {
        return format!("{low} to {high}");
    }
    let keywords = [
        ("minimum", "at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
        ("multipleOf", "a multiple of"),
    ];
    let bounds = keywords.iter().filter(|(keyword, _)| !schema[keyword].is_null());
    bounds.map(|(keyword, word)| format!("{word} {}", text(&schema[keyword]))).collect::<Vec<_>>().join(", ")
}

fn properties(manifest: &Value) -> impl Iterator<Item = (&String, &Value)> {
    manifest["params"]["schema"]["properties"].as_object().into_iter().flat_map(Map::iter)
}

/// A value as people write it.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => plain(text),
        other => plain(&other.to_string()),
    }
}
