//! The API: translates REST and gRPC to use cases and back. It decides nothing.

#[cfg(test)]
mod fixture;
pub mod grpc;
pub mod rest;

use std::sync::Arc;
use std::time::Duration;

use tocsin_engine::domain::{Symbol, Tenant};

use crate::bus::Bus;
use crate::control::Control;
use crate::health::Health;
use crate::prices::Prices;

/// How long a client may read nothing, once all buffers between it and the server are full, before its connection is
/// cut. What a stream has not sent by then is behind its cursor.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// What both protocols are served from. Cloning is cheap.
#[derive(Clone)]
pub struct Api {
    /// The use cases.
    pub control: Control,
    /// The newest prices.
    pub prices: Prices,
    /// Where live streams read ticks.
    pub bus: Bus,
    /// Health of this process.
    pub health: Health,
    /// What is subscribed and served.
    pub tickers: Arc<[Symbol]>,
    /// Who asks: [`Tenant::standard`] until authentication comes.
    pub tenant: Tenant,
}
