//! How far a node goes in sharing, checked.

mod guards;
mod problems;

use serde::{Deserialize, Serialize};

pub use self::{
    guards::{Guard, IoGuard, LatencyGuard, LlcGuard, MemoryGuard, NetworkGuard},
    problems::Problem,
};
use crate::observation::{Millis, Tier};

/// Whether settings are made or only named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Settings are made.
    #[default]
    Act,
    /// Everything but: the report says what would be done.
    Observe,
}

/// How far a node goes in sharing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// Kill switch: nothing is set, nothing is offered beyond what is bound.
    pub suspended: bool,
    /// Whether to act.
    pub mode: Mode,
    /// Quantile of prod's use that is kept for it, percent, 50 to 100.
    pub quantile_percent: u32,
    /// CPU never offered, percent of capacity.
    pub cpu_margin_percent: u32,
    /// Memory never offered, percent of capacity.
    pub memory_margin_percent: u32,
    /// How much the offer may grow in [`Policy::GROWTH_SPAN`], and mid's in [`Mid::GROWTH_SPAN`], percent of capacity.
    pub growth_percent: u32,
    /// Age of a signal, milliseconds, up to which the last offer holds.
    pub hold: Millis,
    /// Age of a signal, milliseconds, at which the offer is down to what is bound.
    pub expire: Millis,
    /// Time, milliseconds, after which a sample counts half in the forecast.
    pub half_life: Millis,
    /// Samples, one a second, before anything is offered.
    pub min_samples: u32,
    /// Time, milliseconds, for which a new prod pod is taken to need all that it asked for.
    pub warm_up: Millis,
    /// What is offered to mid.
    pub mid: Mid,
    /// CPU guard.
    pub cpu: Guard,
    /// Memory guard.
    pub memory: MemoryGuard,
    /// IO guard.
    pub io: IoGuard,
    /// Latency guard.
    pub latency: LatencyGuard,
    /// Guard of cache and memory bandwidth.
    pub llc: LlcGuard,
    /// Network guard.
    pub network: NetworkGuard,
    /// Eviction of batch where the guards do not suffice.
    pub eviction: Eviction,
    /// Cgroups outside pods, and their tiers.
    pub groups: Vec<NamedGroup>,
}

/// A cgroup outside pods, and the tier of what runs in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedGroup {
    /// Path below the cgroup root.
    pub path: String,
    /// Its tier.
    pub tier: Tier,
}

impl NamedGroup {
    /// Whether the path leads somewhere below the root.
    fn is_below(&self) -> bool {
        self.path.split('/').all(|part| !matches!(part, "" | "." | ".."))
    }

    /// Whether another is the same cgroup, or lies in it.
    fn holds(&self, other: &Self) -> bool {
        other
            .path
            .strip_prefix(&self.path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// What is offered to mid: prod's requests that a day of its past says stay unused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Mid {
    /// CPU that is offered at most, percent of capacity; 0 offers none.
    pub cpu_percent: u32,
    /// Memory that is offered at most, percent of capacity; 0 offers none.
    pub memory_percent: u32,
    /// Quantile of the peaks of prod's minutes that is kept for it, percent, 50 to 100.
    pub quantile_percent: u32,
    /// Time, milliseconds, after which such a peak counts half.
    pub half_life: Millis,
    /// How long a pod must have been seen, milliseconds, before anything that it asked for counts as unused.
    pub warm_up: Millis,
}

impl Default for Mid {
    /// A day is the period of most services' load, so a day must have been seen, and still counts half a day later. Kubernetes'
    /// Vertical Pod Autoscaler halves after a day, too; Koordinator's predictor halves CPU after 12 h and memory after 24 h,
    /// and begins after 24 h.
    fn default() -> Self {
        Self {
            cpu_percent: 25,
            memory_percent: 25,
            quantile_percent: 99,
            half_life: 24 * 3_600_000,
            warm_up: 24 * 3_600_000,
        }
    }
}

impl Mid {
    /// Time whose peak is one sample of the long pasts.
    pub const MINUTE: Millis = 60_000;
    /// The span in which the offer may grow by [`Policy::growth_percent`]: ten times batch's, since what was taken back once
    /// should not be promised again at once.
    pub const GROWTH_SPAN: Millis = 10 * Policy::GROWTH_SPAN;

    /// Samples that make a past long enough.
    pub(crate) fn minutes(&self) -> u64 {
        (self.warm_up / Self::MINUTE).max(1)
    }

    /// Whether nothing is offered at all.
    pub const fn off(&self) -> bool {
        self.cpu_percent == 0 && self.memory_percent == 0
    }
}

/// Eviction: who has to leave where the guards do not suffice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Eviction {
    /// Off: nobody is evicted, and the kernel's OOM killer decides.
    pub disabled: bool,
    /// Available memory under which batch pods are evicted through the API, percent of capacity.
    pub available_percent: u32,
    /// Available memory under which batch is killed at once, percent of capacity.
    pub kill_percent: u32,
    /// How long the guards of CPU and latency may hold batch at its floor, milliseconds, before batch pods are evicted; and how
    /// long prod may lack memory when batch has no page cache left to give; and how long prod must have suffered with no batch left
    /// to evict before mid is evicted for its CPU, or for memory that prod stalls for.
    pub suppressed_for: Millis,
    /// Time between the notice to a pod of mid and its eviction, milliseconds.
    pub mid_notice: Millis,
}

impl Default for Eviction {
    fn default() -> Self {
        Self {
            disabled: false,
            available_percent: 3,
            kill_percent: 1,
            suppressed_for: 300_000,
            mid_notice: 60_000,
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            suspended: false,
            mode: Mode::Act,
            quantile_percent: 98,
            cpu_margin_percent: 10,
            memory_margin_percent: 10,
            growth_percent: 10,
            hold: 60_000,
            expire: 300_000,
            half_life: 3_600_000,
            min_samples: 60,
            warm_up: 300_000,
            mid: Mid::default(),
            cpu: Guard::default(),
            memory: MemoryGuard::default(),
            io: IoGuard::default(),
            latency: LatencyGuard::default(),
            llc: LlcGuard::default(),
            network: NetworkGuard::default(),
            eviction: Eviction::default(),
            groups: Vec::new(),
        }
    }
}
