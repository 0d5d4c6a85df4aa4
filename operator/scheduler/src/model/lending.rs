//! What a queue does not lend. A queue that is guaranteed 10 cores and lends 4 of them keeps 6 free for itself, less what it
//! uses already: others may use what is free beyond that, and no more. What a queue keeps is the larger of that and of what
//! the queues below it keep together, so that it is counted at each level and each place that is given changes it only
//! along one way to the top.

use crate::{
    amount::{Amount, Totals},
    decision::Reason,
    model::{Model, QueueSlot, TIERS, tier_index},
    slab::{ClaimOrd, QueueOrd, ResourceOrd},
};

impl QueueSlot {
    /// What it and those below it keep free of a resource.
    pub(crate) fn keeps(&self, tier: usize, resource: ResourceOrd) -> Amount {
        self.keeps.get(tier).map_or(Amount::ZERO, |totals| totals.of(resource))
    }

    /// What it is to keep free, by what it and those below it use and keep.
    fn to_keep(&self, tier: usize, resource: ResourceOrd) -> Amount {
        let below = self.kept_below(tier, resource);
        (self.unlent(tier, resource) - self.used(tier, resource)).max(below)
    }

    fn kept_below(&self, tier: usize, resource: ResourceOrd) -> Amount {
        self.kept_below.get(tier).map_or(Amount::ZERO, |t| t.of(resource))
    }
}

impl Model {
    /// Counts anew what the queues on a way to the top keep free of some resources, after their use changed.
    pub(crate) fn count_kept(&mut self, path: &[QueueOrd], tier: usize, resources: impl Iterator<Item = ResourceOrd>) {
        if path.first().is_none_or(|&q| self.queues[q].fault.is_some()) {
            return;
        }
        for resource in resources {
            for (step, &ord) in path.iter().enumerate() {
                let queue = &mut self.queues[ord];
                let (was, is) = (queue.keeps(tier, resource), queue.to_keep(tier, resource));
                if was == is {
                    continue; // The next above may have to keep less all the same: it uses more as well.
                }
                let change = is - was;
                if let Some(keeps) = queue.keeps.get_mut(tier) {
                    *keeps.of_mut(resource) = is;
                }
                let beside = match path.get(step + 1) {
                    Some(&above) => self.queues[above].kept_below.get_mut(tier),
                    None => self.kept.get_mut(tier),
                };
                if let Some(beside) = beside {
                    *beside.of_mut(resource) += change;
                }
            }
        }
    }

    /// Counts all that is kept anew. What is used is known by then.
    pub(crate) fn count_all_kept(&mut self) {
        self.kept = Default::default();
        self.keeps_something = false;
        let all: Vec<QueueOrd> = self.queues_by_name.values().copied().collect();
        for &ord in &all {
            let queue = &mut self.queues[ord];
            queue.keeps = Default::default();
            queue.kept_below = Default::default();
        }
        for ord in all {
            for tier in TIERS.map(tier_index) {
                let queue = &self.queues[ord];
                let resources: Vec<ResourceOrd> = queue.unlent_in(tier).iter().map(|(r, _)| *r).collect();
                self.keeps_something |= !resources.is_empty() && queue.fault.is_none();
                let path = queue.path.clone();
                self.count_kept(&path, tier, resources.into_iter());
            }
        }
    }

    /// Why a claim may not have `ask` more, if it would use what queues beside those on its way to the top keep for
    /// themselves. What its own queue keeps, it may always use.
    pub(crate) fn kept_for_others(&self, claim: ClaimOrd, ask: &[(ResourceOrd, Amount)]) -> Option<Reason> {
        if !self.keeps_something {
            return None;
        }
        let claim = &self.claims[claim];
        let tier = tier_index(claim.tier);
        let path = &self.queues[claim.queue].path;
        ask.iter()
            .find_map(|&(resource, asked)| self.kept_of(path, tier, resource, asked))
    }

    fn kept_of(&self, path: &[QueueOrd], tier: usize, resource: ResourceOrd, asked: Amount) -> Option<Reason> {
        // What is kept beside the way to the top, as far as it has been gone.
        let mut kept = path
            .first()
            .map_or(Amount::ZERO, |&q| self.queues[q].kept_below(tier, resource));
        for (step, &ord) in path.iter().enumerate() {
            let queue = &self.queues[ord];
            if kept > Amount::ZERO
                && let Some(limit) = queue.limit(tier, resource)
            {
                let free = limit - queue.used(tier, resource);
                if asked + kept > free {
                    return Some(self.kept_reason(path, tier, resource, asked, (free, kept)));
                }
            }
            let at_top = step + 1 == path.len();
            let beside = match path.get(step + 1) {
                Some(&above) => self.queues[above].kept_below(tier, resource),
                None => self.kept_at_top(tier, resource),
            };
            let own = queue.keeps(tier, resource);
            if asked > own {
                let own = if at_top {
                    self.over_tiers(&queue.keeps, tier, resource)
                } else {
                    own
                };
                kept += beside - own;
            }
        }
        let free = self.capacity_for(tier, resource) - self.over_tiers(&self.held, tier, resource);
        (kept > Amount::ZERO && asked + kept > free)
            .then(|| self.kept_reason(path, tier, resource, asked, (free, kept)))
    }

    fn kept_reason(
        &self,
        path: &[QueueOrd],
        tier: usize,
        resource: ResourceOrd,
        asked: Amount,
        (free, kept): (Amount, Amount),
    ) -> Reason {
        // The one that keeps most, the first by name.
        let mut most: Option<(Amount, &str)> = None;
        let children = path.iter().flat_map(|&q| self.queues[q].children.iter().copied());
        let tops = self.queues_by_name.values().copied().filter(|&q| {
            let queue = &self.queues[q];
            queue.fault.is_none() && queue.path.len() == 1
        });
        for ord in children.chain(tops).filter(|q| !path.contains(q)) {
            let queue = &self.queues[ord];
            let keeps = queue.keeps(tier, resource);
            if keeps > Amount::ZERO && most.is_none_or(|(m, name)| keeps > m || (keeps == m && *queue.name < *name)) {
                most = Some((keeps, &queue.name));
            }
        }
        Reason::KeptForOthers {
            queue: most.map_or_else(String::new, |(_, name)| name.to_owned()),
            resource: self.resources.name(resource).to_owned(),
            asked: asked.get(),
            free: free.get().max(0),
            kept: kept.get(),
        }
    }

    /// What the queues at the top keep together: of what all tiers take from the same, in all of them.
    fn kept_at_top(&self, tier: usize, resource: ResourceOrd) -> Amount {
        self.over_tiers(&self.kept, tier, resource)
    }

    /// What all nodes have of a resource as quotas call it, for a tier.
    pub(crate) fn capacity_for(&self, tier: usize, resource: ResourceOrd) -> Amount {
        let own = self.resources.reserved_for(resource).is_some();
        // What all tiers take from the same, nodes have under prod.
        let tier = if own { tier } else { 0 };
        self.capacity
            .get(tier)
            .map_or(Amount::ZERO, |totals| totals.of(resource))
    }

    /// An amount of one tier, or of all of them if they take from the same.
    pub(crate) fn over_tiers(&self, of: &[Totals; 3], tier: usize, resource: ResourceOrd) -> Amount {
        if self.resources.reserved_for(resource).is_some() {
            return of.get(tier).map_or(Amount::ZERO, |totals| totals.of(resource));
        }
        of.iter().fold(Amount::ZERO, |sum, totals| sum + totals.of(resource))
    }
}
