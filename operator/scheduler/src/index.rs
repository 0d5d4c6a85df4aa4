//! The shape index: per shape, the nodes that it fits on, best first, and for the others what turns it away.
//!
//! It is a cache. A shape looks at the change log when it is asked, and revalues the nodes that changed since it last
//! looked; so a pod costs O(log nodes) whatever the number of nodes, also one that fits nowhere: its list is empty.

use std::collections::{BTreeMap, HashMap};

use crate::{
    fit::Constraint,
    model::{Model, NodeSlot, Shape},
    score::{self, Policy},
    slab::{NodeOrd, ShapeOrd},
};

/// Entries of all shapes together that are kept: at some 80 bytes each, 640 MiB. A thousand shapes on 8,000 nodes, or
/// 270 on 30,000.
const ENTRIES: usize = 8 << 20;

/// What the index had to do: for tests and benchmarks, which assert work instead of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Nodes that were valued for some shape.
    pub nodes_visited: u64,
    /// Shapes whose list was built from nothing.
    pub shapes_built: u64,
}

/// The lists of all shapes that were asked for lately.
#[derive(Debug, Default)]
pub(crate) struct Index {
    // Looked up by shape; when one has to go, the one that was asked for least lately does, which is one alone.
    shapes: HashMap<ShapeOrd, Candidates>,
    clock: u64,
    entries: usize,
    pub(crate) work: Work,
}

#[derive(Debug, Default)]
struct Candidates {
    /// Position in the change log.
    cursor: u64,
    /// When it was last asked for.
    asked: u64,
    /// By node.
    entries: Vec<Option<Entry>>,
    /// Nodes that fit: by cost, then in node order.
    fitting: BTreeMap<(i64, u64), NodeOrd>,
    /// How many nodes each constraint turns away. A handful.
    against: Vec<(Constraint, u32)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// `NodeSlot::epoch` at which `ever` was found.
    epoch: u64,
    ever: Result<u32, Constraint>,
    now: Result<(i64, u64), Constraint>,
}

impl Index {
    /// The best node for a shape, if there is one.
    pub(crate) fn best(&mut self, model: &Model, policy: Policy, shape: ShapeOrd) -> Option<NodeOrd> {
        let candidates = self.refresh(model, policy, shape);
        candidates.fitting.first_key_value().map(|(_, node)| *node)
    }

    /// What turns most nodes away from a shape that fits nowhere.
    pub(crate) fn first_against(&mut self, model: &Model, policy: Policy, shape: ShapeOrd) -> Option<Constraint> {
        let against = &self.refresh(model, policy, shape).against;
        // Ordinals depend on what was heard of first, so that equal counts are decided by the words.
        let order = |a: &&(Constraint, u32), b: &&(Constraint, u32)| {
            a.1.cmp(&b.1).then_with(|| model.word(b.0).cmp(&model.word(a.0)))
        };
        against.iter().max_by(order).map(|(constraint, _)| *constraint)
    }

    /// How many nodes each constraint turns away, most first.
    pub(crate) fn against(&mut self, model: &Model, policy: Policy, shape: ShapeOrd) -> Vec<(Constraint, u32)> {
        let mut against = self.refresh(model, policy, shape).against.clone();
        against.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| model.word(a.0).cmp(&model.word(b.0))));
        against
    }

    /// Forgets a shape that is no more; its ordinal may name another one next.
    pub(crate) fn forget(&mut self, shape: ShapeOrd) {
        if let Some(gone) = self.shapes.remove(&shape) {
            self.entries -= gone.entries.len();
        }
    }

    /// Shapes that have a list.
    #[cfg(test)]
    pub(crate) fn shapes(&self) -> usize {
        self.shapes.len()
    }

    fn refresh(&mut self, model: &Model, policy: Policy, ord: ShapeOrd) -> &Candidates {
        self.clock += 1;
        if !self.shapes.contains_key(&ord) {
            self.make_room(model.nodes.bound());
            self.work.shapes_built += 1;
        }
        let candidates = self.shapes.entry(ord).or_default();
        candidates.asked = self.clock;
        let shape = model.shapes.value(ord);
        let cursor = std::mem::replace(&mut candidates.cursor, model.changes.clock());
        if cursor < model.changes.clock() {
            let before = candidates.entries.len();
            if before < model.nodes.bound() {
                candidates.entries.resize(model.nodes.bound(), None);
                self.entries += candidates.entries.len() - before;
            }
            for node in model.changes.since(cursor) {
                self.work.nodes_visited += 1;
                candidates.revalue(model, policy, shape, node);
            }
        }
        candidates
    }

    /// Drops the lists that were not asked for longest, until a new one of this size has room.
    fn make_room(&mut self, size: usize) {
        while self.entries + size > ENTRIES && !self.shapes.is_empty() {
            // `asked` is different for each.
            let oldest = self.shapes.iter().min_by_key(|(_, c)| c.asked).map(|(&shape, _)| shape);
            if let Some(shape) = oldest {
                self.forget(shape);
            }
        }
    }
}

impl Candidates {
    fn revalue(&mut self, model: &Model, policy: Policy, shape: &Shape, ord: NodeOrd) {
        let node = model.nodes.find(ord).filter(|n| n.present);
        let Some(slot) = self.entries.get_mut(ord.index()) else {
            return;
        };
        let new = node.map(|node| {
            let ever = match slot {
                Some(entry) if entry.epoch == node.epoch => entry.ever,
                _ => model.fits_ever(shape, node),
            };
            let now = value(model, policy, shape, node, ever).map(|cost| (cost, node.rank));
            Entry {
                epoch: node.epoch,
                ever,
                now,
            }
        });
        let old = std::mem::replace(slot, new);
        let (old, new) = (old.map(|e| e.now), new.map(|e| e.now));
        if old == new {
            return;
        }
        match old {
            // Another node may have taken over the rank if ranks were spread: then the key is its.
            Some(Ok(key)) if self.fitting.get(&key) != Some(&ord) => {}
            Some(Ok(key)) => {
                self.fitting.remove(&key);
            }
            Some(Err(constraint)) => {
                if let Some((_, count)) = self.against.iter_mut().find(|(c, _)| *c == constraint) {
                    *count -= 1;
                }
                self.against.retain(|(_, count)| *count > 0);
            }
            None => {}
        }
        match new {
            Some(Ok(key)) => {
                self.fitting.insert(key, ord);
            }
            Some(Err(constraint)) => match self.against.iter_mut().find(|(c, _)| *c == constraint) {
                Some((_, count)) => *count += 1,
                None => self.against.push((constraint, 1)),
            },
            None => {}
        }
    }
}

fn value(
    model: &Model,
    policy: Policy,
    shape: &Shape,
    node: &NodeSlot,
    ever: Result<u32, Constraint>,
) -> Result<i64, Constraint> {
    score::place(policy, model, shape, node, ever?).map(|(cost, _)| cost)
}

/// The same answer by looking at every node: what the index is compared with.
#[cfg(test)]
pub(crate) fn by_scan(model: &Model, policy: Policy, ord: ShapeOrd) -> Option<NodeOrd> {
    let shape = model.shapes.value(ord);
    let fitting = model.nodes_by_name.values().filter_map(|&node| {
        let slot = &model.nodes[node];
        let ever = model.fits_ever(shape, slot);
        let cost = value(model, policy, shape, slot, ever).ok()?;
        slot.present.then_some((cost, slot.rank, node))
    });
    fitting.min().map(|(_, _, node)| node)
}
