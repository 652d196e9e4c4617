//! Reads the members of a JSON object by their names and types. What is wrong is gathered, so that a client hears of it
//! all at once; null counts as absent.

use serde_json::{Map, Value};

use super::problem::Problem;
use crate::control::{ControlError, FieldViolation};

/// How much of a wrong value is quoted, in characters.
const MAX_QUOTED_CHARS: usize = 40;

/// The members of an object that have not been taken yet, and what was wrong with those that have.
pub(super) struct Members {
    /// What stands before the names of members in violations: empty, or the object's own path and a dot.
    path: String,
    given: Map<String, Value>,
    violations: Vec<FieldViolation>,
}

impl Members {
    pub(super) fn new(given: Map<String, Value>) -> Self {
        Self { path: String::new(), given, violations: Vec::new() }
    }

    /// Takes note of members that must be there and are not.
    pub(super) fn require(&mut self, names: &[&str]) {
        for name in names {
            if self.given.get(*name).is_none_or(Value::is_null) {
                self.refuse(name, "is missing");
            }
        }
    }

    /// A member of any type.
    pub(super) fn value(&mut self, name: &str) -> Option<Value> {
        self.given.remove(name).filter(|value| !value.is_null())
    }

    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        match self.value(name)? {
            Value::String(text) => Some(text),
            other => self.refuse_type(name, &other, "a text"),
        }
    }

    /// A list of texts; None if one of its items is something else.
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

    /// True or false; false if absent. Null is neither.
    pub(super) fn flag(&mut self, name: &str) -> bool {
        match self.given.remove(name) {
            None => false,
            Some(Value::Bool(flag)) => flag,
            Some(other) => self.refuse_type(name, &other, "true or false").unwrap_or_default(),
        }
    }

    /// What one of some words stands for.
    pub(super) fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Option<T> {
        let value = self.value(name)?;
        let known = words.iter().find(|(word, _)| value == *word);
        known.map(|(_, meaning)| *meaning).or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.refuse_type(name, &value, &words.join(" or "))
        })
    }

    /// An object, whose members `read` takes; those that it leaves are unknown.
    pub(super) fn object<T>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> T) -> Option<T> {
        let given = match self.value(name)? {
            Value::Object(given) => given,
            other => return self.refuse_type(name, &other, "a JSON object"),
        };
        let mut inner = Self { path: format!("{}{name}.", self.path), given, violations: Vec::new() };
        let object = read(&mut inner);
        inner.refuse_unknown();
        self.violations.append(&mut inner.violations);
        Some(object)
    }

    /// To be called when all members have been taken, where whatever is left is unknown.
    pub(super) fn refuse_unknown(&mut self) {
        for (name, _) in std::mem::take(&mut self.given) {
            self.refuse(&name, "is not a member of this object");
        }
    }

    /// Ends the reading of an object of which nothing else is checked: whatever is left is unknown.
    pub(super) fn finish(mut self) -> Result<(), Problem> {
        self.refuse_unknown();
        if self.violations.is_empty() { Ok(()) } else { Err(ControlError::Invalid(self.violations).into()) }
    }

    /// All that is wrong.
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

/// A value in a message: what it is, or its beginning.
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

    fn members(value: Value) -> Members {
        let Value::Object(given) = value else { panic!("{value} is no object") };
        Members::new(given)
    }

    /// Takes the member `x` of a value, and tells what was said of it.
    #[track_caller]
    fn check<T>(value: Value, take: impl FnOnce(&mut Members, &str) -> T, expect: &str) {
        let mut members = members(json!({ "x": value }));
        take(&mut members, "x");
        let told: Vec<_> =
            members.into_violations().into_iter().map(|v| format!("{}: {}", v.field, v.message)).collect();
        assert_eq!(told.join("; "), expect);
    }

    #[test]
    fn a_wrong_value_is_told_in_plain_words() {
        check(json!(1.0), Members::whole_number, "x: 1.0 is not a whole number");
        check(json!("1"), Members::whole_number, "x: \"1\" is not a whole number");
        check(json!(1e300), Members::whole_number, "x: 1e+300 is not a whole number that fits into 64 bits");
        check(
            json!(u64::MAX),
            Members::whole_number,
            "x: 18446744073709551615 is not a whole number that fits into 64 bits",
        );
        check(json!([1]), Members::number, "x: a list is not a number");
        check(json!(true), Members::text, "x: true is not a text");
        check(json!({}), Members::text, "x: an object is not a text");
        check(json!("once"), Members::texts, "x: \"once\" is not a list of texts");
        check(json!(["a", null, 1]), Members::texts, "x[1]: null is not a text; x[2]: 1 is not a text");
        check(json!(null), Members::flag, "x: null is not true or false");
        let long = "y".repeat(1_000);
        check(json!(long), Members::number, &format!("x: \"{}… is not a number", "y".repeat(MAX_QUOTED_CHARS - 1)));
        let word = |members: &mut Members, name: &str| members.word(name, &[("once", 1), ("every", 2)]);
        check(json!("never"), word, r#"x: "never" is not "once" or "every""#);
        check(json!(["once"]), word, r#"x: a list is not "once" or "every""#);
        check(json!("once"), word, "");
    }

    #[test]
    fn everything_is_told_at_once_with_its_path() {
        let mut members = members(json!({ "a": 1, "b": null, "o": { "c": "x", "d": 1 }, "e": 1 }));
        members.require(&["a", "b", "f"]);
        assert_eq!(members.text("a"), None);
        assert_eq!(members.object("o", |inner| inner.whole_number("c")), Some(None));
        members.refuse_unknown();
        let fields: Vec<_> = members.into_violations().into_iter().map(|violation| violation.field).collect();
        // `b` was not taken.
        assert_eq!(fields, ["b", "f", "a", "o.c", "o.d", "b", "e"]);
    }
}
