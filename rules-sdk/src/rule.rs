//! The trait that `#[rule]` implements, and the bodies of the module's exports.

use crate::manifest::Manifest;
use crate::{OldState, Params, State, Tick, Verdict, abi};

/// A rule as a type. `#[rule] fn gap(…)` generates the type `gap`, so that a test can use `Run::<gap>::new(params)`.
pub trait Rule {
    /// The params of an alert; `()` for a rule without params.
    type Params: Params;
    /// The state that is kept between ticks; `()` for a rule without state.
    type State: State;
    /// The manifest of the rule.
    const MANIFEST: Manifest;
    /// Evaluates a tick: the rule's function.
    fn evaluate(tick: &Tick, params: &Self::Params, state: &mut Self::State) -> Verdict;
    /// Fills `state`, which is all zero, from the state of an older version. Returns false to refuse it. `from` is the index
    /// of that version in the manifest's `migrates`.
    fn migrate(from: usize, old: OldState<'_>, params: &Self::Params, state: &mut Self::State) -> bool;
}

/// The result of a migration that refuses: any other number than [`abi::MIGRATED`].
const REFUSED: i32 = 1;

/// The body of the module's export `evaluate`: evaluates the tick, fills in `verdict` and returns the result code.
#[inline(always)]
pub fn evaluate<R: Rule>(tick: &Tick, params: &R::Params, state: &mut R::State, verdict: &mut abi::Verdict) -> i32 {
    R::evaluate(tick, params, state).write(R::MANIFEST.sleeps, verdict)
}

/// The body of the module's export `migrate`.
#[inline(always)]
pub fn migrate<R: Rule>(from: usize, old: OldState<'_>, params: &R::Params, state: &mut R::State) -> i32 {
    if R::migrate(from, old, params, state) { abi::MIGRATED } else { REFUSED }
}
