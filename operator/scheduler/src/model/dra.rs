//! Dynamic resource allocation: what devices there are, who has them, and the claims to them.
//!
//! A device is held by claims, and not by pods: a claim that several pods use has its devices once. What the API server
//! says of a claim counts whoever wrote it; what was decided here counts beside that until it is said there.

mod allocate;
mod capacity;
mod claims;
mod pools;
mod room;
mod seats;
mod take_back;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

pub(crate) use claims::ClaimNeed;
use claims::DeviceClaimSlot;
use pools::Pool;
pub(crate) use seats::Allocations;

use crate::{
    event::DeviceAllocation,
    intern::{Counted, Fresh},
    slab::{DeviceClaimOrd, DeviceOrd, FaultOrd, PoolOrd, Slab},
};

/// What a device is called: driver, pool, device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DeviceName(Arc<str>, Arc<str>, Arc<str>);

/// Driver and name of a pool, or namespace and name of a claim.
pub(crate) type Key = (Arc<str>, Arc<str>);

/// What is held of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Claims that have it as a whole: one, unless somebody else allocated it twice.
    pub(crate) whole: u32,
    /// Claims that have a part of it.
    pub(crate) parts: u32,
    /// What they have of its capacity, in thousandths.
    pub(crate) consumed: BTreeMap<String, i64>,
}

impl Held {
    pub(crate) fn is_free(&self) -> bool {
        self.whole == 0 && self.parts == 0
    }
}

/// Everything that is known of devices that are claimed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dra {
    pools: Slab<PoolOrd, Arc<Pool>>,
    by_name: BTreeMap<Key, PoolOrd>,
    /// Pools with devices that one node alone can use, by the name of the node.
    by_node: BTreeMap<Arc<str>, BTreeMap<Key, PoolOrd>>,
    /// Pools with other devices.
    wide: BTreeMap<Key, PoolOrd>,
    names: Counted<DeviceOrd, DeviceName>,
    /// By device.
    held: Vec<Held>,
    pub(crate) claims: Slab<DeviceClaimOrd, DeviceClaimSlot>,
    claims_by_name: HashMap<Key, DeviceClaimOrd>,
    /// Claims whose devices were decided with the binding of a pod and that do not say so yet, by UID of the pod.
    promises: BTreeMap<Arc<str>, Vec<DeviceClaimOrd>>,
    faults: Fresh<FaultOrd, String>,
    /// No claim can be seen.
    unserved: bool,
    /// Nodes on which devices are searched for, or somewhat more: each has its part of the work. Left out of comparisons.
    searched: u32,
    /// Grows with each change that more than one node has to be looked at again for. Left out of comparisons.
    wide_changes: u64,
}

/// Equal in all that a decision may depend on.
impl PartialEq for Dra {
    fn eq(&self, other: &Dra) -> bool {
        let held = |dra: &Dra| -> BTreeMap<DeviceName, Held> {
            let named = dra.names.iter();
            let named = named.map(|(ord, name)| ((**name).clone(), dra.held(ord).cloned().unwrap_or_default()));
            named.filter(|(_, held)| !held.is_free()).collect()
        };
        self.pools == other.pools
            && self.by_name == other.by_name
            && self.claims == other.claims
            && self.claims_by_name == other.claims_by_name
            && self.promises == other.promises
            && self.unserved == other.unserved
            && held(self) == held(other)
    }
}

impl Dra {
    /// What is held of a device, if anything is.
    pub(crate) fn held(&self, device: DeviceOrd) -> Option<&Held> {
        self.held.get(device.index()).filter(|held| !held.is_free())
    }

    /// What is wrong, in words.
    pub(crate) fn fault(&self, fault: FaultOrd) -> Option<&str> {
        self.faults.value(fault).map(|text| text.as_str())
    }

    /// True if there is nothing to be had and nothing held.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.by_name.is_empty() && self.claims.len() == 0 && self.names.len() == 0 && self.faults.is_empty()
    }

    /// Counts the devices of an allocation as held, or as not held any more.
    fn count(&mut self, allocation: &DeviceAllocation, hold: bool) {
        for device in &allocation.devices {
            let name = DeviceName(
                device.driver.as_str().into(),
                device.pool.as_str().into(),
                device.device.as_str().into(),
            );
            let ord = self.names.acquire(name);
            if self.held.len() <= ord.index() {
                self.held.resize(ord.index() + 1, Held::default());
            }
            let Some(held) = self.held.get_mut(ord.index()) else {
                continue;
            };
            let by = if hold { 1 } else { -1_i32 };
            match &device.share {
                None => held.whole = held.whole.saturating_add_signed(by),
                Some(share) => {
                    held.parts = held.parts.saturating_add_signed(by);
                    for (name, amount) in share {
                        let consumed = held.consumed.entry(name.clone()).or_insert(0);
                        *consumed = consumed.saturating_add(if hold { *amount } else { -amount });
                        if *consumed == 0 {
                            held.consumed.remove(name);
                        }
                    }
                }
            }
            // What is held keeps its name alive.
            if !hold {
                self.names.release(ord);
                self.names.release(ord);
            }
        }
    }

    /// What is held of devices by the claims as they stand, anew: for the invariants.
    pub(crate) fn recounted(&self) -> Dra {
        let mut again = Dra {
            names: self.names.clone(),
            ..Dra::default()
        };
        for (_, slot) in self.claims.iter() {
            if let Some(allocation) = slot.allocation() {
                again.count(&allocation.clone(), true);
            }
        }
        again
    }

    /// What is wrong with what is held of a device, if it is more than there is.
    pub(crate) fn over(&self, driver: &str, pool: &str, device: &str) -> Option<&'static str> {
        let (_, pool) = self.pool_named(driver, pool)?;
        let device = pool.devices.iter().find(|known| known.is.name == device)?;
        let held = self.held(device.ord)?;
        if held.whole > 1 || (held.whole > 0 && held.parts > 0) {
            return Some("which is had twice");
        }
        let more = |(name, amount): (&String, &i64)| device.is.capacity.get(name).is_none_or(|all| *amount > all.value);
        if held.consumed.iter().any(more) {
            return Some("of which more is had than there is");
        }
        let counters = self.counters_left(pool);
        let of_it = device.consumes.iter().flatten();
        let short = of_it
            .filter_map(|(position, _)| counters.get(*position))
            .any(|left| *left < 0);
        short.then_some("whose card is had more than there is of it")
    }

    /// True if the same is held of every device.
    pub(crate) fn holds_the_same_as(&self, other: &Dra) -> bool {
        let devices = self.held.len().max(other.held.len());
        (0..devices).map(DeviceOrd::new).all(|d| self.held(d) == other.held(d))
    }
}
