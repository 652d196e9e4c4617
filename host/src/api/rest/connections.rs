//! Serves HTTP/1.1 on connections, within bounds: axum's own `serve` has no timer for headers, so a client that sends them
//! byte by byte would hold its connection for ever, and none for a client that reads nothing.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use crate::api::accept::{Listener, has_first_byte};
use crate::api::guarded::Guarded;
use crate::api::socket::Socket;
use crate::connections::{Connections, Place};

/// How long requests under way may take to finish after a stop. Supervisors kill after 10 s.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// From the first byte of a connection to the end of its first request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// From the end of a response to the end of the next request's headers: clients keep connections for the next request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// From the first byte to the end of the headers on a connection beyond the budget: a probe sends them at once.
const STATUS_HEADER_TIMEOUT: Duration = Duration::from_secs(2);

/// Headers of one request. Browsers send about 20.
pub(super) const MAX_HEADERS: usize = 64;

/// Bytes of one connection's read buffer, and so of a request's line and headers; and of what it has buffered for a client
/// that does not read.
pub(super) const MAX_BUFFER_BYTES: usize = 16 * 1024;

/// What is served.
#[derive(Clone)]
pub(super) struct Routers {
    /// On connections within the budget.
    pub(super) within: Router,
    /// On connections beyond it.
    pub(super) beyond: Router,
}

/// How one connection is served.
#[derive(Clone)]
struct Terms {
    routes: Router,
    header_timeout: Duration,
    keep_alive: bool,
}

/// Serves until `stop`, and until what is tracked in `tasks` has ended or [`GRACE`] is over.
pub(super) async fn serve(
    listener: TcpListener,
    routers: Routers,
    connections: &Connections,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let mut listener = Listener::new(listener, connections);
    let kill = CancellationToken::new();
    loop {
        let stream = tokio::select! {
            // In this order: once stopped, a new connection is for the next listener on this socket.
            biased;
            () = stop.cancelled() => break,
            stream = listener.accept() => stream,
        };
        let Some((place, terms)) = terms(connections, &routers).await else { continue };
        let (stop, kill) = (stop.clone(), kill.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = begin(stream, place, terms, stop) => {}
                () = kill.cancelled() => {}
            }
        });
    }
    drop(listener);
    tasks.close();
    if timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!(connections = tasks.len(), "connections were cut: they did not end in time");
    }
    kill.cancel();
}

/// The place of a new connection and what is served there; None if it is to be closed.
async fn terms(connections: &Connections, routers: &Routers) -> Option<(Place, Terms)> {
    if let Some(place) = connections.admit().await {
        let routes = routers.within.clone();
        return Some((place, Terms { routes, header_timeout: HEADER_TIMEOUT, keep_alive: true }));
    }
    let place = connections.admit_for_status().await?;
    let routes = routers.beyond.clone();
    Some((place, Terms { routes, header_timeout: STATUS_HEADER_TIMEOUT, keep_alive: false }))
}

/// Serves a connection once it has sent something.
async fn begin(stream: TcpStream, place: Place, terms: Terms, stop: CancellationToken) {
    if has_first_byte(&stream, &place, &stop).await {
        serve_one(stream, place, terms, stop).await;
    }
}

async fn serve_one<S>(stream: S, place: Place, terms: Terms, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let Terms { routes, header_timeout, keep_alive } = terms;
    let activity = place.activity();
    let of_requests = activity.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let under_way = of_requests.begin();
        request.extensions_mut().insert(of_requests.clone());
        let answer = routes.clone().call(request);
        async move { answer.await.map(|response| response.map(|body| Body::new(Guarded::new(body, under_way)))) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT.max(header_timeout))
        .keep_alive(keep_alive)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(Socket::new(stream, place)), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let headers_late = async {
        sleep(header_timeout).await;
        if activity.has_had_request() {
            std::future::pending::<()>().await;
        }
    };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = headers_late => return,
        () = activity.evicted() => return,
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
    use axum::routing::get;
    use futures_util::{FutureExt as _, stream};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::api::socket::WRITE_TIMEOUT;

    const REQUEST: &[u8] = b"GET /short HTTP/1.1\r\nHost: localhost\r\n\r\n";

    /// A connection in memory, so that time can be held still: only timers let it pass.
    fn connect() -> (DuplexStream, JoinHandle<()>) {
        let chunk = || Some((Ok::<_, std::io::Error>(vec![b'x'; 8192]), ()));
        let endless = async move || Body::from_stream(stream::unfold((), move |()| async move { chunk() }));
        let router = Router::new().route("/short", get(async || "short")).route("/endless", get(endless));
        let (client, server) = tokio::io::duplex(1024);
        let terms = Terms { routes: router, header_timeout: HEADER_TIMEOUT, keep_alive: true };
        let place = Connections::new(1, 1).admit().now_or_never().flatten().expect("there is a place");
        (client, tokio::spawn(serve_one(server, place, terms, CancellationToken::new())))
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
    async fn the_headers_of_a_later_request_are_waited_for_only_so_long_too() {
        let (mut client, server) = connect();
        ask(&mut client).await;
        client.write_all(&REQUEST[..20]).await.unwrap();
        check_let_go(server, IDLE_TIMEOUT).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_kept_for_a_while() {
        let (mut client, server) = connect();
        ask(&mut client).await;
        sleep(IDLE_TIMEOUT - Duration::from_secs(1)).await;
        ask(&mut client).await;
        check_let_go(server, IDLE_TIMEOUT).await;
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
