//! `tocsin rule pack`: what it writes, and what it refuses without writing.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tocsin_engine::builtin;

use crate::cli::failure::Failure;
use crate::cli::rule_check;
use crate::cli::rule_pack::{PackArgs, Packed, pack};

/// A module without a manifest that is a rule otherwise.
const BARE: &str = r#"(module (memory (export "memory") 1)
  (func (export "evaluate") (param i32 i32 i32 i32) (result i32) (i32.const 0)))"#;

const MANIFEST: &str = r#"{ "abi": 1, "name": "holds", "version": "1.0.0" }"#;

/// A folder with `bare.wasm`, `above.wasm` and `manifest.json`.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("bare.wasm"), wat::parse_str(BARE).unwrap()).unwrap();
    fs::write(folder.path().join("above.wasm"), builtin::ABOVE).unwrap();
    fs::write(folder.path().join("manifest.json"), MANIFEST).unwrap();
    folder
}

/// Packs files of a folder.
fn pack_in(folder: &Path, module: &str, manifest: &str, out: Option<&str>, force: bool) -> Result<Packed, Failure> {
    let [module, manifest] = [module, manifest].map(|file| folder.join(file));
    pack(&PackArgs { module, manifest, out: out.map(|file| folder.join(file)), force })
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_packed_module_is_reported_as_a_rule() {
    let folder = folder();
    let packed = pack_in(folder.path(), "bare.wasm", "manifest.json", None, false).unwrap();
    let file = folder.path().join("bare.rule.wasm");
    let report = rule_check::check(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(packed.text(), format!("{} written\n\n{}", file.display(), report.text()));
    let mut json = report.json();
    json["file"] = json!(file.to_str().unwrap());
    json["replaced_manifest"] = json!(false);
    assert_eq!(packed.json(), json);
    assert_eq!(json["manifest"], serde_json::from_str::<Value>(MANIFEST).unwrap());
    // A build that is repeated writes again.
    let again = pack_in(folder.path(), "bare.wasm", "manifest.json", Some("bare.rule.wasm"), false).unwrap();
    assert_eq!(again.json(), json);
}

#[test]
fn what_is_there_is_replaced_only_with_force() {
    let folder = folder();
    let folder = folder.path();
    let before = files(folder);
    let refused = |module, out| pack_in(folder, module, "manifest.json", out, false).unwrap_err().text();
    assert!(refused("above.wasm", None).ends_with("above.wasm has a manifest already: add --force to replace it"));
    for itself in ["bare.wasm", "./bare.wasm"] {
        let text = refused("bare.wasm", Some(itself));
        assert!(text.contains("--out names the module itself, ") && text.ends_with("add --force"), "{text}");
    }
    assert_eq!(files(folder), before);

    let packed = pack_in(folder, "above.wasm", "manifest.json", Some("above.wasm"), true);
    // The manifest has no params, so `above` reads what is not there, but it is a rule.
    assert_eq!(packed.unwrap().json()["replaced_manifest"], true);
    assert_eq!(rule_check::check(&fs::read(folder.join("above.wasm")).unwrap()).unwrap().json()["name"], "holds");
    assert_eq!(files(folder), before, "nothing is left beside it");
}

#[test]
fn what_would_be_no_rule_is_not_written() {
    let folder = folder();
    let folder = folder.path();
    fs::write(folder.join("text.wasm"), BARE).unwrap();
    fs::write(folder.join("imports.wasm"), wat::parse_str(r#"(module (import "env" "now" (func)))"#).unwrap()).unwrap();
    fs::write(folder.join("bad.json"), r#"{ "abi": 2, "name": "Bad", "version": "1" }"#).unwrap();
    fs::write(folder.join("broken.json"), "{ \"abi\": 1,\n").unwrap();
    fs::write(folder.join("huge.json"), format!("{MANIFEST}{}", " ".repeat(65_536))).unwrap();
    let before = files(folder);
    for (module, manifest, expect) in [
        ("gone.wasm", "manifest.json", &["cannot read ", "gone.wasm: "][..]),
        ("bare.wasm", "gone.json", &["cannot read ", "gone.json: "]),
        ("bare.wasm", "broken.json", &["the manifest ", "broken.json is not JSON: EOF", "line 2"]),
        ("bare.wasm", "huge.json", &["[manifest] the manifest has 65537 bytes"]),
        ("bare.wasm", "bad.json", &["[manifest] manifest.abi", "manifest.name", "manifest.version"]),
        ("text.wasm", "manifest.json", &["[format] this is WebAssembly text"]),
        ("manifest.json", "manifest.json", &["[format] this is not a WebAssembly module"]),
        ("imports.wasm", "bad.json", &["[import]", "[export]", "[manifest] manifest.abi"]),
    ] {
        let text = pack_in(folder, module, manifest, Some("out.wasm"), true).unwrap_err().text();
        assert!(expect.iter().all(|part| text.contains(part)), "{module}, {manifest}: {text}");
    }
    let nowhere = pack_in(folder, "bare.wasm", "manifest.json", Some("no/such/out.wasm"), false).unwrap_err().text();
    assert!(nowhere.contains("cannot write ") && nowhere.contains("out.wasm: "), "{nowhere}");
    assert_eq!(files(folder), before);
}
