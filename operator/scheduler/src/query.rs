//! The read side: plain values for the edge's metrics and status, by the names that the outside uses.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Cluster, Tier,
    amount::{Amount, Totals},
    decision::Reason,
    model::{Model, Place, QueueSlot, Seat, TIERS, tier_index},
    slab::{QueueOrd, ResourceOrd},
};

/// Amounts by the names that quotas use: `cpu` in milli-cores, `memory` in bytes, `gpu` in thousandths of devices,
/// everything else in units.
pub type ByResource = BTreeMap<String, i64>;

/// How a queue stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueView {
    /// Its name.
    pub name: String,
    /// By tier, those in which anything is used, guaranteed or limited.
    pub tiers: Vec<QueueTierView>,
    /// Claims (and pods without one) that wait, in this queue itself.
    pub pending: u32,
    /// Claims (and pods without one) that hold something, in this queue itself.
    pub running: u32,
    /// Dominant share of the cluster's capacity, in thousandths, by its weight; the past included, if it counts.
    pub share_milli: u64,
    /// What is wrong with its way to the top, if anything is: nothing of it, and of what is below it, is placed.
    pub fault: Option<Reason>,
}

/// How a queue stands in one tier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueTierView {
    /// The tier.
    pub tier: Tier,
    /// Held in it and below it.
    pub used: ByResource,
    /// Held beyond what is guaranteed, of resources that the guarantee names, and of all if it names none.
    pub borrowed: ByResource,
    /// Of its guarantee, what others hold. What the queues beside each other leave of their guarantees and the cluster has
    /// no free capacity for is lent; each has lent as much of it as it lends of the whole.
    pub lent: ByResource,
    /// What is guaranteed.
    pub guaranteed: ByResource,
    /// What it never exceeds.
    pub limit: ByResource,
}

/// Where a claim stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClaimPhase {
    /// Some group has fewer bound pods than its minimum.
    #[default]
    Pending,
    /// Each group has at least its minimum.
    Running,
    /// Its pods have all ended.
    Finished,
}

/// How a claim stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimView {
    /// Its UID.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Name of its queue.
    pub queue: String,
    /// Where it stands.
    pub phase: ClaimPhase,
    /// By group, in the order of names.
    pub groups: Vec<GroupView>,
    /// Why something of it waits, as last said.
    pub reason: Option<Reason>,
    /// Why nothing more of it may be placed, whatever it holds already: its queue is not there, its way to the top is broken,
    /// or it does not admit the claim's namespace.
    pub barred: Option<Reason>,
}

/// How a group stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupView {
    /// Its name.
    pub name: String,
    /// Pods that are bound or about to be, and not leaving.
    pub placed: u32,
    /// Pods that finished.
    pub finished: u32,
    /// Pods at most.
    pub desired: u32,
}

/// Capacity and use of the cluster in one tier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TierView {
    /// The tier.
    pub tier: Tier,
    /// What the nodes have. GPUs are the same ones in each tier.
    pub capacity: ByResource,
    /// What pods of this tier hold, those of other schedulers as prod. GPUs by their request.
    pub allocated: ByResource,
}

/// Pods of ours, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodCounts {
    /// Not bound, not finished.
    pub pending: u32,
    /// Bound or about to be, not finished.
    pub bound: u32,
}

impl Cluster {
    /// All queues that exist, by name.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueView> {
        let lending = self.model.lending(&self.allocated());
        let ords = self.model.queues_by_name.values().copied();
        ords.filter(|&q| self.model.queues[q].present)
            .map(|q| self.model.queue_view(q, &lending))
            .collect()
    }

    /// A claim, by UID.
    #[must_use]
    pub fn claim(&self, uid: &str) -> Option<ClaimView> {
        let ord = *self.model.claims_by_uid.get(uid)?;
        let claim = &self.model.claims[ord];
        let name = match &claim.key {
            crate::model::ClaimKey::Named(_, name) | crate::model::ClaimKey::Alone(name) => name.to_string(),
        };
        let (mut whole, mut live, mut done, mut unfinished) = (true, 0, 0, false);
        let mut groups = Vec::with_capacity(claim.groups.len());
        for group in &claim.groups {
            let tally = self.model.tally(group);
            whole &= tally.live + tally.done >= group.min();
            live += tally.live;
            done += tally.done;
            unfinished |= group.members.iter().any(|&p| !self.model.pods[p].finished);
            groups.push(GroupView {
                name: group.spec.name.clone(),
                placed: tally.live,
                finished: tally.done,
                desired: group.max(),
            });
        }
        let phase = match (done > 0 && !unfinished, whole && live > 0) {
            (true, _) => ClaimPhase::Finished,
            (false, true) => ClaimPhase::Running,
            (false, false) => ClaimPhase::Pending,
        };
        Some(ClaimView {
            uid: uid.into(),
            namespace: claim.namespace.to_string(),
            name,
            queue: self.model.queues[claim.queue].name.to_string(),
            phase,
            groups,
            reason: claim.reported.as_deref().cloned(),
            barred: self.model.queue_refuses(ord),
        })
    }

    /// All claims, by namespace and name. Pods without one are none.
    #[must_use]
    pub fn claims(&self) -> Vec<ClaimView> {
        let mut all: Vec<ClaimView> = self
            .model
            .claims_by_uid
            .keys()
            .filter_map(|uid| self.claim(uid))
            .collect();
        all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        all
    }

    /// UID of the claim that a pod belongs to: `None` if the pod is unknown, alone, or its claim is not there.
    #[must_use]
    pub fn claim_of_pod(&self, pod: &str) -> Option<&str> {
        let pod = &self.model.pods[*self.model.pods_by_uid.get(pod)?];
        let claim = &self.model.claims[pod.claim?];
        let named = matches!(claim.key, crate::model::ClaimKey::Named(..));
        (named && claim.known).then_some(&*claim.uid)
    }

    /// What stands against a pod by itself, not against its claim, as last said; `None` if nothing does any more.
    #[must_use]
    pub fn reason_of_pod(&self, pod: &str) -> Option<&Reason> {
        self.model.pods[*self.model.pods_by_uid.get(pod)?].reported.as_deref()
    }

    /// Node on which a place is kept for a pod until those who sit there are gone.
    #[must_use]
    pub fn kept_seat_of_pod(&self, pod: &str) -> Option<&str> {
        let pod = &self.model.pods[*self.model.pods_by_uid.get(pod)?];
        let seat = pod.place.seat().filter(|_| !pod.place.is_taken())?;
        Some(&self.model.nodes[seat.node].name)
    }

    /// True while a pod is to go for a claim that waits for that; also if it is another one than it was, which counts on
    /// what the pod leaves.
    #[must_use]
    pub fn makes_room(&self, pod: &str) -> bool {
        let model = &self.model;
        let Some(pod) = model.pods_by_uid.get(pod).map(|pod| &model.pods[*pod]) else {
            return false;
        };
        let kept = |seat: &Seat| {
            let mut there = model.nodes[seat.node].pods.iter();
            there.any(|p| matches!(model.pods[*p].place, Place::Nominated(_)))
        };
        pod.leaving && (pod.leaving_for.is_some() || pod.place.seat().is_some_and(kept))
    }

    /// Node and devices of a pod that is bound or about to be.
    #[must_use]
    pub fn seat_of_pod(&self, pod: &str) -> Option<(&str, &[u16])> {
        let pod = &self.model.pods[*self.model.pods_by_uid.get(pod)?];
        let seat = pod.place.seat().filter(|_| pod.place.is_taken())?;
        Some((&self.model.nodes[seat.node].name, &seat.devices))
    }

    /// Capacity and use by tier.
    #[must_use]
    pub fn tiers(&self) -> Vec<TierView> {
        let allocated = self.allocated();
        let pairs = TIERS.into_iter().zip(self.model.capacity.iter().zip(allocated.iter()));
        pairs
            .map(|(tier, (capacity, allocated))| TierView {
                tier,
                capacity: self.model.by_name(capacity.iter()),
                allocated: self.model.by_name(allocated.iter()),
            })
            .collect()
    }

    /// Our pods, in numbers.
    #[must_use]
    pub fn pods(&self) -> PodCounts {
        let mut counts = PodCounts::default();
        for (_, pod) in self.model.pods.iter().filter(|(_, p)| p.ours && !p.finished) {
            if pod.place.is_taken() {
                counts.bound += 1;
            } else {
                counts.pending += 1;
            }
        }
        counts
    }

    /// Names of the nodes, in node order.
    pub fn node_names(&self) -> impl Iterator<Item = &str> {
        self.model
            .nodes_by_name
            .iter()
            .filter(|(_, n)| self.model.nodes[**n].present)
            .map(|(name, _)| &**name)
    }

    fn allocated(&self) -> [Totals; 3] {
        let mut sums: [Totals; 3] = Default::default();
        for (_, pod) in self.model.pods.iter().filter(|(_, p)| p.place.is_taken()) {
            let shape = self.model.shapes.value(pod.shape);
            let tier = if pod.ours { shape.tier } else { Tier::Prod };
            if let Some(sum) = sums.get_mut(tier_index(tier)) {
                sum.add(&shape.ask);
            }
        }
        sums
    }
}

impl Model {
    fn by_name(&self, amounts: impl Iterator<Item = (ResourceOrd, Amount)>) -> ByResource {
        amounts
            .map(|(r, a)| (self.resources.name(r).to_string(), a.get()))
            .collect()
    }

    fn queue_view(&self, ord: QueueOrd, lending: &Lending) -> QueueView {
        let queue = &self.queues[ord];
        let mut tiers = Vec::new();
        for tier in TIERS {
            let index = tier_index(tier);
            let (Some(used), Some(quota)) = (queue.used.get(index), queue.quotas.get(index)) else {
                continue;
            };
            let view = QueueTierView {
                tier,
                used: self.by_name(used.iter()),
                borrowed: self.by_name(borrowed(used, &quota.guaranteed).into_iter()),
                lent: self.by_name(quota.guaranteed.iter().filter_map(|&(r, _)| {
                    let lent = self.lent(ord, index, r, lending);
                    (lent > Amount::ZERO).then_some((r, lent))
                })),
                guaranteed: self.by_name(quota.guaranteed.iter().copied()),
                limit: self.by_name(quota.limit.iter().copied()),
            };
            if !(view.used.is_empty() && view.guaranteed.is_empty() && view.limit.is_empty()) {
                tiers.push(view);
            }
        }
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        QueueView {
            name: queue.name.to_string(),
            tiers,
            pending: count(queue.pending.len() + queue.parked.len()),
            running: count(queue.running.iter().map(std::collections::BTreeSet::len).sum()),
            share_milli: self.dominant_share(ord).milli(),
            fault: self.fault_of_queue(ord),
        }
    }
}

/// What the queues right below each queue (or at the top: `None`) leave of their guarantees: in all, of that what they would
/// lend, and what the cluster has free.
type Lending = BTreeMap<(Option<QueueOrd>, usize, ResourceOrd), (Amount, Amount, Amount)>;

impl Model {
    fn lending(&self, allocated: &[Totals; 3]) -> Lending {
        let mut lending = Lending::new();
        for (_, queue) in self.queues.iter().filter(|(_, q)| q.fault.is_none()) {
            for tier in TIERS.map(tier_index) {
                for &(resource, guaranteed) in queue.guaranteed(tier) {
                    let key = (queue.path.get(1).copied(), tier, resource);
                    let (idle, lendable, free) = lending.entry(key).or_default();
                    *idle += (guaranteed - queue.used(tier, resource)).max(Amount::ZERO);
                    *lendable += lendable_of(queue, tier, resource, guaranteed);
                    let all = self.capacity_for(tier, resource) - self.over_tiers(allocated, tier, resource);
                    *free = all.max(Amount::ZERO);
                }
            }
        }
        lending
    }

    fn lent(&self, ord: QueueOrd, tier: usize, resource: ResourceOrd, lending: &Lending) -> Amount {
        let queue = &self.queues[ord];
        let guaranteed = queue.guaranteed(tier).iter().find(|(r, _)| *r == resource);
        let key = (queue.path.get(1).copied(), tier, resource);
        let (Some(&(_, guaranteed)), Some(&(idle, lendable, free)), None) =
            (guaranteed, lending.get(&key), &queue.fault)
        else {
            return Amount::ZERO;
        };
        let mine = i128::from(lendable_of(queue, tier, resource, guaranteed).get());
        let lent = i128::from((idle - free).max(Amount::ZERO).min(lendable).get());
        Amount::taken_in(i64::try_from(lent * mine / i128::from(lendable.get().max(1))).unwrap_or(i64::MAX))
    }
}

/// What a queue would lend now: what it leaves of its guarantee, less what it keeps.
fn lendable_of(queue: &QueueSlot, tier: usize, resource: ResourceOrd, guaranteed: Amount) -> Amount {
    let left = |of: Amount| (of - queue.used(tier, resource)).max(Amount::ZERO);
    left(guaranteed) - left(queue.unlent(tier, resource))
}

fn borrowed(used: &Totals, guaranteed: &[(ResourceOrd, Amount)]) -> Vec<(ResourceOrd, Amount)> {
    if guaranteed.is_empty() {
        return used.iter().collect();
    }
    let beyond = guaranteed.iter().map(|&(r, g)| (r, used.of(r) - g));
    beyond.filter(|(_, amount)| *amount > Amount::ZERO).collect()
}
