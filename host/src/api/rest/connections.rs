//! Accepts connections and serves HTTP/1.1 on them, within bounds: axum's own `serve` has no timer for headers, so a
//! client that sends them byte by byte would hold its connection for ever.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

/// How long requests under way may take to finish after a stop. Supervisors kill after 10 s.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// From the start of a connection, or the end of a response, to the end of the next request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Headers of one request. Browsers send about 20.
pub(super) const MAX_HEADERS: usize = 64;

/// Bytes of one connection's read buffer, and so of a request's line and headers.
pub(super) const MAX_BUFFER_BYTES: usize = 64 * 1024;

/// Connections at a time, sockets and streams included; others wait in the system's backlog.
const MAX_CONNECTIONS: usize = 16 * 1024;

/// Serves until `stop`, and until what is tracked in `tasks` has ended or [`GRACE`] is over.
pub(super) async fn serve(mut listener: TcpListener, router: Router, tasks: TaskTracker, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let kill = CancellationToken::new();
    loop {
        let accept = async {
            let permit = room.clone().acquire_owned().await.expect("the semaphore is never closed");
            // Not the listener's own method: this one sits out errors such as too many open files.
            (Listener::accept(&mut listener).await.0, permit)
        };
        let (stream, permit) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept => accepted,
        };
        let (router, stop, kill) = (router.clone(), stop.clone(), kill.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = serve_one(stream, router, stop) => {}
                () = kill.cancelled() => {}
            }
            drop(permit);
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!(connections = tasks.len(), "connections were cut: they did not end in time");
    }
    kill.cancel();
}

async fn serve_one(stream: TcpStream, router: Router, stop: CancellationToken) {
    // Small frames of live streams must not wait for each other. A socket that refuses is about to fail anyway.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| router.clone().call(request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}
