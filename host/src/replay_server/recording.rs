//! Reads a recording: CSV with the columns `timestamp_ms,symbol,price,volume`, plain or gzip.
//!
//! The file is streamed by a thread of its own through a bounded queue, so a recording of any length takes the same
//! memory. A bad row ends the stream with an error that names it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};

use csv::ByteRecord;
use flate2::bufread::MultiGzDecoder;
use tocsin_engine::domain::{Conditions, Symbol, Tick};
use tokio::sync::mpsc;

/// Rows that are handed over at once.
const BATCH_ROWS: usize = 1_024;
/// Batches read ahead.
const BATCHES_AHEAD: usize = 8;
/// The first bytes of a gzip file (RFC 1952, 2.3.1).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// How much of a bad value is quoted, in characters.
const MAX_QUOTED_CHARS: usize = 80;
/// Distinct symbols that are kept to be shared by their rows. Past that a row makes its own.
const MAX_SHARED_SYMBOLS: usize = 10_000;

/// The columns, in the order of [`Columns`].
const COLUMNS: [&str; 4] = ["timestamp_ms", "symbol", "price", "volume"];

/// What is wrong with a recording, and where.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// It cannot be opened.
    #[error("{}: cannot be opened: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be read on, or is not CSV, or not whole gzip.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why; it names the line if the CSV is at fault.
        source: csv::Error,
    },
    /// Its first line lacks a column.
    #[error("{}, line 1: there is no column {column:?}; the first line must name timestamp_ms, symbol, price and volume", path.display())]
    Column {
        /// The file.
        path: PathBuf,
        /// The column that is missing.
        column: &'static str,
    },
    /// A row holds no tick.
    #[error("{}, line {line}, {field}: {value:?} {reason}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The column.
        field: &'static str,
        /// What it holds.
        value: String,
        /// What is wrong with that.
        reason: String,
    },
}

/// The rows of a recording, in batches, in order. The last item is the error, if there is one.
pub(super) type Rows = mpsc::Receiver<Result<Vec<Tick>, RecordingError>>;

/// Opens a recording, checks its first line, and begins to read it.
pub(super) fn open(path: &Path) -> Result<Rows, RecordingError> {
    let mut reader = Reader::open(path)?;
    let (sender, rows) = mpsc::channel(BATCHES_AHEAD);
    tokio::task::spawn_blocking(move || {
        loop {
            let batch = reader.batch();
            let last = !matches!(&batch, Ok(rows) if rows.len() == BATCH_ROWS);
            // The server has ended.
            if sender.blocking_send(batch).is_err() || last {
                return;
            }
        }
    });
    Ok(rows)
}

struct Reader {
    path: PathBuf,
    csv: csv::Reader<Box<dyn Read + Send>>,
    /// Where each of [`COLUMNS`] is in a row.
    columns: [usize; 4],
    record: ByteRecord,
    symbols: HashMap<Vec<u8>, Symbol>,
}

impl Reader {
    fn open(path: &Path) -> Result<Self, RecordingError> {
        let failed = |source| RecordingError::Open { path: path.to_owned(), source };
        let mut file = BufReader::new(File::open(path).map_err(failed)?);
        let gzip = file.fill_buf().map_err(failed)?.starts_with(&GZIP_MAGIC);
        let bytes: Box<dyn Read + Send> = if gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
        let mut csv = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
        let header = csv.headers().map_err(|source| RecordingError::Read { path: path.to_owned(), source })?;
        let mut columns = [0; 4];
        for (index, column) in columns.iter_mut().zip(COLUMNS) {
            *index = header
                .iter()
                .position(|name| name == column)
                .ok_or_else(|| RecordingError::Column { path: path.to_owned(), column })?;
        }
        Ok(Self { path: path.to_owned(), csv, columns, record: ByteRecord::new(), symbols: HashMap::new() })
    }

    /// The next rows: fewer than [`BATCH_ROWS`] only at the end.
    fn batch(&mut self) -> Result<Vec<Tick>, RecordingError> {
        let mut rows = Vec::with_capacity(BATCH_ROWS);
        while rows.len() < BATCH_ROWS {
            let more = self.csv.read_byte_record(&mut self.record);
            if !more.map_err(|source| RecordingError::Read { path: self.path.clone(), source })? {
                break;
            }
            rows.push(self.row()?);
        }
        Ok(rows)
    }

    fn row(&mut self) -> Result<Tick, RecordingError> {
        let symbol = self.symbol()?;
        let time_ms: i64 = self.number(0, "is not a whole number of Unix milliseconds")?;
        let price: f64 = self.number(2, "is not a number")?;
        let volume: f64 = self.number(3, "is not a number")?;
        Tick::new(symbol, price, volume, time_ms, Conditions::default()).map_err(|error| {
            let column = match error {
                tocsin_engine::domain::TickError::Time(_) => 0,
                tocsin_engine::domain::TickError::Price(_) => 2,
                tocsin_engine::domain::TickError::Volume(_) => 3,
            };
            self.bad(column, format!("is refused: {error}"))
        })
    }

    /// The row's symbol; rows of one symbol share its text.
    fn symbol(&mut self) -> Result<Symbol, RecordingError> {
        let bytes = &self.record[self.columns[1]];
        if let Some(symbol) = self.symbols.get(bytes) {
            return Ok(symbol.clone());
        }
        let text = str::from_utf8(bytes).map_err(|_| self.bad(1, "is not UTF-8".to_owned()))?;
        let symbol = Symbol::parse(text).map_err(|error| self.bad(1, error.to_string()))?;
        if self.symbols.len() < MAX_SHARED_SYMBOLS {
            self.symbols.insert(bytes.to_owned(), symbol.clone());
        }
        Ok(symbol)
    }

    fn number<N: std::str::FromStr>(&self, column: usize, reason: &str) -> Result<N, RecordingError> {
        let text = str::from_utf8(&self.record[self.columns[column]]).ok();
        text.and_then(|text| text.parse().ok()).ok_or_else(|| self.bad(column, reason.to_owned()))
    }

    fn bad(&self, column: usize, reason: String) -> RecordingError {
        let value = String::from_utf8_lossy(&self.record[self.columns[column]]);
        RecordingError::Row {
            path: self.path.clone(),
            line: self.record.position().map_or(0, csv::Position::line),
            field: COLUMNS[column],
            value: value.chars().take(MAX_QUOTED_CHARS).collect(),
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<Tick>, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let name = file.path().display().to_string();
        let rows = Reader::open(file.path()).and_then(|mut reader| reader.batch());
        rows.map_err(|error| error.to_string().replace(&name, "FILE"))
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    const GOOD: &[u8] = b"timestamp_ms,symbol,price,volume\n7,eurusd,1.14543,2.06\n6,EURUSD,-1,0\n";

    #[test]
    fn plain_and_gzip_read_alike() {
        let rows = read(GOOD).unwrap();
        let eurusd = Symbol::parse("EURUSD").unwrap();
        let expect = [(1.14543, 2.06, 7), (-1.0, 0.0, 6)]
            .map(|(price, volume, ms)| Tick::new(eurusd.clone(), price, volume, ms, Conditions::default()).unwrap());
        assert_eq!(rows, expect);
        assert_eq!(read(&gzip(GOOD)).unwrap(), expect);
        // gzip files may be put one after the other, as by `cat`.
        let two = [gzip(GOOD), gzip(b"5,EURUSD,2,2\n")].concat();
        assert_eq!(read(&two).unwrap().len(), 3);
    }

    #[test]
    fn columns_are_found_by_name() {
        let rows = read(b"price,note,volume,timestamp_ms,symbol\n1.5,x,2,9,A\n").unwrap();
        assert_eq!((rows[0].price, rows[0].volume, rows[0].time_ms), (1.5, 2.0, 9));
    }

    #[test]
    fn an_error_names_the_place_and_what_is_wrong() {
        let row = |row: &str| [GOOD, row.as_bytes()].concat();
        for (bytes, message) in [
            (row("x,A,1,1\n"), r#"FILE, line 4, timestamp_ms: "x" is not a whole number of Unix milliseconds"#),
            (
                row("1,,1,1\n"),
                r#"FILE, line 4, symbol: "" is empty; give an instrument such as AAPL or BINANCE:BTCUSDT"#,
            ),
            (row("1,A,much,1\n"), r#"FILE, line 4, price: "much" is not a number"#),
            (row("1,A,NaN,1\n"), r#"FILE, line 4, price: "NaN" is refused: price NaN is not a finite number"#),
            (
                row("1,A,1,-2\n"),
                r#"FILE, line 4, volume: "-2" is refused: volume -2 is not a finite number of at least 0"#,
            ),
            (
                row("1,A,1\n"),
                "FILE: cannot be read: CSV error: record 3 (line: 4, byte: 69): found record with 3 fields",
            ),
            (b"timestamp_ms,symbol,price\n".to_vec(), "FILE, line 1: there is no column \"volume\""),
            (Vec::new(), "FILE, line 1: there is no column \"timestamp_ms\""),
            (gzip(GOOD)[..30].to_vec(), "FILE: cannot be read: "),
        ] {
            let error = read(&bytes).unwrap_err();
            assert!(error.starts_with(message), "{error}");
        }
        let missing = Reader::open(Path::new("/nowhere/ticks.csv")).err().unwrap().to_string();
        assert!(missing.starts_with("/nowhere/ticks.csv: cannot be opened: "), "{missing}");
    }

    #[tokio::test]
    async fn a_long_recording_comes_in_order_and_ends() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "timestamp_ms,symbol,price,volume").unwrap();
        for n in 0..BATCH_ROWS * 3 {
            writeln!(file, "{n},A,1,1").unwrap();
        }
        let mut rows = open(file.path()).unwrap();
        let mut times = Vec::new();
        while let Some(batch) = rows.recv().await {
            times.extend(batch.unwrap().iter().map(|tick| tick.time_ms));
        }
        assert_eq!(times, (0..BATCH_ROWS as i64 * 3).collect::<Vec<_>>());
    }
}
