//! The store's probe: whether it answers, and what only it knows of: impure rules in use, and a promotion that waits.

use futures_util::future::BoxFuture;
use tocsin_engine::domain::RuleRef;
use tocsin_health::{ANSWER_TIMEOUT, CachedQuery, Health, Probe, Problems};

use super::{Store, UnfinishedPromotion};

/// Impure rules that are named.
const MAX_IMPURE_RULES: u32 = 5;

/// A promotion that waits for evaluators for longer than this is reported: milliseconds are usual.
const MAX_PROMOTION_WAIT_MS: i64 = 5_000;

/// Partitions that are named in one problem.
const MAX_NAMED: usize = 16;

struct StoreProbe {
    store: Store,
    /// Which store it is, for people.
    backend: Option<String>,
    findings: CachedQuery<Problems>,
}

/// Registers the probe `store`.
pub fn register(health: &Health, store: Store) {
    let backend = health.backend("store");
    health.register("store", StoreProbe { store, backend, findings: CachedQuery::default() });
}

impl Probe for StoreProbe {
    fn check(&self) -> BoxFuture<'_, Problems> {
        Box::pin(async {
            let findings = self.findings.run(Box::pin(find(self.store.clone()))).await;
            let mut problems = findings.unwrap_or_else(|| Problems {
                blocking: vec![format!("the store does not answer within {} s", ANSWER_TIMEOUT.as_secs())],
                tolerable: Vec::new(),
            });
            if let Some(backend) = &self.backend {
                problems.blocking.iter_mut().for_each(|problem| *problem = format!("{backend}: {problem}"));
            }
            problems
        })
    }
}

async fn find(store: Store) -> Problems {
    let blocking = store.ping().await.err().map(|error| error.to_string()).into_iter().collect();
    // A store that does not answer is reported already.
    let impure = store.impure_rules_in_use(MAX_IMPURE_RULES).await.unwrap_or_default();
    let promotion = store.unfinished_promotion().await.ok().flatten();
    let promotion = promotion.filter(|promotion| promotion.age_ms > MAX_PROMOTION_WAIT_MS);
    let mut tolerable: Vec<String> = impure.into_iter().map(impure_rule).collect();
    tolerable.extend(promotion.as_ref().map(waiting_promotion));
    Problems { blocking, tolerable }
}

fn impure_rule((rule, live): (RuleRef, u64)) -> String {
    format!(
        "the rule {} {} is impure and no longer evaluated: {live} bindings are quarantined; upload a version without \
         this fault and promote their alerts to it: `tocsin rule promote {} VERSION --reset-state`",
        rule.name, rule.version, rule.name
    )
}

fn waiting_promotion(promotion: &UnfinishedPromotion) -> String {
    let UnfinishedPromotion { to, age_ms, held, waiting_for, .. } = promotion;
    let (seconds, asked) = (age_ms / 1000, promotion.requested());
    let partitions = waiting_for.iter().take(MAX_NAMED).map(|waiting| match &waiting.halted {
        Some(why) => format!("{} (halted: {why})", waiting.partition),
        None => waiting.partition.to_string(),
    });
    let partitions: Vec<String> = partitions.collect();
    let waits = match partitions.is_empty() {
        true => "it makes the new states".to_owned(),
        false => format!("{asked} bindings on partitions {} are not handed over", partitions.join(", ")),
    };
    let (name, version) = (&to.name, &to.version);
    format!(
        "the promotion of {name} to {version} has taken {seconds} s: {waits}, and {held} bindings are held and not evaluated \
         meanwhile; `tocsin rule cancel-promotion {name} {version}` takes it back"
    )
}

#[cfg(test)]
mod tests {
    use tocsin_engine::domain::{Digest, RuleName, Tenant, Version};

    use super::*;
    use crate::{PromotionId, WaitingFor};

    #[test]
    fn a_promotion_that_waits_is_reported_with_what_it_waits_for_and_what_to_do() {
        let rule = RuleRef {
            name: RuleName::parse("steps").unwrap(),
            version: Version::new(2, 0, 0),
            digest: Digest::of(b"steps"),
        };
        let waiting = |partition, bindings, halted: Option<&str>| WaitingFor {
            partition,
            bindings,
            halted: halted.map(str::to_owned),
        };
        let promotion = |waiting_for| UnfinishedPromotion {
            id: PromotionId(1),
            tenant: Tenant::standard(),
            to: rule.clone(),
            age_ms: 12_345,
            held: 40,
            waiting_for,
        };
        let cancel = "`tocsin rule cancel-promotion steps 2.0.0` takes it back";
        for (waiting_for, expect) in [
            (
                vec![waiting(3, 2, None), waiting(5, 1, Some("gone"))],
                "3 bindings on partitions 3, 5 (halted: gone) are not",
            ),
            (Vec::new(), "it makes the new states, and 40 bindings are held"),
        ] {
            let problem = waiting_promotion(&promotion(waiting_for));
            assert!(problem.starts_with("the promotion of steps to 2.0.0 has taken 12 s: "), "{problem}");
            assert!(problem.contains(expect) && problem.ends_with(cancel), "{problem}");
        }
    }
}
