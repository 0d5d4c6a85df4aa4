//! Builders of objects and a small driver.

use std::collections::BTreeMap;

use crate::{
    Budget, Cluster, Decision, Event, EvictCause, Reason, Tier, Time, cycle,
    event::{Claim, Gpu, GpuRequest, Group, Node, NumaNode, Pod, Queue, Quota, SharedVolume},
    model::Place,
};

pub(crate) const GI: i64 = 1 << 30;

pub(crate) fn amounts(of: &[(&str, i64)]) -> BTreeMap<String, i64> {
    of.iter().map(|(name, amount)| (name.to_string(), *amount)).collect()
}

/// A node with cores, 4 GiB for each, 110 pods.
pub(crate) fn node(name: &str, cores: i64) -> Node {
    Node {
        name: name.into(),
        allocatable: amounts(&[("cpu", cores * 1000), ("memory", cores * 4 * GI), ("pods", 110)]),
        ..Default::default()
    }
}

/// A node of 64 cores with GPUs.
pub(crate) fn gpu_node(name: &str, gpus: usize, model: &str) -> Node {
    let gpu = Gpu {
        model: model.into(),
        memory: 80 * GI,
        ..Default::default()
    };
    Node {
        gpus: vec![gpu; gpus],
        ..node(name, 64)
    }
}

/// A NUMA node of some cores, with 4 GiB for each.
pub(crate) fn numa_node(id: u16, cores: i64) -> NumaNode {
    NumaNode {
        id,
        cpu: cores * 1000,
        memory: cores * 4 * GI,
    }
}

/// A pod of ours without a claim.
pub(crate) fn pod(uid: &str, milli: i64) -> Pod {
    Pod {
        uid: uid.into(),
        namespace: "ns".into(),
        name: uid.into(),
        requests: amounts(&[("cpu", milli), ("memory", GI)]),
        ours: true,
        ..Default::default()
    }
}

/// Volumes of these names, of which a node attaches as many as it has `disks`.
pub(crate) fn volumes(names: &[&str]) -> Vec<SharedVolume> {
    let volume = |name: &&str| SharedVolume {
        name: (*name).into(),
        resource: "disks".into(),
    };
    names.iter().map(volume).collect()
}

pub(crate) fn share(milli: u16) -> GpuRequest {
    GpuRequest {
        count: 1,
        milli,
        memory: 0,
        models: vec![],
    }
}

pub(crate) fn whole(count: u16) -> GpuRequest {
    GpuRequest {
        count,
        milli: 1000,
        memory: 0,
        models: vec![],
    }
}

pub(crate) fn gpu_pod(uid: &str, gpus: GpuRequest) -> Pod {
    Pod {
        gpus: Some(gpus),
        ..pod(uid, 1000)
    }
}

pub(crate) fn member(uid: &str, claim: &str, group: &str, milli: i64) -> Pod {
    Pod {
        claim: Some(claim.into()),
        group: group.into(),
        ..pod(uid, milli)
    }
}

pub(crate) fn claim(name: &str, queue: &str, groups: &[(&str, u32, u32, u32)]) -> Claim {
    Claim {
        uid: format!("{name}-uid"),
        namespace: "ns".into(),
        name: name.into(),
        queue: queue.into(),
        groups: groups
            .iter()
            .map(|&(name, min, max, quantum)| Group {
                name: name.into(),
                min,
                max,
                quantum,
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

pub(crate) fn queue(name: &str, parent: Option<&str>, guaranteed: &[(&str, i64)], limit: &[(&str, i64)]) -> Queue {
    let quota = Quota {
        tier: Tier::Prod,
        guaranteed: amounts(guaranteed),
        limit: amounts(limit),
        lend_limit: amounts(&[]),
    };
    Queue {
        name: name.into(),
        parent: parent.map(Into::into),
        weight: 1,
        quotas: vec![quota],
        namespaces: vec![],
        never_reclaims: false,
        fairness_half_life: None,
    }
}

impl From<Node> for Event {
    fn from(node: Node) -> Event {
        Event::Node(Box::new(node))
    }
}

impl From<Pod> for Event {
    fn from(pod: Pod) -> Event {
        Event::Pod(Box::new(pod))
    }
}

impl From<Claim> for Event {
    fn from(claim: Claim) -> Event {
        Event::Claim(Box::new(claim))
    }
}

impl From<Queue> for Event {
    fn from(queue: Queue) -> Event {
        Event::Queue(Box::new(queue))
    }
}

/// A cluster with a clock, and an API server that remembers pods and does what is decided.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) now: i64,
    pub(crate) pods: BTreeMap<String, Pod>,
}

impl World {
    pub(crate) fn with(events: impl IntoIterator<Item = Event>) -> World {
        let mut world = World::default();
        for event in events {
            world.tell(event);
        }
        world
    }

    pub(crate) fn tell(&mut self, event: impl Into<Event>) {
        let event = event.into();
        match &event {
            Event::Pod(pod) => {
                self.pods.insert(pod.uid.clone(), (**pod).clone());
            }
            Event::PodGone(uid) => {
                self.pods.remove(uid);
            }
            _ => {}
        }
        self.cluster.apply(event);
        assert_eq!(self.cluster.check(), Ok(()));
    }

    /// A claim with a group `w` of one pod of 4 cores, which is on a node if it runs already.
    pub(crate) fn tell_single(&mut self, of: Claim, on: Option<&str>) {
        let (name, created) = (of.name.clone(), of.created);
        self.tell(of);
        self.tell(Pod {
            node: on.map(Into::into),
            created,
            ..member(&format!("{name}-0"), &name, "w", 4000)
        });
    }

    /// One cycle.
    pub(crate) fn cycle(&mut self) -> Vec<Decision> {
        self.cycle_of(1000)
    }

    pub(crate) fn cycle_of(&mut self, pods: u32) -> Vec<Decision> {
        // The index is a cache: without it everything is decided in the same way.
        let mut anew = Cluster {
            model: self.cluster.model.clone(),
            index: crate::index::Index::default(),
            policy: self.cluster.policy,
        };
        let decisions = cycle(&mut self.cluster, Time(self.now), Budget { pods });
        assert_eq!(decisions, cycle(&mut anew, Time(self.now), Budget { pods }));
        assert_eq!(self.cluster.check(), Ok(()));
        for decision in &decisions {
            if let Decision::Evict {
                pod,
                cause: EvictCause::Shrunk { by },
                ..
            } = decision
            {
                self.only_shrinks(pod, by);
            }
            if let Decision::Evict {
                pod,
                cause: cause @ (EvictCause::Reclaimed { by } | EvictCause::Preempted { by }),
                ..
            } = decision
            {
                self.is_justified(pod, by, matches!(cause, EvictCause::Preempted { .. }));
            }
        }
        decisions
    }

    /// One cycle, and the watch's confirmation of what it bound.
    pub(crate) fn run(&mut self) -> Vec<Decision> {
        let decisions = self.cycle();
        self.confirm(&decisions);
        decisions
    }

    /// No eviction without its placement, and none of a higher tier.
    fn is_justified(&self, victim: &str, by: &str, preempted: bool) {
        let model = &self.cluster.model;
        let (_, by) = model.claims.iter().find(|(_, c)| c.known && *c.uid == *by).unwrap();
        let members = by.groups.iter().flat_map(|g| &g.members);
        let kept = members.filter(|&&p| matches!(model.pods[p].place, Place::Nominated(_)));
        assert!(
            kept.count() > 0,
            "pod {victim} goes for {}, which has no seat kept",
            by.uid
        );
        let victim = &model.pods[model.pods_by_uid[victim]];
        let victim = &model.claims[victim.claim.unwrap()];
        assert!(victim.tier >= by.tier, "{} goes for {}", victim.uid, by.uid);
        let below = victim.queue == by.queue && victim.tier == by.tier && victim.priority < by.priority;
        assert_eq!(preempted, below, "{} goes for {}", victim.uid, by.uid);
    }

    /// Whoever shrinks keeps its minimum, and somebody gets its minimum for it.
    fn only_shrinks(&self, victim: &str, by: &str) {
        let model = &self.cluster.model;
        let victim = &model.pods[model.pods_by_uid[victim]];
        let groups = &model.claims[victim.claim.unwrap()].groups;
        let group = groups.iter().find(|g| *g.spec.name == *victim.group).unwrap();
        assert!(model.have(group) >= group.min(), "pod {} is missed", victim.uid);
        let (_, by) = model.claims.iter().find(|(_, c)| c.known && *c.uid == *by).unwrap();
        let mut members = by.groups.iter().flat_map(|g| &g.members);
        assert!(
            members.any(|&p| matches!(model.pods[p].place, Place::Nominated(_))),
            "{}",
            by.uid
        );
    }

    pub(crate) fn confirm(&mut self, decisions: &[Decision]) {
        for decision in decisions {
            if let Decision::Bind {
                pod,
                node,
                devices,
                numa,
                ..
            } = decision
            {
                let mut bound = self.pods[pod].clone();
                bound.node = Some(node.clone());
                bound.devices = devices.clone();
                bound.numa = *numa;
                self.tell(bound);
            }
        }
    }

    pub(crate) fn reason(&self, decisions: &[Decision], about: &str) -> Option<Reason> {
        decisions.iter().rev().find_map(|d| match d {
            Decision::Pending { claim, reason, .. } if claim == about => Some(reason.clone()),
            _ => None,
        })
    }
}

/// (pod, node) of each binding, in order.
pub(crate) fn binds(decisions: &[Decision]) -> Vec<(&str, &str)> {
    fn bind(decision: &Decision) -> Option<(&str, &str)> {
        match decision {
            Decision::Bind { pod, node, .. } => Some((pod, node)),
            _ => None,
        }
    }
    decisions.iter().filter_map(bind).collect()
}

/// (claim, group, count) of each new size, in order.
pub(crate) fn sizes(decisions: &[Decision]) -> Vec<(&str, &str, u32)> {
    fn size(decision: &Decision) -> Option<(&str, &str, u32)> {
        match decision {
            Decision::Resize { claim, group, count } => Some((claim, group, *count)),
            _ => None,
        }
    }
    decisions.iter().filter_map(size).collect()
}

/// UIDs of the evicted, in order.
pub(crate) fn evictions(decisions: &[Decision]) -> Vec<&str> {
    fn evict(decision: &Decision) -> Option<&str> {
        match decision {
            Decision::Evict { pod, .. } => Some(pod),
            _ => None,
        }
    }
    decisions.iter().filter_map(evict).collect()
}
