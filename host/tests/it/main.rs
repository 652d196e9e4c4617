//! The binary as users run it: real processes over loopback.

#![allow(clippy::unwrap_used)] // a failed test shows where

#[cfg(unix)]
mod connections;
mod disk;
mod docs;
mod example_rules;
mod faults;
mod files;
mod gostocks;
mod kill;
mod local_users;
mod log;
mod operations;
mod other_languages;
mod promotion;
mod replay;
mod roles;
mod rules;
mod server;
mod settings;
mod stack;
mod uploads;
