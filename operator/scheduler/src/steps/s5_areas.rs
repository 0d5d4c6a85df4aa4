//! Step 5, for gangs that have to share an area: that evictions help is proven inside of one area.

use super::{
    Round,
    s3_place::Seating,
    s3_topology,
    s5_reclaim::{Victim, moves_a_promise, take_off, trim},
    victims,
};
use crate::{
    amount::Amounts,
    model::{Model, Place},
    slab::{AreaOrd, ClaimOrd, PodOrd},
    transaction::Transaction,
};

/// Takes off victims until all pods have their seats, those that have to share an area in one, and lets those stay that have
/// room after all. Whoever sits outside of the area that holds all of them stays; of several such areas it is the one where
/// the least important go, then the fewest. The transaction is open on success, and nothing has changed otherwise.
pub(super) fn attempt(
    round: &mut Round<'_>,
    claim: ClaimOrd,
    pods: &[PodOrd],
    ask: &Amounts,
    victims: &[ClaimOrd],
) -> Option<(Transaction, Vec<Victim>)> {
    let areas = match s3_topology::areas_of_all(round, claim, pods) {
        Some(areas) => areas.into_iter().map(Some).collect(),
        None => vec![None],
    };
    let mut best: Option<((i32, usize), Option<AreaOrd>)> = None;
    for within in areas {
        if round.trials_left == 0 {
            break;
        }
        if let Some((transaction, gone)) = attempt_within(round, claim, pods, ask, victims, within) {
            let priority = gone.iter().map(|v| round.model.claims[v.claim].priority).max();
            let price = (priority.unwrap_or(i32::MIN), gone.iter().map(|v| v.seats.len()).sum());
            if best.is_none_or(|(least, _)| price < least) {
                best = Some((price, within));
            }
            transaction.rollback(round.model);
        }
    }
    let (_, within) = best?;
    // What was found once is found again, whatever is left of the budget.
    let left = std::mem::replace(&mut round.trials_left, u32::MAX);
    let found = attempt_within(round, claim, pods, ask, victims, within);
    round.trials_left = left;
    found
}

/// Takes off those victims that sit in an area, ever more of them, until the whole gang has its seats there, and lets
/// those stay that have room after all.
fn attempt_within(
    round: &mut Round<'_>,
    claim: ClaimOrd,
    pods: &[PodOrd],
    ask: &Amounts,
    from: &[ClaimOrd],
    within: Option<AreaOrd>,
) -> Option<(Transaction, Vec<Victim>)> {
    let mut transaction = Transaction::default();
    let mut taken: Vec<Victim> = Vec::new();
    let mut from = from.iter();
    let seating = Seating {
        place: Place::Nominated,
        within,
    };
    loop {
        let (mark, before) = (transaction.mark(), taken.len());
        if round.model.over_limit(claim, ask).is_none()
            && s3_topology::seat_gang(round, &mut transaction, claim, pods, seating).is_ok()
            && !moves_a_promise(round)
        {
            let victims = trim(round, &mut transaction, claim, taken, pods);
            return Some((transaction, victims));
        }
        transaction.rollback_to(round.model, mark);
        // As many again as there are: the gang is tried a logarithm of times, and trimming gives back what was too much.
        let wanted = taken.len().max(1) * 2;
        while taken.len() < wanted {
            let next = if round.trials_left == 0 { None } else { from.next() };
            let Some(&next) = next else { break };
            if victims::may_go(round.model, claim, next, ask) && sits_in(round.model, next, within) {
                taken.push(take_off(round, &mut transaction, next));
            }
        }
        if taken.len() == before {
            transaction.rollback(round.model);
            return None;
        }
    }
}

fn sits_in(model: &Model, claim: ClaimOrd, area: Option<AreaOrd>) -> bool {
    let seats = model.members(claim).filter_map(|p| model.pods[p].place.seat());
    let mut nodes = seats.flat_map(|seat| model.nodes[seat.node].areas);
    area.is_none() || nodes.any(|of| of == area)
}
