//! A recorded file through all of the binary: `tocsin feed` plays it, the Finnhub client reads it, the rules evaluate it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tocsin_testdata::Trade;

use crate::server::{FeedServer, Server, wait_for};
use crate::stack::Stack;

/// The trades of each symbol of a file, in order.
pub(crate) type Symbols<'a> = BTreeMap<&'a str, Vec<&'a Trade>>;

/// How Tocsin runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deployment {
    /// One process, with everything embedded.
    Alone,
    /// A process or two for each role, over Kafka, Redis and PostgreSQL.
    ByRole,
}

/// Plays a file at full speed to alerts that were there before it, and returns every firing, as the REST API lists it.
/// `prepare` creates the alerts and answers how many firings are due.
pub(crate) fn play(
    deployment: Deployment,
    path: &Path,
    symbols: &Symbols<'_>,
    prepare: impl FnOnce(&Server) -> usize,
) -> Vec<Value> {
    match deployment {
        Deployment::Alone => play_alone(path, symbols, prepare),
        Deployment::ByRole => play_by_role(path, symbols, prepare),
    }
}

fn play_by_role(path: &Path, symbols: &Symbols<'_>, prepare: impl FnOnce(&Server) -> usize) -> Vec<Value> {
    let (stack, folder) = (Stack::make(), tempfile::tempdir().unwrap());
    let feed = FeedServer::start(path, symbols.len());
    let tickers = symbols.keys().copied().collect::<Vec<_>>().join(",");
    let feeding = ["--finnhub-url", &feed.url, "--tickers", &tickers];
    let start = |name: &str, role| stack.start(&made(folder.path().join(name)), role, &feeding);
    let api = start("api", "api");
    let due = prepare(&api);
    let others =
        [("evaluate-1", "evaluate"), ("evaluate-2", "evaluate"), ("project", "project"), ("deliver", "deliver")];
    let others = others.map(|(name, role)| start(name, role));
    let ingest = start("ingest", "ingest");
    wait_for_all(&api, symbols, due);
    for server in [ingest].into_iter().chain(others) {
        assert_eq!(server.stop(), Some(0));
    }
    let firings = api.firings();
    assert_eq!(api.stop(), Some(0));
    firings
}

fn made(folder: PathBuf) -> PathBuf {
    std::fs::create_dir(&folder).unwrap();
    folder
}

/// Waits until all trades have come in, and all that is due has fired.
fn wait_for_all(server: &Server, symbols: &Symbols<'_>, due: usize) {
    wait_for("all trades to come in", || {
        symbols.iter().all(|(symbol, trades)| {
            let last = trades.iter().map(|trade| trade.time_ms).max();
            server.get(&format!("/price/{symbol}"))["timestamp"].as_i64() == last
        })
    });
    let mut firings = Vec::new();
    wait_for("all alerts to fire", || {
        server.read_firings(&mut firings);
        firings.len() >= due
    });
}

fn play_alone(path: &Path, symbols: &Symbols<'_>, prepare: impl FnOnce(&Server) -> usize) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let feed = FeedServer::start(path, symbols.len());
    // Alerts first: the server takes no ticks until it is started again with the feed.
    let quiet = Server::start(folder.path(), &["--feed", "none"]);
    let due = prepare(&quiet);
    assert_eq!(quiet.stop(), Some(0));

    let tickers = symbols.keys().copied().collect::<Vec<_>>().join(",");
    let server = Server::start(folder.path(), &["--finnhub-url", &feed.url, "--tickers", &tickers]);
    wait_for_all(&server, symbols, due);
    // What must not fire has had the time that it takes to stop cleanly.
    assert_eq!(server.stop(), Some(0));
    Server::start(folder.path(), &["--feed", "none"]).firings()
}
