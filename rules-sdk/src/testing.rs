//! Runs rules natively, so that their tests need no WebAssembly: the same function, the same params and state.

use core::borrow::Borrow;
use std::string::String;
use std::vec::Vec;
use std::{assert, assert_eq, panic, vec};

use crate::{OldState, Rule, State, Tick, Verdict};

/// A binding of a rule: its params, and a state that starts as zeroes.
pub struct Run<R: Rule> {
    params: R::Params,
    state: R::State,
}

impl<R: Rule> Run<R> {
    /// Creates a binding. Unlike on the host, the params are not checked by the schema.
    pub fn new(params: R::Params) -> Self {
        Self { params, state: R::State::ZERO }
    }

    /// Creates a binding that is migrated from an older version with its state there. Returns `None` if the rule refuses it.
    /// `params` are those for this version.
    ///
    /// # Panics
    /// If the rule's `migrates` does not name the version, or its function has another type of state.
    pub fn migrated<O: State>(version: &str, old: &O, params: R::Params) -> Option<Self> {
        let names = R::MANIFEST.migrates;
        let Some(from) = names.iter().position(|name| *name == version) else {
            panic!("the rule does not migrate from {version}: `migrates` names {names:?}");
        };
        let mut state = R::State::ZERO;
        R::migrate(from, OldState::of(old), &params, &mut state).then_some(Self { params, state })
    }

    /// Evaluates the next tick.
    ///
    /// # Panics
    /// If the verdict contradicts the rule's attribute: another number of evidence numbers than names, or a wake band without
    /// `sleeps`.
    pub fn evaluate(&mut self, tick: &Tick) -> Verdict {
        let verdict = R::evaluate(tick, &self.params, &mut self.state);
        let names = R::MANIFEST.evidence;
        if verdict.fires() {
            let given = verdict.evidence_numbers().len();
            assert_eq!(
                given,
                names.len(),
                "the verdict has {given} evidence numbers, `evidence{names:?}` names others"
            );
        }
        assert!(R::MANIFEST.sleeps || !verdict.is_asleep(), "the verdict has a wake band: write `#[rule(sleeps)]`");
        verdict
    }

    /// Evaluates ticks in order. Returns the index and the evidence of each that fired.
    pub fn fires(&mut self, ticks: impl IntoIterator<Item = impl Borrow<Tick>>) -> Vec<(usize, Vec<f64>)> {
        let verdicts = ticks.into_iter().map(|tick| self.evaluate(tick.borrow())).enumerate();
        verdicts.filter(|(_, v)| v.fires()).map(|(index, v)| (index, v.evidence_numbers().to_vec())).collect()
    }

    /// Returns the current state.
    pub fn state(&self) -> &R::State {
        &self.state
    }
}

/// Returns the manifest of a rule, as it is in its module.
pub fn manifest<R: Rule>() -> String {
    let mut json = vec![0; R::MANIFEST.json_bytes()];
    R::MANIFEST.write(&mut json);
    String::from_utf8(json).expect("it consists of strings")
}
