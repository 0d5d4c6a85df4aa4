//! Devices that claims give back, so that their pods can go where these are not.

use std::collections::BTreeSet;

use crate::{
    decision::ClaimAllocation,
    model::Model,
    slab::{DeviceClaimOrd, PodOrd, ShapeOrd},
};

impl Model {
    /// The pod of a shape that waits and that alone uses a claim, if that has devices which not every node can use.
    pub(crate) fn sole_user(&self, claim: DeviceClaimOrd, shape: ShapeOrd) -> Option<PodOrd> {
        let pods = self.dra.claims.find(claim)?.pods.iter().copied();
        let sole = pods.filter(|&pod| self.pods[pod].shape == shape && self.may_take_back(claim, pod));
        sole.min_by_key(|&pod| (self.pods[pod].created, &self.pods[pod].uid))
    }

    /// True if a claim of a pod that waits has devices that not every node can use, and nobody else has them by it: neither
    /// by the word of the API server nor by what is decided here.
    fn may_take_back(&self, claim: DeviceClaimOrd, pod: PodOrd) -> bool {
        let (slot, pod) = (&self.dra.claims[claim], &self.pods[pod]);
        pod.waits()
            && slot.told.as_ref().is_some_and(|told| !told.nodes.is_empty())
            && slot.seats == 0
            && slot.promised.is_empty()
            && !slot.deleting
            && !slot.taking_back
            && slot.reserved.iter().all(|user| *user == pod.uid)
    }

    /// Has the claims of a pod that nobody else uses give back what they have: the claims, and who waits for that.
    pub(crate) fn take_back(&mut self, pod: PodOrd) -> (Vec<ClaimAllocation>, BTreeSet<PodOrd>) {
        let (mut taken, mut users) = (Vec::new(), BTreeSet::new());
        for claim in self.pods[pod].device_claims.clone() {
            if !self.may_take_back(claim, pod) {
                continue;
            }
            let slot = &mut self.dra.claims[claim];
            slot.taking_back = true;
            users.extend(slot.pods.iter().copied());
            taken.extend(slot.told.as_ref().map(|told| ClaimAllocation {
                claim: slot.name.1.to_string(),
                uid: slot.uid.to_string(),
                allocation: (**told).clone(),
            }));
            self.device_claim_changed(claim);
        }
        (taken, users)
    }

    /// Nothing of a claim is being given back any more.
    pub(crate) fn apply_taken_back(&mut self, namespace: &str, name: &str, uid: &str) {
        let Some(&ord) = self.dra.claims_by_name.get(&(namespace.into(), name.into())) else {
            return;
        };
        let slot = &mut self.dra.claims[ord];
        if *slot.uid == *uid && std::mem::take(&mut slot.taking_back) {
            self.freed += 1;
            self.device_claim_changed(ord);
        }
    }
}
