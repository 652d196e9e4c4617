//! SIGINT and SIGTERM stop the server; a second one does not wait for it.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The exit status of a process that a second signal ended: 128 and SIGINT's number, as shells have it.
const INTERRUPTED: i32 = 130;

/// Cancels `stop` at the first signal, and ends the process at the second.
pub async fn cancel_on_signal(stop: CancellationToken) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        warn!("signals cannot be listened to: stop this process with SIGKILL, which loses nothing");
        return;
    };
    for first in [true, false] {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if first {
            info!("stopping; a second signal stops at once");
            stop.cancel();
        }
    }
    std::process::exit(INTERRUPTED);
}
