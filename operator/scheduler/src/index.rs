//! The shape index: per shape, the nodes that it fits on, best first, and for the others what turns it away.
//!
//! It is a cache. Plain shapes share a tree in which the nodes that changed are noted once for all of them. Any other shape
//! has a list: it looks at the change log when it is asked, and revalues the nodes that changed since it last looked. So a
//! pod costs O(log nodes) whatever the number of nodes, also one that fits nowhere: its list is empty.

mod apart;
mod areas;
mod beside;
mod candidates;
mod cells;
mod headroom;
mod lineup;
mod plain;
mod related;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    event::Level,
    fit::Constraint,
    model::{Model, PodSlot, Reservation},
    score::Policy,
    slab::{AreaOrd, HitsOrd, KinOrd, NodeOrd, ShapeOrd, WantedOrd},
    worth::Worths,
};
use apart::Apart;
pub(crate) use areas::ByArea;
pub(crate) use beside::{Beside, Left};
use candidates::{Candidates, add};
pub(crate) use cells::Sought;
use headroom::Found;
use plain::Plain;

/// Entries of all shapes together that are kept: at some 80 bytes each, 640 MiB. A thousand shapes on 8,000 nodes, or
/// 270 on 30,000.
const ENTRIES: usize = 8 << 20;
/// Looks of one shape at most, with the same images, that keep a list.
const LOOKS: usize = 8;
/// Looks of one shape at most, with any images, that keep a list: they are looked through for each pod.
const ALL_LOOKS: usize = 128;

/// What the index had to do: for tests and benchmarks, which assert work instead of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Nodes that were valued for some shape.
    pub nodes_visited: u64,
    /// Shapes whose list was built from nothing.
    pub shapes_built: u64,
    /// Nodes on which it was tried whether a pod there would move a reservation.
    pub tried_beside: u64,
    /// Reservations of which it was asked whether their queues would still let them start.
    pub quotas_asked: u64,
    /// Nodes that were looked at to say which change of one would let in what fits nowhere.
    pub changes_tried: u64,
}

/// All that placement looks at in a pod as things stand: pods of equal look are interchangeable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Look {
    pub(crate) shape: ShapeOrd,
    /// Terms of other pods that speak of it.
    pub(crate) hits: Option<HitsOrd>,
    /// Which of its own rules it matches itself.
    pub(crate) own: u64,
    /// Big images of its own that some node holds already.
    pub(crate) wanted: Option<WantedOrd>,
}

/// The lists of all looks that were asked for lately.
#[derive(Debug, Default)]
pub(crate) struct Index {
    // Looked up by shape, of which nearly all have one look; when a list has to go, it is the one that was asked for least
    // lately, which is one alone.
    shapes: HashMap<ShapeOrd, Vec<(Look, Candidates)>>,
    clock: u64,
    entries: usize,
    plain: Plain,
    most_free: cells::MostFree,
    beside: beside::Kept,
    pub(crate) worths: Worths,
    pub(crate) work: Work,
}

impl Index {
    /// The best node for a look, if there is one.
    pub(crate) fn best(&mut self, model: &Model, policy: Policy, look: Look) -> Option<NodeOrd> {
        self.best_beside(model, policy, look, &BTreeSet::new(), None)
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
        match self.best_plain(model, policy, look, refused, None) {
            Found::Node(node, _) => return Some(node),
            Found::Nowhere => return None,
            Found::Unknown => {}
        }
        let judged = self.refresh(model, policy, look)?.judged();
        let best = judged.filter_map(|(bucket, against)| {
            let ((cost, rank), node) = bucket.fitting.iter().find(|(_, node)| !refused.contains(node))?;
            Some((cost.against(against), *rank, *node))
        });
        best.min().map(|(_, _, node)| node)
    }

    /// The node for a pod of a look that is to be kept apart from its kin, and none of some; if there is one.
    pub(crate) fn best_apart(
        &mut self,
        model: &Model,
        policy: Policy,
        look: Look,
        refused: &BTreeSet<NodeOrd>,
        kin: KinOrd,
    ) -> Option<NodeOrd> {
        let apart = Apart::new(model, kin);
        match self.best_plain(model, policy, look, refused, Some(apart)) {
            Found::Node(node, _) => Some(node),
            Found::Nowhere => None,
            Found::Unknown => apart.best_listed(self.refresh(model, policy, look)?, refused),
        }
    }

    fn best_plain(
        &mut self,
        model: &Model,
        policy: Policy,
        look: Look,
        refused: &BTreeSet<NodeOrd>,
        apart: Option<Apart<'_>>,
    ) -> Found {
        let ord = look.shape;
        let plain = policy == Policy::Standard
            && look.hits.is_none()
            && look.wanted.is_none()
            && Plain::includes(model.shapes.value(ord));
        if !plain {
            return Found::Unknown;
        }
        let sought = plain::Sought { model, ord, refused };
        let visited = &mut self.work.nodes_visited;
        match apart {
            None => self.plain.best(sought, &mut self.worths, visited),
            Some(apart) => self.plain.best_apart(sought, apart, &mut self.worths, visited),
        }
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

    /// What is known of the nodes that some reservations refuse; to be [kept](Index::keep_beside) after use.
    pub(crate) fn take_beside(&mut self, spared: Vec<Arc<Reservation>>, others: Vec<Arc<Reservation>>) -> Beside {
        self.beside.take(spared, others)
    }

    /// Keeps what was found beside some reservations, for those who come next.
    pub(crate) fn keep_beside(&mut self, beside: Beside) {
        self.beside.put(beside);
    }

    /// There are no reservations.
    pub(crate) fn forget_beside(&mut self) {
        self.beside.clear();
    }

    /// Forgets a shape that is no more; its ordinal may name another one next.
    pub(crate) fn forget(&mut self, shape: ShapeOrd) {
        self.plain.forget(shape);
        self.most_free.forget(shape);
        self.beside.forget(shape);
        for (_, gone) in self.shapes.remove(&shape).into_iter().flatten() {
            self.entries -= gone.size();
        }
    }

    /// Shapes that have a list, or share a tree.
    #[cfg(test)]
    pub(crate) fn shapes(&self) -> usize {
        self.shapes.len() + self.plain.shapes()
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
            let alike = |(known, _): &&(Look, Candidates)| known.wanted == look.wanted;
            let all = lists.len() >= ALL_LOOKS;
            if all || lists.iter().filter(alike).count() >= LOOKS {
                // Terms of others, or images, came and went: what was asked for longest ago is seldom asked for again.
                let numbered = lists.iter().enumerate().filter(|(_, list)| all || alike(list));
                let oldest = numbered.min_by_key(|(_, (_, c))| c.asked).map(|(i, _)| i);
                if let Some(oldest) = oldest {
                    self.entries -= lists.swap_remove(oldest).1.size();
                }
            }
            let checks = model.checks(look.shape, model.marks.hits(look.hits));
            let wanted = model.images.of(look.wanted);
            let shape = model.shapes.value(look.shape);
            lists.push((look, Candidates::new(model, shape, checks, look.own, wanted)));
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

/// What each node says, by a list that is built for this one question: by node, what turns the pod away.
pub(crate) fn verdicts(model: &Model, pod: &PodSlot) -> BTreeMap<NodeOrd, Option<Constraint>> {
    let hits = model.marks.find_hits(pod.identity);
    let checks = model.checks(pod.shape, &hits);
    let shape = model.shapes.value(pod.shape);
    let mut candidates = Candidates::new(model, shape, checks, model.own(pod.shape, pod.identity), &[]);
    // What a place costs does not matter, only whether there is one.
    let mut worths = Worths::default();
    candidates.catch_up(model, Policy::FirstFit, &mut worths, shape);
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

/// The same answer by looking at every node: what the index is compared with. Of other pods only the kin that it is kept
/// apart from matter.
#[cfg(test)]
pub(crate) fn by_scan(
    model: &Model,
    policy: Policy,
    look: Look,
    refused: &BTreeSet<NodeOrd>,
    kin: Option<KinOrd>,
) -> Option<NodeOrd> {
    let shape = model.shapes.value(look.shape);
    let mut worths = Worths::default();
    let fitting = model.nodes_by_name.values().filter_map(|&node| {
        let slot = model
            .nodes
            .find(node)
            .filter(|slot| slot.present && !refused.contains(&node))?;
        let welcome = model.fits_ever(shape, slot).ok()?;
        let (cost, _) = crate::score::place(policy, model, &mut worths, shape, slot, welcome).ok()?;
        let images = slot.holds_of(model.images.of(look.wanted));
        Some((cost.with_images(images), slot.rank, node))
    });
    let fitting: Vec<_> = fitting.collect();
    match kin {
        None => fitting.into_iter().min().map(|(_, _, node)| node),
        Some(kin) => Apart::new(model, kin).best_of(&fitting),
    }
}
