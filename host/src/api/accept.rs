//! Accepts connections. Where the system refuses, as with too many open files, it reports that and tries again.

use std::io::{self, ErrorKind};
use std::time::Duration;

use tocsin_base::retry::{RetryPolicy, Waits};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::connections::{Connections, Place};

/// How long a new connection may send nothing. A client with a request sends it at once.
pub(super) const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);

/// Failures to accept are logged at most so often.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// A listening socket, and how it fares.
pub(super) struct Listener<'a> {
    socket: TcpListener,
    connections: &'a Connections,
    waits: Waits,
    logged: Option<Instant>,
}

impl<'a> Listener<'a> {
    pub(super) fn new(socket: TcpListener, connections: &'a Connections) -> Self {
        Self { socket, connections, waits: RetryPolicy::ACCEPT.waits(), logged: None }
    }

    /// Returns the next connection, once the system has handed one over.
    pub(super) async fn accept(&mut self) -> TcpStream {
        loop {
            match self.socket.accept().await {
                Ok((stream, _)) => {
                    self.waits.reset();
                    // Small frames of live streams must not wait for each other. A socket that refuses is about to fail anyway.
                    let _ = stream.set_nodelay(true);
                    return stream;
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    let wait = self.failed(&error);
                    sleep(wait).await;
                }
            }
        }
    }

    /// Records a failure that concerns all connections; returns how long to wait.
    fn failed(&mut self, error: &io::Error) -> Duration {
        self.connections.accept_failed(error);
        let wait = self.waits.next(rand::random());
        if self.logged.is_none_or(|logged| logged.elapsed() >= LOG_EVERY) {
            self.logged = Some(Instant::now());
            let address = self.socket.local_addr().ok();
            tracing::error!(
                %error, ?address, ?wait,
                "connections cannot be accepted: trying again; if there are too many open files, raise their limit \
                 (ulimit -n) or lower --max-connections"
            );
        }
        wait
    }
}

/// Whether an error is about a connection that was lost before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset)
}

/// Waits for the first byte of a connection, before anything is made for it; false if it does not come in time, or the
/// connection is to make room for another, or the server stops.
pub(super) async fn has_first_byte(stream: &TcpStream, place: &Place, stop: &CancellationToken) -> bool {
    let (activity, mut first) = (place.activity(), [0]);
    tokio::select! {
        // Not `readable`, which may say so when nothing has come.
        peeked = timeout(FIRST_BYTE_TIMEOUT, stream.peek(&mut first)) => matches!(peeked, Ok(Ok(1))),
        () = activity.evicted() => false,
        () = stop.cancelled() => false,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_connection_is_waited_for_until_it_sends_or_makes_room() {
        let connections = Connections::new(1, 1);
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let mut listener = Listener::new(socket, &connections);
        let mut client = TcpStream::connect(address).await.unwrap();
        let (stream, place) = (listener.accept().await, connections.admit().await.unwrap());
        client.write_all(b"x").await.unwrap();
        assert!(has_first_byte(&stream, &place, &CancellationToken::new()).await);

        let _silent = TcpStream::connect(address).await.unwrap();
        let stream = listener.accept().await;
        let waiting = tokio::spawn(async move { has_first_byte(&stream, &place, &CancellationToken::new()).await });
        assert!(connections.admit().await.is_some());
        assert!(!waiting.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_waited_for_only_so_long() {
        let connections = Connections::new(1, 1);
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let mut listener = Listener::new(socket, &connections);
        let _silent = TcpStream::connect(address).await.unwrap();
        let (stream, place) = (listener.accept().await, connections.admit().await.unwrap());
        let begun = Instant::now();
        assert!(!has_first_byte(&stream, &place, &CancellationToken::new()).await);
        assert!(begun.elapsed() >= FIRST_BYTE_TIMEOUT);
    }

    #[tokio::test]
    async fn failures_are_counted_and_waited_out_longer_and_longer() {
        let connections = Connections::new(1, 1);
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut listener = Listener::new(socket, &connections);
        let too_many = io::Error::from_raw_os_error(24);
        for _ in 0..20 {
            assert!(listener.failed(&too_many) <= RetryPolicy::ACCEPT.cap);
        }
        assert_eq!(connections.counts().accept_failures, 20);
        assert!(connections.problems()[0].contains("os error 24"), "{:?}", connections.problems());
        assert!(is_of_one_connection(&ErrorKind::ConnectionAborted.into()) && !is_of_one_connection(&too_many));
    }
}
