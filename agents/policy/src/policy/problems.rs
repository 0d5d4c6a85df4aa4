//! What of a policy cannot be honoured.

use super::{Eviction, Guard, Mid, Policy};
use crate::{
    network::LEAST,
    observation::{Millis, Resources},
};

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
