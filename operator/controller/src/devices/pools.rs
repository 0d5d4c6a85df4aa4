//! Pools of devices as the core sees them. Of each device it is evaluated once for each selector whether that means it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use duosuan_scheduler::{
    Event,
    event::{DevicePool, PoolDevice},
};

use super::{Compiled, Devices, PoolName};
use crate::translate::{
    dra::{Device, Slice, attribute_text},
    expression::{Expression, Functions},
};

/// A slice, and what is known of its devices by their positions.
#[derive(Debug, Default)]
pub(super) struct Judged {
    pub(super) slice: Slice,
    meanings: Vec<Meaning>,
}

/// Which selectors mean a device.
#[derive(Clone, Debug, Default)]
struct Meaning {
    /// All selectors up to this number were evaluated.
    up_to: u32,
    selectors: BTreeSet<u32>,
    /// Why it cannot be said, or cannot be had, by selector.
    failed: BTreeMap<u32, String>,
}

impl Judged {
    /// A slice that comes after an older one: what is known of devices that are the same as before is known still.
    pub(super) fn of(slice: Slice, old: Option<&Judged>) -> Judged {
        let old = old.filter(|old| old.slice.pool == slice.pool);
        let known = old
            .into_iter()
            .flat_map(|old| old.slice.devices.iter().zip(&old.meanings));
        let known: BTreeMap<&str, (&Device, &Meaning)> = known
            .map(|(device, meaning)| (device.name.as_str(), (device, meaning)))
            .collect();
        let meaning = |device: &Device| match known.get(device.name.as_str()) {
            Some((old, meaning)) if old.seen == device.seen && old.unsupported == device.unsupported => {
                (*meaning).clone()
            }
            _ => Meaning::default(),
        };
        Judged {
            meanings: slice.devices.iter().map(meaning).collect(),
            slice,
        }
    }

    /// Evaluates the selectors that are new for its devices. True if one of them means one of these, or fails.
    fn judge(&mut self, compiled: &BTreeMap<u32, Compiled>, functions: &Functions, evaluated: &mut u64) -> bool {
        let Some((&last, _)) = compiled.last_key_value() else {
            return false;
        };
        let mut changed = false;
        for (device, meaning) in self.slice.devices.iter().zip(&mut self.meanings) {
            if meaning.up_to >= last {
                continue;
            }
            meaning.selectors.retain(|number| compiled.contains_key(number));
            meaning.failed.retain(|number, _| compiled.contains_key(number));
            let new = compiled.range((Bound::Excluded(meaning.up_to), Bound::Unbounded));
            for (&number, expressions) in new {
                *evaluated += 1;
                changed |= match means(expressions, device, &self.slice.pool, functions) {
                    Ok(true) => meaning.selectors.insert(number),
                    Ok(false) => false,
                    Err(why) => meaning.failed.insert(number, why).is_none(),
                };
            }
            meaning.up_to = last;
        }
        changed
    }

    fn devices(&self) -> impl Iterator<Item = (&Device, &Meaning)> {
        self.slice.devices.iter().zip(&self.meanings)
    }
}

/// True if all expressions of a selector mean a device and it can be had.
fn means(expressions: &Compiled, device: &Device, pool: &str, functions: &Functions) -> Result<bool, String> {
    let Device { name, seen, .. } = device;
    for (what, expression) in expressions {
        let means = Expression::means(expression, seen, functions);
        if !means.map_err(|error| format!("{what} on device {}/{pool}/{name}: {error}", seen.driver))? {
            return Ok(false);
        }
    }
    match &device.unsupported {
        Some(why) => Err(format!("device {}/{pool}/{name}: {why}", seen.driver)),
        None => Ok(true),
    }
}

impl Devices {
    /// How often a selector was evaluated for a device so far.
    pub fn evaluated(&self) -> u64 {
        self.evaluated
    }

    /// Pools as they are now.
    pub(super) fn pools_anew(&mut self, pools: impl IntoIterator<Item = PoolName>) -> Vec<Event> {
        let functions = Functions::default();
        let mut events = Vec::new();
        for name in pools {
            self.judge(&name, &functions);
            events.push(match self.pools.contains_key(&name) {
                true => self.told(name),
                false => {
                    let (driver, pool) = name;
                    Event::DevicePoolGone { driver, pool }
                }
            });
        }
        events
    }

    /// Pools of whose devices new selectors mean some.
    pub(super) fn pools_meant_anew(&mut self) -> Vec<Event> {
        let functions = Functions::default();
        let all: Vec<PoolName> = self.pools.keys().cloned().collect();
        let changed = all.into_iter().filter(|name| self.judge(name, &functions));
        let changed: Vec<PoolName> = changed.collect();
        changed.into_iter().map(|name| self.told(name)).collect()
    }

    /// Evaluates what is new for the devices of a pool. True if something is another than before.
    fn judge(&mut self, pool: &PoolName, functions: &Functions) -> bool {
        let newest = self.newest(pool).map(|of| of.slice.generation).next();
        let mut changed = false;
        for name in self.pools.get(pool).into_iter().flatten() {
            if let Some(judged) = self.slices.get_mut(name)
                && Some(judged.slice.generation) == newest
            {
                changed |= judged.judge(&self.compiled, functions, &mut self.evaluated);
            }
        }
        changed
    }

    /// The slices of a pool's newest generation, in the order of their names.
    fn newest(&self, pool: &PoolName) -> impl Iterator<Item = &Judged> {
        let names = self.pools.get(pool).into_iter().flatten();
        let all: Vec<&Judged> = names.filter_map(|name| self.slices.get(name)).collect();
        let newest = all.iter().map(|judged| judged.slice.generation).max();
        all.into_iter()
            .filter(move |judged| Some(judged.slice.generation) == newest)
    }

    /// A pool, in an event.
    fn told(&self, name: PoolName) -> Event {
        let judged: Vec<&Judged> = self.newest(&name).collect();
        let slices: Vec<&Slice> = judged.iter().map(|judged| &judged.slice).collect();
        let mut devices: Vec<(&Device, &Meaning)> = judged.iter().flat_map(|judged| judged.devices()).collect();
        // Those that cannot be had are looked at last: what they are is said only where nothing else is there.
        devices.sort_by_key(|(device, _)| device.unsupported.is_some());
        let counters: BTreeMap<String, i64> = slices
            .iter()
            .flat_map(|slice| &slice.counters)
            .map(|(name, value)| (name.clone(), *value))
            .collect();
        let (driver, pool) = name;
        let all: Vec<&Device> = devices.iter().map(|(device, _)| *device).collect();
        Event::DevicePool(Box::new(DevicePool {
            fault: fault(&driver, &pool, &slices, &all, &counters),
            devices: devices
                .iter()
                .map(|(device, meaning)| self.device(device, meaning))
                .collect(),
            driver,
            pool,
            counters,
        }))
    }

    fn device(&self, device: &Device, meaning: &Meaning) -> PoolDevice {
        let is_used = |number: &u32| self.compiled.contains_key(number);
        let attributes = device.seen.attributes.iter();
        let attributes =
            attributes.filter_map(|((domain, name), value)| Some((format!("{domain}/{name}"), attribute_text(value)?)));
        PoolDevice {
            name: device.name.clone(),
            reach: device.reach.clone(),
            selectors: meaning.selectors.iter().copied().filter(is_used).collect(),
            failed: meaning
                .failed
                .iter()
                .filter(|(number, _)| is_used(number))
                .map(|(number, why)| (*number, why.clone()))
                .collect(),
            attributes: attributes.collect(),
            taints: device.taints.clone(),
            shared: device.seen.shared,
            capacity: device.capacity.clone(),
            consumes: device.consumes.clone(),
        }
    }
}

/// Why nothing may be had of a pool.
fn fault(
    driver: &str,
    pool: &str,
    slices: &[&Slice],
    devices: &[&Device],
    counters: &BTreeMap<String, i64>,
) -> Option<String> {
    let whole = slices.first().map_or(0, |slice| slice.slices);
    if i64::try_from(slices.len()).unwrap_or(i64::MAX) != whole {
        return Some(format!(
            "resource pool {driver}/{pool} is currently being updated: {} of {whole} slices are there",
            slices.len()
        ));
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = devices.iter().find(|device| !names.insert(&device.name)) {
        return Some(format!(
            "resource pool {driver}/{pool} is invalid: duplicate device name {}",
            twice.name
        ));
    }
    let mut consumed = devices.iter().flat_map(|device| device.consumes.keys());
    let unknown = consumed.find(|counter| !counters.contains_key(*counter))?;
    Some(format!(
        "resource pool {driver}/{pool} is invalid: counter {unknown} not found"
    ))
}
