//! The search for devices: which of a node's devices some claims get, all of them or none.
//!
//! It is exact, as upstream's is: one device after the other, in the order of pools, slices and devices, and back where it
//! does not go on. Devices that differ in nothing but their names and that nobody has are tried once. Its work is bounded.

mod constraints;

use std::collections::BTreeMap;

use constraints::is_about;

use super::{
    Dra, Held,
    capacity::amounts,
    pools::{Device, Pool},
};
use crate::{
    event::{DeviceClaimSpec, DeviceOption, Taint},
    model::NodeSlot,
    selector,
    slab::{FaultOrd, PoolOrd},
};

/// Devices that the search on one node tries at most: some milliseconds of work.
const TRIED: u32 = 50_000;
/// Devices that the searches for a pod try at most on all nodes together, beside those that each has to look at once: some
/// 30 ms of work. Each node has the same part, so that what is found on one does not depend on what was looked at before.
const TRIED_IN_ALL: u32 = FEW * TRIED;
/// Nodes whose searches need not share their work.
pub(super) const FEW: u32 = 8;
/// How often a search may look at each device that there is, if its part is less.
const LOOKS: u32 = 16;
/// Devices that a claim has at most, as the API server has it.
pub(super) const MOST: u32 = 32;

/// Why there is no allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoDevices {
    /// There are not enough that are meant and free.
    TooFew,
    /// Something is wrong with a device or a pool.
    Fault(FaultOrd),
    /// The search was given up.
    TooMuchWork,
}

/// A device that was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pick<'a> {
    /// Position of the claim.
    pub(crate) claim: usize,
    pub(crate) option: &'a DeviceOption,
    pub(crate) pool: &'a Pool,
    pub(crate) device: &'a Device,
}

/// A device that can be used from the node.
struct Candidate<'a> {
    ord: PoolOrd,
    pool: &'a Pool,
    device: &'a Device,
    held: Option<&'a Held>,
    /// Held by claims of this search as a whole.
    taken: bool,
    /// By parts of it that claims of this search have.
    parts: u32,
    consumed: BTreeMap<&'a str, i64>,
}

impl Candidate<'_> {
    /// True if nobody has anything of it.
    fn is_untouched(&self) -> bool {
        self.held.is_none() && !self.taken && self.parts == 0
    }

    fn parts(&self) -> u32 {
        self.held.map_or(0, |held| held.parts) + self.parts
    }
}

/// What the devices that were chosen for a constraint have, by constraint.
type Values<'a> = Vec<Vec<&'a str>>;

/// A search on one node.
struct Search<'a> {
    claims: &'a [&'a DeviceClaimSpec],
    candidates: Vec<Candidate<'a>>,
    /// Pools of the node of which nothing may be had.
    faulty: Option<FaultOrd>,
    /// What is left of the counters of the pools that have any.
    counters: BTreeMap<PoolOrd, Vec<i64>>,
    picks: Vec<Pick<'a>>,
    values: Values<'a>,
    tried: u32,
    /// When it is given up.
    most: u32,
}

impl Dra {
    /// Finds devices on a node for some claims.
    pub(crate) fn allocate<'a>(
        &'a self,
        node: &NodeSlot,
        claims: &'a [&'a DeviceClaimSpec],
    ) -> Result<Vec<Pick<'a>>, NoDevices> {
        let mut search = self.search(node, claims);
        if search.claim(0)? {
            Ok(search.picks)
        } else {
            Err(NoDevices::TooFew)
        }
    }

    /// How many devices are tried to find out what can be had on a node.
    #[cfg(test)]
    pub(crate) fn tried(&self, node: &NodeSlot, claims: &[&DeviceClaimSpec]) -> u32 {
        let mut search = self.search(node, claims);
        let _ = search.claim(0);
        search.tried
    }

    fn search<'a>(&'a self, node: &NodeSlot, claims: &'a [&'a DeviceClaimSpec]) -> Search<'a> {
        let mut search = Search {
            claims,
            candidates: Vec::new(),
            faulty: None,
            counters: BTreeMap::new(),
            picks: Vec::new(),
            values: Vec::new(),
            tried: 0,
            most: 0,
        };
        for (ord, pool) in self.pools_of(node) {
            if !pool.devices.iter().any(|device| device.reaches(node)) {
                continue;
            }
            if pool.fault.is_some() {
                search.faulty = search.faulty.or(pool.fault);
                continue;
            }
            if !pool.counters.is_empty() {
                search.counters.insert(ord, self.counters_left(pool));
            }
            let devices = pool.devices.iter().filter(|device| device.reaches(node));
            search.candidates.extend(devices.map(|device| Candidate {
                ord,
                pool,
                device,
                held: self.held(device.ord),
                taken: false,
                parts: 0,
                consumed: BTreeMap::new(),
            }));
        }
        let looks = u32::try_from(search.candidates.len())
            .unwrap_or(u32::MAX)
            .saturating_mul(LOOKS);
        let part = TRIED_IN_ALL / self.searched.max(FEW);
        search.most = part.saturating_add(looks).min(TRIED.max(looks));
        search
    }

    /// True if a node has a device that an option means, whoever has it.
    pub(crate) fn has_any(&self, node: &NodeSlot, option: &DeviceOption) -> bool {
        let devices = self.pools_of(node).into_iter().flat_map(|(_, pool)| &pool.devices);
        let mut reached = devices.filter(|device| device.reaches(node));
        reached.any(|device| is_meant(option, device) == Ok(true))
    }
}

impl<'a> Search<'a> {
    /// Goes on with a claim; true if it and all after it get their devices.
    fn claim(&mut self, claim: usize) -> Result<bool, NoDevices> {
        let Some(spec) = self.claims.get(claim) else {
            return Ok(true);
        };
        let before = std::mem::replace(&mut self.values, vec![Vec::new(); spec.constraints.len()]);
        let done = self.request(claim, 0)?;
        self.values = before;
        Ok(done)
    }

    /// Goes on with a request of a claim.
    fn request(&mut self, claim: usize, request: usize) -> Result<bool, NoDevices> {
        let claims = self.claims;
        let Some(spec) = claims.get(claim) else { return Ok(true) };
        let Some(asked) = spec.requests.get(request) else {
            return self.claim(claim + 1);
        };
        for option in &asked.options {
            let at = At {
                claim,
                request,
                spec,
                option,
                sure: false,
            };
            let found = match option.count {
                Some(count) => {
                    let (open, sure) = self.open(at);
                    self.some(At { sure, ..at }, count as usize, &open)?
                }
                None => self.all(at)?,
            };
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Candidates that may be had for a request, in order, and whether it is known of all of them that they are meant.
    fn open(&mut self, at: At<'a>) -> (Vec<usize>, bool) {
        // To look is work too.
        self.tried = self
            .tried
            .saturating_add(u32::try_from(self.candidates.len() / 8).unwrap_or(u32::MAX));
        let (mut open, mut sure) = (Vec::new(), true);
        for (index, candidate) in self.candidates.iter().enumerate() {
            match is_open(at.option, candidate) {
                Ok(true) => open.push(index),
                Ok(false) => {}
                Err(_) => {
                    open.push(index);
                    sure = false;
                }
            }
        }
        (open, sure)
    }

    /// So many devices more, of those that are open yet.
    fn some(&mut self, at: At<'a>, count: usize, open: &[usize]) -> Result<bool, NoDevices> {
        if count == 0 {
            return self.request(at.claim, at.request + 1);
        }
        if self.picks.iter().filter(|pick| pick.claim == at.claim).count() + count > MOST as usize {
            return Ok(false);
        }
        let (open, enough) = self.left_open(at, count, open);
        if !enough {
            return Ok(false);
        }
        let mut in_vain: Vec<(PoolOrd, usize)> = Vec::new();
        let mut rest = &*open;
        while let Some((&index, after)) = rest.split_first() {
            if at.sure && rest.len() < count {
                break;
            }
            rest = after;
            self.tried += 1;
            if self.tried > self.most {
                return Err(NoDevices::TooMuchWork);
            }
            let Some(candidate) = self.candidates.get(index) else {
                break;
            };
            let alike = candidate
                .is_untouched()
                .then_some((candidate.ord, candidate.device.alike));
            if alike.is_some_and(|alike| in_vain.contains(&alike)) {
                continue;
            }
            if self.take(at, index)? {
                if self.some(at, count - 1, after)? {
                    return Ok(true);
                }
                self.put_back(at, index);
            }
            in_vain.extend(alike);
        }
        Ok(false)
    }

    /// All devices that are meant, which has to be at least one.
    fn all(&mut self, at: At<'a>) -> Result<bool, NoDevices> {
        if let Some(fault) = self.faulty {
            return Err(NoDevices::Fault(fault));
        }
        let mut meant = Vec::new();
        for (index, candidate) in self.candidates.iter().enumerate() {
            if is_meant(at.option, candidate.device)? && share_of(at.option, candidate, false).is_some() {
                meant.push(index);
            }
        }
        let in_claim = self.picks.iter().filter(|pick| pick.claim == at.claim).count();
        if meant.is_empty() || in_claim + meant.len() > MOST as usize {
            return Ok(false);
        }
        let mut taken = 0;
        for &index in &meant {
            if !self.take(at, index)? {
                break;
            }
            taken += 1;
        }
        if taken == meant.len() && self.request(at.claim, at.request + 1)? {
            return Ok(true);
        }
        for &index in meant.iter().take(taken).rev() {
            self.put_back(at, index);
        }
        Ok(false)
    }

    /// Takes a device if it can be had.
    fn take(&mut self, at: At<'a>, index: usize) -> Result<bool, NoDevices> {
        let Some(candidate) = self.candidates.get(index) else {
            return Ok(false);
        };
        let (ord, pool, device) = (candidate.ord, candidate.pool, candidate.device);
        if !is_open(at.option, candidate)? {
            return Ok(false);
        }
        let share = share_of(at.option, candidate, true).unwrap_or_default();
        let first = candidate.parts() == 0;
        let Some(consumes) = &device.consumes else {
            return Ok(false);
        };
        if first && let Some(left) = self.counters.get(&ord) {
            let enough = |(position, amount): &(usize, i64)| left.get(*position).is_some_and(|left| left >= amount);
            if !consumes.iter().all(enough) {
                return Ok(false);
            }
        }
        if !self.meets_constraints(at, device) {
            return Ok(false);
        }
        if first {
            self.draw(ord, device, -1);
        }
        if let Some(candidate) = self.candidates.get_mut(index) {
            if device.is.shared {
                candidate.parts += 1;
                for (name, amount) in share {
                    *candidate.consumed.entry(name).or_insert(0) += amount;
                }
            } else {
                candidate.taken = true;
            }
        }
        self.picks.push(Pick {
            claim: at.claim,
            option: at.option,
            pool,
            device,
        });
        Ok(true)
    }

    /// Puts back the device that was taken last.
    fn put_back(&mut self, at: At<'a>, index: usize) {
        self.picks.pop();
        for (position, constraint) in at.spec.constraints.iter().enumerate() {
            if is_about(constraint, at)
                && let Some(values) = self.values.get_mut(position)
            {
                values.pop();
            }
        }
        let Some(candidate) = self.candidates.get_mut(index) else {
            return;
        };
        let (ord, device) = (candidate.ord, candidate.device);
        if device.is.shared {
            candidate.parts -= 1;
            for (name, amount) in amounts(at.option, device).unwrap_or_default() {
                *candidate.consumed.entry(name).or_insert(0) -= amount;
            }
        } else {
            candidate.taken = false;
        }
        if candidate.parts() == 0 {
            self.draw(ord, device, 1);
        }
    }

    /// Draws what a device takes from its pool's counters, or puts it back.
    fn draw(&mut self, pool: PoolOrd, device: &Device, sign: i64) {
        let Some(left) = self.counters.get_mut(&pool) else {
            return;
        };
        for &(position, amount) in device.consumes.iter().flatten() {
            if let Some(left) = left.get_mut(position) {
                *left = left.saturating_add(sign * amount);
            }
        }
    }
}

/// Where a search is.
#[derive(Clone, Copy)]
struct At<'a> {
    claim: usize,
    request: usize,
    spec: &'a DeviceClaimSpec,
    option: &'a DeviceOption,
    /// It is known of all devices that may be had whether they are meant. Where it is not, the search is to come upon that.
    sure: bool,
}

/// True if a device is one of those that are asked for.
fn is_meant(option: &DeviceOption, device: &Device) -> Result<bool, NoDevices> {
    if let Some((_, fault)) = device.failed.iter().find(|(selector, _)| *selector == option.selector) {
        return Err(NoDevices::Fault(*fault));
    }
    Ok(device.is.selectors.binary_search(&option.selector).is_ok())
}

/// True if a device is one of those that are asked for, and nothing of its own is against its being had.
fn is_open(option: &DeviceOption, candidate: &Candidate<'_>) -> Result<bool, NoDevices> {
    let device = candidate.device;
    let in_use = candidate.taken || candidate.held.is_some_and(|held| held.whole > 0);
    if in_use || (!device.is.shared && candidate.parts() > 0) || !is_meant(option, device)? {
        return Ok(false);
    }
    let blocking = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    let mut taints = device.is.taints.iter().filter(blocking);
    Ok(share_of(option, candidate, true).is_some()
        && !taints.any(|taint| !selector::tolerated(taint, &option.tolerations))
        && device.consumes.is_some())
}

/// What of a device's capacity is had by a request, if there is so much: beside what is had already, or at all.
fn share_of<'a>(option: &DeviceOption, candidate: &Candidate<'a>, beside: bool) -> Option<Vec<(&'a str, i64)>> {
    let amounts = amounts(option, candidate.device)?;
    let fits = |(name, amount): &(&str, i64)| {
        let held = candidate.held.and_then(|held| held.consumed.get(*name)).copied();
        let others = held.unwrap_or(0) + candidate.consumed.get(name).copied().unwrap_or(0);
        let all = candidate
            .device
            .is
            .capacity
            .get(*name)
            .map_or(0, |capacity| capacity.value);
        amount.saturating_add(if beside { others } else { 0 }) <= all
    };
    amounts.iter().all(fits).then_some(amounts)
}

impl Pick<'_> {
    /// What it has of the device's capacity, if others may have more of it.
    pub(crate) fn share(&self) -> Option<BTreeMap<String, i64>> {
        let amounts = self.device.is.shared.then(|| amounts(self.option, self.device))??;
        Some(
            amounts
                .into_iter()
                .map(|(name, amount)| (name.to_owned(), amount))
                .collect(),
        )
    }
}
