//! The API: translates REST and gRPC to use cases and back. It decides nothing.

mod accept;
#[cfg(test)]
mod fixture;
pub mod grpc;
mod guarded;
mod process_status;
pub mod rest;
mod socket;
mod unserved;

use std::sync::Arc;

use tocsin_engine::domain::{Alert, Symbol, Tenant};

use crate::bus::Bus;
use crate::control::Control;
use crate::prices::Prices;

pub use self::process_status::{AlertFigures, EvaluationFigures, FeedFigures, ProcessStatus, RoleFigures};
pub use self::unserved::Warned;

/// What both protocols are served from. Cloning is cheap.
#[derive(Clone)]
pub struct Api {
    /// The use cases.
    pub control: Control,
    /// The newest prices.
    pub prices: Prices,
    /// Where live streams read ticks.
    pub bus: Bus,
    /// The status of this process, and its connections.
    pub status: ProcessStatus,
    /// What is subscribed and served.
    pub tickers: Arc<[Symbol]>,
    /// Of which symbols the log has been warned that nobody serves them.
    pub warned: Arc<Warned>,
    /// Who asks: [`Tenant::standard`] until authentication comes.
    pub tenant: Tenant,
}

impl Api {
    /// The symbols of a new alert that are none of this server's. It is an alert all the same, since ticks may come from
    /// elsewhere; but a symbol that was misspelt would never be noticed.
    fn note_unserved(&self, alert: &Alert) -> Vec<Symbol> {
        self.warn_of_unserved(alert.bindings.iter().map(|binding| &binding.symbol))
    }

    /// Warns of each symbol that is watched and is none of this server's; returns those.
    pub fn warn_of_unserved<'a>(&self, watched: impl Iterator<Item = &'a Symbol>) -> Vec<Symbol> {
        let unserved: Vec<_> = watched.filter(|symbol| !self.tickers.contains(symbol)).cloned().collect();
        unserved.iter().for_each(|symbol| self.warned.warn(symbol));
        unserved
    }
}

/// What GoStocks answers to a new price alert, in both protocols.
fn price_alert_message(symbol: &str, condition: &str, target: f64) -> String {
    // Cents mean nothing up there, and 1e308 in full has 309 digits.
    const LARGEST_IN_FULL: f64 = 1e15;
    match target < LARGEST_IN_FULL {
        true => format!("Alert created: {symbol} {condition} ${target:.2}"),
        false => format!("Alert created: {symbol} {condition} ${target:e}"),
    }
}
