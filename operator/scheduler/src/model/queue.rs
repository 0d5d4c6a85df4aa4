//! Queues: the quota tree. Use is counted at a queue and at each above it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    amount::{Amount, Amounts, Totals},
    decision::Reason,
    event::{self, Tier, Time},
    model::{Model, Users, Waiting, past::Past, tier_index, tree::Fault},
    slab::{ClaimOrd, PodOrd, QueueOrd, ResourceOrd},
};

/// The queue of those that name none. It is there without being made, without limit or guarantee.
pub(crate) const DEFAULT: &str = "default";

/// The name of a queue, or that of the default one.
pub(crate) fn or_default(name: &str) -> &str {
    if name.is_empty() { DEFAULT } else { name }
}

/// Order of those that may have to go: lowest priority, then newest, then UID.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct VictimKey {
    pub(crate) priority: i32,
    pub(crate) created: Reverse<Time>,
    pub(crate) uid: Reverse<Arc<str>>,
    pub(crate) claim: ClaimOrd,
}

/// Quota of a queue in one tier, in the order of resource names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TierQuota {
    pub(crate) guaranteed: Amounts,
    pub(crate) limit: Amounts,
    /// What of the guarantee is not lent; zero ones are left out.
    pub(crate) unlent: Amounts,
}

/// A queue, or the name of one that claims or queues refer to and that is not there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct QueueSlot {
    pub(crate) name: Arc<str>,
    pub(crate) present: bool,
    pub(crate) parent: Option<QueueOrd>,
    pub(crate) weight: u32,
    pub(crate) quotas: [TierQuota; 3],
    /// Empty allows all.
    pub(crate) namespaces: BTreeSet<String>,
    /// It waits for what it lent.
    pub(crate) never_reclaims: bool,
    /// What is held in it and below it, by tier.
    pub(crate) used: [Totals; 3],
    /// What it used in the past, if that counts.
    pub(crate) past: Option<Box<Past>>,
    /// What it and those below it keep free for themselves, by tier.
    pub(crate) keeps: [Totals; 3],
    /// The sum of what the queues right below it keep.
    pub(crate) kept_below: [Totals; 3],
    /// Itself and those above it, up to the top or to the fault.
    pub(crate) path: Arc<[QueueOrd]>,
    pub(crate) fault: Option<Fault>,
    /// The queues right below it, by name; those whose way to the top is broken are left out.
    pub(crate) children: Vec<QueueOrd>,
    /// Claims that are in it and queues that name it as their parent: while there are any, its name is kept.
    pub(crate) references: u32,
    /// What its own claims hold, by namespace.
    pub(crate) users: Users,
    /// Claims that wait and are to be tried.
    pub(crate) pending: Waiting,
    /// Claims that wait and were tried in vain: thousands of them cost a cycle nothing while nothing is freed.
    pub(crate) parked: Waiting,
    /// `Model::freed` when they were.
    pub(crate) parked_at: u64,
    pub(crate) running: [BTreeSet<VictimKey>; 3],
}

impl QueueSlot {
    fn quota(&self, tier: usize) -> Option<&TierQuota> {
        self.quotas.get(tier)
    }

    /// What is held of a resource in a tier.
    pub(crate) fn used(&self, tier: usize, resource: ResourceOrd) -> Amount {
        self.used.get(tier).map_or(Amount::ZERO, |totals| totals.of(resource))
    }

    /// The limit of a resource, if there is one.
    pub(crate) fn limit(&self, tier: usize, resource: ResourceOrd) -> Option<Amount> {
        self.quota(tier)?
            .limit
            .iter()
            .find(|(r, _)| *r == resource)
            .map(|(_, a)| *a)
    }

    /// What it is guaranteed in a tier, by the resources that it names.
    pub(crate) fn guaranteed(&self, tier: usize) -> &[(ResourceOrd, Amount)] {
        self.quota(tier).map_or(&[], |q| &q.guaranteed)
    }

    /// What of its guarantee it does not lend, by the resources of which it keeps something.
    pub(crate) fn unlent_in(&self, tier: usize) -> &[(ResourceOrd, Amount)] {
        self.quota(tier).map_or(&[], |q| &q.unlent)
    }

    /// What of its guarantee it does not lend.
    pub(crate) fn unlent(&self, tier: usize, resource: ResourceOrd) -> Amount {
        let unlent = self.unlent_in(tier).iter().find(|(r, _)| *r == resource);
        unlent.map_or(Amount::ZERO, |(_, a)| *a)
    }

    /// True if it is guaranteed something in this tier and would use no more than that with `ask` more, in each
    /// resource that its guarantee names. Such a queue gets its guarantee by reclaim, and nobody reclaims from it:
    /// since both are this one condition, a victim could never have reclaimed its reclaimer.
    pub(crate) fn within_guarantee(&self, tier: usize, ask: &[(ResourceOrd, Amount)]) -> bool {
        let guaranteed = self.guaranteed(tier);
        let asked = |resource| {
            ask.iter()
                .find(|(r, _)| *r == resource)
                .map_or(Amount::ZERO, |(_, a)| *a)
        };
        !guaranteed.is_empty() && guaranteed.iter().all(|&(r, g)| self.used(tier, r) + asked(r) <= g)
    }

    /// What it uses less of than it is guaranteed.
    pub(crate) fn below_guarantee(&self, tier: usize) -> impl Iterator<Item = ResourceOrd> + '_ {
        let below = move |&&(r, g): &&(ResourceOrd, Amount)| self.used(tier, r) < g;
        self.guaranteed(tier).iter().filter(below).map(|(r, _)| *r)
    }
}

impl Model {
    /// The queue of a name; a mere name, if there is none.
    pub(crate) fn queue_named(&mut self, name: &str) -> QueueOrd {
        if let Some(&known) = self.queues_by_name.get(name) {
            return known;
        }
        let name: Arc<str> = name.into();
        let present = &*name == DEFAULT;
        let ord = self.queues.insert(QueueSlot {
            name: name.clone(),
            present,
            weight: 1,
            ..Default::default()
        });
        self.queues[ord].path = Arc::new([ord]);
        self.queues_by_name.insert(name, ord);
        ord
    }

    /// Takes in a queue.
    pub(crate) fn apply_queue(&mut self, event: &event::Queue) {
        if event.name.is_empty() {
            return;
        }
        let ord = self.queue_named(&event.name);
        let parent = event
            .parent
            .as_deref()
            .filter(|p| !p.is_empty())
            .map(|p| self.queue_named(p));
        let quotas = self.quotas_of(event);
        let namespaces: BTreeSet<String> = event.namespaces.iter().cloned().collect();
        let half_life = event.fairness_half_life.filter(|&half_life| half_life > 0);
        let queue = &self.queues[ord];
        let (was_present, was_parent) = (queue.present, queue.parent);
        let same = was_present
            && was_parent == parent
            && queue.weight == event.weight.max(1)
            && queue.quotas == quotas
            && queue.namespaces == namespaces
            && queue.never_reclaims == event.never_reclaims
            && queue.half_life() == half_life;
        if same {
            return;
        }
        let queue = &mut self.queues[ord];
        queue.present = true;
        queue.parent = parent;
        queue.weight = event.weight.max(1);
        queue.quotas = quotas;
        queue.namespaces = namespaces;
        queue.never_reclaims = event.never_reclaims;
        queue.set_half_life(half_life, self.now);
        if was_parent != parent {
            if let Some(parent) = parent {
                self.queues[parent].references += 1;
            }
            if let Some(was) = was_parent {
                self.drop_reference(was);
            }
        }
        if !was_present || was_parent != parent {
            self.find_paths();
        } else {
            self.count_all_kept();
        }
        self.freed += 1;
    }

    fn quotas_of(&mut self, event: &event::Queue) -> [TierQuota; 3] {
        let mut by_tier: BTreeMap<Tier, [event::Amounts; 3]> = BTreeMap::new();
        for quota in &event.quotas {
            let [guaranteed, limit, lend_limit] = by_tier.entry(quota.tier).or_default();
            guaranteed.extend(quota.guaranteed.clone());
            limit.extend(quota.limit.clone());
            lend_limit.extend(quota.lend_limit.clone());
        }
        let mut quotas: [TierQuota; 3] = Default::default();
        for (tier, [guaranteed, limit, lend_limit]) in by_tier {
            // A resource without a lend limit is lent as a whole.
            let unlent = guaranteed
                .iter()
                .filter_map(|(r, &g)| Some((r.clone(), (g.max(0)).saturating_sub((*lend_limit.get(r)?).max(0)))));
            let unlent: event::Amounts = unlent.collect();
            if let Some(quota) = quotas.get_mut(tier_index(tier)) {
                // A limit of zero is a limit, other than an amount of zero.
                let limit = limit
                    .iter()
                    .map(|(r, a)| (self.resources.named(r), Amount::taken_in(*a)))
                    .collect();
                *quota = TierQuota {
                    guaranteed: self.resources.taken_in(&guaranteed),
                    limit,
                    unlent: self.resources.taken_in(&unlent),
                };
            }
        }
        quotas
    }

    /// A queue is gone. What runs in it goes on; what waits says so.
    pub(crate) fn apply_queue_gone(&mut self, name: &str) {
        let Some(&ord) = self.queues_by_name.get(name) else {
            return;
        };
        let queue = &mut self.queues[ord];
        let was = (
            queue.present,
            queue.parent,
            queue.weight,
            queue.quotas.clone(),
            queue.namespaces.clone(),
            queue.never_reclaims,
            queue.half_life(),
        );
        if was
            == (
                name == DEFAULT,
                None,
                1,
                Default::default(),
                BTreeSet::new(),
                false,
                None,
            )
        {
            return;
        }
        queue.present = name == DEFAULT;
        queue.parent = None;
        queue.weight = 1;
        queue.quotas = Default::default();
        queue.namespaces = BTreeSet::new();
        queue.never_reclaims = false;
        queue.past = None;
        if let Some(parent) = was.1 {
            self.drop_reference(parent);
        }
        self.forget_queue_if_unused(ord);
        self.find_paths();
        self.freed += 1;
    }

    /// Why nothing of a claim may be placed at all, if so: its queue is not there, is broken, or not for it.
    pub(crate) fn queue_refuses(&self, claim: ClaimOrd) -> Option<Reason> {
        let claim = &self.claims[claim];
        let queue = &self.queues[claim.queue];
        if !queue.present {
            let queue = queue.name.to_string();
            return Some(Reason::NoSuchQueue { queue });
        }
        if let Some(fault) = self.fault_of_queue(claim.queue) {
            return Some(fault);
        }
        for &ord in queue.path.iter() {
            let queue = &self.queues[ord];
            if !queue.namespaces.is_empty() && !queue.namespaces.contains(&*claim.namespace) {
                let (queue, namespace) = (queue.name.to_string(), claim.namespace.to_string());
                return Some(Reason::NamespaceNotAllowed { queue, namespace });
            }
        }
        None
    }

    /// True if anything could ever keep a claim from having more: a limit on the way to the top, or what queues keep for
    /// themselves.
    pub(crate) fn is_limited(&self, ord: ClaimOrd) -> bool {
        let claim = &self.claims[ord];
        let tier = tier_index(claim.tier);
        let limits = |&at: &QueueOrd| self.queues[at].quota(tier).is_some_and(|q| !q.limit.is_empty());
        self.keeps_something || self.queues[claim.queue].path.iter().any(limits)
    }

    /// True if what one claim holds counts against a limit that another's queues have.
    pub(crate) fn counts_against(&self, claim: ClaimOrd, other: ClaimOrd) -> bool {
        let (claim, other) = (&self.claims[claim], &self.claims[other]);
        let (ours, theirs) = (&self.queues[claim.queue].path, &self.queues[other.queue].path);
        let tier = tier_index(other.tier);
        let limits = |at: &QueueOrd| self.queues[*at].quota(tier).is_some_and(|q| !q.limit.is_empty());
        // What others keep for themselves depends on what those beside them use.
        self.keeps_something || claim.tier == other.tier && theirs.iter().any(|at| ours.contains(at) && limits(at))
    }

    /// Why a claim may not have `ask` more, if so: a limit on the way to the top, or what others keep for themselves.
    pub(crate) fn over_limit(&self, ord: ClaimOrd, ask: &[(ResourceOrd, Amount)]) -> Option<Reason> {
        let claim = &self.claims[ord];
        let tier = tier_index(claim.tier);
        let mut waits = None;
        for &at in self.queues[claim.queue].path.iter() {
            let queue = &self.queues[at];
            if queue.quota(tier).is_none_or(|q| q.limit.is_empty()) {
                continue;
            }
            for &(resource, asked) in ask {
                let Some(limit) = queue.limit(tier, resource) else {
                    continue;
                };
                let used = queue.used(tier, resource);
                let name = || (queue.name.to_string(), self.resources.name(resource).to_string());
                if asked > limit {
                    let (queue, resource) = name();
                    return Some(Reason::ExceedsLimit {
                        queue,
                        resource,
                        asked: asked.get(),
                        limit: limit.get(),
                    });
                }
                if used + asked > limit && waits.is_none() {
                    let (queue, resource) = name();
                    let left = (limit - used).get().max(0);
                    waits = Some(Reason::WaitingForQuota {
                        queue,
                        resource,
                        asked: asked.get(),
                        left,
                    });
                }
            }
        }
        waits.or_else(|| self.kept_for_others(ord, ask))
    }

    /// What some pods ask of quotas together, in the order of names.
    pub(crate) fn ask_of_pods(&self, pods: &[PodOrd]) -> Amounts {
        if let [pod] = pods {
            return self.shapes.value(self.pods[*pod].shape).ask.clone();
        }
        let mut sum: Amounts = Vec::new();
        for &pod in pods {
            for &(resource, amount) in &self.shapes.value(self.pods[pod].shape).ask {
                match sum.iter_mut().find(|(r, _)| *r == resource) {
                    Some((_, all)) => *all += amount,
                    None => sum.push((resource, amount)),
                }
            }
        }
        sum.sort_by(|a, b| self.resources.name(a.0).cmp(self.resources.name(b.0)));
        sum
    }
}
