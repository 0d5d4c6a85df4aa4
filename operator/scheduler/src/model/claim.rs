//! A claim: one gang. A pod without a claim is its own, so that everything after this file knows only claims.

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
};

use crate::{
    decision::Reason,
    event::{self, Tier, Time, Window},
    fit::Constraint,
    model::{Model, Place, tiers::claim_contradicts},
    slab::{ClaimOrd, PodOrd, QueueOrd},
};

/// What a claim is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ClaimKey {
    /// By namespace and name.
    Named(Arc<str>, Arc<str>),
    /// A pod without a claim, by its UID.
    Alone(Arc<str>),
}

impl ClaimKey {
    /// True if the claim of a pod is called so.
    pub(crate) fn is_of(&self, pod: &event::Pod) -> bool {
        match (self, &pod.claim) {
            (ClaimKey::Named(namespace, name), Some(claim)) => **namespace == *pod.namespace && **name == **claim,
            (ClaimKey::Alone(uid), None) => **uid == *pod.uid,
            _ => false,
        }
    }
}

/// A claim, or the name of one that pods refer to and that is not there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ClaimSlot {
    pub(crate) key: ClaimKey,
    /// False while there is no claim of that name. What it last said stays, so that its bound pods go on to count.
    pub(crate) known: bool,
    pub(crate) uid: Arc<str>,
    pub(crate) namespace: Arc<str>,
    pub(crate) created: Time,
    pub(crate) priority: i32,
    pub(crate) queue: QueueOrd,
    pub(crate) tier: Tier,
    pub(crate) min_runtime: i64,
    /// What it loses when it is interrupted.
    pub(crate) interruption: event::Interruption,
    /// That some of its pods are missing beside others that run breaks nothing.
    pub(crate) loose: bool,
    /// In which parts it goes for others.
    pub(crate) disruption: event::Disruption,
    /// Why nothing more of it is to be placed as it is.
    pub(crate) refused: Option<String>,
    pub(crate) expected_duration: Option<i64>,
    /// When it is to have its capacity, if not as soon as possible.
    pub(crate) window: Option<Window>,
    /// How all its pods stand to each other.
    pub(crate) topology: Option<event::Topology>,
    /// By name.
    pub(crate) groups: Vec<GroupSlot>,
    /// Pods that name a group which is not there.
    pub(crate) strays: BTreeSet<PodOrd>,
    /// It is in its queue's list of those that wait.
    pub(crate) listed_pending: bool,
    /// How often something had been freed when it was tried in vain in this cycle.
    pub(crate) tried_at: Option<u64>,
    /// It is in its queue's list of those that hold something.
    pub(crate) listed_running: bool,
    /// The time at which it is in the list of those that are expected to end.
    pub(crate) listed_end: Option<Time>,
    /// When all its minima were first seen to be met.
    pub(crate) started: Option<Time>,
    /// It has fewer pods than its minima, as last looked.
    pub(crate) short: bool,
    /// Since when it has had some of its pods and not all.
    pub(crate) broken_since: Option<Time>,
    /// Pods that it waits for to go.
    pub(crate) awaiting: BTreeSet<PodOrd>,
    /// What was last said of it.
    pub(crate) reported: Option<Box<Reason>>,
    /// If it was `NoNodeFits`: the constraint, and how many of its pods had found a place.
    pub(crate) blocked_by: Option<(Constraint, u32)>,
    /// No hold is looked for before, since none was found.
    pub(crate) no_hold_until: Time,
}

/// A group of a claim.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GroupSlot {
    pub(crate) spec: Arc<event::Group>,
    /// Its pods, by creation time, then UID.
    pub(crate) members: Vec<PodOrd>,
    /// Pods that finished and were deleted since; they need no successor.
    pub(crate) done_and_gone: u32,
}

/// The one group of a pod without a claim.
static ALONE: LazyLock<Arc<event::Group>> = LazyLock::new(|| {
    Arc::new(event::Group {
        min: 1,
        max: 1,
        quantum: 1,
        ..Default::default()
    })
});

impl GroupSlot {
    fn new(spec: Arc<event::Group>) -> GroupSlot {
        GroupSlot {
            spec,
            members: Vec::new(),
            done_and_gone: 0,
        }
    }

    /// Pods without which the claim does not run.
    pub(crate) fn min(&self) -> u32 {
        self.spec.min
    }

    /// Pods at most.
    pub(crate) fn max(&self) -> u32 {
        self.spec.max.max(self.spec.min)
    }

    /// Step between min and max.
    pub(crate) fn quantum(&self) -> u32 {
        self.spec.quantum.max(1)
    }
}

impl Model {
    /// The claim of a pod; a mere name, if there is none.
    pub(crate) fn claim_for(&mut self, ord: PodOrd, pod: &event::Pod) -> ClaimOrd {
        let alone = pod.claim.is_none();
        let slot = &self.pods[ord];
        let (uid, namespace) = (slot.uid.clone(), slot.namespace.clone());
        let key = match &pod.claim {
            Some(name) => ClaimKey::Named(namespace.clone(), name.as_str().into()),
            None => ClaimKey::Alone(uid.clone()),
        };
        let ord = self.claim_named(key, namespace);
        if alone {
            let queue = self.queue_named(crate::model::queue::or_default(&pod.queue));
            self.unlist(ord);
            let claim = &mut self.claims[ord];
            claim.known = true;
            claim.uid = uid;
            claim.created = pod.created;
            claim.priority = pod.priority;
            claim.tier = pod.tier;
            if claim.groups.is_empty() {
                claim.groups.push(GroupSlot::new(ALONE.clone()));
            }
            self.set_queue(ord, queue);
        }
        ord
    }

    fn claim_named(&mut self, key: ClaimKey, namespace: Arc<str>) -> ClaimOrd {
        if let Some(&known) = self.claims_by_key.get(&key) {
            return known;
        }
        let queue = self.queue_named(crate::model::queue::DEFAULT);
        let ord = self.claims.insert(ClaimSlot {
            key: key.clone(),
            known: false,
            uid: "".into(),
            namespace,
            created: Time::default(),
            priority: 0,
            queue,
            tier: Tier::Prod,
            min_runtime: 0,
            interruption: event::Interruption::default(),
            loose: false,
            disruption: event::Disruption::default(),
            refused: None,
            expected_duration: None,
            window: None,
            topology: None,
            groups: Vec::new(),
            strays: BTreeSet::new(),
            listed_pending: false,
            tried_at: None,
            listed_running: false,
            listed_end: None,
            started: None,
            short: false,
            broken_since: None,
            awaiting: BTreeSet::new(),
            reported: None,
            blocked_by: None,
            no_hold_until: Time::default(),
        });
        self.queues[queue].references += 1;
        self.claims_by_key.insert(key, ord);
        ord
    }

    /// Takes in a claim.
    pub(crate) fn apply_claim(&mut self, event: &event::Claim) {
        if event.uid.is_empty() {
            return;
        }
        let namespace: Arc<str> = event.namespace.as_str().into();
        let key = ClaimKey::Named(namespace.clone(), event.name.as_str().into());
        let ord = self.claim_named(key, namespace);
        let claim = &self.claims[ord];
        let replaces = claim.known && *claim.uid != *event.uid;
        if replaces && (event.created, event.uid.as_str()) < (claim.created, &*claim.uid) {
            return; // An older claim of the same name: it came late.
        }
        let queue = self.queue_named(crate::model::queue::or_default(&event.queue));
        let mut specs: Vec<event::Group> = event.groups.clone();
        specs.sort_by(|a, b| a.name.cmp(&b.name));
        specs.dedup_by(|later, first| later.name == first.name);
        let refused = event.refused.clone().or_else(|| claim_contradicts(&specs, event.tier));
        let claim = &self.claims[ord];
        let same = claim.known
            && *claim.uid == *event.uid
            && claim.created == event.created
            && claim.priority == event.priority
            && claim.queue == queue
            && claim.tier == event.tier
            && claim.min_runtime == event.min_runtime
            && claim.loose == event.loose
            && claim.disruption == event.disruption
            && claim.refused == refused
            && claim.expected_duration == event.expected_duration
            && claim.window == event.window
            && claim.topology == event.topology
            && claim.groups.iter().map(|g| &*g.spec).eq(specs.iter());
        // What it loses decides nothing for itself, and a checkpoint is told of every few minutes.
        self.claims[ord].interruption = event.interruption;
        if same {
            return;
        }
        let members = self.disband(ord);
        if let Some(old) = self.claims_by_uid.remove(&self.claims[ord].uid.clone())
            && old != ord
        {
            // A UID that two names claim: nothing that an API server does. The later one has it.
            self.claims[old].known = false;
            self.mark(old);
        }
        self.claims_by_uid.insert(event.uid.as_str().into(), ord);
        let claim = &mut self.claims[ord];
        claim.known = true;
        claim.uid = event.uid.as_str().into();
        claim.created = event.created;
        claim.priority = event.priority;
        claim.tier = event.tier;
        claim.min_runtime = event.min_runtime;
        claim.loose = event.loose;
        claim.disruption = event.disruption;
        claim.refused = refused;
        claim.expected_duration = event.expected_duration;
        claim.window = event.window;
        claim.topology = event.topology;
        if replaces {
            claim.started = None;
            claim.reported = None;
            claim.no_hold_until = Time::default();
        }
        let before = std::mem::take(&mut claim.groups);
        for spec in specs {
            let done = before
                .iter()
                .find(|g| g.spec.name == spec.name)
                .map_or(0, |g| g.done_and_gone);
            let mut group = GroupSlot::new(Arc::new(spec));
            group.done_and_gone = if replaces { 0 } else { done };
            claim.groups.push(group);
        }
        self.set_queue(ord, queue);
        self.gather(ord, members);
        self.freed += 1;
    }

    /// A claim is gone. What it last said of its pods stays for those that are bound.
    pub(crate) fn apply_claim_gone(&mut self, uid: &str) {
        let Some(ord) = self.claims_by_uid.remove(uid) else {
            return;
        };
        self.unlist(ord);
        self.stop_waiting(ord);
        let claim = &mut self.claims[ord];
        claim.known = false;
        claim.reported = None;
        self.mark(ord);
        self.freed += 1;
        self.forget_claim_if_unused(ord);
    }

    /// Takes all pods out of a claim and out of the counts.
    fn disband(&mut self, ord: ClaimOrd) -> Vec<PodOrd> {
        self.unlist(ord);
        self.stop_waiting(ord);
        let claim = &mut self.claims[ord];
        let mut members: Vec<PodOrd> = std::mem::take(&mut claim.strays).into_iter().collect();
        for group in &mut claim.groups {
            members.append(&mut group.members);
        }
        for &pod in &members {
            self.release(pod);
        }
        members
    }

    /// Puts pods back into a claim that has changed.
    fn gather(&mut self, ord: ClaimOrd, members: Vec<PodOrd>) {
        let tier = self.claims[ord].tier;
        for pod in members {
            let old = self.pods[pod].shape;
            self.join_claim(pod, ord);
            self.give_shape(pod, tier);
            self.let_go_of_shape(old);
            self.hold(pod);
        }
        self.mark(ord);
    }

    /// Gives up the seats that are kept for a claim.
    pub(crate) fn stop_waiting(&mut self, ord: ClaimOrd) {
        for pod in std::mem::take(&mut self.claims[ord].awaiting) {
            self.pods[pod].leaving_for = None;
        }
        let nominated: Vec<PodOrd> = self.claims[ord]
            .groups
            .iter()
            .flat_map(|g| g.members.iter().copied())
            .filter(|&p| matches!(self.pods[p].place, Place::Nominated(_)))
            .collect();
        for pod in nominated {
            if let Some(node) = self.unseat(pod).seat().map(|s| s.node) {
                self.forget_node_if_unused(node);
            }
            self.freed += 1;
        }
    }

    /// Puts a pod among the members of its group.
    pub(crate) fn join_claim(&mut self, pod: PodOrd, ord: ClaimOrd) {
        let name = self.pods[pod].group.clone();
        let key = |p: PodOrd| (self.pods[p].created, self.pods[p].uid.clone());
        let claim = &self.claims[ord];
        // A pod without a claim has no group whatever its labels say.
        let alone = matches!(claim.key, ClaimKey::Alone(_));
        let group = if alone {
            Some(0)
        } else {
            claim.groups.iter().position(|g| *g.spec.name == *name)
        };
        let at = group
            .and_then(|g| claim.groups.get(g))
            .map(|g| g.members.partition_point(|&m| key(m) < key(pod)));
        let claim = &mut self.claims[ord];
        match (group.and_then(|g| claim.groups.get_mut(g)), at) {
            (Some(group), Some(at)) => group.members.insert(at, pod),
            _ => {
                claim.strays.insert(pod);
            }
        }
        self.mark(ord);
    }

    /// Takes a pod out of its claim.
    pub(crate) fn leave_claim(&mut self, pod: PodOrd, ord: ClaimOrd) {
        let claim = &mut self.claims[ord];
        claim.strays.remove(&pod);
        for group in &mut claim.groups {
            group.members.retain(|&m| m != pod);
        }
        self.mark(ord);
    }

    /// When all pods of a claim are gone, whatever comes next is a new start.
    pub(crate) fn start_anew_if_empty(&mut self, ord: ClaimOrd) {
        let claim = &mut self.claims[ord];
        if claim.strays.is_empty() && claim.groups.iter().all(|g| g.members.is_empty()) {
            for group in &mut claim.groups {
                group.done_and_gone = 0;
            }
            claim.started = None;
        }
    }

    /// Drops the mere name of a claim that no pod refers to any more.
    pub(crate) fn forget_claim_if_unused(&mut self, ord: ClaimOrd) {
        let Some(claim) = self.claims.find(ord) else { return };
        let empty = claim.strays.is_empty() && claim.groups.iter().all(|g| g.members.is_empty());
        if !empty || (claim.known && matches!(claim.key, ClaimKey::Named(..))) {
            return;
        }
        self.unlist(ord);
        self.stop_waiting(ord);
        self.dirty.remove(&ord);
        self.broken.remove(&ord);
        self.grown.remove(&ord);
        self.searched.remove(&ord);
        self.unreserve(ord);
        self.told_starts.remove(&ord);
        if let Some(claim) = self.claims.remove(ord) {
            self.claims_by_key.remove(&claim.key);
            self.drop_reference(claim.queue);
        }
    }

    /// All pods of a claim.
    pub(crate) fn members(&self, ord: ClaimOrd) -> impl Iterator<Item = PodOrd> + '_ {
        let claim = &self.claims[ord];
        claim
            .groups
            .iter()
            .flat_map(|g| g.members.iter())
            .chain(claim.strays.iter())
            .copied()
    }
}
