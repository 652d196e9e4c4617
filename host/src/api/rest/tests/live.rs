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

    /// Reads the event stream up to the end of the next event.
    async fn next_event(response: &mut reqwest::Response) -> String {
        let mut text = String::new();
        while !text.ends_with("\n\n") {
            text += std::str::from_utf8(&response.chunk().await.unwrap().expect("the stream goes on")).unwrap();
        }
        text
    }

    /// Opens the event stream and reads its first event; returns the cursor in that too.
    async fn stream(&self, query: &str, last_event_id: &str) -> (String, reqwest::Response) {
        let url = format!("http://{}/api/v1/firings/stream{query}", self.address);
        let request = reqwest::Client::new().get(url).header("last-event-id", last_event_id);
        let mut response = request.send().await.unwrap();
        let mut lines: Vec<_> = Self::next_event(&mut response).await.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        let cursor = lines.last().unwrap().strip_prefix("id: ").unwrap().to_owned();
        assert_eq!(lines[..3], [String::new(), format!(r#"data: {{"after":"{cursor}"}}"#), "event: cursor".to_owned()]);
        (cursor, response)
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
async fn a_ticker_that_is_not_allowed_is_told_by_the_close_frame() {
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
    assert_eq!(all.headers()["content-type"], "text/event-stream");
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
    check(&Live::next_event(&mut of_y).await, &y);
    let (_, mut resumed) = server.stream("", &old.id.to_string()).await;
    check(&Live::next_event(&mut resumed).await, &x);
    let (_, mut after) = server.stream(&format!("?after={}", x.id), "").await;
    check(&Live::next_event(&mut after).await, &y);
    // One chunk may hold both.
    let mut both = Live::next_event(&mut all).await;
    if both.matches("\n\n").count() == 1 {
        both += &Live::next_event(&mut all).await;
    }
    let (first, second) = both.split_once("\n\n").unwrap();
    check(first, &x);
    check(second, &y);
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
            let event = Live::next_event(&mut resumed).await;
            assert!(event.contains(&format!("id: {}\n", missed.id)), "behind {cursor}: {event}");
        }
    }
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
    while stream.chunk().await.unwrap().is_some() {}
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
