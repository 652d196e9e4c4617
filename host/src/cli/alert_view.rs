//! Alerts, firings and faults as text.

use serde_json::{Map, Value};

use super::rule_view::text;
use super::table::{pairs, table};

/// A line for each alert.
pub(super) fn list(alerts: &[Value]) -> String {
    let row = |alert: &Value| {
        let rule = format!("{} {}", text(&alert["rule"]), text(&alert["version"]));
        let symbols: Vec<_> = bindings(alert).map(symbol).collect();
        vec![text(&alert["id"]), text(&alert["user_id"]), rule, members(&alert["params"]), symbols.join(", ")]
    };
    table(&["ID", "USER", "RULE", "PARAMS", "SYMBOLS"], &alerts.iter().map(row).collect::<Vec<_>>())
}

/// All about an alert.
pub(super) fn show(alert: &Value) -> String {
    let lines = pairs(&[
        ("alert", text(&alert["id"])),
        ("user", text(&alert["user_id"])),
        ("rule", format!("{} {} ({})", text(&alert["rule"]), text(&alert["version"]), text(&alert["digest"]))),
        ("params", members(&alert["params"])),
        ("repeat", text(&alert["lifecycle"]["repeat"])),
        ("created", time(&alert["created_at"])),
    ]);
    let row = |binding: &Value| {
        let suppressed = binding["suppressed"].as_u64().unwrap_or(0).to_string();
        vec![text(&binding["symbol"]), text(&binding["status"]), suppressed, text(&binding["reason"])]
    };
    let rows: Vec<_> = bindings(alert).map(row).collect();
    format!("{lines}\n{}", table(&["SYMBOL", "STATUS", "SUPPRESSED", "REASON"], &rows))
}

/// What is to be known of a new alert on symbols that its server does not serve.
pub(super) fn unserved(alert: &Value) -> Option<String> {
    let symbols: Vec<_> = alert["unserved"].as_array()?.iter().map(text).collect();
    let those = symbols.join(", ");
    (!symbols.is_empty()).then(|| format!("note: {those}: none of this server's tickers (TICKERS); is it spelt right?"))
}

/// A line for each firing, oldest first.
pub(super) fn firings(firings: &[Value]) -> String {
    let row = |firing: &Value| {
        let rule = format!("{} {}", text(&firing["rule"]), text(&firing["version"]));
        let cells = [time(&firing["timestamp"]), text(&firing["symbol"]), text(&firing["price"]), rule];
        cells.into_iter().chain([members(&firing["evidence"]), text(&firing["id"])]).collect()
    };
    let rows: Vec<Vec<_>> = firings.iter().map(row).collect();
    table(&["TIME", "SYMBOL", "PRICE", "RULE", "EVIDENCE", "ID"], &rows)
}

/// A line for each fault, oldest first.
pub(super) fn faults(faults: &[Value]) -> String {
    let row = |fault: &Value| {
        let rule = format!("{} {}", text(&fault["rule"]), text(&fault["version"]));
        let quarantined = if fault["quarantined"] == true { " (quarantined)" } else { "" };
        let fault_text = format!("{}{quarantined}", text(&fault["fault"]));
        let cells = [time(&fault["timestamp"]), text(&fault["symbol"]), text(&fault["price"]), rule];
        cells.into_iter().chain([fault_text, text(&fault["id"])]).collect()
    };
    let rows: Vec<Vec<_>> = faults.iter().map(row).collect();
    table(&["TIME", "SYMBOL", "PRICE", "RULE", "FAULT", "ID"], &rows)
}

/// A firing on a line of its own.
pub(super) fn firing(firing: &Value) -> String {
    format!(
        "{}  {} at {}  alert {}  {} {}  {}  {}",
        time(&firing["timestamp"]),
        text(&firing["symbol"]),
        text(&firing["price"]),
        text(&firing["alert_id"]),
        text(&firing["rule"]),
        text(&firing["version"]),
        members(&firing["evidence"]),
        text(&firing["id"]),
    )
}

fn bindings(alert: &Value) -> impl Iterator<Item = &Value> {
    alert["bindings"].as_array().into_iter().flatten()
}

/// A binding's symbol; how it is, unless it is active as most are.
fn symbol(binding: &Value) -> String {
    match text(&binding["status"]).as_str() {
        "active" => text(&binding["symbol"]),
        status => format!("{} ({status})", text(&binding["symbol"])),
    }
}

fn members(object: &Value) -> String {
    let members = object.as_object().into_iter().flat_map(Map::iter);
    members.map(|(name, value)| format!("{name}={}", text(value))).collect::<Vec<_>>().join(" ")
}

/// A moment: Unix milliseconds as RFC 3339, in UTC; a text as it is.
fn time(value: &Value) -> String {
    let moment = value.as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    moment.map_or_else(|| text(value), |moment| moment.to_string())
}
