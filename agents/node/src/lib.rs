//! The node agent: observes a node, decides with [`duosuan_policy::decide`], acts, and publishes what the node offers.
//!
//! The same [`agent::Agent`] runs over a kernel and over a simulated machine.

pub mod agent;
pub mod clock;
pub mod identity;
pub mod machine;
pub mod metrics;
pub mod mirror;
pub mod node;
pub mod pods;
pub mod publish;
pub mod quantity;
pub mod selection;
pub mod simulated;
pub mod status;
