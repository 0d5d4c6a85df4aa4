//! In which order claims are tried that may have to go: those that only shrink before those that are evicted; then the
//! lowest priority; then the least lost work; then the newest; then by UID, a part of a claim before the whole.

use std::{cmp::Reverse, collections::HashMap, rc::Rc, sync::Arc};

use super::{Round, s5_attempt::Asker, victims, victims::Right};
use crate::{
    amount::Amounts,
    event::{Disruption, Time},
    lost::LostWork,
    model::{Model, TIERS, tier_index},
    slab::{ClaimOrd, PodOrd, QueueOrd},
};

/// A claim that may have to go, or one quantum that it holds above its minimum.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    /// It would not give back what it can do without, but be evicted.
    pub(super) evicts: bool,
    priority: i32,
    lost: LostWork,
    created: Reverse<Time>,
    uid: Reverse<Arc<str>>,
    pub(super) whole: bool,
    pub(super) claim: ClaimOrd,
    pub(super) right: Right,
    /// Milliseconds of work of each of its pods that would be lost.
    time: i64,
}

impl Candidate {
    /// A claim as a whole, or so many of its pods; `time` is how long it would have worked in vain.
    fn new(model: &Model, claim: ClaimOrd, right: Right, pods: Option<Vec<PodOrd>>, time: i64) -> Candidate {
        let slot = &model.claims[claim];
        Candidate {
            evicts: pods.is_none() || slot.disruption != Disruption::Elastic,
            whole: pods.is_none(),
            priority: slot.priority,
            lost: match pods {
                Some(pods) => model.lost_in(time, pods),
                None => model.lost_in(time, model.members(claim).filter(|p| model.pods[*p].is_live())),
            },
            created: Reverse(slot.created),
            uid: Reverse(slot.uid.clone()),
            claim,
            right,
            time,
        }
    }
}

/// The same candidates, with those first, among equally important ones, that lose least for what they hold: of many small
/// ones each may be cheap, and one large one cheaper than all.
pub(super) fn by_time(candidates: &[Candidate]) -> Vec<Candidate> {
    let mut sorted = candidates.to_vec();
    sorted.sort_by(|a, b| (a.evicts, a.priority, a.time, a).cmp(&(b.evicts, b.priority, b.time, b)));
    sorted
}

/// The claims that run in a queue, by tier, in the order in which they are tried; found once in a cycle, when it is first
/// asked for.
#[derive(Default)]
pub(super) struct Prices(HashMap<(QueueOrd, usize), Rc<[Candidate]>>);

impl Prices {
    fn running(&mut self, model: &Model, queue: QueueOrd, tier: usize) -> Rc<[Candidate]> {
        let found = self.0.entry((queue, tier)).or_insert_with(|| {
            let running = model.queues[queue].running.get(tier).into_iter().flatten();
            let mut all: Vec<Candidate> = Vec::new();
            for claim in running.map(|key| key.claim) {
                let time = model.lost_time(claim);
                if model.claims[claim].disruption == Disruption::Single && model.grown.contains(&claim) {
                    let quanta = model.quanta_above_minimum(claim).into_iter();
                    all.extend(quanta.map(|pods| Candidate::new(model, claim, Right::Rank, Some(pods), time)));
                }
                all.push(Candidate::new(model, claim, Right::Rank, None, time));
            }
            all.sort_unstable();
            all.into()
        });
        found.clone()
    }
}

/// Claims of lower priority in the claim's own queue that may have to go for it, those that go first first, and not more
/// than `limit`. Those that sit where none of the pods may ever sit are left out, unless it is quota that is short.
pub(super) fn below(round: &mut Round<'_>, asker: Asker<'_>, limit: usize) -> Vec<Candidate> {
    let Asker { claim: ord, pods, .. } = asker;
    let model = &*round.model;
    let claim = &model.claims[ord];
    let rank = victims::rank(model, ord, pods);
    let of_quota = model.over_limit(ord, asker.ask).is_some();
    let mut chosen = Chosen::new(asker, of_quota);
    // Mostly all are equally important, and nobody need be priced.
    let first = model.queues[claim.queue]
        .running
        .get(tier_index(claim.tier))
        .and_then(|r| r.first());
    if first.is_none_or(|first| i64::from(first.priority) >= rank) {
        return Vec::new();
    }
    let running = round.prices.running(model, claim.queue, tier_index(claim.tier));
    let lower = running.iter().take_while(|c| i64::from(c.priority) < rank);
    let found: Vec<Candidate> = lower.filter(|c| chosen.may_go(model, c)).take(limit).cloned().collect();
    chosen.sparing.note(round.model);
    found
}

/// Who of those that run may have to go.
struct Chosen<'a> {
    asker: Asker<'a>,
    /// It is quota that is short: it is of no matter where somebody sits.
    of_quota: bool,
    sparing: victims::Sparing,
    /// Those of whom a part was looked at: each pod of a large group may be one.
    in_parts: HashMap<ClaimOrd, bool>,
}

impl<'a> Chosen<'a> {
    fn new(asker: Asker<'a>, of_quota: bool) -> Self {
        Self {
            asker,
            of_quota,
            sparing: victims::Sparing::default(),
            in_parts: HashMap::new(),
        }
    }

    fn may_go(&mut self, model: &Model, candidate: &Candidate) -> bool {
        let Asker { claim, pods, .. } = self.asker;
        let other = candidate.claim;
        if other == claim {
            return false;
        }
        if let Some(known) = self.in_parts.get(&other).filter(|_| !candidate.whole) {
            return *known;
        }
        let spared = if candidate.whole {
            !self.sparing.may_go(model, other)
        } else {
            !self.sparing.may_shrink(model, other)
        };
        let may_go = !spared && (self.of_quota || victims::sits_in_the_way(model, other, pods));
        if !candidate.whole {
            self.in_parts.insert(other, may_go);
        }
        may_go
    }
}

/// Claims of other queues, and of lower tiers, that may have to go for this one, those that go first first, and not many
/// more than `limit`; `ask` is what is to come from others. Those that sit where none of the pods may ever sit are left out,
/// unless it is quota that is short.
pub(super) fn borrowers(round: &mut Round<'_>, asker: Asker<'_>, ask: &Amounts, limit: usize) -> Vec<Candidate> {
    let Asker { claim: ord, pods, .. } = asker;
    let model = &*round.model;
    let tier = model.claims[ord].tier;
    let devices = asks_for_devices(model, pods);
    let of_quota = model.over_limit(ord, asker.ask).is_some();
    let mut all: Vec<Candidate> = Vec::new();
    let mut chosen = Chosen::new(asker, of_quota);
    for lower in TIERS.into_iter().rev().filter(|t| *t == tier || (*t > tier && devices)) {
        let (queues, right): (Vec<QueueOrd>, Right) = if lower == tier {
            let queues = victims::lenders_to(model, model.claims[ord].queue, tier, ask);
            (queues, Right::Guarantee)
        } else {
            (model.queues.iter().map(|(queue, _)| queue).collect(), Right::Rank)
        };
        let mut found: Vec<Candidate> = Vec::new();
        for queue in queues {
            let running = round.prices.running(model, queue, tier_index(lower));
            let here = running.iter().filter(|c| chosen.may_go(model, c)).take(limit).cloned();
            found.extend(here.map(|c| Candidate { right, ..c }));
        }
        found.sort_unstable();
        found.truncate(limit);
        all.append(&mut found);
    }
    chosen.sparing.note(round.model);
    all
}

fn asks_for_devices(model: &Model, pods: &[PodOrd]) -> bool {
    pods.iter()
        .any(|&p| model.shapes.value(model.pods[p].shape).gpus.is_some())
}

/// What elastic claims hold above their minima and give back for this one, once for each quantum, in the order in which they
/// do.
pub(super) fn grown(round: &mut Round<'_>, asker: Asker<'_>) -> Vec<Candidate> {
    let Asker { claim: ord, pods, ask } = asker;
    let model = &*round.model;
    if model.grown.is_empty() {
        return Vec::new();
    }
    let devices = asks_for_devices(model, pods);
    let rank = victims::rank(model, ord, pods);
    let of_quota = model.over_limit(ord, asker.ask).is_some();
    let mut sparing = victims::Sparing::default();
    let mut all = Vec::new();
    let elastic = |other: &&ClaimOrd| model.claims[**other].disruption == Disruption::Elastic;
    for &other in model.grown.iter().filter(elastic).filter(|&&other| other != ord) {
        let Some(right) = victims::right_to_shrink(model, ord, other, rank, devices, ask) else {
            continue;
        };
        if !sparing.may_shrink(model, other) || !(of_quota || victims::sits_in_the_way(model, other, pods)) {
            continue;
        }
        let (quanta, time) = (model.quanta_above_minimum(other), model.lost_time(other));
        all.extend(
            quanta
                .into_iter()
                .map(|pods| Candidate::new(model, other, right, Some(pods), time)),
        );
    }
    sparing.note(round.model);
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::{
        Budget,
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
            let mut round = Round::begin(&mut world.cluster, Time(0), Budget::default());
            let pod = round.model.pods_by_uid[uid];
            let claim = round.model.pods[pod].claim.unwrap();
            let ask = round.model.ask_of_pods(&[pod]);
            let asker = Asker {
                claim,
                pods: &[pod],
                ask: &ask,
            };
            assert_eq!(below(&mut round, asker, usize::MAX).len(), tried, "{uid}");
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
            let mut round = Round::begin(&mut world.cluster, Time(0), Budget::default());
            let pod = round.model.pods_by_uid["want"];
            let claim = round.model.pods[pod].claim.unwrap();
            let ask = round.model.ask_of_pods(&[pod]);
            let asker = Asker {
                claim,
                pods: &[pod],
                ask: &ask,
            };
            let found = borrowers(&mut round, asker, &ask, usize::MAX);
            assert_eq!(found.len(), tried, "cordoned: {cordoned}");
        }
    }
}
