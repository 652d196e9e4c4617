//! Rule versions: immutable, and listed as their names and versions sort.

use super::*;
use crate::testing::on_each_backend;

on_each_backend!(a_version_is_its_bytes, rules_sort_by_their_bytes, an_impure_rule_is_so_for_everybody);

fn version(name: &str, version: Version, bytes: &[u8]) -> RuleVersion {
    let reference = RuleRef { version, digest: Digest::of(bytes), ..rule(name) };
    RuleVersion { reference, manifest: format!("{{\"of\": {bytes:?}}}"), created_at_ms: 9, quarantine: None }
}

async fn a_version_is_its_bytes(backend: Backend) {
    let (_test_store, store, _) = open(backend).await;
    let tenant = Tenant::standard();
    let rule = version("b", Version::new(1, 2, 3), &[0, 1, 255]);
    assert_eq!(store.put_rule(&tenant, &rule, &[0, 1, 255]).await.unwrap(), StoredRule::Created(rule.clone()));
    assert_eq!(store.put_rule(&tenant, &rule, &[0, 1, 255]).await.unwrap(), StoredRule::Existing(rule.clone()));
    let other = version("b", Version::new(1, 2, 3), &[2]);
    assert_eq!(store.put_rule(&tenant, &other, &[2]).await.unwrap(), StoredRule::Conflict(rule.clone()));
    let module = store.module(&tenant, &rule.reference.name, &rule.reference.version).await.unwrap();
    assert_eq!(module.as_deref(), Some(&[0, 1, 255][..]));
    assert_eq!(store.module_by_digest(rule.reference.digest).await.unwrap(), module);
    assert_eq!(store.module_by_digest(other.reference.digest).await.unwrap(), None);
}

async fn rules_sort_by_their_bytes(backend: Backend) {
    let (_test_store, store, _) = open(backend).await;
    let tenant = Tenant::standard();
    // A dictionary passes over hyphens.
    for (name, minor) in [("b1", 9), ("b-2", 1), ("b1", 10), ("b-10", 0), ("b", 0)] {
        let rule = version(name, Version::new(1, minor, 0), format!("{name} {minor}").as_bytes());
        store.put_rule(&tenant, &rule, b"").await.unwrap();
    }
    let list = async |after: &str, limit| -> Vec<String> {
        let rules = store.rules(&tenant, after, limit).await.unwrap();
        rules.iter().map(|rule| format!("{} {}", rule.reference.name, rule.reference.version)).collect()
    };
    assert_eq!(list("", 9).await, ["a 1.0.0", "b 1.0.0", "b-10 1.0.0", "b-2 1.1.0", "b1 1.10.0"]);
    assert_eq!(list("b", 2).await, ["b-10 1.0.0", "b-2 1.1.0"]);
    let versions = store.rule_versions(&tenant, &rule("b1").name).await.unwrap();
    assert_eq!(versions.iter().map(|rule| rule.reference.version.minor).collect::<Vec<_>>(), [9, 10]);

    for (name, number) in [("b1", "2.0.0-beta"), ("c", "1.0.0-alpha"), ("c", "1.0.0-beta")] {
        let rule = version(name, Version::parse(number).unwrap(), format!("{name} {number}").as_bytes());
        store.put_rule(&tenant, &rule, b"").await.unwrap();
    }
    assert_eq!(list("b-2", 9).await, ["b1 1.10.0", "c 1.0.0-beta"], "who wants a pre-release beside releases names it");
}

async fn an_impure_rule_is_so_for_everybody(backend: Backend) {
    let (_test_store, store, claim) = open(backend).await;
    let alert = create(&store, 2).await;
    let before = *store.newest_revision().await.unwrap().borrow();
    let impure_rules = vec![(rule("a"), "differs".into())];
    let recovers = || vec![Checkpoint { recovered: vec![alert.bindings[0].id], ..checkpoint(0, 0) }];
    let commit = Commit { impure_rules, at_ms: 77, checkpoints: recovers(), ..Commit::default() };
    store.commit(from_ref(&claim), &commit).await.unwrap();
    let changed = store.changes(before, 10).await.unwrap();
    assert_eq!(changed.impure_rules, [rule("a").digest]);
    assert!(changed.revision > before && *store.newest_revision().await.unwrap().borrow() == changed.revision);
    let live = store.live_bindings(0, changed.revision, BindingId(0), 10).await.unwrap();
    assert!(live.len() == 2 && live.iter().all(|row| row.rule_impure));
    assert_eq!(store.impure_rules_in_use(5).await.unwrap(), [(rule("a"), 2)]);

    // A commit that says otherwise changes nothing.
    let commit = Commit { checkpoints: recovers(), ..Commit::default() };
    store.commit(from_ref(&claim), &commit).await.unwrap();
    assert_eq!(store.changes(changed.revision, 10).await.unwrap().revision, changed.revision);
    let refused = store.create_alert(&new_alert(&rule("a"), 1), MANY).await.unwrap();
    assert!(matches!(refused, StoredAlert::RuleQuarantined(_)), "{refused:?}");
    let same_bytes = RuleVersion {
        reference: RuleRef { digest: rule("a").digest, ..rule("z") },
        ..version("z", Version::new(1, 0, 0), b"")
    };
    let StoredRule::Created(stored) = store.put_rule(&Tenant::standard(), &same_bytes, b"").await.unwrap() else {
        panic!()
    };
    assert_eq!(stored.quarantine.map(|quarantine| quarantine.at_ms), Some(77));
}
