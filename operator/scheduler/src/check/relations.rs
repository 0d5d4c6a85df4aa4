//! The invariant of pods that keep others away, by looking at all pairs of pods.

use super::Violation;
use crate::{
    model::{Model, NodeSlot, PodSlot},
    slab::PodOrd,
};

impl Model {
    /// Of the pods that were just placed, none sits where its own anti-affinity forbids it, or that of a pod that has a seat.
    pub(super) fn nobody_is_near_whom_to_avoid(&self, violations: &mut Vec<Violation>) {
        for &ord in &self.just_placed {
            let Some((pod, here)) = self.seated(ord) else { continue };
            for (other_ord, other) in self.pods.iter().filter(|(_, p)| p.place.is_taken()) {
                let Some((_, there)) = self.seated(other_ord).filter(|_| other_ord != ord) else {
                    continue;
                };
                if self.avoids(pod, other, here, there) || self.avoids(other, pod, here, there) {
                    violations.push(Violation(format!(
                        "pod {} was placed on node {}, though it and pod {} on node {} have to keep apart",
                        pod.uid, here.name, other.uid, there.name
                    )));
                }
            }
        }
    }

    fn seated(&self, ord: PodOrd) -> Option<(&PodSlot, &NodeSlot)> {
        let pod = &self.pods[ord];
        let node = &self.nodes[pod.place.seat()?.node];
        node.present.then_some((pod, node))
    }

    /// True if required anti-affinity of the one speaks of the other, and their nodes are in the same part.
    fn avoids(&self, one: &PodSlot, other: &PodSlot, here: &NodeSlot, there: &NodeSlot) -> bool {
        let Some(rules) = &self.shapes.value(one.shape).rules else {
            return false;
        };
        rules.anti_affinity.iter().any(|(key, peers)| {
            let together = here
                .labels
                .get(key)
                .is_some_and(|part| there.labels.get(key) == Some(part));
            together && self.marks.includes(peers, other.identity)
        })
    }
}
