//! The rules as native Rust: the same functions that their modules are compiled from.

use std::hint::black_box;

use tocsin_rules_sdk::{Rule, State, Tick, abi};

use crate::Pass;

/// The export of a plugin in a shared library.
type Evaluate<R> = fn(&Tick, &<R as Rule>::Params, &mut <R as Rule>::State, &mut abi::Verdict) -> i32;

/// Returns a candidate with one call through a pointer per binding.
pub(crate) fn plugin<R: Rule<Params: 'static, State: 'static> + 'static>(
    params: fn() -> R::Params,
) -> Box<dyn Fn(usize) -> Pass> {
    Box::new(move |count| {
        let evaluate: Evaluate<R> = black_box(evaluate::<R>);
        over::<R>(count, params, evaluate)
    })
}

/// Returns a candidate with the rule inlined into the loop.
pub(crate) fn inlined<R: Rule<Params: 'static, State: 'static> + 'static>(
    params: fn() -> R::Params,
) -> Box<dyn Fn(usize) -> Pass> {
    Box::new(move |count| over::<R>(count, params, tocsin_rules_sdk::evaluate::<R>))
}

#[inline(never)]
fn evaluate<R: Rule>(tick: &Tick, params: &R::Params, state: &mut R::State, verdict: &mut abi::Verdict) -> i32 {
    tocsin_rules_sdk::evaluate::<R>(tick, params, state, verdict)
}

fn over<R: Rule<Params: 'static, State: 'static> + 'static>(
    count: usize,
    params: fn() -> R::Params,
    evaluate: impl Fn(&Tick, &R::Params, &mut R::State, &mut abi::Verdict) -> i32 + 'static,
) -> Pass {
    let mut bindings: Vec<_> = (0..count).map(|_| (params(), R::State::ZERO)).collect();
    Box::new(move |price, time_ms| {
        let tick = Tick { price, volume: 1.0, time_ms, conditions: 0 };
        let mut verdict = abi::Verdict::default();
        let mut fired = 0;
        for (params, state) in &mut bindings {
            fired += evaluate(&tick, params, state, &mut verdict) & abi::FIRE;
        }
        assert_eq!(fired, 0);
    })
}
