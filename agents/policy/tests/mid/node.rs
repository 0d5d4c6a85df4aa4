//! A node on which pods of prod, mid and batch use what a test says.

use duosuan_policy::{
    Capabilities, Group, Millis, Observation, Policy, Report, Resources, State, Tier, decide, policy::Mid,
};
pub(crate) const GIB: i64 = 1 << 30;
/// Long enough a past in these tests: 10 minutes.
pub(crate) const WARM_UP: Millis = 600_000;
pub(crate) const CAPACITY: Resources = Resources {
    cpu: 32_000,
    memory: 128 * GIB,
};

/// A node of 32 cores and 128 GiB of which a system uses 1 and 2.
pub(crate) struct Node {
    pub(crate) now: Millis,
    pub(crate) seen: Observation,
    pub(crate) state: State,
    pub(crate) policy: Policy,
}

impl Node {
    /// Pods of prod by name, each asking for so many cores, and GiB.
    pub(crate) fn of(pods: &[(&str, i64)]) -> Self {
        let mut node = Self {
            now: 1_000_000,
            seen: Observation {
                capacity: CAPACITY,
                cpu_busy: Some(0),
                memory_used: Some(0),
                complete: true,
                ..Observation::default()
            },
            state: State::default(),
            policy: Policy {
                mid: Mid {
                    cpu_percent: 50,
                    memory_percent: 50,
                    warm_up: WARM_UP,
                    ..Mid::default()
                },
                growth_percent: 100,
                ..Policy::default()
            },
        };
        for (name, cores) in pods {
            node.comes(name, Tier::Prod, *cores);
        }
        node
    }

    pub(crate) fn comes(&mut self, name: &str, tier: Tier, cores: i64) {
        let path = format!("{}/{name}", tier.as_str());
        let at = self.seen.groups.partition_point(|g| g.path < path);
        let group = Group {
            path,
            tier,
            requests: Resources {
                cpu: cores * 1_000,
                memory: cores * GIB,
            },
            cpu_usage: Some(0),
            memory: Some(0),
            ..Group::default()
        };
        self.seen.groups.insert(at, group);
    }

    pub(crate) fn leaves(&mut self, name: &str) {
        self.seen.groups.retain(|g| !g.path.ends_with(&format!("/{name}")));
    }

    /// A second in which each pod uses so many milli-cores, and a GiB for a thousand of them.
    pub(crate) fn second(&mut self, used: impl Fn(&str) -> i64) -> Report {
        self.now += 1_000;
        let mut all = Resources {
            cpu: 1_000,
            memory: 2 * GIB,
        };
        for group in &mut self.seen.groups {
            let cpu = used(group.path.split_once('/').unwrap().1);
            let memory = cpu * GIB / 1_000;
            group.memory = Some(memory);
            group.cpu_usage = group.cpu_usage.map(|usage| usage + cpu.unsigned_abs() * 1_000);
            all = all.plus(Resources { cpu, memory });
        }
        self.seen.memory_used = Some(all.memory);
        self.seen.cpu_busy = self.seen.cpu_busy.map(|busy| busy + all.cpu.unsigned_abs() * 1_000);
        decide(
            &self.policy,
            &Capabilities::default(),
            &self.seen,
            &mut self.state,
            self.now,
        )
        .1
    }

    pub(crate) fn seconds(&mut self, n: u64, used: impl Fn(&str) -> i64) -> Report {
        for _ in 1..n {
            self.second(&used);
        }
        self.second(&used)
    }
}

/// A node with a long past: `a` asked for 12 cores and uses 4, `b` asked for 8 and uses 2.
pub(crate) fn with_a_past() -> Node {
    let mut node = Node::of(&[("a", 12), ("b", 8)]);
    node.seconds(900, calm);
    node
}

pub(crate) fn calm(name: &str) -> i64 {
    match name {
        "a" => 4_000,
        "b" => 2_000,
        _ => 0,
    }
}

/// Of buckets that answer up to an eighth too much.
pub(crate) fn about(wanted: i64, value: i64) {
    assert!(
        (wanted - wanted / 8 - 100..=wanted).contains(&value),
        "{value} for {wanted}"
    );
}
