//! What is said of evictions: to whoever carries them out, and in the report.

use serde::{Deserialize, Serialize};

use crate::{observation::Millis, victims::LostWork};

/// Why somebody has to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    /// Memory is short.
    Memory,
    /// Memory is about to fail.
    MemoryFails,
    /// Prod stalls for memory although batch has no page cache left.
    MemoryStall,
    /// Batch was held at its CPU floor for long.
    Cpu,
}

impl Cause {
    /// The name as the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "MemoryShort",
            Self::MemoryFails => "MemoryFails",
            Self::MemoryStall => "MemoryStall",
            Self::Cpu => "CpuSuppressed",
        }
    }
}

/// What became of an order, as the one who carries it out answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The API server took it, or the pod is gone.
    Evicted,
    /// A disruption budget keeps the pod.
    Refused,
    /// It did not work out.
    Failed,
}

/// What became of an eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Ordered, and not answered yet.
    Ordered,
    /// The API server evicts it.
    Evicted,
    /// A disruption budget keeps it.
    Refused,
    /// The order did not work out.
    Failed,
    /// Its processes were killed.
    Killed,
    /// It would have been ordered, if the mode were to act.
    Observed,
}

impl Outcome {
    /// The name as the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ordered => "Ordered",
            Self::Evicted => "Evicted",
            Self::Refused => "Refused",
            Self::Failed => "Failed",
            Self::Killed => "Killed",
            Self::Observed => "Observed",
        }
    }
}

/// An eviction, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eviction {
    /// When it was decided.
    pub at: Millis,
    /// UID of the pod; the path of a cgroup that is no pod's.
    pub uid: String,
    /// `namespace/name` of the pod; the path of a cgroup that is no pod's.
    pub name: String,
    /// The pod's gang: `namespace/claim`.
    pub gang: Option<String>,
    /// Why.
    pub cause: Cause,
    /// Why, in words and figures.
    pub why: String,
    /// What is lost with it, of its gang too.
    pub lost: LostWork,
    /// What became of it.
    pub outcome: Outcome,
}

/// Evictions as the report shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvictionView {
    /// Pods to be evicted through the API now. Empty where the mode is to observe only.
    pub orders: Vec<Eviction>,
    /// What was decided by this look: orders, kills, and what would have been either.
    pub decided: Vec<Eviction>,
    /// The last evictions, the oldest first.
    pub last: Vec<Eviction>,
    /// Since batch was evicted: the node takes no new batch.
    pub closed: bool,
    /// Memory is short, or nearly so: whoever can find out about gangs should.
    pub near: bool,
}
