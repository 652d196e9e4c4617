//! Deliverers on a real Kafka, over each store.

use std::collections::BTreeMap;
use std::slice::from_ref;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, OwnedMessage};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tocsin_engine::domain::{Alert, Conditions, Firing, MAX_TIME_MS, Symbol, Tick};
use tocsin_health::{About, Health};
use tocsin_store::testing::samples::{create, firing, open};
use tocsin_store::testing::{Backend, TestStore, on_each_backend};
use tocsin_store::{Claim, Commit, OutboxLease};

use super::cloud_event;
use super::kafka::Publisher;
use super::*;

on_each_backend!(
    every_firing_is_told_once_in_its_alerts_order,
    what_was_told_and_not_acknowledged_is_told_again_with_the_same_id,
    two_deliverers_share_the_work,
);

fn config(owner: &str, topic: &str) -> DeliveryConfig {
    let brokers = std::env::var("TOCSIN_TEST_KAFKA_BROKERS")
        .expect("TOCSIN_TEST_KAFKA_BROKERS is not set: run `cargo xtask test`, which starts Kafka");
    let kafka = KafkaConfig { brokers, topic: topic.into(), partitions: 4, replication: None, options: Vec::new() };
    DeliveryConfig { owner: owner.into(), kafka, body: |firing| format!("{{\"offset\":{}}}", firing.position.offset) }
}

fn fresh_topic() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    format!("firings-{}-{:08x}", since.as_millis(), rand::random::<u32>())
}

struct Fixture {
    store: Store,
    claim: Claim,
    topic: String,
    _test_store: TestStore,
}

impl Fixture {
    async fn open(backend: Backend) -> Self {
        let (test_store, store, claim) = open(backend).await;
        Self { store, claim, topic: fresh_topic(), _test_store: test_store }
    }

    /// Records firings for the outbox, of these alerts in turn, at offsets from one on.
    async fn fire(&self, alerts: &[Alert], offsets: std::ops::Range<u64>) {
        let made = offsets.map(|offset| {
            let alert = &alerts[offset as usize % alerts.len()];
            (firing(alert, alert.bindings[0].id, offset), false)
        });
        let commit = Commit { firings: made.collect(), outbox: true, ..Commit::default() };
        self.store.commit(from_ref(&self.claim), &commit).await.unwrap();
    }

    /// Starts a deliverer; what stops it, and its end.
    fn start(&self, owner: &str) -> (CancellationToken, tokio::task::JoinHandle<()>) {
        let component = Health::new(About::default(), &[]).component("deliver");
        let (stop, config) = (CancellationToken::new(), config(owner, &self.topic));
        (stop.clone(), tokio::spawn(run(self.store.clone(), config, component, stop)))
    }

    /// Reads as many records of the topic as are asked for, and all that are there behind them.
    async fn read(&self, at_least: usize) -> Vec<OwnedMessage> {
        let config = config("", &self.topic).kafka;
        let partitions = config.ensure_topic().await.unwrap();
        let reading = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = config.client().set("group.id", "none").create().unwrap();
            let mut all = TopicPartitionList::new();
            for partition in 0..partitions.cast_signed() {
                all.add_partition_offset(&config.topic, partition, Offset::Beginning).unwrap();
            }
            consumer.assign(&all).unwrap();
            let mut read = Vec::new();
            loop {
                let wait = if read.len() < at_least { Duration::from_secs(60) } else { Duration::from_millis(500) };
                match consumer.poll(wait) {
                    Some(message) => read.push(message.unwrap().detach()),
                    None => return read,
                }
            }
        });
        reading.await.unwrap()
    }
}

fn header(message: &OwnedMessage, name: &str) -> String {
    let headers = message.headers().unwrap();
    let found = headers.iter().find(|header| header.key == name).unwrap();
    String::from_utf8(found.value.unwrap().to_vec()).unwrap()
}

/// The offsets of the ticks of each alert's firings, in the order in which they are first published.
fn told(messages: &[OwnedMessage]) -> BTreeMap<String, Vec<u64>> {
    let mut told: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for message in messages {
        let value: serde_json::Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
        let key = String::from_utf8(message.key().unwrap().to_vec()).unwrap();
        let offsets = told.entry(key).or_default();
        let offset = value["offset"].as_u64().unwrap();
        if !offsets.contains(&offset) {
            offsets.push(offset);
        }
    }
    told
}

async fn every_firing_is_told_once_in_its_alerts_order(backend: Backend) {
    const MANY: u64 = 2_500; // more than two batches
    let fixture = Fixture::open(backend).await;
    let alerts = [create(&fixture.store, 1).await, create(&fixture.store, 1).await, create(&fixture.store, 1).await];
    fixture.fire(&alerts, 0..MANY - 1).await;
    let (stop, running) = fixture.start("a");
    assert_eq!(fixture.read(MANY as usize - 1).await.len(), MANY as usize - 1);
    // One that is recorded while the deliverer waits.
    fixture.fire(&alerts, MANY - 1..MANY).await;
    let messages = fixture.read(MANY as usize).await;
    stop.cancel();
    running.await.unwrap();
    assert_eq!(messages.len(), MANY as usize);
    let ids: std::collections::BTreeSet<String> = messages.iter().map(|message| header(message, "ce_id")).collect();
    assert_eq!(ids.len(), MANY as usize);
    for (n, alert) in (0..).zip(&alerts) {
        let expect: Vec<u64> = (0..MANY).filter(|offset| offset % 3 == n).collect();
        assert_eq!(told(&messages)[&alert.id.0.to_string()], expect);
    }
    let lease = OutboxLease { owner: "z".into(), duration: Duration::ZERO };
    assert_eq!(fixture.store.lease_outbox(&lease, 10).await.unwrap(), [], "nothing is left to deliver");
}

async fn what_was_told_and_not_acknowledged_is_told_again_with_the_same_id(backend: Backend) {
    let fixture = Fixture::open(backend).await;
    let alerts = [create(&fixture.store, 1).await];
    fixture.fire(&alerts, 0..3).await;
    // As a deliverer does that dies right after the brokers' acknowledgement: its lease runs out.
    let lease = OutboxLease { owner: "dead".into(), duration: Duration::from_millis(100) };
    let leased = fixture.store.lease_outbox(&lease, 2).await.unwrap();
    let publisher = Publisher::open(&config("dead", &fixture.topic).kafka).await.unwrap();
    let body = config("dead", "").body;
    let events: Vec<_> = leased.into_iter().map(|(_, firing)| cloud_event::of(firing, body)).collect();
    assert_eq!(events.len(), 2);
    publisher.publish(&events).await.unwrap();
    let (stop, running) = fixture.start("b");
    let messages = fixture.read(5).await;
    stop.cancel();
    running.await.unwrap();
    let ids: Vec<String> = messages.iter().map(|message| header(message, "ce_id")).collect();
    assert_eq!((ids.len(), &ids[..2]), (5, &ids[2..4]), "twice with one id");
    assert_eq!(told(&messages).into_values().collect::<Vec<_>>(), [[0, 1, 2]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_overlaps_a_renewal_changes_no_alerts_order() {
    const FIRST: u64 = 1_000;
    const ALL: u64 = 1_500;
    let fixture = Fixture::open(Backend::Postgres).await;
    let database = fixture._test_store.database();
    let alerts = [create(&fixture.store, 1).await];
    fixture.fire(&alerts, 0..ALL).await;
    // A deliverer that stood still for longer than its lease, and renews it while another one leases.
    let lease = OutboxLease { owner: "late".into(), duration: Duration::ZERO };
    let leased = fixture.store.lease_outbox(&lease, FIRST as u32).await.unwrap();
    assert_eq!(leased.len(), FIRST as usize);
    database.slow_down("UPDATE", "outbox_owners").await;
    let (store, renewal) = (fixture.store.clone(), OutboxLease { duration: Duration::from_secs(600), ..lease });
    let renewing = tokio::spawn(async move { store.renew_outbox(&renewal).await.unwrap() });
    database.until_slowed_down().await;
    let (stop, running) = fixture.start("prompt");
    if renewing.await.unwrap() > 0 {
        // It would go on with what it takes for its own.
        fixture.read(1).await;
        let publisher = Publisher::open(&config("late", &fixture.topic).kafka).await.unwrap();
        let body = config("late", "").body;
        let events: Vec<_> = leased.into_iter().map(|(_, firing)| cloud_event::of(firing, body)).collect();
        publisher.publish(&events).await.unwrap();
    }
    let messages = fixture.read(ALL as usize).await;
    stop.cancel();
    running.await.unwrap();
    assert_eq!(told(&messages).into_values().collect::<Vec<_>>(), [(0..ALL).collect::<Vec<_>>()]);
}

async fn two_deliverers_share_the_work(backend: Backend) {
    const MANY: u64 = 3_000;
    let fixture = Fixture::open(backend).await;
    let mut alerts = Vec::new();
    for _ in 0..30 {
        alerts.push(create(&fixture.store, 1).await);
    }
    let running = ["a", "b"].map(|owner| fixture.start(owner));
    for begin in (0..MANY).step_by(100) {
        fixture.fire(&alerts, begin..begin + 100).await;
    }
    let messages = fixture.read(MANY as usize).await;
    for (stop, running) in running {
        stop.cancel();
        running.await.unwrap();
    }
    assert_eq!(messages.len(), MANY as usize, "none is told twice");
    for (n, alert) in (0..).zip(&alerts) {
        let expect: Vec<u64> = (0..MANY).filter(|offset| offset % 30 == n).collect();
        assert_eq!(told(&messages)[&alert.id.0.to_string()], expect, "in order");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_that_are_away_are_told_of_and_the_firings_are_given_back_at_the_stop() {
    let (_test_store, store, claim) = open(Backend::Sqlite).await;
    let alert = create(&store, 1).await;
    let made = vec![(firing(&alert, alert.bindings[0].id, 1), false)];
    store.commit(from_ref(&claim), &Commit { firings: made, outbox: true, ..Commit::default() }).await.unwrap();
    let mut config = config("a", "nowhere");
    config.kafka.brokers = "127.0.0.1:1".into();
    let (health, stop) = (Health::new(About::default(), &[]), CancellationToken::new());
    let running = tokio::spawn(run(store.clone(), config, health.component("deliver"), stop.clone()));
    while !health.report().await.problems.iter().any(|problem| problem.contains("firings wait for Kafka")) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.cancel();
    running.await.unwrap();
    let lease = OutboxLease { owner: "b".into(), duration: Duration::ZERO };
    assert_eq!(store.lease_outbox(&lease, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_firing_is_a_cloud_event_in_binary_mode() {
    let (_test_store, store, _) = open(Backend::Sqlite).await;
    let alert = create(&store, 1).await;
    let tick = Tick::new(Symbol::parse("S0").unwrap(), 1.5, 2.5, 1_723_161_256_322, Conditions::default()).unwrap();
    let made = Firing { tick, ..firing(&alert, alert.bindings[0].id, 7) };
    let id = made.id.to_string();
    let event = cloud_event::of(made, |firing| format!("[{}]", firing.position.offset));
    let source = format!("/tenants/default/alerts/{}", alert.id.0);
    assert_eq!((event.key, event.value.as_str()), (alert.id.0.to_string(), "[7]"));
    let expect = [
        ("ce_specversion", "1.0"),
        ("ce_id", &id),
        ("ce_source", &source),
        ("ce_type", "tocsin.alert.fired.v1"),
        ("ce_time", "2024-08-08T23:54:16.322Z"),
        ("content-type", "application/json"),
    ];
    assert_eq!(event.headers.each_ref().map(|(name, value)| (*name, value.as_str())), expect);
    for time_ms in [0, MAX_TIME_MS] {
        let tick = Tick::new(Symbol::parse("S0").unwrap(), 1.5, 2.5, time_ms, Conditions::default()).unwrap();
        let made = Firing { tick, ..firing(&alert, alert.bindings[0].id, 7) };
        let time = &cloud_event::of(made, |_| String::new()).headers[4].1;
        assert!(time.starts_with(if time_ms == 0 { "1970-01-01T00:00:00" } else { "9999-12-3" }), "{time}");
    }
}
