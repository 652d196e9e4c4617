//! Settings of Kafka: the bus, and the topic to which firings are delivered.

use clap::Args;
use tocsin_base::key_values::key_values;
use tocsin_bus::KafkaConfig;

use super::{ConfigError, from_one};

/// What may be written, for messages.
const OPTION_FORMS: &str = "librdkafka's settings as name=value name='a value'";

/// Where ticks and firings go
#[derive(Args, Clone, Debug)]
pub struct KafkaArgs {
    /// Kafka brokers, HOST:PORT, comma-separated [default: a log in the data folder]
    #[arg(long, env = "KAFKA_BROKERS", default_value = "", hide_default_value = true, value_name = "LIST")]
    pub kafka_brokers: String,

    /// Topic of ticks; made if missing, with --partitions
    #[arg(long, env = "KAFKA_TOPIC", default_value = "market_ticks", value_name = "TOPIC")]
    pub kafka_topic: String,

    /// Topic to which firings are delivered; made if missing, with --partitions
    #[arg(long, env = "KAFKA_FIRINGS_TOPIC", default_value = "alert_firings", value_name = "TOPIC")]
    pub kafka_firings_topic: String,

    /// Copies of each partition of a topic that is made [default: what the brokers have as theirs]
    #[arg(long, env = "KAFKA_REPLICATION", value_name = "N", value_parser = from_one::<u32>)]
    pub kafka_replication: Option<u32>,

    /// Settings of librdkafka, as for TLS and SASL: name=value name='a value'
    #[arg(
        long,
        env = "KAFKA_OPTIONS",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true,
        value_name = "WORDS"
    )]
    pub kafka_options: String,
}

/// The topics of a Kafka.
#[derive(Clone, Debug)]
pub struct KafkaSettings {
    /// Ticks: the bus.
    pub ticks: KafkaConfig,
    /// The topic of firings.
    pub firings: KafkaConfig,
}

impl KafkaArgs {
    /// None without brokers: then everything is embedded.
    pub(super) fn validate(self, partitions: u32) -> Result<Option<KafkaSettings>, ConfigError> {
        let brokers: Vec<&str> = self.kafka_brokers.split(',').map(str::trim).filter(|at| !at.is_empty()).collect();
        if brokers.is_empty() {
            return Ok(None);
        }
        if let Some(broker) = brokers.iter().find(|broker| !is_address(broker)) {
            return Err(ConfigError(format!("KAFKA_BROKERS: {broker:?} is no HOST:PORT, such as 127.0.0.1:9092")));
        }
        let wrong = |error: &dyn std::fmt::Display| ConfigError(format!("KAFKA_OPTIONS: {error}"));
        let ticks = KafkaConfig {
            brokers: brokers.join(","),
            topic: topic("KAFKA_TOPIC", &self.kafka_topic)?,
            partitions,
            replication: self.kafka_replication,
            options: key_values(&self.kafka_options, OPTION_FORMS).map_err(|error| wrong(&error))?,
        };
        let firings = KafkaConfig { topic: topic("KAFKA_FIRINGS_TOPIC", &self.kafka_firings_topic)?, ..ticks.clone() };
        if firings.topic == ticks.topic {
            return Err(ConfigError(format!(
                "KAFKA_FIRINGS_TOPIC: {} is the topic of ticks; give another",
                firings.topic
            )));
        }
        ticks.check().map_err(|error| wrong(&error))?;
        Ok(Some(KafkaSettings { ticks, firings }))
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// Names that brokers take: Kafka's own rule.
fn topic(setting: &str, name: &str) -> Result<String, ConfigError> {
    const MAX_BYTES: usize = 249;
    let name = name.trim();
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=MAX_BYTES).contains(&name.len()) && name.chars().all(known) && !matches!(name, "." | "..") {
        return Ok(name.to_owned());
    }
    Err(ConfigError(format!(
        "{setting}: {name:?} is no name of a topic; give 1 to {MAX_BYTES} letters, digits, '.', '_' and '-'"
    )))
}
