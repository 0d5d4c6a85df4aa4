//! Step 3, for gangs that stand close together: finds the area that holds them, and seats them in it.
//!
//! - The smallest level that holds all comes first, up to the one that is asked for, and of its areas the one with the least
//!   room that holds all: large ones stay free for large gangs. A rack is as small as it gets, unless less is asked for.
//! - How many pods of a shape an area has room for is known from the shape index, so that an area which cannot hold a gang
//!   costs one look. Whether it holds pods of several shapes together is tried, and taken back if it does not.
//! - What runs of a gang already says where the rest goes.
//! - Where all in one area is only preferred: else the smallest area around that holds all, and in it (or anywhere) as few as
//!   can be, by filling the roomiest first and ending in the tightest.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Round,
    s3_place::{NoPlace, Seating, seat_all, seat_one},
    s3_room::{candidates, held, needs, total},
    s3_unit::{Unit, unit_of},
    s4_backfill::Guard,
    s7_topology::too_small,
};
use crate::{
    event::Level,
    slab::{AreaOrd, ClaimOrd, PodOrd},
    transaction::Transaction,
};

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

/// Seats a unit as it shall stand.
fn seat(round: &mut Round<'_>, transaction: &mut Transaction, unit: &Unit, seating: Seating) -> Result<(), NoPlace> {
    let Some(topology) = unit.topology else {
        return fill(round, transaction, unit, seating);
    };
    let needs = needs(round.model, &unit.pods);
    let Some(look) = needs.first().map(|need| need.look) else {
        return Ok(());
    };
    if let Some(around) = seating.within {
        let areas = &round.model.areas;
        let one = areas.around(around, topology.pack);
        if one.is_some() || areas.level(around).is_some_and(|level| level <= topology.pack) {
            // Where its others stand the larger unit may not have asked, if that is no matter to it.
            let is_home = one.is_some() && (unit.home.is_free(topology.pack) || unit.home.shared(topology.pack) == one);
            let held = held(round, &needs, around);
            if held < total(&needs) || (topology.required && !is_home) {
                return Err(NoPlace::of_area(look, &needs, held));
            }
            return fill(round, transaction, unit, seating);
        }
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
            if round.model.areas.around(area, topology.pack).is_none() {
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
            look,
            topology.pack,
            seating.within,
            &tried,
        ));
    }
    for level in around(topology.pack) {
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

/// The levels whose areas are tried where no area of some level holds all, the closest first. NVLink groups are parts of
/// nodes, unless nodes are parts of them.
fn around(pack: Level) -> impl Iterator<Item = Level> {
    let node = (pack == Level::Nvlink).then_some(Level::Node);
    node.into_iter()
        .chain(Level::ALL.into_iter().filter(move |l| *l > pack))
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
    let mut homes: Vec<AreaOrd> = unit.home.each(level).into_iter().collect();
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
