//! The real clients against real servers over the loopback: the feed server for Finnhub, recorded frames for Binance.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use futures_util::{SinkExt as _, StreamExt as _};
use tocsin_base::retry::RetryPolicy;
use tocsin_engine::domain::{Conditions, Symbol, Tick};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_util::sync::CancellationToken;

use super::log_tests::capture_log;
use super::recorded_tests::{capture, shared_data, texts};
use super::session::Patience;
use super::supervisor::Timing;
use super::{Feed, FeedKind, FeedSnapshot, FeedStatus, RejectReason, Secret, run_timed};
use crate::replay_server::{self, ReplayError, ReplayOptions, ReplayReport, Speed};

const KEY: &str = "sesame-0pen";
const EURUSD_2019: &str = "ticks/fx_EURUSD_dukascopy_bid_20190204_00h.csv.gz";
const EURUSD_2026: &str = "ticks/fx_EURUSD_dukascopy_bid_20260713_12h.csv.gz";
const CRYPTO: &str = "ticks/crypto_BTCUSDT_ETHUSDT_binance_spot_20240808_09.csv.gz";

/// Reconnects at once, so that a test with many drops is quick.
const IMPATIENT: Timing = Timing {
    retry: RetryPolicy { base: Duration::from_millis(1), cap: Duration::from_millis(5) },
    refused_retry: Duration::from_millis(5),
    connect: Duration::from_secs(10),
    patience: Patience { quiet: Duration::from_secs(30), pong: Duration::from_secs(10) },
};

fn symbols(texts: &[&str]) -> Vec<Symbol> {
    texts.iter().map(|text| Symbol::parse(text).unwrap()).collect()
}

/// The rows of a recording, read without the code under test.
fn rows(file: &str) -> Vec<Tick> {
    let mut text = String::new();
    MultiGzDecoder::new(std::fs::File::open(shared_data(file)).unwrap()).read_to_string(&mut text).unwrap();
    let row = |line: &str| {
        let cells: Vec<_> = line.split(',').collect();
        let number = |cell: usize| cells[cell].parse().unwrap();
        let symbol = Symbol::parse(cells[1]).unwrap();
        Tick::new(symbol, number(2), number(3), cells[0].parse().unwrap(), Conditions::default()).unwrap()
    };
    text.lines().skip(1).map(row).collect()
}

/// A feed server at work.
struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<Result<ReplayReport, ReplayError>>,
}

/// A fast server that knows the key.
fn options(file: impl AsRef<Path>) -> ReplayOptions {
    let mut options = ReplayOptions::new(file.as_ref());
    options.speed = Speed::Max;
    options.token = Some(KEY.into());
    options
}

async fn serve(options: ReplayOptions) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let running = tokio::spawn(replay_server::run(options, listener, stop.clone()));
    Server { address, stop, running }
}

impl Server {
    fn feed(&self, key: &str, asked: &[&str]) -> Feed {
        Feed::Finnhub { url: format!("ws://{}", self.address), key: Secret::new(key), symbols: symbols(asked) }
    }

    async fn end(self) -> ReplayReport {
        self.stop.cancel();
        self.running.await.unwrap().unwrap()
    }
}

/// Runs a feed until so many ticks have come, and looks a little longer in case there are more than there should be.
async fn collect(feed: Feed, count: usize) -> (Vec<Tick>, FeedSnapshot) {
    let (sink, mut batches) = mpsc::channel(4);
    let (status, stop) = (FeedStatus::new(feed.kind()), CancellationToken::new());
    let reading = async {
        let mut ticks: Vec<Tick> = Vec::new();
        while ticks.len() < count {
            ticks.extend(batches.recv().await.unwrap());
        }
        while let Ok(Some(more)) = tokio::time::timeout(Duration::from_millis(50), batches.recv()).await {
            ticks.extend(more);
        }
        let snapshot = status.snapshot();
        stop.cancel();
        (ticks, snapshot)
    };
    let ((), collected) = tokio::join!(run_timed(feed, sink, &status, IMPATIENT, stop.clone()), reading);
    collected
}

/// Runs a feed until its status is as wanted.
async fn watch(feed: Feed, wanted: impl Fn(&FeedSnapshot) -> bool) -> (FeedStatus, FeedSnapshot) {
    let (sink, mut batches) = mpsc::channel(4);
    let (status, stop) = (FeedStatus::new(feed.kind()), CancellationToken::new());
    let watching = async {
        while !wanted(&status.snapshot()) {
            let _ = tokio::time::timeout(Duration::from_millis(2), batches.recv()).await;
        }
        stop.cancel();
    };
    tokio::join!(run_timed(feed, sink, &status, IMPATIENT, stop.clone()), watching);
    let snapshot = status.snapshot();
    (status, snapshot)
}

#[track_caller]
fn assert_same(ticks: &[Tick], expect: &[Tick], case: &str) {
    let differ = ticks.iter().zip(expect).position(|(a, b)| a != b);
    assert_eq!(differ.map(|i| (i, &ticks[i], &expect[i])), None, "{case}");
    assert_eq!(ticks.len(), expect.len(), "{case}");
}

#[tokio::test]
async fn every_trade_arrives_once_and_in_order_whatever_the_server_does() {
    for file in [EURUSD_2019, EURUSD_2026] {
        let expect = rows(file);
        for (drop_every, garbage_every, trades_per_frame, speed) in [
            (None, None, 200, Speed::Max),
            (None, None, 1, Speed::Max),
            (None, None, 200, Speed::Times(20_000.0)),
            (Some(500), None, 200, Speed::Max),
            (None, Some(3), 50, Speed::Max),
            (Some(777), Some(2), 7, Speed::Max),
        ] {
            let case = format!("{file} {drop_every:?} {garbage_every:?} {trades_per_frame} {speed}");
            let server = serve(ReplayOptions {
                drop_every,
                garbage_every,
                trades_per_frame,
                speed,
                ..options(shared_data(file))
            });
            let server = server.await;
            let (ticks, snapshot) = collect(server.feed(KEY, &["EURUSD"]), expect.len()).await;
            assert_same(&ticks, &expect, &case);
            let report = server.end().await;
            assert!(report.finished, "{case}");
            assert_eq!(report.sent.values().copied().collect::<Vec<_>>(), [expect.len() as u64], "{case}");
            assert_eq!(report.drops, drop_every.map_or(0, |every| expect.len() as u64 / every), "{case}");
            assert_eq!(snapshot.reconnects, report.drops, "{case}");
            assert_eq!(snapshot.rejected_total() > 0, garbage_every.is_some(), "{case}: {snapshot:?}");
            assert_eq!(report.garbage > 0, garbage_every.is_some(), "{case}");
        }
    }
}

#[tokio::test]
async fn no_symbol_loses_a_trade_to_a_drop() {
    let expect = rows(CRYPTO);
    let mut options = options(shared_data(CRYPTO));
    (options.drop_every, options.start_after) = (Some(1_999), 2);
    let server = serve(options).await;
    let (ticks, snapshot) = collect(server.feed(KEY, &["BTCUSDT", "ETHUSDT"]), expect.len()).await;
    assert_same(&ticks, &expect, "two symbols");
    assert_eq!(snapshot.reconnects, expect.len() as u64 / 1_999);
    assert_eq!(server.end().await.sent.len(), 2);
}

#[tokio::test]
async fn every_connection_gets_what_it_subscribed_to() {
    let all = rows(CRYPTO);
    let of = |name: &str| all.iter().filter(|tick| tick.symbol.as_str() == name).cloned().collect::<Vec<_>>();
    let mut options = options(shared_data(CRYPTO));
    (options.start_after, options.drop_every) = (2, Some(6_000));
    let server = serve(options).await;
    let (both, one) = tokio::join!(
        collect(server.feed(KEY, &["ETHUSDT", "BTCUSDT"]), all.len()),
        collect(server.feed(KEY, &["ETHUSDT"]), of("ETHUSDT").len()),
    );
    assert_same(&both.0, &all, "subscribed to both");
    assert_same(&one.0, &of("ETHUSDT"), "subscribed to one");
    let report = server.end().await;
    assert_eq!((report.total_sent(), report.passed_over), (all.len() as u64, 0));
}

#[tokio::test]
async fn trades_that_nobody_wants_are_passed_over() {
    let all = rows(CRYPTO);
    let expect: Vec<_> = all.iter().filter(|tick| tick.symbol.as_str() == "ETHUSDT").cloned().collect();
    let server = serve(options(shared_data(CRYPTO))).await;
    let (ticks, _) = collect(server.feed(KEY, &["ETHUSDT", "AAPL"]), expect.len()).await;
    assert_same(&ticks, &expect, "ETHUSDT");
    // A client can have the last trade before the player has passed over those behind it.
    let report = server.end().await;
    assert_eq!(report.total_sent(), expect.len() as u64);
    assert!(!report.finished || report.passed_over == (all.len() - expect.len()) as u64, "{report:?}");
}

#[tokio::test]
async fn a_server_that_closes_at_the_end_has_sent_everything() {
    let expect = rows(EURUSD_2019);
    let server = serve(ReplayOptions { close_at_end: true, ..options(shared_data(EURUSD_2019)) }).await;
    let (ticks, snapshot) = collect(server.feed(KEY, &["EURUSD"]), expect.len()).await;
    assert_same(&ticks, &expect, "to the end");
    assert!(!snapshot.connected && snapshot.last_error.is_some());
    assert!(server.running.await.unwrap().unwrap().finished, "it ends by itself");
}

#[tokio::test]
async fn a_refused_key_is_told_apart_and_tried_again() {
    let server = serve(options(shared_data(EURUSD_2019))).await;
    let (_, snapshot) = watch(server.feed("another", &["EURUSD"]), |status| status.last_error.is_some()).await;
    let text = snapshot.last_error.unwrap().text;
    assert_eq!(text, "the key was refused (HTTP 401): check FINNHUB_API_KEY");
    assert_eq!((snapshot.connected, snapshot.ticks), (false, 0));

    // The right key on the same server, with a character that a URL cannot hold.
    let mut options = options(shared_data(EURUSD_2019));
    options.token = Some("a b&c+".into());
    let server = serve(options).await;
    watch(server.feed("a b&c+", &["EURUSD"]), |status| status.ticks > 0).await;
}

#[tokio::test]
async fn too_many_symbols_are_told_apart_and_the_accepted_go_on() {
    let expect = rows(EURUSD_2019);
    let server = serve(ReplayOptions { max_symbols: 2, ..options(shared_data(EURUSD_2019)) }).await;
    let (ticks, snapshot) = collect(server.feed(KEY, &["AAPL", "EURUSD", "MSFT", "TSLA"]), expect.len()).await;
    assert_same(&ticks, &expect, "the accepted one");
    let text = snapshot.last_error.unwrap().text;
    assert!(text.contains("4 symbols") && text.contains("about 50"), "{text}");
    assert!(snapshot.connected);
}

#[tokio::test]
async fn a_bad_recording_ends_the_server_with_its_place() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(file, "timestamp_ms,symbol,price,volume\n1,A,1,1\n2,A,x,1\n").unwrap();
    let server = serve(options(file.path())).await;
    let (sink, _ticks) = mpsc::channel(4);
    let (feed, stop) = (server.feed(KEY, &["A"]), CancellationToken::new());
    let status = FeedStatus::new(feed.kind());
    let client = run_timed(feed, sink, &status, IMPATIENT, stop.clone());
    let ended = async {
        let ended = server.running.await.unwrap();
        stop.cancel();
        ended.unwrap_err().to_string()
    };
    let ((), error) = tokio::join!(client, ended);
    assert!(error.ends_with(r#"line 3, price: "x" is not a number"#), "{error}");
}

#[tokio::test]
async fn the_key_is_shown_nowhere() {
    let (log, _guard) = capture_log();
    let mut shown = String::new();
    let file = shared_data(EURUSD_2019);
    let right = serve(ReplayOptions { drop_every: Some(1_000), max_symbols: 1, ..options(&file) }).await;
    let mut other = options(&file);
    other.token = Some("another".into());
    let wrong = serve(other).await;
    let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let url = |text: String| Feed::Finnhub { url: text, key: Secret::new(KEY), symbols: symbols(&["EURUSD", "A"]) };
    shown += &format!("{:?}", right.feed(KEY, &["EURUSD"]));
    for feed in [
        right.feed(KEY, &["EURUSD", "A"]),
        wrong.feed(KEY, &["EURUSD"]),
        url(format!("ws://{nobody}")),
        url(format!("wss://{}", right.address)),
        url(format!("ws://{}/{KEY}?token={KEY}", right.address)),
        url(format!("ws://me:{KEY}@{nobody}")),
        url(format!("http://{nobody}/{KEY}")),
    ] {
        let (status, snapshot) = watch(feed, |status| status.last_error.is_some()).await;
        shown += &format!("{status:?} {snapshot:?}\n");
    }
    let log = String::from_utf8(log.lock().unwrap().clone()).unwrap();
    for part in ["connected", "check FINNHUB_API_KEY", "retry_in_ms", "not the one of --token", " address=\"127.0.0.1:"]
    {
        assert!(log.contains(part), "the log was captured: {log}");
    }
    assert!(!log.contains(KEY), "{log}");
    assert!(!shown.contains(KEY), "{shown}");
}

#[tokio::test]
async fn binance_streams_are_read_through_disconnects() {
    let file = capture("binance_usdm_btcusdt_trade_hftbacktest");
    let trades: Vec<String> = texts(&file["trade_frames"]).into_iter().map(str::to_owned).collect();
    let mixed: Vec<String> = texts(&file["first_100_mixed_frames"]).into_iter().map(str::to_owned).collect();
    let expect: Vec<f64> = trades
        .iter()
        .chain(mixed.iter().filter(|text| text.contains(r#""e":"trade""#)))
        .map(|text| {
            let frame: serde_json::Value = serde_json::from_str(text).unwrap();
            frame["data"]["p"].as_str().unwrap().parse().unwrap()
        })
        .collect();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let feed = Feed::Binance {
        url: format!("ws://{}", listener.local_addr().unwrap()),
        symbols: symbols(&["BINANCE:BTCUSDT", "IC MARKETS:1", "ETHUSDT"]),
    };
    let server = tokio::spawn(async move {
        let mut asked = Vec::new();
        for frames in [trades, mixed] {
            let (stream, _) = listener.accept().await.unwrap();
            #[expect(clippy::result_large_err, reason = "the WebSocket library wants it so")]
            let note = |request: &Request, response: Response| {
                asked.push(request.uri().to_string());
                Ok(response)
            };
            let mut socket = tokio_tungstenite::accept_hdr_async(stream, note).await.unwrap();
            socket.send(Message::Ping(Bytes::from_static(b"1723161256322"))).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"1723161256322")));
            for frame in frames {
                socket.send(Message::text(frame)).await.unwrap();
            }
            socket.close(None).await.unwrap();
            while let Some(Ok(_)) = socket.next().await {}
        }
        asked
    });
    let (ticks, snapshot) = collect(feed, expect.len()).await;
    assert_eq!(ticks.iter().map(|tick| tick.price).collect::<Vec<_>>(), expect);
    assert!(ticks.iter().all(|tick| tick.symbol.as_str() == "BINANCE:BTCUSDT"));
    assert_eq!(ticks[0].time_ms, 1_723_161_256_322);
    assert_eq!((snapshot.kind, snapshot.reconnects), (FeedKind::Binance, 1));
    assert_eq!(snapshot.rejected_for(RejectReason::UnknownType), 76);
    assert_eq!(server.await.unwrap(), ["/stream?streams=btcusdt@aggTrade/ethusdt@aggTrade"; 2]);
}
