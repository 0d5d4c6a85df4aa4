//! What [`crate::decide`] answers: data, for the edge to carry out and to publish.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    eviction::EvictionView,
    guard::GuardState,
    history::Deed,
    host::HostView,
    network::Network,
    numa::NumaView,
    observation::{CacheUse, Io, Millis, Resources, Signals, Tier, Unread},
};

/// A setting that should hold. Whatever the caller set before and is not asked for any more goes back to what it was.
///
/// [`RECLAIM`] and [`KILL`] are none but orders: they are carried out once, and nothing of them is left to restore. Of a
/// file that has a line for each device, one line is set: `io.max 254:0`. With the path [`crate::llc::RESCTRL`] it is about
/// the group of tasks that the file names, and the value is its `schemata`. With the path [`crate::network::NETWORK`] it is about
/// the links of all batch pods together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// Path of the cgroup below the root.
    pub path: String,
    /// File in it.
    pub file: String,
    /// What it should read.
    pub value: String,
    /// Why, in words.
    pub why: String,
}

/// The file that takes orders: so many bytes of the cgroup are to be reclaimed now.
pub const RECLAIM: &str = "memory.reclaim";
/// The file that takes the order to kill all that runs in the cgroup, and below it.
pub const KILL: &str = "cgroup.kill";

impl Action {
    pub(crate) fn new(path: &str, file: impl Into<String>, value: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            file: file.into(),
            value: value.into(),
            why: why.into(),
        }
    }
}

/// One tier as the report shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierView {
    /// Tier.
    pub tier: Tier,
    /// Used now.
    pub usage: Signals,
    /// Expected peak.
    pub peak: Signals,
    /// Asked for by its pods.
    pub bound: Resources,
    /// Offered; zero for tiers that nothing is reclaimed for.
    pub reclaimable: Resources,
    /// What its groups did and suffered.
    pub work: TierWork,
}

/// What the groups of a tier did and suffered since the first look, those that are gone included; and what their memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierWork {
    /// Periods in which a `cpu.max` stopped somebody.
    pub throttled_periods: u64,
    /// Time for which that was so, summed over CPUs, microseconds.
    pub throttled: u64,
    /// Times that somebody ran out of memory.
    pub ooms: u64,
    /// Processes that were killed for that.
    pub oom_kills: u64,
    /// IO.
    pub io: Io,
    /// Memory in use now that is no copy of a file, bytes; unknown where one group's is.
    pub anonymous: Option<i64>,
    /// Page cache now, bytes; unknown where one group's is.
    pub page_cache: Option<i64>,
}

/// The terms of the offer to batch, in the order of the formula: capacity - margin - system - firm - young = target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// What the node has.
    pub capacity: i64,
    /// Never offered.
    pub margin: i64,
    /// Expected peak of what is in no pod.
    pub system: Option<i64>,
    /// Expected peak of prod and mid.
    pub firm: Option<i64>,
    /// What pods of prod and mid that are young, or of whatever age without a past, asked for and do not use yet.
    pub young: i64,
}

/// The terms of an offer to mid: target = min(requests - peak, capacity - margin - system - peak, share).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MidTerms {
    /// What the node has.
    pub capacity: i64,
    /// Never offered.
    pub margin: i64,
    /// Expected peak of what is in no pod.
    pub system: Option<i64>,
    /// What prod's pods asked for.
    pub requests: i64,
    /// Expected peak of prod in the long run.
    pub peak: Option<i64>,
    /// What the policy offers at most.
    pub share: i64,
}

/// Why an offer is what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// Too few samples: nothing beyond what is bound.
    #[default]
    Cold,
    /// From a forecast.
    Fresh,
    /// The signal is missing: the last offer holds.
    Held,
    /// The signal has been missing for long: the offer decays.
    Decaying,
    /// The signal is lost: nothing beyond what is bound.
    Expired,
    /// The policy is suspended: nothing beyond what is bound.
    Suspended,
}

/// A guard as the report shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardView {
    /// `cpu`, `io`, `latency`, `llc`, `memory`, `network`.
    pub name: String,
    /// State.
    pub state: GuardState,
    /// What it allows batch; absent if unlimited. CPU and latency in milli-cores of CPU, llc in
    /// thousandths of the cache, memory in bytes, IO in thousandths of what batch did
    /// when it was cut, network in bits a second of the tighter way.
    pub limit: Option<i64>,
    /// Times that it cut batch.
    pub cuts: u64,
    /// Last action and why.
    pub last_action: Option<String>,
}

/// A service by its slow requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slowest {
    /// Its name.
    pub service: String,
    /// Requests that took longer than promised, thousandths of those that the objective allows to.
    pub milli: i64,
}

/// What the node shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// When it was made.
    pub at: Millis,
    /// What the node has.
    pub capacity: Resources,
    /// Used by the whole node.
    pub usage: Signals,
    /// Used outside pods.
    pub system: Signals,
    /// Tiers, the firmest first.
    pub tiers: Vec<TierView>,
    /// Stall of the node, thousandths of wall time since the last look.
    pub node_stall: StallView,
    /// Largest stall of a prod or mid pod that its own limit does not explain.
    pub prod_stall: StallView,
    /// Groups of prod and mid whose stall could not be read for longer than the policy's `expire`: the guards go on without.
    pub unwitnessed: BTreeMap<String, Unread>,
    /// Largest CPU stall of a batch pod.
    pub batch_stall: Option<i64>,
    /// Terms of the CPU offer to batch, milli-cores.
    pub cpu_terms: Terms,
    /// Terms of the memory offer to batch, bytes.
    pub memory_terms: Terms,
    /// Why the CPU offer is what it is.
    pub cpu_basis: Basis,
    /// Why the memory offer is what it is.
    pub memory_basis: Basis,
    /// Terms of the offers to mid: CPU, milli-cores, and memory, bytes.
    pub mid_terms: [MidTerms; 2],
    /// Why they are what they are.
    pub mid_basis: [Basis; 2],
    /// The service with the most slow requests of those that it may have, as far as any can be judged.
    pub slowest: Option<Slowest>,
    /// Services that miss their objective with batch at its floor, too, and what they miss by themselves.
    pub own_misses: Vec<Slowest>,
    /// Use of cache and memory bandwidth, where it is counted.
    pub cache: Option<CacheUse>,
    /// NUMA nodes, by number; none where the kernel knows none.
    pub numa: Arc<Vec<NumaView>>,
    /// What is counted of the whole node.
    pub host: Arc<HostView>,
    /// The node's network, where the agent looks after it.
    pub network: Option<Network>,
    /// Guards.
    pub guards: Vec<GuardView>,
    /// What the guards did last, the latest first.
    pub history: Vec<Arc<Deed>>,
    /// Evictions.
    pub eviction: EvictionView,
    /// Settings that would be made if the mode were not to observe only.
    pub intended: Vec<Action>,
}

/// Stall by resource, thousandths of wall time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StallView {
    /// CPU.
    pub cpu: Option<i64>,
    /// Memory.
    pub memory: Option<i64>,
    /// IO.
    pub io: Option<i64>,
}

impl Terms {
    /// What the terms amount to; unknown where one is.
    pub fn target(&self) -> Option<i64> {
        let used = self.system?.saturating_add(self.firm?).saturating_add(self.young);
        Some(self.capacity.saturating_sub(self.margin).saturating_sub(used))
    }
}

impl MidTerms {
    /// What the terms amount to, 0 or more; unknown where one is.
    pub fn target(&self) -> Option<i64> {
        let peak = self.peak?;
        let unused = self.requests.saturating_sub(peak);
        let used = self.margin.saturating_add(self.system?).saturating_add(peak);
        let room = self.capacity.saturating_sub(used);
        Some(unused.min(room).min(self.share).max(0))
    }
}

impl Report {
    /// What is offered to a tier, what is bound included.
    pub fn offer(&self, tier: Tier) -> Resources {
        self.tier(tier).map(|view| view.reclaimable).unwrap_or_default()
    }

    /// A tier.
    pub fn tier(&self, tier: Tier) -> Option<&TierView> {
        self.tiers.iter().find(|view| view.tier == tier)
    }

    /// What is offered to batch.
    pub fn batch_offer(&self) -> Resources {
        self.offer(Tier::Batch)
    }
}
