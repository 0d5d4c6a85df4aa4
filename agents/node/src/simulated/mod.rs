//! Simulated nodes: machines without a kernel, driven by the pods that are bound to them, with the real agent in them.

mod fleet;
mod machine;

pub use fleet::{FleetOptions, run_fleet};
pub use machine::SimulatedMachine;
