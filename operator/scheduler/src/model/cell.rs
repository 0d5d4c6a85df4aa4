//! Cells: the parts of one node that pods can share, its NUMA nodes and its GPUs that reach each other without the host.
//!
//! Of a node's CPU and memory, those of each tier, a NUMA node has the part that it has of the node's cores and memory. Only
//! who has to stand in one NUMA node is counted there: all others go to whatever cores these leave them.

use crate::{
    amount::{Amount, Totals},
    event::{Level, NumaNode},
    model::{Model, NodeSlot, Shape},
    slab::{AreaOrd, ResourceOrd},
};

/// A part of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cell {
    /// A NUMA node, by its number: cores, memory and devices.
    Numa(u16),
    /// Devices that are linked with each other, by the number of their NVLink group; everything else of the node is theirs.
    Nvlink(u16),
}

impl Cell {
    /// What kind of area it is.
    pub(crate) fn level(self) -> Level {
        match self {
            Cell::Numa(_) => Level::Numa,
            Cell::Nvlink(_) => Level::Nvlink,
        }
    }

    /// Its number on the node.
    pub(crate) fn id(self) -> u16 {
        match self {
            Cell::Numa(id) | Cell::Nvlink(id) => id,
        }
    }
}

/// A cell of a node as an area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) cell: Cell,
    pub(crate) area: AreaOrd,
}

/// A NUMA node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Numa {
    pub(crate) id: u16,
    /// Milli-cores.
    cpu: Amount,
    /// Bytes.
    memory: Amount,
    /// Requests of the pods that have to stand here.
    pub(crate) used: Totals,
}

impl Numa {
    /// The NUMA nodes of a node, by number, each once.
    pub(crate) fn taken_in(reported: &[NumaNode]) -> Vec<Numa> {
        let mut all: Vec<Numa> = reported
            .iter()
            .map(|numa| Numa {
                id: numa.id,
                cpu: Amount::taken_in(numa.cpu),
                memory: Amount::taken_in(numa.memory),
                used: Totals::default(),
            })
            .collect();
        all.sort_by_key(|numa| numa.id);
        all.dedup_by_key(|numa| numa.id);
        all
    }

    /// True if both are the same part of a node, whoever stands there.
    pub(crate) fn is_as_large_as(&self, other: &Numa) -> bool {
        (self.id, self.cpu, self.memory) == (other.id, other.cpu, other.memory)
    }
}

impl NodeSlot {
    /// The cells that it has, in their order. Where it stands in an NVLink domain, all its devices are linked.
    pub(crate) fn cells(&self) -> Vec<Cell> {
        let groups = self.devices.iter().filter_map(|device| device.nvlink);
        let whole = self.areas.get(Level::Nvlink.index()).copied().flatten();
        let groups = groups.filter(|_| whole.is_none()).map(Cell::Nvlink);
        let mut cells: Vec<Cell> = self.numa.iter().map(|numa| Cell::Numa(numa.id)).chain(groups).collect();
        cells.sort_unstable();
        cells.dedup();
        cells
    }

    /// True if a device is in a cell; every device is part of the whole node.
    pub(crate) fn is_in_cell(&self, index: usize, cell: Option<Cell>) -> bool {
        let device = self.devices.get(index);
        match cell {
            None => true,
            Some(Cell::Numa(id)) => device.is_some_and(|d| d.numa == Some(id)),
            Some(Cell::Nvlink(group)) => device.is_some_and(|d| d.nvlink == Some(group)),
        }
    }

    /// The NVLink group that all devices in a NUMA node are in.
    pub(crate) fn group_of_numa(&self, id: u16) -> Option<Cell> {
        let mut inside = self.devices.iter().filter(|device| device.numa == Some(id));
        let group = inside.next()?.nvlink?;
        inside
            .all(|device| device.nvlink == Some(group))
            .then_some(Cell::Nvlink(group))
    }

    /// The cell that an area is, if it is one of this node's.
    pub(crate) fn cell_of(&self, area: AreaOrd) -> Option<Cell> {
        self.parts.iter().find(|part| part.area == area).map(|part| part.cell)
    }

    /// The area that a cell of this node is.
    pub(crate) fn area_of(&self, cell: Cell) -> Option<AreaOrd> {
        self.parts.iter().find(|part| part.cell == cell).map(|part| part.area)
    }

    /// True if it is in an area, or has it as a part.
    pub(crate) fn touches(&self, area: AreaOrd) -> bool {
        self.areas.contains(&Some(area)) || self.cell_of(area).is_some()
    }

    /// The areas of a level that it is in or has as parts, each with the cell that it is.
    pub(crate) fn areas_at(&self, level: Level) -> impl Iterator<Item = (AreaOrd, Option<Cell>)> + '_ {
        let whole = self.areas.get(level.index()).copied().flatten();
        let parts = self.parts.iter().filter(move |part| part.cell.level() == level);
        whole
            .map(|area| (area, None))
            .into_iter()
            .chain(parts.map(|part| (part.area, Some(part.cell))))
    }
}

impl Model {
    /// True if NUMA nodes have a part of what a node has of a resource.
    pub(crate) fn is_part_of_numa(&self, resource: ResourceOrd) -> bool {
        let plain = self.resources.in_quota(resource);
        plain == self.resources.cpu || plain == self.resources.memory
    }

    /// What a cell has of a resource that is not held; `None` if it is no part of it, so that what the node has left counts.
    pub(crate) fn left_in(&self, node: &NodeSlot, cell: Cell, resource: ResourceOrd) -> Option<Amount> {
        let Cell::Numa(id) = cell else { return None };
        let weight: fn(&Numa) -> Amount = match self.resources.in_quota(resource) {
            cpu if cpu == self.resources.cpu => |numa| numa.cpu,
            memory if memory == self.resources.memory => |numa| numa.memory,
            _ => return None,
        };
        let Some(numa) = node.numa.iter().find(|numa| numa.id == id) else {
            return Some(Amount::ZERO);
        };
        let all: i128 = node.numa.iter().map(|numa| i128::from(weight(numa).get())).sum();
        let part = i128::from(node.allocatable.of(resource).get()) * i128::from(weight(numa).get()) / all.max(1);
        Some(Amount::taken_in(i64::try_from(part).unwrap_or(i64::MAX)) - numa.used.of(resource))
    }

    /// True if a cell has the CPU and memory that a shape requests.
    pub(crate) fn fits_in(&self, shape: &Shape, node: &NodeSlot, cell: Cell) -> bool {
        let enough = |(resource, amount): &(ResourceOrd, Amount)| {
            self.left_in(node, cell, *resource).is_none_or(|left| *amount <= left)
        };
        shape.requests.iter().all(enough)
    }

    /// How many pods of a shape a cell has room for, at most, on a node that has room for one.
    pub(crate) fn room_in(&self, shape: &Shape, node: &NodeSlot, cell: Cell) -> u32 {
        let mut room = i64::from(self.room(shape, node));
        for &(resource, amount) in shape.requests.iter().filter(|(_, a)| a.get() > 0) {
            if let Some(left) = self.left_in(node, cell, resource) {
                room = room.min(left.get() / amount.get());
            }
        }
        if let Some(need) = &shape.gpus {
            room = room.min(node.room_for(need, Some(cell)));
        }
        u32::try_from(room.max(0)).unwrap_or(u32::MAX)
    }
}
