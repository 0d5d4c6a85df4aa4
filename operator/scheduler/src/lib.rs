//! The scheduling core: pure and deterministic. Facts go in by [`Cluster::apply`], decisions come out of
//! [`cycle`]. It knows no kube, no runtime, no clock, no environment and no metrics.
//!
//! - `model`: what is, and who holds what; names become ordinals on the way in.
//! - `fit`, `selector`: whether a pod fits on a node; `score`, `packing`, [`fragmentation`]: what it costs there;
//!   `index`: the best node by shape.
//! - `transaction`: changes of the live model that can be taken back, for gangs and for proofs.
//! - `steps`: one file for each step of a cycle.
//! - [`query`], [`occupancy`], [`verdict`], [`classes`]: the read side; [`check`]: the invariants; `rehearsal`: for runs
//!   beside the real one.

mod amount;
pub mod check;
pub mod classes;
pub mod decision;
pub mod event;
mod fit;
pub mod fragmentation;
mod index;
mod intern;
mod lost;
mod mix;
mod model;
pub mod occupancy;
mod packing;
pub mod query;
mod reason;
mod rehearsal;
mod score;
mod selector;
mod settings;
mod slab;
mod steps;
mod transaction;
pub mod verdict;
mod worth;

#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use check::Violation;
pub use decision::{ClaimAllocation, Decision, EvictCause, Reason};
pub use event::{Event, Tier, Time};
pub use index::Work;
pub use lost::LostWork;
pub use reason::amount as amount_in_words;
pub use score::Policy;
pub use selector::{labels_match, matches_node};
pub use settings::Settings;
pub use steps::cycle;

/// Version of this core, as records name the one that decided.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The model of the cluster.
#[derive(Default)]
pub struct Cluster {
    pub(crate) model: model::Model,
    pub(crate) index: index::Index,
    pub(crate) policy: Policy,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("nodes", &self.model.nodes.len())
            .field("pods", &self.model.pods.len())
            .field("claims", &self.model.claims.len())
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// An empty cluster with another placement policy than the one that production uses.
    #[must_use]
    pub fn with_policy(policy: Policy) -> Self {
        Cluster::with(Settings {
            policy,
            ..Settings::default()
        })
    }

    /// An empty cluster that is scheduled in this way.
    #[must_use]
    pub fn with(settings: Settings) -> Self {
        let Settings { policy, hold_after } = settings;
        let mut cluster = Cluster {
            policy,
            ..Default::default()
        };
        cluster.model.hold_after = hold_after;
        cluster
    }

    /// Tells [`Policy::Fgd`] what pods to expect. It is told once, before anything is placed; the other policies do not
    /// look at it.
    pub fn expect<'a>(&mut self, pods: impl IntoIterator<Item = &'a event::Pod>) {
        let kinds: Vec<_> = pods.into_iter().map(|pod| self.model.kind_of_pod(pod)).collect();
        self.model.typical = fragmentation::Typical::of(kinds);
    }

    /// Takes in one fact.
    pub fn apply(&mut self, event: Event) {
        let model = &mut self.model;
        model.just_placed.clear();
        match event {
            Event::Node(node) if node.name.is_empty() => {}
            Event::Node(node) => {
                model.apply_node(&node);
            }
            Event::NodeGone(name) => model.apply_node_gone(&name),
            Event::Pod(pod) => model.apply_pod(&pod),
            Event::PodGone(uid) => model.apply_pod_gone(&uid),
            Event::Claim(claim) => model.apply_claim(&claim),
            Event::ClaimGone(uid) => model.apply_claim_gone(&uid),
            Event::Queue(queue) => model.apply_queue(&queue),
            Event::QueueGone(name) => model.apply_queue_gone(&name),
            Event::Namespace(namespace) => model.apply_namespace(&namespace.name, Some(&namespace.labels)),
            Event::NamespaceGone(name) => model.apply_namespace(&name, None),
            Event::DevicePool(pool) => model.apply_device_pool(&pool),
            Event::DevicePoolGone { driver, pool } => model.apply_device_pool_gone(&driver, &pool),
            Event::DeviceClaim(claim) => model.apply_device_claim(&claim),
            Event::DeviceClaimGone { namespace, name } => model.apply_device_claim_gone(&namespace, &name),
            Event::DeviceClaimsServed(served) => model.apply_device_claims_served(served),
            Event::TakenBack { namespace, name, uid } => model.apply_taken_back(&namespace, &name, &uid),
            Event::BindFailed {
                pod,
                node,
                message,
                lasting,
            } => model.apply_bind_failed(&pod, &node, &message, lasting),
            Event::BindAllowed { pod } => model.apply_bind_allowed(&pod),
            Event::EvictFailed { pod, .. } => model.apply_evict_failed(&pod),
            Event::EvictCalledOff { pod } => model.apply_evict_called_off(&pod),
        }
        model.share_device_search();
        for shape in self.model.dead_shapes.drain(..) {
            self.index.forget(shape);
        }
    }

    /// What placement had to do so far. Grows only.
    #[must_use]
    pub fn work(&self) -> Work {
        self.index.work
    }
}

/// Bounds of the work of one cycle. What is left over is done by the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Budget {
    /// Pods that one cycle places at most (a gang that was begun is finished), and pods that it takes off the model at
    /// most, in all its attempts to find whom to evict.
    pub pods: u32,
}

impl Default for Budget {
    /// 4,096 pods: some 50 ms of work, so that a watch event waits no longer than that.
    fn default() -> Self {
        Budget { pods: 4096 }
    }
}
