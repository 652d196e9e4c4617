//! SIGINT and SIGTERM stop the server; a second one does not wait for it.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The exit status of a process that a second signal ended: 128 and SIGINT's number, as shells have it.
const INTERRUPTED: i32 = 130;

/// Cancels `stop` at the first signal from now on, and ends the process at the second. Needs a tokio runtime.
pub fn cancel_on_signal(stop: CancellationToken) {
    let listening = signal(SignalKind::interrupt()).and_then(|first| Ok((first, signal(SignalKind::terminate())?)));
    match listening {
        Ok((interrupt, terminate)) => drop(tokio::spawn(wait(interrupt, terminate, stop))),
        Err(error) => {
            warn!(%error, "signals cannot be listened to: stop this process with SIGKILL, which loses nothing");
        }
    }
}

async fn wait(mut interrupt: Signal, mut terminate: Signal, stop: CancellationToken) {
    let mut next = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    next().await;
    info!("stopping; a second signal stops at once");
    stop.cancel();
    next().await;
    std::process::exit(INTERRUPTED);
}
