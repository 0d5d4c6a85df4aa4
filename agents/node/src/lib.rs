//! The node agent: observes a node, decides with [`duosuan_policy::decide`], acts, and publishes what the node offers.
//!
//! The same [`agent::Agent`] runs over a kernel ([`run::run`], binary `duosuan-agent`) and over a simulated machine
//! ([`simulated::run_fleet`]).

pub mod agent;
pub mod clock;
pub mod evict;
pub mod exposition;
pub mod fault;
pub mod http;
pub mod identity;
mod intended;
pub mod journal;
pub mod kernel;
pub mod layout;
pub mod leave;
pub mod machine;
pub mod metrics;
pub mod mirror;
pub mod node;
mod numa;
pub mod options;
pub mod pods;
pub mod policy_file;
pub mod publish;
pub mod quantity;
pub mod run;
pub mod selection;
pub mod services;
pub mod simulated;
pub mod status;
pub mod store;
pub mod triggers;
pub mod watching;

pub use options::Options;
pub use run::run;
