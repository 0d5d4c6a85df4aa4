//! Step 5: evictions. A claim within its queue's guarantee gets back what others borrow, a claim of higher priority gets what
//! those of lower priority hold in its own queue, if that is proven to help; and gangs that stayed broken for too long are
//! released. Who may have to go for whom: see [`super::victims`].

use std::collections::{BTreeSet, HashMap};

use super::{
    Round,
    candidates::{self, Candidate},
    s3_place, s3_unit,
    s5_areas::{is_unfinished, say_later, search},
    s5_attempt::{Asker, Found, Victim},
    victims,
};
use crate::{
    amount::{Amount, Amounts},
    decision::EvictCause,
    event::Time,
    fit::Constraint,
    index::Look,
    model::{Model, Place, Stage},
    slab::{ClaimOrd, PodOrd, QueueOrd},
};

/// Milliseconds for which a gang that lost a member is left to be repaired: a controller makes a new pod within seconds
/// (10 s), which finds its place within a cycle; a node that restarts is back within 50 s.
pub(crate) const GRACE: i64 = 10_000 + 50_000;

/// Victims that are looked for at first.
const FEW: usize = 64;

/// Tries to find whom to evict for each claim that found no place in this cycle.
///
/// All of it is tried on the model as it will be when those who are going anyway are gone: what they free need not be
/// freed a second time. They, and the new victims, are put back at the end, since until then they hold what they have.
pub(super) fn reclaim(round: &mut Round<'_>) {
    let mut blocked = std::mem::take(&mut round.blocked);
    let mut seen = BTreeSet::new();
    blocked.retain(|claim| seen.insert(*claim));
    if blocked.is_empty() {
        return;
    }
    let mut going = Vec::new();
    for pod in round.model.going.clone() {
        going.push((pod, round.model.unseat(pod)));
    }
    let mut helped = Vec::new();
    // Claims of one pod that are equal in all that counts here fail alike, and so do those of lower priority: nobody has to
    // go for them who would not have had to go for the one that failed.
    let mut hopeless: HashMap<(Look, QueueOrd), i64> = HashMap::new();
    for claim in blocked {
        if round.trials_left == 0 {
            // The next cycle goes on from here.
            say_later(round, claim);
            round.model.unpark(claim);
            round.model.unfinished = true;
            continue;
        }
        // Whatever becomes of it now, an earlier search is not left behind.
        round.goes_on = round.model.searched.remove(&claim);
        let Ok(pods) = s3_place::minimum(round.model, claim) else {
            continue;
        };
        let alike = match pods.as_slice() {
            [] => continue,
            [pod] if !s3_unit::is_bound_to_areas(round.model, claim) => {
                Some((round.model.look(*pod), round.model.claims[claim].queue))
            }
            _ => None,
        };
        let rank = victims::rank(round.model, claim, &pods);
        if alike.is_some_and(|alike| hopeless.get(&alike).is_some_and(|failed| rank <= *failed)) {
            continue;
        }
        match reclaim_for(round, claim, &pods) {
            Some(victims) => {
                order_evictions(round, claim, &victims);
                going.extend(victims.into_iter().flat_map(|v| v.seats));
                helped.push(claim);
            }
            None if is_unfinished(round.model, claim) => {
                round.model.unpark(claim);
                round.model.unfinished = true;
            }
            None => hopeless.extend(alike.map(|alike| (alike, rank))),
        }
    }
    for (pod, place) in going {
        round.model.seat(pod, place);
    }
    for claim in helped {
        s3_place::settle_kept_seats(round, claim);
    }
}

/// Finds the seats of some pods, and whom to evict for it. The pods have their seats then, and the victims have none.
///
/// First what elastic claims hold above their minima; then, beside that, what others borrow, and devices of lower tiers; then
/// those of lower priority in the claim's own queue.
fn reclaim_for(round: &mut Round<'_>, claim: ClaimOrd, pods: &[PodOrd]) -> Option<Vec<Victim>> {
    if !room_can_help(round, pods) {
        return None;
    }
    let ask = round.model.ask_of_pods(pods);
    let asker = Asker { claim, pods, ask: &ask };
    let queue = round.model.claims[claim].queue;
    let reclaims = !round.model.queues[queue].never_reclaims;
    let preempts = !starts_soon(round.model, claim);
    let grown = candidates::grown(round, asker);
    let found = search(round, asker, Stage::Grown, &grown)
        .or_else(|| {
            if reclaims {
                reclaim_borrowed(round, asker, &grown)
            } else {
                None
            }
        })
        .or_else(|| {
            if preempts {
                preempt(round, asker, &grown, reclaims)
            } else {
                None
            }
        });
    let (transaction, victims) = found?;
    transaction.commit();
    Some(victims)
}

/// From others: what they borrow, and devices of lower tiers.
fn reclaim_borrowed(round: &mut Round<'_>, asker: Asker<'_>, grown: &[Candidate]) -> Option<Found> {
    // Mostly a few are enough, and trying all of them costs more than the rest.
    for (limit, stage) in [(FEW, Stage::FewBorrowers), (usize::MAX, Stage::Borrowers)] {
        if is_unfinished(round.model, asker.claim) {
            return None;
        }
        // The few have been tried.
        if round.goes_on.as_ref().is_some_and(|search| stage < search.stage) {
            continue;
        }
        let all = candidates::borrowers(round, asker, asker.ask, limit);
        if all.is_empty() {
            return None;
        }
        let found = search(round, asker, stage, &after(grown, &all));
        if found.is_some() || all.len() < limit {
            return found;
        }
    }
    None
}

/// Those who shrink, then the others.
fn after(grown: &[Candidate], others: &[Candidate]) -> Vec<Candidate> {
    grown.iter().chain(others).cloned().collect()
}

/// A claim that states how long it runs waits up to a part of that, one half, for those of lower priority to end by
/// themselves: what they have done would be lost, and nobody is delayed by more than half of what he asked for.
const PATIENCE: i64 = 2;

/// True if a claim that could have others of its queue evicted is to start by itself soon enough, by its reservation; a hold
/// promises no start. Its patience ends at a fixed time, so that those who outlive their estimates cannot keep it waiting.
fn starts_soon(model: &mut Model, claim: ClaimOrd) -> bool {
    let reservation = model.reservation_of(claim).filter(|r| r.hold.is_none());
    let (Some(reservation), Some(length)) = (reservation, model.claims[claim].expected_duration) else {
        return false;
    };
    let patient_until = Time(model.claims[claim].created.0.saturating_add(length / PATIENCE));
    let soon = reservation.start <= patient_until && model.now < patient_until;
    if soon {
        model.look_again_at(patient_until);
    }
    soon
}

/// From those of lower priority in the claim's own queue, and, as far as its queue is within its guarantee without them,
/// from those who borrow.
fn preempt(round: &mut Round<'_>, asker: Asker<'_>, grown: &[Candidate], reclaims: bool) -> Option<Found> {
    let mut own = Vec::new();
    for (limit, stage) in [(FEW, Stage::FewBelow), (usize::MAX, Stage::Below)] {
        if is_unfinished(round.model, asker.claim) {
            return None;
        }
        // The few have been tried.
        if stage == Stage::FewBelow && round.goes_on.as_ref().is_some_and(|search| stage < search.stage) {
            continue;
        }
        own = candidates::below(round, asker, limit);
        if own.is_empty() {
            return None;
        }
        let found = search(round, asker, stage, &after(grown, &own));
        if found.is_some() {
            return found;
        }
        if own.len() < limit {
            break;
        }
    }
    if !reclaims || is_unfinished(round.model, asker.claim) {
        return None;
    }
    let below: BTreeSet<ClaimOrd> = own.iter().map(|c| c.claim).collect();
    let freed: Vec<PodOrd> = below.iter().flat_map(|claim| round.model.members(*claim)).collect();
    let freed = round.model.ask_of_pods(&freed);
    let without: Amounts = asker
        .ask
        .iter()
        .map(|&(r, asked)| {
            (
                r,
                asked - freed.iter().find(|(f, _)| *f == r).map_or(Amount::ZERO, |(_, a)| *a),
            )
        })
        .collect();
    let others = candidates::borrowers(round, asker, &without, usize::MAX);
    if others.is_empty() {
        return None;
    }
    own.extend(others);
    search(round, asker, Stage::All, &after(grown, &own))
}

/// False if what turns the pods away from every node is nothing that changes when others go.
pub(super) fn room_can_help(round: &mut Round<'_>, pods: &[PodOrd]) -> bool {
    let looks: BTreeSet<Look> = pods.iter().map(|&p| round.model.look(p)).collect();
    looks.into_iter().all(|look| {
        let fits = round.index.best(round.model, round.policy, look).is_some();
        let held = |c: &Constraint| {
            matches!(
                c,
                Constraint::HostPort
                    | Constraint::Resource(_)
                    | Constraint::Gpus
                    | Constraint::Spread
                    | Constraint::PodAntiAffinity
                    | Constraint::ExistingAntiAffinity
            )
        };
        fits || round
            .index
            .against(round.model, round.policy, look)
            .iter()
            .any(|(c, _)| held(c))
    })
}

/// Orders the evictions of a claim's victims.
fn order_evictions(round: &mut Round<'_>, claim: ClaimOrd, victims: &[Victim]) {
    let model = &mut *round.model;
    let by = model.claims[claim].uid.to_string();
    for victim in victims {
        let of_it = || victims.iter().filter(|v| v.claim == victim.claim);
        let pods = of_it().flat_map(|v| v.seats.iter().map(|(pod, _)| *pod));
        let lost = model.lost_work(victim.claim, pods);
        let by = by.clone();
        let cause = if !of_it().any(|v| v.evicted) {
            EvictCause::Shrunk { by }
        } else if victims::is_below(model, claim, victim.claim) {
            EvictCause::Preempted { by }
        } else {
            EvictCause::Reclaimed { by }
        };
        model.dirty.insert(victim.claim);
        for &(pod, _) in &victim.seats {
            let slot = &mut model.pods[pod];
            slot.leaving = true;
            slot.leaving_for = Some(claim);
            model.going.insert(pod);
            model.claims[claim].awaiting.insert(pod);
            if matches!(cause, EvictCause::Shrunk { .. }) {
                round.resized.insert((victim.claim, model.pods[pod].group.clone()));
            }
            round.evicted.push((pod, cause.clone(), lost));
        }
    }
}

/// Releases gangs as a whole that lost a member and could not be repaired in time.
pub(super) fn release_broken(round: &mut Round<'_>) {
    let model = &mut *round.model;
    let over = |c: &ClaimOrd| {
        model.claims[*c]
            .broken_since
            .is_some_and(|s| s.0.saturating_add(GRACE) <= round.now.0)
    };
    let mut claims: Vec<ClaimOrd> = model.broken.iter().copied().filter(over).collect();
    claims.sort_by(|a, b| {
        let (a, b) = (&model.claims[*a], &model.claims[*b]);
        (a.created, &a.uid).cmp(&(b.created, &b.uid))
    });
    for claim in claims {
        // A pod that was bound in time may have repaired it in this cycle.
        if !super::s1_heads::judge(model, claim, round.now) || model.claims[claim].broken_since.is_none() {
            continue;
        }
        // One that is being bound right now is not torn from the hands of who does it: it follows when it is bound.
        let is_bound = |p: &PodOrd| model.pods[*p].is_live() && matches!(model.pods[*p].place, Place::Bound(_));
        let live: Vec<PodOrd> = model.members(claim).filter(is_bound).collect();
        if live.is_empty() {
            continue;
        }
        let lost = model.lost_work(claim, live.iter().copied());
        for pod in live {
            // One whose eviction was refused is asked again when its time has come.
            if model.pods[pod].refused_until <= round.now {
                model.pods[pod].leaving = true;
                model.note_going(pod);
                round.evicted.push((pod, EvictCause::GangBroken, lost));
            }
        }
        model.mark(claim);
    }
}
