//! Step 4, holds: what protects the first that waits from those of whom nobody knows when they end.
//!
//! Without known ends there is no start to promise, and a stream of small pods that state no expected duration could keep
//! a gang waiting for ever. So the first claim of a queue that has waited for as long as
//! [`Settings::hold_after`](crate::Settings::hold_after) says, and for which no start is found, gets a hold: seats that are
//! its own when those who sit there have left. Nobody has to go for it; but until it starts, nobody gets a seat that would be
//! in its way who is not sure to be gone by the end of the hold's term.
//!
//! - Those are expected to leave who came last, and only as many as it needs: who has stayed for long mostly stays.
//! - If some of them are still there when the term ends, the hold is looked for anew, for twice the term. However long
//!   they stay, in the end a term is as long, and all of them are gone in it.
//!   [`LONGEST`] ends that: what has not left by then stays, and the claim waits like any other.
//! - What stands idle for it is at most what the claim asks for, of one claim of each queue; and what states a duration that
//!   fits into the term uses it meanwhile.

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

use super::{
    Round, s4_future,
    s4_search::{self, Seats, Wish},
};
use crate::{
    event::Time,
    model::{Hold, Model, Place, Reservation, Seat},
    slab::{ClaimOrd, PodOrd},
    transaction::Transaction,
};

/// Milliseconds of the first term of a hold: 10 minutes, in which most of what is short ends.
pub(super) const TERM: i64 = 10 * 60_000;

/// The longest term: a week. All terms together are two.
const LONGEST: i64 = TERM << 10;

/// When a claim has waited for long enough, if it ever has. Its pods are made anew when it is evicted: then it waits anew.
pub(super) fn patience_ends(model: &Model, claim: ClaimOrd, pods: &[PodOrd]) -> Option<Time> {
    let patience = model.hold_after?;
    let created = pods.iter().map(|pod| model.pods[*pod].created);
    let since = created.max().unwrap_or_default().max(model.claims[claim].created);
    Some(Time(since.0.saturating_add(patience)))
}

/// True if a hold is to stay what it is: its term goes on, or all whom it waits for have left.
pub(super) fn stands(model: &Model, hold: &Reservation) -> bool {
    let sits = |uid: &Arc<str>| {
        let pod = model.pods_by_uid.get(uid).and_then(|pod| model.pods.find(*pod));
        pod.is_some_and(|pod| pod.place != Place::Nowhere)
    };
    hold.start > model.now || !hold.hold.iter().any(|hold| hold.leave.iter().any(sits))
}

/// The term of a claim's next hold; `None` if there is to be none any more.
pub(super) fn next_term(own: Option<&Reservation>) -> Option<i64> {
    let last = own.and_then(|own| own.hold.as_ref());
    let term = last.map_or(TERM, |hold| hold.term.saturating_mul(2));
    (term <= LONGEST).then_some(term)
}

/// Seats for a claim when as few as can be have left of whom nobody knows when they end. The model is as before.
pub(super) fn search(
    round: &mut Round<'_>,
    wish: &Wish,
    others: &[Arc<Reservation>],
    term: i64,
) -> Option<Reservation> {
    let start = Time(round.now.0.saturating_add(term));
    let mut trial = Transaction::default();
    let found = search_on(round, wish, others, start, &mut trial);
    trial.rollback(round.model);
    let (seats, leave) = found?;
    let mut hold = Reservation::new(round.model, wish.claim, start, seats);
    hold.hold = Some(Hold { leave, term });
    Some(hold)
}

fn search_on(
    round: &mut Round<'_>,
    wish: &Wish,
    others: &[Arc<Reservation>],
    start: Time,
    trial: &mut Transaction,
) -> Option<(Seats, BTreeSet<Arc<str>>)> {
    let ask = round.model.ask_of_pods(&wish.pods);
    for pod in s4_future::gone_by(round.model, start, others) {
        trial.unseat(round.model, pod);
        round.moves_left = round.moves_left.saturating_sub(1);
    }
    let own: BTreeSet<PodOrd> = wish.pods.iter().copied().collect();
    let mut last_first = last_first(round.model, wish).into_iter();
    let mut gone: Vec<(PodOrd, Place)> = Vec::new();
    loop {
        if round.moves_left == 0 {
            return None;
        }
        if let Some(seats) = s4_search::seat_among(round, wish, others, start, &ask) {
            let leave = least(round, wish, &seats, &gone, trial);
            return Some((seats, leave));
        }
        // Twice as many each time, so that the attempts cost no more than the last one of them.
        let more = gone.len().max(1);
        let before = gone.len();
        for claim in last_first.by_ref() {
            let pods: Vec<PodOrd> = round.model.members(claim).collect();
            for pod in pods.into_iter().filter(|pod| !own.contains(pod)) {
                let place = round.model.pods[pod].place.clone();
                if place.is_taken() {
                    trial.unseat(round.model, pod);
                    round.moves_left = round.moves_left.saturating_sub(1);
                    gone.push((pod, place));
                }
            }
            if gone.len() >= before + more || round.moves_left == 0 {
                break;
            }
        }
        if gone.len() == before {
            return None;
        }
    }
}

/// Claims that run, and nobody knows until when, on nodes where the wish may sit; those that started last come first.
fn last_first(model: &Model, wish: &Wish) -> Vec<ClaimOrd> {
    let shapes: BTreeSet<_> = wish.pods.iter().map(|pod| model.pods[*pod].shape).collect();
    let may_sit = |node: &crate::model::NodeSlot| {
        node.present
            && shapes
                .iter()
                .any(|shape| model.fits_ever(model.shapes.value(*shape), node).is_ok())
    };
    let nodes: BTreeSet<_> = model
        .nodes
        .iter()
        .filter(|(_, node)| may_sit(node))
        .map(|(ord, _)| ord)
        .collect();
    // A quota is used wherever its pods sit.
    let limited = model.is_limited(wish.claim);
    let matters = |pod: PodOrd| {
        let seat = model.pods[pod].place.seat();
        seat.is_some_and(|seat| limited || nodes.contains(&seat.node))
    };
    let mut all = Vec::new();
    for (ord, claim) in model.claims.iter() {
        if let Some(started) = claim.started.filter(|_| claim.listed_running && ord != wish.claim)
            && claim.end_from(started).is_none()
            && model.members(ord).any(matters)
        {
            all.push((Reverse(started), Reverse(claim.created), claim.uid.clone(), ord));
        }
    }
    all.sort_unstable();
    all.into_iter().map(|(_, _, _, ord)| ord).collect()
}

/// Of those that were taken off, the ones that cannot stay beside the seats.
fn least(
    round: &mut Round<'_>,
    wish: &Wish,
    seats: &[(PodOrd, Seat)],
    gone: &[(PodOrd, Place)],
    trial: &mut Transaction,
) -> BTreeSet<Arc<str>> {
    let mark = trial.mark();
    for (pod, seat) in seats {
        trial.seat(round.model, *pod, Place::Nominated(seat.clone()));
    }
    let mut leave = BTreeSet::new();
    for (pod, place) in gone.iter().rev() {
        let shape = round.model.pods[*pod].shape;
        let may_stay = place
            .seat()
            .is_some_and(|seat| round.model.fits_seat(round.model.shapes.value(shape), seat));
        let put_back = trial.mark();
        if may_stay {
            trial.seat(round.model, *pod, place.clone());
        }
        if !may_stay || round.model.over_limit(wish.claim, &[]).is_some() {
            trial.rollback_to(round.model, put_back);
            leave.insert(round.model.pods[*pod].uid.clone());
        }
    }
    trial.rollback_to(round.model, mark);
    leave
}
