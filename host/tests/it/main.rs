//! The binary as users run it: real processes over loopback.

#![allow(clippy::unwrap_used)] // a failed test shows where

mod files;
mod kill;
mod rules;
mod server;
