//! The invariants of devices that claims have.

use std::collections::BTreeMap;

use super::Violation;
use crate::{
    model::{Model, Place},
    slab::DeviceClaimOrd,
};

impl Model {
    /// What is held of each device is what the claims have, and each claim knows the seats of those who use it. No device
    /// that was given to a pod just now is had twice, or more of it than there is.
    pub(super) fn devices_are_held_by_claims(&self, violations: &mut Vec<Violation>) {
        let mut say = |text: String| violations.push(Violation(text));
        if !self.dra.holds_the_same_as(&self.dra.recounted()) {
            say("what is held of devices is not what claims have".into());
        }
        let mut seats: BTreeMap<DeviceClaimOrd, u32> = BTreeMap::new();
        for (ord, pod) in self.pods.iter() {
            let seated = pod.place.seat().is_some_and(|seat| !seat.allocations.is_empty());
            for &claim in &pod.device_claims {
                let Some(slot) = self.dra.claims.find(claim) else {
                    say(format!("pod {} uses a claim to devices that is not there", pod.uid));
                    continue;
                };
                if !slot.pods.contains(&ord) {
                    say(format!(
                        "claim {} does not know pod {}, which uses it",
                        slot.name.1, pod.uid
                    ));
                }
                if seated {
                    *seats.entry(claim).or_default() += 1;
                }
            }
        }
        for (ord, slot) in self.dra.claims.iter() {
            if slot.seats != seats.get(&ord).copied().unwrap_or(0) {
                say(format!("claim {} miscounts the seats of those who use it", slot.name.1));
            }
        }
        for pod in self.just_placed.iter().map(|&p| &self.pods[p]) {
            let (Place::Assumed(seat), shape) = (&pod.place, self.shapes.value(pod.shape)) else {
                continue;
            };
            if seat.allocations.len() != shape.claims.len() {
                say(format!("pod {} was placed without devices for all its claims", pod.uid));
            }
            for device in seat.allocations.iter().flat_map(|allocation| &allocation.devices) {
                if let Some(over) = self.dra.over(&device.driver, &device.pool, &device.device) {
                    say(format!("pod {} has device {}, {over}", pod.uid, device.device));
                }
            }
        }
    }
}
