//! What is said of evictions: to whoever carries them out, and in the report.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    lost_work::LostWork,
    observation::{Millis, Tier},
};

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
    /// Prod stalled for CPU for long, no batch was left, and mid used more than prod left.
    CpuStall,
}

impl Cause {
    /// The name as the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "MemoryShort",
            Self::MemoryFails => "MemoryFails",
            Self::MemoryStall => "MemoryStall",
            Self::Cpu => "CpuSuppressed",
            Self::CpuStall => "CpuStall",
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
    /// Nobody was to be evicted any more before the pod's notice was over: it was taken back.
    Withdrawn,
    /// It did not work out.
    Failed,
}

impl Answer {
    /// What became of the eviction by it.
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::Evicted => Outcome::Evicted,
            Self::Refused => Outcome::Refused,
            Self::Withdrawn => Outcome::Withdrawn,
            Self::Failed => Outcome::Failed,
        }
    }
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
    /// Nobody was to be evicted any more before its notice was over.
    Withdrawn,
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
            Self::Withdrawn => "Withdrawn",
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
    /// The tier that it is of.
    #[serde(default = "batch")]
    pub tier: Tier,
    /// Why.
    pub cause: Cause,
    /// Time between the notice and the eviction, milliseconds, beyond what everybody has.
    #[serde(default)]
    pub notice: Millis,
    /// Why, in words and figures.
    pub why: String,
    /// What is lost with it, of its gang too.
    pub lost: LostWork,
    /// What became of it.
    pub outcome: Outcome,
}

/// Of an eviction that was stored when none but batch was evicted.
const fn batch() -> Tier {
    Tier::Batch
}

/// Evictions as the report shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EvictionView {
    /// What was decided by this look: orders, kills, and what would have been either.
    pub decided: Vec<Eviction>,
    /// The last evictions, the oldest first.
    pub last: Arc<Vec<Eviction>>,
    /// Since some was evicted: the node takes nothing new of mid and batch.
    pub closed: bool,
    /// Memory is short, or nearly so: whoever can find out about gangs should.
    pub near: bool,
}

impl EvictionView {
    /// Pods to be evicted through the API now; none where the mode is to observe only.
    pub fn orders(&self) -> impl Iterator<Item = &Eviction> {
        let ordered = |e: &&Eviction| matches!(e.outcome, Outcome::Ordered | Outcome::Killed);
        // A cgroup that is no pod's is known by its path alone.
        self.decided.iter().filter(ordered).filter(|e| e.uid != e.name)
    }
}

/// A shared list is stored as the list.
pub(super) mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Eviction;

    pub(crate) fn serialize<S: Serializer>(list: &Arc<Vec<Eviction>>, to: S) -> Result<S::Ok, S::Error> {
        list.as_slice().serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Vec<Eviction>>, D::Error> {
        Vec::deserialize(from).map(Arc::new)
    }
}
