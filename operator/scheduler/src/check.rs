//! The invariants. Everything is computed anew from the pods and compared with what the model says.

mod devices;
mod relations;

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Cluster,
    amount::{Amount, Totals},
    model::{ClaimKey, Model, NodeSlot, Place, Shape, Users, tier_index, volumes::Volume},
    slab::{ClaimOrd, PodOrd, QueueOrd, ResourceOrd},
};

/// An invariant that does not hold, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

impl Cluster {
    /// Checks all invariants, in time proportional to the number of pods.
    ///
    /// What others did is no violation: nodes that shrink, pods that some other scheduler binds, quotas that are lowered.
    /// What we just placed has to fit all the same: these are checked from a cycle until the next event.
    pub fn check(&self) -> Result<(), Vec<Violation>> {
        let mut violations = Vec::new();
        let model = &self.model;
        model.use_is_the_sum_over_pods(&mut violations);
        model.queues_use_what_their_claims_hold(&mut violations);
        model.queues_keep_what_they_do_not_lend(&mut violations);
        model.what_was_just_placed_fits(&mut violations);
        model.nobody_is_near_whom_to_avoid(&mut violations);
        model.gangs_are_whole(&mut violations);
        model.references_meet(&mut violations);
        model.devices_are_held_by_claims(&mut violations);
        if violations.is_empty() { Ok(()) } else { Err(violations) }
    }

    /// Nodes that hold more than they have: by what others bound, or because they shrank.
    #[must_use]
    pub fn overcommitted_nodes(&self) -> Vec<String> {
        let nodes = self
            .model
            .nodes
            .iter()
            .filter(|(_, n)| n.present && over_capacity(n).is_some());
        let mut names: Vec<String> = nodes.map(|(_, n)| n.name.to_string()).collect();
        names.sort();
        names
    }
}

fn over_capacity(node: &NodeSlot) -> Option<crate::slab::ResourceOrd> {
    node.used
        .iter()
        .find(|(r, a)| *a > node.allocatable.of(*r))
        .map(|(r, _)| r)
}

impl Model {
    fn use_is_the_sum_over_pods(&self, violations: &mut Vec<Violation>) {
        let mut say = |text: String| violations.push(Violation(text));
        for (ord, node) in self.nodes.iter() {
            let mut again = NodeSlot {
                devices: node.devices.clone(),
                numa: node.numa.clone(),
                ..Default::default()
            };
            again.forget_use();
            for &pod in &node.pods {
                let Some(slot) = self.pods.find(pod) else {
                    say(format!("node {} counts a pod that is gone", node.name));
                    continue;
                };
                for mark in self.marks_of(slot) {
                    again.mark(mark, true);
                }
                match slot.place.seat() {
                    Some(seat) if seat.node == ord => {
                        again.count(pod, self.shapes.value(slot.shape), seat, true);
                    }
                    _ => say(format!(
                        "node {} counts pod {}, which sits elsewhere",
                        node.name, slot.uid
                    )),
                }
            }
            let same = again.used == node.used
                && again.device_use == node.device_use
                && again.floating == node.floating
                && again.numa == node.numa
                && again.marks == node.marks
                && again.ports == node.ports
                && again.volumes == node.volumes;
            if !same {
                say(format!(
                    "what is held on node {} is not the sum over its pods",
                    node.name
                ));
            }
            if !node.present && node.pods.is_empty() {
                say(format!("the name {} of a node is kept for nobody", node.name));
            }
        }
        for (ord, pod) in self.pods.iter() {
            if let Some(seat) = pod.place.seat()
                && !self.nodes.find(seat.node).is_some_and(|n| n.pods.contains(&ord))
            {
                say(format!("pod {} sits on a node that does not count it", pod.uid));
            }
            if self.going.contains(&ord) != (pod.place.is_taken() && (pod.leaving || pod.terminating)) {
                say(format!("pod {} is not listed as it goes or stays", pod.uid));
            }
            if pod.finished && pod.place != Place::Nowhere {
                say(format!("pod {} is finished and holds a seat", pod.uid));
            }
        }
        for uid in self.kin_miscounted() {
            say(format!("what is counted of the pods of {uid} is not where they sit"));
        }
    }

    fn queues_use_what_their_claims_hold(&self, violations: &mut Vec<Violation>) {
        let mut sums: Vec<[Totals; 3]> = vec![Default::default(); self.queues.bound()];
        for (_, pod) in self.pods.iter().filter(|(_, p)| p.place != Place::Nowhere) {
            let Some(claim) = pod.claim else { continue };
            let claim = &self.claims[claim];
            let shape = self.shapes.value(pod.shape);
            for queue in self.queues[claim.queue].path.iter() {
                let sum = sums
                    .get_mut(queue.index())
                    .and_then(|s| s.get_mut(tier_index(shape.tier)));
                if let Some(sum) = sum {
                    sum.add(&shape.ask);
                }
            }
        }
        self.namespaces_use_what_their_pods_hold(violations);
        for (ord, queue) in self.queues.iter() {
            if sums.get(ord.index()) != Some(&queue.used) {
                violations.push(Violation(format!(
                    "what queue {} uses is not the sum over its pods",
                    queue.name
                )));
            }
        }
    }

    fn queues_keep_what_they_do_not_lend(&self, violations: &mut Vec<Violation>) {
        let mut at_top: [Totals; 3] = Default::default();
        for (_, queue) in self.queues.iter().filter(|(_, q)| q.fault.is_none()) {
            for (tier, top) in at_top.iter_mut().enumerate() {
                for resource in self.resources.all() {
                    let children = queue.children.iter().map(|&c| self.queues[c].keeps(tier, resource));
                    let below = children.fold(Amount::ZERO, |sum, keeps| sum + keeps);
                    let own = queue.unlent(tier, resource) - queue.used(tier, resource);
                    if queue.keeps(tier, resource) != own.max(below) {
                        violations.push(Violation(format!(
                            "what queue {} keeps of {} is not what it does not lend and does not use",
                            queue.name,
                            self.resources.name(resource)
                        )));
                    }
                    if queue.path.len() == 1 {
                        *top.of_mut(resource) += queue.keeps(tier, resource);
                    }
                }
            }
        }
        if at_top != self.kept {
            violations.push(Violation(
                "what is kept in all is not what the queues at the top keep".into(),
            ));
        }
        let mut held: [Totals; 3] = Default::default();
        for (_, pod) in self.pods.iter().filter(|(_, p)| p.place != Place::Nowhere) {
            let shape = self.shapes.value(pod.shape);
            if let Some(held) = held.get_mut(if pod.ours { tier_index(shape.tier) } else { 0 }) {
                held.add(&shape.ask);
            }
        }
        if held != self.held {
            violations.push(Violation("what is held in all is not the sum over the pods".into()));
        }
    }

    fn namespaces_use_what_their_pods_hold(&self, violations: &mut Vec<Violation>) {
        let mut users: Vec<Users> = vec![Users::default(); self.queues.bound()];
        let mut references: Vec<u32> = vec![0; self.queues.bound()];
        let mut refer = |queue: QueueOrd| {
            if let Some(count) = references.get_mut(queue.index()) {
                *count += 1;
            }
        };
        for (_, claim) in self.claims.iter() {
            refer(claim.queue);
        }
        for (_, queue) in self.queues.iter() {
            queue.parent.into_iter().for_each(&mut refer);
        }
        for (_, pod) in self.pods.iter().filter(|(_, p)| p.place != Place::Nowhere) {
            let Some(claim) = pod.claim.map(|c| &self.claims[c]) else {
                continue;
            };
            let shape = self.shapes.value(pod.shape);
            if let Some(users) = users.get_mut(claim.queue.index()) {
                let user = users.entry(claim.namespace.clone()).or_default();
                user.pods += 1;
                if let Some(used) = user.used.get_mut(tier_index(shape.tier)) {
                    used.add(&shape.ask);
                }
            }
        }
        for (ord, queue) in self.queues.iter() {
            if users.get(ord.index()) != Some(&queue.users) {
                violations.push(Violation(format!(
                    "what the namespaces in queue {} use is not the sum over their pods",
                    queue.name
                )));
            }
            if references.get(ord.index()) != Some(&queue.references) {
                violations.push(Violation(format!("queue {} miscounts those that name it", queue.name)));
            }
            if !queue.present && queue.references == 0 {
                violations.push(Violation(format!(
                    "the name {} of a queue is kept for nobody",
                    queue.name
                )));
            }
        }
    }

    /// What is used of a node without some of its pods.
    fn used_without<'a>(&self, node: &NodeSlot, mut pods: impl Iterator<Item = &'a PodOrd>) -> Totals {
        let Some(first) = pods.next() else {
            return node.used.clone();
        };
        let mut rest = node.clone();
        for pod in std::iter::once(first).chain(pods) {
            let slot = &self.pods[*pod];
            if let Some(seat) = slot.place.seat() {
                rest.count(*pod, self.shapes.value(slot.shape), seat, false);
            }
        }
        rest.used
    }

    /// The resources of which those take any who were just placed on a node. Who shares a volume that somebody has there
    /// already takes nothing by it.
    fn newly_taken(&self, shape: &Shape, node: &NodeSlot) -> BTreeSet<ResourceOrd> {
        let new = |volume: &&Volume| {
            let uses = |p: &&PodOrd| self.shapes.value(self.pods[**p].shape).volumes.contains(volume);
            let mut users = node.pods.iter().filter(uses);
            users.all(|user| self.just_placed.contains(user))
        };
        let requested = shape.requests.iter().map(|(resource, _)| *resource);
        let attached = shape.volumes.iter().filter(new).map(|volume| volume.resource);
        requested.chain(attached).collect()
    }

    fn what_was_just_placed_fits(&self, violations: &mut Vec<Violation>) {
        let kept_of_queues = self.kept_seats();
        for pod in self.just_placed.iter().map(|&p| &self.pods[p]) {
            let shape = self.shapes.value(pod.shape);
            let Some(seat) = pod.place.seat() else {
                violations.push(Violation(format!("pod {} was just placed and has no seat", pod.uid)));
                continue;
            };
            let node = &self.nodes[seat.node];
            // Seats that are kept are counted beside those who still sit there.
            let kept = |p: &&PodOrd| matches!(self.pods[**p].place, Place::Nominated(_));
            let used = self.used_without(node, node.pods.iter().filter(kept));
            for resource in self.newly_taken(shape, node) {
                if used.of(resource) > node.allocatable.of(resource) {
                    let resource = self.resources.name(resource);
                    violations.push(Violation(format!(
                        "pod {} was placed on node {}, which has too little {resource}",
                        pod.uid, node.name
                    )));
                }
            }
            if let Some(need) = &shape.gpus {
                let over = seat.devices.iter().any(|&d| {
                    let index = usize::from(d);
                    let kept = node
                        .pods
                        .iter()
                        .filter(kept)
                        .any(|&p| self.pods[p].place.seat().is_some_and(|s| s.devices.contains(&d)));
                    let used = node.used_of(index);
                    let memory = node.devices.get(index).map_or(Amount::ZERO, |d| d.memory_for(need));
                    !kept && (used.milli > 1000 || (!memory.is_zero() && used.memory > memory))
                });
                let held = usize::from(need.count) == seat.devices.len();
                if over || !held {
                    violations.push(Violation(format!("pod {} has devices that it cannot have", pod.uid)));
                }
            }
            let Some(claim) = pod.claim else { continue };
            let claim = &self.claims[claim];
            let tier = tier_index(claim.tier);
            for &ord in self.queues[claim.queue].path.iter() {
                let queue = &self.queues[ord];
                let kept = kept_of_queues.get(ord.index()).and_then(|k| k.get(tier));
                for &(resource, _) in &shape.ask {
                    let kept = kept.map_or(Amount::ZERO, |totals| totals.of(resource));
                    let held = queue.used(tier, resource) - kept;
                    if queue.limit(tier, resource).is_some_and(|limit| held > limit) {
                        violations.push(Violation(format!(
                            "pod {} was placed though queue {} is over its limit of {}",
                            pod.uid,
                            queue.name,
                            self.resources.name(resource)
                        )));
                    }
                }
            }
        }
    }

    /// Seats that are kept for those who wait for an eviction, by queue and tier: others still sit there.
    fn kept_seats(&self) -> Vec<[Totals; 3]> {
        let mut kept: Vec<[Totals; 3]> = vec![Default::default(); self.queues.bound()];
        let nominated = self.pods.iter().filter(|(_, p)| matches!(p.place, Place::Nominated(_)));
        for (_, pod) in nominated {
            let Some(claim) = pod.claim else { continue };
            let shape = self.shapes.value(pod.shape);
            for queue in self.queues[self.claims[claim].queue].path.iter() {
                let of = kept
                    .get_mut(queue.index())
                    .and_then(|k| k.get_mut(tier_index(shape.tier)));
                if let Some(of) = of {
                    of.add(&shape.ask);
                }
            }
        }
        kept
    }

    fn gangs_are_whole(&self, violations: &mut Vec<Violation>) {
        let just: BTreeSet<_> = self.just_placed.iter().filter_map(|&p| self.pods[p].claim).collect();
        for ord in just {
            let claim = &self.claims[ord];
            let placed = self
                .just_placed
                .iter()
                .copied()
                .filter(|&p| self.pods[p].claim == Some(ord));
            if !self.keeps_its_topology(ord, &placed.collect()) {
                violations.push(Violation(format!(
                    "claim {} was placed otherwise than its topology requires",
                    claim.uid
                )));
            }
            for group in &claim.groups {
                let tally = self.tally(group);
                if tally.live + tally.done < group.min() {
                    violations.push(Violation(format!(
                        "claim {} has {} of the {} pods that its group {} needs, after a cycle that placed some",
                        claim.uid,
                        tally.live,
                        group.min(),
                        group.spec.name
                    )));
                }
            }
        }
    }

    fn references_meet(&self, violations: &mut Vec<Violation>) {
        let mut say = |text: String| violations.push(Violation(text));
        let mut homes: BTreeMap<PodOrd, ClaimOrd> = BTreeMap::new();
        for (claim, _) in self.claims.iter() {
            homes.extend(self.members(claim).map(|pod| (pod, claim)));
        }
        for (ord, pod) in self.pods.iter() {
            if pod.claim.is_some() && homes.get(&ord) != pod.claim.as_ref() {
                say(format!("pod {} is no member of its claim", pod.uid));
            }
            if let Some(by) = pod.leaving_for
                && !self.claims.find(by).is_some_and(|c| c.awaiting.contains(&ord))
            {
                say(format!("pod {} leaves for a claim that does not wait for it", pod.uid));
            }
        }
        for (ord, claim) in self.claims.iter() {
            for &pod in &claim.awaiting {
                if self.pods.find(pod).is_none_or(|p| p.leaving_for != Some(ord)) {
                    say(format!(
                        "claim {} waits for a pod that does not leave for it",
                        claim.uid
                    ));
                }
            }
            if self.claims_by_key.get(&claim.key) != Some(&ord) {
                say(format!("claim {} is not found by its name", claim.uid));
            }
            if claim.known
                && matches!(claim.key, ClaimKey::Named(..))
                && self.claims_by_uid.get(&claim.uid) != Some(&ord)
            {
                say(format!("claim {} is not found by its UID", claim.uid));
            }
        }
        let listed: usize = self.queues.iter().map(|(_, q)| q.pending.len() + q.parked.len()).sum();
        let say_so = self.claims.iter().filter(|(_, c)| c.listed_pending).count();
        if listed != say_so {
            say(format!(
                "{listed} claims are listed as waiting, and {say_so} say that they are"
            ));
        }
    }
}
