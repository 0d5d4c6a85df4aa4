//! What room devices have for what is known to be had of them.

use std::collections::BTreeMap;

use super::{Dra, Held, pools::Pool};
use crate::{
    event::DeviceAllocation,
    model::NodeSlot,
    slab::{DeviceOrd, PoolOrd},
};

impl Dra {
    /// True if a node's devices have room for exactly these allocations together.
    pub(crate) fn has_room_for(&self, node: &NodeSlot, allocations: &[&DeviceAllocation]) -> bool {
        let mut counters: BTreeMap<PoolOrd, Vec<i64>> = BTreeMap::new();
        let mut beside: BTreeMap<DeviceOrd, Held> = BTreeMap::new();
        allocations.iter().flat_map(|a| &a.devices).all(|wanted| {
            let Some((ord, pool)) = self.pool_named(&wanted.driver, &wanted.pool) else {
                return false;
            };
            let mut devices = pool.devices.iter();
            let Some(device) = devices.find(|d| d.is.name == wanted.device && d.reaches(node)) else {
                return false;
            };
            let held = self.held(device.ord).cloned().unwrap_or_default();
            let held = beside.entry(device.ord).or_insert(held);
            let first = held.is_free();
            match &wanted.share {
                None if !first || device.is.shared => return false,
                None => held.whole += 1,
                Some(_) if !device.is.shared || held.whole > 0 => return false,
                Some(share) => {
                    held.parts += 1;
                    for (name, amount) in share {
                        let consumed = held.consumed.entry(name.clone()).or_insert(0);
                        *consumed = consumed.saturating_add(*amount);
                        if *consumed > device.is.capacity.get(name).map_or(0, |capacity| capacity.value) {
                            return false;
                        }
                    }
                }
            }
            let left = counters.entry(ord).or_insert_with(|| self.counters_left(pool));
            let mut draws = device.consumes.iter().flatten().filter(|_| first);
            pool.fault.is_none()
                && draws.all(|&(position, amount)| {
                    let left = left.get_mut(position).map(|left| {
                        *left = left.saturating_sub(amount);
                        *left
                    });
                    left.is_some_and(|left| left >= 0)
                })
        })
    }

    /// What the devices of a pool that are held leave of its counters.
    pub(super) fn counters_left(&self, pool: &Pool) -> Vec<i64> {
        let mut left = pool.counters.clone();
        for device in pool.devices.iter().filter(|device| self.held(device.ord).is_some()) {
            for &(position, amount) in device.consumes.iter().flatten() {
                if let Some(left) = left.get_mut(position) {
                    *left = left.saturating_sub(amount);
                }
            }
        }
        left
    }
}
