//! Any manifest on a module that is otherwise a rule: it is accepted, or refused as a manifest and as nothing else. The
//! params of an accepted one take any JSON, or say what is wrong with it.
//!
//! An input that begins like a JSON object is a manifest; from any other one is made by a grammar.

#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::{Value, json};
use tocsin_engine::inspect::inspect;
use tocsin_engine::violation::Code;
use tocsin_engine_fuzz::rate::Rate;
use tocsin_engine_fuzz::{check_rejection, document, holding_rule};

/// What stands between a manifest and the params that are packed by it.
const PARAMS_MARK: &[u8] = b"\n\n";

static WRITTEN: Rate = Rate::of("written manifests");
static BY_GRAMMAR: Rate = Rate::of("manifests by the grammar");
static PACKED: Rate = Rate::of("params");

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let is_written = bytes.starts_with(b"{");
    let made = if is_written { Ok(written(bytes)) } else { document::manifest(&mut Unstructured::new(bytes)) };
    let Ok((manifest, params)) = made else { return Corpus::Reject };
    let inspected = inspect(&holding_rule(&manifest));
    if is_written { &WRITTEN } else { &BY_GRAMMAR }.count(inspected.is_ok());
    match inspected {
        Ok(inspection) => {
            let spec = inspection.manifest.params;
            let packed = spec.pack(&params);
            PACKED.count(packed.is_ok());
            match packed {
                Ok(params) => assert_eq!(params.packed.len(), spec.packed_bytes()),
                Err(wrong) => assert!(!wrong.is_empty()),
            }
        }
        Err(rejection) => {
            check_rejection(&rejection);
            assert!(rejection.violations.iter().all(|violation| violation.code == Code::Manifest), "{rejection}");
        }
    }
    Corpus::Keep
});

fn written(bytes: &[u8]) -> (Vec<u8>, Value) {
    let mark = bytes.windows(PARAMS_MARK.len()).position(|window| window == PARAMS_MARK);
    let (manifest, params) = bytes.split_at(mark.unwrap_or(bytes.len()));
    (manifest.to_vec(), serde_json::from_slice(params).unwrap_or_else(|_| json!({})))
}
