//! What is typed and set, and what comes of it.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Typed {
    #[command(flatten)]
    args: ServeArgs,
}

fn validate(args: &[&str]) -> Result<Settings, ConfigError> {
    Typed::parse_from(["tocsin"].iter().chain(args)).args.validate()
}

#[track_caller]
fn tickers(list: &str, expect: &[&str]) {
    let parsed = parse_tickers(list).unwrap();
    assert_eq!(parsed.iter().map(Symbol::as_str).collect::<Vec<_>>(), expect);
}

#[test]
fn tickers_are_trimmed_of_what_env_files_leave() {
    tickers(DEFAULT_TICKERS, &["AAPL", "BINANCE:BTCUSDT", "IC MARKETS:1"]);
    tickers(r#""btcusdt,ethusdt""#, &["BTCUSDT", "ETHUSDT"]);
    tickers(r#"\"btcusdt\", 'IC Markets:1' ,,aapl,AAPL"#, &["BTCUSDT", "IC MARKETS:1", "AAPL"]);
    assert!(parse_tickers(" , ").unwrap_err().to_string().contains("names no instrument"));
    assert!(parse_tickers("A,🚀").unwrap_err().to_string().contains("🚀"));
}

#[test]
fn the_feed_follows_key_and_url() {
    let kind = |args: &[&str]| validate(args).unwrap().feed.map(|feed| feed.kind().to_string());
    assert_eq!(kind(&[]).as_deref(), Some("simulated"));
    assert_eq!(kind(&["--finnhub-api-key", "k"]).as_deref(), Some("finnhub"));
    assert_eq!(kind(&["--finnhub-url", "ws://127.0.0.1:1"]).as_deref(), Some("finnhub"));
    assert_eq!(kind(&["--feed", "binance"]).as_deref(), Some("binance"));
    assert_eq!(kind(&["--feed", "none"]), None);
    assert_eq!(kind(&["--finnhub-api-key", " ", "--finnhub-url", ""]).as_deref(), Some("simulated"));
}

#[track_caller]
fn check_refused(args: &[&str], expect: &[&str]) {
    let error = validate(args).err().unwrap_or_else(|| panic!("{args:?} is taken")).to_string();
    assert!(expect.iter().all(|part| error.contains(part)), "{args:?}: {error}");
}

#[test]
fn a_feed_that_can_never_work_is_refused() {
    check_refused(&["--finnhub-url", "junk"], &["FINNHUB_URL: ", "ws://"]);
    check_refused(&["--feed", "finnhub", "--finnhub-url", "http://sesame"], &["FINNHUB_URL: its scheme", "wss"]);
    check_refused(&["--feed", "binance", "--binance-url", "https://127.0.0.1"], &["BINANCE_URL: its scheme"]);
    check_refused(&["--feed", "finnhub"], &["FINNHUB_API_KEY is not set", "TOCSIN_FEED"]);
    check_refused(&["--finnhub-url", "wss://WS.Finnhub.io"], &["FINNHUB_API_KEY is not set"]);
    let error = validate(&["--finnhub-api-key", "k", "--finnhub-url", "http://sesame"]).unwrap_err().to_string();
    assert!(!error.contains("sesame"), "a URL may hold a key: {error}");
    // A server of one's own decides for itself whether it wants a key.
    for url in ["ws://127.0.0.1:9001", "ws://feed:9001"] {
        assert!(validate(&["--feed", "finnhub", "--finnhub-url", url]).is_ok(), "{url}");
    }
    // What is not used is not looked at.
    assert!(validate(&["--feed", "simulated", "--finnhub-url", "junk"]).is_ok());
}

#[test]
fn nothing_of_what_there_must_be_something_is_refused() {
    for bad in [
        &["--workers", "0"][..],
        &["--retention-mib", "0"],
        &["--retention-hours", "0"],
        &["--max-connections", "0"],
        &["--max-streams", "0"],
    ] {
        let error = Typed::try_parse_from(["tocsin"].iter().chain(bad)).err().unwrap_or_else(|| panic!("{bad:?}"));
        assert!(error.to_string().contains("give a whole number from 1"), "{error}");
    }
    check_refused(&["--tickers", ""], &["TICKERS", "names no instrument"]);
    let huge = u64::MAX.to_string();
    assert_eq!(
        validate(&["--retention-mib", &huge, "--retention-hours", &huge]).unwrap().log.retention.retention_bytes,
        Some(u64::MAX)
    );
}

#[test]
fn evaluation_is_indexed_and_audited_by_default() {
    let options = |args: &[&str]| validate(args).unwrap().evaluator.evaluation;
    let (indexed, checked) = (Waking::Indexed, Waking::Checked);
    assert_eq!(
        options(&[]),
        EvaluationOptions { waking: indexed, audit_every_calls: 10_000, ..EvaluationOptions::default() }
    );
    assert_eq!(options(&["--waking", "checked", "--audit-every", "0"]).waking, checked);
    assert_eq!(options(&["--audit-every", "1"]).audit_every_calls, 1);
    let caps = validate(&["--max-bindings-per-rule", "7"]).unwrap().caps;
    assert_eq!(
        caps,
        BindingCaps { per_tenant: 2_000_000, per_rule: 7, bytes_per_tenant: 1 << 30, bytes_per_rule: 1 << 28 }
    );
    for bad in [&["--waking", "naive"][..], &["--audit-every", "-1"], &["--max-bindings-per-tenant", "many"]] {
        assert!(Typed::try_parse_from(["tocsin"].iter().chain(bad)).is_err(), "{bad:?}");
    }
}

#[test]
fn a_listener_beyond_loopback_is_refused() {
    let error = validate(&["--bind", "0.0.0.0"]).unwrap_err().to_string();
    assert!(error.contains("0.0.0.0") && error.contains("authentication"), "{error}");
    assert!(validate(&["--bind", "::1"]).is_ok());
}

const DATABASE: [&str; 2] = ["--database-url", "postgres://u:s3cret@h:1/d"];
const KAFKA: [&str; 2] = ["--kafka-brokers", "127.0.0.1:9092"];

#[test]
fn the_bus_follows_the_brokers() {
    assert!(validate(&[]).unwrap().kafka.is_none() && validate(&["--kafka-brokers", " ,"]).unwrap().kafka.is_none());
    let several = ["--kafka-brokers", " a:1, b:2,", "--partitions", "3", "--kafka-replication", "2"];
    let kafka = validate(&several).unwrap().kafka.unwrap();
    assert_eq!((kafka.ticks.brokers.as_str(), kafka.ticks.topic.as_str()), ("a:1,b:2", "market_ticks"));
    assert_eq!((kafka.ticks.partitions, kafka.ticks.replication), (3, Some(2)));
    assert_eq!((kafka.firings.topic.as_str(), kafka.firings.partitions), ("alert_firings", 3));
    let options = ["--kafka-options", "sasl.username=u sasl.password='s3 cret'"];
    let chosen = validate(&[&KAFKA[..], &options].concat()).unwrap().kafka.unwrap();
    let expect = [("sasl.username", "u"), ("sasl.password", "s3 cret")];
    assert_eq!(chosen.ticks.options, expect.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert!(!format!("{chosen:?}").contains("s3 cret"));
    check_refused(&["--kafka-brokers", "a:1,b"], &["KAFKA_BROKERS", "\"b\"", "HOST:PORT"]);
    for (wrong, expect) in [
        (["--kafka-topic", "a b"], ["KAFKA_TOPIC", "letters"]),
        (["--kafka-firings-topic", "market_ticks"], ["KAFKA_FIRINGS_TOPIC", "give another"]),
        (["--kafka-options", "colour=red"], ["KAFKA_OPTIONS", "colour"]),
        (["--kafka-options", "red"], ["KAFKA_OPTIONS", "word 1"]),
    ] {
        check_refused(&[KAFKA, wrong].concat(), &expect);
    }
}

#[test]
fn some_roles_need_backends_that_are_shared() {
    let names = |args: &[&str]| validate(&[&KAFKA[..], &DATABASE, args].concat()).unwrap().roles.names();
    let all = ["ingest", "project", "evaluate", "deliver", "api"];
    assert_eq!(validate(&[]).unwrap().roles.names(), all);
    assert_eq!(validate(&["--role", "api,project,ingest", "--role", "evaluate,deliver"]).unwrap().roles.names(), all);
    assert_eq!(names(&["--role", "evaluate", "--role", "ingest,evaluate"]), ["ingest", "evaluate"]);
    check_refused(&["--role", "deliver"], &["--role deliver", "set KAFKA_BROKERS and DATABASE_URL,"]);
    check_refused(&[&KAFKA[..], &["--role", "evaluate"]].concat(), &["set DATABASE_URL,"]);
    check_refused(&[&DATABASE[..], &["--role", "ingest"]].concat(), &["set KAFKA_BROKERS,"]);
    check_refused(&[&KAFKA[..], &DATABASE, &["--role", "api"]].concat(), &["set REDIS_ADDR,"]);
    assert_eq!(names(&["--role", "api", "--redis-addr", "127.0.0.1:6379"]), ["api"]);
    assert!(Typed::try_parse_from(["tocsin", "--role", "all"]).is_err());
}

#[test]
fn the_store_follows_the_database_url() {
    let store = |url: &str| validate(&["--database-url", url]).map(|settings| settings.store);
    assert!(matches!(validate(&[]).unwrap().store, StoreChoice::Sqlite));
    assert!(matches!(store(" ").unwrap(), StoreChoice::Sqlite));
    for url in ["postgres://u:s3cret@h:1/d", "user=u password=s3cret dbname=d host=h port=1 sslmode=disable"] {
        let chosen = format!("{:?}", store(url).unwrap());
        assert_eq!(chosen, "Postgres(DatabaseUrl(d at h:1 as u))");
    }
    let error = store("host=h password=s3cret colour=red").unwrap_err().to_string();
    assert!(error.starts_with("DATABASE_URL: \"colour\"") && !error.contains("s3cret"), "{error}");
}

#[test]
fn prices_are_embedded_unless_a_redis_is_named() {
    let redis = |address: &str| validate(&["--redis-addr", address]).map(|settings| settings.prices);
    assert!(redis("").unwrap().is_none());
    assert_eq!(redis("127.0.0.1:6379").unwrap().unwrap().to_string(), "127.0.0.1:6379");
    assert_eq!(redis("redis://:secret@cache/2").unwrap().unwrap().to_string(), "cache:6379, database 2");
    let error = redis("rediss://:secret@cache").unwrap_err().to_string();
    assert!(error.starts_with("REDIS_ADDR: TLS is not built in") && !error.contains("secret"), "{error}");
}
