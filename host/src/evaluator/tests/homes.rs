//! Symbols on a topic whose producers have partitioners of their own.

use tocsin_bus::{append, fresh_topic};
use tocsin_engine::domain::{Params, RuleName, UserId};
use tocsin_store::{NewAlert, Start, StoredAlert};

use super::*;

async fn rig(backend: Backend) -> Rig {
    Rig::on(fresh_topic().await, tempfile::tempdir().unwrap(), backend, &[COUNTER]).await
}

fn ticks(symbol: &str, count: usize) -> Vec<Tick> {
    let tick = Tick::new(Symbol::parse(symbol).unwrap(), GOOD, 1.0, NOW_MS, Conditions::default()).unwrap();
    vec![tick; count]
}

impl Rig {
    async fn symbol_assignments(&self) -> Vec<(String, Option<u32>)> {
        let mut homes = self.store.symbol_assignments().await.unwrap();
        homes.sort();
        homes.into_iter().map(|assignment| (assignment.symbol.to_string(), assignment.partition)).collect()
    }

    /// An alert that was asked for when the partitions ended so.
    pub(super) async fn create_at(&self, symbol: &str, ends: &[u64]) -> i64 {
        let rule = RuleName::parse("counter").unwrap();
        let rule = self.store.rule_versions(&Tenant::standard(), &rule).await.unwrap().remove(0).reference;
        let new = NewAlert {
            tenant: Tenant::standard(),
            user: UserId(1),
            rule,
            params: Params { json: "{}".into(), packed: Vec::new() },
            lifecycle: Lifecycle { repeat: Repeat::Every },
            symbols: vec![(Symbol::parse(symbol).unwrap(), Start::FirstSeen(ends.to_vec()))],
            log: None,
            created_at_ms: NOW_MS,
            idempotency: None,
        };
        match self
            .store
            .create_alert(
                &new,
                BindingCaps { per_tenant: 100, per_rule: 100, bytes_per_tenant: 1 << 30, bytes_per_rule: 1 << 28 },
            )
            .await
            .unwrap()
        {
            StoredAlert::Created(alert) => alert.id.0,
            other => panic!("{other:?}"),
        }
    }

    /// A partition that ours would not choose.
    fn elsewhere(&self, symbol: &str) -> u32 {
        (self.bus.partition_of(&Symbol::parse(symbol).unwrap()) + 3) % self.bus.partitions()
    }
}

on_each_backend!(
    a_symbol_is_at_home_where_its_first_tick_turns_up,
    alerts_without_a_home_count_from_where_the_partition_ended,
    what_turns_up_beside_the_home_is_told_and_not_judged,
    a_home_is_forgotten_once_nobody_watches_the_symbol,
    a_home_is_found_among_ticks_that_were_read_before_the_alert_was_heard_of,
);

async fn a_home_is_found_among_ticks_that_were_read_before_the_alert_was_heard_of(backend: Backend) {
    let rig = rig(backend).await;
    let (home, other) = (rig.elsewhere("X"), rig.elsewhere("X") ^ 1);
    append(&rig.bus, other, &[ticks("X", 1), ticks("Y", 1)].concat()).await;
    let ends = rig.bus.ends().await.unwrap();
    let running = rig.start().await;
    append(&rig.bus, home, &ticks("X", 2)).await;
    wait_until(async || running.stats().ticks == 4).await;
    let heard_late = rig.create_at("X", &ends).await;
    rig.until_counts(heard_late, &[1.0, 2.0]).await;
    append(&rig.bus, home, &ticks("Y", 3)).await;
    wait_until(async || running.stats().ticks == 7).await;
    running.stop().await;
    let heard_at_the_start = rig.create_at("Y", &ends).await;
    let again = rig.start().await;
    rig.until_counts(heard_at_the_start, &[1.0, 2.0, 3.0]).await;
    again.stop().await;
    assert_eq!(rig.symbol_assignments().await, [("X".into(), Some(home)), ("Y".into(), Some(home))]);
}

async fn a_home_is_forgotten_once_nobody_watches_the_symbol(backend: Backend) {
    let rig = rig(backend).await;
    let running = rig.start().await;
    let old = rig.create("counter", &["X"]).await.unwrap();
    append(&rig.bus, rig.elsewhere("X"), &ticks("X", 2)).await;
    rig.until_counts(old, &[1.0, 2.0]).await;
    rig.control.delete_alert(&Tenant::standard(), old).await.unwrap();
    let new = rig.create("counter", &["X"]).await.unwrap();
    let moved = rig.elsewhere("X") ^ 1;
    append(&rig.bus, moved, &ticks("X", 3)).await;
    rig.until_counts(new, &[1.0, 2.0, 3.0]).await;
    assert_eq!(rig.symbol_assignments().await, [("X".into(), Some(moved))]);
    running.stop().await;
}

async fn a_symbol_is_at_home_where_its_first_tick_turns_up(backend: Backend) {
    let rig = rig(backend).await;
    let running = rig.start().await;
    let before = rig.create("counter", &["X", "Y"]).await.unwrap();
    let home = rig.elsewhere("X");
    append(&rig.bus, home, &ticks("X", 3)).await;
    rig.until_counts(before, &[1.0, 2.0, 3.0]).await;
    assert_eq!(rig.symbol_assignments().await, [("X".into(), Some(home)), ("Y".into(), None)]);
    // From now on the home is known at a creation.
    let after = rig.create("counter", &["X"]).await.unwrap();
    append(&rig.bus, home, &ticks("X", 2)).await;
    rig.until_counts(after, &[1.0, 2.0]).await;
    running.stop().await;
    let again = rig.start().await;
    append(&rig.bus, home, &ticks("X", 1)).await;
    rig.until_counts(after, &[1.0, 2.0, 3.0]).await;
    rig.until_counts(before, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).await;
    again.stop().await;
}

async fn alerts_without_a_home_count_from_where_the_partition_ended(backend: Backend) {
    let rig = rig(backend).await;
    let home = rig.elsewhere("X");
    append(&rig.bus, home, &ticks("X", 4)).await;
    let first = rig.create("counter", &["X"]).await.unwrap();
    append(&rig.bus, home, &ticks("X", 2)).await;
    let second = rig.create("counter", &["X"]).await.unwrap();
    append(&rig.bus, home, &ticks("X", 1)).await;
    // The evaluator sees all seven: some were published before each alert was created.
    let running = rig.start().await;
    rig.until_counts(first, &[1.0, 2.0, 3.0]).await;
    rig.until_counts(second, &[1.0]).await;
    running.stop().await;
}

async fn what_turns_up_beside_the_home_is_told_and_not_judged(backend: Backend) {
    let rig = rig(backend).await;
    let running = rig.start().await;
    let id = rig.create("counter", &["X"]).await.unwrap();
    let (home, other) = (rig.elsewhere("X"), rig.elsewhere("X") ^ 1);
    append(&rig.bus, home, &ticks("X", 1)).await;
    rig.until_counts(id, &[1.0]).await;
    append(&rig.bus, other, &ticks("X", 5)).await;
    append(&rig.bus, home, &ticks("X", 1)).await;
    rig.until_counts(id, &[1.0, 2.0]).await;
    let symbol = Symbol::parse("X").unwrap();
    let misrouted = async || running.evaluator.stats().misrouted().get(&symbol).cloned();
    wait_until(async || misrouted().await.is_some_and(|misrouted| misrouted.ticks == 5)).await;
    let misrouted = misrouted().await.unwrap();
    assert_eq!((misrouted.assigned, misrouted.partition), (home, other));
    // Once the symbol is assigned anew, as an operator is advised, that is over.
    rig.control.delete_alert(&Tenant::standard(), id).await.unwrap();
    let again = rig.create("counter", &["X"]).await.unwrap();
    append(&rig.bus, other, &ticks("X", 1)).await;
    rig.until_counts(again, &[1.0]).await;
    assert_eq!(running.evaluator.stats().misrouted().get(&symbol), None);
    running.stop().await;
    assert_eq!(rig.counts(id).await, [1.0, 2.0]);
}
