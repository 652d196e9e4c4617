//! The API: translates REST and gRPC to use cases and back. It decides nothing.

pub mod grpc;
pub mod rest;

use std::sync::Arc;

use tocsin_engine::domain::{Symbol, Tenant};

use crate::bus::Bus;
use crate::control::Control;
use crate::health::Health;
use crate::prices::Prices;

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
