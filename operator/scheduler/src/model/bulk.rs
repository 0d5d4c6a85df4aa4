//! How large a pod is: of a gang of unequal pods the largest are seated first, since the small ones find room beside them
//! more easily than the other way round.

use crate::{
    model::{Model, Shape},
    slab::PodOrd,
};

impl Model {
    /// The part of what the cluster has that a shape takes, in units of 2^-30, of that resource of which it is the largest.
    fn bulk(&self, shape: &Shape) -> i128 {
        let mut largest = 0;
        let mut note = |asked: i64, all: i64| largest = largest.max((i128::from(asked) << 30) / i128::from(all.max(1)));
        for &(resource, amount) in shape.requests.iter().filter(|(r, _)| *r != self.resources.pods) {
            let capacity = self.capacity.get(self.resources.tier_of(resource));
            let all = capacity.map_or(0, |c| c.of(self.resources.in_quota(resource)).get());
            note(amount.get(), all);
        }
        let [firm, ..] = &self.capacity;
        if let Some(need) = &shape.gpus {
            note(need.total_milli(), firm.of(self.resources.gpu).get());
        }
        largest
    }

    /// Puts the pods of several groups in the order in which they are to be seated: the largest first, and those of equal
    /// size as they were.
    pub(crate) fn largest_first(&self, pods: &mut [PodOrd]) {
        pods.sort_by_cached_key(|&pod| std::cmp::Reverse(self.bulk(self.shapes.value(self.pods[pod].shape))));
    }
}
