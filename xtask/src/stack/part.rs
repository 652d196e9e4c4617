//! The parts of a stack, and how they are named on the command line, in the state file and in docker-compose.yml.

use std::fmt;
use std::str::FromStr;

/// The most brokers: three are the fewest of which one can be lost.
pub(super) const MAX_BROKERS: u8 = 3;

/// A program of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// A broker and controller, numbered from 1
    Kafka(u8),
    Redis,
    Postgres,
}

impl Part {
    /// The parts of a stack with so many brokers.
    pub(super) fn all(brokers: u8) -> Vec<Self> {
        (1..=brokers).map(Self::Kafka).chain([Self::Redis, Self::Postgres]).collect()
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // `pad`: a table gives it a width.
            Self::Kafka(number) => f.pad(&format!("kafka-{number}")),
            Self::Redis => f.pad("redis"),
            Self::Postgres => f.pad("postgres"),
        }
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let part = Self::all(MAX_BROKERS).into_iter().find(|part| part.to_string() == text);
        part.ok_or_else(|| format!("a part is kafka-1 to kafka-{MAX_BROKERS}, redis or postgres"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back() {
        assert_eq!(Part::all(1), [Part::Kafka(1), Part::Redis, Part::Postgres]);
        for part in Part::all(MAX_BROKERS) {
            assert_eq!(part.to_string().parse(), Ok(part));
        }
        for stranger in ["kafka", "kafka-0", "kafka-4", "Redis", ""] {
            assert!(stranger.parse::<Part>().is_err(), "{stranger}");
        }
    }
}
