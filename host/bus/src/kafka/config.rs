//! What every client of a Kafka has in common, those of other rooms as well: settings, topics, and whether librdkafka takes
//! the options. Values of options may be secret, and are never shown.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::BaseProducer;
use rdkafka::util::Timeout;
use rdkafka::{ClientConfig, ClientContext};
use tracing::info;

use super::{BusError, REQUEST_TIMEOUT, failed, on_waiting_thread};

/// What librdkafka says of an option that it was built without.
const NOT_BUILT_IN: [&str; 2] = ["not available at build time", "recompile librdkafka"];

/// As many events of a client without an answer are looked at.
const MAX_EVENTS: usize = 32;

/// Parts of the names of options whose values are secret.
const SECRET_NAMES: [&str; 5] = ["password", "secret", "pem", "key", "oauthbearer.config"];

/// Where Kafka is, and how the topic is made if it is missing.
#[derive(Clone)]
pub struct KafkaConfig {
    /// Some of the brokers: `host:port`, comma-separated.
    pub brokers: String,
    /// The topic.
    pub topic: String,
    /// Partitions of a topic that is created.
    pub partitions: u32,
    /// Copies of each partition of a topic that is created; None for what the brokers have as their default.
    pub replication: Option<u32>,
    /// Settings of librdkafka: TLS, SASL. Those that a client here relies on come over them. They may hold secrets.
    pub options: Vec<(String, String)>,
}

impl KafkaConfig {
    /// Settings to begin a client with.
    pub fn client(&self) -> ClientConfig {
        self.client_with(&[])
    }

    /// The same with defaults that options may change.
    pub fn client_with(&self, defaults: &[(&str, &str)]) -> ClientConfig {
        let mut settings = ClientConfig::new();
        settings.set("bootstrap.servers", &self.brokers).set("client.id", "tocsin");
        for (name, value) in defaults {
            settings.set(*name, *value);
        }
        for (name, value) in &self.options {
            settings.set(name, value);
        }
        settings
    }

    /// The number of the topic's partitions; makes the topic if there is none.
    pub async fn ensure_topic(&self) -> Result<u32, BusError> {
        if let Some(partitions) = self.topic_partitions().await? {
            return Ok(partitions);
        }
        let admin: AdminClient<DefaultClientContext> = self.client().create().map_err(failed("create a client"))?;
        let replication = self.replication.map_or(-1, |copies| i32::try_from(copies).unwrap_or(i32::MAX));
        let partitions = i32::try_from(self.partitions).unwrap_or(i32::MAX);
        let topic = NewTopic::new(&self.topic, partitions, TopicReplication::Fixed(replication))
            // Published means appended.
            .set("message.timestamp.type", "LogAppendTime");
        let options = AdminOptions::new().operation_timeout(Some(Timeout::After(REQUEST_TIMEOUT)));
        let answers = admin.create_topics(&[topic], &options).await.map_err(failed("create the topic"))?;
        for answer in answers {
            match answer {
                Ok(_) => info!(topic = self.topic, partitions, "the topic is created"),
                // Another process was faster.
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(failed("create the topic")(KafkaError::AdminOp(code))),
            }
        }
        // Brokers hear of a new topic one after the other.
        for _ in 0..50 {
            if let Some(partitions) = self.topic_partitions().await? {
                return Ok(partitions);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(BusError::Kafka(format!("the topic {} was created, and the brokers do not know it", self.topic)))
    }

    /// The number of the topic's partitions, if there is one.
    async fn topic_partitions(&self) -> Result<Option<u32>, BusError> {
        let (settings, topic) = (self.client(), self.topic.clone());
        let found = on_waiting_thread(move || {
            let consumer: BaseConsumer<LastWord> =
                settings.create_with_context(LastWord::default()).map_err(failed("create a client"))?;
            let all = consumer.fetch_metadata(None, REQUEST_TIMEOUT);
            let all = all.map_err(|error| {
                BusError::Kafka(format!("{}{}", failed("tell their topics")(error), last_word(&consumer)))
            })?;
            Ok(all.topics().iter().find(|found| found.name() == topic).map(|found| found.partitions().len() as u32))
        });
        Ok(found.await?.filter(|partitions| *partitions > 0))
    }

    /// Whether librdkafka takes the options. Asks no broker.
    pub fn check(&self) -> Result<(), BusError> {
        let Err(error) = self.client().create::<BaseProducer>() else { return Ok(()) };
        let complaint = match error {
            // Any option may have been given what was meant for another.
            KafkaError::ClientConfig(_, complaint, name, value) if !value.is_empty() => {
                format!("{name}: {}", complaint.replace(&value, "***"))
            }
            KafkaError::ClientConfig(_, complaint, name, _) => format!("{name}: {complaint}"),
            other => other.to_string(),
        };
        let is_secret = |name: &str| SECRET_NAMES.iter().any(|part| name.contains(part));
        let secrets = self.options.iter().filter(|(name, value)| is_secret(name) && !value.is_empty());
        let mut complaint = secrets.fold(complaint, |complaint, (_, value)| complaint.replace(value, "***"));
        if NOT_BUILT_IN.iter().any(|part| complaint.contains(part)) {
            complaint += "; build with `--features kafka-full`, which brings TLS, SASL/SCRAM and zstd";
        }
        Err(BusError::Kafka(complaint))
    }
}

/// What librdkafka said last of why it has no connection: a refused password, a certificate of an unknown authority.
#[derive(Default)]
struct LastWord(Mutex<Option<String>>);

impl ClientContext for LastWord {
    fn error(&self, error: KafkaError, reason: &str) {
        // That all are down is no reason.
        if error == KafkaError::Global(RDKafkaErrorCode::AllBrokersDown) {
            return;
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
    }
}

impl ConsumerContext for LastWord {}

/// The last word of a client that had no answer, for the end of a sentence.
fn last_word(consumer: &BaseConsumer<LastWord>) -> String {
    // Each poll takes one event, if there is one.
    for _ in 0..MAX_EVENTS {
        let _ = consumer.poll(Duration::ZERO);
    }
    let word = consumer.context().0.lock().unwrap_or_else(PoisonError::into_inner).take();
    word.map_or_else(String::new, |word| format!(": {word}"))
}

/// Names of options without their values.
impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options: Vec<&str> = self.options.iter().map(|(name, _)| name.as_str()).collect();
        write!(f, "KafkaConfig({self}, {} partitions, options {options:?})", self.partitions)
    }
}

impl fmt::Display for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kafka at {}, topic {}", self.brokers, self.topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(options: &[(&str, &str)]) -> KafkaConfig {
        let options = options.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        KafkaConfig { brokers: "127.0.0.1:1".into(), topic: "ticks".into(), partitions: 8, replication: None, options }
    }

    #[track_caller]
    fn check_refused(options: &[(&str, &str)], expect: &str) {
        let error = config(options).check().unwrap_err().to_string();
        assert!(error.contains(expect) && !error.contains("s3cret"), "{options:?}: {error}");
    }

    #[test]
    fn options_are_checked_without_a_broker_and_their_values_told_to_nobody() {
        config(&[("client.rack", "a"), ("socket.keepalive.enable", "true")]).check().unwrap();
        check_refused(&[("colour", "s3cret")], "colour");
        check_refused(&[("socket.timeout.ms", "s3cret")], "socket.timeout.ms");
        check_refused(&[("security.protocol", "s3cret")], "security.protocol");
        let shown = format!("{0:?} {0}", config(&[("sasl.password", "s3cret")]));
        assert!(shown.contains("sasl.password") && !shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn options_come_over_defaults() {
        let settings = config(&[("linger.ms", "9")]).client_with(&[("linger.ms", "2"), ("acks", "1")]);
        assert_eq!((settings.get("linger.ms"), settings.get("acks")), (Some("9"), Some("1")));
    }

    #[tokio::test]
    async fn why_there_is_no_connection_is_told() {
        let error = config(&[]).ensure_topic().await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains("Connection refused"), "{error}");
    }

    #[test]
    #[cfg(not(feature = "kafka-full"))]
    fn what_needs_a_fuller_build_says_so() {
        check_refused(&[("security.protocol", "sasl_ssl")], "--features kafka-full");
        check_refused(&[("ssl.ca.location", "/ca.pem")], "--features kafka-full");
        let sasl = [("security.protocol", "sasl_plaintext"), ("sasl.mechanism", "SCRAM-SHA-256")];
        let user = [("sasl.username", "u"), ("sasl.password", "s3cret")];
        check_refused(&[sasl, user].concat(), "--features kafka-full");
    }
}
