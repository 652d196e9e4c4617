//! `tocsin feed`: a local server that replays a recording.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::output::Output;
use super::table::{pairs, table};
use crate::config::from_one;
use crate::replay_server::{self, ReplayOptions, ReplayReport, Speed};
use crate::telemetry::{self, LogFormat};

pub(super) const LONG_ABOUT: &str = "Replays recorded trades to subscribers, in Finnhub's protocol: a server of \
    prices for trying rules, and for tests.\n\n\
    Playback moves while a client is subscribed. GET /price keeps the price with the newest event time: give a server \
    that listens to an old recording a data folder of its own, or it goes on showing what a newer feed said. On request it misbehaves as real feeds do: it drops connections, \
    sends garbage, refuses tokens and subscriptions.";

/// What to replay, and how
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tocsin feed --file ticks.csv.gz --speed 100x
  FINNHUB_URL=ws://127.0.0.1:9001 TICKERS=AAPL tocsin serve --data-dir ./replayed
                                                                  a server that listens to it
  tocsin feed --file ticks.csv --speed max --drop-every 1000 --close-at-end

The file is CSV with the columns timestamp_ms,symbol,price,volume, plain or gzip.")]
pub struct FeedArgs {
    /// The recording
    #[arg(long, value_name = "FILE")]
    file: PathBuf,

    /// Address to listen on; port 0 for any
    #[arg(long, default_value = "127.0.0.1:9001", value_name = "ADDR")]
    listen: SocketAddr,

    /// A multiple of the recording's own speed such as 100x, or max
    #[arg(long, default_value_t = Speed::REAL_TIME)]
    speed: Speed,

    /// Refuse connections that do not give this ?token=
    #[arg(long)]
    token: Option<String>,

    /// Drop a connection after so many trades
    #[arg(long, value_name = "N", value_parser = from_one::<u64>)]
    drop_every: Option<u64>,

    /// Send a frame of garbage after so many frames
    #[arg(long, value_name = "N", value_parser = from_one::<u64>)]
    garbage_every: Option<u64>,

    /// Refuse subscriptions past so many on a connection
    #[arg(long, default_value_t = 50, value_name = "N")]
    max_symbols: usize,

    /// Wait until so many symbols are subscribed
    #[arg(long, default_value_t = 1, value_name = "N")]
    start_after: usize,

    /// The most trades in a frame
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = from_one::<usize>)]
    trades_per_frame: usize,

    /// End with the file, in place of staying up
    #[arg(long)]
    close_at_end: bool,
}

/// Serves until the end or a signal, then reports what was sent.
pub(super) async fn run(args: FeedArgs, output: Output) -> Result<(), Failure> {
    telemetry::start(LogFormat::Auto, "info").map_err(Failure::Local)?;
    let address = args.listen;
    let listener = TcpListener::bind(address).await.map_err(|error| {
        Failure::Local(format!("cannot listen on {address}: {error}; choose another address with --listen"))
    })?;
    let stop = CancellationToken::new();
    crate::signals::cancel_on_signal(stop.clone());
    let report =
        replay_server::run(args.into(), listener, stop).await.map_err(|error| Failure::Local(error.to_string()))?;
    let sent: serde_json::Map<_, _> = report.sent.iter().map(|(symbol, n)| (symbol.to_string(), json!(n))).collect();
    let value = json!({
        "sent": sent, "total_sent": report.total_sent(), "passed_over": report.passed_over, "drops": report.drops,
        "garbage": report.garbage, "finished": report.finished,
    });
    output.result(&value, || render(&report))
}

impl From<FeedArgs> for ReplayOptions {
    fn from(args: FeedArgs) -> Self {
        Self {
            file: args.file,
            speed: args.speed,
            token: args.token,
            drop_every: args.drop_every,
            garbage_every: args.garbage_every,
            max_symbols: args.max_symbols,
            start_after: args.start_after,
            trades_per_frame: args.trades_per_frame,
            close_at_end: args.close_at_end,
        }
    }
}

fn render(report: &ReplayReport) -> String {
    let mut rows: Vec<_> = report.sent.iter().map(|(symbol, n)| vec![symbol.to_string(), n.to_string()]).collect();
    rows.push(vec!["all".into(), report.total_sent().to_string()]);
    let rest = pairs(&[
        ("passed over", report.passed_over.to_string()),
        ("drops", report.drops.to_string()),
        ("garbage", report.garbage.to_string()),
        ("file", if report.finished { "played to its end".into() } else { "not played to its end".into() }),
    ]);
    format!("{}\n{rest}", table(&["SYMBOL", "SENT"], &rows))
}
