//! Step 5, where to look: in the areas one of which a gang has to share, one after the other; for one pod, on the nodes. Of
//! those that help it is the one where the least is lost.
//!
//! A search that is not over when the work of a cycle is, goes on in the next one with the areas that are left.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Round,
    candidates::{self, Candidate},
    s3_room, s3_unit,
    s5_attempt::{Asker, Found, Price, Way, attempt},
};
use crate::{
    decision::Reason,
    event::Level,
    model::{Model, Stage},
    slab::{AreaOrd, ClaimOrd},
};

/// Nodes on which it is tried at most whether fewer, or cheaper, have to go for a pod than those that were found.
const NODES: usize = 16;

/// Pods that a cycle takes off the model at most for such comparisons: some 2 ms of work.
pub(super) const COMPARED: u32 = 1024;

/// Finds the seats of a claim and whom to evict for it among some candidates. The transaction is open on success, and nothing
/// has changed otherwise. Whether the search is over: see [`is_unfinished`].
pub(super) fn search(round: &mut Round<'_>, asker: Asker<'_>, stage: Stage, from: &[Candidate]) -> Option<Found> {
    let earlier = round.goes_on.as_ref().is_some_and(|(at, _)| stage < *at);
    if from.is_empty() || earlier || is_unfinished(round.model, asker.claim) {
        return None;
    }
    let goes_on = round.goes_on.take().filter(|(at, _)| *at == stage);
    let searched = goes_on.and_then(|(_, areas)| areas);
    if round.trials_left == 0 {
        round.model.searched.insert(asker.claim, (stage, searched));
        return None;
    }
    if s3_unit::is_bound_to_areas(round.model, asker.claim)
        && let Some(areas) = s3_room::areas_of_all(round, asker.claim, asker.pods)
    {
        let search = (stage, searched.unwrap_or_default());
        return one_after_the_other(round, asker, search, from, areas, true);
    }
    let alone = asker.pods.len() == 1;
    if !alone || searched.is_none() {
        let whole_budget = round.trials_left == round.trials;
        if let Some(found) = attempt(round, asker, from, Way::default()) {
            return cheaper(round, asker, from, found);
        }
        if round.trials_left == 0 && !whole_budget {
            round.model.searched.insert(asker.claim, (stage, None));
            return None;
        }
    }
    if !alone {
        return None;
    }
    // Going by the order alone took those first that sit on many nodes, until their queue was within its guarantee. Those
    // on one node may be enough.
    let nodes = nodes_of(round.model, from, usize::MAX);
    let search = (stage, searched.unwrap_or_default());
    one_after_the_other(round, asker, search, from, nodes, false)
}

/// True if the search for a claim goes on in the next cycle.
pub(super) fn is_unfinished(model: &Model, claim: ClaimOrd) -> bool {
    model.searched.contains_key(&claim)
}

/// The nodes, as areas, on which some candidates sit, in the order of these.
fn nodes_of(model: &Model, from: &[Candidate], limit: usize) -> Vec<AreaOrd> {
    let (mut nodes, mut seen) = (Vec::new(), BTreeSet::new());
    for candidate in from {
        let seats = model
            .members(candidate.claim)
            .filter_map(|p| model.pods[p].place.seat());
        // In node order.
        let here: BTreeMap<u64, AreaOrd> = seats
            .filter_map(|seat| {
                let node = &model.nodes[seat.node];
                Some((node.rank, node.areas.get(Level::Node.index()).copied().flatten()?))
            })
            .collect();
        for area in here.into_values().filter(|area| seen.insert(*area)) {
            if nodes.len() == limit {
                return nodes;
            }
            nodes.push(area);
        }
    }
    nodes
}

/// The cheapest of some areas. If the work of this cycle ends before all were looked at, and none was found, it goes on in
/// the next.
fn one_after_the_other(
    round: &mut Round<'_>,
    asker: Asker<'_>,
    (stage, mut searched): (Stage, BTreeSet<AreaOrd>),
    from: &[Candidate],
    areas: Vec<AreaOrd>,
    within: bool,
) -> Option<Found> {
    let mut best: Option<(Price, Way)> = None;
    let left: Vec<AreaOrd> = areas.iter().filter(|area| !searched.contains(area)).copied().collect();
    for area in left {
        if round.trials_left == 0 {
            break;
        }
        let whole_budget = round.trials_left == round.trials;
        let among = Some(area);
        let way = Way { among, within };
        if let Some(found) = attempt(round, asker, from, way) {
            let price = take_back(round, found);
            if best.is_none_or(|(least, _)| price < least) {
                best = Some((price, way));
            }
        }
        // One for which all of a cycle's work is not enough is not tried again.
        if round.trials_left > 0 || whole_budget {
            searched.insert(area);
        }
    }
    if let Some((_, way)) = best {
        return again(round, asker, from, way);
    }
    searched.retain(|area| areas.contains(area));
    if searched.len() < areas.len() {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let level = areas.first().and_then(|area| round.model.areas.level(*area));
        let reason = Reason::LookingForRoom {
            level: level.unwrap_or(Level::Node),
            tried: count(searched.len()),
            of: count(areas.len()),
        };
        round.say(asker.claim, reason, None);
        round.model.searched.insert(asker.claim, (stage, Some(searched)));
    }
    None
}

/// Compares what was found with what would go on single nodes, and in another order: the cheapest.
fn cheaper(round: &mut Round<'_>, asker: Asker<'_>, from: &[Candidate], found: Found) -> Option<Found> {
    // With one that is the cheapest of all nothing can be cheaper.
    let is_least = match (found.1.as_slice(), from.first()) {
        ([], _) => true,
        ([one], Some(first)) => one.claim == first.claim && one.whole == first.whole,
        _ => false,
    };
    if is_least || round.compares_left == 0 {
        return Some(found);
    }
    let trials = std::mem::replace(&mut round.trials_left, round.compares_left);
    // First of all: who is off the model sits nowhere.
    let mut best = (take_back(round, found), (from, Way::default()));
    let in_time = candidates::by_time(from);
    let mut ways = vec![(in_time.as_slice(), Way::default())];
    if asker.pods.len() == 1 {
        for node in nodes_of(round.model, from, NODES) {
            let way = Way {
                among: Some(node),
                within: false,
            };
            ways.extend([(from, way), (in_time.as_slice(), way)]);
        }
    }
    for (order, way) in ways {
        if round.trials_left == 0 {
            break;
        }
        if let Some(found) = attempt(round, asker, order, way) {
            let price = take_back(round, found);
            if price < best.0 {
                best = (price, (order, way));
            }
        }
    }
    round.compares_left = std::mem::replace(&mut round.trials_left, trials);
    let (order, way) = best.1;
    again(round, asker, order, way)
}

/// Takes back what was found; its price.
fn take_back(round: &mut Round<'_>, (transaction, victims): Found) -> Price {
    let price = Price::of(round.model, &victims);
    transaction.rollback(round.model);
    price
}

/// What was found once is found again, whatever is left of the budget.
fn again(round: &mut Round<'_>, asker: Asker<'_>, from: &[Candidate], way: Way) -> Option<Found> {
    let left = std::mem::replace(&mut round.trials_left, u32::MAX);
    let found = attempt(round, asker, from, way);
    round.trials_left = left;
    found
}
