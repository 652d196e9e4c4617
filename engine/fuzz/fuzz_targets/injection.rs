//! Generated modules: whatever inspection accepts can be re-encoded and compiled. Wasmtime validates what it compiles, so
//! a re-encoding that is not valid fails here too.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use tocsin_engine::inspect::inspect;
use tocsin_engine_fuzz::rate::Rate;
use tocsin_engine_fuzz::{check_rejection, engine, smith};

static ACCEPTED: Rate = Rate::of("generated modules");

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Ok((module, _)) = smith::module(&mut arbitrary::Unstructured::new(bytes)) else { return Corpus::Reject };
    let inspected = inspect(&module);
    ACCEPTED.count(inspected.is_ok());
    match inspected {
        Ok(_) => _ = engine().load(&module).unwrap_or_else(|error| panic!("accepted, then not loaded: {error}")),
        Err(rejection) => check_rejection(&rejection),
    }
    Corpus::Keep
});
