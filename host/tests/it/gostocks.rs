//! GoStocks' own parts beside Tocsin's processes: its producer, its gRPC client, and whoever reads its keys in Redis.

use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message as _;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;
use tocsin_proto::alert::alert_service_client::AlertServiceClient;
use tocsin_proto::alert::{AlertCondition, CreateAlertRequest, GetAlertsRequest};

use crate::server::{PATIENCE, Server, wait_for};
use crate::stack::Stack;

const NO_FEED: [&str; 2] = ["--feed", "none"];

/// As GoStocks has it: three fields.
#[derive(Clone, PartialEq, prost::Message)]
struct StockTick {
    #[prost(string, tag = "1")]
    symbol: String,
    #[prost(double, tag = "2")]
    price: f64,
    #[prost(int64, tag = "3")]
    timestamp: i64,
}

/// Where sarama's hash partitioner puts a key: FNV-1a, as a signed number, without its sign.
fn sarama_partition(key: &str, partitions: i32) -> i32 {
    let hash = key.bytes().fold(2_166_136_261_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
    (hash.cast_signed() % partitions).abs()
}

#[test]
fn a_producer_a_client_and_a_reader_of_gostocks_work_unchanged() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (stack, folders) = (Stack::make(), [(); 4].map(|()| tempfile::tempdir().unwrap()));
    let roles = ["api", "evaluate", "project", "deliver"];
    let servers: Vec<Server> =
        roles.iter().zip(&folders).map(|(role, folder)| stack.start(folder.path(), role, &NO_FEED)).collect();
    let api = &servers[0];

    let mut client = runtime.block_on(AlertServiceClient::connect(api.grpc_url.clone())).unwrap();
    let request = CreateAlertRequest {
        user_id: 7,
        symbol: "AAPL".into(),
        target_price: 150.0,
        condition: AlertCondition::Above.into(),
    };
    let created = runtime.block_on(client.create_alert(request)).unwrap().into_inner();
    assert_eq!((created.alert_id, &*created.message), (1, "Alert created: AAPL ABOVE $150.00"));

    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", &stack.brokers).create().unwrap();
    let topic = format!("{}_ticks", stack.name);
    let partitions = producer.client().fetch_metadata(Some(&topic), PATIENCE).unwrap().topics()[0].partitions().len();
    let partition = sarama_partition("AAPL", partitions as i32);
    assert_ne!(partition as u32, crc32fast::hash(b"AAPL") % partitions as u32, "the partitioners differ here");
    for (i, price) in [149.5, 150.25, 151.0].into_iter().enumerate() {
        let tick = StockTick { symbol: "AAPL".into(), price, timestamp: now_ms + i as i64 };
        let value = tick.encode_to_vec();
        let record = FutureRecord::to(&topic).key("AAPL").payload(&value).partition(partition);
        runtime.block_on(async { producer.send_result(record).unwrap().await.unwrap().unwrap() });
    }

    let triggered = |client: &mut AlertServiceClient<_>| {
        let request = GetAlertsRequest { user_id: 7, active_only: false };
        runtime.block_on(client.get_alerts(request)).unwrap().into_inner().alerts[0].triggered
    };
    wait_for("the alert to be triggered", || triggered(&mut client));
    wait_for("the price in Redis", || stack.redis("GET price:AAPL") == "151");
    assert_eq!(stack.redis("GET price:AAPL:timestamp"), (now_ms + 2).to_string());
    let firings = api.firings();
    assert_eq!((firings.len(), &firings[0]["price"], &firings[0]["volume"]), (1, &150.25.into(), &0.0.into()));
    check_published(&stack, &firings[0]);
    for server in servers {
        assert_eq!(server.stop(), Some(0));
    }
}

/// The firing is on the topic of firings: keyed by its alert, with its id in a header.
fn check_published(stack: &Stack, firing: &Value) {
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", &stack.brokers).set("group.id", "reader").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = settings.create().unwrap();
    let topic = format!("{}_firings", stack.name);
    let metadata = consumer.fetch_metadata(Some(&topic), PATIENCE).unwrap();
    let mut all = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        all.add_partition_offset(&topic, partition.id(), Offset::Beginning).unwrap();
    }
    consumer.assign(&all).unwrap();
    let record = consumer.poll(PATIENCE).expect("the firing is published").unwrap();
    assert_eq!(record.key(), Some(&b"1"[..]));
    assert_eq!(&serde_json::from_slice::<Value>(record.payload().unwrap()).unwrap(), firing);
    let headers = record.headers().unwrap();
    let id = headers.iter().find(|header| header.key == "ce_id").and_then(|header| header.value);
    assert_eq!(id, firing["id"].as_str().map(str::as_bytes));
}
