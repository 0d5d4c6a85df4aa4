//! Areas: what pods can share, from a cell of a node over the node by itself, its rack and block to its zone. Each is known
//! as long as a node is in it.
//!
//! An area is that of the areas around it: rack 7 of zone a and rack 7 of zone b are two, so that a label that some nodes
//! lack parts a rack and never joins two.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    event::{Level, Location},
    model::{
        NodeSlot,
        cell::{Cell, Part},
    },
    slab::AreaOrd,
};

/// How many levels there are.
pub(crate) const LEVELS: usize = 6;

/// The area of each level.
pub(crate) type InAreas = [Option<AreaOrd>; LEVELS];

impl Level {
    /// All, from small to large.
    pub(crate) const ALL: [Level; LEVELS] = [
        Level::Numa,
        Level::Node,
        Level::Nvlink,
        Level::Rack,
        Level::Block,
        Level::Zone,
    ];

    /// Its position in arrays.
    pub(crate) fn index(self) -> usize {
        match self {
            Level::Numa => 0,
            Level::Node => 1,
            Level::Nvlink => 2,
            Level::Rack => 3,
            Level::Block => 4,
            Level::Zone => 5,
        }
    }

    /// As people call it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Level::Numa => "NUMA node",
            Level::Node => "node",
            Level::Nvlink => "NVLink group",
            Level::Rack => "rack",
            Level::Block => "block",
            Level::Zone => "zone",
        }
    }
}

/// An area.
#[derive(Clone, Debug)]
struct Area {
    level: Level,
    /// Its name behind those of the areas around it. Ordinals depend on what was heard of first: areas are ordered by this.
    path: Arc<str>,
    /// Its name.
    name: Arc<str>,
    /// Itself and the areas around it.
    within: InAreas,
    /// Nodes in it.
    nodes: u32,
}

/// All areas that some node is in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Areas {
    // Looked up, never iterated.
    areas: HashMap<AreaOrd, Area>,
    by_path: [BTreeMap<Arc<str>, AreaOrd>; LEVELS],
    /// Ordinals handed out so far; none is used twice.
    count: usize,
}

impl Areas {
    /// The areas of a node, which is counted in each.
    pub(crate) fn enter(&mut self, node: &str, location: &Location) -> InAreas {
        let named = |name: &Option<String>| name.clone().filter(|n| !n.is_empty());
        let levels = [
            (Level::Zone, named(&location.zone)),
            (Level::Block, named(&location.block)),
            (Level::Rack, named(&location.rack)),
            (Level::Nvlink, named(&location.nvlink)),
        ];
        let (mut path, mut within) = (String::new(), InAreas::default());
        for (level, name) in levels {
            if let Some(name) = &name {
                let path: Arc<str> = format!("{path}{name}").into();
                self.enter_one(level, path, name, &mut within);
            }
            // No label holds this byte.
            path.push_str(name.as_deref().unwrap_or_default());
            path.push('\0');
        }
        self.enter_one(Level::Node, node.into(), node, &mut within);
        within
    }

    /// The areas of a node's cells, each of which is in those that the node is in.
    pub(crate) fn enter_parts(&mut self, node: &NodeSlot) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        // NVLink groups first: a NUMA node whose devices are all in one is in it.
        let mut cells = node.cells();
        cells.sort_by_key(|cell| std::cmp::Reverse(cell.level()));
        for cell in cells {
            let mut within = node.areas;
            if let Cell::Numa(id) = cell
                && let Some(group) = node.group_of_numa(id)
                && let Some(part) = parts.iter().find(|part| part.cell == group)
                && let Some(slot) = within.get_mut(Level::Nvlink.index())
            {
                *slot = Some(part.area);
            }
            // In the order of numbers: these have five digits at most.
            let path = format!("{}\0{:05}", node.name, cell.id());
            let name = format!("{} of node {}", cell.id(), node.name);
            self.enter_one(cell.level(), path.into(), &name, &mut within);
            if let Some(area) = within.get(cell.level().index()).copied().flatten() {
                parts.push(Part { cell, area });
            }
        }
        parts.sort_by_key(|part| part.cell);
        parts
    }

    /// Takes a node out of the areas of its cells.
    pub(crate) fn leave_parts(&mut self, left: &[Part]) {
        for part in left {
            self.leave_one(part.area);
        }
    }

    fn enter_one(&mut self, level: Level, path: Arc<str>, name: &str, within: &mut InAreas) {
        let Some(known) = self.by_path.get_mut(level.index()) else {
            return;
        };
        let ord = *known.entry(path.clone()).or_insert_with(|| {
            self.count += 1;
            AreaOrd::new(self.count)
        });
        if let Some(slot) = within.get_mut(level.index()) {
            *slot = Some(ord);
        }
        let area = self.areas.entry(ord).or_insert_with(|| Area {
            level,
            path,
            name: name.into(),
            within: *within,
            nodes: 0,
        });
        // A node that moves is in its new area before it leaves the old one.
        area.within = *within;
        area.nodes += 1;
    }

    /// Takes a node out of its areas.
    pub(crate) fn leave(&mut self, left: &InAreas) {
        left.iter().flatten().for_each(|ord| self.leave_one(*ord));
    }

    fn leave_one(&mut self, ord: AreaOrd) {
        let Some(area) = self.areas.get_mut(&ord) else { return };
        area.nodes -= 1;
        if area.nodes == 0
            && let Some(area) = self.areas.remove(&ord)
            && let Some(by_path) = self.by_path.get_mut(area.level.index())
        {
            by_path.remove(&area.path);
        }
    }

    /// The areas of a level, in their order.
    pub(crate) fn of_level(&self, level: Level) -> impl Iterator<Item = AreaOrd> + '_ {
        self.by_path
            .get(level.index())
            .into_iter()
            .flat_map(|a| a.values().copied())
    }

    /// How many areas of a level there are.
    pub(crate) fn count(&self, level: Level) -> usize {
        self.by_path.get(level.index()).map_or(0, BTreeMap::len)
    }

    /// How many nodes are in an area.
    pub(crate) fn nodes(&self, ord: AreaOrd) -> u32 {
        self.areas.get(&ord).map_or(0, |a| a.nodes)
    }

    /// The level of an area.
    pub(crate) fn level(&self, ord: AreaOrd) -> Option<Level> {
        self.areas.get(&ord).map(|a| a.level)
    }

    /// The name of an area behind those of the areas around it: what areas are ordered by.
    pub(crate) fn path(&self, ord: AreaOrd) -> Arc<str> {
        self.areas.get(&ord).map_or_else(|| "".into(), |a| a.path.clone())
    }

    /// The name of an area.
    pub(crate) fn name(&self, ord: AreaOrd) -> &str {
        self.areas.get(&ord).map_or("", |a| &a.name)
    }

    /// The area of a level that an area is, or is in.
    pub(crate) fn around(&self, ord: AreaOrd, level: Level) -> Option<AreaOrd> {
        self.areas.get(&ord)?.within.get(level.index()).copied().flatten()
    }

    /// True if an area is another one or a part of it; every area is part of the whole.
    pub(crate) fn is_in(&self, ord: AreaOrd, whole: Option<AreaOrd>) -> bool {
        whole.is_none_or(|whole| ord == whole || self.areas.get(&ord).is_some_and(|a| a.within.contains(&Some(whole))))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn at(zone: &str, block: &str, rack: &str) -> Location {
        let some = |name: &str| Some(name.to_owned());
        Location {
            zone: some(zone),
            block: some(block),
            rack: some(rack),
            nvlink: None,
        }
    }

    #[test]
    fn equal_names_in_two_zones_are_two_racks() {
        let mut areas = Areas::default();
        let a = areas.enter("a", &at("z1", "b", "r"));
        let b = areas.enter("b", &at("z2", "b", "r"));
        let c = areas.enter("c", &at("z2", "b", "r"));
        let of = |areas: InAreas, level: Level| areas[level.index()];
        assert_eq!(of(b, Level::Rack), of(c, Level::Rack));
        assert_ne!(of(a, Level::Rack), of(b, Level::Rack));
        assert_eq!(areas.of_level(Level::Rack).count(), 2);
        let rack = of(b, Level::Rack).unwrap();
        assert!(areas.is_in(rack, of(b, Level::Zone)) && !areas.is_in(rack, of(a, Level::Zone)));
        assert!(areas.is_in(rack, None));
    }

    #[test]
    fn an_area_goes_with_its_last_node_and_an_empty_name_is_none() {
        let mut areas = Areas::default();
        let a = areas.enter("a", &at("z", "", "r"));
        assert_eq!(a[Level::Block.index()], None);
        let moved = areas.enter("a", &at("z", "", "s"));
        areas.leave(&a);
        let names: Vec<&str> = areas.of_level(Level::Rack).map(|r| areas.name(r)).collect();
        assert_eq!(names, ["s"]);
        let [node, rack] = [Level::Node, Level::Rack].map(|level| moved[level.index()]);
        assert!(node.is_some_and(|node| areas.is_in(node, rack)));
        areas.leave(&moved);
        assert!(Level::ALL.into_iter().all(|l| areas.of_level(l).next().is_none()) && areas.areas.is_empty());
    }
}
