//! Recorded trades for the tests of every crate, as plain structs; in [`modules`] hostile WebAssembly.
//!
//! The recordings belong to the exchanges and are not in this repository: they are read from `shared/data` beside it,
//! or from where `TOCSIN_SHARED_DATA` points. A test without them fails and says so; it never passes unseen.

pub mod costly;
pub mod hostile;
pub mod modules;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

pub mod reference;

/// The environment variable that names the folder of the recordings.
pub const FOLDER_VARIABLE: &str = "TOCSIN_SHARED_DATA";

/// One recorded trade, as its row has it: nothing is filtered.
#[derive(Clone, Debug, PartialEq)]
pub struct Trade {
    /// Event time, Unix milliseconds.
    pub time_ms: i64,
    /// The instrument, such as `BTCUSDT`.
    pub symbol: String,
    /// Price, in the instrument's currency.
    pub price: f64,
    /// Traded volume.
    pub volume: f64,
}

/// One recorded file, in its order.
pub struct Recording {
    /// The file's name without `.csv.gz`.
    pub name: String,
    /// Its trades, of one or more symbols.
    pub trades: Vec<Trade>,
}

impl Recording {
    /// The trades of each symbol, in the order of the symbols' first trades.
    pub fn by_symbol(&self) -> Vec<(&str, Vec<&Trade>)> {
        let mut symbols: Vec<(&str, Vec<&Trade>)> = Vec::new();
        for trade in &self.trades {
            match symbols.iter_mut().find(|(symbol, _)| *symbol == trade.symbol) {
                Some((_, trades)) => trades.push(trade),
                None => symbols.push((&trade.symbol, vec![trade])),
            }
        }
        symbols
    }
}

/// The folder of the recordings: `ticks/` and `frames/` are in it.
///
/// # Panics
/// When it is not there, saying where it was looked for.
pub fn folder() -> PathBuf {
    let folder = match std::env::var_os(FOLDER_VARIABLE) {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
    };
    assert!(
        folder.join("ticks").is_dir(),
        "no recorded trades in {}: put shared/data beside the repository, or set {FOLDER_VARIABLE} to its place",
        folder.display()
    );
    folder
}

/// Paths of the recorded trades (`ticks/*.csv.gz`), sorted.
///
/// # Panics
/// When there is none.
pub fn tick_files() -> Vec<PathBuf> {
    let folder = folder().join("ticks");
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.expect("a folder that opens can be listed").path()).filter(|p| is_ticks(p)).collect();
    assert!(!files.is_empty(), "{} holds no *.csv.gz", folder.display());
    files.sort();
    files
}

fn is_ticks(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.ends_with(".csv.gz"))
}

/// Reads one file of [`tick_files`].
///
/// # Panics
/// When it cannot be read, naming file and line.
pub fn read(path: &Path) -> Recording {
    let fail = |line: usize, why: &dyn std::fmt::Display| -> ! { panic!("{}:{line}: {why}", path.display()) };
    let file = File::open(path).unwrap_or_else(|e| fail(0, &e));
    let mut trades = Vec::new();
    for (index, line) in BufReader::new(GzDecoder::new(file)).lines().enumerate() {
        let line = line.unwrap_or_else(|e| fail(index + 1, &e));
        match (index, parse(&line)) {
            (0, _) if line == "timestamp_ms,symbol,price,volume" => {}
            (0, _) => fail(1, &"the header should be timestamp_ms,symbol,price,volume"),
            (_, Some(trade)) => trades.push(trade),
            (_, None) => fail(index + 1, &format!("not a trade: {line}")),
        }
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    Recording { name: name.trim_end_matches(".csv.gz").to_owned(), trades }
}

fn parse(line: &str) -> Option<Trade> {
    let mut columns = line.split(',');
    let mut next = || columns.next();
    let trade = Trade {
        time_ms: next()?.parse().ok()?,
        symbol: next()?.to_owned(),
        price: next()?.parse().ok()?,
        volume: next()?.parse().ok()?,
    };
    next().is_none().then_some(trade)
}

/// Reads all of [`tick_files`]: half a million trades and more, about a second.
pub fn recordings() -> Vec<Recording> {
    tick_files().iter().map(|path| read(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recording_is_read_whole() {
        let recordings = recordings();
        let rows =
            |part: &str| recordings.iter().filter(|r| r.name.contains(part)).map(|r| r.trades.len()).sum::<usize>();
        // As the recordings' README counts them.
        for (part, expect) in [("spot", 34_419), ("usdm", 35_389), ("future_us_ES", 500_000), ("fx_EURUSD", 7_284)] {
            assert_eq!(rows(part), expect, "{part}");
        }
        let spot = recordings.iter().find(|r| r.name.contains("spot")).unwrap();
        let (time_ms, symbol) = (1_723_161_255_342, "BTCUSDT".to_owned());
        assert_eq!(spot.trades[0], Trade { time_ms, symbol, price: 61_837.63, volume: 0.02 });
        let symbols: Vec<_> = spot.by_symbol().iter().map(|(symbol, trades)| (*symbol, trades.len())).collect();
        assert_eq!(symbols, [("BTCUSDT", 19_904), ("ETHUSDT", 14_515)]);
    }

    #[test]
    fn a_row_has_four_columns() {
        for bad in ["", "1,X,2", "1,X,2,3,4", "x,X,1,1", "1,X,one,1"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
