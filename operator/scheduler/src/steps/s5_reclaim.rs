//! Step 5: evictions. A claim within its queue's guarantee gets back what others borrow, a claim of higher priority gets what
//! those of lower priority hold in its own queue, if that is proven to help; and gangs that stayed broken for too long are
//! released. Who may have to go for whom: see [`super::victims`].

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Round, s3_place, s3_place::Seating, s3_topology, s4_backfill, s5_areas, victims};
use crate::{
    amount::{Amount, Amounts},
    decision::EvictCause,
    event::Time,
    fit::Constraint,
    index::Look,
    model::{Model, Place},
    slab::{ClaimOrd, NodeOrd, PodOrd, QueueOrd},
    transaction::Transaction,
};

/// Milliseconds for which a gang that lost a member is left to be repaired: a controller makes a new pod within seconds
/// (10 s), which finds its place within a cycle; a node that restarts is back within 50 s.
pub(crate) const GRACE: i64 = 10_000 + 50_000;

/// Victims that are looked for at first.
const FEW: usize = 64;

/// A claim that may have to go, with the seats that its pods have.
pub(super) struct Victim {
    pub(super) claim: ClaimOrd,
    pub(super) seats: Vec<(PodOrd, Place)>,
}

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
            round.model.unpark(claim);
            continue;
        }
        let Ok(pods) = s3_place::minimum(round.model, claim) else {
            continue;
        };
        let alike = match pods.as_slice() {
            [] => continue,
            [pod] if !s3_topology::is_bound_to_areas(round.model, claim) => {
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
fn reclaim_for(round: &mut Round<'_>, claim: ClaimOrd, pods: &[PodOrd]) -> Option<Vec<Victim>> {
    if !room_can_help(round, pods) {
        return None;
    }
    let queue = round.model.claims[claim].queue;
    let reclaimed = if round.model.queues[queue].never_reclaims {
        None
    } else {
        reclaim_borrowed(round, claim, pods)
    };
    reclaimed.or_else(|| preempt(round, claim, pods))
}

/// From others: what they borrow, and devices of lower tiers.
fn reclaim_borrowed(round: &mut Round<'_>, claim: ClaimOrd, pods: &[PodOrd]) -> Option<Vec<Victim>> {
    let ask = round.model.ask_of_pods(pods);
    // Mostly a few are enough, and finding all of them costs more than the rest.
    let mut all = Vec::new();
    for limit in [FEW, usize::MAX] {
        all = victims::borrowers(round.model, claim, &ask, pods, limit);
        if all.is_empty() {
            return None;
        }
        if let Some((transaction, victims)) = attempt(round, claim, pods, &ask, &all) {
            transaction.commit();
            return Some(victims);
        }
        if all.len() < limit {
            break;
        }
    }
    // Going by priority and age alone took those first that sit on many nodes, until their queue was within its
    // guarantee. Those on one node may be enough: the node where the least important go, then the fewest.
    let ([pod], true) = (pods, round.trials_left > 0) else {
        return None;
    };
    let mut nodes: BTreeMap<u64, Vec<ClaimOrd>> = BTreeMap::new();
    for &victim in &all {
        let seats = round
            .model
            .members(victim)
            .filter_map(|p| round.model.pods[p].place.seat());
        for rank in seats.map(|s| round.model.nodes[s.node].rank).collect::<BTreeSet<u64>>() {
            nodes.entry(rank).or_default().push(victim);
        }
    }
    let mut best: Option<(i32, usize, u64)> = None;
    for (&rank, here) in &nodes {
        if let Some((transaction, victims)) = attempt(round, claim, &[*pod], &ask, here) {
            let priority = victims
                .iter()
                .map(|v| round.model.claims[v.claim].priority)
                .max()
                .unwrap_or(i32::MIN);
            let price = (priority, victims.iter().map(|v| v.seats.len()).sum(), rank);
            best = Some(best.map_or(price, |b| b.min(price)));
            transaction.rollback(round.model);
        }
    }
    let here = nodes.get(&best?.2)?;
    round.trials_left = round.trials_left.max(1);
    let (transaction, victims) = attempt(round, claim, &[*pod], &ask, here)?;
    transaction.commit();
    Some(victims)
}

/// A claim that states how long it runs waits up to a part of that, one half, for those of lower priority to end by
/// themselves: what they have done would be lost, and nobody is delayed by more than half of what he asked for.
const PATIENCE: i64 = 2;

/// True if a claim that could have others of its queue evicted is to start by itself soon enough, by its reservation. Its
/// patience ends at a fixed time, so that those who outlive their estimates cannot keep it waiting.
fn starts_soon(model: &mut Model, claim: ClaimOrd) -> bool {
    let (Some(reservation), Some(length)) = (model.reservation_of(claim), model.claims[claim].expected_duration) else {
        return false;
    };
    let patient_until = Time(model.claims[claim].created.0.saturating_add(length / PATIENCE));
    let soon = reservation.start <= patient_until && model.now < patient_until;
    if soon {
        model.retry_at = Some(model.retry_at.map_or(patient_until, |at| at.min(patient_until)));
    }
    soon
}

/// From those of lower priority in the claim's own queue, and, as far as its queue is within its guarantee without them,
/// from those who borrow.
fn preempt(round: &mut Round<'_>, claim: ClaimOrd, pods: &[PodOrd]) -> Option<Vec<Victim>> {
    if starts_soon(round.model, claim) {
        return None;
    }
    let ask = round.model.ask_of_pods(pods);
    for limit in [FEW, usize::MAX] {
        let own = victims::below(round.model, claim, pods, limit);
        if own.is_empty() || round.trials_left == 0 {
            return None;
        }
        let count = own.len();
        if let Some((transaction, victims)) = attempt(round, claim, pods, &ask, &own) {
            transaction.commit();
            return Some(victims);
        }
        if count < limit {
            break;
        }
    }
    let queue = round.model.claims[claim].queue;
    if round.model.queues[queue].never_reclaims || round.trials_left == 0 {
        return None;
    }
    let mut all = victims::below(round.model, claim, pods, usize::MAX);
    let freed: Vec<PodOrd> = all.iter().flat_map(|&c| round.model.members(c)).collect();
    let freed = round.model.ask_of_pods(&freed);
    let without: Amounts = ask
        .iter()
        .map(|&(r, asked)| {
            (
                r,
                asked - freed.iter().find(|(f, _)| *f == r).map_or(Amount::ZERO, |(_, a)| *a),
            )
        })
        .collect();
    let others = victims::borrowers(round.model, claim, &without, pods, usize::MAX);
    if others.is_empty() {
        return None;
    }
    all.extend(others);
    let (transaction, victims) = attempt(round, claim, pods, &ask, &all)?;
    transaction.commit();
    Some(victims)
}

/// Takes victims off one after the other until all pods have a seat, and lets those stay that have room after all. No seat is
/// taken that was promised to another. The transaction is open on success, and nothing has changed otherwise.
fn attempt(
    round: &mut Round<'_>,
    claim: ClaimOrd,
    pods: &[PodOrd],
    ask: &Amounts,
    victims: &[ClaimOrd],
) -> Option<(Transaction, Vec<Victim>)> {
    round.guard = s4_backfill::guard(round, claim, ask);
    let found = if s3_topology::is_bound_to_areas(round.model, claim) {
        s5_areas::attempt(round, claim, pods, ask, victims)
    } else {
        attempt_anywhere(round, claim, pods, ask, victims)
    };
    round.guard = None;
    found
}

fn attempt_anywhere(
    round: &mut Round<'_>,
    claim: ClaimOrd,
    pods: &[PodOrd],
    ask: &Amounts,
    victims: &[ClaimOrd],
) -> Option<(Transaction, Vec<Victim>)> {
    let mut transaction = Transaction::default();
    let mut taken: Vec<Victim> = Vec::new();
    let mut victims = victims.iter();
    let mut seated = 0;
    while let Some(&pod) = pods.get(seated) {
        let in_quota = seated > 0 || round.model.over_limit(claim, ask).is_none();
        if in_quota && s3_place::seat_one(round, &mut transaction, pod, Seating::new(Place::Nominated)) {
            seated += 1;
            continue;
        }
        let next = if round.trials_left == 0 { None } else { victims.next() };
        let Some(&next) = next else {
            transaction.rollback(round.model);
            return None;
        };
        // What is seated already is counted as used.
        let rest = round.model.ask_of_pods(pods.get(seated..).unwrap_or_default());
        if victims::may_go(round.model, claim, next, &rest) {
            taken.push(take_off(round, &mut transaction, next));
        }
    }
    if moves_a_promise(round) {
        transaction.rollback(round.model);
        return None;
    }
    let victims = trim(round, &mut transaction, claim, taken, pods);
    Some((transaction, victims))
}

/// True if a reservation would wait for its queues, now that the claim has its seats.
pub(super) fn moves_a_promise(round: &mut Round<'_>) -> bool {
    let guard = round.guard.as_ref();
    guard.is_some_and(|guard| s4_backfill::moved_by_quota(round.model, guard).is_some())
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

pub(super) fn take_off(round: &mut Round<'_>, transaction: &mut Transaction, claim: ClaimOrd) -> Victim {
    let model = &mut *round.model;
    let seated = |p: &PodOrd| model.pods[*p].place != Place::Nowhere;
    let pods: Vec<PodOrd> = model.members(claim).filter(seated).collect();
    let mut seats = Vec::with_capacity(pods.len());
    for pod in pods {
        seats.push((pod, model.pods[pod].place.clone()));
        transaction.unseat(model, pod);
    }
    if let Some(guard) = &mut round.guard {
        guard.ask_anew();
    }
    let count = u32::try_from(seats.len()).unwrap_or(u32::MAX);
    round.trials_left = round.trials_left.saturating_sub(count.max(1));
    Victim { claim, seats }
}

/// Lets each victim stay that has room after all, the one that would have gone last first.
pub(super) fn trim(
    round: &mut Round<'_>,
    transaction: &mut Transaction,
    claim: ClaimOrd,
    mut taken: Vec<Victim>,
    reclaimers: &[PodOrd],
) -> Vec<Victim> {
    let mut go: Vec<Victim> = Vec::new();
    while let Some(victim) = taken.pop() {
        let mark = transaction.mark();
        let pods: Vec<PodOrd> = victim.seats.iter().map(|(p, _)| *p).collect();
        let in_quota = round
            .model
            .over_limit(victim.claim, &round.model.ask_of_pods(&pods))
            .is_none();
        let stays = in_quota
            && victim.seats.iter().all(|(pod, place)| {
                let Some(seat) = place.seat() else { return true };
                // It was there: what keeps new pods off the node has not driven it away.
                let look = round.model.look(*pod);
                let fits = round
                    .model
                    .has_room_for(round.model.shapes.value(look.shape), seat.node, &seat.devices)
                    && round
                        .index
                        .related(round.model, round.policy, look, seat.node)
                        .is_ok();
                if fits {
                    transaction.seat(round.model, *pod, place.clone());
                }
                fits
            })
            && keeps_promises(round, &victim)
            && reclaimers.iter().all(|&pod| keeps_seat(round, transaction, pod))
            // With those of its own queue back, its side may no longer be within the guarantee by which others go.
            && go.iter().all(|other| victims::is_due(round.model, claim, other.claim));
        if !stays {
            transaction.rollback_to(round.model, mark);
            go.push(victim);
        }
    }
    go.reverse();
    go
}

/// True if those who were promised seats still have them with a victim that stays.
fn keeps_promises(round: &mut Round<'_>, victim: &Victim) -> bool {
    let Some(guard) = &round.guard else { return true };
    let nodes: BTreeSet<NodeOrd> = victim.seats.iter().filter_map(|(_, p)| Some(p.seat()?.node)).collect();
    nodes.into_iter().all(|node| guard.all_hold_on(round.model, node)) && !moves_a_promise(round)
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

/// Orders the evictions of a claim's victims.
fn order_evictions(round: &mut Round<'_>, claim: ClaimOrd, victims: &[Victim]) {
    let model = &mut *round.model;
    let by = model.claims[claim].uid.to_string();
    for &(pod, _) in victims.iter().flat_map(|v| &v.seats) {
        let slot = &mut model.pods[pod];
        slot.leaving = true;
        slot.leaving_for = Some(claim);
        if let Some(theirs) = slot.claim {
            model.dirty.insert(theirs);
        }
        model.going.insert(pod);
        model.claims[claim].awaiting.insert(pod);
        let by = by.clone();
        let cause = match model.pods[pod].claim {
            Some(theirs) if victims::is_below(model, claim, theirs) => EvictCause::Preempted { by },
            _ => EvictCause::Reclaimed { by },
        };
        round.evicted.push((pod, cause));
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
        for pod in live {
            // One whose eviction was refused is asked again when its time has come.
            if model.pods[pod].refused_until <= round.now {
                model.pods[pod].leaving = true;
                model.going.insert(pod);
                round.evicted.push((pod, EvictCause::GangBroken));
            }
        }
        model.mark(claim);
    }
}
