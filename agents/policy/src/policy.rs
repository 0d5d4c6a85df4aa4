//! How far a node goes in sharing, checked.

use serde::{Deserialize, Serialize};

use crate::{
    network::LEAST,
    observation::{Millis, Resources, Tier},
};

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

/// Memory guard: a shortage takes batch's memory first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct MemoryGuard {
    /// Off: batch's memory is not touched and prod's not protected.
    pub disabled: bool,
    /// Prod's memory stall, thousandths of wall time, over which batch's memory is taken back.
    pub stall_milli: u32,
    /// Available memory under which it is taken back whatever the stall, percent of capacity.
    pub available_percent: u32,
}

impl Default for MemoryGuard {
    fn default() -> Self {
        Self {
            disabled: false,
            stall_milli: 50,
            available_percent: 5,
        }
    }
}

/// IO guard: prod's IO stall cuts batch's IO.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct IoGuard {
    /// Off: batch's IO is not touched.
    pub disabled: bool,
    /// Prod's IO stall, thousandths of wall time, over which batch is cut.
    pub stall_milli: u32,
}

impl Default for IoGuard {
    fn default() -> Self {
        Self {
            disabled: false,
            stall_milli: 100,
        }
    }
}

/// Latency guard: a service with about as many slow requests as it may have cuts batch's CPU, but for what it misses by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LatencyGuard {
    /// Off: no service's latency cuts batch.
    pub disabled: bool,
    /// Part of the slow requests that its objective allows, percent, over which a service cuts batch.
    pub budget_percent: u32,
}

impl Default for LatencyGuard {
    fn default() -> Self {
        Self {
            disabled: false,
            budget_percent: 80,
        }
    }
}

/// Guard of the last-level cache and of memory bandwidth: batch has a part of both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LlcGuard {
    /// Off: batch uses the whole of both.
    pub disabled: bool,
    /// Part of the cache that batch may fill, percent.
    pub cache_percent: u32,
    /// Part of the bandwidth that batch may use, percent.
    pub bandwidth_percent: u32,
}

impl Default for LlcGuard {
    fn default() -> Self {
        Self {
            disabled: false,
            cache_percent: 20,
            bandwidth_percent: 50,
        }
    }
}

/// Network guard: batch pods together have a rate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkGuard {
    /// Off: batch sends and receives as prod does.
    pub disabled: bool,
    /// What batch may send, and receive, bits a second; what prod leaves of the link if absent.
    pub rate: Option<i64>,
    /// What the link that leads out of the node carries each way, bits a second; what its driver says if absent.
    pub line: Option<i64>,
}

/// CPU guard: prod's stall cuts batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Guard {
    /// Off: batch is not touched.
    pub disabled: bool,
    /// Prod's stall, thousandths of wall time, over which batch is cut.
    pub stall_milli: u32,
    /// Batch is never cut below this, milli-cores; a twentieth of the node if absent.
    pub floor: Option<i64>,
    /// What prod may use beyond its own limit in a burst, out of what it left of it before, percent of the limit; 0 for nothing.
    pub burst_percent: u32,
    /// While batch is cut, it runs on as few whole cores as it needs.
    pub confine: bool,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            disabled: false,
            stall_milli: 100,
            floor: None,
            burst_percent: 0,
            confine: false,
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

/// A field of a policy that cannot be honoured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}: {wanted}")]
pub struct Problem {
    /// The field, as the ColocationPolicy spells it.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What would be accepted.
    pub wanted: &'static str,
}

impl Policy {
    /// The span to which `growth_percent` refers.
    pub const GROWTH_SPAN: Millis = 30_000;

    /// All fields that cannot be honoured on a node of this size; empty if the policy is sound.
    pub fn problems(&self, capacity: Resources) -> Vec<Problem> {
        let mut found = Vec::new();
        let mut check = |good: bool, field, value: String, wanted| {
            if !good {
                found.push(Problem { field, value, wanted });
            }
        };
        for (at, group) in self.groups.iter().enumerate() {
            check(
                group.is_below(),
                "groups.path",
                format!("{:?}", group.path),
                "give a path below the cgroup root, without a slash at its ends, without . and ..",
            );
            let others = self.groups.iter().enumerate().filter(|(other, _)| *other != at);
            for (_, other) in others.filter(|(_, other)| other.holds(group)) {
                check(
                    false,
                    "groups.path",
                    format!("{:?} and {:?}", other.path, group.path),
                    "give cgroups of which none lies in another: what runs there would be counted twice",
                );
            }
        }
        check(
            (50..=100).contains(&self.quantile_percent),
            "reclaim.quantilePercent",
            self.quantile_percent.to_string(),
            "give 50 to 100",
        );
        check(
            self.cpu_margin_percent <= 100,
            "reclaim.cpuMarginPercent",
            self.cpu_margin_percent.to_string(),
            "give 0 to 100",
        );
        check(
            self.memory_margin_percent <= 100,
            "reclaim.memoryMarginPercent",
            self.memory_margin_percent.to_string(),
            "give 0 to 100",
        );
        check(
            (1..=100).contains(&self.growth_percent),
            "reclaim.growthPercent",
            self.growth_percent.to_string(),
            "give 1 to 100",
        );
        check(
            self.expire > self.hold,
            "reclaim.expire",
            format!("{} ms", self.expire),
            "give more than reclaim.hold, since the offer decays between the two",
        );
        for (field, percent) in [
            ("reclaim.mid.cpuPercent", self.mid.cpu_percent),
            ("reclaim.mid.memoryPercent", self.mid.memory_percent),
        ] {
            check(percent <= 100, field, percent.to_string(), "give 0 to 100");
        }
        check(
            (50..=100).contains(&self.mid.quantile_percent),
            "reclaim.mid.quantilePercent",
            self.mid.quantile_percent.to_string(),
            "give 50 to 100",
        );
        check(
            self.mid.warm_up >= Mid::MINUTE,
            "reclaim.mid.warmUp",
            format!("{} ms", self.mid.warm_up),
            "give a minute or more",
        );
        check(
            self.half_life >= 1_000,
            "reclaim.halfLife",
            format!("{} ms", self.half_life),
            "give a second or more",
        );
        for (field, stall_milli) in [
            ("guards.cpu.stallMilli", self.cpu.stall_milli),
            ("guards.memory.stallMilli", self.memory.stall_milli),
            ("guards.io.stallMilli", self.io.stall_milli),
        ] {
            check(
                (1..=1000).contains(&stall_milli),
                field,
                stall_milli.to_string(),
                "give 1 to 1000 thousandths of wall time",
            );
        }
        check(
            (1..=50).contains(&self.memory.available_percent),
            "guards.memory.availablePercent",
            self.memory.available_percent.to_string(),
            "give 1 to 50",
        );
        check(
            (10..=100).contains(&self.latency.budget_percent),
            "guards.latency.budgetPercent",
            self.latency.budget_percent.to_string(),
            "give 10 to 100",
        );
        for (field, percent) in [
            ("guards.llc.cachePercent", self.llc.cache_percent),
            ("guards.llc.bandwidthPercent", self.llc.bandwidth_percent),
        ] {
            check(
                (1..=100).contains(&percent),
                field,
                percent.to_string(),
                "give 1 to 100",
            );
        }
        for (field, rate) in [
            ("guards.network.rate", self.network.rate),
            ("guards.network.line", self.network.line),
        ] {
            check(
                rate.is_none_or(|rate| rate >= LEAST),
                field,
                rate.unwrap_or_default().to_string(),
                "give 1M bits per second or more",
            );
        }
        if let (Some(rate), Some(line)) = (self.network.rate, self.network.line) {
            check(
                rate <= line,
                "guards.network.rate",
                rate.to_string(),
                "give no more than guards.network.line",
            );
        }
        let Eviction {
            available_percent,
            kill_percent,
            suppressed_for,
            ..
        } = self.eviction;
        check(
            (2..=50).contains(&available_percent),
            "eviction.availablePercent",
            available_percent.to_string(),
            "give 2 to 50",
        );
        check(
            kill_percent >= 1 && kill_percent < available_percent,
            "eviction.killPercent",
            kill_percent.to_string(),
            "give 1 or more, and less than eviction.availablePercent (3 if absent)",
        );
        check(
            suppressed_for >= 1_000,
            "eviction.suppressedFor",
            format!("{suppressed_for} ms"),
            "give a second or more",
        );
        check(
            self.cpu.burst_percent <= 100,
            "guards.cpu.burstPercent",
            self.cpu.burst_percent.to_string(),
            "give 0 to 100",
        );
        if let Some(floor) = self.cpu.floor {
            check(
                (Guard::LEAST_FLOOR..=capacity.cpu.max(Guard::LEAST_FLOOR)).contains(&floor),
                "guards.cpu.floor",
                format!("{floor}m"),
                "give at least 10m and no more than the node has",
            );
        }
        found
    }
}

impl Guard {
    /// The kernel refuses quotas under 1 ms; in a period of 100 ms that is 10 milli-cores.
    pub const LEAST_FLOOR: i64 = 10;

    /// The floor on a node of this many milli-cores.
    pub fn floor_on(&self, capacity: i64) -> i64 {
        self.floor
            .unwrap_or(capacity / 20)
            .clamp(Self::LEAST_FLOOR, capacity.max(Self::LEAST_FLOOR))
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "tests"
    )]
    use super::*;

    const NODE: Resources = Resources {
        cpu: 2000,
        memory: 1 << 30,
    };

    #[test]
    fn the_default_policy_is_sound() {
        assert_eq!(Policy::default().problems(NODE), vec![]);
    }

    #[test]
    fn the_impossible_is_named_by_its_field() {
        let policy = Policy {
            quantile_percent: 101,
            hold: 60_000,
            expire: 60_000,
            growth_percent: 0,
            mid: Mid {
                cpu_percent: 101,
                quantile_percent: 49,
                warm_up: 59_999,
                ..Mid::default()
            },
            cpu: Guard {
                floor: Some(3000),
                stall_milli: 0,
                ..Guard::default()
            },
            eviction: Eviction {
                available_percent: 51,
                kill_percent: 51,
                suppressed_for: 0,
                ..Eviction::default()
            },
            ..Policy::default()
        };
        let fields: Vec<_> = policy.problems(NODE).iter().map(|p| p.field).collect();
        assert_eq!(
            fields,
            [
                "reclaim.quantilePercent",
                "reclaim.growthPercent",
                "reclaim.expire",
                "reclaim.mid.cpuPercent",
                "reclaim.mid.quantilePercent",
                "reclaim.mid.warmUp",
                "guards.cpu.stallMilli",
                "eviction.availablePercent",
                "eviction.killPercent",
                "eviction.suppressedFor",
                "guards.cpu.floor"
            ]
        );
        assert_eq!(
            policy.problems(NODE)[0].to_string(),
            "reclaim.quantilePercent is 101: give 50 to 100"
        );
    }
}
