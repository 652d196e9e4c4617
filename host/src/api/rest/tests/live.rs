//! The server on a real port: sockets, streams, and how it ends.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::*;
use crate::api::fixture::MAX_STREAMS;
use crate::api::rest::connections;

struct Live {
    fixture: Fixture,
    address: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<std::io::Result<()>>,
}

async fn live() -> Live {
    let fixture = fixture().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(crate::api::rest::serve(listener, fixture.backends.api.clone(), stop.clone()));
    Live { fixture, address, stop, running }
}

impl Live {
    async fn socket(&self, ticker: &str) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
        let url = format!("ws://{}/ws/trades/{ticker}", self.address);
        tokio_tungstenite::connect_async(url).await.unwrap().0
    }

    async fn publish(&self, name: &str, prices: impl IntoIterator<Item = f64>) {
        self.fixture
            .backends
            .api
            .bus
            .publish(prices.into_iter().map(|price| tick(name, price)).collect())
            .await
            .unwrap();
    }

    /// Opens the event stream and reads its first event; returns the cursor in that too.
    async fn stream(&self, query: &str, last_event_id: &str) -> (String, Events) {
        let url = format!("http://{}/api/v1/firings/stream{query}", self.address);
        let request = reqwest::Client::new().get(url).header("last-event-id", last_event_id);
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut events = Events { response, unread: String::new() };
        let mut lines: Vec<_> = events.next().await.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        let cursor = lines.last().unwrap().strip_prefix("id: ").unwrap().to_owned();
        assert_eq!(lines[..2], [format!(r#"data: {{"after":"{cursor}"}}"#), "event: cursor".to_owned()]);
        (cursor, events)
    }
}

/// An event stream that is read.
struct Events {
    response: reqwest::Response,
    unread: String,
}

impl Events {
    /// The next event, without the blank line behind it. One chunk may hold several.
    async fn next(&mut self) -> String {
        loop {
            if let Some((event, rest)) = self.unread.split_once("\n\n") {
                let event = event.to_owned();
                self.unread = rest.to_owned();
                return event;
            }
            let chunk = self.response.chunk().await.unwrap().expect("the stream goes on");
            self.unread += std::str::from_utf8(&chunk).unwrap();
        }
    }
}

fn close_of(message: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>) -> (u16, String) {
    match message {
        Some(Ok(Message::Close(Some(frame)))) => (frame.code.into(), frame.reason.to_string()),
        other => panic!("not a close frame: {other:?}"),
    }
}

#[tokio::test]
async fn every_socket_of_a_ticker_gets_its_trades_from_now_on() {
    let server = live().await;
    server.publish("BTCUSDT", [1.0]).await;
    let mut sockets = vec![server.socket("btcusdt").await, server.socket("BTCUSDT").await];
    let mut other = server.socket("ic%20markets:1").await;
    server.publish("UNKNOWN", [2.0]).await;
    server.publish("BTCUSDT", [61800.30, 61800.25]).await;
    server.publish("IC MARKETS:1", [3.0]).await;
    for socket in &mut sockets {
        for price in ["61800.3", "61800.25"] {
            let expect = format!(r#"{{"s":"BTCUSDT","p":"{price}","q":"0.5","T":1723161256322}}"#);
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(expect));
        }
    }
    let expect = r#"{"s":"IC MARKETS:1","p":"3","q":"0.5","T":1723161256322}"#;
    assert_eq!(other.next().await.unwrap().unwrap(), Message::text(expect));
    // What a client says is passed over; its pings are answered.
    other.send(Message::text("hello")).await.unwrap();
    other.send(Message::Ping("x".into())).await.unwrap();
    assert_eq!(other.next().await.unwrap().unwrap(), Message::Pong("x".into()));
}

#[tokio::test]
async fn a_ticker_that_is_not_allowed_is_named_in_the_close_frame() {
    let server = live().await;
    for ticker in ["aapl", "%F0%9F%9A%80", "%FF"] {
        let mut socket = server.socket(ticker).await;
        assert_eq!(close_of(socket.next().await), (1003, "Ticker is not allowed".to_owned()));
    }
}

#[tokio::test]
async fn a_large_message_of_a_client_ends_its_socket() {
    let server = live().await;
    let mut socket = server.socket("btcusdt").await;
    socket.send(Message::text("x".repeat(100_000))).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    server.socket("btcusdt").await;
}

#[tokio::test]
async fn a_socket_that_reads_nothing_is_closed_and_the_others_go_on() {
    let server = live().await;
    let mut slow = server.socket("btcusdt").await;
    let mut other = server.socket("ic%20markets:1").await;
    // More than a socket may be behind, and more than the system's buffers hold.
    for _ in 0..100 {
        server.publish("BTCUSDT", (0..4096).map(f64::from)).await;
    }
    let mut close = None;
    while let Some(Ok(message)) = slow.next().await {
        if message.is_close() {
            close = Some(Ok(message));
            break;
        }
    }
    let (code, reason) = close_of(close);
    assert!(code == 1013 && reason.ends_with("connect again"), "{code} {reason}");
    server.publish("IC MARKETS:1", [7.0]).await;
    assert!(other.next().await.unwrap().unwrap().to_text().unwrap().contains("IC MARKETS:1"));
}

#[tokio::test]
async fn a_stream_of_firings_is_resumed_where_it_was_left() {
    let server = live().await;
    for name in ["X", "Y"] {
        let alert = json!({"user_id": 1, "symbols": [name], "rule": "above", "params": {"target": 1},
                           "lifecycle": {"repeat": "every"}});
        server.fixture.post_json("/api/v1/alerts", &alert).await;
    }
    let old = server.fixture.fire(1, 1).await;
    let (_, mut all) = server.stream("", "").await;
    let (_, mut of_y) = server.stream("?alert_id=2", "").await;
    let x = server.fixture.fire(1, 2).await;
    let y = server.fixture.fire(2, 3).await;
    let check = |event: &str, firing: &Firing| {
        let mut lines: Vec<_> = event.trim_end().lines().collect();
        lines.sort_unstable();
        let [data, name, id] = lines[..] else { panic!("not three lines: {event:?}") };
        assert_eq!((name, id), ("event: firing", &*format!("id: {}", firing.id)));
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(
            (data["id"].as_str(), data["alert_id"].as_i64()),
            (Some(&*firing.id.to_string()), Some(firing.alert.0))
        );
    };
    check(&of_y.next().await, &y);
    let (_, mut resumed) = server.stream("", &old.id.to_string()).await;
    check(&resumed.next().await, &x);
    let (_, mut after) = server.stream(&format!("?after={}", x.id), "").await;
    check(&after.next().await, &y);
    check(&all.next().await, &x);
    check(&all.next().await, &y);
}

#[tokio::test]
async fn a_stream_that_is_lost_before_its_first_firing_is_resumed_without_a_gap() {
    let server = live().await;
    let alert = json!({"user_id": 1, "symbols": ["X"], "rule": "above", "params": {"target": 1},
                       "lifecycle": {"repeat": "every"}});
    server.fixture.post_json("/api/v1/alerts", &alert).await;
    for round in 1..3 {
        let (cursor, lost) = server.stream("", "").await;
        drop(lost);
        let missed = server.fixture.fire(1, round).await;
        for (query, last_event_id) in [(String::new(), &*cursor), (format!("?after={cursor}"), "")] {
            let (again, mut resumed) = server.stream(&query, last_event_id).await;
            assert_eq!(again, cursor);
            let event = resumed.next().await;
            assert!(event.ends_with(&format!("id: {}", missed.id)), "behind {cursor}: {event}");
        }
    }
}

/// The answers to as many streams as there is room for, and to one more of each kind.
#[tokio::test]
async fn streams_are_so_many_and_one_that_ends_makes_room() {
    let server = live().await;
    let mut open = vec![];
    for _ in 1..MAX_STREAMS {
        open.push(server.stream("", "").await.1);
    }
    let socket = server.socket("btcusdt").await;
    for (path, upgrade) in [("api/v1/firings/stream", false), ("ws/trades/btcusdt", true), ("ws/trades/aapl", true)] {
        let mut request = reqwest::Client::new().get(format!("http://{}/{path}", server.address));
        if upgrade {
            request = request
                .header("connection", "upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        }
        let reply = request.send().await.unwrap();
        assert_eq!((reply.status().as_u16(), &reply.headers()["retry-after"]), (429, &"10".parse().unwrap()), "{path}");
        let problem: Value = reply.json().await.unwrap();
        assert_eq!(problem["type"], "urn:tocsin:problem:too-many-streams");
        assert!(problem["detail"].as_str().unwrap().contains("--max-streams"), "{problem}");
    }
    let health = server.fixture.get("/health").await.json();
    assert_eq!(health["streams"], json!({"open": MAX_STREAMS, "max": MAX_STREAMS, "refused": 3}), "{health}");
    assert!(health["problems"][0].as_str().unwrap().starts_with("streams are refused"), "{health}");
    drop((open.pop(), socket));
    for _ in 0..2 {
        // Its end is noticed in a moment.
        while server.fixture.get("/health").await.json()["streams"]["open"] == MAX_STREAMS {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        open.push(server.stream("", "").await.1);
    }
}

#[tokio::test]
async fn a_socket_that_answers_no_ping_is_closed() {
    let server = live().await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let request = "GET /ws/trades/btcusdt HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    silent.write_all(request.as_bytes()).await.unwrap();
    let mut answering = server.socket("btcusdt").await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(silent.read_u8().await.unwrap());
    }
    tokio::time::pause();
    let answers = async {
        let mut pings = 0;
        while let Some(Ok(message)) = answering.next().await {
            pings += u32::from(message.is_ping());
            if pings == 3 {
                return;
            }
        }
        panic!("a socket that answers was closed");
    };
    let mut frames = Vec::new();
    tokio::join!(answers, silent.read_to_end(&mut frames)).1.unwrap();
    assert!(frames.starts_with(&[0x89, 0, 0x88]), "a ping, then a close frame: {frames:?}");
    assert!(String::from_utf8_lossy(&frames).contains("connect again"));
}

#[tokio::test]
async fn a_stop_ends_streams_sockets_and_the_server() {
    let server = live().await;
    let mut socket = server.socket("btcusdt").await;
    let (_, mut stream) = server.stream("", "").await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n").await.unwrap();
    server.stop.cancel();
    assert_eq!(close_of(socket.next().await), (1001, "The server is stopping".to_owned()));
    socket.next().await;
    while stream.response.chunk().await.unwrap().is_some() {}
    server.running.await.unwrap().unwrap();
    let mut rest = Vec::new();
    // Cut or ended: either way it is over.
    let _ = idle.read_to_end(&mut rest).await;
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn a_body_over_the_limit_is_answered_on_the_wire() {
    let server = live().await;
    for (path, content_type, bytes) in [
        ("alerts", "application/json", 65 * 1024),
        ("rules", "application/wasm", 2 << 20),
        ("rules", "application/wasm", 16 << 20),
    ] {
        let request = reqwest::Client::new().post(format!("http://{}/api/v1/{path}", server.address));
        let reply = request.header("content-type", content_type).body(vec![b' '; bytes]).send().await.unwrap();
        assert_eq!(reply.status(), 413, "{bytes} bytes");
    }
}

#[tokio::test]
async fn a_body_that_will_be_too_large_is_refused_before_any_of_it_is_sent() {
    let server = live().await;
    for (path, content_type, expect) in [
        ("/api/v1/alerts", "application/json", "65536 bytes"),
        ("/api/v1/rules", "application/wasm", "1048576 bytes"),
        ("/alerts", "application/json", "65536 bytes"),
    ] {
        let mut connection = TcpStream::connect(server.address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n\
             Content-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n"
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // To the end: the connection is of no more use.
        connection.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains(expect), "{path}: {answer}");
        assert!(!answer.contains("100 Continue"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn headers_have_bounds() {
    let server = live().await;
    let many = "x: y\r\n".repeat(connections::MAX_HEADERS + 1);
    let large = format!("x: {}\r\n", "y".repeat(2 * connections::MAX_BUFFER_BYTES));
    for headers in [many, large] {
        let mut connection = TcpStream::connect(server.address).await.unwrap();
        connection
            .write_all(format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").as_bytes())
            .await
            .unwrap();
        let mut reply = [0; 12];
        connection.read_exact(&mut reply).await.unwrap();
        assert_eq!(&reply, b"HTTP/1.1 431");
    }
}
