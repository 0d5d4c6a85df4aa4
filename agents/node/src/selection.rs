//! Which policy a node follows, translated from the API and checked.

use std::collections::BTreeMap;

use duosuan_crds::{
    ColocationPolicySpec, Tier as ApiTier,
    policy::{Mode as ApiMode, selects},
};
use duosuan_policy::{
    Guard, Millis, Mode, NamedGroup, Policy, Resources, Tier,
    policy::{Eviction, IoGuard, LatencyGuard, LlcGuard, MemoryGuard, Mid, NetworkGuard},
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity;

/// Longest notice of mid, as the API has it: an hour. What prod lacks until then it lacks.
const LONGEST_NOTICE: Millis = 60 * 60 * 1000;

/// What a node follows.
#[allow(
    clippy::large_enum_variant,
    reason = "there is one of it for each node, which nearly always follows a policy"
)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// No policy selects it: nothing is offered, nothing is touched.
    #[default]
    None,
    /// A policy.
    Policy {
        /// Its name.
        name: String,
        /// Its content.
        policy: Policy,
    },
    /// The policy asks for the impossible: as if there were none, and the report says why.
    Refused {
        /// Its name.
        name: String,
        /// Fields, values and what would be accepted.
        problems: Vec<String>,
    },
}

impl Choice {
    /// Name of the policy.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Policy { name, .. } | Self::Refused { name, .. } => Some(name),
        }
    }

    /// Whether the node neither offers nor acts.
    pub fn suspended(&self) -> bool {
        match self {
            Self::Policy { policy, .. } => policy.suspended,
            Self::None | Self::Refused { .. } => true,
        }
    }
}

/// The first policy by name that selects a node of these labels.
pub fn choose(
    policies: &BTreeMap<String, ColocationPolicySpec>,
    labels: &BTreeMap<String, String>,
    capacity: Resources,
) -> Choice {
    let Some((name, spec)) = policies.iter().find(|(_, spec)| selects(&spec.node_selector, labels)) else {
        return Choice::None;
    };
    match translate(spec, capacity) {
        Ok(policy) => Choice::Policy {
            name: name.clone(),
            policy,
        },
        Err(problems) => Choice::Refused {
            name: name.clone(),
            problems,
        },
    }
}

/// A policy of the API in the agent's own terms, checked against a node of this size (unchecked where it is unknown).
///
/// # Errors
///
/// Every field that cannot be honoured, with its value and what would be accepted.
pub fn translate(spec: &ColocationPolicySpec, capacity: Resources) -> Result<Policy, Vec<String>> {
    let mut problems = Vec::new();
    let base = Policy::default();
    let mut millis = |field: &str, value: &Option<duosuan_crds::Duration>, otherwise| match value {
        None => otherwise,
        Some(duration) => match duration.parse() {
            Ok(d) => u64::try_from(d.as_millis()).unwrap_or(u64::MAX),
            Err(error) => {
                problems.push(format!("{field}: {error}"));
                otherwise
            }
        },
    };
    let hold = millis("reclaim.hold", &spec.reclaim.hold, base.hold);
    let expire = millis("reclaim.expire", &spec.reclaim.expire, base.expire);
    let mid = spec.reclaim.mid.clone().unwrap_or_default();
    let mid_warm_up = millis("reclaim.mid.warmUp", &mid.warm_up, base.mid.warm_up);
    let eviction = spec.eviction.clone().unwrap_or_default();
    let suppressed_for = millis(
        "eviction.suppressedFor",
        &eviction.suppressed_for,
        base.eviction.suppressed_for,
    );
    let mid_notice = millis("eviction.midNotice", &eviction.mid_notice, base.eviction.mid_notice);
    if mid_notice > LONGEST_NOTICE {
        let text = eviction.mid_notice.clone().unwrap_or_default().0;
        problems.push(format!("eviction.midNotice is {text:?}: give an hour or less"));
    }
    let floor = spec.guards.cpu.floor.as_ref().and_then(|text| {
        let floor = quantity::milli(text);
        if floor.is_none() {
            problems.push(format!(
                "guards.cpu.floor is {:?}: give cores as a quantity, such as 500m",
                text.0
            ));
        }
        floor
    });
    let network = spec.guards.network.clone().unwrap_or_default();
    let mut bits = |field: &str, given: &Option<Quantity>| {
        let text = given.as_ref()?;
        let bits = quantity::whole(text);
        if bits.is_none() {
            problems.push(format!(
                "{field} is {:?}: give bits per second as a quantity, such as 2G",
                text.0
            ));
        }
        bits
    };
    let network = NetworkGuard {
        disabled: network.disabled,
        rate: bits("guards.network.rate", &network.rate),
        line: bits("guards.network.line", &network.line),
    };
    let memory = spec.guards.memory.clone().unwrap_or_default();
    let io = spec.guards.io.clone().unwrap_or_default();
    let latency = spec.guards.latency.clone().unwrap_or_default();
    let llc = spec.guards.llc.clone().unwrap_or_default();
    let policy = Policy {
        suspended: spec.suspended,
        mode: match spec.mode {
            ApiMode::Act => Mode::Act,
            ApiMode::Observe => Mode::Observe,
        },
        quantile_percent: spec.reclaim.quantile_percent.unwrap_or(base.quantile_percent),
        cpu_margin_percent: spec.reclaim.cpu_margin_percent.unwrap_or(base.cpu_margin_percent),
        memory_margin_percent: spec.reclaim.memory_margin_percent.unwrap_or(base.memory_margin_percent),
        growth_percent: spec.reclaim.growth_percent.unwrap_or(base.growth_percent),
        hold,
        expire,
        mid: Mid {
            cpu_percent: mid.cpu_percent.unwrap_or(base.mid.cpu_percent),
            memory_percent: mid.memory_percent.unwrap_or(base.mid.memory_percent),
            quantile_percent: mid.quantile_percent.unwrap_or(base.mid.quantile_percent),
            warm_up: mid_warm_up,
            ..base.mid
        },
        cpu: Guard {
            disabled: spec.guards.cpu.disabled,
            stall_milli: spec.guards.cpu.stall_milli.unwrap_or(base.cpu.stall_milli),
            floor,
            burst_percent: spec.guards.cpu.burst_percent.unwrap_or(base.cpu.burst_percent),
            confine: spec.guards.cpu.confine,
        },
        memory: MemoryGuard {
            disabled: memory.disabled,
            stall_milli: memory.stall_milli.unwrap_or(base.memory.stall_milli),
            available_percent: memory.available_percent.unwrap_or(base.memory.available_percent),
        },
        io: IoGuard {
            disabled: io.disabled,
            stall_milli: io.stall_milli.unwrap_or(base.io.stall_milli),
        },
        latency: LatencyGuard {
            disabled: latency.disabled,
            budget_percent: latency.budget_percent.unwrap_or(base.latency.budget_percent),
        },
        llc: LlcGuard {
            disabled: llc.disabled,
            cache_percent: llc.cache_percent.unwrap_or(base.llc.cache_percent),
            bandwidth_percent: llc.bandwidth_percent.unwrap_or(base.llc.bandwidth_percent),
        },
        network,
        eviction: Eviction {
            disabled: eviction.disabled,
            available_percent: eviction.available_percent.unwrap_or(base.eviction.available_percent),
            kill_percent: eviction.kill_percent.unwrap_or(base.eviction.kill_percent),
            suppressed_for,
            mid_notice,
        },
        groups: spec.groups.iter().map(named).collect(),
        ..base
    };
    let size = if capacity.cpu > 0 {
        capacity
    } else {
        Resources {
            cpu: i64::MAX,
            memory: i64::MAX,
        }
    };
    problems.extend(policy.problems(size).iter().map(ToString::to_string));
    if problems.is_empty() { Ok(policy) } else { Err(problems) }
}

fn named(group: &duosuan_crds::policy::NamedGroup) -> NamedGroup {
    NamedGroup {
        path: group.path.clone(),
        tier: match group.tier {
            ApiTier::Prod => Tier::Prod,
            ApiTier::Mid => Tier::Mid,
            ApiTier::Batch => Tier::Batch,
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const NODE: Resources = Resources {
        cpu: 2000,
        memory: 1 << 30,
    };

    fn spec(value: serde_json::Value) -> ColocationPolicySpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn of_several_policies_that_select_a_node_the_first_by_name_holds() {
        let policies = BTreeMap::from([
            ("c".to_owned(), spec(serde_json::json!({}))),
            (
                "b".to_owned(),
                spec(serde_json::json!({"nodeSelector": {"pool": "x"}, "suspended": true})),
            ),
            ("a".to_owned(), spec(serde_json::json!({"nodeSelector": {"pool": "y"}}))),
        ]);
        let labels = BTreeMap::from([("pool".to_owned(), "x".to_owned())]);
        let choice = choose(&policies, &labels, NODE);
        assert_eq!((choice.name(), choice.suspended()), (Some("b"), true));
        assert_eq!(choose(&policies, &BTreeMap::new(), NODE).name(), Some("c"));
        assert_eq!(choose(&BTreeMap::new(), &labels, NODE), Choice::None);
    }

    #[test]
    fn the_guards_of_memory_and_io_are_on_unless_they_are_switched_off() {
        let none = translate(&spec(serde_json::json!({})), NODE).unwrap();
        assert_eq!((none.memory, none.io), (MemoryGuard::default(), IoGuard::default()));
        let given = spec(serde_json::json!({"guards": {
            "memory": {"stallMilli": 20, "availablePercent": 10}, "io": {"disabled": true}}}));
        let policy = translate(&given, NODE).unwrap();
        let memory = MemoryGuard {
            disabled: false,
            stall_milli: 20,
            available_percent: 10,
        };
        assert_eq!((policy.memory, policy.io.disabled), (memory, true));
    }

    #[test]
    fn eviction_is_on_unless_it_is_switched_off() {
        let none = translate(&spec(serde_json::json!({})), NODE).unwrap();
        assert_eq!(none.eviction, Eviction::default());
        let given = spec(serde_json::json!({"eviction": {
            "disabled": true, "availablePercent": 10, "killPercent": 4, "suppressedFor": "90s", "midNotice": "5m"}}));
        let expected = Eviction {
            disabled: true,
            available_percent: 10,
            kill_percent: 4,
            suppressed_for: 90_000,
            mid_notice: 300_000,
        };
        assert_eq!(translate(&given, NODE).unwrap().eviction, expected);
    }

    #[test]
    fn mid_is_offered_a_quarter_of_the_node_unless_the_policy_says_otherwise() {
        let none = translate(&spec(serde_json::json!({})), NODE).unwrap();
        assert_eq!((none.mid.clone(), none.mid.cpu_percent), (Mid::default(), 25));
        let given = spec(serde_json::json!({"reclaim": {"mid": {
            "cpuPercent": 40, "memoryPercent": 0, "quantilePercent": 95, "warmUp": "2h"}}}));
        let expected = Mid {
            cpu_percent: 40,
            memory_percent: 0,
            quantile_percent: 95,
            warm_up: 7_200_000,
            ..Mid::default()
        };
        assert_eq!(translate(&given, NODE).unwrap().mid, expected);
    }

    #[test]
    fn mid_is_given_an_hours_notice_at_most() {
        let of = |notice: &str| translate(&spec(serde_json::json!({"eviction": {"midNotice": notice}})), NODE);
        assert_eq!(of("1h").unwrap().eviction.mid_notice, LONGEST_NOTICE);
        let problems = of("61m").unwrap_err();
        assert_eq!(problems, ["eviction.midNotice is \"61m\": give an hour or less"]);
    }

    #[test]
    fn every_field_that_cannot_be_honoured_is_named() {
        let bad = spec(serde_json::json!({
            "reclaim": {"quantilePercent": 101, "hold": "10m", "expire": "soon", "mid": {"cpuPercent": 101, "warmUp": "day"}},
            "eviction": {"killPercent": 3, "suppressedFor": "never", "midNotice": "late"},
            "guards": {"cpu": {"floor": "many"}, "memory": {"availablePercent": 51}, "io": {"stallMilli": 0}}
        }));
        let problems = translate(&bad, NODE).unwrap_err();
        for field in [
            "reclaim.quantilePercent is 101",
            "reclaim.expire: duration \"soon\"",
            "reclaim.mid.cpuPercent is 101",
            "reclaim.mid.warmUp: duration \"day\"",
            "eviction.midNotice: duration \"late\"",
            "guards.cpu.floor is \"many\"",
            "guards.memory.availablePercent is 51",
            "guards.io.stallMilli is 0",
            "eviction.killPercent is 3",
            "eviction.suppressedFor: duration \"never\"",
        ] {
            assert!(problems.iter().any(|p| p.starts_with(field)), "{field} in {problems:?}");
        }
    }
}
