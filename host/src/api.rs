//! The API: translates REST and gRPC to use cases and back. It makes no decisions.

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

use tocsin_bus::Bus;
use tocsin_engine::domain::{Alert, Symbol, Tenant};
use tocsin_prices::Prices;

use crate::control::Control;

pub use self::process_status::{AlertFigures, EvaluationFigures, FeedFigures, ProcessStatus, RoleFigures};
pub use self::unserved::Warned;

/// What both protocols are served from. Cloning is cheap.
#[derive(Clone)]
pub struct Api {
    /// The use cases.
    pub control: Control,
    /// The newest prices.
    pub prices: Prices,
    /// The log from which live streams read ticks.
    pub bus: Bus,
    /// The status of this process, and its connections.
    pub status: ProcessStatus,
    /// The symbols that are subscribed and served.
    pub tickers: Arc<[Symbol]>,
    /// Symbols of which the log has been warned that this server does not serve them.
    pub warned: Arc<Warned>,
    /// The tenant of every request: [`Tenant::standard`] until there is authentication.
    pub tenant: Tenant,
}

impl Api {
    /// Returns the symbols of a new alert that this server does not serve, and logs a warning. The alert is created all the
    /// same, since other processes may publish their ticks; but a misspelt symbol would never be noticed.
    fn note_unserved(&self, alert: &Alert) -> Vec<Symbol> {
        self.warn_of_unserved(alert.bindings.iter().map(|binding| &binding.symbol))
    }

    /// Logs a warning for each watched symbol that this server does not serve; returns those symbols.
    pub fn warn_of_unserved<'a>(&self, watched: impl Iterator<Item = &'a Symbol>) -> Vec<Symbol> {
        let unserved: Vec<_> = watched.filter(|symbol| !self.tickers.contains(symbol)).cloned().collect();
        unserved.iter().for_each(|symbol| self.warned.warn(symbol));
        unserved
    }
}

/// Returns GoStocks' answer to a new price alert, for both protocols.
fn price_alert_message(symbol: &str, condition: &str, target: f64) -> String {
    // Cents mean nothing for larger numbers, and 1e308 in full has 309 digits.
    const LARGEST_IN_FULL: f64 = 1e15;
    match target < LARGEST_IN_FULL {
        true => format!("Alert created: {symbol} {condition} ${target:.2}"),
        false => format!("Alert created: {symbol} {condition} ${target:e}"),
    }
}
