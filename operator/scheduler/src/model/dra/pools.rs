//! Pools of devices as they come and go.

use std::{collections::HashMap, sync::Arc};

use super::{DeviceName, Dra, Key};
use crate::{
    event::{DevicePool, PoolDevice, Reach},
    model::{Model, NodeSlot},
    selector,
    slab::{DeviceOrd, FaultOrd, PoolOrd},
};

/// A pool.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pool {
    pub(crate) key: Key,
    /// Why nothing may be had of it.
    pub(crate) fault: Option<FaultOrd>,
    pub(crate) devices: Vec<Device>,
    /// What there is of each counter.
    pub(crate) counters: Vec<i64>,
}

/// A device of a pool.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Device {
    pub(crate) ord: DeviceOrd,
    pub(crate) is: PoolDevice,
    pub(crate) failed: Vec<(u32, FaultOrd)>,
    /// By position among the counters of the pool. `None` if it takes from one that the pool does not have.
    pub(crate) consumes: Option<Vec<(usize, i64)>>,
    /// Position of the first device of the pool that differs in nothing but its name.
    pub(crate) alike: usize,
}

impl Device {
    /// True if it can be used from a node.
    pub(crate) fn reaches(&self, node: &NodeSlot) -> bool {
        match &self.is.reach {
            Reach::Everywhere => true,
            Reach::Node(name) => **name == *node.name,
            Reach::Nodes(terms) => !terms.is_empty() && selector::matches(terms, node),
        }
    }
}

impl Dra {
    /// The pools that have devices for a node, in order.
    pub(crate) fn pools_of(&self, node: &NodeSlot) -> Vec<(PoolOrd, &Pool)> {
        let local = self.by_node.get(&node.name).into_iter().flatten();
        let mut all: Vec<(&Key, PoolOrd)> = local.chain(&self.wide).map(|(key, pool)| (key, *pool)).collect();
        all.sort_unstable();
        all.dedup();
        let found = all
            .into_iter()
            .filter_map(|(_, ord)| Some((ord, &**self.pools.find(ord)?)));
        found.collect()
    }

    /// The pool of a name.
    pub(super) fn pool_named(&self, driver: &str, pool: &str) -> Option<(PoolOrd, &Pool)> {
        let ord = *self.by_name.get(&(driver.into(), pool.into()))?;
        Some((ord, &**self.pools.find(ord)?))
    }

    /// Where a device can be used from, if it is listed.
    pub(super) fn reach_of(&self, driver: &str, pool: &str, device: &str) -> Option<&Reach> {
        let mut devices = self.pool_named(driver, pool)?.1.devices.iter();
        devices.find(|d| d.is.name == device).map(|d| &d.is.reach)
    }

    fn put(&mut self, event: &DevicePool) -> PoolOrd {
        let key: Key = (event.driver.as_str().into(), event.pool.as_str().into());
        let counters: Vec<(&String, i64)> = event.counters.iter().map(|(name, value)| (name, *value)).collect();
        let mut first_alike: HashMap<PoolDevice, usize> = HashMap::new();
        let mut devices = Vec::with_capacity(event.devices.len());
        for (position, device) in event.devices.iter().enumerate() {
            let nameless = PoolDevice {
                name: String::new(),
                ..device.clone()
            };
            let alike = *first_alike.entry(nameless).or_insert(position);
            let name = DeviceName(key.0.clone(), key.1.clone(), device.name.as_str().into());
            let failed = device.failed.iter();
            let consumes = device.consumes.iter().map(|(name, amount)| {
                let position = counters.binary_search_by(|(known, _)| (*known).cmp(name)).ok()?;
                Some((position, *amount))
            });
            devices.push(Device {
                ord: self.names.acquire(name),
                failed: failed
                    .map(|(selector, why)| (*selector, self.faults.acquire(why.clone()).0))
                    .collect(),
                consumes: consumes.collect(),
                is: device.clone(),
                alike,
            });
        }
        let pool = Arc::new(Pool {
            key: key.clone(),
            fault: event.fault.as_ref().map(|why| self.faults.acquire(why.clone()).0),
            devices,
            counters: counters.into_iter().map(|(_, value)| value).collect(),
        });
        let ord = self.pools.insert(pool.clone());
        self.by_name.insert(key.clone(), ord);
        for device in &pool.devices {
            match &device.is.reach {
                Reach::Node(name) => {
                    let there = self.by_node.entry(name.as_str().into()).or_default();
                    there.insert(key.clone(), ord);
                }
                _ => drop(self.wide.insert(key.clone(), ord)),
            }
        }
        ord
    }

    fn take_out(&mut self, key: &Key) -> Option<Arc<Pool>> {
        let ord = self.by_name.remove(key)?;
        let pool = self.pools.remove(ord)?;
        self.wide.remove(key);
        for device in &pool.devices {
            if let Reach::Node(name) = &device.is.reach
                && let Some(there) = self.by_node.get_mut(name.as_str())
            {
                there.remove(key);
                if there.is_empty() {
                    self.by_node.remove(name.as_str());
                }
            }
            self.names.release(device.ord);
        }
        for fault in pool.faults() {
            self.faults.release(fault);
        }
        Some(pool)
    }
}

impl Model {
    /// Takes in a pool.
    pub(crate) fn apply_device_pool(&mut self, event: &DevicePool) {
        let key: Key = (event.driver.as_str().into(), event.pool.as_str().into());
        // What is new is known before what was there is let go of: names that both have stay the same.
        let old = self
            .dra
            .by_name
            .get(&key)
            .and_then(|ord| self.dra.pools.find(*ord))
            .cloned();
        if let Some(old) = &old {
            if old.is_as_told(event, |fault| self.dra.fault(fault)) {
                return;
            }
            let names: Vec<DeviceOrd> = old.devices.iter().map(|device| device.ord).collect();
            for ord in &names {
                let name = self.dra.names.value(*ord).clone();
                self.dra.names.acquire_known(*ord, &name);
            }
            // Nodes that are not looked at again refer to faults by their ordinals.
            let faults = old
                .faults()
                .filter_map(|fault| self.dra.fault(fault).map(str::to_owned));
            let faults: Vec<String> = faults.collect();
            let faults: Vec<FaultOrd> = faults.into_iter().map(|why| self.dra.faults.acquire(why).0).collect();
            self.dra.take_out(&key);
            self.dra.put(event);
            for ord in names {
                self.dra.names.release(ord);
            }
            for fault in faults {
                self.dra.faults.release(fault);
            }
        } else {
            self.dra.put(event);
        }
        let new = self
            .dra
            .pool_named(&event.driver, &event.pool)
            .map(|(_, pool)| pool.clone());
        for reach in changed(old.as_deref(), new.as_ref()) {
            self.reach_changed(reach);
        }
        self.freed += 1;
    }

    /// A pool is gone. Who has its devices has them still.
    pub(crate) fn apply_device_pool_gone(&mut self, driver: &str, pool: &str) {
        if let Some(old) = self.dra.take_out(&(driver.into(), pool.into())) {
            for reach in changed(Some(&old), None) {
                self.reach_changed(reach);
            }
        }
    }

    /// What can be used from some nodes is to be looked at again there.
    pub(super) fn reach_changed(&mut self, reach: &Reach) {
        match reach {
            Reach::Node(name) => {
                if let Some(&node) = self.nodes_by_name.get(name.as_str()) {
                    self.changes.touch(node);
                }
            }
            Reach::Everywhere | Reach::Nodes(_) => self.dra.wide_changes += 1,
        }
    }
}

/// From where devices can be used that a pool has and an older state of it has not, or the other way round; from where all
/// can, if something is another that is about all.
fn changed<'a>(old: Option<&'a Pool>, new: Option<&'a Pool>) -> Vec<&'a Reach> {
    let devices = |pool: Option<&'a Pool>| pool.into_iter().flat_map(|pool| &pool.devices);
    let all = |pool: &'a Pool| (pool.fault, &pool.counters);
    let whole = old.map(all) != new.map(all);
    let by_name = |pool: Option<&'a Pool>| -> HashMap<&'a str, &'a PoolDevice> {
        devices(pool)
            .map(|device| (device.is.name.as_str(), &device.is))
            .collect()
    };
    let is_new = |beside: HashMap<&'a str, &'a PoolDevice>| {
        move |device: &&'a Device| whole || beside.get(device.is.name.as_str()) != Some(&&device.is)
    };
    let gone = devices(old).filter(is_new(by_name(new)));
    let come = devices(new).filter(is_new(by_name(old)));
    gone.chain(come).map(|device| &device.is.reach).collect()
}

impl Pool {
    /// What is wrong with it and with its devices.
    fn faults(&self) -> impl Iterator<Item = FaultOrd> + '_ {
        let failed = self.devices.iter().flat_map(|device| &device.failed);
        failed.map(|(_, fault)| *fault).chain(self.fault)
    }

    /// True if an event tells nothing new of it.
    fn is_as_told<'a>(&self, event: &DevicePool, word: impl Fn(FaultOrd) -> Option<&'a str>) -> bool {
        self.fault.and_then(word) == event.fault.as_deref()
            && self.counters.iter().eq(event.counters.values())
            && self.devices.iter().map(|device| &device.is).eq(&event.devices)
    }
}
