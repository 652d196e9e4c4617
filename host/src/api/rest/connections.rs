//! Accepts connections and serves HTTP/1.1 on them, within bounds: axum's own `serve` has no timer for headers, so a
//! client that sends them byte by byte would hold its connection for ever, and none for a client that reads nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use crate::api::WRITE_TIMEOUT;

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
            // In this order: once it is to stop, a new connection is for whoever listens next.
            biased;
            () = stop.cancelled() => break,
            accepted = accept => accepted,
        };
        // Small frames of live streams must not wait for each other. A socket that refuses is about to fail anyway.
        let _ = stream.set_nodelay(true);
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

async fn serve_one<S>(stream: S, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let service = service_fn(move |request| router.clone().call(request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(Box::pin(stream)), service)
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

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use futures_util::stream;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::task::JoinHandle;
    use tokio::time::{sleep, timeout};

    use super::*;

    const REQUEST: &[u8] = b"GET /short HTTP/1.1\r\nHost: localhost\r\n\r\n";

    /// A connection in memory, so that time can be held still: only timers let it pass.
    fn connect() -> (DuplexStream, JoinHandle<()>) {
        let chunk = || Some((Ok::<_, std::io::Error>(vec![b'x'; 8192]), ()));
        let endless = async move || Body::from_stream(stream::unfold((), move |()| async move { chunk() }));
        let router = Router::new().route("/short", get(async || "short")).route("/endless", get(endless));
        let (client, server) = tokio::io::duplex(1024);
        (client, tokio::spawn(serve_one(server, router, CancellationToken::new())))
    }

    /// Sends a request and reads its answer.
    async fn ask(client: &mut DuplexStream) {
        client.write_all(REQUEST).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"short") {
            answer.push(client.read_u8().await.expect("the connection lives"));
        }
    }

    /// Checks that the server lets go of a connection, no later than a second after its timer.
    async fn check_let_go(server: JoinHandle<()>, timer: Duration) {
        timeout(timer + Duration::from_secs(1), server).await.expect("the connection is let go").unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn headers_that_come_byte_by_byte_are_waited_for_only_so_long() {
        let (mut client, server) = connect();
        tokio::spawn(async move {
            let endless = b"GET /short HTTP/1.1\r\nHost: localhost\r\nx: ".iter().chain(std::iter::repeat(&b'y'));
            for byte in endless {
                sleep(HEADER_TIMEOUT / 20).await;
                if client.write_u8(*byte).await.is_err() {
                    return;
                }
            }
        });
        check_let_go(server, HEADER_TIMEOUT).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_kept_for_a_while() {
        let (mut client, server) = connect();
        ask(&mut client).await;
        sleep(HEADER_TIMEOUT - Duration::from_secs(1)).await;
        ask(&mut client).await;
        check_let_go(server, HEADER_TIMEOUT).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_cut_off() {
        let (mut client, server) = connect();
        client.write_all(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        // One that reads slowly is not.
        for _ in 0..10 {
            sleep(WRITE_TIMEOUT - Duration::from_secs(1)).await;
            assert!(client.read(&mut [0; 4096]).await.unwrap() > 0);
        }
        check_let_go(server, WRITE_TIMEOUT).await;
    }
}
