//! Step 4, second half, backfill: who would start before a reservation may do so only if that does not move it.
//!
//! Whoever ends before the reservation starts does not. Of the others each node is asked: on the node as it will be when
//! the reservation starts, with those gone who are expected to have ended, are its seats free besides? And its queues:
//! are they within their limits then?

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Round, s3_place, s3_place::Seating};
use crate::{
    amount::Amounts,
    event::{Level, Time},
    index::{Beside, Left},
    model::{Model, Place, Reservation, Seat, tier_index},
    score,
    slab::{AreaOrd, ClaimOrd, NodeOrd, PodOrd, ShapeOrd},
    transaction::Transaction,
};

/// What is asked before a claim gets seats.
pub(super) struct Guard {
    /// The reservations that it must not move, and the nodes that they refuse as these are.
    beside: Beside,
    /// What is known of those nodes holds for whoever comes next.
    lasts: bool,
    /// Nodes that are refused for what is elsewhere, or of which only a part was looked at, by shape: that holds for the
    /// seats that are taken so far.
    refused: BTreeMap<ShapeOrd, BTreeSet<NodeOrd>>,
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
    pub(super) fn mark(&self) -> BTreeMap<ShapeOrd, BTreeSet<NodeOrd>> {
        self.refused.clone()
    }

    /// Forgets what was refused since, when the seats that were taken since are given up.
    pub(super) fn back_to(&mut self, mark: BTreeMap<ShapeOrd, BTreeSet<NodeOrd>>) {
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
        here.all(|r| holds_on(model, r, node, others))
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
        lasts,
        refused: for_now,
        moved: first_moved,
    } = guard;
    // Those whose pods look at others: they can be moved from afar. One that is kept from its seats without this pod is
    // not moved by it.
    let mut related: Vec<Arc<Reservation>> = Vec::new();
    for reservation in &beside.spared {
        if is_related(round.model, reservation) && is_let_in(round, reservation, &beside.others) {
            related.push(reservation.clone());
        }
    }
    let in_part = seating.within.and_then(|area| round.model.areas.level(area));
    let in_part = matches!(in_part, Some(Level::Numa | Level::Nvlink));
    // The best node is asked whatever is known of it, if it is to be said whom the pod would have moved: of a gang, whose
    // others may find no place for that, and of a pod that finds none.
    if *lasts && beside.is_new(ord) {
        foresee(round.model, beside, ord);
    }
    let mut anew = first_moved.is_none() && is_of_several(round.model, pod);
    let mut asked = anew;
    loop {
        let known = beside.refused(round.model, ord);
        let nothing = BTreeSet::new();
        let both;
        let refused = match for_now.get(&ord) {
            _ if anew => &nothing,
            Some(more) if !more.is_empty() => {
                both = known | more;
                &both
            }
            _ => known,
        };
        let best = round
            .index
            .best_beside(round.model, round.policy, look, refused, seating.within);
        let Some(node) = best else {
            if asked || first_moved.is_some() || refused.is_empty() {
                return false;
            }
            (anew, asked) = (true, true);
            continue;
        };
        let here: Vec<Arc<Reservation>> = beside.spared.iter().filter(|r| r.is_on(node)).cloned().collect();
        let mut moved = None;
        let mut from_afar = false;
        for seat in choices(round, ord, node, seating.within, &here, &beside.others) {
            let mark = transaction.mark();
            transaction.seat(round.model, pod, (seating.place)(seat));
            let others = &beside.others;
            moved = here.iter().find(|r| !holds_on(round.model, r, node, others)).cloned();
            if moved.is_none() {
                moved = related.iter().find(|r| !is_let_in(round, r, others)).cloned();
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
        if from_afar || in_part {
            for_now.entry(ord).or_default().insert(node);
        } else {
            beside.refuse(round.model, ord, node);
        }
    }
}

/// Refuses at once to a shape of which nothing is known yet all nodes on which it requests more than the reservations leave:
/// to find them one by one takes the square of their number.
fn foresee(model: &mut Model, beside: &mut Beside, shape: ShapeOrd) {
    for node in beside.not_weighed(model) {
        let mut left = Left::default();
        for r in beside.spared.iter().filter(|r| r.is_on(node)) {
            weigh(model, r, node, &beside.others, &mut left);
        }
        beside.weigh(model, node, left);
    }
    beside.refuse_by_weight(model, shape);
}

/// What a reservation leaves of the resources that it needs on a node, when it starts.
fn weigh(model: &mut Model, r: &Reservation, node: NodeOrd, others: &[Arc<Reservation>], left: &mut Left) {
    if model.nodes.find(node).is_none() {
        return;
    }
    let mut trial = Transaction::default();
    then_on(model, &mut trial, r, node, others);
    occupy(model, &mut trial, r, Some(node));
    let slot = &model.nodes[node];
    for (pod, _) in r.seats_on(node) {
        let Some(pod) = model.pods.find(*pod) else { continue };
        for &(resource, _) in &model.shapes.value(pod.shape).requests {
            left.at_most(resource, slot.allocatable.of(resource) - slot.used.of(resource));
        }
    }
    trial.rollback(model);
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
        then_on(model, &mut trial, reservation, node, others);
        take_seats(model, &mut trial, reservation, node);
        let beside = of(model);
        trial.rollback(model);
        let shape = model.shapes.value(shape);
        choices.extend(beside.filter(|seat| model.fits_seat(shape, seat)));
    }
    choices
}

/// True if the seats of a reservation on one node will be free when it starts.
pub(super) fn holds_on(model: &mut Model, r: &Reservation, node: NodeOrd, others: &[Arc<Reservation>]) -> bool {
    if model.nodes.find(node).is_none() {
        return false;
    }
    let mut trial = Transaction::default();
    then_on(model, &mut trial, r, node, others);
    let holds = take_seats(model, &mut trial, r, node);
    trial.rollback(model);
    holds
}

/// True if pods of a reservation have rules about others, or others about them.
pub(super) fn is_related(model: &mut Model, r: &Reservation) -> bool {
    r.kinds.iter().any(|pod| {
        if model.pods.find(*pod).is_none() {
            return false;
        }
        let look = model.look(*pod);
        look.hits.is_some() || model.marks.compiled(look.shape).is_some()
    })
}

/// True if the pods of a reservation may have their seats when it starts, also by what they say of others, wherever those
/// are, and others of them.
pub(super) fn is_let_in(round: &mut Round<'_>, r: &Reservation, others: &[Arc<Reservation>]) -> bool {
    let mut trial = Transaction::default();
    for pod in ended(round.model, r, others) {
        trial.unseat(round.model, pod);
    }
    for other in others.iter().filter(|o| o.claim != r.claim && o.is_active(r.start)) {
        occupy(round.model, &mut trial, other, None);
    }
    let mut waiting: Vec<&(PodOrd, Seat)> = r.seats.iter().collect();
    // In whatever order they let each other in.
    loop {
        let before = waiting.len();
        waiting.retain(|(pod, seat)| {
            let free = round.model.pods.find(*pod).is_some_and(|p| p.place == Place::Nowhere);
            let fits = free && s3_place::fits_seat(round.model, round.index, round.policy, *pod, seat);
            if fits {
                trial.seat(round.model, *pod, Place::Nominated(seat.clone()));
            }
            !fits
        });
        if waiting.is_empty() || waiting.len() == before {
            break;
        }
    }
    trial.rollback(round.model);
    waiting.is_empty()
}

/// Pods with a seat that are expected to be gone when a reservation starts.
fn ended(model: &mut Model, r: &Reservation, others: &[Arc<Reservation>]) -> Vec<PodOrd> {
    let mut ended = gone_by(model, r.start, others);
    if let Some(hold) = &r.hold {
        ended.extend(hold.leave.iter().filter_map(|uid| model.pods_by_uid.get(uid)));
        // Those as well that are late: they were let in, or found there, as gone by then.
        let late = model.ending.iter().take_while(|key| key.end <= r.start);
        ended.extend(late.flat_map(|key| model.members(key.claim)));
        ended.sort_unstable();
        ended.dedup();
        ended.retain(|pod| model.pods.find(*pod).is_some_and(|p| p.place != Place::Nowhere));
    }
    ended
}

/// Pods with a seat that are expected to be gone at a time.
pub(super) fn gone_by(model: &Model, start: Time, others: &[Arc<Reservation>]) -> Vec<PodOrd> {
    let mut ended: Vec<PodOrd> = model.going.iter().copied().collect();
    for (_, claim) in model.endings(Some(start), usize::MAX) {
        ended.extend(model.members(claim));
    }
    for other in others.iter().filter(|o| o.end.is_some_and(|end| end <= start)) {
        ended.extend(other.seats.iter().map(|(pod, _)| *pod));
    }
    ended.sort_unstable();
    ended.dedup();
    ended.retain(|pod| model.pods.find(*pod).is_some_and(|p| p.place != Place::Nowhere));
    ended
}

/// Makes a node what it will be when a reservation starts, without its own seats.
fn then_on(model: &mut Model, trial: &mut Transaction, r: &Reservation, node: NodeOrd, others: &[Arc<Reservation>]) {
    let gone: Vec<PodOrd> = {
        let ends = |pod: &PodOrd| match &model.pods[*pod].place {
            // A seat of a trial: the reservation says when it ends.
            Place::Nominated(_) => kept_until(model, others, *pod),
            _ => model.pod_ends(*pod),
        };
        let awaited = |pod: &PodOrd| {
            let late = || {
                let claim = model.pods[*pod].claim.and_then(|claim| model.claims.find(claim));
                claim.is_some_and(|claim| claim.listed_end.is_some_and(|end| end <= r.start))
            };
            r.hold.is_some() && model.pods[*pod].place.is_taken() && (r.awaits(&model.pods[*pod].uid) || late())
        };
        let pods = model.nodes[node].pods.iter().copied();
        pods.filter(|pod| awaited(pod) || ends(pod).is_some_and(|end| end <= r.start))
            .collect()
    };
    for pod in gone {
        trial.unseat(model, pod);
    }
    for other in others.iter().filter(|o| o.claim != r.claim && o.is_active(r.start)) {
        occupy(model, trial, other, Some(node));
    }
}

/// When a seat that is taken on trial for another reservation ends.
fn kept_until(model: &Model, others: &[Arc<Reservation>], pod: PodOrd) -> Option<Time> {
    let claim = model.pods[pod].claim?;
    others.iter().find(|r| r.claim == claim)?.end
}

/// Seats those of a reservation, or of it those on one node, whatever else is there.
pub(super) fn occupy(model: &mut Model, trial: &mut Transaction, r: &Reservation, only: Option<NodeOrd>) {
    let mut occupy = |(pod, seat): &(PodOrd, Seat)| {
        if model.nodes.find(seat.node).is_some() && model.pods.find(*pod).is_some_and(|p| p.place == Place::Nowhere) {
            trial.seat(model, *pod, Place::Nominated(seat.clone()));
        }
    };
    match only {
        Some(node) => r.seats_on(node).for_each(&mut occupy),
        None => r.seats.iter().for_each(&mut occupy),
    }
}

/// Seats those of a reservation on a node if they fit. False at the first that does not.
fn take_seats(model: &mut Model, trial: &mut Transaction, r: &Reservation, node: NodeOrd) -> bool {
    for (pod, seat) in r.seats_on(node) {
        let Some(slot) = model.pods.find(*pod) else {
            return false;
        };
        let fits = slot.place == Place::Nowhere && model.fits_seat(model.shapes.value(slot.shape), seat);
        if !fits {
            return false;
        }
        trial.seat(model, *pod, Place::Nominated(seat.clone()));
    }
    true
}

/// The first reservation whose queues would be over a limit when it starts, now that the claim has its seats.
pub(super) fn moved_by_quota(model: &mut Model, guard: &Guard) -> Option<Arc<Reservation>> {
    let Beside { spared, others, .. } = &guard.beside;
    spared.iter().find(|r| !within_quota(model, r, others)).cloned()
}

/// True if the queues of a reservation will let it have what it needs when it starts.
pub(super) fn within_quota(model: &mut Model, r: &Reservation, others: &[Arc<Reservation>]) -> bool {
    if !model.is_limited(r.claim) {
        return true;
    }
    let mut trial = Transaction::default();
    for other in others.iter().filter(|o| o.claim != r.claim && o.is_active(r.start)) {
        occupy(model, &mut trial, other, None);
    }
    let mut within = model.over_limit(r.claim, &r.ask).is_none();
    if !within {
        // Only now is it worth to look who will have ended.
        for pod in ended(model, r, others) {
            trial.unseat(model, pod);
        }
        within = model.over_limit(r.claim, &r.ask).is_none();
    }
    trial.rollback(model);
    within
}
