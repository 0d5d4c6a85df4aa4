//! The tree of queues: each one's way to the top, what is wrong with it, and which names of queues are kept.

use crate::{
    decision::Reason,
    model::{Model, queue::DEFAULT, tier_index},
    slab::{ClaimOrd, PodOrd, QueueOrd},
};

/// What is wrong with the way from a queue to the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This parent does not exist.
    NoParent(QueueOrd),
    /// The way leads into a circle of these, each below the next, and the last below the first.
    Cycle(Vec<QueueOrd>),
}

impl Model {
    /// Finds each queue's way to the top anew, and counts what is used along these ways.
    pub(crate) fn find_paths(&mut self) {
        // By name, so that those below a queue are in that order.
        let all: Vec<QueueOrd> = self.queues_by_name.values().copied().collect();
        for &ord in &all {
            let (path, fault) = self.path_of(ord);
            let queue = &mut self.queues[ord];
            queue.settle_past(None);
            queue.path = path.into();
            queue.fault = fault;
            queue.used = Default::default();
            queue.children.clear();
        }
        for &ord in &all {
            let queue = &self.queues[ord];
            if let (None, Some(&above)) = (&queue.fault, queue.path.get(1)) {
                self.queues[above].children.push(ord);
            }
        }
        let held: Vec<PodOrd> = self
            .pods
            .iter()
            .filter(|(_, p)| p.held_seat().is_some())
            .map(|(o, _)| o)
            .collect();
        for pod in held {
            let pod = &self.pods[pod];
            let Some(claim) = pod.claim else { continue };
            let shape = self.shapes.value(pod.shape).clone();
            let (tier, queue) = (tier_index(shape.tier), self.claims[claim].queue);
            for &queue in self.queues[queue].path.clone().iter() {
                if let Some(used) = self.queues[queue].used.get_mut(tier) {
                    used.add(&shape.ask);
                }
            }
        }
        self.count_all_kept();
    }

    fn path_of(&self, ord: QueueOrd) -> (Vec<QueueOrd>, Option<Fault>) {
        let mut path = vec![ord];
        let mut at = ord;
        while let Some(parent) = self.queues[at].parent {
            if let Some(start) = path.iter().position(|&q| q == parent) {
                // The circle starts where the way first meets itself: a queue below it is not part of it.
                let circle = path.get(start..).unwrap_or_default().to_vec();
                return (path, Some(Fault::Cycle(circle)));
            }
            if !self.queues[parent].present {
                return (path, Some(Fault::NoParent(parent)));
            }
            path.push(parent);
            at = parent;
        }
        (path, None)
    }

    /// What is wrong with a queue that is there, if anything is.
    pub(crate) fn fault_of_queue(&self, ord: QueueOrd) -> Option<Reason> {
        let queue = &self.queues[ord];
        let name = |ord: QueueOrd| self.queues[ord].name.to_string();
        match queue.fault.as_ref()? {
            Fault::NoParent(parent) => Some(Reason::NoSuchParentQueue {
                queue: name(ord),
                parent: name(*parent),
            }),
            Fault::Cycle(circle) => Some(Reason::QueueCycle {
                queue: name(ord),
                circle: circle.iter().map(|&q| name(q)).collect(),
            }),
        }
    }

    /// Notes that a claim belongs to a queue, which the caller has found by its name just now.
    pub(crate) fn set_queue(&mut self, claim: ClaimOrd, queue: QueueOrd) {
        let was = std::mem::replace(&mut self.claims[claim].queue, queue);
        self.queues[queue].references += 1;
        self.drop_reference(was);
    }

    /// One that named a queue does so no more.
    pub(crate) fn drop_reference(&mut self, queue: QueueOrd) {
        let slot = &mut self.queues[queue];
        slot.references = slot.references.saturating_sub(1);
        self.forget_queue_if_unused(queue);
    }

    /// Drops the mere name of a queue to which nobody refers any more.
    pub(crate) fn forget_queue_if_unused(&mut self, queue: QueueOrd) {
        let Some(slot) = self.queues.find(queue) else { return };
        if slot.present || slot.references > 0 || &*slot.name == DEFAULT {
            return;
        }
        if let Some(slot) = self.queues.remove(queue) {
            self.queues_by_name.remove(&slot.name);
        }
    }
}
