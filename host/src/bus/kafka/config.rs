//! What every client of a Kafka has in common, those of other rooms as well: settings, topics, and whether librdkafka takes
//! the options. Values of options may be secret, and are shown to nobody.

use std::fmt;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::BaseProducer;

use super::{BusError, KafkaConfig};

/// What librdkafka says of an option that it was built without.
const NOT_BUILT_IN: [&str; 2] = ["not available at build time", "recompile librdkafka"];

/// Parts of the names of options whose values are secret.
const SECRET_NAMES: [&str; 5] = ["password", "secret", "pem", "key", "oauthbearer.config"];

impl KafkaConfig {
    /// Settings to begin a client with.
    pub fn client(&self) -> ClientConfig {
        super::client(self)
    }

    /// The number of the topic's partitions; makes the topic if there is none.
    pub async fn ensure_topic(&self) -> Result<u32, BusError> {
        super::ensure_topic(self).await
    }

    /// Whether librdkafka takes the options. Asks no broker.
    pub fn check(&self) -> Result<(), BusError> {
        let Err(error) = self.client().create::<BaseProducer>() else { return Ok(()) };
        let told = match error {
            // Any option may have been given what was meant for another.
            KafkaError::ClientConfig(_, told, name, value) if !value.is_empty() => {
                format!("{name}: {}", told.replace(&value, "***"))
            }
            KafkaError::ClientConfig(_, told, name, _) => format!("{name}: {told}"),
            other => other.to_string(),
        };
        let is_secret = |name: &str| SECRET_NAMES.iter().any(|part| name.contains(part));
        let secrets = self.options.iter().filter(|(name, value)| is_secret(name) && !value.is_empty());
        let mut told = secrets.fold(told, |told, (_, value)| told.replace(value, "***"));
        if NOT_BUILT_IN.iter().any(|part| told.contains(part)) {
            told += "; build with `--features kafka-full`, which brings TLS, SASL/SCRAM and zstd";
        }
        Err(BusError::Kafka(told))
    }
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
    #[cfg(not(feature = "kafka-full"))]
    fn what_needs_a_fuller_build_says_so() {
        check_refused(&[("security.protocol", "sasl_ssl")], "--features kafka-full");
        check_refused(&[("ssl.ca.location", "/ca.pem")], "--features kafka-full");
        let sasl = [("security.protocol", "sasl_plaintext"), ("sasl.mechanism", "SCRAM-SHA-256")];
        let user = [("sasl.username", "u"), ("sasl.password", "s3cret")];
        check_refused(&[sasl, user].concat(), "--features kafka-full");
    }
}
