//! Finds duplicate members of JSON objects, of which parsers silently take the last one.

use std::collections::HashSet;
use std::fmt::{self, Write as _};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::limits::MAX_VIOLATIONS;

/// The longest member name that is shown in full, in characters.
const MAX_NAME_CHARS: usize = 80;

/// Returns the paths of duplicate members, such as `params.schema` or `layout[1].name`: each path once, and at most
/// [`MAX_VIOLATIONS`] of them.
///
/// # Errors
/// Where the text is not a single JSON value.
pub fn repeated_members(json: &[u8]) -> serde_json::Result<Vec<String>> {
    let mut found = Found::default();
    let mut reader = serde_json::Deserializer::from_slice(json);
    Value(&mut found).deserialize(&mut reader)?;
    reader.end()?;
    Ok(found.repeated)
}

/// The current path, and the duplicates found so far.
#[derive(Default)]
struct Found {
    path: String,
    repeated: Vec<String>,
}

impl Found {
    fn note_repeated(&mut self) {
        if self.repeated.len() < MAX_VIOLATIONS && !self.repeated.contains(&self.path) {
            self.repeated.push(self.path.clone());
        }
    }
}

/// Any JSON value, of which only the member names are read.
struct Value<'a>(&'a mut Found);

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let around = self.0.path.len();
        for index in 0.. {
            // Writing to a string cannot fail.
            let _ = write!(self.0.path, "[{index}]");
            let item = items.next_element_seed(Value(self.0))?;
            self.0.path.truncate(around);
            if item.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let around = self.0.path.len();
        let mut names = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            if around > 0 {
                self.0.path.push('.');
            }
            self.0.path.extend(name.chars().take(MAX_NAME_CHARS));
            if !names.insert(name) {
                self.0.note_repeated();
            }
            members.next_value_seed(Value(self.0))?;
            self.0.path.truncate(around);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicate_members_are_found_at_any_depth() {
        for (json, expect) in [
            (r#"{"a":1,"b":{"a":1},"c":[{"a":1},{"a":1}]}"#, &[][..]),
            (r#"{"a":1,"a":1}"#, &["a"]),
            (r#"{"a":1,"\u0061":2}"#, &["a"]),
            (r#"{"a":1,"a":1,"a":1}"#, &["a"]),
            (r#"{"a":{"b":1,"b":2},"c":[0,{"d":null,"d":null}]}"#, &["a.b", "c[1].d"]),
            (r#"{"a":{"b":1},"a":{"b":{"c":"","c":""}}}"#, &["a", "a.b.c"]),
            (r#"[[{"":1,"":1}]]"#, &["[0][0]."]),
            ("7", &[]),
        ] {
            assert_eq!(repeated_members(json.as_bytes()).unwrap(), expect, "{json}");
        }
    }

    #[test]
    fn the_result_is_bounded() {
        let long = "x".repeat(10_000);
        let members: Vec<String> = (0..200).map(|i| format!(r#""{i}{long}":0,"{i}{long}":0"#)).collect();
        let found = repeated_members(format!("{{{}}}", members.join(",")).as_bytes()).unwrap();
        assert_eq!(found.len(), MAX_VIOLATIONS);
        assert!(found.iter().all(|path| path.len() == MAX_NAME_CHARS));
    }

    #[test]
    fn text_that_is_not_one_json_value_fails() {
        for text in ["", "{", r#"{"a":1,"a":1"#, "{} {}", r#"{"a":}"#, &"[".repeat(1000)] {
            assert!(repeated_members(text.as_bytes()).is_err(), "{text}");
        }
    }
}
