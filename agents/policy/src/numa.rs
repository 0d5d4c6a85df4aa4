//! What the NUMA nodes use and could give, in parts of what the whole node uses and offers.
//!
//! The kernel tells how busy the CPUs of each are and how much of its memory is in use, not by whom. So each part is that of the
//! whole: what a tier uses is taken to be spread as all use is, and an offer goes by what the firmer tiers leave on each NUMA
//! node. Parts are made by running sums, so that they add up to the whole exactly.

use std::sync::Arc;

use crate::{
    action::TierView,
    observation::{Millis, Observation, Resources, Signals, Tier},
};

/// A NUMA node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NumaView {
    /// Number, as the kernel counts them.
    pub index: u16,
    /// What it has.
    pub capacity: Resources,
    /// Its part of what the whole node uses; nothing where that is not known.
    pub usage: Signals,
    /// Its part of what is offered to mid.
    pub mid: Resources,
    /// Its part of what is offered to batch.
    pub batch: Resources,
}

/// CPU time of the NUMA nodes at the last sample, and how that is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numa {
    at: Option<Millis>,
    /// Numbers of the NUMA nodes, in their order.
    known: Vec<u16>,
    /// Busy microseconds, and the rate since the sample before, by the place of the NUMA node.
    busy: Vec<(Option<u64>, Option<i64>)>,
    view: Arc<Vec<NumaView>>,
}

impl Numa {
    /// Takes in a sample.
    pub(crate) fn sample(&mut self, seen: &Observation, now: Millis) {
        let span = self.at.map(|at| now.saturating_sub(at)).filter(|span| *span > 0);
        self.at = Some(now);
        let nodes = seen.numa.iter().map(|node| node.index);
        if !nodes.clone().eq(self.known.iter().copied()) {
            // One came or went, and the places are others.
            self.known = nodes.collect();
            self.busy.clear();
        }
        self.busy.resize(seen.numa.len(), (None, None));
        for ((before, rate), node) in self.busy.iter_mut().zip(&seen.numa) {
            let passed = node.cpu_busy.zip(*before).and_then(|(now, then)| now.checked_sub(then));
            // Microseconds a millisecond are milli-cores.
            *rate = passed
                .zip(span)
                .and_then(|(passed, span)| i64::try_from(passed / span).ok());
            *before = node.cpu_busy;
        }
    }

    /// The parts of this use and these offers.
    pub(crate) fn view(&mut self, seen: &Observation, usage: Signals, tiers: &[TierView]) -> Arc<Vec<NumaView>> {
        if seen.numa.is_empty() {
            return Arc::clone(&self.view);
        }
        let view = Arc::make_mut(&mut self.view);
        view.clear();
        view.extend(seen.numa.iter().map(|node| NumaView {
            index: node.index,
            capacity: node.capacity,
            ..NumaView::default()
        }));
        let busy: Option<Vec<i64>> = self.busy.iter().map(|(_, rate)| *rate).collect();
        let held: Option<Vec<i64>> = seen.numa.iter().map(|node| node.memory_used).collect();
        let of_cpu = Resource {
            of: |r| r.cpu,
            of_mut: |r| &mut r.cpu,
            signal: |s| s.cpu,
            signal_mut: |s| &mut s.cpu,
        };
        let of_memory = Resource {
            of: |r| r.memory,
            of_mut: |r| &mut r.memory,
            signal: |s| s.memory,
            signal_mut: |s| &mut s.memory,
        };
        of_cpu.share(
            view,
            busy.filter(|b| b.len() == seen.numa.len()).as_deref(),
            usage,
            tiers,
        );
        of_memory.share(view, held.as_deref(), usage, tiers);
        Arc::clone(&self.view)
    }
}

/// CPU or memory.
struct Resource {
    of: fn(&Resources) -> i64,
    of_mut: fn(&mut Resources) -> &mut i64,
    signal: fn(&Signals) -> Option<i64>,
    signal_mut: fn(&mut Signals) -> &mut Option<i64>,
}

impl Resource {
    /// Shares use and offers out. `measured` is what each NUMA node uses by the kernel's word.
    fn share(&self, view: &mut [NumaView], measured: Option<&[i64]>, usage: Signals, tiers: &[TierView]) {
        let capacity: Vec<i64> = view.iter().map(|node| (self.of)(&node.capacity)).collect();
        let used = measured
            .zip((self.signal)(&usage))
            .map(|(measured, whole)| parts(whole, measured, &capacity));
        for (at, node) in view.iter_mut().enumerate() {
            *(self.signal_mut)(&mut node.usage) = used.as_ref().and_then(|used| used.get(at).copied());
        }
        let uses = |tier: Tier| {
            let tier = tiers.iter().find(|view| view.tier == tier);
            tier.and_then(|view| (self.signal)(&view.usage)).unwrap_or(0)
        };
        let whole = (self.signal)(&usage).unwrap_or(0).max(1);
        for tier in [Tier::Mid, Tier::Batch] {
            let soft = match tier {
                Tier::Mid => uses(Tier::Mid).saturating_add(uses(Tier::Batch)),
                Tier::Prod | Tier::Batch => uses(Tier::Batch),
            };
            let firm = whole.saturating_sub(soft).max(0);
            let left: Vec<i64> = capacity
                .iter()
                .enumerate()
                .map(|(at, has)| {
                    let used = used.as_ref().and_then(|used| used.get(at).copied()).unwrap_or(0);
                    let firm = i128::from(used) * i128::from(firm) / i128::from(whole);
                    (has - i64::try_from(firm).unwrap_or(i64::MAX)).max(0)
                })
                .collect();
            let offered = tiers.iter().find(|view| view.tier == tier).map(|view| view.reclaimable);
            let offered = offered.as_ref().map_or(0, self.of);
            for (node, part) in view.iter_mut().zip(parts(offered, &left, &capacity)) {
                let to = if tier == Tier::Mid {
                    &mut node.mid
                } else {
                    &mut node.batch
                };
                *(self.of_mut)(to) = part;
            }
        }
    }
}

/// Parts of a whole by weights, by others where these are all 0, evenly where those are, too. They add up to it.
fn parts(whole: i64, weights: &[i64], otherwise: &[i64]) -> Vec<i64> {
    let sum = |weights: &[i64]| weights.iter().map(|weight| i128::from((*weight).max(0))).sum::<i128>();
    let even = vec![1; weights.len()];
    let weights = [weights, otherwise].into_iter().find(|w| sum(w) > 0).unwrap_or(&even);
    let all = sum(weights).max(1);
    let (mut running, mut given) = (0_i128, 0_i64);
    let part = |weight: &i64| {
        running += i128::from((*weight).max(0));
        let up_to = i64::try_from(i128::from(whole) * running / all).unwrap_or(whole);
        let part = up_to - given;
        given = up_to;
        part
    };
    weights.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use proptest::prelude::*;

    use super::*;
    use crate::{action::TierWork, observation::NumaNode};

    fn tier(tier: Tier, used: i64, offered: i64) -> TierView {
        TierView {
            tier,
            usage: Signals {
                cpu: Some(used),
                memory: Some(used),
            },
            peak: Signals::default(),
            bound: Resources::default(),
            reclaimable: Resources {
                cpu: offered,
                memory: offered,
            },
            work: TierWork::default(),
        }
    }

    fn node(index: u16, capacity: i64, busy: u64) -> NumaNode {
        NumaNode {
            index,
            capacity: Resources {
                cpu: capacity,
                memory: capacity,
            },
            cpu_busy: Some(busy * 1_000),
            memory_used: i64::try_from(busy).ok(),
        }
    }

    fn shown(nodes: &[(i64, u64)], tiers: [TierView; 3], usage: i64) -> Vec<NumaView> {
        let mut numa = Numa::default();
        let mut seen = Observation::default();
        for now in [0, 1_000] {
            let nodes = nodes.iter().enumerate();
            seen.numa = nodes
                .map(|(index, (capacity, milli))| node(u16::try_from(index).unwrap(), *capacity, milli * now / 1_000))
                .collect();
            numa.sample(&seen, now);
        }
        let usage = Signals {
            cpu: Some(usage),
            memory: Some(usage),
        };
        numa.view(&seen, usage, &tiers).to_vec()
    }

    #[test]
    fn more_is_offered_where_less_is_used_and_what_batch_uses_does_not_count() {
        let tiers = [
            tier(Tier::Prod, 6_000, 0),
            tier(Tier::Mid, 0, 0),
            tier(Tier::Batch, 0, 9_000),
        ];
        let view = shown(&[(10_000, 6_000), (10_000, 0)], tiers, 6_000);
        assert_eq!((view[0].usage.cpu, view[1].usage.cpu), (Some(6_000), Some(0)));
        // By the 4 and the 10 cores that are left.
        assert_eq!((view[0].batch.cpu, view[1].batch.cpu), (2_571, 6_429));
        let all_batch = [
            tier(Tier::Prod, 0, 0),
            tier(Tier::Mid, 0, 0),
            tier(Tier::Batch, 6_000, 9_000),
        ];
        let view = shown(&[(10_000, 6_000), (10_000, 0)], all_batch, 6_000);
        assert_eq!((view[0].batch.cpu, view[1].batch.cpu), (4_500, 4_500));
    }

    #[test]
    fn where_the_kernel_does_not_say_who_is_busy_parts_go_by_size_and_use_is_unknown() {
        let mut numa = Numa::default();
        let mut seen = Observation {
            numa: vec![node(0, 3_000, 0), node(1, 1_000, 0)],
            ..Observation::default()
        };
        seen.numa
            .iter_mut()
            .for_each(|node| (node.cpu_busy, node.memory_used) = (None, None));
        numa.sample(&seen, 0);
        let view = numa.view(&seen, Signals::default(), &[tier(Tier::Batch, 0, 400)]);
        let parts: Vec<_> = view
            .iter()
            .map(|n| (n.usage.cpu, n.batch.cpu, n.batch.memory))
            .collect();
        assert_eq!(parts, [(None, 300, 300), (None, 100, 100)]);
    }

    proptest! {
        #[test]
        fn parts_add_up_to_the_whole(
            nodes in prop::collection::vec((0i64..100_000, 0u64..100_000), 1..9),
            used in prop::array::uniform3(0i64..100_000), offered in prop::array::uniform2(0i64..300_000), more in 0i64..10_000
        ) {
            let tiers = [
                tier(Tier::Prod, used[0], 0), tier(Tier::Mid, used[1], offered[0]), tier(Tier::Batch, used[2], offered[1]),
            ];
            let usage = used.iter().sum::<i64>() + more;
            let view = shown(&nodes, tiers, usage);
            let sum = |of: fn(&NumaView) -> i64| view.iter().map(of).sum::<i64>();
            prop_assert_eq!(sum(|n| n.usage.cpu.unwrap()), usage);
            prop_assert_eq!(sum(|n| n.usage.memory.unwrap()), usage);
            prop_assert_eq!((sum(|n| n.mid.cpu), sum(|n| n.mid.memory)), (offered[0], offered[0]));
            prop_assert_eq!((sum(|n| n.batch.cpu), sum(|n| n.batch.memory)), (offered[1], offered[1]));
            prop_assert!(view.iter().all(|n| n.mid.cpu >= 0 && n.batch.memory >= 0));
        }
    }
}
