//! Step 3, for gangs that stand close together: finds the area that holds them, and seats them in it.
//!
//! - The smallest level that holds all comes first, up to the one that is asked for, and of its areas the one with the least
//!   room that holds all: large ones stay free for large gangs. A rack is as small as it gets, unless a node is asked for.
//! - How many pods of a shape an area has room for is known from the shape index, so that an area which cannot hold a gang
//!   costs one look. Whether it holds pods of several shapes together is tried, and taken back if it does not.
//! - What runs of a gang already says where the rest goes.
//! - Where all in one area is only preferred: else the smallest area around that holds all, and in it (or anywhere) as few as
//!   can be, by filling the roomiest first and ending in the tightest.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Round,
    s3_place::{NoPlace, Seating, seat_all, seat_one},
    s4_backfill::Guard,
};
use crate::{
    decision::{Home, Reason},
    event::{Level, Topology},
    index::Look,
    model::{Model, Place},
    slab::{AreaOrd, ClaimOrd, NodeOrd, PodOrd},
    transaction::Transaction,
};

/// Pods that stand to each other as they shall, and parts of them that stand closer.
struct Unit {
    topology: Option<Topology>,
    pods: Vec<PodOrd>,
    /// Nodes of those that have a seat already.
    home: Vec<NodeOrd>,
    /// None: all alike.
    parts: Vec<Unit>,
}

/// Seats pods of a claim together as its topology asks, inside of an area if one is given.
pub(super) fn seat_gang(
    round: &mut Round<'_>,
    transaction: &mut Transaction,
    claim: ClaimOrd,
    pods: &[PodOrd],
    seating: Seating,
) -> Result<(), NoPlace> {
    match unit_of(round.model, claim, pods) {
        None => seat_all(round, transaction, pods, seating),
        Some(unit) => seat(round, transaction, &unit, seating),
    }
}

/// True if some pods of a claim want to stand close together.
pub(super) fn has_topology(model: &Model, claim: ClaimOrd) -> bool {
    let claim = &model.claims[claim];
    claim.topology.is_some() || claim.groups.iter().any(|g| g.spec.topology.is_some())
}

/// True if some pods of a claim wait until an area has room for all of them.
pub(super) fn is_bound_to_areas(model: &Model, claim: ClaimOrd) -> bool {
    let claim = &model.claims[claim];
    let groups = claim.groups.iter().map(|g| g.spec.topology);
    std::iter::once(claim.topology)
        .chain(groups)
        .flatten()
        .any(|t| t.required)
}

/// The areas of which one has to hold all of some pods, the roomiest first; `None` if no area has to.
pub(super) fn areas_of_all(round: &mut Round<'_>, claim: ClaimOrd, pods: &[PodOrd]) -> Option<Vec<AreaOrd>> {
    let mut unit = unit_of(round.model, claim, pods)?;
    if !unit.topology.is_some_and(|t| t.required) {
        if unit.parts.len() != 1 {
            return None;
        }
        unit = unit.parts.pop()?;
    }
    let level = unit.topology.filter(|t| t.required)?.pack;
    if !unit.home.is_empty() {
        return Some(round.model.areas_shared(&unit.home, level).into_iter().collect());
    }
    let needs = needs(round.model, &unit.pods);
    let areas: Vec<AreaOrd> = round.model.areas.of_level(level).collect();
    let mut areas: Vec<(u64, AreaOrd)> = areas.into_iter().map(|a| (held(round, &needs, a), a)).collect();
    // They come in their order, and a stable sort keeps it.
    areas.sort_by_key(|(held, _)| std::cmp::Reverse(*held));
    Some(areas.into_iter().map(|(_, area)| area).collect())
}

impl Model {
    /// The area of a level that all of some nodes are in.
    pub(crate) fn areas_shared(&self, nodes: &[NodeOrd], level: Level) -> Option<AreaOrd> {
        let area = |node: &NodeOrd| self.nodes.find(*node)?.areas.get(level.index()).copied().flatten();
        let first = area(nodes.first()?)?;
        nodes.iter().all(|node| area(node) == Some(first)).then_some(first)
    }

    /// True if some pods of a claim, together with those of theirs that have a seat or have one kept, stand to each other as
    /// they have to.
    pub(crate) fn keeps_its_topology(&self, claim: ClaimOrd, pods: &BTreeSet<PodOrd>) -> bool {
        let claim = &self.claims[claim];
        let bound = |topology: Option<Topology>, nodes: &[NodeOrd]| {
            topology.is_none_or(|t| !t.required || nodes.is_empty() || self.areas_shared(nodes, t.pack).is_some())
        };
        let mut all = Vec::new();
        for group in &claim.groups {
            let nodes = self.home_of(&group.members);
            if group.members.iter().any(|p| pods.contains(p)) && !bound(group.spec.topology, &nodes) {
                return false;
            }
            all.extend(nodes);
        }
        bound(claim.topology, &all)
    }

    /// Nodes of those pods that have a seat, or have one kept, and stay.
    fn home_of(&self, pods: &[PodOrd]) -> Vec<NodeOrd> {
        let pods = pods.iter().map(|&p| &self.pods[p]);
        let stay = pods.filter(|p| p.is_live() || matches!(p.place, Place::Nominated(_)));
        stay.filter_map(|p| Some(p.place.seat()?.node)).collect()
    }
}

/// The pods as their claim and groups want them to stand; `None` if anyhow.
fn unit_of(model: &Model, claim: ClaimOrd, pods: &[PodOrd]) -> Option<Unit> {
    if !has_topology(model, claim) {
        return None;
    }
    let claim = &model.claims[claim];
    let (mut parts, mut home) = (Vec::new(), Vec::new());
    let mut rest = Unit {
        topology: None,
        pods: Vec::new(),
        home: Vec::new(),
        parts: Vec::new(),
    };
    for group in &claim.groups {
        let here = model.home_of(&group.members);
        home.extend_from_slice(&here);
        let mine = pods
            .iter()
            .copied()
            .filter(|&p| *model.pods[p].group == *group.spec.name);
        if group.spec.topology.is_none() {
            rest.pods.extend(mine);
            continue;
        }
        let part = Unit {
            topology: group.spec.topology,
            pods: mine.collect(),
            home: here,
            parts: Vec::new(),
        };
        if !part.pods.is_empty() {
            parts.push(part);
        }
    }
    // Those that are hardest to place go first; equal ones stay in the order of groups.
    parts.sort_by_key(|part| {
        let required = part.topology.is_some_and(|t| t.required);
        (!required, std::cmp::Reverse(part.pods.len()))
    });
    if !parts.is_empty() && !rest.pods.is_empty() {
        parts.push(rest);
    }
    Some(Unit {
        topology: claim.topology,
        pods: pods.to_vec(),
        home,
        parts,
    })
}

/// Seats a unit as it shall stand.
fn seat(round: &mut Round<'_>, transaction: &mut Transaction, unit: &Unit, seating: Seating) -> Result<(), NoPlace> {
    let Some(topology) = unit.topology else {
        return fill(round, transaction, unit, seating);
    };
    let needs = needs(round.model, &unit.pods);
    let Some(look) = needs.first().map(|need| need.look) else {
        return Ok(());
    };
    if let Some(around) = seating.within
        && round
            .model
            .areas
            .level(around)
            .is_some_and(|level| level <= topology.pack)
    {
        let held = held(round, &needs, around);
        let is_one = !topology.required || round.model.areas.has(around, topology.pack);
        if held < total(&needs) || !is_one {
            return Err(NoPlace::of_area(look, &needs, held));
        }
        return fill(round, transaction, unit, seating);
    }
    let smallest = topology.pack.min(Level::Rack);
    // What was tried at the level that is asked for, and how many pods found a place there.
    let mut tried: BTreeMap<AreaOrd, NoPlace> = BTreeMap::new();
    for level in Level::ALL
        .into_iter()
        .filter(|l| (smallest..=topology.pack).contains(l))
    {
        for area in candidates(round, unit, &needs, level, seating.within) {
            // A rack in no zone does not stand for a zone.
            if !round.model.areas.has(area, topology.pack) {
                continue;
            }
            match tried_in(round, transaction, |round, trial| {
                fill(round, trial, unit, seating.inside(area))
            }) {
                Ok(()) => return Ok(()),
                Err(no_place) => {
                    if level == topology.pack {
                        tried.insert(area, no_place);
                    }
                }
            }
        }
    }
    if topology.required {
        return Err(too_small(
            round,
            unit,
            &needs,
            topology.pack,
            look,
            seating.within,
            tried,
        ));
    }
    for level in Level::ALL.into_iter().filter(|l| *l > topology.pack) {
        for area in candidates(round, unit, &needs, level, seating.within) {
            let inside = seating.inside(area);
            if tried_in(round, transaction, |round, trial| {
                spread(round, trial, unit, topology.pack, inside)
            })
            .is_ok()
            {
                return Ok(());
            }
        }
    }
    spread(round, transaction, unit, topology.pack, seating)
}

/// Seats something, or leaves everything as it was.
fn tried_in(
    round: &mut Round<'_>,
    transaction: &mut Transaction,
    seat: impl FnOnce(&mut Round<'_>, &mut Transaction) -> Result<(), NoPlace>,
) -> Result<(), NoPlace> {
    let mark = transaction.mark();
    let guarded = round.guard.as_ref().map(Guard::mark);
    let seated = seat(round, transaction);
    if seated.is_err() {
        transaction.rollback_to(round.model, mark);
        if let (Some(guard), Some(mark)) = (&mut round.guard, guarded) {
            guard.back_to(mark);
        }
    }
    seated
}

/// Seats all of a unit in one area, its parts closer together.
fn fill(round: &mut Round<'_>, transaction: &mut Transaction, unit: &Unit, seating: Seating) -> Result<(), NoPlace> {
    if unit.parts.is_empty() {
        return seat_all(round, transaction, &unit.pods, seating);
    }
    let mut before = 0;
    for part in &unit.parts {
        seat(round, transaction, part, seating).map_err(|no_place| no_place.after(before, unit.pods.len()))?;
        before += part.pods.len();
    }
    Ok(())
}

/// Seats all of a unit in few areas.
fn spread(
    round: &mut Round<'_>,
    transaction: &mut Transaction,
    unit: &Unit,
    level: Level,
    seating: Seating,
) -> Result<(), NoPlace> {
    let homes: BTreeSet<NodeOrd> = unit.home.iter().copied().collect();
    let homes = homes
        .iter()
        .filter_map(|n| round.model.nodes.find(*n)?.areas.get(level.index()).copied()?);
    let mut homes: Vec<AreaOrd> = homes.collect::<BTreeSet<_>>().into_iter().collect();
    homes.sort_by_key(|area| round.model.areas.path(*area));
    let mut before = 0;
    let whole = [&unit.pods];
    let parts: Vec<(Option<&Unit>, &Vec<PodOrd>)> = match unit.parts.as_slice() {
        [] => whole.iter().map(|pods| (None, *pods)).collect(),
        parts => parts.iter().map(|p| (Some(p), &p.pods)).collect(),
    };
    for (part, pods) in parts {
        let seated = match part {
            Some(part) if part.topology.is_some() => seat(round, transaction, part, seating),
            _ => into_few(round, transaction, pods, &homes, level, seating),
        };
        seated.map_err(|no_place| no_place.after(before, unit.pods.len()))?;
        before += pods.len();
    }
    Ok(())
}

/// Seats pods in as few areas as can be: where others of theirs are, then in the tightest that holds the rest, or in the
/// roomiest. What is in no area at all comes last.
fn into_few(
    round: &mut Round<'_>,
    transaction: &mut Transaction,
    pods: &[PodOrd],
    homes: &[AreaOrd],
    level: Level,
    seating: Seating,
) -> Result<(), NoPlace> {
    let mut full: BTreeSet<AreaOrd> = BTreeSet::new();
    let mut area = next_area(round, pods, homes, &full, level, seating);
    for (placed, &pod) in pods.iter().enumerate() {
        while !seat_one(
            round,
            transaction,
            pod,
            area.map_or(seating, |area| seating.inside(area)),
        ) {
            let Some(filled) = area else {
                return Err(NoPlace::of(round.model, pod, placed, pods.len()));
            };
            full.insert(filled);
            let rest = pods.get(placed..).unwrap_or_default();
            area = next_area(round, rest, homes, &full, level, seating);
        }
    }
    Ok(())
}

fn next_area(
    round: &mut Round<'_>,
    rest: &[PodOrd],
    homes: &[AreaOrd],
    full: &BTreeSet<AreaOrd>,
    level: Level,
    seating: Seating,
) -> Option<AreaOrd> {
    let first = round.model.look(*rest.first()?);
    let shape_of = |p: &PodOrd| round.model.pods[*p].shape;
    let pods = rest.iter().filter(|p| shape_of(p) == first.shape).count();
    let model = &*round.model;
    let open = |area: &AreaOrd| !full.contains(area) && model.areas.is_in(*area, seating.within);
    if let Some(home) = homes.iter().find(|area| open(area)) {
        return Some(*home);
    }
    let rooms = round.index.by_area(model, round.policy, first, level)?;
    rooms
        .tightest(u64::try_from(pods).unwrap_or(u64::MAX))
        .find(open)
        .or_else(|| rooms.roomiest().find(open))
}

/// Pods that look alike.
struct Need {
    look: Look,
    pods: u64,
    /// What room there is for them is known. It is not where they let each other in: it is tried then.
    counted: bool,
}

/// Pods by their looks, those that are counted first, then most first.
fn needs(model: &mut Model, pods: &[PodOrd]) -> Vec<Need> {
    let mut needs: Vec<Need> = Vec::new();
    for &pod in pods {
        let look = model.look(pod);
        match needs.iter_mut().find(|need| need.look == look) {
            Some(need) => need.pods += 1,
            None => needs.push(Need {
                look,
                pods: 1,
                counted: !model.waits_for_others(pod),
            }),
        }
    }
    // Equal ones stay in the order of the pods.
    needs.sort_by_key(|need| (!need.counted, std::cmp::Reverse(need.pods)));
    needs
}

fn total(needs: &[Need]) -> u64 {
    needs.iter().map(|need| need.pods).sum()
}

impl NoPlace {
    /// Of pods that look like this one and others, an area has room for so many.
    fn of_area(look: Look, needs: &[Need], held: u64) -> NoPlace {
        NoPlace {
            look,
            placed: u32::try_from(held).unwrap_or(u32::MAX),
            need: u32::try_from(total(needs)).unwrap_or(u32::MAX),
            topology: None,
        }
    }
}

/// Of some pods, as many as an area has room for if each look had it for itself.
fn held(round: &mut Round<'_>, needs: &[Need], area: AreaOrd) -> u64 {
    let mut held = 0;
    for need in needs {
        held += if need.counted {
            need.pods
                .min(round.index.room(round.model, round.policy, need.look, area))
        } else {
            need.pods
        };
    }
    held
}

/// Areas of a level that may hold all of a unit: the one where the rest of it is, or the tightest first.
fn candidates(
    round: &mut Round<'_>,
    unit: &Unit,
    needs: &[Need],
    level: Level,
    within: Option<AreaOrd>,
) -> Vec<AreaOrd> {
    let all = total(needs);
    let areas: Vec<AreaOrd> = if unit.home.is_empty() {
        let model = &*round.model;
        match needs.first().filter(|need| need.counted) {
            Some(need) => {
                let rooms = round.index.by_area(model, round.policy, need.look, level);
                let tightest = rooms.into_iter().flat_map(|rooms| rooms.tightest(need.pods));
                tightest.filter(|area| model.areas.is_in(*area, within)).collect()
            }
            None => {
                let all = model.areas.of_level(level);
                all.filter(|area| model.areas.is_in(*area, within)).collect()
            }
        }
    } else {
        let home = round.model.areas_shared(&unit.home, level);
        home.into_iter()
            .filter(|area| round.model.areas.is_in(*area, within))
            .collect()
    };
    areas
        .into_iter()
        .filter(|area| held(round, needs, *area) == all)
        .collect()
}

/// What is said of a unit that no area holds.
fn too_small(
    round: &mut Round<'_>,
    unit: &Unit,
    needs: &[Need],
    level: Level,
    look: Look,
    within: Option<AreaOrd>,
    tried: BTreeMap<AreaOrd, NoPlace>,
) -> NoPlace {
    let home = match round.model.areas_shared(&unit.home, level) {
        Some(area) => Home::In(round.model.areas.name(area).to_owned()),
        None if unit.home.is_empty() => Home::Free,
        None => Home::Apart,
    };
    let areas: Vec<AreaOrd> = match &home {
        Home::Free => round.model.areas.of_level(level).collect(),
        Home::In(_) => round.model.areas_shared(&unit.home, level).into_iter().collect(),
        Home::Apart => Vec::new(),
    };
    let areas: Vec<AreaOrd> = areas
        .into_iter()
        .filter(|a| round.model.areas.is_in(*a, within))
        .collect();
    let count = areas.len();
    let mut best: Option<(u64, AreaOrd)> = None;
    for area in areas {
        let held = match tried.get(&area) {
            Some(no_place) => u64::from(no_place.placed),
            None => held(round, needs, area),
        };
        // The first in order of those that hold most.
        if best.is_none_or(|(most, _)| held > most) {
            best = Some((held, area));
        }
    }
    let need = total(needs);
    let placed = best.map_or(0, |(held, _)| held);
    let nowhere = |need: &&Need| need.counted && round.index.best(round.model, round.policy, need.look).is_none();
    // It would not fit without a topology either: then the nodes say why.
    if let Some(need) = needs.iter().find(nowhere) {
        return NoPlace::of_area(need.look, needs, 0);
    }
    let mut no_place = NoPlace::of_area(look, needs, placed);
    // All would fit somewhere, but not as close as some of its groups shall stand.
    if let Some(inner) = best
        .and_then(|(_, area)| tried.get(&area))
        .and_then(|tried| tried.topology.clone())
    {
        no_place.topology = Some(inner);
        return no_place;
    }
    let gpus = gpus_of_each(round.model, needs);
    no_place.topology = Some(Box::new(Reason::TopologyTooSmall {
        level,
        unit: if gpus.is_some() { "GPUs" } else { "pods" }.into(),
        need: need * gpus.unwrap_or(1),
        best: placed * gpus.unwrap_or(1),
        area: best.map(|(_, area)| round.model.areas.name(area).to_owned()),
        areas: u32::try_from(count).unwrap_or(u32::MAX),
        home,
    }));
    no_place
}

/// Whole devices that each of the pods asks for, if all ask for as many.
fn gpus_of_each(model: &Model, needs: &[Need]) -> Option<u64> {
    let of = |need: &Need| {
        let gpus = model.shapes.value(need.look.shape).gpus.as_ref();
        Some(u64::from(gpus.filter(|gpus| gpus.whole())?.count))
    };
    let first = of(needs.first()?)?;
    needs.iter().all(|need| of(need) == Some(first)).then_some(first)
}
