//! What a node offers and how it protects prod: pure.
//!
//! [`decide`] is given everything it may look at, the time included, and answers with the settings that should hold
//! in the kernel and with a report that says why. It knows no kube, no runtime, no clock and no file. The agent on a
//! real node, the simulated nodes of `duosuan up` and the tests call this same function.
//!
//! Properties, each of them tested:
//!
//! - the offer is never below what is bound, and never above capacity less the margin unless more than that is bound;
//! - it falls at once and grows slowly;
//! - a signal that is missing is never read as zero: the offer holds, then decays to what is bound;
//! - whatever is not known to be batch is prod;
//! - batch is evicted, by lowest lost work, and not one more than needed; mid only where no batch is left to evict, after long
//!   patience and with notice; prod never;
//! - suspended or without a guard, no setting is asked for, so that the caller gives everything back.

pub mod action;
mod amounts;
mod cpu;
pub mod decide;
pub mod eviction;
pub mod forecast;
pub mod guard;
pub mod histogram;
pub mod history;
pub mod host;
pub mod io;
pub mod latency;
pub mod llc;
pub mod lost_work;
pub mod memory;
mod mid;
pub mod network;
pub mod numa;
pub mod observation;
pub mod offer;
mod offers;
mod pasts;
pub mod policy;
pub mod rates;
pub mod state;
mod victims;

pub use action::{Action, GuardView, Report, TierView};
pub use decide::decide;
pub use eviction::{Answer, Cause, Outcome};
pub use guard::GuardState;
pub use lost_work::LostWork;
pub use network::Network;
pub use observation::{
    Bucket, CacheUse, Capabilities, Control, Gang, Group, Histogram, Io, Millis, Observation, Pod, Range, Resources,
    Service, Signals, Stall, Tier, Unread, Work,
};
pub use policy::{Guard, Mode, NamedGroup, Policy, Problem};
pub use state::State;
