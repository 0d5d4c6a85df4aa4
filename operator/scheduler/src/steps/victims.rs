//! Who may have to go for whom, each condition strict:
//!
//! - of the same tier: claims of queues beyond their guarantee, for a claim whose queue stays within its own. A queue within
//!   its guarantee never loses anything to others, and the reclaimer's is within it afterwards: so nobody can reclaim back.
//! - of the same tier and queue: claims of lower priority. They could not preempt back, since theirs is lower.
//! - of a lower tier: where devices are asked for, since tiers share these. What they hold was promised on recall.
//! - never a claim that has not yet run as long as it was promised, nor one whose eviction was refused just now.

use crate::{
    amount::{Amount, Amounts},
    event::{Tier, Time},
    model::{Model, Place, TIERS, queue::VictimKey, tier_index},
    slab::{ClaimOrd, PodOrd, QueueOrd, ResourceOrd},
};

/// Whom a claim may have evicted in its own queue: claims whose priority is less than this.
pub(super) fn rank(model: &Model, claim: ClaimOrd, pods: &[PodOrd]) -> i64 {
    if pods.iter().any(|&p| model.pods[p].never_preempts) {
        return i64::from(i32::MIN);
    }
    i64::from(model.claims[claim].priority)
}

/// Claims of lower priority in the claim's own queue that may have to go for it, those that go first first, and not more
/// than `limit`. Those that sit where none of the pods may ever sit are left out, unless it is quota that is short.
pub(super) fn below(model: &mut Model, ord: ClaimOrd, pods: &[PodOrd], limit: usize) -> Vec<ClaimOrd> {
    let claim = &model.claims[ord];
    let rank = rank(model, ord, pods);
    let of_quota = model.over_limit(ord, &model.ask_of_pods(pods)).is_some();
    let mut sparing = Sparing::default();
    let running = model.queues[claim.queue].running.get(tier_index(claim.tier));
    let lower = running
        .into_iter()
        .flatten()
        .take_while(|key| i64::from(key.priority) < rank);
    let victims: Vec<ClaimOrd> = lower
        .filter(|key| {
            key.claim != ord
                && sparing.may_go(model, key.claim)
                && (of_quota || sits_in_the_way(model, key.claim, pods))
        })
        .take(limit)
        .map(|key| key.claim)
        .collect();
    sparing.note(model);
    victims
}

/// True if one of some pods may ever sit where a claim has a seat.
fn sits_in_the_way(model: &Model, victim: ClaimOrd, pods: &[PodOrd]) -> bool {
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

/// Claims of other queues, and of lower tiers, that may have to go for this one, those that go first first, and not many
/// more than `limit`. Those that sit where none of the pods may ever sit are left out, unless it is quota that is short.
pub(super) fn borrowers(
    model: &mut Model,
    ord: ClaimOrd,
    ask: &Amounts,
    pods: &[PodOrd],
    limit: usize,
) -> Vec<ClaimOrd> {
    let tier = model.claims[ord].tier;
    let devices = pods
        .iter()
        .any(|&p| model.shapes.value(model.pods[p].shape).gpus.is_some());
    let of_quota = model.over_limit(ord, &model.ask_of_pods(pods)).is_some();
    let mut all: Vec<ClaimOrd> = Vec::new();
    let mut sparing = Sparing::default();
    for lower in TIERS.into_iter().rev().filter(|t| *t == tier || (*t > tier && devices)) {
        let queues: Vec<QueueOrd> = if lower == tier {
            lenders_to(model, model.claims[ord].queue, tier, ask)
        } else {
            model.queues.iter().map(|(queue, _)| queue).collect()
        };
        let mut keys: Vec<&VictimKey> = Vec::new();
        for queue in queues {
            let running = model.queues[queue].running.get(tier_index(lower)).into_iter().flatten();
            let may_go = |key: &&VictimKey| {
                key.claim != ord
                    && sparing.may_go(model, key.claim)
                    && (of_quota || sits_in_the_way(model, key.claim, pods))
            };
            keys.extend(running.filter(may_go).take(limit));
        }
        keys.sort_unstable();
        all.extend(keys.into_iter().take(limit).map(|key| key.claim));
    }
    sparing.note(model);
    all
}

/// The queues from which a queue may take back for `ask` more: beside each queue on its way to the top that stays within its
/// guarantee, those that are beyond theirs, all the way down.
fn lenders_to(model: &Model, queue: QueueOrd, tier: Tier, ask: &Amounts) -> Vec<QueueOrd> {
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

/// True if a victim may still go, after what was taken off so far, for a claim of which `rest` is still to be seated.
pub(super) fn may_go(model: &Model, claim: ClaimOrd, victim: ClaimOrd, rest: &[(ResourceOrd, Amount)]) -> bool {
    if model.claims[claim].tier != model.claims[victim].tier || is_below(model, claim, victim) {
        return true;
    }
    let tier = tier_index(model.claims[victim].tier);
    sides(model, claim, victim).is_some_and(|(mine, theirs)| {
        model.queues[mine].within_guarantee(tier, rest)
            && !theirs.iter().any(|&q| model.queues[q].within_guarantee(tier, &[]))
    })
}

/// True if a victim that goes still has to: the claim's side is within the guarantee by which it takes.
pub(super) fn is_due(model: &Model, claim: ClaimOrd, victim: ClaimOrd) -> bool {
    if model.claims[claim].tier != model.claims[victim].tier || is_below(model, claim, victim) {
        return true;
    }
    let tier = tier_index(model.claims[victim].tier);
    sides(model, claim, victim).is_some_and(|(mine, _)| model.queues[mine].within_guarantee(tier, &[]))
}

/// Claims that time alone spares.
#[derive(Default)]
struct Sparing {
    /// When the first of them may go.
    until: Option<Time>,
}

impl Sparing {
    fn may_go(&mut self, model: &Model, claim: ClaimOrd) -> bool {
        let spared = spared_until(model, claim).filter(|until| *until > model.now);
        if let Some(until) = spared {
            self.until = Some(self.until.map_or(until, |earlier| earlier.min(until)));
        }
        spared.is_none() && evictable(model, claim)
    }

    /// Everything is tried anew when the first of them may go.
    fn note(self, model: &mut Model) {
        if let Some(until) = self.until {
            model.retry_at = Some(model.retry_at.map_or(until, |at| at.min(until)));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::{
        event::Pod,
        tests::fixtures::{World, node, pod, queue},
    };

    /// Each of them would be taken off the model on trial, in every cycle in which something was freed.
    #[test]
    fn nobody_is_tried_for_a_pod_that_is_larger_than_the_nodes_on_which_they_sit() {
        let mut world = World::with([node("n", 4).into()]);
        for i in 0..4 {
            world.tell(pod(&format!("low-{i}"), 1000));
        }
        world.run();
        for (uid, cores, tried) in [("huge", 9, 0), ("large", 4, 4)] {
            world.tell(Pod {
                priority: 9,
                ..pod(uid, cores * 1000)
            });
            let model = &mut world.cluster.model;
            let pod = model.pods_by_uid[uid];
            let claim = model.pods[pod].claim.unwrap();
            assert_eq!(below(model, claim, &[pod], usize::MAX).len(), tried, "{uid}");
        }
    }

    #[test]
    fn nobody_is_tried_who_borrows_on_a_node_that_takes_nothing_new() {
        let mut world = World::with([
            node("n", 4).into(),
            queue("mine", None, &[("cpu", 4000)], &[]).into(),
            queue("b", None, &[("cpu", 500)], &[]).into(),
        ]);
        for i in 0..4 {
            world.tell(Pod {
                queue: "b".into(),
                ..pod(&format!("b{i}"), 1000)
            });
        }
        world.run();
        world.tell(Pod {
            queue: "mine".into(),
            ..pod("want", 1000)
        });
        for (cordoned, tried) in [(false, 4), (true, 0)] {
            let mut on = node("n", 4);
            on.unschedulable = cordoned;
            world.tell(on);
            let model = &mut world.cluster.model;
            let pod = model.pods_by_uid["want"];
            let claim = model.pods[pod].claim.unwrap();
            let ask = model.ask_of_pods(&[pod]);
            let found = borrowers(model, claim, &ask, &[pod], usize::MAX);
            assert_eq!(found.len(), tried, "cordoned: {cordoned}");
        }
    }
}
