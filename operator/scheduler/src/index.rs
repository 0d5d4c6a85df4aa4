//! The shape index: per shape, the nodes that it fits on, best first, and for the others what turns it away.
//!
//! It is a cache. A shape looks at the change log when it is asked, and revalues the nodes that changed since it last
//! looked; so a pod costs O(log nodes) whatever the number of nodes, also one that fits nowhere: its list is empty.

mod areas;
mod related;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    event::Level,
    fit::Constraint,
    model::{Model, NodeSlot, PodSlot, Shape, areas::LEVELS, rules::Check},
    score::{self, Cost, Policy},
    slab::{AreaOrd, HitsOrd, NodeOrd, ShapeOrd},
    worth::Worths,
};
pub(crate) use areas::ByArea;
use related::Related;

/// Entries of all shapes together that are kept: at some 80 bytes each, 640 MiB. A thousand shapes on 8,000 nodes, or
/// 270 on 30,000.
const ENTRIES: usize = 8 << 20;
/// Looks of one shape at most that keep a list.
const LOOKS: usize = 8;

/// What the index had to do: for tests and benchmarks, which assert work instead of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Nodes that were valued for some shape.
    pub nodes_visited: u64,
    /// Shapes whose list was built from nothing.
    pub shapes_built: u64,
}

/// All that placement looks at in a pod as things stand: pods of equal look are interchangeable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Look {
    pub(crate) shape: ShapeOrd,
    /// Terms of other pods that speak of it.
    pub(crate) hits: Option<HitsOrd>,
    /// Which of its own rules it matches itself.
    pub(crate) own: u64,
}

/// The lists of all looks that were asked for lately.
#[derive(Debug, Default)]
pub(crate) struct Index {
    // Looked up by shape, of which nearly all have one look; when a list has to go, it is the one that was asked for least
    // lately, which is one alone.
    shapes: HashMap<ShapeOrd, Vec<(Look, Candidates)>>,
    clock: u64,
    entries: usize,
    pub(crate) worths: Worths,
    pub(crate) work: Work,
}

#[derive(Debug, Default)]
struct Candidates {
    /// Position in the change log.
    cursor: u64,
    /// When it was last asked for.
    asked: u64,
    /// The outlook on GPU pods with which nodes that have GPUs were valued.
    outlook: u64,
    /// By node.
    entries: Vec<Option<Entry>>,
    /// Nodes that fit. One for all, if no rule about other pods is judged by the parts of a topology.
    buckets: Vec<Bucket>,
    /// Buckets by the parts that they stand for.
    buckets_by_domains: HashMap<Box<[u32]>, u32>,
    /// How many nodes each constraint turns away. A handful.
    against: Vec<(Constraint, u32)>,
    /// Those that fit by area, for the levels that were asked about.
    levels: [Option<Box<ByArea>>; LEVELS],
    /// What it has to know of other pods.
    related: Option<Box<Related>>,
}

/// Nodes that belong to the same parts.
#[derive(Debug, Default)]
struct Bucket {
    domains: Box<[u32]>,
    /// Those that fit, as far as they can tell by themselves: by cost, then in node order.
    fitting: BTreeMap<(Cost, u64), NodeOrd>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// `NodeSlot::epoch` at which `ever` was found.
    epoch: u64,
    ever: Result<u32, Constraint>,
    now: Result<(Cost, u64), Constraint>,
    bucket: u32,
}

impl Index {
    /// The best node for a look, if there is one.
    pub(crate) fn best(&mut self, model: &Model, policy: Policy, look: Look) -> Option<NodeOrd> {
        let candidates = self.refresh(model, policy, look)?;
        let Some(related) = &candidates.related else {
            return candidates
                .buckets
                .first()?
                .fitting
                .first_key_value()
                .map(|(_, node)| *node);
        };
        let best = candidates.buckets.iter().filter_map(|bucket| {
            let ((cost, rank), node) = bucket.fitting.first_key_value()?;
            let against = related.judge_domains(&bucket.domains).ok()?;
            Some((cost.against(against), *rank, *node))
        });
        best.min().map(|(_, _, node)| node)
    }

    /// The best node for a look that is none of some, in an area if one is given, if there is one.
    pub(crate) fn best_beside(
        &mut self,
        model: &Model,
        policy: Policy,
        look: Look,
        refused: &BTreeSet<NodeOrd>,
        within: Option<AreaOrd>,
    ) -> Option<NodeOrd> {
        if let Some(area) = within {
            return self.best_within(model, policy, look, refused, area);
        }
        let candidates = self.refresh(model, policy, look)?;
        let best = candidates.buckets.iter().filter_map(|bucket| {
            let ((cost, rank), node) = bucket.fitting.iter().find(|(_, node)| !refused.contains(node))?;
            let cost = match &candidates.related {
                Some(related) => cost.against(related.judge_domains(&bucket.domains).ok()?),
                None => *cost,
            };
            Some((cost, *rank, *node))
        });
        best.min().map(|(_, _, node)| node)
    }

    fn best_within(
        &mut self,
        model: &Model,
        policy: Policy,
        look: Look,
        refused: &BTreeSet<NodeOrd>,
        area: AreaOrd,
    ) -> Option<NodeOrd> {
        let level = model.areas.level(area)?;
        let candidates = self.refresh_level(model, policy, look, level)?;
        let nodes = candidates.levels.get(level.index())?.as_deref()?.nodes(area);
        let mut nodes = nodes.filter(|(_, node)| !refused.contains(node));
        let Some(related) = &candidates.related else {
            return nodes.next().map(|(_, node)| node);
        };
        let judged = nodes.filter_map(|((cost, rank), node)| {
            let against = related.judge_domains(related.coarse_domains(node)).ok()?;
            Some((cost.against(against), rank, node))
        });
        judged.min().map(|(_, _, node)| node)
    }

    /// Pods of a look that an area has room for, at most, unless they let each other in.
    pub(crate) fn room(&mut self, model: &Model, policy: Policy, look: Look, area: AreaOrd) -> u64 {
        let Some(level) = model.areas.level(area) else { return 0 };
        self.by_area(model, policy, look, level).map_or(0, |all| all.room(area))
    }

    /// The nodes that fit by the areas of a level.
    pub(crate) fn by_area(&mut self, model: &Model, policy: Policy, look: Look, level: Level) -> Option<&ByArea> {
        let candidates = self.refresh_level(model, policy, look, level)?;
        candidates.levels.get(level.index())?.as_deref()
    }

    fn refresh_level(&mut self, model: &Model, policy: Policy, look: Look, level: Level) -> Option<&Candidates> {
        self.refresh(model, policy, look)?;
        let lists = self.shapes.get_mut(&look.shape)?;
        let (_, candidates) = lists.iter_mut().find(|(known, _)| *known == look)?;
        let slot = candidates.levels.get_mut(level.index())?;
        if slot.is_none() {
            let mut all = ByArea::new(level);
            for (i, entry) in candidates.entries.iter().enumerate() {
                let key = entry.and_then(|e| e.now.ok());
                all.count(model, model.shapes.value(look.shape), NodeOrd::new(i), key);
            }
            self.entries += all.size();
            *slot = Some(Box::new(all));
        }
        Some(candidates)
    }

    /// What turns most nodes away from a look that fits nowhere.
    pub(crate) fn first_against(&mut self, model: &Model, policy: Policy, look: Look) -> Option<Constraint> {
        self.against(model, policy, look)
            .first()
            .map(|(constraint, _)| *constraint)
    }

    /// How many nodes each constraint turns away, most first. Ordinals depend on what was heard of first, so that equal
    /// counts are decided by the words.
    pub(crate) fn against(&mut self, model: &Model, policy: Policy, look: Look) -> Vec<(Constraint, u32)> {
        let Some(candidates) = self.refresh(model, policy, look) else {
            return Vec::new();
        };
        let mut against = candidates.against.clone();
        for bucket in &candidates.buckets {
            let judged = candidates.related.as_ref().map(|r| r.judge_domains(&bucket.domains));
            if let (Some(Err(constraint)), false) = (judged, bucket.fitting.is_empty()) {
                let count = u32::try_from(bucket.fitting.len()).unwrap_or(u32::MAX);
                add(&mut against, constraint, count);
            }
        }
        if against.len() > 1 {
            against.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| model.word(a.0).cmp(&model.word(b.0))));
        }
        against
    }

    /// What other pods say against a node, of which the rest is not asked.
    pub(crate) fn related(
        &mut self,
        model: &Model,
        policy: Policy,
        look: Look,
        node: NodeOrd,
    ) -> Result<(), Constraint> {
        if look.hits.is_none() && model.marks.compiled(look.shape).is_none() {
            return Ok(());
        }
        match self.refresh(model, policy, look) {
            Some(candidates) => candidates.related_to(node),
            None => Ok(()),
        }
    }

    /// Forgets a shape that is no more; its ordinal may name another one next.
    pub(crate) fn forget(&mut self, shape: ShapeOrd) {
        for (_, gone) in self.shapes.remove(&shape).into_iter().flatten() {
            self.entries -= gone.size();
        }
    }

    /// Shapes that have a list.
    #[cfg(test)]
    pub(crate) fn shapes(&self) -> usize {
        self.shapes.len()
    }

    fn refresh(&mut self, model: &Model, policy: Policy, look: Look) -> Option<&Candidates> {
        self.clock += 1;
        let lists = self.shapes.entry(look.shape).or_default();
        let mut at = lists.iter().position(|(known, _)| *known == look);
        if let Some(index) = at
            && lists.get(index).is_some_and(|(_, c)| c.is_outdated(model))
        {
            self.entries -= lists.swap_remove(index).1.size();
            at = None;
        }
        if at.is_none() {
            self.make_room(model.nodes.bound());
            self.work.shapes_built += 1;
            let lists = self.shapes.entry(look.shape).or_default();
            if lists.len() >= LOOKS {
                // Terms of others came and went: what was asked for longest ago is seldom asked for again.
                let oldest = (0..lists.len()).min_by_key(|i| lists.get(*i).map(|(_, c)| c.asked));
                if let Some(oldest) = oldest {
                    self.entries -= lists.swap_remove(oldest).1.size();
                }
            }
            let checks = model.checks(look.shape, model.marks.hits(look.hits));
            lists.push((look, Candidates::new(model, checks, look.own)));
        }
        let lists = self.shapes.get_mut(&look.shape)?;
        let at = at.unwrap_or(lists.len().saturating_sub(1));
        let (_, candidates) = lists.get_mut(at)?;
        candidates.asked = self.clock;
        let shape = model.shapes.value(look.shape);
        let before = candidates.size();
        self.work.nodes_visited += candidates.catch_up(model, policy, &mut self.worths, shape);
        self.entries += candidates.size() - before;
        Some(candidates)
    }

    /// Drops the lists that were not asked for longest, until a new one of this size has room.
    fn make_room(&mut self, size: usize) {
        while self.entries + size > ENTRIES && self.shapes.values().any(|lists| !lists.is_empty()) {
            // `asked` is different for each.
            let all = self.shapes.values().flatten();
            let oldest = all.min_by_key(|(_, c)| c.asked).map(|(look, _)| *look);
            if let Some(oldest) = oldest
                && let Some(lists) = self.shapes.get_mut(&oldest.shape)
                && let Some(at) = lists.iter().position(|(look, _)| *look == oldest)
            {
                self.entries -= lists.swap_remove(at).1.size();
                if lists.is_empty() {
                    self.shapes.remove(&oldest.shape);
                }
            }
        }
    }
}

impl Candidates {
    fn new(model: &Model, checks: Vec<Check>, own: u64) -> Candidates {
        let related = Related::of(model, checks, own);
        let buckets = match related {
            Some(_) => Vec::new(),
            None => vec![Bucket::default()],
        };
        Candidates {
            related,
            buckets,
            ..Default::default()
        }
    }

    fn size(&self) -> usize {
        let levels: usize = self.levels.iter().flatten().map(|level| level.size()).sum();
        self.entries.len() * self.related.as_ref().map_or(1, |related| related.size()) + levels
    }

    fn is_outdated(&self, model: &Model) -> bool {
        self.related.as_ref().is_some_and(|related| related.is_outdated(model))
    }

    /// Values the nodes that changed since it last looked, and says how many.
    fn catch_up(&mut self, model: &Model, policy: Policy, worths: &mut Worths, shape: &Shape) -> u64 {
        let cursor = std::mem::replace(&mut self.cursor, model.changes.clock());
        let outlook = std::mem::replace(&mut self.outlook, model.mix.outlook.version());
        if cursor == model.changes.clock() && outlook == self.outlook {
            return 0;
        }
        if self.entries.len() < model.nodes.bound() {
            self.entries.resize(model.nodes.bound(), None);
        }
        let mut visited = 0;
        if self.related.is_some() {
            for node in self.take_in(model, shape, cursor) {
                visited += 1;
                self.revalue(model, policy, worths, shape, node);
            }
        } else {
            for node in model.changes.since(cursor) {
                visited += 1;
                self.revalue(model, policy, worths, shape, node);
            }
        }
        if outlook != self.outlook && cursor > 0 && policy == Policy::Standard {
            let with_gpus = |(_, node): &(NodeOrd, &NodeSlot)| node.present && !node.devices.is_empty();
            for (node, _) in model.nodes.iter().filter(with_gpus) {
                visited += 1;
                self.revalue(model, policy, worths, shape, node);
            }
        }
        visited
    }

    /// Takes in where the pods are now that its rules speak of, and says which nodes are to be valued anew.
    fn take_in(&mut self, model: &Model, shape: &Shape, cursor: u64) -> Vec<NodeOrd> {
        let mut dirty = Vec::new();
        let Some(related) = &mut self.related else { return dirty };
        for ord in model.changes.since(cursor) {
            let node = model.nodes.find(ord).filter(|n| n.present);
            related.take_in(model, shape, ord, node, &mut dirty);
        }
        if related.settle() {
            return (0..self.entries.len()).map(NodeOrd::new).collect();
        }
        dirty.sort_unstable();
        dirty.dedup();
        dirty
    }

    fn related_to(&self, node: NodeOrd) -> Result<(), Constraint> {
        let Some(related) = &self.related else { return Ok(()) };
        related.judge_node(node)?;
        related.judge_domains(related.coarse_domains(node)).map(|_| ())
    }

    /// The bucket of a node.
    fn bucket(&mut self, node: NodeOrd) -> u32 {
        let Some(related) = &self.related else { return 0 };
        let domains = related.coarse_domains(node);
        if let Some(&known) = self.buckets_by_domains.get(domains) {
            return known;
        }
        let new = u32::try_from(self.buckets.len()).unwrap_or(u32::MAX);
        self.buckets_by_domains.insert(domains.into(), new);
        self.buckets.push(Bucket {
            domains: domains.into(),
            ..Default::default()
        });
        new
    }

    fn revalue(&mut self, model: &Model, policy: Policy, worths: &mut Worths, shape: &Shape, ord: NodeOrd) {
        let node = model.nodes.find(ord).filter(|n| n.present);
        let bucket = self.bucket(ord);
        let Some(slot) = self.entries.get_mut(ord.index()) else {
            return;
        };
        let new = node.map(|node| {
            let ever = match slot {
                Some(entry) if entry.epoch == node.epoch => entry.ever,
                _ => model.fits_ever(shape, node),
            };
            let mut now = value(model, policy, worths, shape, node, ever);
            if let (Ok(cost), Some(related)) = (now, &self.related) {
                now = related.judge_node(ord).map(|against| cost.against(against));
            }
            Entry {
                epoch: node.epoch,
                ever,
                now: now.map(|cost| (cost, node.rank)),
                bucket,
            }
        });
        let old = std::mem::replace(slot, new);
        for level in self.levels.iter_mut().flatten() {
            level.count(model, shape, ord, new.and_then(|e| e.now.ok()));
        }
        let (old, new) = (old.map(|e| (e.bucket, e.now)), new.map(|e| (e.bucket, e.now)));
        if old == new {
            return;
        }
        match old {
            Some((bucket, Ok(key))) => {
                // Another node may have taken over the rank if ranks were spread: then the key is its.
                if let Some(bucket) = self.buckets.get_mut(bucket as usize)
                    && bucket.fitting.get(&key) == Some(&ord)
                {
                    bucket.fitting.remove(&key);
                }
            }
            Some((_, Err(constraint))) => {
                if let Some((_, count)) = self.against.iter_mut().find(|(c, _)| *c == constraint) {
                    *count -= 1;
                }
                self.against.retain(|(_, count)| *count > 0);
            }
            None => {}
        }
        match new {
            Some((bucket, Ok(key))) => {
                if let Some(bucket) = self.buckets.get_mut(bucket as usize) {
                    bucket.fitting.insert(key, ord);
                }
            }
            Some((_, Err(constraint))) => add(&mut self.against, constraint, 1),
            None => {}
        }
    }
}

fn add(against: &mut Vec<(Constraint, u32)>, constraint: Constraint, nodes: u32) {
    match against.iter_mut().find(|(c, _)| *c == constraint) {
        Some((_, count)) => *count += nodes,
        None => against.push((constraint, nodes)),
    }
}

/// What each node says, by a list that is built for this one question: by node, what turns the pod away.
pub(crate) fn verdicts(model: &Model, pod: &PodSlot) -> BTreeMap<NodeOrd, Option<Constraint>> {
    let hits = model.marks.find_hits(pod.identity);
    let checks = model.checks(pod.shape, &hits);
    let mut candidates = Candidates::new(model, checks, model.own(pod.shape, pod.identity));
    // What a place costs does not matter, only whether there is one.
    let mut worths = Worths::default();
    candidates.catch_up(model, Policy::FirstFit, &mut worths, model.shapes.value(pod.shape));
    let entries = candidates.entries.iter().enumerate();
    let said = entries.filter_map(|(i, entry)| {
        let node = NodeOrd::new(i);
        let verdict = match entry.as_ref()?.now {
            Err(constraint) => Some(constraint),
            Ok(_) => candidates.related_to(node).err(),
        };
        Some((node, verdict))
    });
    said.collect()
}

fn value(
    model: &Model,
    policy: Policy,
    worths: &mut Worths,
    shape: &Shape,
    node: &NodeSlot,
    ever: Result<u32, Constraint>,
) -> Result<Cost, Constraint> {
    score::place(policy, model, worths, shape, node, ever?).map(|(cost, _)| cost)
}

/// The same answer by looking at every node: what the index is compared with. Other pods do not matter.
#[cfg(test)]
pub(crate) fn by_scan(model: &Model, policy: Policy, ord: ShapeOrd) -> Option<NodeOrd> {
    let shape = model.shapes.value(ord);
    let mut worths = Worths::default();
    let fitting = model.nodes_by_name.values().filter_map(|&node| {
        let slot = &model.nodes[node];
        let ever = model.fits_ever(shape, slot);
        let cost = value(model, policy, &mut worths, shape, slot, ever).ok()?;
        slot.present.then_some((cost, slot.rank, node))
    });
    fitting.min().map(|(_, _, node)| node)
}
