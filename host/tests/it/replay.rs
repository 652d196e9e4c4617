//! A recorded file through all of the binary: `tocsin feed` plays it, the Finnhub client takes it, the rules judge it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tocsin_testdata::Trade;

use crate::server::{FeedServer, Server, wait_for};

/// The trades of each symbol of a file, in order.
pub(crate) type Symbols<'a> = BTreeMap<&'a str, Vec<&'a Trade>>;

/// Plays a file at full speed to alerts that were there before it, and returns every firing, as the REST API lists it.
/// `prepare` creates the alerts and answers how many firings are due.
pub(crate) fn play(path: &Path, symbols: &Symbols<'_>, prepare: impl FnOnce(&Server) -> usize) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let feed = FeedServer::start(path, symbols.len());
    // Alerts first: the server takes no ticks until it is started again with the feed.
    let quiet = Server::start(folder.path(), &["--feed", "none"]);
    let due = prepare(&quiet);
    assert_eq!(quiet.stop(), Some(0));

    let tickers = symbols.keys().copied().collect::<Vec<_>>().join(",");
    let server = Server::start(folder.path(), &["--finnhub-url", &feed.url, "--tickers", &tickers]);
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
    // What must not fire has had the time that it takes to stop cleanly.
    assert_eq!(server.stop(), Some(0));
    Server::start(folder.path(), &["--feed", "none"]).firings()
}
