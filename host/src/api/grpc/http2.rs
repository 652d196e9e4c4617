//! Serves HTTP/2 on connections, within bounds. tonic's own server has no timer for the preface, and no bound on what a
//! stream buffers for a client that does not read it.

use std::convert::Infallible;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::calls::{Calls, ResponseBody};
use super::preface::Preface;
use crate::api::accept::{Listener, has_first_byte};
use crate::api::guarded::Guarded;
use crate::api::socket::Socket;
use crate::connections::{Connections, Place};

/// From the first byte of a connection to the end of the client's preface and its first SETTINGS frame.
pub(super) const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a connection's client is asked (PING) whether it is still there: a watch that nothing fires on would otherwise
/// outlive a client that lost its power.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// How long the answer to that may take, before the connection is cut.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Streams of one connection at a time, announced in SETTINGS; more are refused (REFUSED_STREAM). Client libraries queue
/// further calls.
pub(super) const MAX_CONCURRENT_STREAMS: u32 = 256;

/// Bytes of one request's headers, uncompressed.
const MAX_HEADER_LIST_BYTES: u32 = 16 * 1024;

/// Bytes of one frame: the least that HTTP/2 allows (RFC 9113, section 4.2).
const MAX_FRAME_BYTES: u32 = 16 * 1024;

/// Bytes that a client may send on one stream before they are read: HTTP/2's own default.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;

/// Bytes that a client may send on all streams of a connection before they are read.
const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;

/// Bytes of one stream that wait for its client to read: what a watch has not sent waits in the store.
const MAX_SEND_BUFFER_BYTES: usize = 16 * 1024;

/// Serves until `stop`; then sends GOAWAY on all connections, whose calls may finish within `grace`.
pub(super) async fn serve(
    listener: TcpListener,
    calls: Calls,
    connections: &Connections,
    grace: Duration,
    stop: CancellationToken,
) {
    let mut listener = Listener::new(listener, connections);
    let (tasks, kill) = (TaskTracker::new(), CancellationToken::new());
    loop {
        let stream = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            stream = listener.accept() => stream,
        };
        let Some(place) = connections.admit().await else { continue };
        let (calls, stop, kill) = (calls.clone(), stop.clone(), kill.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = begin(stream, place, calls, stop) => {}
                () = kill.cancelled() => {}
            }
        });
    }
    drop(listener);
    tasks.close();
    if timeout(grace, tasks.wait()).await.is_err() {
        tracing::warn!(connections = tasks.len(), "some gRPC calls did not end within {grace:?} and are cut");
    }
    kill.cancel();
}

/// Serves a connection once it has sent something.
async fn begin(stream: TcpStream, place: Place, calls: Calls, stop: CancellationToken) {
    if has_first_byte(&stream, &place, &stop).await {
        serve_one(stream, place, calls, stop).await;
    }
}

async fn serve_one<S>(stream: S, place: Place, calls: Calls, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let activity = place.activity();
    let (socket, greeted) = Preface::new(Socket::new(stream, place));
    let of_calls = activity.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (under_way, calls) = (of_calls.begin(), calls.clone());
        async move {
            let response: Response<ResponseBody> = calls.answer(request).await;
            Ok::<_, Infallible>(response.map(|body| Guarded::new(body, under_way)))
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = std::pin::pin!(connection);
    let preface_late = async {
        if timeout(PREFACE_TIMEOUT, greeted).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = preface_late => return,
        () = activity.evicted() => return,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a gRPC connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::task::JoinHandle;
    use tokio::time::{Instant, sleep};
    use tonic::service::Routes;

    use super::*;

    const MAGIC: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const ACK: u8 = 1;

    /// A connection in memory, so that time can be held still: only timers let it pass.
    async fn connect() -> (DuplexStream, JoinHandle<()>) {
        let (client, server) = tokio::io::duplex(1024);
        let connections = Connections::new(1, 1);
        let calls = Calls::new(Routes::default(), connections.streams().clone());
        let place = connections.admit().await.unwrap();
        (client, tokio::spawn(serve_one(server, place, calls, CancellationToken::new())))
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 0], payload].concat()
    }

    /// The next frame of this kind: its payload.
    async fn next(client: &mut DuplexStream, kind: u8) -> Vec<u8> {
        loop {
            let mut head = [0; 9];
            client.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            client.read_exact(&mut payload).await.unwrap();
            if head[3] == kind && head[4] & ACK == 0 {
                return payload;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_preface_that_does_not_come_whole_is_waited_for_only_so_long() {
        let settings = frame(SETTINGS, 0, &[0, 3, 0, 0, 0, 9]);
        for sent in [&[][..], &MAGIC[..10], MAGIC, &[MAGIC, &settings[..12]].concat()] {
            let (mut client, server) = connect().await;
            let begun = Instant::now();
            client.write_all(sent).await.unwrap();
            server.await.unwrap();
            let held = begun.elapsed();
            assert!((PREFACE_TIMEOUT..PREFACE_TIMEOUT * 2).contains(&held), "{held:?} after {} bytes", sent.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_kept_for_as_long_as_it_answers_pings() {
        let (mut client, server) = connect().await;
        client.write_all(&[MAGIC, &frame(SETTINGS, 0, &[])].concat()).await.unwrap();
        for _ in 0..10 {
            let ping = next(&mut client, PING).await;
            client.write_all(&frame(PING, ACK, &ping)).await.unwrap();
        }
        assert!(!server.is_finished());
        sleep(KEEPALIVE_INTERVAL + KEEPALIVE_TIMEOUT + Duration::from_secs(1)).await;
        server.await.unwrap();
    }

    #[tokio::test]
    async fn the_bounds_are_announced_in_settings() {
        let (mut client, _server) = connect().await;
        client.write_all(&[MAGIC, &frame(SETTINGS, 0, &[])].concat()).await.unwrap();
        let settings = next(&mut client, SETTINGS).await;
        let settings: Vec<(u8, u32)> = settings
            .chunks(6)
            .map(|setting| (setting[1], u32::from_be_bytes(setting[2..].try_into().unwrap())))
            .collect();
        // RFC 9113, section 6.5.2.
        for expect in [(3, MAX_CONCURRENT_STREAMS), (5, MAX_FRAME_BYTES), (6, MAX_HEADER_LIST_BYTES)] {
            // A setting that is HTTP/2's default need not be sent.
            assert!(settings.contains(&expect) || expect == (5, 16_384), "{expect:?} is not in {settings:?}");
        }
    }
}
