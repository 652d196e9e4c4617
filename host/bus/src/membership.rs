//! Taking part in a consumer group: which partitions are whose, and when that changes.
//!
//! A membership says which partitions its holder is to read; the reading is done by a [`Reader`](super::Reader). What a
//! group commits is where its members have got to: the projector goes on from there; for evaluators it is for monitoring
//! only, since what they remember is in the store.

use std::sync::mpsc;

use tocsin_engine::domain::Position;

#[cfg(any(test, feature = "testing"))]
use super::simulated::SimulatedMembership;
use super::{BusError, EmbeddedMembership, KafkaMembership};

/// A member of a consumer group, until it is dropped.
pub enum Membership {
    /// Of the embedded bus: the only member, which has all partitions.
    Embedded(EmbeddedMembership),
    /// Of a group that Kafka's brokers coordinate.
    Kafka(KafkaMembership),
    /// Of the group of a simulated log.
    #[cfg(any(test, feature = "testing"))]
    Simulated(SimulatedMembership),
}

/// What has changed for a member.
#[derive(Debug)]
pub enum Assignment {
    /// These partitions are its own from now on, beside those that it has. They may be none.
    Assigned(Vec<u32>),
    /// These are to be given up: they go to another member once the handover is done, or after a time.
    Revoked(Vec<u32>, Handover),
    /// These belong to another member already.
    Lost(Vec<u32>),
}

/// Says, by being dropped, that all that is to be written of revoked partitions is written.
#[derive(Debug)]
pub struct Handover(#[expect(dead_code, reason = "its end is what is waited for")] mpsc::Sender<()>);

impl Handover {
    /// A handover, and what is disconnected at its end.
    pub(super) fn new() -> (Self, mpsc::Receiver<()>) {
        let (done, waiting) = mpsc::channel();
        (Self(done), waiting)
    }
}

impl Membership {
    /// Waits for the next change. The first comes once the group has agreed. Nothing is lost where the call is cancelled.
    pub async fn changed(&mut self) -> Result<Assignment, BusError> {
        match self {
            Self::Embedded(membership) => membership.changed().await,
            Self::Kafka(membership) => membership.changed().await,
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(membership) => membership.changed().await,
        }
    }

    /// Commits positions for the group: the next offsets that it wants to read. Those of partitions that the member has
    /// lost meanwhile are an error.
    pub async fn commit(&self, positions: &[Position]) -> Result<(), BusError> {
        match self {
            Self::Embedded(membership) => membership.commit(positions).await,
            Self::Kafka(membership) => membership.commit(positions).await,
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(_) => Ok(()),
        }
    }

    /// Leaves the group, and waits until the other members are notified: they need not find out by a timeout.
    pub async fn leave(self) {
        match self {
            Self::Embedded(_) => {}
            Self::Kafka(membership) => membership.leave().await,
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(_) => {}
        }
    }

    /// Whether partitions can go from one member to another at all.
    pub fn is_shared(&self) -> bool {
        !matches!(self, Self::Embedded(_))
    }
}
