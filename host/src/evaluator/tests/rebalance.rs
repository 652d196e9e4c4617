//! Several evaluators over one topic and one database: partitions go from one to another while ticks flow, and what comes
//! out is what one undisturbed evaluator makes of the same ticks.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tocsin_bus::{forget_all, fresh_topic};

use super::*;

const SYMBOLS: usize = 24;

/// A rig whose rule counts ticks in its state and fires with the count each time.
async fn rig() -> (Rig, i64) {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::on(fresh_topic().await, dir, Backend::Postgres, &[COUNTER]).await;
    let symbols: Vec<String> = (0..SYMBOLS).map(|i| format!("S{i}")).collect();
    let symbols: Vec<&str> = symbols.iter().map(String::as_str).collect();
    let id = rig.create("counter", &symbols).await.unwrap();
    (rig, id)
}

impl Rig {
    async fn start_soon(&self) -> Running {
        self.start_with(Duration::from_millis(50)).await
    }

    /// Publishes one tick of each symbol.
    async fn publish_round(&self) {
        let tick = |i| Tick::new(Symbol::parse(&format!("S{i}")).unwrap(), GOOD, 1.0, NOW_MS, Conditions::default());
        self.bus.publish((0..SYMBOLS).map(|i| tick(i).unwrap()).collect()).await.unwrap();
    }

    /// Publishes so many rounds, and says how many.
    async fn publish_rounds(&self, rounds: usize) -> usize {
        for _ in 0..rounds {
            self.publish_round().await;
        }
        rounds
    }

    /// Waits until all rounds have fired; then each symbol has fired with the counts from 1 on, each once and in order.
    async fn check_rounds(&self, rounds: usize) {
        wait_until(async || self.all_firings().await.len() >= rounds * SYMBOLS).await;
        let firings = self.all_firings().await;
        for i in 0..SYMBOLS {
            let mut of_symbol: Vec<(u64, f64)> = firings
                .iter()
                .filter(|firing| firing.tick.symbol.as_str() == format!("S{i}"))
                .map(|firing| (firing.position.offset, firing.evidence[0].1))
                .collect();
            of_symbol.sort_by_key(|(offset, _)| *offset);
            let counts: Vec<f64> = of_symbol.into_iter().map(|(_, count)| count).collect();
            assert_eq!(counts, (1..=rounds).map(|count| count as f64).collect::<Vec<_>>(), "S{i}");
        }
    }

    async fn all_firings(&self) -> Vec<tocsin_engine::domain::Firing> {
        let firings = self.store.firings(&Tenant::standard(), None, 0, 1_000_000).await.unwrap();
        firings.into_iter().map(|(_, firing)| firing).collect()
    }
}

async fn stop_all(running: Vec<Running>) {
    for one in running {
        one.stop().await;
    }
}

impl Running {
    fn partitions(&self) -> usize {
        self.evaluator.stats().partitions().len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_two_and_four_evaluators_divide_the_partitions() {
    let (rig, _) = rig().await;
    let mut running = Vec::new();
    let mut rounds = 0;
    for evaluators in [1, 2, 4] {
        while running.len() < evaluators {
            running.push(rig.start_soon().await);
        }
        wait_until(async || running.iter().all(|one| one.partitions() == 8 / evaluators)).await;
        rounds += rig.publish_rounds(20).await;
        rig.check_rounds(rounds).await;
    }
    stop_all(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evaluators_come_and_go_and_no_tick_is_lost_or_judged_twice() {
    let (rig, _) = rig().await;
    let mut random = StdRng::seed_from_u64(7);
    let mut running = vec![rig.start_soon().await];
    let mut rounds = 0;
    for _ in 0..12 {
        match random.random_range(0..3) {
            0 if running.len() > 1 => {
                let left = running.swap_remove(random.random_range(0..running.len()));
                left.stop().await;
            }
            _ if running.len() < 4 => running.push(rig.start_soon().await),
            _ => {}
        }
        rounds += rig.publish_rounds(random.random_range(1..30)).await;
    }
    rig.check_rounds(rounds).await;
    stop_all(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_fenced_off_writes_nothing_more_and_is_told() {
    let (rig, _) = rig().await;
    let running = rig.start_soon().await;
    rig.publish_round().await;
    rig.check_rounds(1).await;
    // As another evaluator would that the group gave the partition to while this one stood still.
    let taken = 0;
    let before = rig.store.claim(taken).await.unwrap();
    rig.publish_rounds(5).await;
    let others: usize = (0..SYMBOLS).filter(|i| rig.partition_of(*i) != taken).count();
    assert!(others < SYMBOLS, "some symbols are on that partition");
    wait_until(async || rig.all_firings().await.len() >= SYMBOLS + 5 * others).await;
    wait_until(async || running.evaluator.stats().partitions()[&taken].halted.is_some()).await;
    running.stop().await;
    let firings = rig.all_firings().await;
    assert_eq!(firings.len(), SYMBOLS + 5 * others, "nothing is written of the partition that was taken");
    assert_eq!(rig.store.claim(taken).await.unwrap().next_offset, before.next_offset);
    // Whoever has it next judges what is left.
    let next = rig.start_soon().await;
    rig.check_rounds(6).await;
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_is_claimed_by_an_evaluator_that_has_lost_it_is_claimed_again() {
    let (rig, _) = rig().await;
    let running = rig.start_soon().await;
    rig.publish_round().await;
    rig.check_rounds(1).await;
    // As an evaluator would whose claim was late: the group had given the partition back to this one.
    let taken = 0;
    rig.store.claim(taken).await.unwrap();
    rig.publish_round().await;
    wait_until(async || running.evaluator.stats().partitions()[&taken].halted.is_some()).await;
    rig.check_rounds(2).await;
    wait_until(async || running.evaluator.stats().partitions()[&taken].halted.is_none()).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_whose_ticks_were_removed_halts_loudly_and_the_others_go_on() {
    let (rig, _) = rig().await;
    let running = rig.start_soon().await;
    rig.publish_round().await;
    rig.check_rounds(1).await;
    running.stop().await;
    rig.publish_round().await;
    let lost = rig.partition_of(0);
    forget_all(&rig.bus, lost).await;
    rig.publish_round().await;
    let others = (0..SYMBOLS).filter(|i| rig.partition_of(*i) != lost).count();

    let running = rig.start_soon().await;
    wait_until(async || rig.all_firings().await.len() >= SYMBOLS + 2 * others).await;
    let state = running.evaluator.stats().partitions()[&lost].clone();
    assert!(state.halted.is_some_and(|why| why.contains("--skip-lost-ticks")));
    running.stop().await;
    assert_eq!(rig.all_firings().await.len(), SYMBOLS + 2 * others, "nothing was skipped in silence");

    // Told to, it goes on with what is left.
    let running =
        rig.start_as(EvaluatorConfig { skip_lost_ticks: true, ..rig.config(Duration::from_millis(50)) }).await;
    wait_until(async || rig.all_firings().await.len() == 3 * SYMBOLS - (SYMBOLS - others)).await;
    assert_eq!(running.evaluator.stats().partitions()[&lost].halted, None);
    running.stop().await;
}

impl Rig {
    fn partition_of(&self, symbol: usize) -> u32 {
        self.bus.partition_of(&Symbol::parse(&format!("S{symbol}")).unwrap())
    }
}
