//! Who may have to go for whom, each condition strict:
//!
//! - of the same tier: claims of queues beyond their guarantee, for a claim whose queue stays within its own. A queue within
//!   its guarantee never loses anything to others, and the reclaimer's is within it afterwards: so nobody can reclaim back.
//! - of the same tier and queue: claims of lower priority. They could not preempt back, since theirs is lower.
//! - of a lower tier: where devices are asked for, since tiers share these. What they hold was promised on recall.
//! - what an elastic claim holds above its minimum, also: for a claim of the same queue and priority, and for one whose queue
//!   holds a smaller share by its weight than the one beside it that the grown claim is in, unless that is within its
//!   guarantee. What somebody has above a minimum is taken only for a minimum, and nobody takes a minimum for it: so that
//!   comes to an end.
//! - a claim goes as a whole, or (`Disruption::Single`) in parts as long as it is above its minimum.
//! - never a claim that has not yet run as long as it was promised, nor one whose eviction was refused just now.

use crate::{
    amount::{Amount, Amounts},
    event::{Tier, Time},
    model::{Model, Place, tier_index},
    slab::{ClaimOrd, PodOrd, QueueOrd, ResourceOrd},
};

/// Whom a claim may have evicted in its own queue: claims whose priority is less than this.
pub(super) fn rank(model: &Model, claim: ClaimOrd, pods: &[PodOrd]) -> i64 {
    if pods.iter().any(|&p| model.pods[p].never_preempts) {
        return i64::from(i32::MIN);
    }
    i64::from(model.claims[claim].priority)
}

/// True if one of some pods may ever sit where a claim has a seat.
pub(super) fn sits_in_the_way(model: &Model, victim: ClaimOrd, pods: &[PodOrd]) -> bool {
    let mut seats = model.members(victim).filter_map(|p| model.pods[p].place.seat());
    seats.any(|seat| {
        let node = &model.nodes[seat.node];
        let fits = |&p: &PodOrd| {
            let shape = model.shapes.value(model.pods[p].shape);
            let large_enough = |(r, asked): &(ResourceOrd, Amount)| node.allocatable.of(*r) >= *asked;
            shape.requests.iter().all(large_enough)
                && model.fits_ever(shape, node).is_ok()
                && !model.takes_nothing_new(shape, seat.node)
        };
        pods.iter().any(fits)
    })
}

/// True if a claim is of lower priority than another in the same queue and tier, so that it may have to go for it.
pub(super) fn is_below(model: &Model, claim: ClaimOrd, victim: ClaimOrd) -> bool {
    let (claim, victim) = (&model.claims[claim], &model.claims[victim]);
    claim.queue == victim.queue && claim.tier == victim.tier && victim.priority < claim.priority
}

/// The queues from which a queue may take back for `ask` more: beside each queue on its way to the top that stays within its
/// guarantee, those that are beyond theirs, all the way down.
pub(super) fn lenders_to(model: &Model, queue: QueueOrd, tier: Tier, ask: &Amounts) -> Vec<QueueOrd> {
    let index = tier_index(tier);
    let path = &model.queues[queue].path;
    let mut found = Vec::new();
    for (step, &mine) in path.iter().enumerate() {
        if !model.queues[mine].within_guarantee(index, ask) {
            continue;
        }
        let mut beside: Vec<QueueOrd> = match path.get(step + 1) {
            Some(&above) => model.queues[above].children.clone(),
            // One whose way to the top is broken stands beside those at the top.
            None => {
                let at_top = model
                    .queues
                    .iter()
                    .filter(|(_, q)| q.path.len() == 1 || q.fault.is_some());
                at_top.map(|(queue, _)| queue).collect()
            }
        };
        beside.retain(|&q| q != mine);
        while let Some(other) = beside.pop() {
            let slot = &model.queues[other];
            if slot
                .path
                .iter()
                .all(|&q| path.contains(&q) || !model.queues[q].within_guarantee(index, &[]))
            {
                found.push(other);
                beside.extend(&slot.children);
            }
        }
    }
    found
}

/// The queue on the claim's way to the top that stands beside the victim's, and those on the victim's side; `None` if one of
/// the two is above the other.
fn sides(model: &Model, claim: ClaimOrd, victim: ClaimOrd) -> Option<(QueueOrd, &[QueueOrd])> {
    let own = &model.queues[model.claims[claim].queue].path;
    let theirs = &model.queues[model.claims[victim].queue].path;
    let shared = own
        .iter()
        .rev()
        .zip(theirs.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let mine = own.len().checked_sub(shared + 1).and_then(|i| own.get(i))?;
    let theirs = theirs.get(..theirs.len() - shared).filter(|side| !side.is_empty())?;
    Some((*mine, theirs))
}

/// By what a claim has to go, or to shrink, for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Right {
    /// A firmer tier, a higher priority in the same queue, or a minimum of the same priority there.
    Rank,
    /// The guarantee of a queue whose capacity its own has borrowed.
    Guarantee,
    /// The larger share of its queue.
    Share,
}

/// By what a claim that is above its minimum has to shrink for another, if it has to.
pub(super) fn right_to_shrink(
    model: &Model,
    ord: ClaimOrd,
    other: ClaimOrd,
    rank: i64,
    devices: bool,
    ask: &Amounts,
) -> Option<Right> {
    let (claim, theirs) = (&model.claims[ord], &model.claims[other]);
    if claim.tier != theirs.tier {
        return (theirs.tier > claim.tier && devices).then_some(Right::Rank);
    }
    if claim.queue == theirs.queue {
        return (i64::from(theirs.priority) <= rank).then_some(Right::Rank);
    }
    if model.queues[claim.queue].never_reclaims {
        return None;
    }
    let tier = tier_index(claim.tier);
    let (mine, theirs) = sides(model, ord, other)?;
    if theirs.iter().any(|&q| model.queues[q].within_guarantee(tier, &[])) {
        return None;
    }
    if model.queues[mine].within_guarantee(tier, ask) {
        return Some(Right::Guarantee);
    }
    let beside = *theirs.last()?;
    (model.dominant_share(mine) < model.dominant_share(beside)).then_some(Right::Share)
}

/// True if a victim may still go, after what was taken off so far, for a claim of which `rest` is still to be seated.
pub(super) fn may_go(
    model: &Model,
    claim: ClaimOrd,
    victim: ClaimOrd,
    right: Right,
    rest: &[(ResourceOrd, Amount)],
) -> bool {
    if right == Right::Rank {
        return true;
    }
    let tier = tier_index(model.claims[victim].tier);
    sides(model, claim, victim).is_some_and(|(mine, theirs)| {
        (right == Right::Share || model.queues[mine].within_guarantee(tier, rest))
            && !theirs.iter().any(|&q| model.queues[q].within_guarantee(tier, &[]))
    })
}

/// True if a victim that goes still has to: the claim's side is within the guarantee by which it takes.
pub(super) fn is_due(model: &Model, claim: ClaimOrd, victim: ClaimOrd, right: Right) -> bool {
    if right != Right::Guarantee {
        return true;
    }
    let tier = tier_index(model.claims[victim].tier);
    sides(model, claim, victim).is_some_and(|(mine, _)| model.queues[mine].within_guarantee(tier, &[]))
}

/// Claims that time alone spares.
#[derive(Default)]
pub(super) struct Sparing {
    /// When the first of them may go.
    until: Option<Time>,
}

impl Sparing {
    pub(super) fn may_go(&mut self, model: &Model, claim: ClaimOrd) -> bool {
        self.may_shrink(model, claim) && evictable(model, claim)
    }

    /// True if nothing keeps a claim from giving back what it can do without.
    pub(super) fn may_shrink(&mut self, model: &Model, claim: ClaimOrd) -> bool {
        let spared = spared_until(model, claim).filter(|until| *until > model.now);
        if let Some(until) = spared {
            self.until = Some(self.until.map_or(until, |earlier| earlier.min(until)));
        }
        spared.is_none()
    }

    /// Everything is tried anew when the first of them may go.
    pub(super) fn note(self, model: &mut Model) {
        if let Some(until) = self.until {
            model.look_again_at(until);
        }
    }
}

/// Until when a claim is not to be touched: it has not run as long as it was promised.
fn spared_until(model: &Model, ord: ClaimOrd) -> Option<Time> {
    let claim = &model.claims[ord];
    let refused = model.members(ord).map(|p| model.pods[p].refused_until).max()?;
    let runtime = claim.started.map(|s| Time(s.0.saturating_add(claim.min_runtime)));
    Some(runtime.map_or(refused, |r| r.max(refused)))
}

/// True if a claim can be evicted as a whole: it holds something, nothing of it is leaving already, and none of it was
/// placed in this very cycle or is not confirmed.
fn evictable(model: &Model, claim: ClaimOrd) -> bool {
    let mut bound = 0;
    for pod in model.members(claim).map(|p| &model.pods[p]) {
        match pod.place {
            Place::Nowhere => {}
            Place::Bound(_) if !pod.leaving && !pod.terminating => bound += 1,
            _ => return false,
        }
    }
    bound > 0
}
