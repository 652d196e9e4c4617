//! The rules of simulated alerts, compiled once for all runs.

use std::sync::{Arc, LazyLock};

use tocsin_bus::Bus;
use tocsin_bus::simulated::{SimulatedBus, SimulatedLog};
use tocsin_engine::Engine;
use tocsin_engine::domain::{RuleName, RuleVersion, Tenant};
use tocsin_store::simulated::SimulatedDatabase;

use super::super::tests::{CAPS, COUNTER, NOW_MS};
use crate::control::Control;
use crate::rules::RuleCache;
use crate::rules::compiler::Compiler;

/// What version 2.0.0 adds to the counts that it takes over.
pub(super) const ADDED: f64 = 1_000_000.0;

pub(super) struct Rules {
    pub(super) cache: RuleCache,
    /// As they are stored, with their modules.
    pub(super) versions: Vec<(RuleVersion, Vec<u8>)>,
}

static RULES: LazyLock<Rules> = LazyLock::new(|| std::thread::spawn(make).join().unwrap());

pub(super) fn rules() -> &'static Rules {
    &RULES
}

/// Version 2.0.0 of [`COUNTER`], which adds to the counts that it takes over.
fn newer_counter() -> String {
    let migrate = format!(
        r#"(func (export "migrate") (param i32) (param $old i32) (param i32) (param $state i32) (result i32)
         (f64.store (local.get $state) (f64.add (f64.load (local.get $old)) (f64.const {ADDED:?}))) (i32.const 0)) (@custom"#
    );
    let newer = COUNTER.replace("1.0.0", "2.0.0").replace("(@custom", &migrate);
    newer.replace(r#"\"evidence\":"#, r#"\"migrates\":[\"1.0.0\"],\"evidence\":"#)
}

fn make() -> Rules {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let database = SimulatedDatabase::new(&[]);
    let store = database.direct();
    runtime.block_on(async {
        let cache = RuleCache::new(Engine::new().unwrap(), store.clone(), Compiler::InProcess, None);
        let (bus, _) = SimulatedBus::new(SimulatedLog::new("none", 1), tocsin_bus::simulated::Gates::default().of(0));
        let clock = Arc::new(|| NOW_MS);
        let control = Control::new(store.clone(), Bus::Simulated(bus), cache.clone(), clock, CAPS);
        let mut modules = Vec::new();
        for text in [COUNTER.to_owned(), newer_counter()] {
            let module = wat::parse_str(text).unwrap();
            control.upload_rule(&Tenant::standard(), module.clone()).await.unwrap();
            modules.push(module);
        }
        let name = RuleName::parse("counter").unwrap();
        let versions = store.rule_versions(&Tenant::standard(), &name).await.unwrap();
        Rules { cache, versions: versions.into_iter().zip(modules).collect() }
    })
}
