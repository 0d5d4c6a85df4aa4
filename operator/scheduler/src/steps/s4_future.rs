//! Step 4, what is to come: nodes as they will be when a reservation starts, with those gone who are expected to have ended.

use std::sync::Arc;

use super::{Round, s3_place};
use crate::{
    event::Time,
    index::Left,
    model::{Model, Place, Reservation, Seat},
    slab::{NodeOrd, PodOrd},
    transaction::Transaction,
};

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
pub(super) fn then_on(
    model: &mut Model,
    trial: &mut Transaction,
    r: &Reservation,
    node: NodeOrd,
    others: &[Arc<Reservation>],
) {
    let gone: Vec<PodOrd> = {
        let ends = |pod: &PodOrd| match &model.pods[*pod].place {
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

/// When a seat ends that is kept for a pod, or taken on trial for another reservation.
fn kept_until(model: &Model, others: &[Arc<Reservation>], pod: PodOrd) -> Option<Time> {
    let claim = model.pods[pod].claim?;
    match others.iter().find(|r| r.claim == claim) {
        Some(reservation) => reservation.end,
        // It has its seat, and waits for those who go from it.
        None => {
            let slot = &model.claims[claim];
            slot.end_from(model.now).filter(|_| !slot.awaiting.is_empty())
        }
    }
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
pub(super) fn take_seats(model: &mut Model, trial: &mut Transaction, r: &Reservation, node: NodeOrd) -> bool {
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

/// What a reservation leaves of the resources that it needs on a node, when it starts.
pub(super) fn weigh(model: &mut Model, r: &Reservation, node: NodeOrd, others: &[Arc<Reservation>], left: &mut Left) {
    if model.nodes.find(node).is_none() {
        return;
    }
    let mut trial = Transaction::default();
    then_on(model, &mut trial, r, node, others);
    occupy(model, &mut trial, r, Some(node));
    let slot = &model.nodes[node];
    for (pod, _) in r.seats_on(node) {
        let Some(pod) = model.pods.find(*pod) else { continue };
        for resource in model.shapes.value(pod.shape).resources() {
            left.at_most(resource, slot.allocatable.of(resource) - slot.used.of(resource));
        }
    }
    trial.rollback(model);
}
