//! Tests that start programs: the stack's own, and Compose.

#![allow(clippy::unwrap_used)] // a failed test shows where

mod compose;
mod stack;
