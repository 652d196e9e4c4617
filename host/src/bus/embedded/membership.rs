//! The only member of a consumer group of the embedded log: all partitions are its own at once, and stay so.

use std::future::pending;

use tocsin_engine::domain::Position;

use super::EmbeddedBus;
use crate::bus::{Assignment, BusError};

/// The membership of a group.
pub struct EmbeddedMembership {
    bus: EmbeddedBus,
    group: String,
    told: bool,
}

impl EmbeddedMembership {
    pub(super) fn new(bus: EmbeddedBus, group: String) -> Self {
        Self { bus, group, told: false }
    }

    pub(in crate::bus) async fn changed(&mut self) -> Result<Assignment, BusError> {
        if self.told {
            pending::<()>().await;
        }
        self.told = true;
        Ok(Assignment::Assigned((0..self.bus.partitions()).collect()))
    }

    pub(in crate::bus) async fn commit(&self, positions: &[Position]) -> Result<(), BusError> {
        self.bus.commit(&self.group, positions).await
    }
}
