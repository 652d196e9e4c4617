//! How bindings begin: each counts the ticks from its own offset on, wherever the processor is by then.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use tocsin_engine::domain::{BindingId, Position};
use tocsin_engine::{ArmError, Arming, Shard};

use super::partition::Waiting;
use super::{Output, Processor};
use crate::evaluator::EvaluatorError;

impl Processor {
    /// Arms bindings that no checkpoint knows: each waits for its offset, or catches up from it.
    pub(super) fn arm_new(
        &mut self,
        new: Vec<(Arming, Position)>,
        outputs: &mut Vec<Output>,
    ) -> Result<(), EvaluatorError> {
        let mut passed: BTreeMap<u32, Waiting> = BTreeMap::new();
        for (arming, counts_from) in new {
            // The partition may have been lost or halted in the meantime.
            let Some(partition) = self.partitions.get_mut(&counts_from.partition) else { continue };
            if self.shard.holds(arming.binding) {
                continue;
            }
            let waiting = match counts_from.offset.cmp(&partition.next_offset) {
                Ordering::Less => passed.entry(counts_from.partition).or_default(),
                // A checkpoint that is taken now must know it.
                Ordering::Equal => {
                    arm(&mut self.shard, arming, outputs)?;
                    continue;
                }
                Ordering::Greater => &mut partition.waiting,
            };
            waiting.entry(counts_from.offset).or_default().push(arming);
        }
        for (partition, waiting) in passed {
            self.catch_up(partition, waiting);
        }
        Ok(())
    }

    /// Takes an armed binding out of quarantine; one that has left it by itself stays as it is.
    pub(super) fn unquarantine(&mut self, binding: BindingId) -> Result<(), EvaluatorError> {
        let released = self.shard.unquarantine(binding);
        released.map(drop).map_err(|error| EvaluatorError::Arm(binding.0, error.to_string()))
    }
}

/// Arms the bindings that count from `offset` or from before it.
pub(super) fn arm_reached(
    shard: &mut Shard,
    waiting: &mut Waiting,
    offset: u64,
    outputs: &mut Vec<Output>,
) -> Result<(), EvaluatorError> {
    while let Some(entry) = waiting.first_entry().filter(|entry| *entry.key() <= offset) {
        for arming in entry.remove() {
            arm(shard, arming, outputs)?;
        }
    }
    Ok(())
}

/// Arms a binding. One that there is no memory for is reported, and the others go on.
pub(super) fn arm(shard: &mut Shard, arming: Arming, outputs: &mut Vec<Output>) -> Result<(), EvaluatorError> {
    let (binding, alert) = (arming.binding.0, arming.alert);
    match shard.arm(arming) {
        Err(error @ ArmError::Memory(_)) => outputs.push(Output::NotArmed { alert, why: error.to_string() }),
        armed => armed.map_err(|error| EvaluatorError::Arm(binding, error.to_string()))?,
    }
    Ok(())
}
