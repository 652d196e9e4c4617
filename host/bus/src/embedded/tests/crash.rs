//! A process that is killed while it publishes loses nothing that was acknowledged.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use super::*;

/// Names the child's data folder.
const DIR_VARIABLE: &str = "TOCSIN_TEST_CRASH_DIR";

/// Kills of one folder.
const ROUNDS: usize = 5;

/// Small, so that segments roll and are dropped while processes are killed.
const CONFIG: LogConfig = LogConfig {
    partitions: 8,
    retention: Retention { retention_bytes: Some(4 << 20), retention_ms: None },
    min_free_bytes: 0,
};

/// Not a test of its own: what the killed process runs. Publishes without end from two tasks, and says on its output, a
/// line each, up to which price each symbol is acknowledged.
#[test]
#[ignore = "run as a child process by the test below"]
fn child() {
    let Ok(dir) = std::env::var(DIR_VARIABLE) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bus = open_with(dir.as_ref(), CONFIG, system_clock());
    let first: u64 = std::env::var("TOCSIN_TEST_CRASH_FIRST").unwrap().parse().unwrap();
    let publish = |task: u64| {
        let bus = bus.clone();
        async move {
            for price in first.. {
                let ticks = (0..5).map(|i| tick(&format!("SYM{}", task * 5 + i), price as f64)).collect();
                bus.publish(ticks).await.unwrap();
                writeln!(std::io::stdout(), "ack {task} {price}").unwrap();
            }
        }
    };
    runtime.block_on(async { tokio::join!(publish(0), publish(1)) });
}

fn start(dir: &Path, first: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded::tests::crash::child", "--ignored", "--nocapture"])
        .env(DIR_VARIABLE, dir)
        .env("TOCSIN_TEST_CRASH_FIRST", first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Lets a child publish until it has acknowledged `acks` calls, kills it, and says the last price that each of its tasks
/// had acknowledged.
fn run_and_kill(dir: &Path, first: u64, acks: usize) -> [Option<u64>; 2] {
    let mut child = start(dir, first);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = [None; 2];
    let mut take = |line: String| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "ack").skip(1);
        // The last line may be cut short; then it is not an acknowledgement.
        if let (Some(task), Some(Ok(price)), true) = (words.next(), words.next().map(str::parse), line.is_ascii()) {
            acknowledged[task.parse::<usize>().unwrap()] = Some(price);
        }
    };
    for line in lines.by_ref().take(acks) {
        take(line.unwrap());
    }
    // SIGKILL.
    child.kill().unwrap();
    child.wait().unwrap();
    // What it said between is acknowledged as well. The last line may have lost digits: it then says less, not more.
    for line in lines {
        take(line.unwrap());
    }
    acknowledged
}

#[tokio::test]
async fn a_killed_process_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..ROUNDS {
        let first = 1_000_000 * (round as u64 + 1);
        let acknowledged = run_and_kill(dir.path(), first, 50 + 700 * round);
        assert!(acknowledged.iter().any(Option::is_some), "the child published nothing");
        let bus = open_with(dir.path(), CONFIG, system_clock());
        let records = read_all(&bus).await;
        for (partition, offsets) in offsets(&records) {
            let earliest = bus.earliest(partition).await.unwrap();
            let end = bus.end(partition).await.unwrap();
            assert_eq!(offsets, (earliest..end).collect::<Vec<_>>(), "partition {partition} has a gap");
        }
        for symbol in 0..10 {
            let name = format!("SYM{symbol}");
            let of_symbol = records.iter().filter(|record| record.tick.symbol.as_str() == name);
            let prices: Vec<u64> = of_symbol.map(|record| record.tick.price as u64).filter(|p| *p >= first).collect();
            // Dense up to the last; retention may have taken the first ones.
            assert!(prices.windows(2).all(|pair| pair[1] == pair[0] + 1), "{name} has a gap or a double");
            if let Some(acknowledged) = acknowledged[symbol / 5] {
                assert!(prices.last() >= Some(&acknowledged), "{name}: {:?} < {acknowledged}", prices.last());
            }
        }
    }
}
