//! x
pub mod bus;
pub mod prices;
