//! Evictions against a simulated node that has too little of something: who has to leave, when, and how many.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod cpu;
mod kills;
mod mid;
mod node;
mod shortage;
