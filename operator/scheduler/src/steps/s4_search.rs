//! Step 4: the search for a start. The future is tried on the live model: those who run are taken off in the order in which
//! they are expected to end until all pods have a seat, and everything is put back.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Round,
    s3_place::{self, NoPlace, Seating},
    s3_topology, s3_unit,
    s4_backfill::{self, Guard},
    s4_future,
};
use crate::{
    event::Time,
    model::{Model, Place, Reservation, Seat, ending::LEAVING},
    slab::{ClaimOrd, PodOrd},
    transaction::Transaction,
};

/// Pods that one cycle takes off the model and puts on it at most, to find reservations: some 10 ms of work.
pub(super) const MOVES: u32 = 16_384;

/// How often they may double while a search is cut short: up to 16 million, more than any cluster has pods.
pub(super) const DOUBLED: u32 = 10;

/// Moves of a cycle when the search was cut short in so many before it. What one cycle could not look at to the end the
/// next ones do, with twice the work each: the future is tried on the live model and cannot be left half tried, so that
/// they look at the first ends again, which costs no more than the last search.
pub(super) fn moves(cut_short: u32) -> u32 {
    MOVES << cut_short.min(DOUBLED)
}

/// Notes whether the search for a start was cut short, and then sees to it that the next cycle goes on with it.
pub(super) fn note_cut(round: &mut Round<'_>) {
    if round.moves_left > 0 {
        round.model.cut_short = 0;
    } else if round.model.cut_short < DOUBLED {
        round.model.cut_short += 1;
        round.model.unfinished = true;
        round.model.look_again_at(round.now);
    }
}

/// What is looked for.
pub(super) struct Wish {
    pub(super) claim: ClaimOrd,
    pub(super) pods: Vec<PodOrd>,
    /// Not to start earlier.
    pub(super) from: Option<Time>,
    /// Only of use if it starts earlier than this.
    pub(super) before: Option<Time>,
}

/// The earliest start that those who run, and other reservations, allow. The model is as before.
pub(super) fn search(round: &mut Round<'_>, wish: &Wish, others: &[Arc<Reservation>]) -> Option<Reservation> {
    let mut trial = Transaction::default();
    let found = search_on(round, wish, others, &mut trial);
    trial.rollback(round.model);
    let (start, seats) = found?;
    Some(Reservation::new(round.model, wish.claim, start, seats))
}

/// Pods, each with a seat.
pub(super) type Seats = Vec<(PodOrd, Seat)>;

fn search_on(
    round: &mut Round<'_>,
    wish: &Wish,
    others: &[Arc<Reservation>],
    trial: &mut Transaction,
) -> Option<(Time, Seats)> {
    let going = Time(round.now.0.saturating_add(LEAVING));
    let leave: Vec<PodOrd> = round.model.going.iter().copied().collect();
    let until = wish.from.or(wish.before);
    let mut ends: Vec<(Time, Option<ClaimOrd>)> = Vec::new();
    if !leave.is_empty() {
        ends.push((going, None));
    }
    let running = round.model.endings(until, MOVES as usize);
    ends.extend(running.into_iter().map(|(end, claim)| (end, Some(claim))));
    // The end of a reservation is a time to look at, though nothing that runs ends then.
    ends.extend(
        others
            .iter()
            .filter_map(|r| r.end)
            .filter(|end| *end > round.now)
            .map(|end| (end, None)),
    );
    ends.extend(wish.from.map(|from| (from, None)));
    // Stable: those who end at one time stay in their order.
    ends.sort_by_key(|(end, _)| *end);
    let ask = round.model.ask_of_pods(&wish.pods);
    let own: BTreeSet<PodOrd> = wish.pods.iter().copied().collect();
    let mut seated = 0;
    let mut ends = ends.into_iter().peekable();
    while let Some((time, ended)) = ends.next() {
        if wish.before.is_some_and(|before| time >= before) || wish.from.is_some_and(|from| time > from) {
            return None;
        }
        let pods = match ended {
            Some(claim) => round.model.members(claim).collect(),
            None if time == going => leave.clone(),
            None => Vec::new(),
        };
        for pod in pods.into_iter().filter(|p| !own.contains(p)) {
            if round.model.pods[pod].place != Place::Nowhere {
                trial.unseat(round.model, pod);
                round.moves_left = round.moves_left.saturating_sub(1);
            }
        }
        if round.moves_left == 0 {
            return None;
        }
        let more = ends.peek().is_some_and(|(next, _)| *next == time);
        if more || wish.from.is_some_and(|from| time < from) {
            continue;
        }
        if others.is_empty() {
            // Whatever found a seat keeps it: what ends later only adds to it.
            seated = seat_more(round, wish, trial, seated, &ask);
            if seated == wish.pods.len() {
                stand_closer(round, wish, trial);
                return Some((time, seats_of(round.model, &wish.pods)));
            }
        } else if let Some(seats) = seat_among(round, wish, others, time, &ask) {
            return Some((time, seats));
        }
    }
    None
}

/// Seats those of the wish that have no seat, as far as there is room, and says how many have one.
fn seat_more(
    round: &mut Round<'_>,
    wish: &Wish,
    trial: &mut Transaction,
    mut seated: usize,
    ask: &crate::amount::Amounts,
) -> usize {
    if seated == 0 && round.model.over_limit(wish.claim, ask).is_some() {
        return 0;
    }
    if s3_unit::is_bound_to_areas(round.model, wish.claim) {
        // In one area or not at all.
        let mark = trial.mark();
        let all = s3_topology::seat_gang(round, trial, wish.claim, &wish.pods, Seating::new(Place::Nominated));
        let tried = all
            .as_ref()
            .map_or_else(|no_place| no_place.placed as usize, |()| wish.pods.len());
        round.moves_left = round
            .moves_left
            .saturating_sub(u32::try_from(tried).unwrap_or(u32::MAX));
        if all.is_err() {
            trial.rollback_to(round.model, mark);
            return 0;
        }
        return wish.pods.len();
    }
    while let Some(&pod) = wish.pods.get(seated) {
        round.moves_left = round.moves_left.saturating_sub(1);
        if !s3_place::seat_one(round, trial, pod, Seating::new(Place::Nominated)) {
            break;
        }
        seated += 1;
    }
    seated
}

/// Seats those of the wish, who all have a seat somewhere, as placement would: as close together as they would like.
fn stand_closer(round: &mut Round<'_>, wish: &Wish, trial: &mut Transaction) {
    if !s3_unit::has_topology(round.model, wish.claim) || s3_unit::is_bound_to_areas(round.model, wish.claim) {
        return;
    }
    let mark = trial.mark();
    for &pod in &wish.pods {
        trial.unseat(round.model, pod);
        round.moves_left = round.moves_left.saturating_sub(1);
    }
    if s3_topology::seat_gang(round, trial, wish.claim, &wish.pods, Seating::new(Place::Nominated)).is_err() {
        trial.rollback_to(round.model, mark);
    }
}

/// Seats those of the wish at a time at which other reservations hold seats, and so that none of those to come is moved.
/// The model is as before.
pub(super) fn seat_among(
    round: &mut Round<'_>,
    wish: &Wish,
    others: &[Arc<Reservation>],
    time: Time,
    ask: &crate::amount::Amounts,
) -> Option<Seats> {
    let mut trial = Transaction::default();
    for other in others.iter().filter(|o| o.is_active(time)) {
        s4_future::occupy(round.model, &mut trial, other, None);
    }
    let guard = Guard::later(round.model, wish.claim, time, others.to_vec());
    let outer = round.guard.replace(guard);
    let pods = u32::try_from(wish.pods.len()).unwrap_or(u32::MAX);
    let fits = round.model.over_limit(wish.claim, ask).is_none()
        && match s3_topology::seat_gang(
            round,
            &mut trial,
            wish.claim,
            &wish.pods,
            Seating::new(Place::Nominated),
        ) {
            Ok(()) => {
                round.moves_left = round.moves_left.saturating_sub(pods);
                true
            }
            Err(NoPlace { placed, .. }) => {
                round.moves_left = round.moves_left.saturating_sub(placed + 1);
                false
            }
        };
    let guard = std::mem::replace(&mut round.guard, outer);
    let fits = fits
        && guard.is_none_or(|guard| {
            s4_backfill::moved_by_quota(round.model, &mut round.index.work, &guard, wish.claim).is_none()
        });
    let seats = fits.then(|| seats_of(round.model, &wish.pods));
    trial.rollback(round.model);
    seats
}

fn seats_of(model: &Model, pods: &[PodOrd]) -> Seats {
    let seat = |pod: &PodOrd| Some((*pod, model.pods[*pod].place.seat()?.clone()));
    pods.iter().filter_map(seat).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Budget,
        tests::fixtures::{World, node},
    };

    #[test]
    fn a_search_that_was_cut_short_goes_on_in_the_next_cycle_with_twice_the_work() {
        let mut world = World::with([node("n", 4).into()]);
        for times in 1..=DOUBLED {
            let mut round = Round::begin(&mut world.cluster, Time(0), Budget::default());
            round.moves_left = 0;
            note_cut(&mut round);
            assert!(world.cluster.is_unfinished());
            assert_eq!(world.cluster.next_time(), Some(Time(0)));
            let round = Round::begin(&mut world.cluster, Time(0), Budget::default());
            assert_eq!(round.moves_left, MOVES << times);
        }
        // It ends, also where the most is not enough.
        let mut round = Round::begin(&mut world.cluster, Time(0), Budget::default());
        round.moves_left = 0;
        note_cut(&mut round);
        assert!(!world.cluster.is_unfinished());
        let mut round = Round::begin(&mut world.cluster, Time(0), Budget::default());
        note_cut(&mut round);
        let round = Round::begin(&mut world.cluster, Time(0), Budget::default());
        assert_eq!(round.moves_left, MOVES, "what came to an end starts small again");
    }
}
