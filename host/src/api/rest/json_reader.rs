//! Reads a JSON object by the names and types of its members. It gathers all that is wrong, so that a client learns of it at
//! once; null counts as absent.

use serde_json::{Map, Value};

use super::problem::Problem;
use crate::control::{ControlError, FieldViolation};

/// How much of a wrong value a message quotes, in characters.
const MAX_QUOTED_CHARS: usize = 40;

/// The members of an object that have not been read yet, and what was wrong with those that have.
pub(super) struct JsonReader {
    /// What stands before the names of members in violations: empty, or the object's own path and a dot.
    path: String,
    unread: Map<String, Value>,
    violations: Vec<FieldViolation>,
}

impl JsonReader {
    pub(super) fn new(object: Map<String, Value>) -> Self {
        Self { path: String::new(), unread: object, violations: Vec::new() }
    }

    /// Adds a violation for each of these members that is missing.
    pub(super) fn require(&mut self, names: &[&str]) {
        for name in names {
            if self.unread.get(*name).is_none_or(Value::is_null) {
                self.refuse(name, "is missing");
            }
        }
    }

    /// Reads a member of any type.
    pub(super) fn value(&mut self, name: &str) -> Option<Value> {
        self.unread.remove(name).filter(|value| !value.is_null())
    }

    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        match self.value(name)? {
            Value::String(text) => Some(text),
            other => self.refuse_type(name, &other, "a text"),
        }
    }

    /// Reads a list of texts; None if one of its items is something else.
    pub(super) fn texts(&mut self, name: &str) -> Option<Vec<String>> {
        let items = match self.value(name)? {
            Value::Array(items) => items,
            other => return self.refuse_type(name, &other, "a list of texts"),
        };
        let mut texts = Vec::with_capacity(items.len());
        let mut wrong = false;
        for (i, item) in items.into_iter().enumerate() {
            match item {
                Value::String(text) => texts.push(text),
                other => {
                    wrong = true;
                    self.refuse_type::<()>(&format!("{name}[{i}]"), &other, "a text");
                }
            }
        }
        (!wrong).then_some(texts)
    }

    pub(super) fn whole_number(&mut self, name: &str) -> Option<i64> {
        let value = self.value(name)?;
        let number = value.as_i64();
        number.or_else(|| match value.as_f64().is_some_and(|number| number.abs() >= i64::MAX as f64) {
            true => self.refuse_type(name, &value, "a whole number that fits into 64 bits"),
            false => self.refuse_type(name, &value, "a whole number"),
        })
    }

    pub(super) fn number(&mut self, name: &str) -> Option<f64> {
        let value = self.value(name)?;
        value.as_f64().or_else(|| self.refuse_type(name, &value, "a number"))
    }

    /// Reads true or false; false if absent. Null is neither.
    pub(super) fn flag(&mut self, name: &str) -> bool {
        match self.unread.remove(name) {
            None => false,
            Some(Value::Bool(flag)) => flag,
            Some(other) => self.refuse_type(name, &other, "true or false").unwrap_or_default(),
        }
    }

    /// Reads one of some texts; returns what it stands for.
    pub(super) fn one_of<T: Copy>(&mut self, name: &str, texts: &[(&str, T)]) -> Option<T> {
        let value = self.value(name)?;
        let known = texts.iter().find(|(text, _)| value == *text);
        known.map(|(_, meaning)| *meaning).or_else(|| {
            let texts: Vec<_> = texts.iter().map(|(text, _)| format!("{text:?}")).collect();
            self.refuse_type(name, &value, &texts.join(" or "))
        })
    }

    /// Reads an object by `read`; the members that it leaves are unknown.
    pub(super) fn object<T>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> T) -> Option<T> {
        let unread = match self.value(name)? {
            Value::Object(object) => object,
            other => return self.refuse_type(name, &other, "a JSON object"),
        };
        let mut inner = Self { path: format!("{}{name}.", self.path), unread, violations: Vec::new() };
        let object = read(&mut inner);
        inner.refuse_unknown();
        self.violations.append(&mut inner.violations);
        Some(object)
    }

    /// Adds a violation for each member that has not been read: such a member is unknown.
    pub(super) fn refuse_unknown(&mut self) {
        for (name, _) in std::mem::take(&mut self.unread) {
            self.refuse(&name, "is not a member of this object");
        }
    }

    /// Ends the reading of an object of which nothing else is checked: whatever is left is unknown.
    pub(super) fn finish(mut self) -> Result<(), Problem> {
        self.refuse_unknown();
        if self.violations.is_empty() { Ok(()) } else { Err(ControlError::Invalid(self.violations).into()) }
    }

    /// Returns all violations.
    pub(super) fn into_violations(self) -> Vec<FieldViolation> {
        self.violations
    }

    fn refuse(&mut self, name: &str, message: impl Into<String>) {
        self.violations.push(FieldViolation::new(format!("{}{name}", self.path), message));
    }

    fn refuse_type<T>(&mut self, name: &str, value: &Value, expected: &str) -> Option<T> {
        self.refuse(name, format!("{} is not {expected}", quoted(value)));
        None
    }
}

/// Returns what a message says of a value: its kind, or its beginning.
fn quoted(value: &Value) -> String {
    let text = match value {
        Value::Array(_) => return "a list".into(),
        Value::Object(_) => return "an object".into(),
        other => other.to_string(),
    };
    match text.char_indices().nth(MAX_QUOTED_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reader(value: Value) -> JsonReader {
        let Value::Object(object) = value else { panic!("{value} is no object") };
        JsonReader::new(object)
    }

    /// Reads the member `x` of an object; the violations must be as expected.
    #[track_caller]
    fn check<T>(value: Value, read: impl FnOnce(&mut JsonReader, &str) -> T, expect: &str) {
        let mut reader = reader(json!({ "x": value }));
        read(&mut reader, "x");
        let violations: Vec<_> =
            reader.into_violations().into_iter().map(|v| format!("{}: {}", v.field, v.message)).collect();
        assert_eq!(violations.join("; "), expect);
    }

    #[test]
    fn a_violation_names_the_value_and_what_was_expected() {
        check(json!(1.0), JsonReader::whole_number, "x: 1.0 is not a whole number");
        check(json!("1"), JsonReader::whole_number, "x: \"1\" is not a whole number");
        check(json!(1e300), JsonReader::whole_number, "x: 1e+300 is not a whole number that fits into 64 bits");
        check(
            json!(u64::MAX),
            JsonReader::whole_number,
            "x: 18446744073709551615 is not a whole number that fits into 64 bits",
        );
        check(json!([1]), JsonReader::number, "x: a list is not a number");
        check(json!(true), JsonReader::text, "x: true is not a text");
        check(json!({}), JsonReader::text, "x: an object is not a text");
        check(json!("once"), JsonReader::texts, "x: \"once\" is not a list of texts");
        check(json!(["a", null, 1]), JsonReader::texts, "x[1]: null is not a text; x[2]: 1 is not a text");
        check(json!(null), JsonReader::flag, "x: null is not true or false");
        let long = "y".repeat(1_000);
        check(json!(long), JsonReader::number, &format!("x: \"{}… is not a number", "y".repeat(MAX_QUOTED_CHARS - 1)));
        let word = |reader: &mut JsonReader, name: &str| reader.one_of(name, &[("once", 1), ("every", 2)]);
        check(json!("never"), word, r#"x: "never" is not "once" or "every""#);
        check(json!(["once"]), word, r#"x: a list is not "once" or "every""#);
        check(json!("once"), word, "");
    }

    #[test]
    fn all_violations_are_gathered_with_their_paths() {
        let mut reader = reader(json!({ "a": 1, "b": null, "o": { "c": "x", "d": 1 }, "e": 1 }));
        reader.require(&["a", "b", "f"]);
        assert_eq!(reader.text("a"), None);
        assert_eq!(reader.object("o", |inner| inner.whole_number("c")), Some(None));
        reader.refuse_unknown();
        let fields: Vec<_> = reader.into_violations().into_iter().map(|violation| violation.field).collect();
        // `b` was not read.
        assert_eq!(fields, ["b", "f", "a", "o.c", "o.d", "b", "e"]);
    }
}
