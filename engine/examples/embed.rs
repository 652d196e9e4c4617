//! Embeds the engine in another program: two alerts on a few ticks. `cargo run -p tocsin-engine --example embed`

use tocsin_engine::domain::{AlertId, BindingId, Conditions, Lifecycle, Position, Symbol, Tenant, Tick};
use tocsin_engine::{Arming, Engine, Shard, builtin};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (symbol, mut shard) = (Symbol::parse("AAPL")?, Shard::default());
    let rule = Engine::new()?.load(builtin::ABOVE)?;
    for (id, target) in [(1, 190.0_f64), (2, 191.5)] {
        shard.arm(Arming {
            binding: BindingId(id),
            alert: AlertId(id),
            tenant: Tenant::standard(),
            symbol: symbol.clone(),
            rule: rule.clone(),
            params: target.to_le_bytes().to_vec(),
            lifecycle: Lifecycle::default(),
            saved: None,
        })?;
    }
    let mut events = Vec::new();
    for (offset, price) in [189.5, 190.25, 191.0, 192.0, 193.0].into_iter().enumerate() {
        let tick = Tick::new(symbol.clone(), price, 100.0, 1_700_000_000_000, Conditions::default())?;
        shard.evaluate(&tick, Position { partition: 0, offset: offset as u64 }, &mut events)?;
    }
    events.iter().for_each(|event| println!("{event:?}"));
    Ok(())
}
