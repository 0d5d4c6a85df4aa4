//! The guards against simulated nodes, over thousands of random loads: none swings, none lets prod suffer for long, and
//! batch gets what is left within a minute.
//!
//! The models have floats, since they stand for the world; what decides has none.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod cpu;
mod io;
mod latency;
mod memory;
mod node;
