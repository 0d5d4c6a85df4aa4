//! The nodes that a shape fits on, by the areas of one level, and how many pods of the shape each area has room for. Kept
//! only for the levels that some gang asks about.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    event::Level,
    model::{Model, NodeSlot, Shape},
    score::Cost,
    slab::{AreaOrd, NodeOrd},
};

/// Cost, then node order.
type Key = (Cost, u64);

/// The areas of one level.
#[derive(Debug)]
pub(crate) struct ByArea {
    level: Level,
    /// By node, how it is counted in each of its areas of this level: it has several if these are cells.
    seen: Vec<Vec<Seen>>,
    /// How the last node was counted before that: for its room in memory.
    before: Vec<Seen>,
    // Looked up, never iterated.
    areas: HashMap<AreaOrd, Fitting>,
    /// Areas with room: by how many pods, then in the order of areas.
    by_room: BTreeMap<(u64, Arc<str>), AreaOrd>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    area: AreaOrd,
    key: Key,
    room: u32,
}

#[derive(Debug, Default)]
struct Fitting {
    path: Arc<str>,
    /// Pods in all.
    room: u64,
    nodes: BTreeMap<Key, NodeOrd>,
}

impl ByArea {
    pub(super) fn new(level: Level) -> ByArea {
        ByArea {
            level,
            seen: Vec::new(),
            before: Vec::new(),
            areas: HashMap::new(),
            by_room: BTreeMap::new(),
        }
    }

    /// Counts a node anew: `key` if it fits.
    pub(super) fn count(&mut self, model: &Model, shape: &Shape, ord: NodeOrd, key: Option<Key>) {
        if self.seen.len() <= ord.index() {
            self.seen.resize_with(ord.index() + 1, Vec::new);
        }
        let node = model.nodes.find(ord).filter(|n| n.present).zip(key);
        let level = self.level;
        let areas = node.into_iter().flat_map(|(node, key)| {
            let areas = node.areas_at(level);
            areas.map(move |(area, cell)| (node, key, area, cell))
        });
        let counted = areas.map(|(node, key, area, cell)| Seen {
            area,
            key,
            room: match cell {
                None => model.room(shape, node),
                Some(cell) => model.room_in(shape, node, cell),
            },
        });
        let mut now = std::mem::take(&mut self.before);
        now.clear();
        now.extend(counted.filter(|seen| seen.room > 0));
        let Some(seen) = self.seen.get_mut(ord.index()).filter(|seen| **seen != now) else {
            self.before = now;
            return;
        };
        let before = std::mem::take(seen);
        for old in &before {
            self.change(model, old.area, |fitting| {
                fitting.room -= u64::from(old.room);
                // Another node may have taken over the rank if ranks were spread: then the key is its.
                if fitting.nodes.get(&old.key) == Some(&ord) {
                    fitting.nodes.remove(&old.key);
                }
            });
        }
        for new in &now {
            self.change(model, new.area, |fitting| {
                fitting.room += u64::from(new.room);
                fitting.nodes.insert(new.key, ord);
            });
        }
        if let Some(slot) = self.seen.get_mut(ord.index()) {
            *slot = now;
        }
        self.before = before;
    }

    fn change(&mut self, model: &Model, area: AreaOrd, change: impl FnOnce(&mut Fitting)) {
        let fitting = self.areas.entry(area).or_insert_with(|| Fitting {
            path: model.areas.path(area),
            ..Default::default()
        });
        let before = fitting.room;
        change(fitting);
        let (path, after) = (fitting.path.clone(), fitting.room);
        if after == 0 {
            self.areas.remove(&area);
        }
        if after != before {
            if before > 0 {
                self.by_room.remove(&(before, path.clone()));
            }
            if after > 0 {
                self.by_room.insert((after, path), area);
            }
        }
    }

    /// Nodes of an area that fit, best first.
    pub(super) fn nodes(&self, area: AreaOrd) -> impl Iterator<Item = (Key, NodeOrd)> + '_ {
        self.areas
            .get(&area)
            .into_iter()
            .flat_map(|f| f.nodes.iter().map(|(key, node)| (*key, *node)))
    }

    /// Pods that an area has room for, at most.
    pub(super) fn room(&self, area: AreaOrd) -> u64 {
        self.areas.get(&area).map_or(0, |f| f.room)
    }

    /// Areas with room for so many pods, the tightest first.
    pub(crate) fn tightest(&self, pods: u64) -> impl Iterator<Item = AreaOrd> + '_ {
        self.by_room.range((pods, "".into())..).map(|(_, area)| *area)
    }

    /// The area with the most room, the first in their order of several, if one has any.
    pub(crate) fn most(&self) -> Option<(u64, AreaOrd)> {
        let ((most, _), _) = self.by_room.last_key_value()?;
        let (_, area) = self.by_room.range((*most, "".into())..).next()?;
        Some((*most, *area))
    }

    /// Areas with any room, the roomiest first; of equal ones, the last in their order.
    pub(crate) fn roomiest(&self) -> impl Iterator<Item = AreaOrd> + '_ {
        self.by_room.values().rev().copied()
    }

    /// Entries, for the bound on all of them.
    pub(super) fn size(&self) -> usize {
        self.seen.len()
    }
}

impl Model {
    /// How many pods of a shape a node that it fits on has room for, at most: exactly that many if they come one after the
    /// other and nothing but what they request counts.
    pub(crate) fn room(&self, shape: &Shape, node: &NodeSlot) -> u32 {
        let mut room = if shape.ports.is_empty() { i64::from(u32::MAX) } else { 1 };
        // The first of them attaches what they share.
        let once = node.attaches(shape);
        for &(resource, amount) in shape.requests.iter().filter(|(_, a)| a.get() > 0) {
            let left = node.allocatable.of(resource) - node.used.of(resource) - once.of(resource);
            room = room.min(left.get() / amount.get());
        }
        if let Some(need) = &shape.gpus {
            room = room.min(node.room_for(need, None));
        }
        u32::try_from(room.max(1)).unwrap_or(u32::MAX)
    }
}
