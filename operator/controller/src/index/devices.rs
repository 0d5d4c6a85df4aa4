//! What the index makes of facts about devices that are claimed.

use duosuan_scheduler::Event;

use super::Index;
use crate::watch::Fact;

impl Index {
    /// Takes in a fact about devices.
    pub(super) fn device_fact(&mut self, fact: Fact, events: &mut Vec<Event>) {
        match fact {
            Fact::ResourceSlice(slice) => events.extend(self.devices.slice(*slice)),
            Fact::ResourceSliceGone(name) => events.extend(self.devices.slice_gone(&name)),
            Fact::DeviceClass(class) => {
                let name = class.name.clone();
                events.extend(self.devices.class(&name, Some(*class)));
            }
            Fact::DeviceClassGone(name) => events.extend(self.devices.class(&name, None)),
            Fact::ResourceClaim(claim) => events.extend(self.devices.claim(*claim)),
            Fact::ResourceClaimGone(key) => {
                let (namespace, name) = key.split_once('/').unwrap_or_default();
                events.push(self.devices.claim_gone((namespace.to_owned(), name.to_owned())));
            }
            _ => {}
        }
    }
}
