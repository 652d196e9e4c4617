//! Any bytes: inspection terminates, refuses with a bounded number of reasons, and accepts only valid WebAssembly. Once as
//! they are, and once with a valid manifest, so that the code decides.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tocsin_engine::inspect::inspect;
use tocsin_engine::pack::pack;
use tocsin_engine_fuzz::check_rejection;
use tocsin_engine_fuzz::rate::Rate;
use wasmparser::{Validator, WasmFeatures};

const MANIFEST: &[u8] = br#"{"abi":1,"name":"fuzzed","version":"1.0.0","state":{"size":16},"sleeps":true}"#;

static ACCEPTED: Rate = Rate::of("modules");

fuzz_target!(|module: &[u8]| {
    check(module);
    match pack(module, MANIFEST) {
        Ok(packed) => ACCEPTED.count(check(&packed.module)),
        Err(rejection) => {
            check_rejection(&rejection);
            ACCEPTED.count(false);
        }
    }
});

fn check(module: &[u8]) -> bool {
    match inspect(module) {
        Ok(_) => {
            Validator::new_with_features(WasmFeatures::WASM2).validate_all(module).expect("accepted modules are valid");
            true
        }
        Err(rejection) => {
            check_rejection(&rejection);
            false
        }
    }
}
