//! What is free in the cells of nodes: the most that one of them has. It is asked for only where something is refused for
//! lack of it, and found once for as long as no node changes.

use std::collections::HashMap;

use super::Index;
use crate::{
    event::Level,
    model::{Model, NodeSlot, Shape, cell::Cell},
    slab::{AreaOrd, ResourceOrd, ShapeOrd},
};

/// What is sought in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Sought {
    /// Whole devices that a shape may have.
    Devices,
    /// An amount of a resource.
    Resource(ResourceOrd),
}

/// For whom, on which level, in which area, and what.
type Question = (ShapeOrd, Level, Option<AreaOrd>, Sought);

/// Answers that hold until a node changes.
#[derive(Debug, Default)]
pub(super) struct MostFree {
    /// Position in the change log.
    at: u64,
    // Looked up, never iterated.
    found: HashMap<Question, Option<(u64, AreaOrd)>>,
}

impl MostFree {
    /// Forgets a shape that is no more; its ordinal may name another one next.
    pub(super) fn forget(&mut self, shape: ShapeOrd) {
        self.found.retain(|(of, ..), _| *of != shape);
    }
}

impl Index {
    /// The most that a cell has free of something, among the nodes that a shape fits ever, and the first such cell.
    pub(crate) fn most_free(
        &mut self,
        model: &Model,
        shape: ShapeOrd,
        level: Level,
        within: Option<AreaOrd>,
        sought: Sought,
    ) -> Option<(u64, AreaOrd)> {
        let now = model.changes.clock();
        if self.most_free.at != now {
            self.most_free.at = now;
            self.most_free.found.clear();
        }
        let question = (shape, level, within, sought);
        if let Some(known) = self.most_free.found.get(&question) {
            return *known;
        }
        let shape = model.shapes.value(shape);
        let mut most: Option<(u64, AreaOrd)> = None;
        for &ord in model.nodes_by_name.values() {
            let node = &model.nodes[ord];
            if node.parts.is_empty() || model.takes_nothing_new(shape, ord) || model.fits_ever(shape, node).is_err() {
                continue;
            }
            self.work.nodes_visited += 1;
            for part in &node.parts {
                if part.cell.level() != level || !model.areas.is_in(part.area, within) {
                    continue;
                }
                let free = model.free_in(shape, node, part.cell, sought);
                if most.is_none_or(|(best, _)| free > best) {
                    most = Some((free, part.area));
                }
            }
        }
        self.most_free.found.insert(question, most);
        most
    }
}

impl Model {
    /// What is free in a cell for a shape.
    fn free_in(&self, shape: &Shape, node: &NodeSlot, cell: Cell, sought: Sought) -> u64 {
        let free = match sought {
            Sought::Devices => shape.gpus.as_ref().map_or(0, |need| {
                let devices = 0..node.devices.len();
                let whole =
                    devices.filter(|&i| node.is_in_cell(i, Some(cell)) && node.is_whole(i) && node.allows(need, i));
                i64::try_from(whole.count())
                    .unwrap_or(i64::MAX)
                    .min(node.whole_devices())
            }),
            Sought::Resource(resource) => {
                let of_node = node.allocatable.of(resource) - node.used.of(resource);
                let of_cell = self.left_in(node, cell, resource).unwrap_or(of_node);
                of_cell.min(of_node).get()
            }
        };
        u64::try_from(free).unwrap_or(0)
    }
}
