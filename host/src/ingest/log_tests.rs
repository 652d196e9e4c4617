//! What feeds log, for the tests that read it.

use std::sync::{Arc, Mutex, Once};

/// While there is but one subscriber, and it is no thread's but the one that captures, a place that logs for the first
/// time on another thread is switched off for all of them.
static FALLBACK: Once = Once::new();

/// Everything that is logged on this thread, at every level.
pub(super) fn capture_log() -> (Arc<Mutex<Vec<u8>>>, tracing::subscriber::DefaultGuard) {
    struct Tee(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Tee {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    FALLBACK.call_once(|| {
        let nowhere =
            tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(std::io::sink).finish();
        tracing::subscriber::set_global_default(nowhere).expect("nobody else sets one");
    });
    let log = Arc::new(Mutex::new(Vec::new()));
    let tee = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || Tee(tee.clone()))
        .finish();
    (log, tracing::subscriber::set_default(subscriber))
}
