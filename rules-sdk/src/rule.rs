//! What `#[rule]` makes of a function.

use crate::manifest::Manifest;
use crate::{OldState, Params, State, Tick, Verdict, abi};

/// A rule as a type. `#[rule] fn gap(…)` makes the type `gap`, so that a test can write `Run::<gap>::new(params)`.
pub trait Rule {
    /// What an alert chooses; `()` for a rule without params.
    type Params: Params;
    /// What the rule remembers of earlier ticks; `()` for a rule without state.
    type State: State;
    /// What the rule says of itself.
    const MANIFEST: Manifest;
    /// The rule's function.
    fn evaluate(tick: &Tick, params: &Self::Params, state: &mut Self::State) -> Verdict;
    /// Makes `state`, which is all zero, out of the one that an older version left; false to refuse it. `from` is that
    /// version's place in the manifest's `migrates`.
    fn migrate(from: usize, old: OldState<'_>, params: &Self::Params, state: &mut Self::State) -> bool;
}

/// What a migration that refuses answers: anything but [`abi::MIGRATED`].
const REFUSED: i32 = 1;

/// The body of the module's export `evaluate`: judges the tick, fills in `verdict` and returns the answer code.
#[inline(always)]
pub fn evaluate<R: Rule>(tick: &Tick, params: &R::Params, state: &mut R::State, verdict: &mut abi::Verdict) -> i32 {
    R::evaluate(tick, params, state).answer(R::MANIFEST.sleeps, verdict)
}

/// The body of the module's export `migrate`.
#[inline(always)]
pub fn migrate<R: Rule>(from: usize, old: OldState<'_>, params: &R::Params, state: &mut R::State) -> i32 {
    if R::migrate(from, old, params, state) { abi::MIGRATED } else { REFUSED }
}
