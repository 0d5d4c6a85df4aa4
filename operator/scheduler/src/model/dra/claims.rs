//! Claims to devices, and the pods that use them.

use std::{collections::BTreeSet, sync::Arc};

use super::{Key, allocate::FEW};
use crate::{
    decision::Reason,
    event::{self, DeviceAllocation, DeviceClaim, DeviceClaimSpec},
    model::{Model, Place, PodSlot, Shape},
    slab::{DeviceClaimOrd, PodOrd},
};

/// How many may use a claim at once, as the API server has it.
pub(crate) const USERS: usize = 256;

/// A claim, or the name of one that pods use and that is not there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DeviceClaimSlot {
    pub(crate) name: Key,
    /// False for a mere name.
    pub(crate) known: bool,
    pub(crate) uid: Arc<str>,
    owner: Option<Arc<str>>,
    pub(crate) spec: Arc<DeviceClaimSpec>,
    refused: Option<Arc<str>>,
    pub(super) deleting: bool,
    /// What the API server says that it has.
    pub(super) told: Option<Arc<DeviceAllocation>>,
    /// Who may use it, by the word of the API server.
    pub(crate) reserved: BTreeSet<Arc<str>>,
    /// What was decided that it has, and is not said yet.
    decided: Option<Arc<DeviceAllocation>>,
    /// The pods with whose bindings that was decided, by UID: whether they are carried out is not known.
    pub(super) promised: BTreeSet<Arc<str>>,
    /// Its devices are being given back, and it is not known what came of that: nobody is to be bound with them.
    pub(super) taking_back: bool,
    /// Seats of those who use it, with its devices.
    pub(crate) seats: u32,
    /// Pods that use it and may be placed yet.
    pub(crate) pods: BTreeSet<PodOrd>,
}

impl DeviceClaimSlot {
    /// What it has.
    pub(crate) fn allocation(&self) -> Option<&Arc<DeviceAllocation>> {
        self.told.as_ref().or(self.decided.as_ref())
    }

    /// True if as many as ever may are named as its users.
    pub(crate) fn is_full(&self) -> bool {
        self.reserved.len() >= USERS
    }

    /// Why a pod that uses it cannot be placed, wherever.
    fn against(&self, pod: &PodSlot, unserved: bool) -> Option<String> {
        let name = &self.name.1;
        if !self.known && unserved {
            return Some(format!(
                "resourceclaim {name} cannot be seen: resource.k8s.io/v1 is not served by the API server, or this \
                 scheduler may not watch resourceclaims"
            ));
        }
        if !self.known {
            return Some(format!("waiting for resource claim to be created: {name}"));
        }
        if self.deleting {
            return Some(format!("resourceclaim {name:?} is being deleted"));
        }
        if self.owner.as_ref().is_some_and(|owner| *owner != pod.uid) {
            return Some(format!(
                "resourceclaim {name} was made for another pod, and not for this one: delete it, and it is made anew"
            ));
        }
        if self.taking_back {
            return Some(format!(
                "resourceclaim {name}: its devices are given back, since no node takes the pod with them"
            ));
        }
        if self.is_full() && !self.reserved.contains(&pod.uid) {
            return Some(format!(
                "resourceclaim {name} in use: {USERS} pods have it, and it takes no more"
            ));
        }
        match &self.refused {
            Some(why) if self.told.is_none() => Some(format!("resourceclaim {name}: {why}")),
            _ => None,
        }
    }
}

/// What a shape asks of devices by one claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ClaimNeed {
    /// Devices for a claim of its own: any pods with such claims are alike.
    Own(Arc<DeviceClaimSpec>),
    /// Those that this claim has, or will have: it is shared, or has them already.
    This(DeviceClaimOrd),
}

impl Model {
    /// Takes in a claim to devices.
    pub(crate) fn apply_device_claim(&mut self, event: &DeviceClaim) {
        if event.name.is_empty() {
            return;
        }
        let ord = self.device_claim_named(&event.namespace, &event.name);
        let slot = &self.dra.claims[ord];
        if slot.known && *slot.uid != *event.uid && !event.uid.is_empty() {
            // Another one of the same name: the first one is gone.
            self.empty_device_claim(ord);
        }
        let slot = &self.dra.claims[ord];
        let told = match (&slot.told, &event.allocation) {
            (Some(old), Some(new)) if **old == *new => Some(old.clone()),
            (_, new) => new.clone().map(Arc::new),
        };
        let spec = if *slot.spec == event.spec {
            slot.spec.clone()
        } else {
            Arc::new(event.spec.clone())
        };
        let news = DeviceClaimSlot {
            name: slot.name.clone(),
            known: true,
            uid: event.uid.as_str().into(),
            owner: event.owner.as_deref().map(Into::into),
            spec,
            refused: event.refused.as_deref().map(Into::into),
            deleting: event.deleting,
            reserved: event.reserved.iter().map(|uid| uid.as_str().into()).collect(),
            told: slot.told.clone(),
            decided: slot.decided.clone(),
            promised: slot.promised.clone(),
            taking_back: slot.taking_back,
            seats: slot.seats,
            pods: slot.pods.clone(),
        };
        if *slot == news && slot.told == told {
            return;
        }
        let full = slot.is_full();
        self.dra.claims[ord] = news;
        if told.is_some() {
            self.forget_promise(ord);
        }
        self.set_device_allocation(ord, |slot| {
            if told.is_some() {
                slot.decided = None;
            }
            slot.told = told;
        });
        if full && !self.dra.claims[ord].is_full() {
            self.dra.wide_changes += 1;
        }
        self.freed += 1;
        self.device_claim_changed(ord);
        self.forget_device_claim_if_unused(ord);
    }

    /// Whether claims can be seen at all.
    pub(crate) fn apply_device_claims_served(&mut self, served: bool) {
        if self.dra.unserved != served {
            return;
        }
        self.dra.unserved = !served;
        let missing: Vec<DeviceClaimOrd> = self
            .dra
            .claims
            .iter()
            .filter(|(_, slot)| !slot.known)
            .map(|(ord, _)| ord)
            .collect();
        for claim in missing {
            self.device_claim_changed(claim);
        }
    }

    /// A claim is gone, and its devices are free.
    pub(crate) fn apply_device_claim_gone(&mut self, namespace: &str, name: &str) {
        let Some(&ord) = self.dra.claims_by_name.get(&(namespace.into(), name.into())) else {
            return;
        };
        if !self.dra.claims[ord].known {
            return;
        }
        self.empty_device_claim(ord);
        self.freed += 1;
        self.device_claim_changed(ord);
        self.forget_device_claim_if_unused(ord);
    }

    /// Makes a mere name of a claim.
    fn empty_device_claim(&mut self, ord: DeviceClaimOrd) {
        self.forget_promise(ord);
        self.set_device_allocation(ord, |slot| (slot.told, slot.decided) = (None, None));
        let slot = &mut self.dra.claims[ord];
        *slot = DeviceClaimSlot {
            name: std::mem::take(&mut slot.name),
            seats: slot.seats,
            pods: std::mem::take(&mut slot.pods),
            ..DeviceClaimSlot::default()
        };
    }

    fn device_claim_named(&mut self, namespace: &str, name: &str) -> DeviceClaimOrd {
        let key: Key = (namespace.into(), name.into());
        if let Some(&known) = self.dra.claims_by_name.get(&key) {
            return known;
        }
        let ord = self.dra.claims.insert(DeviceClaimSlot {
            name: key.clone(),
            ..DeviceClaimSlot::default()
        });
        self.dra.claims_by_name.insert(key, ord);
        ord
    }

    fn forget_device_claim_if_unused(&mut self, ord: DeviceClaimOrd) {
        let Some(slot) = self.dra.claims.find(ord) else { return };
        if !slot.known && slot.pods.is_empty() && slot.seats == 0 && slot.allocation().is_none() {
            self.dra.claims_by_name.remove(&slot.name);
            self.dra.claims.remove(ord);
        }
    }

    /// Changes what a claim has, and counts its devices as they are held then.
    pub(super) fn set_device_allocation(&mut self, ord: DeviceClaimOrd, change: impl FnOnce(&mut DeviceClaimSlot)) {
        let before = self.dra.claims[ord].allocation().cloned();
        change(&mut self.dra.claims[ord]);
        let after = self.dra.claims[ord].allocation().cloned();
        if before == after {
            return;
        }
        let moved = before.is_some() && after.is_some();
        for (allocation, hold) in [(before, false), (after, true)] {
            let Some(allocation) = allocation else { continue };
            self.dra.count(&allocation, hold);
            for device in &allocation.devices {
                let reach = self.dra.reach_of(&device.driver, &device.pool, &device.device);
                // One that its driver does not list has no place: nobody waits for it.
                if let Some(reach) = reach.cloned() {
                    self.reach_changed(&reach);
                }
            }
        }
        if self.dra.claims[ord].pods.len() > 1 || (moved && !self.dra.claims[ord].pods.is_empty()) {
            // Where those can go that use it is another question now.
            self.dra.wide_changes += 1;
        }
    }

    /// The claims that a pod uses, each once. With a node it needs them no more: they have what they have.
    fn device_claims_of(&mut self, event: &event::Pod) -> Box<[DeviceClaimOrd]> {
        if event.device_claims.is_empty() || !event.ours || event.finished || event.node.is_some() {
            return Box::default();
        }
        let mut all: Vec<DeviceClaimOrd> = Vec::new();
        for name in &event.device_claims {
            let ord = self.device_claim_named(&event.namespace, name);
            if !all.contains(&ord) {
                all.push(ord);
            }
        }
        all.into()
    }

    /// Notes which claims a pod uses. Who else uses them is then one among several.
    pub(crate) fn use_device_claims(&mut self, ord: PodOrd, event: &event::Pod) {
        let claims = self.device_claims_of(event);
        for &claim in &claims {
            self.dra.claims[claim].pods.insert(ord);
        }
        self.pods[ord].device_claims = claims;
        for claim in self.pods[ord].device_claims.clone() {
            if self.dra.claims[claim].pods.len() == 2 {
                self.see_users_anew(claim, Some(ord));
            }
        }
    }

    /// A pod uses its claims no more.
    pub(crate) fn leave_device_claims(&mut self, ord: PodOrd) {
        for claim in std::mem::take(&mut self.pods[ord].device_claims) {
            if let Some(slot) = self.dra.claims.find_mut(claim) {
                slot.pods.remove(&ord);
                if slot.pods.len() == 1 {
                    self.see_users_anew(claim, None);
                }
            }
            self.forget_device_claim_if_unused(claim);
        }
    }

    /// True if a pod uses the claims that an event says.
    pub(crate) fn uses_device_claims(&self, pod: &PodSlot, event: &event::Pod) -> bool {
        if event.node.is_some() || event.device_claims.is_empty() {
            return pod.device_claims.is_empty();
        }
        let used = pod
            .device_claims
            .iter()
            .filter_map(|claim| self.dra.claims.find(*claim));
        let mut named: Vec<&str> = Vec::new();
        for name in &event.device_claims {
            if !named.contains(&name.as_str()) {
                named.push(name);
            }
        }
        !event.ours || event.finished || used.map(|slot| &*slot.name.1).eq(named)
    }

    /// What a pod asks of devices, claim by claim.
    pub(crate) fn claim_needs(&self, pod: &PodSlot) -> Vec<ClaimNeed> {
        let need = |claim: &DeviceClaimOrd| {
            let slot = &self.dra.claims[*claim];
            if slot.allocation().is_none() && slot.pods.len() <= 1 {
                ClaimNeed::Own(slot.spec.clone())
            } else {
                ClaimNeed::This(*claim)
            }
        };
        pod.device_claims.iter().map(need).collect()
    }

    /// Why a pod waits for its claims to devices, wherever there are nodes.
    pub(crate) fn device_claims_against(&self, pod: &PodSlot) -> Option<Reason> {
        let mut against = pod
            .device_claims
            .iter()
            .map(|claim| self.dra.claims[*claim].against(pod, self.dra.unserved));
        against
            .find_map(|message| message)
            .map(|message| Reason::Refused { message })
    }

    /// Those who use a claim and have no seat are looked at again.
    pub(super) fn device_claim_changed(&mut self, ord: DeviceClaimOrd) {
        self.see_users_anew(ord, None);
    }

    fn see_users_anew(&mut self, ord: DeviceClaimOrd, but: Option<PodOrd>) {
        let pods: Vec<PodOrd> = self.dra.claims[ord].pods.iter().copied().collect();
        for pod in pods.into_iter().filter(|pod| Some(*pod) != but) {
            self.see_device_claims_anew(pod);
        }
    }

    /// A pod without a seat has the shape that its claims make of it now.
    pub(crate) fn see_device_claims_anew(&mut self, pod: PodOrd) {
        let slot = &self.pods[pod];
        if slot.device_claims.is_empty() || slot.place != Place::Nowhere {
            return;
        }
        let old = slot.shape;
        let alone = self.shapes.value(old).tier;
        self.give_shape(pod, alone);
        self.let_go_of_shape(old);
        self.mark_claim_of(pod);
    }

    /// A pod with a seat holds, or holds no more, the devices of its claims.
    pub(crate) fn count_device_claims(&mut self, ord: PodOrd, hold: bool) {
        let pod = &self.pods[ord];
        let Some(seat) = pod.held_seat() else { return };
        let pairs = pod.device_claims.iter().copied().zip(seat.allocations.iter().cloned());
        for (claim, allocation) in pairs.collect::<Vec<_>>() {
            self.set_device_allocation(claim, |slot| {
                slot.seats = if hold {
                    slot.seats + 1
                } else {
                    slot.seats.saturating_sub(1)
                };
                if hold && slot.allocation().is_none() {
                    slot.decided = Some(allocation);
                } else if slot.seats == 0 && slot.promised.is_empty() {
                    slot.decided = None;
                }
            });
        }
    }

    /// What the claims of a pod have was decided with its binding, and stays theirs until more is known.
    pub(crate) fn promise_devices(&mut self, ord: PodOrd) {
        let pod = &self.pods[ord];
        for claim in pod.device_claims.clone() {
            let slot = &mut self.dra.claims[claim];
            let uid = &self.pods[ord].uid;
            if slot.decided.is_some() && slot.promised.insert(uid.clone()) {
                self.dra.promises.entry(uid.clone()).or_default().push(claim);
            }
        }
    }

    fn forget_promise(&mut self, ord: DeviceClaimOrd) {
        for uid in std::mem::take(&mut self.dra.claims[ord].promised) {
            if let Some(claims) = self.dra.promises.get_mut(&uid) {
                claims.retain(|claim| *claim != ord);
                if claims.is_empty() {
                    self.dra.promises.remove(&uid);
                }
            }
        }
    }

    /// The binding of a pod was certainly not carried out, or it is gone: what its claims have is what the API server says.
    pub(crate) fn take_back_promises(&mut self, uid: &str) {
        for claim in self.dra.promises.remove(uid).unwrap_or_default() {
            self.set_device_allocation(claim, |slot| {
                slot.promised.remove(uid);
                if slot.seats == 0 && slot.promised.is_empty() {
                    slot.decided = None;
                }
            });
            self.freed += 1;
            self.device_claim_changed(claim);
            self.forget_device_claim_if_unused(claim);
        }
    }

    /// Sees how many nodes devices are searched for on. It is another number only when it is much another one, since all of
    /// them are looked at again then.
    pub(crate) fn share_device_search(&mut self) {
        let nodes = if self.dra.wide.is_empty() {
            self.dra.by_node.len()
        } else {
            self.nodes_by_name.len()
        };
        // A few have all that they may, anyway.
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX).max(FEW);
        let searched = nodes.checked_next_power_of_two().unwrap_or(u32::MAX);
        if nodes > self.dra.searched || searched < self.dra.searched / 4 {
            self.dra.searched = searched;
            self.dra.wide_changes += 1;
        }
    }

    /// A number that is another one when the nodes that a shape fits on have to be looked for anew.
    pub(crate) fn device_version(&self, shape: &Shape) -> u64 {
        if shape.claims.is_empty() {
            0
        } else {
            self.dra.wide_changes
        }
    }
}
