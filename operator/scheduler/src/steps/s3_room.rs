//! Step 3: which areas have room for pods that stand together, by what the shape index knows of each.

use super::{
    Round,
    s3_unit::{Unit, unit_of},
};
use crate::{
    event::Level,
    index::Look,
    model::Model,
    slab::{AreaOrd, ClaimOrd, PodOrd},
};

/// Pods that look alike.
pub(super) struct Need {
    pub(super) look: Look,
    pub(super) pods: u64,
    /// What room there is for them is known. It is not where they let each other in: it is tried then.
    pub(super) counted: bool,
}

/// Pods by their looks, those that are counted first, then most first.
pub(super) fn needs(model: &mut Model, pods: &[PodOrd]) -> Vec<Need> {
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

pub(super) fn total(needs: &[Need]) -> u64 {
    needs.iter().map(|need| need.pods).sum()
}

/// Of some pods, as many as an area has room for if each look had it for itself.
pub(super) fn held(round: &mut Round<'_>, needs: &[Need], area: AreaOrd) -> u64 {
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
pub(super) fn candidates(
    round: &mut Round<'_>,
    unit: &Unit,
    needs: &[Need],
    level: Level,
    within: Option<AreaOrd>,
) -> Vec<AreaOrd> {
    let all = total(needs);
    let areas: Vec<AreaOrd> = if unit.home.is_free(level) {
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
        let home = unit.home.shared(level);
        home.into_iter()
            .filter(|area| round.model.areas.is_in(*area, within))
            .collect()
    };
    areas
        .into_iter()
        .filter(|area| held(round, needs, *area) == all)
        .collect()
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
    if !unit.home.is_free(level) {
        return Some(unit.home.shared(level).into_iter().collect());
    }
    let needs = needs(round.model, &unit.pods);
    let areas: Vec<AreaOrd> = round.model.areas.of_level(level).collect();
    let mut areas: Vec<(u64, AreaOrd)> = areas.into_iter().map(|a| (held(round, &needs, a), a)).collect();
    // They come in their order, and a stable sort keeps it.
    areas.sort_by_key(|(held, _)| std::cmp::Reverse(*held));
    Some(areas.into_iter().map(|(_, area)| area).collect())
}
