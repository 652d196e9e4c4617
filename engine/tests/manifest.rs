//! What a manifest may not say: members that are given twice, strings without end, versions that have no order, and bounds
//! that a packed number does not keep.
#![allow(clippy::unwrap_used)] // the helpers belong to the tests

use serde_json::{Value, json};
use tocsin_engine::inspect::inspect;
use tocsin_engine::limits::{
    MAX_ENUM_VALUE_BYTES, MAX_NAME_BYTES, MAX_TEXT_BYTES, MAX_TITLE_BYTES, MAX_UNIT_BYTES, MAX_VERSION_BYTES,
};
use tocsin_engine::params::ParamsSpec;
use tocsin_testdata::modules::{GOOD_EVALUATE, GOOD_MEMORY, with_manifest};

/// What is wrong with a manifest, as the author reads it.
fn violations(manifest: &str) -> Vec<String> {
    let module = with_manifest(manifest, &format!("{GOOD_MEMORY} {GOOD_EVALUATE}"));
    let rejection = inspect(&module).map(|_| ()).err();
    rejection.map_or(Vec::new(), |rejection| rejection.violations.into_iter().map(|v| v.message).collect())
}

/// Asserts that a manifest is refused for one reason only.
#[track_caller]
fn check_refused(manifest: &str, expect: &str) {
    let found = violations(manifest);
    assert_eq!(found.len(), 1, "{manifest}: {found:#?}");
    assert!(found[0].starts_with(expect), "{manifest}: {found:#?}");
}

/// A manifest with one param `p`.
fn with_param(property: &Value, kind: &str) -> Value {
    json!({
        "abi": 1, "name": "test", "version": "1.0.0",
        "params": {
            "schema": {"properties": {"p": property}, "required": ["p"]},
            "layout": [{"name": "p", "type": kind, "offset": 0}],
            "size": 8,
        },
    })
}

#[test]
fn a_member_that_is_given_twice_is_refused_wherever_it_is() {
    for (manifest, path) in [
        (r#"{"abi":1,"name":"a","name":"a","version":"1.0.0"}"#, "manifest.name"),
        (r#"{"abi":1,"name":"a","version":"1.0.0","\u0061bi":1}"#, "manifest.abi"),
        (r#"{"abi":1,"name":"a","version":"1.0.0","state":{"size":8,"size":16}}"#, "manifest.state.size"),
        (
            r#"{"abi":1,"name":"a","version":"1.0.0","params":{"size":8,"layout":[{"name":"p","type":"f64","offset":0}],
                "schema":{"required":["p"],"properties":{"p":{"type":"number","minimum":1,"minimum":5}}}}}"#,
            "manifest.params.schema.properties.p.minimum",
        ),
        (
            r#"{"abi":1,"name":"a","version":"1.0.0","params":{"size":8,"layout":[{"name":"p","type":"f64","offset":0}],
                "schema":{"required":["p"],"properties":{"p":{"type":"number","default":2},"p":{"type":"number"}}}}}"#,
            "manifest.params.schema.properties.p",
        ),
        (
            r#"{"abi":1,"name":"a","version":"1.0.0","params":{"size":16,"schema":{"required":["p"],"properties":{"p":{
                "type":"number"}}},"layout":[{"name":"p","type":"f64","offset":0,"offset":8}]}}"#,
            "manifest.params.layout[0].offset",
        ),
    ] {
        check_refused(manifest, &format!("{path}: is given more than once"));
    }
}

#[test]
fn all_members_that_are_given_twice_are_named_beside_what_else_is_wrong() {
    let found = violations(r#"{"abi":2,"abi":2,"name":"a","version":"1.0.0","state":{"size":3,"size":3}}"#);
    for expect in
        ["manifest.abi: is given", "manifest.state.size: is given", "manifest.abi: 2", "manifest.state.size: 3"]
    {
        assert!(found.iter().any(|message| message.starts_with(expect)), "{expect} is not among {found:#?}");
    }
}

#[test]
fn a_choice_that_is_listed_twice_is_refused() {
    for (property, kind, path) in [
        (json!({"type": "string", "enum": ["up", "down", "up"]}), "enum", "enum[2]: \"up\""),
        (json!({"type": "number", "enum": [1, 2, 1]}), "f64", "enum[2]: 1"),
        (json!({"type": "number", "enum": [1, 1.0]}), "f64", "enum[1]: 1.0"),
        (json!({"type": "integer", "enum": [9_007_199_254_740_993_i64, 9_007_199_254_740_993_i64]}), "i64", "enum[1]"),
    ] {
        let path = format!("manifest.params.schema.properties.p.{path}");
        check_refused(&with_param(&property, kind).to_string(), &path);
    }
    let close = json!({"type": "integer", "enum": [9_007_199_254_740_993_i64, 9_007_199_254_740_992_i64]});
    assert_eq!(violations(&with_param(&close, "i64").to_string()), [""; 0], "two integers that differ");
}

/// Puts a text into a manifest.
type Put = fn(&mut Value, String);

#[test]
fn every_string_of_a_manifest_has_a_bound() {
    let long = |bytes: usize| "x".repeat(bytes);
    let cases: [(&str, usize, Put); 17] = [
        ("name", MAX_NAME_BYTES, |m, text| m["name"] = text.into()),
        ("version", MAX_VERSION_BYTES, |m, text| m["version"] = format!("1.0.0-{}", &text[6..]).into()),
        ("description", MAX_TEXT_BYTES, |m, text| m["description"] = text.into()),
        ("author", MAX_TEXT_BYTES, |m, text| m["author"] = text.into()),
        ("evidence[0]", MAX_NAME_BYTES, |m, text| m["evidence"] = json!([text])),
        ("migrates[0]", MAX_VERSION_BYTES, |m, text| m["migrates"] = json!([format!("0.1.0-{}", &text[6..])])),
        ("params.schema.title", MAX_TITLE_BYTES, |m, text| m["params"]["schema"]["title"] = text.into()),
        ("params.schema.description", MAX_TEXT_BYTES, |m, text| m["params"]["schema"]["description"] = text.into()),
        ("params.schema.properties.p.title", MAX_TITLE_BYTES, |m, text| property(m)["title"] = text.into()),
        ("params.schema.properties.p.description", MAX_TEXT_BYTES, |m, text| property(m)["description"] = text.into()),
        ("params.schema.properties.p.x-unit", MAX_UNIT_BYTES, |m, text| property(m)["x-unit"] = text.into()),
        ("params.schema.properties.p.enum[1]", MAX_ENUM_VALUE_BYTES, |m, text| {
            property(m)["enum"] = json!(["up", text])
        }),
        ("params.schema.properties.p.default", MAX_ENUM_VALUE_BYTES, |m, text| {
            property(m)["enum"] = json!(["up", text]);
            property(m)["default"] = text.into();
        }),
        ("params.layout[0].name", MAX_NAME_BYTES, |m, text| rename(m, &text)),
        ("params.schema.required[0]", MAX_NAME_BYTES, |m, text| rename(m, &text)),
        ("params.schema.properties", MAX_NAME_BYTES, |m, text| rename(m, &text)),
        ("params.schema.properties.p.type", MAX_NAME_BYTES, |m, text| property(m)["type"] = text.into()),
    ];
    for (path, max_bytes, put) in cases {
        let manifest = |bytes: usize| {
            let mut manifest = with_param(&json!({"type": "string", "enum": ["up"]}), "enum");
            put(&mut manifest, long(bytes));
            violations(&manifest.to_string())
        };
        let over = manifest(max_bytes + 1);
        let expect = format!("{} bytes, more than the {max_bytes} allowed", max_bytes + 1);
        let is_named = |found: &String| found.starts_with(&format!("manifest.{path}")) && found.contains(&expect);
        assert!(over.iter().any(is_named), "{path}: {over:#?}");
        let at_most = manifest(max_bytes);
        assert!(!at_most.iter().any(|found| found.contains("more than the")), "{path}: {at_most:#?}");
    }
}

fn property(manifest: &mut Value) -> &mut Value {
    &mut manifest["params"]["schema"]["properties"]["p"]
}

fn rename(manifest: &mut Value, name: &str) {
    let property = property(manifest).take();
    manifest["params"]["schema"]["properties"] = json!({ name: property });
    manifest["params"]["schema"]["required"] = json!([name]);
    manifest["params"]["layout"][0]["name"] = name.into();
}

#[test]
fn a_string_that_is_too_long_is_complained_of_once() {
    for (member, value) in [("name", "X".repeat(60_000)), ("version", "1".repeat(60_000))] {
        let mut manifest = json!({"abi": 1, "name": "test", "version": "1.0.0"});
        manifest[member] = value.into();
        check_refused(&manifest.to_string(), &format!("manifest.{member}: 60000 bytes, more than the 64 allowed"));
    }
}

#[test]
fn what_should_be_text_is_text() {
    for keyword in ["title", "description", "x-unit"] {
        let property = json!({"type": "number", keyword: {"text": "x"}});
        let found = violations(&with_param(&property, "f64").to_string());
        let path = format!("manifest.params.schema.properties.p.{keyword}: not a string");
        assert!(found.contains(&path), "{found:#?}");
    }
}

#[test]
fn a_version_with_build_metadata_is_refused() {
    let why = "has build metadata (+";
    for (manifest, path) in [
        (r#"{"abi":1,"name":"a","version":"1.0.0+build.5"}"#, "manifest.version: \"1.0.0+build.5\""),
        (r#"{"abi":1,"name":"a","version":"1.0.0-rc.1+x"}"#, "manifest.version: \"1.0.0-rc.1+x\""),
    ] {
        let found = violations(manifest);
        assert!(found.len() == 1 && found[0].starts_with(path) && found[0].contains(why), "{found:#?}");
    }
    let found = violations(r#"{"abi":1,"name":"a","version":"1.0.0","migrates":["0.9.0+a"]}"#);
    let named = |message: &String| message.starts_with("manifest.migrates[0]: \"0.9.0+a\"") && message.contains(why);
    assert!(found.iter().any(named), "{found:#?}");
}

/// The spec of one param `p`.
#[track_caller]
fn spec(property: &Value, kind: &str) -> ParamsSpec {
    let module = with_manifest(&with_param(property, kind).to_string(), &format!("{GOOD_MEMORY} {GOOD_EVALUATE}"));
    inspect(&module).unwrap().manifest.params
}

/// Packs one param `p`, written as `text`.
fn pack(property: &Value, kind: &str, text: &str) -> Result<Vec<u8>, Vec<String>> {
    let value = serde_json::from_str(&format!("{{\"p\":{text}}}")).unwrap();
    let packed = spec(property, kind).pack(&value).map(|params| params.packed);
    packed.map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

#[test]
fn a_number_that_leaves_its_bounds_when_it_is_packed_is_refused() {
    let number = |keyword: &str, bound: Value| json!({"type": "number", keyword: bound});
    for (property, kind, value, expect) in [
        (number("exclusiveMinimum", json!(0)), "f32", "1e-50", "0.0 is not greater than 0"),
        (number("exclusiveMaximum", json!(1)), "f32", "0.99999999999", "1.0 is not less than 1"),
        (number("maximum", json!(0.1)), "f32", "0.1", "0.10000000149011612 is above the maximum 0.1"),
        (number("minimum", json!(0.7)), "f32", "0.7", "0.699999988079071 is below the minimum 0.7"),
        (number("minimum", json!(16_777_217)), "f32", "16777217", "16777216.0 is below the minimum 16777217"),
        (number("multipleOf", json!(3)), "f32", "50331645", "50331644.0 is not a multiple of 3"),
        (number("title", json!("")), "f32", "1e39", "1e+39 is packed as the 32-bit float inf"),
        (number("title", json!("")), "f32", "-3.5e38", "-3.5e+38 is packed as the 32-bit float -inf"),
        (number("title", json!("")), "f32", "-1e-50", "-1e-50 is packed as the 32-bit float -0"),
        (
            number("exclusiveMinimum", json!(9_007_199_254_740_992_i64)),
            "f64",
            "9007199254740993",
            "9007199254740992.0 is not greater than 9007199254740992",
        ),
    ] {
        let errors = pack(&property, kind, value).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with("params.p: ") && errors[0].contains(expect), "{property} {value}: {errors:?}");
    }
}

#[test]
fn a_number_that_stays_within_its_bounds_is_packed() {
    let bounded = json!({"type": "number", "minimum": 0.3, "maximum": 16_777_217});
    for (value, expect) in [("0.3", 0.3_f32), ("0.30000001", 0.3), ("16777217", 16_777_216.0), ("2", 2.0)] {
        assert_eq!(pack(&bounded, "f32", value).unwrap()[..4], expect.to_le_bytes(), "{value}");
    }
    let free = json!({"type": "number"});
    // A zero has no sign, however it is written; a number too small for any other float is one.
    for value in ["0", "-0.0", "1e-50"] {
        assert_eq!(pack(&free, "f32", value).unwrap(), [0; 8], "{value}");
    }
    let steps = json!({"type": "number", "multipleOf": 0.25});
    assert_eq!(pack(&steps, "f32", "0.75").unwrap()[..4], 0.75_f32.to_le_bytes());
    let listed = json!({"type": "number", "enum": [0.5, 2]});
    assert_eq!(pack(&listed, "f32", "2.0").unwrap()[..4], 2_f32.to_le_bytes());
}

#[test]
fn a_manifest_whose_f32_values_cannot_be_packed_is_refused() {
    for (property, path) in [
        (json!({"type": "number", "enum": [0.5, 0.1]}), "enum[1]: 0.1"),
        (json!({"type": "number", "enum": [1e39]}), "enum[0]: 1e+39"),
        (json!({"type": "number", "multipleOf": 0.01}), "multipleOf: 0.01"),
        (json!({"type": "number", "maximum": 0.1, "default": 0.1}), "default: 0.1"),
        (json!({"type": "number", "default": -1e-50}), "default: -1e-50"),
    ] {
        check_refused(
            &with_param(&property, "f32").to_string(),
            &format!("manifest.params.schema.properties.p.{path} is packed as the 32-bit float"),
        );
        let found = violations(&with_param(&property, "f64").to_string());
        assert_eq!(found, [""; 0], "{property} as f64");
    }
}
