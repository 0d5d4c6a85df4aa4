//! Step 5, one attempt: takes candidates off the model one after the other until a claim has its seats, and lets those stay
//! that have room after all. No seat is taken that was promised to another.

use std::collections::BTreeSet;

use super::{
    Round,
    candidates::Candidate,
    s3_place::{self, Seating},
    s3_topology, s3_unit, s4_backfill,
    victims::{self, Right},
};
use crate::{
    amount::Amounts,
    lost::LostWork,
    model::{Model, Place, device::Comer},
    slab::{AreaOrd, ClaimOrd, NodeOrd, PodOrd},
    transaction::Transaction,
};

/// A claim that has to go, or a quantum of it, with the seats that its pods have.
pub(super) struct Victim {
    pub(super) claim: ClaimOrd,
    /// It does not give back what it can do without, but is evicted.
    pub(super) evicted: bool,
    pub(super) whole: bool,
    right: Right,
    pub(super) seats: Vec<(PodOrd, Place)>,
}

/// What some victims are worth; the least is taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Price {
    /// Somebody is evicted.
    evicts: bool,
    /// The highest priority of those.
    priority: i32,
    lost: LostWork,
    pods: usize,
}

impl Price {
    pub(super) fn of(model: &Model, victims: &[Victim]) -> Price {
        let evicted = || victims.iter().filter(|v| v.evicted);
        let mut lost = LostWork::default();
        for victim in victims {
            lost += model.lost_work(victim.claim, victim.seats.iter().map(|(pod, _)| *pod));
        }
        Price {
            evicts: evicted().next().is_some(),
            priority: evicted()
                .map(|v| model.claims[v.claim].priority)
                .max()
                .unwrap_or(i32::MIN),
            lost,
            pods: victims.iter().map(|v| v.seats.len()).sum(),
        }
    }
}

/// Who is to get seats.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) claim: ClaimOrd,
    pub(super) pods: &'a [PodOrd],
    pub(super) ask: &'a Amounts,
}

/// Where victims are looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Way {
    /// Only those who sit in this area.
    pub(super) among: Option<AreaOrd>,
    /// All seats have to be in that area.
    pub(super) within: bool,
}

/// An attempt that worked: the claim has its seats, and the victims have none.
pub(super) type Found = (Transaction, Vec<Victim>);

/// Tries candidates in their order. The transaction is open on success, and nothing has changed otherwise.
pub(super) fn attempt(round: &mut Round<'_>, asker: Asker<'_>, from: &[Candidate], way: Way) -> Option<Found> {
    round.guard = s4_backfill::guard(round, asker.claim, asker.ask);
    let mut transaction = Transaction::default();
    let found = take_until_seated(round, &mut transaction, asker, from, way)
        .map(|taken| trim(round, &mut transaction, asker, taken));
    if let Some(guard) = round.guard.take() {
        guard.end(round);
    }
    match found {
        Some(victims) => Some((transaction, victims)),
        None => {
            transaction.rollback(round.model);
            None
        }
    }
}

fn take_until_seated(
    round: &mut Round<'_>,
    transaction: &mut Transaction,
    asker: Asker<'_>,
    from: &[Candidate],
    way: Way,
) -> Option<Vec<Victim>> {
    let Asker { claim, pods, ask } = asker;
    let together = s3_unit::is_bound_to_areas(round.model, claim);
    let seating = Seating {
        place: Place::Nominated,
        within: way.among.filter(|_| way.within),
    };
    let mut taken: Vec<Victim> = Vec::new();
    let mut from = from.iter();
    let mut seated = 0;
    loop {
        if together {
            let mark = transaction.mark();
            if round.model.over_limit(claim, ask).is_none()
                && s3_topology::seat_gang(round, transaction, claim, pods, seating).is_ok()
                && !moves_a_promise(round, claim)
            {
                return Some(taken);
            }
            transaction.rollback_to(round.model, mark);
        } else {
            while let Some(&pod) = pods.get(seated)
                && (seated > 0 || round.model.over_limit(claim, ask).is_none())
                && s3_place::seat_one(round, transaction, pod, seating)
            {
                seated += 1;
            }
            if seated == pods.len() {
                return (!moves_a_promise(round, claim)).then_some(taken);
            }
        }
        // Of a gang that is seated as a whole as many again as there are: it is tried a logarithm of times, and trimming
        // gives back what was too much.
        let before = taken.len();
        let wanted = if together { before.max(1) * 2 } else { before + 1 };
        // What is seated already is counted as used.
        let rest = round.model.ask_of_pods(pods.get(seated..).unwrap_or_default());
        while taken.len() < wanted && round.trials_left > 0 {
            let Some(next) = from.next() else { break };
            if victims::may_go(round.model, claim, next.claim, next.right, &rest)
                && sits_in(round.model, next.claim, way.among)
            {
                taken.extend(take(round, transaction, next, way));
            }
        }
        if taken.len() == before {
            return None;
        }
    }
}

/// True if a claim has a seat in an area.
pub(super) fn sits_in(model: &Model, claim: ClaimOrd, area: Option<AreaOrd>) -> bool {
    area.is_none() || model.members(claim).any(|pod| is_in(model, pod, area))
}

fn is_in(model: &Model, pod: PodOrd, area: Option<AreaOrd>) -> bool {
    let seat = model.pods[pod].place.seat();
    seat.is_some_and(|seat| area.is_none_or(|area| model.nodes[seat.node].touches(area)))
}

/// Takes a candidate's seats away: all of them, or those of one quantum. `None` if it has none to give.
fn take(round: &mut Round<'_>, transaction: &mut Transaction, of: &Candidate, way: Way) -> Option<Victim> {
    let model = &mut *round.model;
    let pods: Vec<PodOrd> = if of.whole {
        let seated = |p: &PodOrd| model.pods[*p].place != Place::Nowhere;
        model.members(of.claim).filter(seated).collect()
    } else {
        model.quantum_to_give_back(of.claim, |pod| way.among.is_some() && is_in(model, pod, way.among))
    };
    if pods.is_empty() {
        return None;
    }
    let mut seats = Vec::with_capacity(pods.len());
    for pod in pods {
        seats.push((pod, model.pods[pod].place.clone()));
        transaction.unseat(model, pod);
    }
    if let Some(guard) = &mut round.guard {
        guard.ask_anew();
    }
    let count = u32::try_from(seats.len()).unwrap_or(u32::MAX);
    round.trials_left = round.trials_left.saturating_sub(count);
    Some(Victim {
        claim: of.claim,
        evicted: of.evicts,
        whole: of.whole,
        right: of.right,
        seats,
    })
}

/// True if a reservation would wait for its queues, now that the claim has its seats.
fn moves_a_promise(round: &mut Round<'_>, claim: ClaimOrd) -> bool {
    let guard = round.guard.as_ref();
    guard.is_some_and(|guard| s4_backfill::moved_by_quota(round.model, &mut round.index.work, guard, claim).is_some())
}

/// Lets each victim stay that has room after all, the one that would have gone last first.
fn trim(round: &mut Round<'_>, transaction: &mut Transaction, asker: Asker<'_>, mut taken: Vec<Victim>) -> Vec<Victim> {
    let mut go: Vec<Victim> = Vec::new();
    while let Some(victim) = taken.pop() {
        let mark = transaction.mark();
        if !stays(round, transaction, asker, &victim, &go) {
            transaction.rollback_to(round.model, mark);
            go.push(victim);
        }
    }
    go.reverse();
    go
}

/// Puts a victim back, if all of it may be where it was.
fn stays(
    round: &mut Round<'_>,
    transaction: &mut Transaction,
    asker: Asker<'_>,
    victim: &Victim,
    go: &[Victim],
) -> bool {
    // What is above a minimum goes with it, and a part of a quantum does not stay for a whole one.
    let goes_with =
        |other: &Victim| other.claim == victim.claim && (other.whole || is_larger_quantum(round.model, other, victim));
    if go.iter().any(goes_with) {
        return false;
    }
    let pods: Vec<PodOrd> = victim.seats.iter().map(|(p, _)| *p).collect();
    let ask = round.model.ask_of_pods(&pods);
    round.model.over_limit(victim.claim, &ask).is_none()
        && victim
            .seats
            .iter()
            .all(|(pod, place)| sits_again(round, transaction, asker, *pod, place))
        && keeps_promises(round, asker.claim, victim)
        && asker.pods.iter().all(|&pod| keeps_seat(round, transaction, pod))
        // With those of its own queue back, its side may no longer be within the guarantee by which others go.
        && go
            .iter()
            .all(|other| victims::is_due(round.model, asker.claim, other.claim, other.right))
}

/// True if two victims are quanta of one group, the first a larger one.
fn is_larger_quantum(model: &Model, one: &Victim, other: &Victim) -> bool {
    let group = |victim: &Victim| victim.seats.first().map(|(pod, _)| model.pods[*pod].group.clone());
    one.seats.len() > other.seats.len() && !other.whole && group(one) == group(other)
}

/// Gives a pod its seat back, if it has room: what keeps new pods off the node has not driven it away.
fn sits_again(
    round: &mut Round<'_>,
    transaction: &mut Transaction,
    asker: Asker<'_>,
    pod: PodOrd,
    place: &Place,
) -> bool {
    let Some(seat) = place.seat() else { return true };
    let look = round.model.look(pod);
    // Beside somebody new on its device there is no more of it than new pods get.
    let beside = |other: &PodOrd| {
        let other = round.model.pods[*other].place.seat();
        other.is_some_and(|o| o.node == seat.node && o.devices.iter().any(|d| seat.devices.contains(d)))
    };
    let shape = round.model.shapes.value(look.shape);
    let shares = shape.gpus.as_ref().is_some_and(|need| !need.whole());
    let comer = if shares && asker.pods.iter().any(beside) {
        Comer::New
    } else {
        Comer::Back
    };
    let fits = round.model.has_room_for(shape, seat, comer)
        && round.index.related(round.model, round.policy, look, seat.node).is_ok();
    if fits {
        transaction.seat(round.model, pod, place.clone());
    }
    fits
}

/// True if those who were promised seats still have them with a victim that stays.
fn keeps_promises(round: &mut Round<'_>, claim: ClaimOrd, victim: &Victim) -> bool {
    let Some(guard) = &round.guard else { return true };
    let nodes: BTreeSet<NodeOrd> = victim.seats.iter().filter_map(|(_, p)| Some(p.seat()?.node)).collect();
    nodes.into_iter().all(|node| guard.all_hold_on(round.model, node)) && !moves_a_promise(round, claim)
}

/// True if a pod may still have the seat that was found for it: how others are spread may have changed since.
fn keeps_seat(round: &mut Round<'_>, transaction: &mut Transaction, pod: PodOrd) -> bool {
    let place = round.model.pods[pod].place.clone();
    let (Some(seat), true) = (place.seat(), round.model.waits_for_others(pod)) else {
        return true;
    };
    transaction.unseat(round.model, pod);
    let keeps = s3_place::fits_seat(round.model, round.index, round.policy, pod, seat);
    transaction.seat(round.model, pod, place);
    keeps
}
