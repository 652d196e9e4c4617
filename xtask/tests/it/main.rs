//! Tests of the repository as a whole.

#![allow(clippy::unwrap_used)] // a failed test shows where

mod rooms;
mod sources;
