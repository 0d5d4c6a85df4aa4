//! The nodes in their order, each at a position: what the [trees](super::headroom) stand on.

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
}

/// Nodes by position. A node that is gone keeps its position until a new one needs one.
#[derive(Debug)]
pub(super) struct Lineup {
    /// Which nodes stand in it.
    part: Part,
    /// By position, with the rank that the node had.
    nodes: Vec<(NodeOrd, u64)>,
    /// By node.
    positions: Vec<u32>,
    /// Grows when positions change.
    version: u64,
}

impl Lineup {
    /// Of no nodes yet.
    pub(super) fn of(part: Part) -> Lineup {
        Lineup {
            part,
            nodes: Vec::new(),
            positions: Vec::new(),
            version: 0,
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
    pub(super) fn is_right(&self, ord: NodeOrd, node: Option<&NodeSlot>) -> bool {
        let Some(node) = node.filter(|node| self.holds(node)) else {
            return true;
        };
        let known = self.position(ord).and_then(|position| self.nodes.get(position));
        known.is_some_and(|(_, rank)| *rank == node.rank)
    }

    /// Lines all nodes up anew.
    pub(super) fn renew(&mut self, model: &Model) {
        self.version += 1;
        self.nodes.clear();
        self.positions.clear();
        self.positions.resize(model.nodes.bound(), NONE);
        let part = self.part;
        let held = model
            .nodes_by_name
            .values()
            .filter(|node| part.holds(&model.nodes[**node]));
        for (position, &node) in held.enumerate() {
            self.nodes.push((node, model.nodes[node].rank));
            if let Some(slot) = self.positions.get_mut(node.index()) {
                *slot = u32::try_from(position).unwrap_or(NONE);
            }
        }
    }
}
