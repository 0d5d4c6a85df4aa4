//! The nodes in their order, each at a position: what the [trees](super::headroom) stand on.

use std::collections::HashMap;

use crate::{
    event::Level,
    model::{Model, NodeSlot, kin::Domain},
    slab::NodeOrd,
};

const NONE: u32 = u32::MAX;

/// Which nodes stand in a line-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Part {
    /// All.
    Whole,
    /// Those of a fault domain of this level.
    Of(Level, Domain),
}

impl Part {
    /// True for a node that stands in it.
    pub(super) fn holds(self, node: &NodeSlot) -> bool {
        match self {
            Part::Whole => true,
            Part::Of(level, domain) => node.areas.get(level.index()).copied().flatten() == domain,
        }
    }

    /// False if it is of an area that is gone, which is never known again.
    pub(super) fn is_there(self, model: &Model) -> bool {
        match self {
            Part::Whole | Part::Of(_, None) => true,
            Part::Of(level, Some(area)) => model.areas.level(area) == Some(level),
        }
    }
}

/// Nodes by position. A node that is gone keeps its position until a new one needs one.
#[derive(Debug)]
pub(super) struct Lineup {
    /// Which nodes stand in it.
    part: Part,
    /// Position in the change log.
    cursor: u64,
    /// By position, with the rank that the node had.
    nodes: Vec<(NodeOrd, u64)>,
    /// By node.
    positions: Vec<u32>,
    /// Grows when positions change.
    version: u64,
}

impl Lineup {
    fn of(part: Part, model: &Model, version: u64) -> Lineup {
        Lineup {
            part,
            cursor: model.changes.clock(),
            nodes: Vec::new(),
            positions: vec![NONE; model.nodes.bound()],
            version,
        }
    }

    /// True for a node that stands in it, or is to.
    pub(super) fn holds(&self, node: &NodeSlot) -> bool {
        self.part.holds(node)
    }

    /// Number of the latest change of positions.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// By position.
    pub(super) fn nodes(&self) -> impl ExactSizeIterator<Item = NodeOrd> + '_ {
        self.nodes.iter().map(|(node, _)| *node)
    }

    /// The node at a position.
    pub(super) fn at(&self, position: usize) -> Option<NodeOrd> {
        self.nodes.get(position).map(|(node, _)| *node)
    }

    /// The position of a node.
    pub(super) fn position(&self, node: NodeOrd) -> Option<usize> {
        let position = *self.positions.get(node.index())?;
        (position != NONE).then_some(position as usize)
    }

    /// True if a node stands where it belongs. One that is gone, or belongs elsewhere, needs no place.
    fn is_right(&self, ord: NodeOrd, node: Option<&NodeSlot>) -> bool {
        let Some(node) = node.filter(|node| self.holds(node)) else {
            return true;
        };
        let known = self.position(ord).and_then(|position| self.nodes.get(position));
        known.is_some_and(|(_, rank)| *rank == node.rank)
    }

    fn push(&mut self, ord: NodeOrd, rank: u64) {
        let position = u32::try_from(self.nodes.len()).unwrap_or(NONE);
        self.nodes.push((ord, rank));
        if let Some(slot) = self.positions.get_mut(ord.index()) {
            *slot = position;
        }
    }

    /// Lines its nodes up anew, by this version, if one does not stand where it belongs.
    fn catch_up(&mut self, model: &Model, version: u64) {
        let cursor = std::mem::replace(&mut self.cursor, model.changes.clock());
        let mut changed = model.changes.since(cursor);
        if changed.all(|ord| self.is_right(ord, model.nodes.find(ord))) {
            return;
        }
        self.version = version;
        self.nodes.clear();
        self.positions.clear();
        self.positions.resize(model.nodes.bound(), NONE);
        for &ord in model.nodes_by_name.values() {
            let node = &model.nodes[ord];
            if self.part.holds(node) {
                self.push(ord, node.rank);
            }
        }
    }
}

/// The line-ups of the parts that were asked for.
#[derive(Debug, Default)]
pub(super) struct Lineups {
    // Looked up, never iterated.
    parts: HashMap<Part, Lineup>,
    /// The last version that one was given. None is given twice: a tree that was built for one that is gone must not take
    /// another one for it.
    version: u64,
}

impl Lineups {
    /// That of a part.
    pub(super) fn get(&self, part: Part) -> Option<&Lineup> {
        self.parts.get(&part)
    }

    /// That of a part, as its nodes stand now.
    pub(super) fn caught_up(&mut self, model: &Model, part: Part) -> Option<&Lineup> {
        self.version += 1;
        match self.parts.get_mut(&part) {
            Some(known) => known.catch_up(model, self.version),
            None => self.line_up(model, part),
        }
        self.get(part)
    }

    /// Lines up a part; of one fault domain, all others too that are not lined up yet, by one look at the nodes. Those that
    /// are stay as they are: trees may have caught up with them for the same question.
    fn line_up(&mut self, model: &Model, part: Part) {
        let mut new: HashMap<Part, Lineup> = HashMap::new();
        let parts: Vec<Part> = match part {
            Part::Whole => vec![part],
            Part::Of(level, _) => {
                self.parts.retain(|part, _| part.is_there(model));
                let domains = model.areas.of_level(level).map(Some).chain([None]);
                domains.map(|domain| Part::Of(level, domain)).collect()
            }
        };
        for part in parts.into_iter().filter(|part| !self.parts.contains_key(part)) {
            new.insert(part, Lineup::of(part, model, self.version));
        }
        for &ord in model.nodes_by_name.values() {
            let node = &model.nodes[ord];
            let its = match part {
                Part::Whole => part,
                Part::Of(level, _) => Part::Of(level, node.areas.get(level.index()).copied().flatten()),
            };
            if let Some(lineup) = new.get_mut(&its) {
                lineup.push(ord, node.rank);
            }
        }
        self.parts.extend(new);
    }
}
