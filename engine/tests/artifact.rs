//! Compiling apart from running: an artifact makes the same rule, for its own module and settings only.
#![allow(clippy::unwrap_used)] // the helpers belong to the tests

use tocsin_engine::trial::trial;
use tocsin_engine::{Artifact, Engine, builtin};

const METERED: &str = r#"(module (memory (export "memory") 1)
  (func (export "evaluate") (param i32 i32 i32 i32) (result i32) (local $i i32)
    (loop $again (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 9))))
    (i32.const 0))
  (@custom "tocsin.manifest" "{\"abi\":1,\"name\":\"metered\",\"version\":\"1.0.0\"}"))"#;

#[test]
fn an_artifact_makes_the_rule_that_its_module_makes() {
    let (here, there) = (Engine::new().unwrap(), Engine::new().unwrap());
    let metered = wat::parse_str(METERED).unwrap();
    for module in [builtin::ABOVE, builtin::BELOW, &metered] {
        let artifact = there.compile(&there.prepare(module).unwrap()).unwrap();
        let rule = here.load_compiled(here.prepare(module).unwrap(), &artifact).unwrap();
        let loaded = here.load(module).unwrap();
        assert_eq!((rule.reference(), rule.metering()), (loaded.reference(), loaded.metering()));
        assert_eq!(trial(&rule).unwrap(), []);
    }
}

#[test]
fn a_fingerprint_is_of_one_module() {
    let (here, there) = (Engine::new().unwrap(), Engine::new().unwrap());
    let of = |engine: &Engine, module: &[u8]| engine.fingerprint(&engine.prepare(module).unwrap());
    assert_eq!(of(&here, builtin::ABOVE), of(&there, builtin::ABOVE));
    assert_ne!(of(&here, builtin::ABOVE), of(&here, builtin::BELOW));
}

/// Not a defence, but what is left when an artifact of another version of Wasmtime is mistaken for one of this.
#[test]
fn bytes_that_are_no_artifact_are_refused() {
    let engine = Engine::new().unwrap();
    for bytes in [b"".to_vec(), b"\x7fELF".to_vec(), builtin::ABOVE.to_vec()] {
        #[expect(unsafe_code, reason = "no machine code is in these bytes")]
        // SAFETY: Wasmtime refuses them by their first bytes.
        let artifact = unsafe { Artifact::from_trusted(bytes) };
        assert!(engine.load_compiled(engine.prepare(builtin::ABOVE).unwrap(), &artifact).is_err());
    }
}
