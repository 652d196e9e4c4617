//! Symbols on a topic whose producers have partitioners of their own.

use super::*;
use crate::bus::{append, fresh_topic};

async fn rig(member: Member) -> Rig {
    Rig::on(fresh_topic().await, tempfile::tempdir().unwrap(), member, &[COUNTER]).await
}

fn ticks(symbol: &str, count: usize) -> Vec<Tick> {
    let tick = Tick::new(Symbol::parse(symbol).unwrap(), GOOD, 1.0, NOW_MS, Conditions::default()).unwrap();
    vec![tick; count]
}

impl Rig {
    async fn homes(&self) -> Vec<(String, Option<u32>)> {
        let mut homes = self.store.homes().await.unwrap();
        homes.sort();
        homes.into_iter().map(|(symbol, home)| (symbol.to_string(), home)).collect()
    }

    /// A partition that ours would not choose.
    fn elsewhere(&self, symbol: &str) -> u32 {
        (self.bus.partition_of(&Symbol::parse(symbol).unwrap()) + 3) % self.bus.partitions()
    }
}

on_each_member!(
    a_symbol_is_at_home_where_its_first_tick_turns_up,
    alerts_without_a_home_count_from_where_the_partition_ended,
    what_turns_up_beside_the_home_is_told_and_not_judged,
    a_home_is_forgotten_once_nobody_watches_the_symbol,
);

async fn a_home_is_forgotten_once_nobody_watches_the_symbol(member: Member) {
    let rig = rig(member).await;
    let running = rig.start().await;
    let old = rig.create("counter", &["X"]).await.unwrap();
    append(&rig.bus, rig.elsewhere("X"), &ticks("X", 2)).await;
    rig.until_counts(old, &[1.0, 2.0]).await;
    rig.control.delete_alert(&Tenant::standard(), old).await.unwrap();
    let new = rig.create("counter", &["X"]).await.unwrap();
    let moved = rig.elsewhere("X") ^ 1;
    append(&rig.bus, moved, &ticks("X", 3)).await;
    rig.until_counts(new, &[1.0, 2.0, 3.0]).await;
    assert_eq!(rig.homes().await, [("X".into(), Some(moved))]);
    running.stop().await;
}

async fn a_symbol_is_at_home_where_its_first_tick_turns_up(member: Member) {
    let rig = rig(member).await;
    let running = rig.start().await;
    let before = rig.create("counter", &["X", "Y"]).await.unwrap();
    let home = rig.elsewhere("X");
    append(&rig.bus, home, &ticks("X", 3)).await;
    rig.until_counts(before, &[1.0, 2.0, 3.0]).await;
    assert_eq!(rig.homes().await, [("X".into(), Some(home)), ("Y".into(), None)]);
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

async fn alerts_without_a_home_count_from_where_the_partition_ended(member: Member) {
    let rig = rig(member).await;
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

async fn what_turns_up_beside_the_home_is_told_and_not_judged(member: Member) {
    let rig = rig(member).await;
    let running = rig.start().await;
    let id = rig.create("counter", &["X"]).await.unwrap();
    let (home, other) = (rig.elsewhere("X"), rig.elsewhere("X") ^ 1);
    append(&rig.bus, home, &ticks("X", 1)).await;
    rig.until_counts(id, &[1.0]).await;
    append(&rig.bus, other, &ticks("X", 5)).await;
    append(&rig.bus, home, &ticks("X", 1)).await;
    rig.until_counts(id, &[1.0, 2.0]).await;
    let symbol = Symbol::parse("X").unwrap();
    let strays = async || running.evaluator.stats().strays().get(&symbol).cloned();
    wait_until(async || strays().await.is_some_and(|strays| strays.ticks == 5)).await;
    let strays = strays().await.unwrap();
    assert_eq!((strays.home, strays.partition), (home, other));
    running.stop().await;
    assert_eq!(rig.counts(id).await, [1.0, 2.0]);
}
