//! The lists of a queue: claims that wait, those among them that were tried in vain, and claims that hold something.

use std::{cmp::Reverse, collections::BTreeMap};

use crate::{
    model::{Age, Group, Model, queue::VictimKey, tier_index},
    slab::{ClaimOrd, QueueOrd},
};

impl Model {
    /// Takes a claim off its queue's lists; to be called before anything changes that these are ordered by.
    pub(crate) fn unlist(&mut self, ord: ClaimOrd) {
        self.list(ord, false, false);
        self.forget_end(ord);
    }

    fn pending_key(&self, ord: ClaimOrd) -> (Group, Age) {
        let claim = &self.claims[ord];
        let age = Age {
            created: claim.created,
            uid: claim.uid.clone(),
            claim: ord,
        };
        ((Reverse(claim.priority), claim.namespace.clone()), age)
    }

    /// A claim was tried in vain: it is not tried again until something is freed, or it changes. It is taken off those who
    /// wait for a turn when all have had theirs: mostly all of a queue go at once then, whatever their number.
    pub(crate) fn park(&mut self, ord: ClaimOrd) {
        let queue = self.claims[ord].queue;
        self.unpark_all(queue);
        let freed = self.freed;
        let parked = &self.queues[queue].parked;
        let is_parked = parked.len() > 0 && {
            let (group, age) = self.pending_key(ord);
            parked.contains(&group, &age)
        };
        let claim = &mut self.claims[ord];
        if is_parked || !claim.listed_pending {
            return;
        }
        if claim.tried_at.replace(freed).is_none() {
            self.tried.push(ord);
        }
        self.hope(ord);
    }

    /// A claim is to be tried again.
    pub(crate) fn unpark(&mut self, ord: ClaimOrd) {
        self.hopes.forget(ord);
        let claim = &mut self.claims[ord];
        let queue = claim.queue;
        if claim.tried_at.take().is_some() || self.queues[queue].parked.len() == 0 {
            return;
        }
        let (group, age) = self.pending_key(ord);
        let queue = &mut self.queues[queue];
        if queue.parked.remove(&group, &age) {
            queue.pending.insert(group, age);
        }
    }

    /// Takes those who were tried in vain off the lists of those who wait for a turn.
    pub(crate) fn park_tried(&mut self) {
        let mut by_queue: BTreeMap<QueueOrd, Vec<ClaimOrd>> = BTreeMap::new();
        for ord in std::mem::take(&mut self.tried) {
            let Some(claim) = self.claims.find_mut(ord) else {
                continue;
            };
            // What was freed since may be what it needs.
            if claim.tried_at.take() == Some(self.freed) {
                by_queue.entry(claim.queue).or_default().push(ord);
            }
        }
        for (at, claims) in by_queue {
            self.unpark_all(at);
            let queue = &mut self.queues[at];
            queue.parked_at = self.freed;
            // Joining two lists costs the length of both.
            if claims.len() == queue.pending.len() && claims.len() >= queue.parked.len() {
                queue.parked.append(&mut queue.pending);
                continue;
            }
            for ord in claims {
                let (group, age) = self.pending_key(ord);
                let queue = &mut self.queues[at];
                if queue.pending.remove(&group, &age) {
                    queue.parked.insert(group, age);
                }
            }
        }
    }

    /// If something was freed since those of a queue were tried in vain, they are to be tried again.
    pub(crate) fn unpark_all(&mut self, queue: QueueOrd) {
        let freed = self.freed;
        let queue = &mut self.queues[queue];
        if queue.parked_at != freed {
            queue.pending.append(&mut queue.parked);
        }
    }

    /// Puts a claim on its queue's lists, or takes it off.
    pub(crate) fn list(&mut self, ord: ClaimOrd, pending: bool, running: bool) {
        let claim = &self.claims[ord];
        if claim.listed_pending == pending && claim.listed_running == running {
            return;
        }
        if !pending {
            self.hopes.forget(ord);
            self.searched.remove(&ord);
            self.claims[ord].tried_at = None;
        }
        let claim = &self.claims[ord];
        let (group, age) = self.pending_key(ord);
        let runs = VictimKey {
            priority: claim.priority,
            created: Reverse(claim.created),
            uid: Reverse(claim.uid.clone()),
            claim: ord,
        };
        let queue = &mut self.queues[claim.queue];
        match (pending, claim.listed_pending) {
            (true, false) => {
                queue.pending.insert(group, age);
            }
            (false, true) if !queue.pending.remove(&group, &age) => {
                queue.parked.remove(&group, &age);
            }
            _ => {}
        }
        if let Some(list) = queue.running.get_mut(tier_index(claim.tier)) {
            if running {
                list.insert(runs);
            } else {
                list.remove(&runs);
            }
        }
        let claim = &mut self.claims[ord];
        claim.listed_pending = pending;
        claim.listed_running = running;
        if !running {
            self.grown.remove(&ord);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use crate::{Budget, Cluster, Time, cycle, tests::fixtures::pod};

    #[test]
    fn who_was_tried_before_something_was_freed_is_tried_again() {
        let mut cluster = Cluster::default();
        cluster.apply(pod("p", 1000).into());
        cycle(&mut cluster, Time(0), Budget::default());
        let model = &mut cluster.model;
        let (claim, queue) = model
            .claims
            .iter()
            .map(|(ord, claim)| (ord, claim.queue))
            .next()
            .unwrap();
        let lists = |model: &crate::model::Model| (model.queues[queue].pending.len(), model.queues[queue].parked.len());
        assert_eq!(lists(model), (0, 1));
        model.unpark(claim);
        model.park(claim);
        model.freed += 1;
        model.park_tried();
        assert_eq!(lists(model), (1, 0), "what was freed may be what it needs");
        model.park(claim);
        model.park_tried();
        assert_eq!(lists(model), (0, 1));
    }
}
