//! Step 4, second half, backfill: who would start before a reservation may do so only if that does not move it.
//!
//! Whoever ends before the reservation starts does not. Of the others each node is asked: on the node as it will be when
//! the reservation starts, with those gone who are expected to have ended, are its seats free besides? And its queues:
//! are they within their limits then?

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Round,
    s3_place::{self, Seating},
    s4_future,
};
use crate::{
    amount::Amounts,
    event::{Level, Time},
    index::{Beside, Left, Work},
    model::{Model, Reservation, Seat, tier_index},
    score,
    slab::{AreaOrd, ClaimOrd, NodeOrd, PodOrd, ShapeOrd},
    transaction::Transaction,
};

/// Nodes that are refused to a pod one after the other before it is found at once on which of the rest it requests too much:
/// who has no room anyway, or finds some soon, does not pay for that.
const ONE_BY_ONE: u32 = 8;

/// Nodes by shape, and by the area in which a place was looked for.
type Refused = BTreeMap<(ShapeOrd, Option<AreaOrd>), BTreeSet<NodeOrd>>;

/// What is asked before a claim gets seats.
pub(super) struct Guard {
    /// The reservations that it must not move, and the nodes that they refuse as these are.
    beside: Beside,
    /// What is known of those nodes holds for whoever comes next.
    lasts: bool,
    /// Nodes that are refused for what is elsewhere, or of which only a part was looked at, by shape: that holds for the
    /// seats that are taken so far.
    refused: Refused,
    /// The first reservation that would have been moved.
    pub(super) moved: Option<Arc<Reservation>>,
}

impl Guard {
    /// A guard of some reservations against seats of a claim that are taken in a trial at a later time, at which those of
    /// them that have begun hold their seats.
    pub(super) fn later(model: &Model, claim: ClaimOrd, later: Time, others: Vec<Arc<Reservation>>) -> Guard {
        let spared = spared(model, claim, Some(later), &others);
        Guard::of(Beside::new(spared, others), false)
    }

    fn of(beside: Beside, lasts: bool) -> Guard {
        Guard {
            beside,
            lasts,
            refused: BTreeMap::new(),
            moved: None,
        }
    }

    /// What is refused for the seats that are taken so far.
    pub(super) fn mark(&self) -> Refused {
        self.refused.clone()
    }

    /// Forgets what was refused since, when the seats that were taken since are given up.
    pub(super) fn back_to(&mut self, mark: Refused) {
        self.refused = mark;
    }

    /// Forgets all that was refused for the seats that are taken: somebody went.
    pub(super) fn ask_anew(&mut self) {
        self.refused.clear();
    }

    /// True if the reservations that have a seat on a node still have it with whoever sits there now.
    pub(super) fn all_hold_on(&self, model: &mut Model, node: NodeOrd) -> bool {
        let Beside { spared, others, .. } = &self.beside;
        let mut here = spared.iter().filter(|r| r.is_on(node));
        here.all(|r| s4_future::holds_on(model, r, node, others))
    }

    /// Asks nothing more. What was found is kept for the next guard of the same reservations.
    pub(super) fn end(self, round: &mut Round<'_>) {
        if self.lasts {
            round.index.keep_beside(self.beside);
        }
    }
}

/// The reservations that a claim would outlive, if it started now or at a later time.
fn spared(model: &Model, claim: ClaimOrd, later: Option<Time>, others: &[Arc<Reservation>]) -> Vec<Arc<Reservation>> {
    let slot = &model.claims[claim];
    let end = match slot.started {
        Some(_) => slot.expected_end(model.now),
        None => slot.end_from(later.unwrap_or(model.now)),
    };
    let outlives =
        |r: &&Arc<Reservation>| later.is_none_or(|later| r.start > later) && end.is_none_or(|end| end > r.start);
    others.iter().filter(outlives).cloned().collect()
}

/// The guard against seats for a claim now; `None` if no reservation stands against it.
pub(super) fn guard(round: &mut Round<'_>, claim: ClaimOrd, ask: &Amounts) -> Option<Guard> {
    if round.model.reservations.is_empty() {
        round.index.forget_beside();
        return None;
    }
    let model = &*round.model;
    let mut others = Vec::new();
    for reservation in model.reservations.iter().filter(|r| r.claim != claim) {
        if has_right_of_way(model, claim, ask, reservation) {
            round.unguarded = true;
        } else {
            others.push(reservation.clone());
        }
    }
    let spared = spared(model, claim, None, &others);
    (!spared.is_empty()).then(|| Guard::of(round.index.take_beside(spared, others), true))
}

/// True if a claim goes before a reservation whatever that means for it: since it could have what is there evicted, or
/// is more important in the same queue.
fn has_right_of_way(model: &Model, claim: ClaimOrd, ask: &Amounts, reservation: &Reservation) -> bool {
    let (ours, theirs) = (&model.claims[claim], &model.claims[reservation.claim]);
    if ours.tier != theirs.tier {
        return ours.tier < theirs.tier;
    }
    if ours.queue == theirs.queue {
        return !reservation.window && ours.priority > theirs.priority;
    }
    let tier = tier_index(ours.tier);
    model.queues[ours.queue].within_guarantee(tier, ask)
        && !model.queues[theirs.queue].within_guarantee(tier, &reservation.ask)
}

/// Seats a pod on the best node on which it moves no reservation. False if there is none.
pub(super) fn seat_beside(
    round: &mut Round<'_>,
    guard: &mut Guard,
    transaction: &mut Transaction,
    pod: PodOrd,
    seating: Seating,
) -> bool {
    let look = round.model.look(pod);
    let ord = look.shape;
    let Guard {
        beside,
        refused: for_now,
        moved: first_moved,
        ..
    } = guard;
    // One that is kept from its seats without this pod is not moved by it.
    let mut related: Vec<Arc<Reservation>> = beside.related(round.model).cloned().collect();
    related.retain(|reservation| s4_future::is_let_in(round, reservation, &beside.others));
    let in_part = seating.within.and_then(|area| round.model.areas.level(area));
    let in_part = matches!(in_part, Some(Level::Numa | Level::Nvlink));
    // Which cards of a node were tried is not what would be in a part of it.
    let in_part_of_cards = in_part && round.model.shapes.value(ord).gpus.is_some();
    let for_now = for_now.entry((ord, seating.within)).or_default();
    // The best node is asked whatever is known of it, if it is to be said whom the pod would have moved: of a gang, whose
    // others may find no place for that, and of a pod that finds none.
    let mut anew = first_moved.is_none() && is_of_several(round.model, pod);
    let mut asked = anew;
    let mut refusals = 0;
    let nothing = BTreeSet::new();
    // Both kinds together, as long as nothing is foreseen: then it is found anew.
    let mut both: Option<BTreeSet<NodeOrd>> = None;
    loop {
        let known = beside.refused(round.model, ord);
        let refused = if anew {
            &nothing
        } else if in_part_of_cards {
            &*for_now
        } else if for_now.is_empty() {
            known
        } else {
            both.get_or_insert_with(|| known | for_now)
        };
        let Some(node) = s3_place::best(round, pod, look, refused, seating) else {
            if asked || first_moved.is_some() || refused.is_empty() {
                return false;
            }
            (anew, asked) = (true, true);
            continue;
        };
        round.index.work.tried_beside += 1;
        let here: Vec<Arc<Reservation>> = beside.spared.iter().filter(|r| r.is_on(node)).cloned().collect();
        let mut moved = None;
        let mut from_afar = false;
        for seat in choices(round, ord, node, seating.within, &here, &beside.others) {
            let mark = transaction.mark();
            transaction.seat(round.model, pod, (seating.place)(seat));
            let others = &beside.others;
            moved = here
                .iter()
                .find(|r| !s4_future::holds_on(round.model, r, node, others))
                .cloned();
            if moved.is_none() {
                moved = related
                    .iter()
                    .find(|r| !s4_future::is_let_in(round, r, others))
                    .cloned();
                from_afar |= moved.is_some();
            }
            if moved.is_none() {
                return true;
            }
            transaction.rollback_to(round.model, mark);
        }
        // Placement finds a place there and then none: a contradiction that must not go round for ever.
        let Some(moved) = moved.or_else(|| here.first().cloned()) else {
            return false;
        };
        if std::mem::take(&mut anew) {
            *first_moved = Some(moved);
        }
        if let Some(both) = &mut both {
            both.insert(node);
        }
        if from_afar || in_part {
            for_now.insert(node);
        } else {
            beside.refuse(round.model, ord, node);
            refusals += 1;
            if refusals == ONE_BY_ONE {
                foresee(round.model, beside, ord);
                both = None;
            }
        }
    }
}

/// Refuses at once to a shape all nodes on which it requests more than the reservations leave:
/// to find them one by one takes the square of their number.
fn foresee(model: &mut Model, beside: &mut Beside, shape: ShapeOrd) {
    for node in beside.not_weighed(model) {
        let mut left = Left::default();
        for r in beside.spared.iter().filter(|r| r.is_on(node)) {
            s4_future::weigh(model, r, node, &beside.others, &mut left);
        }
        beside.weigh(model, node, left);
    }
    beside.refuse_by_weight(model, shape);
}

/// True for a pod of a claim of several.
fn is_of_several(model: &Model, pod: PodOrd) -> bool {
    let claim = model.pods[pod].claim.and_then(|claim| model.claims.find(claim));
    claim.is_some_and(|claim| claim.groups.iter().map(|group| group.members.len()).sum::<usize>() > 1)
}

/// The seats to be tried for a pod on a node: the best as things stand, then the best beside each reservation.
fn choices(
    round: &mut Round<'_>,
    shape: ShapeOrd,
    node: NodeOrd,
    within: Option<AreaOrd>,
    here: &[Arc<Reservation>],
    others: &[Arc<Reservation>],
) -> Vec<Seat> {
    let (model, worths, policy) = (&mut *round.model, &mut round.index.worths, round.policy);
    let mut of = |model: &Model| score::seat(policy, model, worths, model.shapes.value(shape), node, within);
    let mut choices: Vec<Seat> = of(model).into_iter().collect();
    if model.shapes.value(shape).gpus.is_none() {
        return choices;
    }
    for reservation in here {
        let mut trial = Transaction::default();
        s4_future::then_on(model, &mut trial, reservation, node, others);
        s4_future::take_seats(model, &mut trial, reservation, node);
        let beside = of(model);
        trial.rollback(model);
        let shape = model.shapes.value(shape);
        choices.extend(beside.filter(|seat| model.fits_seat(shape, seat)));
    }
    choices
}

/// The first reservation whose queues would be over a limit when it starts, now that the claim has its seats. What counts
/// against none of its limits is not asked: to look who will be there, and who will have ended, costs more than to be placed.
pub(super) fn moved_by_quota(
    model: &mut Model,
    work: &mut Work,
    guard: &Guard,
    claim: ClaimOrd,
) -> Option<Arc<Reservation>> {
    let Beside { spared, others, .. } = &guard.beside;
    let mut moved = |r: &Reservation| {
        if !model.counts_against(claim, r.claim) {
            return false;
        }
        work.quotas_asked += 1;
        !s4_future::within_quota(model, r, others)
    };
    spared.iter().find(|r| moved(r)).cloned()
}
