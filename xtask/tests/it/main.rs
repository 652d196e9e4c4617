//! What holds for the repository as a whole, and the tasks that start programs.

#![allow(clippy::unwrap_used)] // a failed test shows where

mod compose;
mod rooms;
mod sources;
mod stack;
