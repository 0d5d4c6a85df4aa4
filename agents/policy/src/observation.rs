//! What is seen of a node at one moment: counters and gauges as the kernel gives them, rates are made here.

mod capabilities;
mod host;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::{
    capabilities::Capabilities,
    host::{Disk, Host, Paging},
};
use crate::network::Network;

/// Milliseconds since an epoch of the caller's choice that never goes back.
pub type Millis = u64;

/// The promise behind what a group uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Firm, and all that is not known.
    #[default]
    Prod,
    /// From prod's requests that stay unused.
    Mid,
    /// What prod and mid leave idle.
    Batch,
}

impl Tier {
    /// All tiers, the firmest first.
    pub const ALL: [Self; 3] = [Self::Prod, Self::Mid, Self::Batch];

    /// The name as the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prod => "prod",
            Self::Mid => "mid",
            Self::Batch => "batch",
        }
    }
}

/// CPU and memory together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// CPU, milli-cores.
    pub cpu: i64,
    /// Memory, bytes.
    pub memory: i64,
}

impl Resources {
    /// The sum.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_add(other.cpu),
            memory: self.memory.saturating_add(other.memory),
        }
    }

    /// The greater of both, each for itself.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.max(other.cpu),
            memory: self.memory.max(other.memory),
        }
    }
}

/// CPU and memory, each of which may be unknown. Unknown is not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signals {
    /// CPU, milli-cores.
    pub cpu: Option<i64>,
    /// Memory, bytes.
    pub memory: Option<i64>,
}

/// Total stall of somebody, microseconds since boot or since the group's birth (`some ... total=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stall {
    /// Waiting for CPU.
    pub cpu: Option<u64>,
    /// Waiting for memory.
    pub memory: Option<u64>,
    /// Waiting for IO.
    pub io: Option<u64>,
}

/// What could not be read of somebody's stall. That a kernel has no such file is no failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// Waiting for CPU, or what of it its own limit explains.
    pub cpu: bool,
    /// Waiting for memory, or what of it its own limits explain.
    pub memory: bool,
    /// Waiting for IO.
    pub io: bool,
}

/// A pod's cgroup, or one that the policy names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Path below the cgroup root, without a leading slash; it is the group's identity.
    pub path: String,
    /// Its tier; whatever could not be classified is prod.
    pub tier: Tier,
    /// What it asked for in its tier.
    pub requests: Resources,
    /// CPU time used, microseconds.
    pub cpu_usage: Option<u64>,
    /// Time stopped by its own `cpu.max` or that of a cgroup in it, microseconds. Absent where nothing can throttle.
    pub cpu_throttled: Option<u64>,
    /// `cpu.max` of it and of cgroups in it that were stopped by it, microseconds a period, by path; not looked at for batch.
    pub quotas: BTreeMap<String, u64>,
    /// Memory in use, bytes: without page cache that was not used lately.
    pub memory: Option<i64>,
    /// Memory charged to it, bytes, page cache included: what `memory.high` is compared with.
    pub memory_charged: Option<i64>,
    /// Of that, what the kernel can take back without swapping, bytes.
    pub memory_reclaimable: Option<i64>,
    /// Times that it ran into its own `memory.high` or `memory.max`, or that of a cgroup in it.
    pub memory_hits: Option<u64>,
    /// Its IO by device (`major:minor`), as far as it is looked at: batch's alone.
    pub io: BTreeMap<String, Io>,
    /// Stall.
    pub stall: Stall,
    /// Of which stalls nobody knows now, though the kernel tells of them.
    pub unread: Unread,
    /// What else is counted of it.
    pub work: Work,
    /// Its pod, as far as it is looked at: mid's and batch's, since nobody else is evicted.
    pub pod: Option<Pod>,
}

/// What is counted of a group for people to look at; nothing is decided by it. Not all of it is read at each look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Periods in which its own `cpu.max` stopped it, or that of a cgroup in it stopped that one.
    pub throttled_periods: Option<u64>,
    /// Times that it ran out of memory.
    pub ooms: Option<u64>,
    /// Processes that were killed for that.
    pub oom_kills: Option<u64>,
    /// IO, of all devices together.
    pub io: Option<Io>,
    /// Memory that is no copy of a file, bytes.
    pub anonymous: Option<i64>,
    /// Page cache, bytes, tmpfs included.
    pub page_cache: Option<i64>,
}

/// A pod of tier mid or batch, as an eviction looks at it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// UID.
    pub uid: String,
    /// `namespace/name`.
    pub name: String,
    /// Its gang: `namespace/claim`.
    pub gang: Option<String>,
    /// Its group in the gang.
    pub group: String,
    /// When it started, by the caller's clock.
    pub started: Option<Millis>,
    /// When it last wrote a checkpoint, by the caller's clock.
    pub checkpoint: Option<Millis>,
    /// GPUs that it asked for, thousandths.
    pub cards: i64,
    /// It is being deleted already.
    pub leaving: bool,
}

/// What is known of a gang beyond its pods on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gang {
    /// Its pods that are bound, wherever.
    pub members: u32,
    /// Pods that may go without breaking the gang, by group: bound less its minimum.
    pub spare: BTreeMap<String, u32>,
    /// When it last wrote a checkpoint, by the caller's clock, as far as its claim tells.
    pub checkpoint: Option<Millis>,
    /// Time between two of its checkpoints, milliseconds.
    pub checkpoint_every: Option<Millis>,
    /// Time from a new start until it is where it was, milliseconds.
    pub restart: Option<Millis>,
}

/// IO of a device: totals in an observation, per second in a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Io {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

impl Io {
    /// Each figure of both combined.
    pub fn with(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            read_bytes: f(self.read_bytes, other.read_bytes),
            written_bytes: f(self.written_bytes, other.written_bytes),
            reads: f(self.reads, other.reads),
            writes: f(self.writes, other.writes),
        }
    }
}

/// A service of prod or mid that states how fast it answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name, by which it is known again.
    pub name: String,
    /// Part of its requests, thousandths, that the objective is about: 990 for the 99th percentile.
    pub quantile_milli: u32,
    /// What the objective promises of these, microseconds.
    pub threshold: u64,
    /// Its histogram as it was read last; `None` if it has not been read yet.
    pub histogram: Option<Histogram>,
}

/// A histogram of latencies, counted since the service's start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// When it was read.
    pub at: Millis,
    /// Buckets, the fastest first; each counts what those before it count, too.
    pub buckets: Vec<Bucket>,
}

/// A bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Slowest request that it counts, microseconds; `None` in the last one, which counts all.
    pub up_to: Option<u64>,
    /// Requests.
    pub count: u64,
}

/// Something that the kernel's resctrl controls for a group of tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// Its name in `schemata`: `L3`, or `L3CODE` and `L3DATA`, or `MB`.
    pub resource: String,
    /// Caches, or memory controllers, by number.
    pub domains: Vec<u32>,
    /// What may be set.
    pub range: Range,
}

/// What may be set of a control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Range {
    /// Some of the ways of a cache, next to each other.
    Ways {
        /// All ways.
        mask: u64,
        /// Fewest that may be given.
        least: u32,
    },
    /// A part of the bandwidth, percent.
    Percent {
        /// Least that may be given.
        least: u32,
        /// It goes by steps of this.
        step: u32,
    },
}

/// What is used of the last-level cache and of the memory bandwidth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheUse {
    /// Cache that batch fills, bytes.
    pub batch_bytes: u64,
    /// Bytes that batch moved from and to memory since its group was made.
    pub batch_traffic: u64,
    /// Cache that all others fill, bytes.
    pub others_bytes: u64,
    /// Bytes that all others moved from and to memory since boot.
    pub others_traffic: u64,
}

/// A NUMA node at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumaNode {
    /// Number, as the kernel counts them.
    pub index: u16,
    /// What it has.
    pub capacity: Resources,
    /// CPU time that its CPUs were busy, microseconds.
    pub cpu_busy: Option<u64>,
    /// Its memory in use and not to be dropped, bytes.
    pub memory_used: Option<i64>,
}

/// A node at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// What the node has.
    pub capacity: Resources,
    /// CPU time that the whole node was busy, microseconds over all CPUs.
    pub cpu_busy: Option<u64>,
    /// Memory of the whole node in use and not to be dropped, bytes.
    pub memory_used: Option<i64>,
    /// Stall of the whole node.
    pub stall: Stall,
    /// Time in which everybody on the node who had something to do waited for memory, microseconds since boot
    /// (`full ... total=`).
    pub memory_full: Option<u64>,
    /// Pods and named groups, in order of their path.
    pub groups: Vec<Group>,
    /// Whether `groups` is all there is. If they could not be listed, nobody's use is known.
    pub complete: bool,
    /// Whether nobody has said yet which pods are of mid and of batch, and by which policy: nothing is learnt of them.
    pub unlisted: bool,
    /// The cgroup that holds batch pods as the kubelet lays them out (its besteffort cgroup), if there is one.
    pub envelope: Option<String>,
    /// Services that state an objective.
    pub services: Vec<Service>,
    /// The node's CPUs by physical core; empty where the kernel does not say.
    pub cores: Vec<Vec<u32>>,
    /// What resctrl controls here, in the order of `schemata`; empty where it is not there.
    pub controls: Vec<Control>,
    /// Use of cache and bandwidth, where it is counted and batch has a group.
    pub cache: Option<CacheUse>,
    /// The node's network, where the agent may look after it.
    pub network: Option<Network>,
    /// What the API says is bound here in tier batch. Known without the kernel, and it outlives a cgroup that is late.
    pub bound_batch: Resources,
    /// The same of tier mid.
    pub bound_mid: Resources,
    /// Its NUMA nodes, by number; none where the kernel knows none.
    pub numa: Vec<NumaNode>,
    /// What is counted of the whole node for people.
    pub host: Host,
    /// Gangs of mid and batch pods on the node, by `namespace/claim`, as far as somebody has looked.
    pub gangs: BTreeMap<String, Gang>,
}

impl Observation {
    /// A group by its path.
    pub fn group(&self, path: &str) -> Option<&Group> {
        let found = self.groups.binary_search_by(|g| g.path.as_str().cmp(path)).ok();
        found.and_then(|at| self.groups.get(at))
    }

    /// Memory that is available, bytes; `None` where nobody knows what is in use.
    pub fn available(&self) -> Option<i64> {
        Some((self.capacity.memory - self.memory_used?).max(0))
    }

    /// Groups of a tier.
    pub fn of(&self, tier: Tier) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(move |g| g.tier == tier)
    }

    /// Groups of batch.
    pub fn batch(&self) -> impl Iterator<Item = &Group> {
        self.of(Tier::Batch)
    }

    /// Cgroups that together hold all of batch and nothing else: one where the kubelet's serves, else each group's own; none
    /// without batch.
    pub fn batch_places(&self) -> Vec<&str> {
        match self.batch_alone_in() {
            Some(envelope) => vec![envelope],
            None => self.batch().map(|g| g.path.as_str()).collect(),
        }
    }

    /// The kubelet's besteffort cgroup, if there is batch, and it holds all of that and nothing else.
    pub fn batch_alone_in(&self) -> Option<&str> {
        let inside = |path: &str, envelope: &str| {
            path.strip_prefix(envelope)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.envelope.as_deref().filter(|envelope| {
            self.complete
                && self.batch().next().is_some()
                && self
                    .groups
                    .iter()
                    .all(|g| inside(&g.path, envelope) == (g.tier == Tier::Batch))
        })
    }
}
