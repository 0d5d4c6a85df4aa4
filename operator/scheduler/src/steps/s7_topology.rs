//! Step 7, for gangs that stand close together: says how much the area with the most room for one lacks, and what would
//! change that.

use std::collections::BTreeMap;

use super::{
    Round,
    s3_place::NoPlace,
    s3_room::{Need, held, total},
    s3_unit::Unit,
};
use crate::{
    decision::{Home, Reason},
    event::Level,
    index::{Look, Sought},
    model::{GpuNeed, Model},
    reason,
    slab::AreaOrd,
};

/// What is said of a unit that no area of a level holds, of which one pod looks like this.
pub(super) fn too_small(
    round: &mut Round<'_>,
    unit: &Unit,
    needs: &[Need],
    look: Look,
    level: Level,
    within: Option<AreaOrd>,
    tried: &BTreeMap<AreaOrd, NoPlace>,
) -> NoPlace {
    let home = match unit.home.shared(level) {
        Some(area) => Home::In(round.model.areas.name(area).to_owned()),
        None if unit.home.is_free(level) => Home::Free,
        None => Home::Apart,
    };
    let (best, count) = match (&home, needs) {
        (Home::Free, [need]) if need.counted && within.is_none() && tried.is_empty() => roomiest(round, need, level),
        _ => {
            let areas: Vec<AreaOrd> = match &home {
                Home::Free => round.model.areas.of_level(level).collect(),
                Home::In(_) => unit.home.shared(level).into_iter().collect(),
                Home::Apart => Vec::new(),
            };
            most(round, needs, &areas, within, tried)
        }
    };
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
    let lack = match home {
        Home::Free => lack_in_cells(round, needs, level, within, placed),
        _ => None,
    };
    let (unit, need, best, area) = lack.unwrap_or_else(|| {
        let gpus = gpus_of_each(round.model, needs);
        let (unit, each) = gpus.map_or(("pods", 1), |gpus| ("GPUs", gpus));
        (
            unit.into(),
            total(needs) * each,
            placed * each,
            best.map(|(_, area)| area),
        )
    });
    no_place.topology = Some(Box::new(Reason::TopologyTooSmall {
        level,
        unit,
        need,
        best,
        area: area.map(|area| round.model.areas.name(area).to_owned()),
        areas: u32::try_from(count).unwrap_or(u32::MAX),
        home,
    }));
    no_place
}

/// Of all areas of a level the one with the most room for pods that look alike, and how many areas there are.
fn roomiest(round: &mut Round<'_>, need: &Need, level: Level) -> (Option<(u64, AreaOrd)>, usize) {
    let model = &*round.model;
    let rooms = round.index.by_area(model, round.policy, need.look, level);
    let most = rooms.and_then(|rooms| rooms.most());
    let most = most.map(|(room, area)| (room.min(need.pods), area));
    let none = || model.areas.of_level(level).next().map(|area| (0, area));
    (most.or_else(none), model.areas.count(level))
}

/// Of some areas the one that holds most, the first of several, and how many of them are to be chosen from.
fn most(
    round: &mut Round<'_>,
    needs: &[Need],
    areas: &[AreaOrd],
    within: Option<AreaOrd>,
    tried: &BTreeMap<AreaOrd, NoPlace>,
) -> (Option<(u64, AreaOrd)>, usize) {
    let mut best: Option<(u64, AreaOrd)> = None;
    let mut count = 0;
    for &area in areas {
        if !round.model.areas.is_in(area, within) {
            continue;
        }
        count += 1;
        let held = match tried.get(&area) {
            Some(no_place) => u64::from(no_place.placed),
            None => held(round, needs, area),
        };
        if best.is_none_or(|(most, _)| held > most) {
            best = Some((held, area));
        }
    }
    (best, count)
}

/// What a gang lacks in the cells of nodes, of GPUs or another resource: its unit, how much it needs, how much the best cell
/// has, and which that is. `None` if some cell has enough of each, or if areas of several nodes hold more.
fn lack_in_cells(
    round: &mut Round<'_>,
    needs: &[Need],
    level: Level,
    within: Option<AreaOrd>,
    placed: u64,
) -> Option<(String, u64, u64, Option<AreaOrd>)> {
    let model = &*round.model;
    let first = needs.first()?;
    let shape = model.shapes.value(first.look.shape);
    let sum = |of: &dyn Fn(Look) -> u64| needs.iter().map(|need| need.pods * of(need.look)).sum::<u64>();
    let devices = |look: Look| {
        let gpus = model.shapes.value(look.shape).gpus.as_ref();
        gpus.filter(|gpus| gpus.whole()).map_or(0, |gpus| u64::from(gpus.count))
    };
    let mut lacks = Vec::new();
    if shape.gpus.as_ref().is_some_and(GpuNeed::whole) {
        lacks.push(("GPUs".to_owned(), Sought::Devices, sum(&devices)));
    }
    let requests = shape.requests.iter().filter(|_| level == Level::Numa);
    for &(resource, _) in requests.filter(|(r, _)| model.is_part_of_numa(*r)) {
        let asked = |look: Look| {
            let requests = &model.shapes.value(look.shape).requests;
            let asked = requests.iter().find(|(r, _)| *r == resource);
            asked.map_or(0, |(_, amount)| u64::try_from(amount.get()).unwrap_or(0))
        };
        lacks.push((
            model.resources.name(resource).to_owned(),
            Sought::Resource(resource),
            sum(&asked),
        ));
    }
    for (unit, sought, need) in lacks {
        let Some((free, area)) = round.index.most_free(model, first.look.shape, level, within, sought) else {
            continue;
        };
        let best = if sought == Sought::Devices {
            free.max(placed * devices(first.look))
        } else {
            free
        };
        if best < need {
            return Some((unit, need, best, Some(area)));
        }
    }
    None
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

impl NoPlace {
    /// Of pods that look like this one and others, an area has room for so many.
    pub(super) fn of_area(look: Look, needs: &[Need], held: u64) -> NoPlace {
        NoPlace {
            look,
            placed: u32::try_from(held).unwrap_or(u32::MAX),
            need: u32::try_from(total(needs)).unwrap_or(u32::MAX),
            topology: None,
        }
    }
}

/// What would change a refusal because no area is large enough.
pub(super) fn counterfactual(reason: &Reason) -> Option<String> {
    let Reason::TopologyTooSmall {
        level,
        unit,
        need,
        best,
        area,
        home,
        ..
    } = reason
    else {
        return None;
    };
    let word = level.word();
    let more = need.saturating_sub(*best);
    let change = match (home, area) {
        (Home::Apart, _) => format!("it could grow again if all of its pods were started anew in one {word}"),
        (_, Some(area)) if unit == "pods" => {
            format!("it would fit if {word} {area} had room for {more} more of its pods")
        }
        (_, Some(area)) if unit == "GPUs" => format!("it would fit if {more} more GPUs were free in {word} {area}"),
        (_, Some(area)) => {
            let more = reason::amount(unit, i64::try_from(more).unwrap_or(i64::MAX));
            format!("it would fit if {more} more were free in {word} {area}")
        }
        (_, None) if matches!(level, Level::Numa | Level::Nvlink) => {
            format!("it would be tried when the agents of nodes report their {word}s")
        }
        (_, None) => format!("it would be tried when nodes are labelled with their {word}"),
    };
    Some(change)
}
