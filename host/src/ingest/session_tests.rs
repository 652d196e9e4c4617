//! Sessions over an in-memory socket with the clock held still: what the peer does, and what comes of it.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tocsin_engine::domain::{Symbol, Tick};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::connect::{MAX_FRAME_BYTES, socket_config};
use super::log_tests::capture_log;
use super::protocol::Protocol;
use super::rejects::RejectLog;
use super::session::{Ended, Patience, Session};
use super::{FeedKind, FeedStatus, RejectReason, Secret};

const PATIENCE: Patience = Patience { quiet: Duration::from_secs(30), pong: Duration::from_secs(10) };

type Socket = WebSocketStream<DuplexStream>;

/// A session, its peer's end of the socket, and where its ticks go.
struct Rig {
    client: Socket,
    server: Socket,
    protocol: Protocol,
    sink: mpsc::Sender<Vec<Tick>>,
    status: FeedStatus,
}

/// A rig with one place in its sink and a socket that holds so many bytes.
async fn rig(socket_bytes: usize) -> (Rig, mpsc::Receiver<Vec<Tick>>) {
    let (ours, theirs) = tokio::io::duplex(socket_bytes);
    let (sink, ticks) = mpsc::channel(1);
    let symbols = ["AAPL", "IC MARKETS:1"].map(|text| Symbol::parse(text).unwrap()).to_vec();
    let rig = Rig {
        client: WebSocketStream::from_raw_socket(ours, Role::Client, Some(socket_config())).await,
        server: WebSocketStream::from_raw_socket(theirs, Role::Server, None).await,
        protocol: Protocol::Finnhub { url: "ws://feed.example".into(), key: Secret::new("sesame"), symbols },
        sink,
        status: FeedStatus::new(FeedKind::Finnhub),
    };
    (rig, ticks)
}

fn session<'a>(protocol: &'a Protocol, sink: &'a mpsc::Sender<Vec<Tick>>, status: &'a FeedStatus) -> Session<'a> {
    Session { protocol, sink, status, patience: PATIENCE, ticks: 0, refused: false, reject_log: RejectLog::default() }
}

impl Rig {
    /// Runs the session against a peer that does `script`, and returns how it ended.
    async fn play<T>(self, script: impl AsyncFnOnce(Socket, &FeedStatus) -> T) -> (Ended, T, FeedStatus) {
        let Self { mut client, server, protocol, sink, status } = self;
        let mut session = session(&protocol, &sink, &status);
        let (ended, seen) = tokio::join!(session.run(&mut client), script(server, &status));
        drop(sink);
        (ended, seen, status)
    }
}

fn trade(price: u32) -> Message {
    Message::text(format!(r#"{{"type":"trade","data":[{{"s":"AAPL","p":{price},"t":7,"v":1,"c":null}}]}}"#))
}

async fn prices(mut ticks: mpsc::Receiver<Vec<Tick>>) -> Vec<f64> {
    let mut prices = Vec::new();
    while let Some(batch) = ticks.recv().await {
        prices.extend(batch.iter().map(|tick| tick.price));
    }
    prices
}

#[tokio::test(start_paused = true)]
async fn a_session_subscribes_to_each_symbol_in_order() {
    let (rig, _ticks) = rig(4096).await;
    let script = async |mut server: Socket, _: &FeedStatus| {
        let mut heard = Vec::new();
        for _ in 0..2 {
            heard.push(server.next().await.unwrap().unwrap().into_text().unwrap().to_string());
        }
        heard
    };
    let (_, heard, _) = rig.play(script).await;
    assert_eq!(heard, [r#"{"symbol":"AAPL","type":"subscribe"}"#, r#"{"symbol":"IC MARKETS:1","type":"subscribe"}"#]);
}

#[tokio::test]
async fn others_run_between_two_frames_of_a_peer_that_never_pauses() {
    const FRAMES: usize = 50;
    let (Rig { mut client, mut server, protocol, status, .. }, _) = rig(1 << 20).await;
    let (sink, ticks) = mpsc::channel(FRAMES);
    for price in 0..FRAMES {
        server.feed(trade(price as u32)).await.unwrap();
    }
    server.flush().await.unwrap();
    let mut session = session(&protocol, &sink, &status);
    let mut turns = 0;
    let other = async {
        while ticks.len() < FRAMES {
            turns += 1;
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ended = session.run(&mut client) => panic!("{ended:?}"),
        () = other => {}
    }
    assert!(turns >= FRAMES / 2, "{turns} turns in {FRAMES} frames");
}

#[tokio::test(start_paused = true)]
async fn a_dead_peer_is_pinged_and_then_given_up() {
    let (rig, _ticks) = rig(4096).await;
    // The peer's end stays open, and nothing reads from it.
    let Rig { mut client, server: _server, protocol, sink, status } = rig;
    let began = Instant::now();
    let ended = session(&protocol, &sink, &status).run(&mut client).await;
    assert!(matches!(&ended, Ended::Lost(text) if text.contains("not even a pong")), "{ended:?}");
    assert_eq!(began.elapsed(), PATIENCE.quiet + PATIENCE.pong);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_peer_that_answers_pings_is_kept() {
    let (rig, ticks) = rig(4096).await;
    let script = async |mut server: Socket, _: &FeedStatus| {
        // Reading is what makes the library answer pings.
        let quiet = async { while let Some(Ok(_)) = server.next().await {} };
        assert!(tokio::time::timeout(Duration::from_secs(600), quiet).await.is_err(), "the client hung up");
        server.send(trade(5)).await.unwrap();
        server.close(None).await.unwrap();
    };
    let ((ended, ..), prices) = tokio::join!(rig.play(script), prices(ticks));
    assert!(matches!(&ended, Ended::Lost(text) if text.contains("closed the connection")), "{ended:?}");
    assert_eq!(prices, [5.0]);
}

#[tokio::test(start_paused = true)]
async fn bad_frames_are_counted_and_the_connection_survives() {
    let (rig, ticks) = rig(4096).await;
    let script = async |mut server: Socket, _: &FeedStatus| {
        let bad_trades = r#"{"type":"trade","data":[{"s":"","p":1,"t":1,"v":1},{"s":"A","p":1,"t":1,"v":-1},{}]}"#;
        for message in [
            trade(1),
            Message::text("}{"),
            Message::binary(vec![1, 2, 3]),
            Message::text(r#"{"type":"news"}"#),
            Message::text(r#"{"type":"trade"}"#),
            Message::text(bad_trades),
            Message::text(r#"{"type":"ping"}"#),
            trade(2),
        ] {
            server.send(message).await.unwrap();
        }
        server.close(None).await.unwrap();
    };
    let ((_, (), status), prices) = tokio::join!(rig.play(script), prices(ticks));
    assert_eq!(prices, [1.0, 2.0]);
    let snapshot = status.snapshot();
    assert_eq!((snapshot.frames, snapshot.ticks, snapshot.rejected_total()), (8, 2, 7));
    for reason in [
        RejectReason::NotJson,
        RejectReason::NotText,
        RejectReason::UnknownType,
        RejectReason::BadFrame,
        RejectReason::BadSymbol,
        RejectReason::BadVolume,
        RejectReason::BadTrade,
    ] {
        assert_eq!(snapshot.rejected_for(reason), 1, "{}", reason.label());
    }
}

#[tokio::test(start_paused = true)]
async fn rejected_frames_are_warned_of_now_and_then_without_the_key() {
    let (log, _guard) = capture_log();
    let (rig, ticks) = rig(1 << 16).await;
    let script = async |mut server: Socket, _: &FeedStatus| {
        let bad_price = r#"{"type":"trade","data":[{"s":"A","p":1,"t":1,"v":1},{"s":"BAD","p":1e999,"t":1,"v":1}]}"#;
        let bad_volume = r#"{"type":"trade","data":[{"s":"A","p":1,"t":1,"v":1},{"s":"B","p":1,"t":1,"v":-7}]}"#;
        for text in [&format!("sesame }}{{ {}", "x".repeat(1_000)), bad_price, bad_volume, "more"] {
            server.send(Message::text(text)).await.unwrap();
            sleep(Duration::from_secs(5)).await;
        }
        server.close(None).await.unwrap();
    };
    let _ = tokio::join!(rig.play(script), prices(ticks));
    let log = String::from_utf8(log.lock().unwrap().clone()).unwrap();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("gives no tick")).collect();
    let [first, second] = warnings[..] else { panic!("{log}") };
    assert!(first.contains(r#"reason="not_json" rejected=1 quote="*** }{ xxx"#) && first.len() < 400, "{first}");
    assert!(
        second.contains(r#"reason="bad_volume" rejected=2 quote="{\"s\":\"B\",\"p\":1,\"t\":1,\"v\":-7}""#),
        "{second}"
    );
    assert!(!log.contains("sesame"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn an_oversized_frame_costs_the_connection_and_is_counted() {
    let (rig, ticks) = rig(1 << 16).await;
    let Rig { mut client, mut server, protocol, sink, status } = rig;
    let ours = async {
        let ended = session(&protocol, &sink, &status).run(&mut client).await;
        drop((client, sink)); // as a supervisor does
        ended
    };
    let theirs = async {
        server.send(trade(1)).await.unwrap();
        // It fails once the client has hung up.
        let _ = server.send(Message::text("x".repeat(MAX_FRAME_BYTES + 1))).await;
    };
    let (ended, (), prices) = tokio::join!(ours, theirs, prices(ticks));
    assert!(matches!(&ended, Ended::Lost(text) if text.contains("too long")), "{ended:?}");
    assert_eq!(prices, [1.0]);
    assert_eq!(status.snapshot().rejected_for(RejectReason::TooLong), 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_sink_holds_the_reader_up_and_loses_nothing() {
    let (rig, ticks) = rig(256).await;
    let Rig { mut client, mut server, protocol, sink, status } = rig;
    let ours = async {
        session(&protocol, &sink, &status).run(&mut client).await;
        drop(sink);
    };
    let theirs = async {
        for price in 0..100 {
            server.send(trade(price)).await.unwrap();
        }
        server.close(None).await.unwrap();
    };
    let reading = async {
        sleep(Duration::from_secs(5)).await; // everything that can move has moved
        assert_eq!(status.snapshot().ticks, 2, "one in the sink, one in the reader's hand");
        prices(ticks).await
    };
    let ((), (), prices) = tokio::join!(ours, theirs, reading);
    assert_eq!(prices, (0..100).map(f64::from).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn too_many_symbols_is_explained_and_trades_go_on() {
    let (rig, ticks) = rig(4096).await;
    let script = async |mut server: Socket, _: &FeedStatus| {
        for _ in 0..3 {
            server.send(Message::text(r#"{"msg":"Subscribing to too many symbols","type":"error"}"#)).await.unwrap();
        }
        server.send(trade(4)).await.unwrap();
        server.close(None).await.unwrap();
    };
    let ((_, (), status), prices) = tokio::join!(rig.play(script), prices(ticks));
    assert_eq!(prices, [4.0]);
    let text = status.snapshot().last_error.unwrap().text;
    for part in ["2 symbols", "about 50", "TICKERS", "go on"] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_echoes_the_key_is_not_quoted_with_it() {
    let (rig, _ticks) = rig(4096).await;
    let script = async |mut server: Socket, _: &FeedStatus| {
        server.send(Message::text(r#"{"msg":"bad token sesame","type":"error"}"#)).await.unwrap();
        server.close(None).await.unwrap();
    };
    let (_, (), status) = rig.play(script).await;
    assert_eq!(status.snapshot().last_error.unwrap().text, "the server says: bad token ***");
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_when_nobody_reads_its_ticks() {
    let (rig, ticks) = rig(4096).await;
    drop(ticks);
    let script = async |mut server: Socket, _: &FeedStatus| server.send(trade(1)).await.unwrap();
    let (ended, ..) = rig.play(script).await;
    assert!(matches!(ended, Ended::SinkClosed), "{ended:?}");
}
