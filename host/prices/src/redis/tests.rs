//! What only Redis has: keys that others share, writers that race, and a network that fails.

use std::time::Instant;

use redis::ConnectionAddr;
use tocsin_base::proxy::{Mode, Proxy};
use tocsin_bus::{Bus, EmbeddedBus, EmbeddedDb, LogConfig, system_clock};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::conformance::{ALL, History, candles, check_against_oracle, for_each_history};
use crate::projector::tests::committed_all;
use crate::testing::{Backend, Names, TestPrices, record, redis_address};
use crate::{Prices, project};

async fn ask<T: FromRedisValue>(command: &[&str]) -> T {
    let client = redis::Client::open(redis_address().connection_info()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn gostocks_reads_and_writes_the_same_keys() {
    let test_prices = TestPrices::make(Backend::Redis);
    let (name, symbol) = (test_prices.name("AAPL"), test_prices.symbol("AAPL"));
    let (price_key, time_key) = (format!("price:{name}"), format!("price:{name}:timestamp"));
    let shown =
        async || (ask::<Option<String>>(&["GET", &price_key]).await, ask::<Option<String>>(&["GET", &time_key]).await);
    let text = |text: &str| Some(text.to_owned());
    for (offset, price, expect) in [
        (0, 150.25, "150.25"),
        (1, 150.0, "150"),
        (2, 0.1 + 0.2, "0.30000000000000004"),
        (3, 1e21, "1000000000000000000000"),
    ] {
        test_prices.prices.apply(&[record(&name, 0, offset, price, 1.0, 1_700_000_000_000)]).await.unwrap();
        assert_eq!(shown().await, (text(expect), text("1700000000000")));
    }
    // Theirs is newer than the next of ours, and older than the one after that.
    let () = ask(&["MSET", &price_key, "99.500000", &time_key, "1700000000005"]).await;
    test_prices.prices.apply(&[record(&name, 0, 4, 1.0, 1.0, 1_700_000_000_004)]).await.unwrap();
    assert_eq!(test_prices.prices.get(&symbol).await.unwrap(), Some(Price { price: 99.5, time_ms: 1_700_000_000_005 }));
    test_prices.prices.apply(&[record(&name, 0, 5, 2.0, 1.0, 1_700_000_000_006)]).await.unwrap();
    assert_eq!(shown().await, (text("2"), text("1700000000006")));
    // A price without a time, and a time that is none.
    for time in ["", "soon"] {
        let () = ask(&["MSET", &price_key, "7", &time_key, time]).await;
        assert_eq!(test_prices.prices.get(&symbol).await.unwrap(), Some(Price { price: 7.0, time_ms: 0 }));
    }
    test_prices.prices.apply(&[record(&name, 0, 6, 3.0, 1.0, 0)]).await.unwrap();
    assert_eq!(shown().await, (text("3"), text("0")));
    let () = ask(&["SET", &price_key, "cheap"]).await;
    let error = test_prices.prices.get(&symbol).await.unwrap_err().to_string();
    assert!(error.contains("\"cheap\", which is no price"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projector_that_lives_on_takes_nothing_back_and_counts_nothing_twice() {
    let test_prices = TestPrices::make(Backend::Redis);
    for_each_history(60, async |history: History, case| {
        let records = Arc::new(history.records(&test_prices.name(&format!("CASE{case}"))));
        // Two of them, at once and out of step.
        let writers: Vec<_> =
            [history.deliveries(), history.deliveries().into_iter().map(|range| 0..range.end).collect()]
                .into_iter()
                .map(|deliveries| {
                    let (records, prices) = (records.clone(), RedisPrices::new(&redis_address()).unwrap());
                    tokio::spawn(async move {
                        for batch in deliveries {
                            while prices.apply(&records[batch.clone()]).await.is_err() {}
                        }
                    })
                })
                .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        check_against_oracle(&test_prices.prices, &records).await
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_forgotten_the_script_is_taught_again() {
    let test_prices = TestPrices::make(Backend::Redis);
    let tick = |offset| record(&test_prices.name("X"), 0, offset, 1.0, 1.0, 1);
    test_prices.prices.apply(&[tick(0)]).await.unwrap();
    let () = ask(&["SCRIPT", "FLUSH"]).await;
    test_prices.prices.apply(&[tick(1)]).await.unwrap();
    assert_eq!(candles(&test_prices.prices, &test_prices.symbol("X"), Interval::Hour, ALL).await[0].trades, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_refuses_is_told_until_it_takes_the_same_batch() {
    let test_prices = TestPrices::make(Backend::Redis);
    let (key, batch) = (series_key(&test_prices.symbol("X")), [record(&test_prices.name("X"), 0, 0, 1.0, 1.0, 1)]);
    let () = ask(&["RPUSH", &key, "a list"]).await;
    for _ in 0..2 {
        let error = test_prices.prices.apply(&batch).await.unwrap_err();
        assert!(error.may_pass() && error.to_string().contains("WRONGTYPE"), "{error}");
        let problems = test_prices.prices.problems().await;
        assert!(problems.len() == 1 && problems[0].contains("not brought up to date"), "{problems:?}");
    }
    let () = ask(&["DEL", &key]).await;
    test_prices.prices.apply(&batch).await.unwrap();
    assert_eq!(test_prices.prices.problems().await, Vec::<String>::new());
}

/// Prices behind a proxy, with little patience.
async fn behind_a_proxy() -> (Proxy, Prices) {
    let ConnectionAddr::Tcp(host, port) = redis_address().connection_info().addr().clone() else {
        panic!("{}", redis_address())
    };
    let proxy = Proxy::start(format!("{host}:{port}")).await;
    let address = redis_address().at("127.0.0.1", proxy.port());
    let patience = Duration::from_millis(300);
    (proxy, Prices::Redis(RedisPrices::with_timeouts(&address, patience, patience).unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_fail_in_time_and_recover() {
    let names = Names::new();
    let (proxy, prices) = behind_a_proxy().await;
    let symbol = Symbol::parse(&names.name("X")).unwrap();
    for mode in [Mode::Refuse, Mode::Cut, Mode::Stall, Mode::Refuse] {
        proxy.set(Mode::Pass);
        // Until the port is open again.
        while prices.get(&symbol).await.is_err() {}
        assert_eq!(prices.problems().await, Vec::<String>::new());
        proxy.set(mode);
        let began = Instant::now();
        let failing = async || loop {
            if let Err(error) = prices.get(&symbol).await {
                return error.to_string();
            }
        };
        let error = failing().await;
        assert!(error.starts_with(&format!("Redis at 127.0.0.1:{}: ", proxy.port())), "{error}");
        // Far below the minutes that TCP itself would take.
        assert!(began.elapsed() < Duration::from_secs(20), "{mode:?}");
        let problems = prices.problems().await;
        assert!(problems.len() == 1 && problems[0].starts_with("prices and candles cannot be read: "), "{problems:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_projector_waits_for_redis_and_loses_and_doubles_nothing() {
    let (names, folder) = (Names::new(), tempfile::tempdir().unwrap());
    let db = EmbeddedDb::open(folder.path()).unwrap();
    let bus = Bus::Embedded(EmbeddedBus::open(&db, LogConfig::default(), system_clock()).unwrap());
    let (proxy, prices) = behind_a_proxy().await;
    proxy.set(Mode::Refuse);
    let stop = CancellationToken::new();
    let running = tokio::spawn(project(bus.clone(), prices.clone(), stop.clone(), drop));
    let symbols: Vec<_> = (0..7).map(|i| names.name(&format!("S{i}"))).collect();
    let (mut offset, mut records) = (0, Vec::new());
    for mode in [Mode::Refuse, Mode::Pass, Mode::Delay(Duration::from_millis(5)), Mode::Cut, Mode::Stall, Mode::Refuse]
    {
        proxy.set(mode);
        for _ in 0..20 {
            let ticks: Vec<_> = (0..50).map(|i| tick_of(&symbols, offset + i)).collect();
            records.extend(ticks.iter().cloned());
            offset += 50;
            bus.publish(ticks).await.unwrap();
            tokio::task::yield_now().await;
        }
        if matches!(mode, Mode::Cut | Mode::Stall | Mode::Refuse) {
            while prices.problems().await.iter().all(|problem| !problem.contains("not brought up to date")) {}
            assert!(!running.is_finished());
        }
        // Connections that are cut all the time as well.
        for _ in 0..3 {
            proxy.set(Mode::Pass);
            tokio::task::yield_now().await;
            proxy.set(Mode::Cut);
        }
        proxy.set(Mode::Pass);
        committed_all(&bus).await;
    }
    while !prices.problems().await.is_empty() {}
    for (i, symbol) in symbols.iter().enumerate() {
        let own = records.iter().filter(|tick| tick.symbol.as_str() == symbol);
        let own: Vec<_> = own
            .zip(0..)
            .map(|(tick, offset)| record(symbol, 0, offset, tick.price, tick.volume, tick.time_ms))
            .collect();
        check_against_oracle(&prices, &own).await.unwrap_or_else(|error| panic!("symbol {i}: {error}"));
    }
    stop.cancel();
    running.await.unwrap().unwrap();
}

fn tick_of(symbols: &[String], i: usize) -> tocsin_engine::domain::Tick {
    // Times jump back and forth by a second and more.
    let time_ms = (i * 10 + i * 7_919 % 1_500) as i64;
    record(&symbols[i * 31 % symbols.len()], 0, 0, (i % 97) as f64 * 0.1, (i % 5) as f64 * 0.3, time_ms).tick
}
