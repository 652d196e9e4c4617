//! A failpoint for tests of how a panic of the engine is handled: in a build with the feature `failpoints`, the evaluation
//! of the rule that `TOCSIN_PANIC_ON_RULE` names panics.

use std::sync::LazyLock;

use crate::domain::RuleName;

/// Panics if this is the rule.
pub(crate) fn panic_on(rule: &RuleName) {
    static SET: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("TOCSIN_PANIC_ON_RULE").ok());
    assert!(SET.as_deref() != Some(rule.as_str()), "a panic by TOCSIN_PANIC_ON_RULE");
}
