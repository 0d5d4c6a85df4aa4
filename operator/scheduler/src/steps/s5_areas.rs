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
    model::{Model, Search, Stage},
    slab::{AreaOrd, ClaimOrd},
};

/// Nodes on which it is tried at most whether fewer, or cheaper, have to go for a pod than those that were found.
const NODES: usize = 16;

/// Pods that a cycle takes off the model at most for such comparisons: some 2 ms of work.
pub(super) const COMPARED: u32 = 1024;

/// Finds the seats of a claim and whom to evict for it among some candidates. The transaction is open on success, and nothing
/// has changed otherwise. Whether the search is over: see [`is_unfinished`].
pub(super) fn search(round: &mut Round<'_>, asker: Asker<'_>, stage: Stage, from: &[Candidate]) -> Option<Found> {
    let earlier = round.goes_on.as_ref().is_some_and(|search| stage < search.stage);
    if from.is_empty() || earlier || is_unfinished(round.model, asker.claim) {
        return None;
    }
    let goes_on = round.goes_on.take().filter(|search| search.stage == stage);
    let anew = Search {
        stage,
        areas: None,
        trials: 0,
    };
    let mut search = goes_on.unwrap_or(anew);
    if round.trials_left == 0 {
        later(round, asker.claim, search);
        return None;
    }
    if s3_unit::is_bound_to_areas(round.model, asker.claim)
        && let Some(areas) = s3_room::areas_of_all(round, asker.claim, asker.pods)
    {
        return one_after_the_other(round, asker, search, from, areas, true);
    }
    let alone = asker.pods.len() == 1;
    if !alone || search.areas.is_none() {
        let whole_budget = round.trials_left == round.trials;
        match attempt_in_time(round, asker, from, Way::default(), search.trials) {
            Ok(Some(found)) => return cheaper(round, asker, from, found),
            Ok(None) => {}
            // On single nodes it takes less.
            Err(_) if alone && whole_budget => {}
            Err(trials) => {
                search.trials = trials;
                later(round, asker.claim, search);
                return None;
            }
        }
    }
    if !alone {
        return None;
    }
    // Going by the order alone took those first that sit on many nodes, until their queue was within its guarantee. Those
    // on one node may be enough.
    let nodes = nodes_of(round.model, from, usize::MAX);
    one_after_the_other(round, asker, search, from, nodes, false)
}

/// The search for a claim goes on in the next cycle.
fn later(round: &mut Round<'_>, claim: ClaimOrd, search: Search) {
    say_later(round, claim);
    round.model.searched.insert(claim, search);
}

/// Says that it is looked in the next cycle whether evictions help.
pub(super) fn say_later(round: &mut Round<'_>, claim: ClaimOrd) {
    let reason = Reason::LookingForRoom {
        level: Level::Node,
        tried: 0,
        of: 0,
    };
    round.say(claim, reason, None);
}

/// One attempt, with what is left of the work of this cycle; or with as many trials as are known to be needed, if nothing
/// was tried in it yet.
///
/// # Errors
///
/// If that was not enough: how many trials it is to have in the next cycle, twice as many if this cycle had nothing else to
/// do. So all attempts for one claim together cost twice what the last one does, and the last one ends.
fn attempt_in_time(
    round: &mut Round<'_>,
    asker: Asker<'_>,
    from: &[Candidate],
    way: Way,
    trials: u32,
) -> Result<Option<Found>, u32> {
    let left = round.trials_left;
    let nothing_yet = left == round.trials;
    let granted = if nothing_yet { left.max(trials) } else { left };
    round.trials_left = granted;
    let found = attempt(round, asker, from, way);
    let used_up = round.trials_left == 0;
    let used = granted.saturating_sub(round.trials_left);
    round.trials_left = left.saturating_sub(used);
    match found {
        None if used_up && nothing_yet => Err(granted.saturating_mul(2)),
        None if used_up => Err(trials),
        found => Ok(found),
    }
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
    search: Search,
    from: &[Candidate],
    areas: Vec<AreaOrd>,
    within: bool,
) -> Option<Found> {
    let mut best: Option<(Price, Way)> = None;
    let (mut searched, mut trials) = (search.areas.unwrap_or_default(), search.trials);
    let left: Vec<AreaOrd> = areas.iter().filter(|area| !searched.contains(area)).copied().collect();
    for area in left {
        if round.trials_left == 0 {
            break;
        }
        let among = Some(area);
        let way = Way { among, within };
        match attempt_in_time(round, asker, from, way, trials) {
            Ok(found) => {
                if let Some(found) = found {
                    let price = take_back(round, found);
                    if best.is_none_or(|(least, _)| price < least) {
                        best = Some((price, way));
                    }
                }
                searched.insert(area);
                trials = 0;
            }
            Err(more) => {
                trials = more;
                break;
            }
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
        let search = Search {
            stage: search.stage,
            areas: Some(searched),
            trials,
        };
        round.model.searched.insert(asker.claim, search);
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
