//! Step 4, first half: reservations. The first claim of a queue that found no place gets the earliest start that the
//! expected ends of those who run allow, and a claim with a window gets its capacity at that time.
//!
//! How a start is found: see [`super::s4_search`]. Nothing is held by a reservation; `s4_backfill` asks of everybody
//! else who is to be placed whether that would move it.
//!
//! A promise is kept: once given, a reservation moves only to an earlier start, or when somebody outlives the estimate on
//! which it was given, or by those who have the right of way.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    CHECKED_PODS, Round, Waits, s3_place, s4_future, s4_hold,
    s4_search::{DOUBLED, Wish, search},
    s5_reclaim,
};
use crate::{
    decision::{Decision, Reason},
    event::Time,
    model::{Model, Reservation, Seat},
    slab::{ClaimOrd, NodeOrd, PodOrd, QueueOrd},
    transaction::Transaction,
};

/// Claims for which a cycle tries at most whether reservations can make way for them.
pub(super) const WAYS: u32 = 16;

/// Claims of one queue for which a start is looked for in a cycle: the first of it may be one that no time helps.
const HEADS: u32 = 4;

/// Looks whether each reservation still holds, if anything may have moved it, and moves those that do not.
pub(super) fn review(round: &mut Round<'_>) {
    let due = |r: &Arc<Reservation>| r.start <= round.now;
    if round.model.reservations.is_empty()
        || (round.model.do_reservations_hold() && !round.model.reservations.iter().any(due))
    {
        return;
    }
    let mut kept: Vec<Arc<Reservation>> = Vec::new();
    let mut all_known = true;
    let held = round.model.reserved_at.clone();
    let changed = held.as_ref().map(|held| round.model.changed_since(held));
    for old in std::mem::take(&mut round.model.reservations) {
        // Where nothing changed it is as it was when it held, if those before it are the same.
        let same = held.as_ref().is_some_and(|held| held.begins_with(&kept, &old));
        let wanted = is_wanted(round.model, &old);
        if wanted && holds(round, &old, &kept, changed.as_ref().filter(|_| same)) {
            debug_assert!(
                round.model.pods.len() > CHECKED_PODS || holds(round, &old, &kept, None),
                "what did not change holds"
            );
            kept.push(old);
            continue;
        }
        let Ok(pods) = s3_place::minimum(round.model, old.claim) else {
            round.model.freed += 1;
            continue;
        };
        let wish = Wish {
            claim: old.claim,
            pods,
            from: window_start(round.model, old.claim, round.now),
            before: round.model.claims.find(old.claim).and_then(|c| c.window).map(|w| w.end),
        };
        let new = if wish.pods.is_empty() || !waits(round.model, old.claim) {
            None
        } else if let Some(hold) = &old.hold {
            s4_hold::search(round, &wish, &kept, hold.term)
        } else {
            search(round, &wish, &kept)
        };
        if new.is_none() && wanted && round.moves_left == 0 && round.model.cut_short < DOUBLED {
            // Not known: the next cycle looks again, with a larger budget. One for which the largest is not enough has no
            // start.
            kept.push(old);
            all_known = false;
            continue;
        }
        // Whoever was kept out by it may be let in now.
        round.model.freed += 1;
        kept.extend(new.map(Arc::new));
    }
    round.model.reservations = kept;
    if all_known {
        round.model.reservations_hold();
    } else {
        round.unguarded = true;
        round.model.look_again_at(round.now);
    }
}

/// True if a claim still waits as it did when it got a reservation.
fn waits(model: &Model, claim: ClaimOrd) -> bool {
    let over = |claim: ClaimOrd| model.claims[claim].window.is_some_and(|w| w.end <= model.now);
    model.claims.find(claim).is_some_and(|c| {
        c.known && c.refused.is_none() && c.listed_pending && !over(claim) && model.queue_refuses(claim).is_none()
    })
}

/// True if a reservation is what its claim still wants.
fn is_wanted(model: &Model, r: &Reservation) -> bool {
    let window = model.claims.find(r.claim).and_then(|c| c.window);
    waits(model, r.claim)
        && r.window == window.is_some()
        && window.is_none_or(|w| w.start <= r.start && (w.start == r.start || w.start <= model.now))
        && s3_place::minimum(model, r.claim).is_ok_and(|mut pods| {
            let mut ours = r.pods();
            r.is_as_asked(model, &ours)
                // Mostly in the order in which they were.
                && (pods == ours || {
                    pods.sort_unstable();
                    ours.sort_unstable();
                    pods == ours
                })
        })
}

/// True if a reservation's seats will be free at its start, and it moves none of the others; where that was so, it is
/// enough to look at the nodes that changed since.
fn holds(
    round: &mut Round<'_>,
    r: &Arc<Reservation>,
    others: &[Arc<Reservation>],
    changed: Option<&BTreeSet<NodeOrd>>,
) -> bool {
    // Of one that is not this one, only the nodes that they share can have changed.
    let free = |round: &mut Round<'_>, of: &Reservation, others: &[Arc<Reservation>]| {
        of.nodes()
            .filter(|node| r.is_on(*node) && changed.is_none_or(|changed| changed.contains(node)))
            .all(|node| s4_future::holds_on(round.model, of, node, others))
            && s4_future::within_quota(round.model, of, others)
            && (!round.model.is_related(of) || s4_future::is_let_in(round, of, others))
    };
    // One whose time has come holds if it can start now.
    if !free(round, r, others) {
        return false;
    }
    let mut all = others.to_vec();
    all.push(r.clone());
    let later = |o: &&Arc<Reservation>| r.start < o.start && r.is_active(o.start);
    others.iter().filter(later).all(|other| free(round, other, &all))
}

/// The start of a claim's window, if that is still to come.
fn window_start(model: &Model, claim: ClaimOrd, now: Time) -> Option<Time> {
    let window = model.claims.find(claim)?.window?;
    (window.start > now).then_some(window.start)
}

/// Looks for a start of a claim whose minimum found no place now.
pub(super) fn reserve(round: &mut Round<'_>, claim: ClaimOrd, pods: &[PodOrd]) {
    let model = &*round.model;
    let slot = &model.claims[claim];
    let (queue, priority, window) = (slot.queue, slot.priority, slot.window.is_some());
    let window_end = slot.window.map(|w| w.end);
    let own = model.reservation_of(claim).cloned();
    // One whose time has come, and that could not start all the same, is nothing to hold on to.
    let own_holds = own.as_ref().is_some_and(|r| r.hold.is_none() && r.start > round.now);
    let held = own
        .as_ref()
        .is_some_and(|r| r.hold.is_some() && s4_hold::stands(model, r));
    let in_queue = |r: &&Arc<Reservation>| {
        r.claim != claim && !r.window && model.claims.find(r.claim).is_some_and(|c| c.queue == queue)
    };
    let rival = model.reservations.iter().find(in_queue).map(|r| r.claim);
    let rival_stays = rival.is_some_and(|rival| model.claims[rival].priority >= priority);
    // Promises to others that come after it would go on for ever: one that has waited for long gets its hold beside them.
    let only_hold = rival_stays
        && own.is_none()
        && s4_hold::patience_ends(model, claim, pods).is_some_and(|end| end <= round.now)
        && !model.reservations.iter().any(|r| in_queue(&r) && r.hold.is_some());
    if own.is_none() && !window {
        if rival_stays && !only_hold {
            return;
        }
        let tried = round.tried_heads.entry(queue).or_insert(0);
        *tried += 1;
        if *tried > HEADS {
            return;
        }
    }
    if !s5_reclaim::room_can_help(round, pods) {
        return;
    }
    let replaced = rival.filter(|_| !window && !rival_stays);
    let stays = |r: &&Arc<Reservation>| r.claim != claim && Some(r.claim) != replaced;
    let others: Vec<_> = round.model.reservations.iter().filter(stays).cloned().collect();
    let wish = Wish {
        claim,
        pods: pods.to_vec(),
        from: None,
        before: own.as_ref().filter(|_| own_holds).map(|r| r.start).or(window_end),
    };
    let something_ends = !(round.model.ending.is_empty() && round.model.going.is_empty() && others.is_empty());
    let mut found = (something_ends && !only_hold)
        .then(|| search(round, &wish, &others))
        .flatten();
    if found.is_none() && !window && !own_holds && !held {
        found = hold(round, &wish, &others, own.as_deref());
    }
    let Some(found) = found else {
        // Not known: the next cycle looks for its next term, with more work.
        let unknown =
            own.as_ref().is_some_and(|r| r.hold.is_some()) && round.moves_left == 0 && round.model.cut_short < DOUBLED;
        if !own_holds && !held && !unknown {
            round.model.unreserve(claim);
        }
        return;
    };
    round.model.unreserve(claim);
    if let Some(replaced) = replaced {
        round.model.unreserve(replaced);
    }
    keep(round.model, found);
}

/// A hold for a claim that has waited for long enough, if that can be.
fn hold(
    round: &mut Round<'_>,
    wish: &Wish,
    others: &[Arc<Reservation>],
    own: Option<&Reservation>,
) -> Option<Reservation> {
    let patience = s4_hold::patience_ends(round.model, wish.claim, &wish.pods)?;
    if patience > round.now {
        round.model.look_again_at(patience);
        return None;
    }
    if round.model.claims[wish.claim].no_hold_until > round.now {
        return None;
    }
    let Some(term) = s4_hold::next_term(own) else {
        round.model.claims[wish.claim].no_hold_until = Time(i64::MAX);
        return None;
    };
    let found = s4_hold::search(round, wish, others, term);
    if found.is_none() && round.moves_left > 0 {
        // Time alone changes nothing of that.
        round.model.claims[wish.claim].no_hold_until = Time(round.now.0.saturating_add(s4_hold::TERM));
    }
    found
}

/// Tries whether the reservations that are moved by a claim, which has its seats now, have others at which they start no
/// later. If so, they have them, and the claim may stay.
pub(super) fn make_way(round: &mut Round<'_>, claim: ClaimOrd) -> bool {
    if round.ways_left == 0 {
        return false;
    }
    round.ways_left -= 1;
    let mut kept: Vec<Arc<Reservation>> = Vec::new();
    for old in round.model.reservations.clone() {
        if old.claim == claim || holds(round, &old, &kept, None) {
            kept.push(old);
            continue;
        }
        let wish = Wish {
            claim: old.claim,
            pods: old.pods(),
            from: window_start(round.model, old.claim, round.now),
            before: Some(Time(old.start.0.saturating_add(1))),
        };
        // A hold that moves waits for others to leave, and would never start.
        if old.hold.is_some() || !is_wanted(round.model, &old) {
            return false;
        }
        let Some(new) = search(round, &wish, &kept) else {
            return false;
        };
        kept.push(Arc::new(new));
    }
    round.model.reservations = kept;
    round.model.freed += 1;
    true
}

/// Puts a reservation where it belongs: those for windows first.
fn keep(model: &mut Model, found: Reservation) {
    let at = if found.window {
        model.reservations.partition_point(|r| r.window)
    } else {
        model.reservations.len()
    };
    model.reservations.insert(at, Arc::new(found));
}

/// If a claim's window is not open, says so, and keeps its capacity for that time. True if it has to wait for it.
pub(super) fn waits_for_window(round: &mut Round<'_>, claim: ClaimOrd) -> bool {
    let slot = &round.model.claims[claim];
    let Some(window) = slot.window.filter(|_| slot.started.is_none()) else {
        return false;
    };
    if window.end <= round.now {
        round.say(
            claim,
            Reason::WindowOver { end: window.end },
            Some("create the claim again with a window that is still to come".into()),
        );
        return true;
    }
    if window.start <= round.now {
        return false;
    }
    round.model.look_again_at(window.start);
    if let Some(reason) = round.model.queue_refuses(claim) {
        round.say(claim, reason, None);
        return true;
    }
    let pods = match s3_place::minimum(round.model, claim) {
        Ok(pods) => pods,
        Err(reason) => {
            round.say(claim, reason, None);
            return true;
        }
    };
    let mut kept = round.model.reservation_of(claim).is_some();
    if !kept && !pods.is_empty() {
        let others = round.model.reservations.clone();
        let wish = Wish {
            claim,
            pods,
            from: Some(window.start),
            before: None,
        };
        if let Some(found) = search(round, &wish, &others) {
            keep(round.model, found);
            kept = true;
        }
    }
    let change = (!kept).then(|| "it would get it if what runs were expected to end before".to_owned());
    let start = window.start;
    round.say(claim, Reason::WaitingForWindow { start, kept }, change);
    true
}

/// Takes the seats of a claim's reservation, if its time has come and they are free: placement by itself may choose
/// others, with which the gang does not fit.
pub(super) fn take_reserved(round: &mut Round<'_>, transaction: &mut Transaction, claim: ClaimOrd) -> bool {
    let Some(reservation) = round.model.reservation_of(claim).cloned() else {
        return false;
    };
    if (reservation.hold.is_none() && reservation.start > round.now) || !is_wanted(round.model, &reservation) {
        return false;
    }
    let mark = transaction.mark();
    let (pods, seats): (Vec<PodOrd>, Vec<Seat>) = reservation.seats.iter().cloned().unzip();
    let seated = s3_place::seat_again(round, transaction, &pods, seats)
        && round.model.keeps_its_topology(claim, &pods.iter().copied().collect());
    if !seated {
        transaction.rollback_to(round.model, mark);
    } else if round.model.claims[claim].end_from(round.now) != reservation.end {
        // It starts late, and ends later than those were told who are to have its seats next.
        round.unguarded = true;
    }
    seated
}

/// Why a claim waits that a reservation keeps out.
pub(super) fn kept_out(model: &Model, claim: ClaimOrd, by: &Reservation) -> Waits {
    let slot = &model.claims[by.claim];
    let name = match &slot.key {
        crate::model::ClaimKey::Named(namespace, name) => format!("{namespace}/{name}"),
        crate::model::ClaimKey::Alone(uid) => {
            let pod = model.pods_by_uid.get(uid).and_then(|p| model.pods.find(*p));
            pod.map_or_else(|| uid.to_string(), |p| format!("{}/{}", p.namespace, p.name))
        }
    };
    let left = by.start.0.saturating_sub(model.now.0).max(0);
    let change = match model.claims[claim].expected_duration {
        _ if left == 0 => format!("it would start when {name} has started"),
        None => format!(
            "it would start now if it stated an expectedDuration of {} or less",
            crate::reason::span(left)
        ),
        Some(_) => format!("it would start now if it took {} or less", crate::reason::span(left)),
    };
    Waits {
        reason: Reason::WaitingForReservation {
            claim: name,
            start: by.start,
            length: model.claims[claim].length_from(model.now),
            hold: by.hold.is_some(),
        },
        counterfactual: Some(change),
    }
}

/// Says of each reservation that is new or has moved when its claim is to start.
pub(super) fn tell(round: &mut Round<'_>, decisions: &mut Vec<Decision>) {
    let model = &mut *round.model;
    if model.reservations.is_empty() && model.told_starts.is_empty() {
        return;
    }
    if let Some(next) = model
        .reservations
        .iter()
        .map(|r| r.start)
        .filter(|s| *s > model.now)
        .min()
    {
        model.look_again_at(next);
    }
    // A hold promises nothing.
    let promises = || model.reservations.iter().filter(|r| r.hold.is_none());
    let starts: std::collections::BTreeMap<ClaimOrd, Time> = promises().map(|r| (r.claim, r.start)).collect();
    let told = std::mem::replace(&mut model.told_starts, starts.clone());
    let mut news: Vec<(Time, String, Option<Time>)> = Vec::new();
    for (&claim, &start) in &starts {
        if told.get(&claim) != Some(&start) {
            let slot = &model.claims[claim];
            news.push((slot.created, slot.uid.to_string(), Some(start)));
        }
    }
    for &claim in told.keys().filter(|c| !starts.contains_key(c)) {
        // Nothing is to be said of one that was placed.
        if let Some(slot) = model
            .claims
            .find(claim)
            .filter(|c| c.listed_pending && c.started.is_none())
        {
            news.push((slot.created, slot.uid.to_string(), None));
        }
    }
    news.sort();
    decisions.extend(
        news.into_iter()
            .map(|(_, claim, start)| Decision::Reserve { claim, start }),
    );
}

impl Model {
    /// Everything is to be tried anew at a time.
    pub(crate) fn look_again_at(&mut self, at: Time) {
        self.retry_at = Some(self.retry_at.map_or(at, |r| r.min(at)));
    }
}

/// Searches that were made in a cycle, by queue.
pub(super) type TriedHeads = std::collections::BTreeMap<QueueOrd, u32>;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::{
        Budget, Event,
        steps::s4_search::MOVES,
        tests::fixtures::{World, claim, member, node},
    };

    #[test]
    fn a_promise_is_kept_while_there_was_no_time_to_look_and_moved_when_there_is() {
        let mut world = World::with([node("a", 4).into(), node("b", 4).into()]);
        for (name, on) in [("run-a", Some("a")), ("run-b", Some("b")), ("next", None)] {
            let mut of = claim(name, "", &[("w", 1, 1, 1)]);
            of.expected_duration = Some(if name == "run-b" { 2000 } else { 1000 });
            world.tell(of);
            let mut pod = member(&format!("{name}-0"), name, "w", 4000);
            pod.node = on.map(str::to_owned);
            world.tell(pod);
            world.run();
        }
        let starts = |model: &Model| model.reservations.iter().map(|r| r.start).collect::<Vec<_>>();
        assert_eq!(starts(&world.cluster.model), [Time(1000)]);
        // The node of the promise goes. With hardly any moves left it is not known what else there is.
        world.tell(Event::NodeGone("a".into()));
        for (moves, start) in [(1, 1000), (MOVES, 2000)] {
            let mut round = Round::begin(&mut world.cluster, Time(0), Budget::default());
            round.moves_left = moves;
            review(&mut round);
            assert_eq!(starts(round.model), [Time(start)], "{moves} moves");
            assert_eq!(round.model.do_reservations_hold(), moves == MOVES);
        }
    }
}
