//! A thread for rules' code.

use tocsin_engine::limits::THREAD_STACK_BYTES;
use tokio::sync::oneshot;

use super::ControlError;

/// Runs rules' code: it may use up the stack of a thread of its own.
pub(super) async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ControlError> {
    #[cfg(test)]
    if tocsin_base::simulation::is_simulated() {
        // Its one thread has the stack, and nothing may happen beside it.
        return Ok(work());
    }
    let (done, receiver) = oneshot::channel();
    let thread = std::thread::Builder::new().name("tocsin-migrate".into()).stack_size(THREAD_STACK_BYTES);
    // The receiver is gone only where the whole process is ending.
    let started = thread.spawn(move || drop(done.send(work())));
    started.map_err(|error| ControlError::Unavailable(format!("a thread could not be started: {error}")))?;
    receiver.await.map_err(|_| ControlError::Internal("a thread that ran a rule panicked".into()))
}
