//! The engine in another program: two alerts on a few ticks. `cargo run -p tocsin-engine --example embed`

#![allow(clippy::unwrap_used)] // a failed test shows where

use std::error::Error;

use tocsin_engine::domain::{AlertId, BindingId, Conditions, Lifecycle, Position, Symbol, Tenant, Tick};
use tocsin_engine::{Arming, Engine, Event, Shard, builtin};

fn main() -> Result<(), Box<dyn Error>> {
    let rule = Engine::new()?.load(builtin::ABOVE)?;
    let symbol = Symbol::parse("AAPL")?;
    let mut shard = Shard::default();
    for (id, target) in [(1, 190.0), (2, 191.5)] {
        let params = rule.manifest().params.pack(&serde_json::json!({ "target": target }));
        shard.arm(Arming {
            binding: BindingId(id),
            alert: AlertId(id),
            tenant: Tenant::standard(),
            symbol: symbol.clone(),
            rule: rule.clone(),
            params: params.map_err(|errors| errors[0].to_string())?.packed,
            lifecycle: Lifecycle::default(),
            saved: None,
        })?;
    }
    for (offset, price) in [189.5, 190.25, 191.0, 192.0, 193.0].into_iter().enumerate() {
        let tick = Tick::new(symbol.clone(), price, 100.0, 1_700_000_000_000, Conditions::default())?;
        let mut events = Vec::new();
        shard.judge(&tick, Position { partition: 0, offset: offset as u64 }, &mut events)?;
        for event in events {
            if let Event::Fired { firing, .. } = event {
                println!("alert {} fired at {}: {:?}", firing.alert.0, firing.tick.price, firing.evidence);
            }
        }
    }
    Ok(())
}
