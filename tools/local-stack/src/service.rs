//! The services of a stack, and their names on the command line, in the state file and in docker-compose.yml.

use std::fmt;
use std::str::FromStr;

/// The most brokers: three is the smallest cluster that can lose one.
pub(crate) const MAX_BROKERS: u8 = 3;

/// A server of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Service {
    /// A broker and controller, numbered from 1
    Kafka(u8),
    Redis,
    Postgres,
}

impl Service {
    /// Returns the services of a stack with the given number of brokers.
    pub(crate) fn all(brokers: u8) -> Vec<Self> {
        (1..=brokers).map(Self::Kafka).chain([Self::Redis, Self::Postgres]).collect()
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // `pad` honours the width that a table sets.
            Self::Kafka(number) => f.pad(&format!("kafka-{number}")),
            Self::Redis => f.pad("redis"),
            Self::Postgres => f.pad("postgres"),
        }
    }
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let service = Self::all(MAX_BROKERS).into_iter().find(|service| service.to_string() == text);
        service.ok_or_else(|| format!("a service is kafka-1 to kafka-{MAX_BROKERS}, redis or postgres"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back() {
        assert_eq!(Service::all(1), [Service::Kafka(1), Service::Redis, Service::Postgres]);
        for service in Service::all(MAX_BROKERS) {
            assert_eq!(service.to_string().parse(), Ok(service));
        }
        for unknown in ["kafka", "kafka-0", "kafka-4", "Redis", ""] {
            assert!(unknown.parse::<Service>().is_err(), "{unknown}");
        }
    }
}
