//! The node, and what the API server and its kubelet do with orders.

use duosuan_policy::{
    Action, Answer, Capabilities, Cause, Group, Observation, Pod, Policy, Report, Resources, Stall, State, Tier,
    action::KILL, decide,
};

pub(crate) const GIB: i64 = 1 << 30;
/// 100 GiB, so that a GiB is a percent.
pub(crate) const NODE: i64 = 100 * GIB;
pub(crate) const START: u64 = 10_000_000;

/// A node of ten cores. Online and the system hold what they hold; what is ordered leaves after `grace`.
pub(crate) struct Node {
    pub(crate) now: u64,
    /// Memory of online and of the system, GiB.
    pub(crate) others: i64,
    pub(crate) full: u64,
    pub(crate) prod_stall: u64,
    pub(crate) grace: u64,
    /// Pods that a disruption budget keeps.
    pub(crate) kept: Vec<String>,
    /// Pods whose memory outlasts their processes, as files in memory do.
    pub(crate) outlast: Vec<String>,
    pub(crate) going: Vec<(u64, String)>,
    pub(crate) seen: Observation,
    pub(crate) state: State,
    pub(crate) policy: Policy,
    /// What batch may use of the CPU, milli-cores.
    pub(crate) limit: Option<i64>,
    /// All orders, by pod and cause.
    pub(crate) ordered: Vec<(String, Cause)>,
    pub(crate) killed: Vec<String>,
}

impl Node {
    pub(crate) fn new(others: i64) -> Self {
        let online = Group {
            path: "kubepods/podonline".to_owned(),
            requests: Resources {
                cpu: 3_000,
                memory: 40 * GIB,
            },
            cpu_usage: Some(0),
            memory: Some(40 * GIB),
            memory_charged: Some(40 * GIB),
            memory_reclaimable: Some(0),
            memory_hits: Some(0),
            stall: Stall {
                cpu: Some(0),
                memory: Some(0),
                io: Some(0),
            },
            ..Group::default()
        };
        Self {
            now: START,
            others,
            full: 0,
            prod_stall: 0,
            grace: 2_000,
            kept: Vec::new(),
            outlast: Vec::new(),
            going: Vec::new(),
            seen: Observation {
                capacity: Resources {
                    cpu: 10_000,
                    memory: NODE,
                },
                cpu_busy: Some(0),
                memory_full: Some(0),
                groups: vec![online],
                complete: true,
                ..Observation::default()
            },
            state: State::default(),
            policy: Policy {
                warm_up: 0,
                min_samples: 5,
                growth_percent: 100,
                ..Policy::default()
            },
            limit: None,
            ordered: Vec::new(),
            killed: Vec::new(),
        }
    }

    /// A batch pod that holds so many GiB and has used so many core-seconds.
    pub(crate) fn batch(&mut self, name: &str, gib: i64, core_seconds: u64) -> &mut Pod {
        self.pod(Tier::Batch, name, gib, core_seconds)
    }

    /// The same of a tier.
    pub(crate) fn pod(&mut self, tier: Tier, name: &str, gib: i64, core_seconds: u64) -> &mut Pod {
        self.seen.groups.push(Group {
            path: format!("kubepods/besteffort/pod{name}"),
            tier,
            requests: Resources {
                cpu: 1_000,
                memory: gib * GIB,
            },
            cpu_usage: Some(core_seconds * 1_000_000),
            memory: Some(gib * GIB),
            memory_charged: Some(gib * GIB),
            memory_reclaimable: Some(0),
            memory_hits: Some(0),
            stall: Stall {
                cpu: Some(0),
                memory: Some(0),
                io: Some(0),
            },
            pod: Some(Pod {
                uid: name.to_owned(),
                name: format!("default/{name}"),
                started: Some(START - core_seconds * 1_000),
                ..Pod::default()
            }),
            ..Group::default()
        });
        self.seen.groups.sort_by(|a, b| a.path.cmp(&b.path));
        let at = self
            .seen
            .groups
            .iter()
            .position(|g| g.path.ends_with(&format!("pod{name}")));
        self.seen.groups[at.unwrap()].pod.as_mut().unwrap()
    }

    pub(crate) fn holds(&mut self, name: &str, gib: i64) {
        let group = self.group(name).unwrap();
        (group.memory, group.memory_charged) = (Some(gib * GIB), Some(gib * GIB));
    }

    pub(crate) fn group(&mut self, name: &str) -> Option<&mut Group> {
        self.seen
            .groups
            .iter_mut()
            .find(|g| g.pod.as_ref().is_some_and(|p| p.uid == name))
    }

    pub(crate) fn pods(&self) -> Vec<&str> {
        let pods = self.seen.groups.iter().filter_map(|g| g.pod.as_ref());
        pods.map(|p| p.uid.as_str()).collect()
    }

    /// A second passes; the API server and the kubelet do what they are told.
    pub(crate) fn second(&mut self) -> Report {
        self.now += 1_000;
        let now = self.now;
        let ended: Vec<String> = self
            .going
            .extract_if(.., |(at, _)| *at <= now)
            .map(|(_, n)| n)
            .collect();
        self.seen
            .groups
            .retain(|g| g.pod.as_ref().is_none_or(|p| !ended.contains(&p.uid)));
        let batch: i64 = self
            .seen
            .groups
            .iter()
            .filter(|g| g.tier != Tier::Prod)
            .filter_map(|g| g.memory)
            .sum();
        self.seen.memory_used = Some((self.others * GIB + batch).min(NODE));
        self.seen.memory_full = self.seen.memory_full.map(|full| full + self.full * 1_000);
        for group in self.seen.groups.iter_mut().filter(|g| g.tier == Tier::Prod) {
            group.stall.memory = group.stall.memory.map(|stall| stall + self.prod_stall * 1_000);
        }
        let capabilities = Capabilities {
            cpu_max: true,
            memory_high: true,
            memory_pressure: true,
            cgroup_kill: true,
            ..Capabilities::default()
        };
        let (actions, report) = decide(&self.policy, &capabilities, &self.seen, &mut self.state, now);
        let quota = |a: &Action| a.value.split(' ').next().unwrap().parse::<i64>().unwrap() / 100;
        let quotas = actions.iter().filter(|a| a.file == "cpu.max").map(quota);
        self.limit = quotas.reduce(|a, b| a + b);
        for order in report.eviction.orders().cloned().collect::<Vec<_>>() {
            self.ordered.push((order.uid.clone(), order.cause));
            if self.kept.contains(&order.uid) {
                self.state.evicted(&order.uid, Answer::Refused, now);
            } else {
                self.state.evicted(&order.uid, Answer::Evicted, now);
                self.going.push((now + order.notice + self.grace, order.uid.clone()));
                self.group(&order.uid).unwrap().pod.as_mut().unwrap().leaving = order.notice == 0;
            }
        }
        for kill in actions.iter().filter(|a: &&Action| a.file == KILL) {
            self.killed.push(kill.path.clone());
            let group = self.seen.groups.iter_mut().find(|g| g.path == kill.path).unwrap();
            if self.outlast.contains(&group.pod.as_ref().unwrap().uid) {
                continue;
            }
            (group.memory, group.memory_charged) = (Some(0), Some(0));
        }
        report
    }

    pub(crate) fn seconds(&mut self, seconds: u64) -> Report {
        (1..seconds).for_each(|_| drop(self.second()));
        self.second()
    }

    pub(crate) fn ordered(&self) -> Vec<&str> {
        self.ordered.iter().map(|(name, _)| name.as_str()).collect()
    }
}
