//! What a coordinator does of messages that are out of date.

use std::sync::Arc;
use std::time::Duration;

use tocsin_bus::{Bus, EmbeddedBus, EmbeddedDb, LogConfig};
use tocsin_engine::{Engine, EvaluationOptions};
use tocsin_store::testing::{Backend, TestStore};
use tokio_util::sync::CancellationToken;

use super::Coordinator;
use crate::evaluator::{EvaluatorConfig, Parts, Stopped, parts};
use crate::rules::RuleCache;
use crate::rules::compiler::Compiler;

/// Returns the parts of an evaluator that does not run, over an empty store and an empty log.
async fn idle_parts(store: &TestStore, db: &EmbeddedDb) -> Parts {
    let bus = Bus::Embedded(EmbeddedBus::open(db, LogConfig::default(), Arc::new(|| 0)).unwrap());
    let store = store.open().await;
    let rules = RuleCache::new(Engine::new().unwrap(), store.clone(), Compiler::InProcess, None);
    let config = EvaluatorConfig {
        group: "evaluators".into(),
        workers: 2,
        checkpoint_interval: Duration::from_secs(600),
        skip_lost_ticks: false,
        outbox: false,
        evaluation: EvaluationOptions::default(),
    };
    parts(store, bus, rules, &config, Arc::new(|| 0), &CancellationToken::new(), 1).await.unwrap()
}

/// Returns the epoch under which a partition is evaluated.
fn epoch(coordinator: &Coordinator, partition: u32) -> Option<u64> {
    coordinator.workers.iter().find_map(|worker| worker.claims.get(&partition).copied())
}

fn fenced(partition: u32, epoch: u64) -> Stopped {
    Stopped { partition, epoch, why: "another evaluator has claimed it".into(), is_fenced: true }
}

#[tokio::test]
async fn a_claim_that_is_lost_after_its_partition_was_given_up_changes_nothing() {
    let (store, dir) = (TestStore::make(Backend::Sqlite).await, tempfile::tempdir().unwrap());
    let Parts { mut coordinator, workers: _workers, .. } =
        idle_parts(&store, &EmbeddedDb::open(dir.path()).unwrap()).await;
    coordinator.begun = None;

    coordinator.take(vec![0]).await.unwrap();
    let first = epoch(&coordinator, 0).unwrap();
    coordinator.leave(&[0], &super::GiveUp::Lost).await;
    coordinator.lose(fenced(0, first)).await;
    assert!(coordinator.fenced.is_empty(), "the group has given it to another one: it is not claimed again");

    coordinator.take(vec![0]).await.unwrap();
    let second = epoch(&coordinator, 0).unwrap();
    coordinator.lose(fenced(0, first)).await;
    assert_eq!(epoch(&coordinator, 0), Some(second), "it goes on under the claim that it has now");

    coordinator.lose(fenced(0, second)).await;
    assert_eq!(epoch(&coordinator, 0), None);
    assert!(coordinator.fenced.contains_key(&0), "the group has left it to this one: it is claimed again");
}
