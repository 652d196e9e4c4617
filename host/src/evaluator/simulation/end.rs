//! The end of a run: everything that may happen does, until nothing moves.

use std::time::Duration;

use tocsin_bus::simulated::Outcome;

use super::process::Process;
use super::world::World;

/// Rounds in a row in which nothing has moved.
const QUIET_ROUNDS: u32 = 4;

/// Rounds after which something is wrong.
const MAX_ROUNDS: u32 = 600;

/// Time between rounds while something moves.
const MOVING_WAIT: Duration = Duration::from_millis(20);

/// Time between rounds in which nothing does: all that waits to be tried again is tried.
const QUIET_WAIT: Duration = Duration::from_secs(6);

/// Time that passes more where no call of the store or the bus waits: a promotion waits up to half a minute for its hand-offs.
const CALL_WAIT: Duration = Duration::from_millis(500);

/// What processes ask now and then though nothing has happened.
const PERIODIC: [&str; 2] = ["identity", "tick_log"];

impl World {
    /// Lets all processes run, answers all that they call, and returns once nothing moves.
    pub(super) async fn come_to_rest(&mut self) -> Result<(), String> {
        let mut quiet = 0;
        for _ in 0..MAX_ROUNDS {
            let moved = self.round().await?;
            quiet = if moved { 0 } else { quiet + 1 };
            if quiet == QUIET_ROUNDS {
                return Ok(());
            }
            tokio::time::sleep(if moved { MOVING_WAIT } else { QUIET_WAIT }).await;
            if moved && self.gates.waiting().is_empty() {
                tokio::time::sleep(CALL_WAIT).await;
            }
        }
        Err(format!("it does not come to rest; these calls wait: {:?}", self.gates.waiting()))
    }

    async fn round(&mut self) -> Result<bool, String> {
        self.trace.push("everything happens".into());
        let mut moved = self.revive().await;
        for process in self.slots.iter_mut().flatten() {
            while let Some(next) = process.mail.front() {
                self.trace.push(format!("    process {}: {next:?}", process.number));
                process.deliver_mail();
                moved = true;
            }
            if process.store.is_behind() {
                process.store.notify();
                moved = true;
            }
            moved |= !process.calls.is_empty() || process.is_stopping();
        }
        moved |= self.end_promotion();
        self.settle().await?;
        for slot in 0..self.slots.len() {
            for worker in 0..self.shape.workers {
                self.turn(slot, worker, 1_000, false, true)?;
                self.settle().await?;
            }
        }
        for (process, call) in self.gates.waiting() {
            moved |= !PERIODIC.contains(&call);
            self.answer(process, call).await?;
        }
        // Who asks what is asked now and then asks one after the other, and looks for nothing else until then.
        for _ in PERIODIC {
            for (process, call) in self.gates.waiting().into_iter().filter(|(_, call)| PERIODIC.contains(call)) {
                self.answer(process, call).await?;
            }
        }
        Ok(moved)
    }

    async fn answer(&mut self, process: u32, call: &'static str) -> Result<(), String> {
        self.trace.push(format!("    process {process}: {call}"));
        self.gates.release(process, call, Outcome::Done);
        self.settle().await
    }

    /// Has a promotion rolled back that no process carries out any more.
    fn end_promotion(&mut self) -> bool {
        let is_busy = self.slots.iter().flatten().any(|process| !process.calls.is_empty());
        if is_busy || !self.database.has_promotion() {
            return false;
        }
        self.database.expire_leases();
        let first = self.slots.iter_mut().flatten().find(|process| !process.is_stopping());
        first.map(Process::roll_back_abandoned);
        true
    }

    /// Ends processes that hang, starts one where there is none, and gives it the partitions without an owner.
    async fn revive(&mut self) -> bool {
        let mut moved = false;
        for slot in 0..self.slots.len() {
            if self.slots[slot].as_ref().is_some_and(|process| process.hangs) {
                self.crash(slot);
                moved = true;
            }
        }
        if self.slots.iter().flatten().all(|process| process.is_stopping()) {
            let free = (0..self.slots.len()).find(|slot| self.slots[*slot].is_none());
            if let Some(slot) = free {
                self.start(slot).await;
            }
            moved = true;
        }
        let to = self.slots.iter().position(|process| process.as_ref().is_some_and(|process| !process.is_stopping()));
        if let Some(to) = to {
            for partition in self.free_partitions() {
                self.move_partition(partition, to, false);
                moved = true;
            }
        }
        moved
    }
}
