//! Leaves out actions of a run that fails, for as long as it still fails.

use super::action::Action;
use super::world::Shape;
use super::{Difference, replay};

/// Runs that are spent on it.
const MAX_RUNS: usize = 600;

/// Returns fewer actions that fail, too, and how.
pub(super) fn shrink(shape: Shape, actions: Vec<Action>, difference: Difference) -> (Vec<Action>, Difference) {
    let (mut actions, mut difference) = (actions, difference);
    let mut size = actions.len().div_ceil(2);
    let mut runs = 0;
    while size > 0 && runs < MAX_RUNS {
        let mut first = 0;
        let mut has_shrunk = false;
        while first < actions.len() && runs < MAX_RUNS {
            let last = (first + size).min(actions.len());
            let fewer = [&actions[..first], &actions[last..]].concat();
            runs += 1;
            match replay(shape, &fewer) {
                Err(other) => (actions, difference, has_shrunk) = (fewer, other, true),
                Ok(()) => first = last,
            }
        }
        if !has_shrunk || size > 1 {
            size /= 2;
        }
    }
    (actions, difference)
}
