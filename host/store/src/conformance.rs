//! What every backend of [`Store`] must do, whatever happens.

mod alerts;
mod evaluation;
mod faults;
mod leases;
mod logs;
mod outbox;
mod promotion;
mod rules;
mod symbol_assignments;

use std::slice::from_ref;

use tocsin_engine::domain::{
    Alert, AlertId, BindingId, Digest, Firing, Params, Position, RuleRef, RuleVersion, Symbol, Tenant, UserId, Version,
};

use super::testing::samples::*;
use super::testing::{Backend, TestStore};
use super::{Checkpoint, Claim, Commit, NewAlert, Start, Store, StoredAlert, StoredRule};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_stores_have_the_same_tables_and_columns() {
    let (sqlite, postgres) = (TestStore::make(Backend::Sqlite).await, TestStore::make(Backend::Postgres).await);
    let (sqlite, postgres) = (sqlite.open().await.columns().await, postgres.open().await.columns().await);
    assert!(sqlite.contains(&("rule_versions".to_owned(), "digest".to_owned())), "{sqlite:?}");
    let differing: Vec<_> = sqlite.symmetric_difference(&postgres).collect();
    assert!(differing.is_empty(), "{differing:?}");
}
