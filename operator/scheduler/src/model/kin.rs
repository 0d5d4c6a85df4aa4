//! Kin: pods of prod that one object controls, such as the replicas of a service. Where they sit is counted, so that the
//! next one goes where fewest of them are, without a rule that each of them would have to be judged by.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    event::{Level, Tier},
    model::{Model, Shape, areas::InAreas},
    slab::{AreaOrd, KinOrd, NodeOrd, PodOrd, Slab},
};

/// Areas of a level at most that count as fault domains: of more, such as a rack of each node's own, one says little more
/// than a node does, and all of them are looked at for a pod.
const DOMAINS: usize = 128;
/// So many kin on a node are better than as many more in its fault domain: what kube-scheduler allows a node to have more
/// than another one where nothing is said (`maxSkew` of its default constraints).
const TOGETHER: u32 = 3;

/// A fault domain: an area of the [level](Kins::level) of fault domains. `None` are the nodes that are in none.
pub(crate) type Domain = Option<AreaOrd>;

/// How near a node is to kin, the farther the less: first by those on it, as far as these are many; then by those in its
/// fault domain; then by those on it.
pub(crate) type Nearness = (u32, u32, u32);

/// The pods of one controller that have a seat.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Kin {
    uid: Arc<str>,
    /// Pods that name the controller, with a seat or without.
    references: u32,
    // Looked up, and gone through only to be counted anew.
    /// How many sit on each node.
    nodes: HashMap<NodeOrd, u32>,
    domains: BTreeMap<Domain, InDomain>,
}

/// Those that sit in a fault domain.
#[derive(Clone, Debug, Default, PartialEq)]
struct InDomain {
    pods: u32,
    /// How many nodes have how many of them.
    nodes: BTreeMap<u32, u32>,
}

impl InDomain {
    /// A node of it has so many where it had others.
    fn change(&mut self, before: u32, after: u32) {
        self.pods = self.pods - before + after;
        if before > 0 {
            let nodes = self.nodes.entry(before).or_insert(0);
            *nodes = nodes.saturating_sub(1);
            if *nodes == 0 {
                self.nodes.remove(&before);
            }
        }
        if after > 0 {
            *self.nodes.entry(after).or_insert(0) += 1;
        }
    }
}

impl Kin {
    /// How many sit on a node.
    pub(crate) fn on(&self, node: NodeOrd) -> u32 {
        self.nodes.get(&node).copied().unwrap_or(0)
    }

    /// How many nodes have some.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// How many of them nodes of a fault domain have, ascending and each once: of so many nodes in all.
    pub(crate) fn counts(&self, domain: Domain, nodes: u32) -> impl Iterator<Item = u32> + '_ {
        let here = self.domains.get(&domain).map(|d| &d.nodes);
        let with: u32 = here.into_iter().flat_map(BTreeMap::values).sum();
        let some = here.into_iter().flat_map(BTreeMap::keys).copied();
        (with < nodes).then_some(0).into_iter().chain(some)
    }

    fn change(&mut self, node: NodeOrd, domain: Domain, hold: bool) {
        let before = self.on(node);
        let after = if hold { before + 1 } else { before.saturating_sub(1) };
        if after == 0 {
            self.nodes.remove(&node);
        } else {
            self.nodes.insert(node, after);
        }
        self.count(domain, before, after);
    }

    fn count(&mut self, domain: Domain, before: u32, after: u32) {
        let here = self.domains.entry(domain).or_default();
        here.change(before, after);
        if here.pods == 0 {
            self.domains.remove(&domain);
        }
    }
}

/// All kin.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kins {
    pub(crate) slots: Slab<KinOrd, Kin>,
    // Looked up, never iterated.
    by_uid: HashMap<Arc<str>, KinOrd>,
    /// What fails together: the largest level that [parts](Model::parts_by) the nodes.
    level: Option<Level>,
}

impl Kins {
    /// The kin of a controller, with one more reference; `None` for a pod without one.
    pub(crate) fn acquire(&mut self, uid: &str) -> Option<KinOrd> {
        if uid.is_empty() {
            return None;
        }
        if let Some(&known) = self.by_uid.get(uid) {
            self.slots[known].references += 1;
            return Some(known);
        }
        let uid: Arc<str> = uid.into();
        let kin = self.slots.insert(Kin {
            uid: uid.clone(),
            references: 1,
            nodes: HashMap::new(),
            domains: BTreeMap::new(),
        });
        self.by_uid.insert(uid, kin);
        Some(kin)
    }

    /// One reference less.
    pub(crate) fn release(&mut self, kin: KinOrd) {
        let slot = &mut self.slots[kin];
        slot.references -= 1;
        if slot.references == 0 {
            self.by_uid.remove(&slot.uid);
            self.slots.remove(kin);
        }
    }

    /// UID of the controller, empty for none.
    pub(crate) fn uid(&self, kin: Option<KinOrd>) -> &str {
        kin.map_or("", |kin| &self.slots[kin].uid)
    }

    /// The level of fault domains; `None` where all nodes fail together, as far as is known.
    pub(crate) fn level(&self) -> Option<Level> {
        self.level
    }

    /// The fault domain of a node that is in some areas.
    pub(crate) fn domain(&self, of: &InAreas) -> Domain {
        self.level.and_then(|level| of.get(level.index()).copied().flatten())
    }

    /// How near a node is to kin; it is in a fault domain with so many of them, and has so many itself.
    pub(crate) fn nearness(within: u32, on: u32) -> Nearness {
        (on / TOGETHER, within, on)
    }

    /// How many kin share what fails together. What is in no fault domain is worse than all others, since it may fail with
    /// any.
    pub(crate) fn within(&self, kin: &Kin, domain: Domain) -> u32 {
        if domain.is_none() && self.level.is_some() {
            u32::MAX
        } else {
            kin.domains.get(&domain).map_or(0, |here| here.pods)
        }
    }
}

/// True for pods whose kin are counted: GPU pods are packed, and what batch and mid lose with a node is theirs to lose.
pub(crate) fn counts(shape: &Shape) -> bool {
    shape.tier == Tier::Prod && shape.gpus.is_none()
}

impl Model {
    /// Counts a pod that takes its seat, or leaves it, among its kin.
    pub(crate) fn count_kin(&mut self, ord: PodOrd, shape: &Shape, hold: bool) {
        let pod = &self.pods[ord];
        let (Some(kin), Some(seat)) = (pod.kin, pod.place.seat()) else {
            return;
        };
        if pod.terminating || !counts(shape) {
            return;
        }
        let domain = self.kins.domain(&self.nodes[seat.node].areas);
        self.kins.slots[kin].change(seat.node, domain, hold);
    }

    /// The kin that a pod is to be kept apart from, if there are any: unless it has constraints of topology spread itself, or
    /// is one of a gang, which has to be close together.
    pub(crate) fn kin_to_avoid(&self, ord: PodOrd) -> Option<KinOrd> {
        let pod = &self.pods[ord];
        let kin = pod.kin.filter(|kin| self.kins.slots[*kin].nodes() > 0)?;
        let shape = self.shapes.value(pod.shape);
        let spreads = shape.rules.as_ref().is_some_and(|rules| !rules.spread.is_empty());
        let gang = || {
            let claim = pod.claim.and_then(|claim| self.claims.find(claim));
            claim.is_some_and(|claim| {
                let packed = claim.topology.is_some() || claim.groups.iter().any(|g| g.spec.topology.is_some());
                packed || claim.groups.iter().map(|g| g.min()).max() > Some(1)
            })
        };
        (counts(shape) && !spreads && !gang()).then_some(kin)
    }

    /// True if the areas of a level are what fails together: several, in which nearly all nodes are, and not nearly all of
    /// them in the same. While only some nodes are labelled, all replicas would go to those.
    fn parts_by(&self, level: Level) -> bool {
        if !(2..=DOMAINS).contains(&self.areas.count(level)) {
            return false;
        }
        let nodes = |area: AreaOrd| u64::from(self.areas.nodes(area));
        let inside: u64 = self.areas.of_level(level).map(nodes).sum();
        let largest = self.areas.of_level(level).map(nodes).max().unwrap_or(0);
        inside * 10 >= self.areas.count(Level::Node) as u64 * 9 && largest * 4 <= inside * 3
    }

    /// A node is in other areas than it was: it, or all, are counted by what fails together now.
    pub(crate) fn domains_changed(&mut self, ord: NodeOrd, left: &InAreas) {
        let level = [Level::Zone, Level::Block, Level::Rack];
        let level = level.into_iter().find(|level| self.parts_by(*level));
        if level != self.kins.level {
            self.kins.level = level;
            let all: Vec<KinOrd> = self.kins.slots.iter().map(|(kin, _)| kin).collect();
            for kin in all {
                let slot = &self.kins.slots[kin];
                let nodes: Vec<(NodeOrd, u32)> = slot.nodes.iter().map(|(node, pods)| (*node, *pods)).collect();
                self.kins.slots[kin].domains.clear();
                for (node, pods) in nodes {
                    let domain = self.kins.domain(&self.nodes[node].areas);
                    self.kins.slots[kin].count(domain, 0, pods);
                }
            }
            return;
        }
        let (before, after) = (self.kins.domain(left), self.kins.domain(&self.nodes[ord].areas));
        if before == after {
            return;
        }
        let mut here: Vec<KinOrd> = self.nodes[ord].pods.iter().filter_map(|p| self.pods[*p].kin).collect();
        here.sort_unstable();
        here.dedup();
        for kin in here {
            let slot = &mut self.kins.slots[kin];
            let pods = slot.on(ord);
            slot.count(before, pods, 0);
            slot.count(after, 0, pods);
        }
    }

    /// Counts all kin anew, and says whose count was another one.
    pub(crate) fn kin_miscounted(&self) -> Vec<Arc<str>> {
        let mut again: BTreeMap<KinOrd, Kin> = BTreeMap::new();
        for (kin, slot) in self.kins.slots.iter() {
            let (nodes, domains) = Default::default();
            let (uid, references) = (slot.uid.clone(), 0);
            again.insert(
                kin,
                Kin {
                    uid,
                    references,
                    nodes,
                    domains,
                },
            );
        }
        for (_, pod) in self.pods.iter() {
            let Some(slot) = pod.kin.and_then(|kin| again.get_mut(&kin)) else {
                continue;
            };
            slot.references += 1;
            if let Some(seat) = pod.place.seat()
                && !pod.terminating
                && counts(self.shapes.value(pod.shape))
            {
                slot.change(seat.node, self.kins.domain(&self.nodes[seat.node].areas), true);
            }
        }
        let wrong = again
            .into_iter()
            .filter(|(kin, slot)| self.kins.slots.find(*kin) != Some(slot));
        wrong.map(|(_, slot)| slot.uid).collect()
    }
}
