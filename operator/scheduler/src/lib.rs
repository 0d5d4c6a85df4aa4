//! The scheduling core: pure and deterministic. Facts go in by [`Cluster::apply`], decisions come out of
//! [`cycle`]. It knows no kube, no runtime, no clock, no environment and no metrics.

pub mod decision;
pub mod event;

pub use decision::{Decision, EvictCause, Reason};
pub use event::{Event, Tier, Time};

/// The model of the cluster.
#[derive(Debug, Default)]
pub struct Cluster {}

impl Cluster {
    /// Takes in one fact.
    pub fn apply(&mut self, _event: Event) {}
}

/// Bounds of the work of one cycle.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Pods that one cycle places at most.
    pub pods: u32,
}

/// Decides what to do now.
pub fn cycle(_cluster: &mut Cluster, _now: Time, _budget: Budget) -> Vec<Decision> {
    Vec::new()
}
