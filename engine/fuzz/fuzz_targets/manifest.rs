//! Any manifest on a module that is otherwise a rule: it is accepted, or refused as a manifest and as nothing else. The
//! params of an accepted one take any JSON, or say what is wrong with it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tocsin_engine::inspect::inspect;
use tocsin_engine::violation::Code;
use tocsin_engine_fuzz::rate::Rate;
use tocsin_engine_fuzz::{check_rejection, holding_rule};

/// What stands between a manifest and the params that are packed by it.
const PARAMS_MARK: &[u8] = b"\n\n";

static ACCEPTED: Rate = Rate::of("manifests");

fuzz_target!(|bytes: &[u8]| {
    let mark = bytes.windows(PARAMS_MARK.len()).position(|window| window == PARAMS_MARK);
    let (manifest, params) = bytes.split_at(mark.unwrap_or(bytes.len()));
    let inspected = inspect(&holding_rule(manifest));
    ACCEPTED.count(inspected.is_ok());
    match inspected {
        Ok(inspection) => {
            let spec = inspection.manifest.params;
            let params = serde_json::from_slice(params).unwrap_or_else(|_| serde_json::json!({}));
            match spec.pack(&params) {
                Ok(params) => assert_eq!(params.packed.len(), spec.packed_bytes()),
                Err(wrong) => assert!(!wrong.is_empty()),
            }
        }
        Err(rejection) => {
            check_rejection(&rejection);
            assert!(rejection.violations.iter().all(|violation| violation.code == Code::Manifest), "{rejection}");
        }
    }
});
