//! The record that an alert fired.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use uuid::Uuid;

use super::{AlertId, BindingId, Position, RuleRef, Tenant, Tick};

/// Namespace of the ids of firings: a random UUID. It must never change, or every replayed firing would be recorded again;
/// the same holds for the other namespaces.
const FIRINGS: Uuid = Uuid::from_u128(0x7d1f_9a52_3c1b_4f0e_9e55_04b2_6a8c_e7d3);
/// See [`FIRINGS`].
const LOGS: Uuid = Uuid::from_u128(0x5a0c_93e7_41d8_4b26_a7f1_6e0d_8c52_b394);
/// See [`FIRINGS`].
const FAULTS: Uuid = Uuid::from_u128(0x2b8e_61c4_90d7_4a3f_8f16_c5d3_72b9_0ea1);

/// Makes the ids of firings and faults on one log differ from those at equal offsets of another log. The salt of the first
/// log that a store refers to is empty, so that its ids are those of stores that knew a single log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogSalt(Option<Uuid>);

impl LogSalt {
    /// Returns the salt of a log, from its identity and the number of logs that the store referred to before it. A log that
    /// is accepted again after it lost records counts as another log.
    pub fn of(identity: &str, generation: u32) -> Self {
        let name = [identity.as_bytes(), &generation.to_be_bytes()].concat();
        Self((generation > 0).then(|| Uuid::new_v5(&LOGS, &name)))
    }
}

/// Defines the id of a record about a binding and a tick: a UUID (version 5, RFC 9562) derived from both, so that a replay
/// yields the same record.
macro_rules! derived_id {
    ($(#[$doc:meta])* $id:ident in $namespace:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $id(Uuid);

        impl $id {
            /// Returns the id for a binding and the position of a tick.
            pub fn derive(binding: BindingId, position: Position) -> Self {
                let mut name = [0; 20];
                name[..8].copy_from_slice(&binding.0.to_be_bytes());
                name[8..12].copy_from_slice(&position.partition.to_be_bytes());
                name[12..].copy_from_slice(&position.offset.to_be_bytes());
                Self(Uuid::new_v5(&$namespace, &name))
            }

            /// Returns the id for the same binding and position in another log.
            pub fn in_log(self, log: LogSalt) -> Self {
                match log.0 {
                    None => self,
                    Some(log) => Self(Uuid::new_v5(&log, self.0.as_bytes())),
                }
            }

            /// Returns the 16 bytes of the id.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// Restores an id from its 16 bytes.
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $id {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

derived_id! {
    /// The id of a firing.
    FiringId in FIRINGS
}

derived_id! {
    /// The id of a fault.
    FaultId in FAULTS
}

/// The numbers that justify a firing, with their names from the rule's manifest.
pub type Evidence = Vec<(Arc<str>, f64)>;

/// The record that an alert fired, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Firing {
    /// Derived from the binding, the tick's position and, once stored, the log.
    pub id: FiringId,
    /// The owner of the alert.
    pub tenant: Tenant,
    /// The alert that fired.
    pub alert: AlertId,
    /// The binding that fired.
    pub binding: BindingId,
    /// The tick on which it fired.
    pub tick: Tick,
    /// The position of that tick.
    pub position: Position,
    /// The rule version that was evaluated.
    pub rule: RuleRef,
    /// The numbers of the verdict.
    pub evidence: Evidence,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_depends_on_binding_partition_offset_and_log_alone() {
        let id = |binding, partition, offset| FiringId::derive(BindingId(binding), Position { partition, offset });
        assert_eq!(id(1, 2, 3), id(1, 2, 3));
        let all = [id(1, 2, 3), id(2, 2, 3), id(1, 3, 3), id(1, 2, 4)];
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
        // Later versions must derive the same ids as those in stores.
        assert_eq!(id(1, 2, 3).to_string(), "d1d624dd-a38f-56f1-a0d7-bb0476335c2a");
        let at = id(1, 2, 3);
        assert_eq!(at.in_log(LogSalt::of("kafka:a", 0)), at, "the first log of a store");
        let logs = [("kafka:a", 1), ("kafka:b", 1), ("kafka:a", 2)].map(|(log, n)| at.in_log(LogSalt::of(log, n)));
        assert_eq!(logs.iter().chain([&at]).collect::<std::collections::HashSet<_>>().len(), 4);
        assert_eq!(logs[0].to_string(), "088ad095-74bf-5305-96bc-eb4f152c99f9");
        let fault = FaultId::derive(BindingId(1), Position { partition: 2, offset: 3 });
        assert_eq!(fault.to_string(), "23b243b1-d333-5a0a-ab7c-a6645259ff0d");
    }
}
