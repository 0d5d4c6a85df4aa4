//! Fragmentation of GPUs under a mix of typical pods, and its gradient: the method of Weng et al., "Beware of
//! Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent" (FGD), USENIX ATC 2023.
//!
//! What is idle on a node is a fragment as far as typical pods cannot use it: for a kind of pod that fits on the node,
//! the idle thousandths of the devices that have too little for it; for one that does not fit (or needs no GPU), all.

use std::collections::BTreeMap;

/// Devices of a node that are looked at: the freest. No server has more.
pub const DEVICES: usize = 16;
/// The typical pods are the most frequent kinds that make up this part of all pods, in percent.
const COVERED: u64 = 95;

/// What matters of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// Milli-cores.
    pub cpu_milli: i64,
    /// GPUs.
    pub gpus: u16,
    /// Thousandths of each one; 1000 where there are several, 0 where there is none.
    pub gpu_milli: u16,
    /// Allowed models, ascending, by any numbering; empty allows any.
    pub models: Vec<u32>,
}

/// What is idle on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Idle {
    /// Milli-cores.
    pub cpu_milli: i64,
    /// Model of its devices, by the numbering of [`Kind::models`].
    pub model: u32,
    /// Thousandths of each device, most first: what fits is seen by that.
    pub free: [u16; DEVICES],
}

/// The typical pods, with how many there are of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Typical {
    kinds: Vec<(Kind, i64)>,
    total: i64,
}

impl Idle {
    /// Thousandths of GPUs that are idle.
    #[must_use]
    pub fn milli(&self) -> i64 {
        self.free.iter().map(|&free| i64::from(free)).sum()
    }

    /// Pods of a kind that fit, if no others come.
    #[must_use]
    pub fn room_for(&self, kind: &Kind) -> i64 {
        if kind.gpus == 0 || !kind.fits(self) {
            return 0;
        }
        let on_one = |free: &u16| i64::from(free.checked_div(kind.gpu_milli).unwrap_or(0));
        let on_devices = self.free.iter().map(on_one).sum::<i64>() / i64::from(kind.gpus);
        on_devices.min(self.cpu_milli.checked_div(kind.cpu_milli).unwrap_or(i64::MAX))
    }

    /// Takes a pod of a kind, a share from the device that it leaves least of. False if it does not fit.
    #[must_use]
    pub fn take(&mut self, kind: &Kind) -> bool {
        if !kind.fits(self) {
            return false;
        }
        self.cpu_milli -= kind.cpu_milli;
        let held = usize::from(kind.gpus);
        if held != 1 {
            // Devices that fit come first, and a pod that needs several takes them whole.
            self.free.rotate_left(held);
            self.free.iter_mut().rev().take(held).for_each(|free| *free = 0);
            return true;
        }
        let fitting = self.free.partition_point(|&free| free >= kind.gpu_milli);
        let Some(from) = fitting.checked_sub(1).and_then(|last| self.free.get_mut(last..)) else {
            return false;
        };
        let Some(first) = from.first_mut() else { return false };
        *first -= kind.gpu_milli;
        let left = *first;
        let freer = from.iter().skip(1).take_while(|&&free| free > left).count();
        if let Some(moved) = from.get_mut(..=freer) {
            moved.rotate_left(1);
        }
        true
    }

    /// What is left when a pod has taken its part; a share takes it from a device with exactly so much free.
    /// `None` if it does not fit.
    #[must_use]
    pub fn after(&self, cpu_milli: i64, gpus: u16, gpu_milli: u16, from: u16) -> Option<Idle> {
        let mut left = *self;
        left.cpu_milli -= cpu_milli;
        if left.cpu_milli < 0 {
            return None;
        }
        for _ in 0..gpus {
            let slot = left.free.iter_mut().find(|free| **free == from)?;
            *slot = slot.checked_sub(gpu_milli)?;
        }
        left.free.sort_unstable_by(|a, b| b.cmp(a));
        Some(left)
    }
}

impl Kind {
    fn fits(&self, idle: &Idle) -> bool {
        let last = usize::from(self.gpus).checked_sub(1);
        self.cpu_milli <= idle.cpu_milli
            && last.is_none_or(|last| idle.free.get(last).is_some_and(|&free| free >= self.gpu_milli))
            && (self.models.is_empty() || self.models.binary_search(&idle.model).is_ok())
    }
}

impl Typical {
    /// The typical ones among pods of these kinds: the fewest, most frequent kinds that cover 95 % of them. Of equally
    /// frequent kinds the lesser comes first.
    #[must_use]
    pub fn of(pods: impl IntoIterator<Item = Kind>) -> Typical {
        let mut counts: BTreeMap<Kind, u64> = BTreeMap::new();
        for kind in pods {
            *counts.entry(kind).or_insert(0) += 1;
        }
        Typical::covering(COVERED, counts)
    }

    /// The fewest, most frequent kinds that cover so many percent of pods that were counted already. Each kind comes
    /// once; of equally frequent ones the first comes first.
    #[must_use]
    pub fn covering(percent: u64, counts: impl IntoIterator<Item = (Kind, u64)>) -> Typical {
        let mut by_count: Vec<(Kind, u64)> = counts.into_iter().collect();
        let all: u64 = by_count.iter().map(|(_, count)| count).sum();
        by_count.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let mut typical = Typical::default();
        let mut covered = 0;
        for (kind, count) in by_count {
            if covered * 100 >= all * percent {
                break;
            }
            covered += count;
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            typical.total += count;
            typical.kinds.push((kind, count));
        }
        typical
    }

    /// The kinds, most frequent first, with how many pods there are of each.
    #[must_use]
    pub fn kinds(&self) -> &[(Kind, i64)] {
        &self.kinds
    }

    /// How many pods the typical kinds stand for.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.total
    }

    /// Thousandths of GPUs that are fragments on a node, times [`Typical::total`].
    #[must_use]
    pub fn fragments(&self, idle: &Idle) -> i64 {
        let all = idle.milli();
        if all == 0 {
            return 0;
        }
        let of = |kind: &Kind| {
            if kind.gpus == 0 || !kind.fits(idle) {
                return all;
            }
            let small = idle.free.iter().filter(|&&free| free < kind.gpu_milli);
            small.map(|&free| i64::from(free)).sum()
        };
        self.kinds.iter().map(|(kind, count)| of(kind) * count).sum()
    }

    /// FGD's score of a change of [fragments](Typical::fragments), 0 to 100, more is better: the whole percents of the
    /// logistic function of the GPUs that are fragments no more.
    #[must_use]
    pub fn score(&self, before: i64, after: i64) -> i64 {
        // Millionths of a GPU: fragments are at most 16,000 * total, so that this stays far below 2^63.
        let change = (before - after).abs().saturating_mul(1000) / self.total.max(1);
        let steps = i64::try_from(LOGIT.partition_point(|&step| step <= change)).unwrap_or(0);
        // Rounded down on both sides: the least loss is one step below the middle.
        if before >= after { 50 + steps } else { 49 - steps }
    }
}

/// Where the logistic function reaches 51 %, 52 %, ... 99 %: ln(p / (1 - p)), in millionths, rounded up.
const LOGIT: [i64; 49] = [
    40_006, 80_043, 120_145, 160_343, 200_671, 241_163, 281_852, 322_774, 363_966, 405_466, 447_313, 489_549, 532_217,
    575_365, 619_040, 663_295, 708_186, 753_772, 800_120, 847_298, 895_385, 944_462, 994_623, 1_045_969, 1_098_613,
    1_152_680, 1_208_312, 1_265_667, 1_324_926, 1_386_295, 1_450_011, 1_516_348, 1_585_628, 1_658_229, 1_734_602,
    1_815_290, 1_900_959, 1_992_431, 2_090_742, 2_197_225, 2_313_635, 2_442_348, 2_586_690, 2_751_536, 2_944_439,
    3_178_054, 3_476_099, 3_891_821, 4_595_120,
];

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "tests"
    )]
    use super::*;

    fn idle(cpu_milli: i64, free: &[u16]) -> Idle {
        let mut idle = Idle {
            cpu_milli,
            ..Default::default()
        };
        idle.free[..free.len()].copy_from_slice(free);
        idle
    }

    fn kind(cpu_milli: i64, gpus: u16, gpu_milli: u16) -> Kind {
        Kind {
            cpu_milli,
            gpus,
            gpu_milli,
            models: vec![],
        }
    }

    #[test]
    fn what_a_kind_cannot_use_is_a_fragment() {
        let fragments = |kind: Kind, idle: Idle| Typical::of([kind]).fragments(&idle);
        let node = idle(4000, &[1000, 600, 300]);
        assert_eq!(fragments(kind(4000, 1, 500), node), 300);
        assert_eq!(fragments(kind(4001, 1, 500), node), 1900, "too few cores");
        assert_eq!(fragments(kind(1000, 1, 1000), node), 900);
        assert_eq!(
            fragments(kind(1000, 2, 1000), node),
            1900,
            "one whole device is not two"
        );
        assert_eq!(fragments(kind(1000, 0, 0), node), 1900, "needs no GPU");
        let typed = Kind {
            models: vec![1, 3],
            ..kind(1000, 1, 500)
        };
        assert_eq!(fragments(typed.clone(), node), 1900);
        assert_eq!(fragments(typed, Idle { model: 3, ..node }), 300);
    }

    #[test]
    fn typical_are_the_most_frequent_up_to_95_percent() {
        let pods = [(kind(1, 1, 500), 90), (kind(2, 1, 500), 5), (kind(3, 1, 500), 5)];
        let typical = Typical::of(pods.iter().flat_map(|(k, n)| std::iter::repeat_n(k.clone(), *n)));
        assert_eq!(typical.total(), 95);
        assert_eq!(typical.kinds, [(kind(1, 1, 500), 90), (kind(2, 1, 500), 5)]);
    }

    #[test]
    fn the_score_is_the_logistic_function_in_whole_percents() {
        let typical = Typical::of([kind(1, 1, 500)]);
        for gained in -8_000..=8_000_i64 {
            let exact = 100.0 / (1.0 + (-(gained as f64) / 1000.0).exp());
            assert_eq!(typical.score(0, -gained), exact.floor() as i64, "{gained}");
        }
    }

    #[test]
    fn room_is_bounded_by_devices_and_by_cores() {
        let node = idle(4000, &[1000, 1000, 1000, 600, 300]);
        assert_eq!(node.room_for(&kind(100, 1, 300)), 3 * 3 + 2 + 1);
        assert_eq!(node.room_for(&kind(1500, 1, 300)), 2);
        assert_eq!(node.room_for(&kind(0, 2, 1000)), 1);
        assert_eq!(node.room_for(&kind(0, 4, 1000)), 0);
    }

    #[test]
    fn a_pod_takes_from_the_device_that_it_leaves_least_of_and_the_freest_stay_first() {
        let mut node = idle(4000, &[1000, 1000, 600, 300]);
        assert!(node.take(&kind(1000, 1, 300)));
        assert_eq!(node, idle(3000, &[1000, 1000, 600]));
        assert!(node.take(&kind(1000, 1, 700)));
        assert_eq!(node, idle(2000, &[1000, 600, 300]));
        assert!(!node.take(&kind(1000, 2, 1000)) && !node.take(&kind(2001, 1, 100)));
        assert!(node.take(&kind(500, 1, 1000)));
        assert_eq!(node, idle(1500, &[600, 300]));
        let mut node = idle(8000, &[1000, 1000, 1000, 20]);
        assert!(node.take(&kind(8000, 2, 1000)));
        assert_eq!(node, idle(0, &[1000, 20]));
        let mut node = Idle {
            cpu_milli: 9,
            free: [1000; DEVICES],
            ..Default::default()
        };
        assert!(node.take(&kind(9, 16, 1000)) && node.milli() == 0);
    }

    #[test]
    fn a_share_takes_from_the_device_that_it_was_given() {
        let node = idle(4000, &[1000, 600, 300]);
        assert_eq!(node.after(1000, 1, 300, 600), Some(idle(3000, &[1000, 300, 300])));
        assert_eq!(node.after(1000, 1, 400, 300), None);
        assert_eq!(idle(9, &[1000, 1000, 5]).after(9, 2, 1000, 1000), Some(idle(0, &[5])));
        assert_eq!(node.after(1000, 2, 1000, 1000), None);
    }
}
