//! Shares: the part of the cluster that a queue, or a namespace in it, holds. They are compared as integers, so fine that
//! a milli-core of a hundred thousand nodes over the largest weight still counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{
    amount::{Amount, Totals},
    model::{Model, QueueSlot},
    slab::{QueueOrd, ResourceOrd},
};

/// Bits behind the point of what is held: the past is known in fractions of a unit.
pub(crate) const HELD_BITS: u32 = 20;

/// Bits behind the point of a share.
const BITS: u32 = 60;

/// A part of the cluster, by weight, in units of 2^-60. What is held is below 2^63 units of 2^-20, so that it fits, shifted to
/// 2^-60, into 2^123.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Share(u128);

impl Share {
    /// What is held (in units of 2^-20) of all there is, by weight.
    fn of(held: i128, all: Amount, weight: u32) -> Share {
        let held = u128::try_from(held).unwrap_or(0);
        let all = u128::try_from(all.get()).unwrap_or(0).max(1);
        // All below 2^63 and weights below 2^32: the product stays below 2^95.
        Share((held << (BITS - HELD_BITS)) / (all * u128::from(weight.max(1))))
    }

    /// In thousandths, to the nearest.
    pub(crate) fn milli(self) -> u64 {
        u64::try_from((self.0.saturating_mul(1000).saturating_add(1 << (BITS - 1))) >> BITS).unwrap_or(u64::MAX)
    }
}

/// What the claims of one namespace hold in a queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct User {
    /// Pods that hold it.
    pub(crate) pods: u32,
    /// By tier.
    pub(crate) used: [Totals; 3],
}

/// What is held in a queue, by namespace; those that hold nothing are left out.
pub(crate) type Users = BTreeMap<Arc<str>, User>;

impl QueueSlot {
    /// Counts what a pod of a namespace holds in this queue, or no longer does.
    pub(crate) fn count_user(&mut self, namespace: &Arc<str>, tier: usize, ask: &[(ResourceOrd, Amount)], hold: bool) {
        if !self.users.contains_key(namespace) {
            self.users.insert(namespace.clone(), User::default());
        }
        let Some(user) = self.users.get_mut(namespace) else {
            return;
        };
        user.pods = if hold {
            user.pods + 1
        } else {
            user.pods.saturating_sub(1)
        };
        if user.pods == 0 {
            self.users.remove(namespace);
        } else if let Some(used) = user.used.get_mut(tier) {
            if hold {
                used.add(ask);
            } else {
                used.sub(ask);
            }
        }
    }
}

impl Model {
    /// The largest share of the cluster's capacity that a queue holds of any resource, by its weight.
    pub(crate) fn dominant_share(&self, queue: QueueOrd) -> Share {
        let slot = &self.queues[queue];
        if slot.past.is_none() {
            return self.largest_in_use(&slot.used, slot.weight);
        }
        // Of what it uses no more, something may still count.
        let all = |_| self.resources.all();
        self.largest(slot.weight, all, |tier, resource| self.counted(queue, tier, resource))
    }

    /// The largest share that a namespace holds in a queue.
    pub(crate) fn share_of_namespace(&self, queue: QueueOrd, namespace: &str) -> Share {
        match self.queues[queue].users.get(namespace) {
            Some(user) => self.largest_in_use(&user.used, 1),
            None => Share::default(),
        }
    }

    /// The largest share that a queue's own claims hold, without those of the queues below it.
    pub(crate) fn share_of_own(&self, queue: QueueOrd) -> Share {
        let mut sums: [Totals; 3] = Default::default();
        for user in self.queues[queue].users.values() {
            for (sum, used) in sums.iter_mut().zip(&user.used) {
                for (resource, amount) in used.iter() {
                    *sum.of_mut(resource) += amount;
                }
            }
        }
        self.largest_in_use(&sums, 1)
    }

    pub(crate) fn largest_in_use(&self, used: &[Totals; 3], weight: u32) -> Share {
        let in_use = |tier| {
            used.get(tier)
                .into_iter()
                .flat_map(|of: &Totals| of.iter().map(|(r, _)| r))
        };
        self.largest(weight, in_use, |tier, resource| {
            let held = used.get(tier).map_or(Amount::ZERO, |totals| totals.of(resource));
            i128::from(held.get()) << HELD_BITS
        })
    }

    /// The largest of the shares of the resources that are given for each tier. CPU and memory are each tier's own; whatever
    /// else there is, all tiers take from the same, which nodes have under prod.
    fn largest<I: Iterator<Item = ResourceOrd>>(
        &self,
        weight: u32,
        resources: impl Fn(usize) -> I,
        held: impl Fn(usize, ResourceOrd) -> i128,
    ) -> Share {
        let mut largest = Share::default();
        for (tier, capacity) in self.capacity.iter().enumerate() {
            for resource in resources(tier) {
                let own = self.resources.reserved_for(resource).is_some();
                let share = if own {
                    Share::of(held(tier, resource), capacity.of(resource), weight)
                } else {
                    let [firm, ..] = &self.capacity;
                    let held = (0..self.capacity.len()).map(|tier| held(tier, resource)).sum();
                    Share::of(held, firm.of(resource), weight)
                };
                largest = largest.max(share);
            }
        }
        largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(held: i64, all: i64, weight: u32) -> Share {
        Share::of(i128::from(held) << HELD_BITS, Amount::taken_in(all), weight)
    }

    #[test]
    fn the_smallest_part_of_the_largest_cluster_is_not_nothing() {
        // 1 milli-core of 100,000 nodes of 256 cores, by the largest weight.
        assert!(share(1, 25_600_000_000, 10_000) > Share::default());
        assert!(share(2, 25_600_000_000, 10_000) > share(1, 25_600_000_000, 10_000));
    }

    #[test]
    fn twice_as_much_by_twice_the_weight_is_the_same() {
        assert_eq!(share(20_000, 20_000_000, 2), share(10_000, 20_000_000, 1));
        assert_eq!(share(1, 1, 1).milli(), 1000);
        assert_eq!(share(800, 8000, 1).milli(), 100, "to the nearest");
    }

    #[test]
    fn absurd_amounts_do_not_overflow() {
        let most = Share::of(i128::from(i64::MAX) << HELD_BITS, Amount::ZERO, 0);
        assert!(most > share(1, 1, 1));
        assert_eq!(Share::of(-5, Amount::ZERO, 1), Share::default());
    }
}
