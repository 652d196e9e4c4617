//! x
pub mod bus;
pub mod control;
pub mod library;
pub mod prices;
pub mod store;
