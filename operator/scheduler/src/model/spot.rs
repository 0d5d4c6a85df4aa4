//! Where pods stand to each other: the areas that each shares with the others of its gang.

use std::collections::BTreeSet;

use crate::{
    event::{Level, Topology},
    model::{Model, NodeSlot, Place, Seat, areas::InAreas, cell::Cell},
    slab::{AreaOrd, ClaimOrd, PodOrd},
};

/// Where a pod stands that has a seat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    areas: InAreas,
    has_devices: bool,
}

impl Spot {
    /// True if it matters to the others of a gang in which area of a level it stands. Who has no device is in no NVLink
    /// group.
    fn counts_at(&self, level: Level) -> bool {
        self.has_devices || level != Level::Nvlink
    }
}

/// Where those stand who have a seat already.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spots(Vec<Spot>);

impl Spots {
    /// Takes in those of another one.
    pub(crate) fn join(&mut self, other: &Spots) {
        self.0.extend_from_slice(&other.0);
    }

    /// True if it does not say which area of a level the others have to go to.
    pub(crate) fn is_free(&self, level: Level) -> bool {
        !self.0.iter().any(|spot| spot.counts_at(level))
    }

    /// The areas of a level that somebody stands in, or none.
    fn areas(&self, level: Level) -> impl Iterator<Item = Option<AreaOrd>> + '_ {
        let spots = self.0.iter().filter(move |spot| spot.counts_at(level));
        spots.map(move |spot| spot.areas.get(level.index()).copied().flatten())
    }

    /// The areas of a level that somebody stands in, each once.
    pub(crate) fn each(&self, level: Level) -> BTreeSet<AreaOrd> {
        self.areas(level).flatten().collect()
    }

    /// The area of a level that all stand in.
    pub(crate) fn shared(&self, level: Level) -> Option<AreaOrd> {
        let mut areas = self.areas(level);
        let first = areas.next()??;
        areas.all(|area| area == Some(first)).then_some(first)
    }
}

impl Model {
    /// Where those of some pods stand that have a seat, or have one kept, and stay.
    pub(crate) fn home_of(&self, pods: &[PodOrd]) -> Spots {
        let pods = pods.iter().map(|&p| &self.pods[p]);
        let stay = pods.filter(|p| p.is_live() || matches!(p.place, Place::Nominated(_)));
        let seats = stay.filter_map(|p| p.place.seat());
        Spots(seats.filter_map(|seat| self.spot(seat)).collect())
    }

    /// Where a pod with this seat stands.
    fn spot(&self, seat: &Seat) -> Option<Spot> {
        Some(self.nodes.find(seat.node)?.spot(seat))
    }

    /// True if some pods of a claim, together with those of theirs that have a seat or have one kept, stand to each other as
    /// they have to.
    pub(crate) fn keeps_its_topology(&self, claim: ClaimOrd, pods: &BTreeSet<PodOrd>) -> bool {
        let claim = &self.claims[claim];
        let bound = |topology: Option<Topology>, home: &Spots| {
            topology.is_none_or(|t| !t.required || home.is_free(t.pack) || home.shared(t.pack).is_some())
        };
        let mut all = Spots::default();
        for group in &claim.groups {
            let home = self.home_of(&group.members);
            if group.members.iter().any(|p| pods.contains(p)) && !bound(group.spec.topology, &home) {
                return false;
            }
            all.join(&home);
        }
        bound(claim.topology, &all)
    }
}

impl NodeSlot {
    /// The cell of a kind that all of some devices are in.
    pub(crate) fn cell_shared(&self, level: Level, devices: &[u16]) -> Option<Cell> {
        let cell = |device: &u16| {
            let device = self.devices.get(usize::from(*device))?;
            match level {
                Level::Numa => device.numa.map(Cell::Numa),
                Level::Nvlink => device.nvlink.map(Cell::Nvlink),
                _ => None,
            }
        };
        let first = cell(devices.first()?)?;
        devices.iter().all(|d| cell(d) == Some(first)).then_some(first)
    }

    /// Where a pod stands that sits here.
    fn spot(&self, seat: &Seat) -> Spot {
        let mut areas = self.areas;
        let mut note = |level: Level, cell: Option<Cell>| {
            if let (Some(slot), Some(area)) = (areas.get_mut(level.index()), cell.and_then(|c| self.area_of(c))) {
                slot.get_or_insert(area);
            }
        };
        let numa = seat.numa.map(Cell::Numa);
        note(
            Level::Numa,
            numa.or_else(|| self.cell_shared(Level::Numa, &seat.devices)),
        );
        note(Level::Nvlink, self.cell_shared(Level::Nvlink, &seat.devices));
        Spot {
            areas,
            has_devices: !seat.devices.is_empty(),
        }
    }
}
