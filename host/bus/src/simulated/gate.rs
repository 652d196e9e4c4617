//! Where calls of simulated processes wait until the scheduler lets them happen.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It happens, and its caller is answered.
    Done,
    /// It does not happen, and fails as if the backend were away.
    Refused,
    /// It happens, and its answer is lost: it fails as if the backend were away.
    Lost,
    /// It happens, and its caller never learns of it: the process hangs there until it crashes.
    Unanswered,
}

/// All calls that wait.
#[derive(Clone, Default)]
pub struct Gates(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Oldest first.
    waiting: Vec<Waiting>,
    /// Processes that have crashed: tasks of theirs may be left, and nothing more happens of what they call.
    crashed: Vec<u32>,
}

struct Waiting {
    process: u32,
    call: &'static str,
    release: oneshot::Sender<Outcome>,
}

/// Where the calls of one process wait.
#[derive(Clone)]
pub struct Gate {
    process: u32,
    gates: Gates,
}

/// Calls that reach no backend.
const LOCAL: [&str; 1] = ["newest_revision"];

impl Gate {
    /// Waits until the call may happen; for ever, if the process has crashed.
    pub async fn pass(&self, call: &'static str) -> Outcome {
        if LOCAL.contains(&call) {
            return Outcome::Done;
        }
        let released = self.gates.add(self.process, call);
        match released.await {
            Ok(outcome) => outcome,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Gates {
    /// Returns the gate of one process.
    pub fn of(&self, process: u32) -> Gate {
        Gate { process, gates: self.clone() }
    }

    /// Adds a call, unless its process has crashed.
    fn add(&self, process: u32, call: &'static str) -> oneshot::Receiver<Outcome> {
        let (release, released) = oneshot::channel();
        let mut state = self.lock();
        if !state.crashed.contains(&process) {
            state.waiting.push(Waiting { process, call, release });
        }
        released
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever called has stopped waiting.
        state.waiting.retain(|waiting| !waiting.release.is_closed());
        state
    }

    /// The calls that wait: process and name.
    pub fn waiting(&self) -> Vec<(u32, &'static str)> {
        self.lock().waiting.iter().map(|waiting| (waiting.process, waiting.call)).collect()
    }

    /// Lets the oldest call of that name happen, or what its outcome is instead; false if none waits.
    pub fn release(&self, process: u32, call: &str, outcome: Outcome) -> bool {
        let mut state = self.lock();
        let waiting = &mut state.waiting;
        let found = waiting.iter().position(|waiting| waiting.process == process && waiting.call == call);
        let Some(at) = found else { return false };
        // It is there still: its end was looked for under the same lock.
        let _ = waiting.remove(at).release.send(outcome);
        true
    }

    /// Forgets the calls of a process that has crashed.
    pub fn forget(&self, process: u32) {
        let mut state = self.lock();
        state.waiting.retain(|waiting| waiting.process != process);
        state.crashed.push(process);
    }
}
