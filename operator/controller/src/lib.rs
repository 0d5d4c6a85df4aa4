//! The operator, the edge between the API server and the scheduling core: watches in, decisions out.
//!
//! ```text
//! watch (a task per kind) -> translate -> session (owns the core) -> binder    (bindings, evictions)
//!                                             ^                   -> publish   (statuses, conditions)
//!                                             |                   -> events
//!                                             +-- answers ----------- binder
//! ```
//!
//! Every instance watches and keeps its core warm; only the one that holds the lease decides and writes. There is no
//! state besides the API server: a session that ends is forgotten, and the next one starts from its watches.

pub mod binder;
pub mod clock;
pub mod connect;
pub mod core;
pub mod devices;
pub mod events;
pub mod failure;
pub mod health;
pub mod index;
pub mod leader;
pub mod lean;
pub mod measure;
pub mod metrics;
pub mod nodes;
pub mod options;
pub mod publish;
pub mod reasons;
pub mod record;
pub mod run;
#[cfg(test)]
mod script;
pub mod session;
pub mod site;
pub mod status;
pub mod translate;
pub mod volumes;
pub mod watch;

pub use options::Options;
pub use run::{run, run_with};
