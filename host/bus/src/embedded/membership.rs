//! The only member of a consumer group of the embedded log: all partitions are its own at once, and stay so.

use std::future::pending;

use tocsin_engine::domain::Position;

use super::EmbeddedBus;
use crate::{Assignment, BusError};

/// The membership of a group.
pub struct EmbeddedMembership {
    bus: EmbeddedBus,
    group: String,
    /// Whether the assignment was returned, which never changes.
    is_assigned: bool,
}

impl EmbeddedMembership {
    pub(super) fn new(bus: EmbeddedBus, group: String) -> Self {
        Self { bus, group, is_assigned: false }
    }

    pub(crate) async fn changed(&mut self) -> Result<Assignment, BusError> {
        if self.is_assigned {
            pending::<()>().await;
        }
        self.is_assigned = true;
        Ok(Assignment::Assigned((0..self.bus.partitions()).collect()))
    }

    pub(crate) async fn commit(&self, positions: &[Position]) -> Result<(), BusError> {
        self.bus.commit(&self.group, positions).await
    }
}
