//! Step 3: places a claim: its minimum together or not at all. What it grows by has its turn later.

use std::collections::BTreeSet;

use super::{Round, s1_heads, s3_grow, s3_topology::seat_gang, s4_backfill, s4_reserve, s5_take_back, s7_explain};
use crate::{
    decision::Reason,
    index::{Index, Look},
    model::{Model, Place, Seat, Tally},
    score::{self, Policy},
    slab::{AreaOrd, ClaimOrd, NodeOrd, PodOrd},
    transaction::Transaction,
};

/// Why some pods could not be placed together.
pub(super) struct NoPlace {
    /// What the pod looks like that fitted nowhere.
    pub(super) look: Look,
    /// Pods that had found a place before it.
    pub(super) placed: u32,
    /// Pods in all.
    pub(super) need: u32,
    /// That no area has room for them together, if it is that.
    pub(super) topology: Option<Box<Reason>>,
}

impl NoPlace {
    /// Of so many pods, the one after those that were placed fits nowhere.
    pub(super) fn of(model: &mut Model, pod: PodOrd, placed: usize, need: usize) -> NoPlace {
        NoPlace {
            look: model.look(pod),
            placed: 0,
            need: 0,
            topology: None,
        }
        .after(placed, need)
    }

    /// The same said of more pods, of which some were placed before.
    pub(super) fn after(self, before: usize, need: usize) -> NoPlace {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        NoPlace {
            placed: self.placed.saturating_add(count(before)),
            need: count(need),
            ..self
        }
    }
}

/// What kind of seat pods get, and in which area; anywhere, if in none.
#[derive(Clone, Copy)]
pub(super) struct Seating {
    pub(super) place: fn(Seat) -> Place,
    pub(super) within: Option<AreaOrd>,
}

impl Seating {
    /// Anywhere.
    pub(super) fn new(place: fn(Seat) -> Place) -> Seating {
        Seating { place, within: None }
    }

    /// Inside of an area.
    pub(super) fn inside(self, area: AreaOrd) -> Seating {
        Seating {
            within: Some(area),
            ..self
        }
    }
}

/// Places what can be placed of a claim.
pub(super) fn place(round: &mut Round<'_>, claim: ClaimOrd) {
    if let Some(message) = round.model.claims[claim].refused.clone() {
        round.say(claim, Reason::Refused { message }, None);
        round.model.park(claim);
        return;
    }
    if has_nominated(round.model, claim) && !take_kept_seats(round, claim) {
        return;
    }
    if s4_reserve::waits_for_window(round, claim) {
        round.model.park(claim);
        return;
    }
    if place_minimum(round, claim) {
        round.model.park(claim);
    } else if s3_grow::could_grow(round.model, claim) {
        // Its turn comes when all minima had theirs.
        round.growing.insert(claim);
    } else {
        settle(round, claim);
    }
}

/// Lists a claim anew after some of it was placed.
pub(super) fn settle(round: &mut Round<'_>, claim: ClaimOrd) {
    if s1_heads::judge(round.model, claim, round.now) {
        // It has pods that wait for others of their quantum: nothing to be said, and nothing to be tried again.
        round.model.park(claim);
    }
    round.said.push((claim, None));
}

/// The pods that a claim's minimum still needs, in the order in which they are to be seated, or why there are too few.
pub(super) fn minimum(model: &Model, ord: ClaimOrd) -> Result<Vec<PodOrd>, Reason> {
    let mut pods = Vec::new();
    for group in &model.claims[ord].groups {
        let tally = model.tally(group);
        let have = tally.live + tally.done + tally.nominated;
        let need = group.min().saturating_sub(have);
        let waiting = u32::try_from(tally.waiting.len()).unwrap_or(u32::MAX);
        if waiting < need {
            return Err(incomplete(model, &group.spec.name, &tally, waiting, need, group.min()));
        }
        let mut waiting = tally.waiting;
        waiting.truncate(need as usize);
        if pods.is_empty() {
            pods = waiting;
        } else {
            pods.append(&mut waiting);
        }
    }
    if model.claims[ord].groups.len() > 1 {
        model.largest_first(&mut pods);
    }
    Ok(pods)
}

fn incomplete(model: &Model, group: &str, tally: &Tally, waiting: u32, need: u32, min: u32) -> Reason {
    if let Some(reason) = tally.exceeding.and_then(|p| model.pods[p].exceeds.as_deref()) {
        return reason.clone();
    }
    let held = u32::try_from(tally.held.len()).unwrap_or(u32::MAX);
    if waiting.saturating_add(tally.gated).saturating_add(held) >= need {
        return binding_failed(model, tally).unwrap_or(Reason::Gated);
    }
    Reason::GangIncomplete {
        group: group.into(),
        have: tally.live + tally.done + waiting,
        need: min,
    }
}

/// What the API server has against the first pod of a group that it does not bind.
fn binding_failed(model: &Model, tally: &Tally) -> Option<Reason> {
    let pod = &model.pods[*tally.held.first()?];
    Some(pod.trouble.as_ref()?.reason(&pod.name))
}

/// Places a claim's minimum. True if it waits.
fn place_minimum(round: &mut Round<'_>, claim: ClaimOrd) -> bool {
    if let Some(reason) = round.model.queue_refuses(claim) {
        let change = s7_explain::counterfactual_of_queue(&reason);
        round.say(claim, reason, change);
        return true;
    }
    let pods = match minimum(round.model, claim) {
        Ok(pods) => pods,
        Err(reason) => {
            round.say(claim, reason, None);
            return true;
        }
    };
    place_or_say(round, claim, pods, true)
}

/// Places some pods together, or says why not. True if they wait.
pub(super) fn place_or_say(round: &mut Round<'_>, claim: ClaimOrd, pods: Vec<PodOrd>, minimum: bool) -> bool {
    if pods.is_empty() {
        return false;
    }
    let ask = round.model.ask_of_pods(&pods);
    if let Some(reason) = round.model.over_limit(claim, &ask) {
        let change = s7_explain::counterfactual_of_queue(&reason);
        if minimum && matches!(reason, Reason::WaitingForQuota { .. } | Reason::KeptForOthers { .. }) {
            round.blocked.push(claim);
            s4_reserve::reserve(round, claim, &pods);
        }
        round.say(claim, reason, change);
        return true;
    }
    let mut transaction = Transaction::default();
    let seating = Seating::new(Place::Assumed);
    round.guard = s4_backfill::guard(round, claim, &ask);
    let mut seated = seat_gang(round, &mut transaction, claim, &pods, seating);
    let mut kept_out = None;
    if let Some(guard) = round.guard.take() {
        kept_out = match seated {
            Ok(()) => s4_backfill::moved_by_quota(round.model, &mut round.index.work, &guard, claim),
            Err(_) => guard.moved.clone(),
        };
        guard.end(round);
    }
    if minimum && (seated.is_err() || kept_out.is_some()) && round.model.reservation_of(claim).is_some() {
        transaction.rollback_to(round.model, 0);
        if s4_reserve::take_reserved(round, &mut transaction, claim) {
            (seated, kept_out) = (Ok(()), None);
        }
    }
    if let Some(by) = kept_out.filter(|_| {
        // What has no room anyway is not kept out by anybody.
        transaction.rollback_to(round.model, 0);
        seated = seat_gang(round, &mut transaction, claim, &pods, seating);
        seated.is_ok() && !s4_reserve::make_way(round, claim)
    }) {
        transaction.rollback(round.model);
        // One that a window keeps out waits for that; the queue's reservation is for those who have no room.
        if minimum && !by.window {
            s4_reserve::reserve(round, claim, &pods);
        }
        let waits = s4_reserve::kept_out(round.model, claim, &by);
        s7_explain::forget_block(round, claim);
        round.say(claim, waits.reason, waits.counterfactual);
        return true;
    }
    match seated {
        Ok(()) => {
            transaction.commit();
            if minimum && !round.model.reservations.is_empty() {
                round.model.unreserve(claim);
            }
            admit(round, claim, pods);
            false
        }
        Err(no_place) => {
            // Said before it is taken back: what is said counts the places that the others of the gang had found.
            s7_explain::say_no_place(round, claim, &no_place);
            s5_take_back::note_stuck(round, no_place.look);
            transaction.rollback(round.model);
            if minimum {
                round.blocked.push(claim);
                s4_reserve::reserve(round, claim, &pods);
            }
            true
        }
    }
}

/// Notes that pods of a claim have their seats, for good.
fn admit(round: &mut Round<'_>, claim: ClaimOrd, pods: Vec<PodOrd>) {
    round.pods_left = round
        .pods_left
        .saturating_sub(u32::try_from(pods.len()).unwrap_or(u32::MAX));
    for &pod in &pods {
        round.model.raise_hopes(pod);
    }
    round.admitted.push((claim, pods));
}

/// Seats pods one after the other on the best node for each, all or (by the caller's rollback) none. One that has to be
/// near others, or spread as they are, is tried again when these have their seats.
pub(super) fn seat_all(
    round: &mut Round<'_>,
    transaction: &mut Transaction,
    pods: &[PodOrd],
    seating: Seating,
) -> Result<(), NoPlace> {
    let mut waiting = pods.to_vec();
    loop {
        let mut left = Vec::new();
        for &pod in &waiting {
            if seat_one(round, transaction, pod, seating) {
                continue;
            }
            left.push(pod);
            if !round.model.waits_for_others(pod) {
                break;
            }
        }
        let Some(&pod) = left.first() else { return Ok(()) };
        let stuck = left.iter().any(|p| !round.model.waits_for_others(*p)) || left.len() == waiting.len();
        if stuck {
            let seated = |p: &&PodOrd| round.model.pods[**p].place != Place::Nowhere;
            let placed = pods.iter().filter(seated).count();
            return Err(NoPlace::of(round.model, pod, placed, pods.len()));
        }
        waiting = left;
    }
}

/// Seats a pod on the best node. False if there is none.
pub(super) fn seat_one(round: &mut Round<'_>, transaction: &mut Transaction, pod: PodOrd, seating: Seating) -> bool {
    if let Some(mut guard) = round.guard.take() {
        let seated = s4_backfill::seat_beside(round, &mut guard, transaction, pod, seating);
        round.guard = Some(guard);
        return seated;
    }
    if !round.model.knows_its_claims(&round.model.pods[pod]) {
        // Somebody else got a seat since who uses one of its claims.
        return false;
    }
    let look = round.model.look(pod);
    let Some(node) = best(round, pod, look, &BTreeSet::new(), seating) else {
        return false;
    };
    let (model, worths) = (&*round.model, &mut round.index.worths);
    let shape = model.shapes.value(look.shape);
    let Some(seat) = score::seat(round.policy, model, worths, shape, node, seating.within) else {
        return false;
    };
    transaction.seat(round.model, pod, (seating.place)(seat));
    true
}

/// The best node for a pod that is none of some; apart from its kin, if it may be anywhere.
pub(super) fn best(
    round: &mut Round<'_>,
    pod: PodOrd,
    look: Look,
    refused: &BTreeSet<NodeOrd>,
    seating: Seating,
) -> Option<NodeOrd> {
    let (model, policy) = (&*round.model, round.policy);
    match (seating.within, model.kin_to_avoid(pod)) {
        (None, Some(kin)) if policy == Policy::Standard => round.index.best_apart(model, policy, look, refused, kin),
        (within, _) => round.index.best_beside(model, policy, look, refused, within),
    }
}

fn has_nominated(model: &Model, claim: ClaimOrd) -> bool {
    nominated(model, claim).next().is_some()
}

fn nominated(model: &Model, claim: ClaimOrd) -> impl Iterator<Item = PodOrd> + '_ {
    let members = model.claims[claim]
        .groups
        .iter()
        .flat_map(|g| g.members.iter().copied());
    members.filter(|&p| matches!(model.pods[p].place, Place::Nominated(_)))
}

/// Says of a claim for which seats were just kept that it waits, or takes them at once if nobody sits there.
pub(super) fn settle_kept_seats(round: &mut Round<'_>, claim: ClaimOrd) {
    s7_explain::forget_block(round, claim);
    if take_kept_seats(round, claim) {
        settle(round, claim);
    }
}

/// Takes the seats that were kept, once those who sit there are gone. False while they are not. If a seat cannot be
/// taken any more, all are given up, and the claim is like any other.
fn take_kept_seats(round: &mut Round<'_>, claim: ClaimOrd) -> bool {
    let awaited = round.model.claims[claim].awaiting.len();
    let pods: Vec<PodOrd> = nominated(round.model, claim).collect();
    if awaited == 0 && seats_can_be_taken(round, claim, &pods) {
        admit(round, claim, pods);
        return true;
    }
    let awaited = if awaited > 0 {
        awaited
    } else {
        going_from_kept_seats(round.model, claim, &pods)
    };
    if awaited == 0 {
        round.model.stop_waiting(claim);
        return true;
    }
    if take_other_seats(round, claim, &pods) {
        return true;
    }
    round.say(
        claim,
        Reason::WaitingForEviction {
            pods: u32::try_from(awaited).unwrap_or(u32::MAX),
        },
        None,
    );
    round.model.park(claim);
    false
}

/// Seats a claim for which seats are kept elsewhere, if there is room by now: who goes may take long to go.
fn take_other_seats(round: &mut Round<'_>, claim: ClaimOrd, kept: &[PodOrd]) -> bool {
    if round.model.queue_refuses(claim).is_some() {
        return false;
    }
    let mut transaction = Transaction::default();
    let unguarded = round.unguarded;
    let mut left = BTreeSet::new();
    for &pod in kept {
        left.extend(round.model.pods[pod].place.seat().map(|seat| seat.node));
        transaction.unseat(round.model, pod);
    }
    let pods = minimum(round.model, claim).unwrap_or_default();
    let ask = round.model.ask_of_pods(&pods);
    round.guard = s4_backfill::guard(round, claim, &ask);
    let seated = !pods.is_empty()
        && round.model.over_limit(claim, &ask).is_none()
        && seat_gang(round, &mut transaction, claim, &pods, Seating::new(Place::Assumed)).is_ok();
    let mut moved = false;
    if let Some(guard) = round.guard.take() {
        moved = seated && s4_backfill::moved_by_quota(round.model, &mut round.index.work, &guard, claim).is_some();
        guard.end(round);
    }
    if !seated || moved {
        transaction.rollback(round.model);
        round.unguarded = unguarded;
        return false;
    }
    transaction.commit();
    for node in left {
        // It may have been kept for these seats alone.
        round.model.forget_node_if_unused(node);
    }
    for victim in std::mem::take(&mut round.model.claims[claim].awaiting) {
        round.model.pods[victim].leaving_for = None;
    }
    admit(round, claim, pods);
    true
}

/// Pods that are going and stand in the way of seats that are kept: on the same nodes, or by what they use of a quota.
fn going_from_kept_seats(model: &Model, claim: ClaimOrd, pods: &[PodOrd]) -> usize {
    let node_of = |p: PodOrd| model.pods[p].place.seat().map(|s| s.node);
    let nodes: Vec<_> = pods.iter().filter_map(|&p| node_of(p)).collect();
    let there = model
        .going
        .iter()
        .filter(|&&p| node_of(p).is_some_and(|n| nodes.contains(&n)))
        .count();
    if there == 0 && model.over_limit(claim, &[]).is_some() {
        model.going.len()
    } else {
        there
    }
}

/// Turns the seats that are kept into real ones, if each of them still is what it was kept as.
fn seats_can_be_taken(round: &mut Round<'_>, claim: ClaimOrd, pods: &[PodOrd]) -> bool {
    let mut transaction = Transaction::default();
    let mut seats = Vec::new();
    for &pod in pods {
        seats.extend(round.model.pods[pod].place.seat().cloned());
        transaction.unseat(round.model, pod);
    }
    let whole = round.model.queue_refuses(claim).is_none()
        && minimum(round.model, claim).is_ok_and(|needed| needed.iter().all(|p| pods.contains(p)))
        && round.model.over_limit(claim, &round.model.ask_of_pods(pods)).is_none()
        && seat_again(round, &mut transaction, pods, seats)
        && round.model.keeps_its_topology(claim, &pods.iter().copied().collect());
    if whole {
        transaction.commit()
    } else {
        transaction.rollback(round.model)
    }
    whole
}

/// Seats pods where they were, each if it still may sit there; in whatever order they let each other in.
pub(super) fn seat_again(
    round: &mut Round<'_>,
    transaction: &mut Transaction,
    pods: &[PodOrd],
    seats: Vec<Seat>,
) -> bool {
    let mut waiting: Vec<(PodOrd, Seat)> = pods.iter().copied().zip(seats).collect();
    loop {
        let before = waiting.len();
        waiting.retain(|(pod, seat)| {
            let shape = round.model.shapes.value(round.model.pods[*pod].shape);
            let fits = !round.model.takes_nothing_new(shape, seat.node)
                && fits_seat(round.model, round.index, round.policy, *pod, seat);
            if fits {
                transaction.seat(round.model, *pod, Place::Assumed(seat.clone()));
            }
            !fits
        });
        if waiting.is_empty() || waiting.len() == before {
            return waiting.is_empty();
        }
    }
}

/// True if a pod that has no seat may have exactly this one.
pub(super) fn fits_seat(model: &mut Model, index: &mut Index, policy: Policy, pod: PodOrd, seat: &Seat) -> bool {
    let look = model.look(pod);
    model.fits_seat(model.shapes.value(look.shape), seat) && index.related(model, policy, look, seat.node).is_ok()
}
