//! The IO guard: batch's IO waits behind prod's, and where prod stalls for IO all the same, batch's is cut.
//!
//! What batch did in the seconds before the first cut is the reference: how fast a device is, nobody tells. The guard
//! moves in thousandths of it, and each device gets a limit for bytes and for requests, of reads and of writes.

use std::collections::BTreeMap;

use crate::{
    action::Action,
    guard::{self, GuardState, Pace, ShareGuard},
    observation::{Capabilities, Io, Millis, Observation},
    policy,
};

/// The reference, in thousandths.
const ALL: i64 = 1000;
/// Batch keeps a twentieth of what it did.
const FLOOR: i64 = 50;
/// Requests under way end first: a new limit shows after this long.
const SETTLES: Millis = 1_000;
/// `io.weight` of batch. The default is 100.
const WEIGHT: u64 = 10;
/// What it limits by, what it acts on first in front.
const FILES: [&str; 3] = ["io.max", "io.weight", "io.bfq.weight"];
/// No limit is below a MiB and 32 requests a second: batch's own metadata has to move.
const LEAST: Io = Io {
    read_bytes: 1 << 20,
    written_bytes: 1 << 20,
    reads: 32,
    writes: 32,
};

/// IO by path and device.
type ByGroup = BTreeMap<String, BTreeMap<String, Io>>;

/// The guard's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoGuard {
    /// What batch may do, in thousandths of the reference.
    pub share: ShareGuard,
    /// What batch did lately, a second.
    recent: ByGroup,
    /// What batch did before the first cut, a second.
    reference: ByGroup,
}

/// What the guard looks at.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// The node's groups.
    pub seen: &'a Observation,
    /// What the kernel can do.
    pub capabilities: &'a Capabilities,
    /// Prod's IO stall, thousandths.
    pub stall: Option<i64>,
    /// Whether some of prod may stall more.
    pub unread: bool,
}

impl IoGuard {
    /// Forgets every limit.
    pub fn switch_off(&mut self, why: Option<&str>) {
        self.share.switch_off(why);
        *self = Self {
            share: std::mem::take(&mut self.share),
            ..Self::default()
        };
    }

    /// Takes in a sample of batch's IO a second: peaks are forgotten by an eighth with each sample.
    pub fn remember(&mut self, sample: &ByGroup) {
        self.recent.retain(|path, _| sample.contains_key(path));
        for (path, devices) in sample {
            let Some(recent) = known(&mut self.recent, path) else {
                continue;
            };
            for (device, now) in devices {
                let Some(before) = known(recent, device) else { continue };
                *before = before.with(*now, |before, now| now.max(before - before.div_ceil(8)));
            }
        }
    }

    /// Moves by one reading and answers what should hold now.
    pub fn step(&mut self, policy: &policy::IoGuard, reading: Reading<'_>, now: Millis) -> Vec<Action> {
        let Reading { seen, capabilities, .. } = reading;
        let weighs = capabilities.io_weight || capabilities.io_bfq_weight;
        if !capabilities.io_max && (!weighs || capabilities.refused.contains_key("io.max")) {
            let refused = FILES.iter().find(|file| capabilities.refused.contains_key(**file));
            let why = match refused {
                None => "off: the kernel has neither io.max nor io.weight here".to_owned(),
                Some(file) => capabilities.lack_of(file),
            };
            self.switch_off(capabilities.known().then_some(why.as_str()));
            // Where there are weights, batch still waits behind others.
            return self.actions(capabilities, seen);
        }
        if capabilities.io_max {
            let active = self
                .recent
                .values()
                .flat_map(BTreeMap::values)
                .any(|io| io.read_bytes + io.written_bytes >= 1 << 20 || io.reads + io.writes >= LEAST.reads);
            let used = if active || self.share.limit.is_some() {
                self.share.limit.unwrap_or(ALL)
            } else {
                0
            };
            let reading = guard::Reading {
                unit: "/1000 of its IO",
                capacity: ALL,
                floor: FLOOR,
                pace: Pace::of_stall(policy.stall_milli, SETTLES),
                what: "prod stalled",
                signal: reading.stall,
                unread: reading.unread,
                firm: None,
                relief: 0,
                batch: Some(used),
            };
            let free = self.share.limit.is_none();
            self.share.step(reading, now);
            match self.share.limit {
                None => self.reference.clear(),
                Some(_) if free => self.reference = self.recent.clone(),
                Some(_) => {}
            }
        } else if self.share.state == GuardState::Off {
            self.share.state = GuardState::Idle;
        }
        self.actions(capabilities, seen)
    }

    fn actions(&self, capabilities: &Capabilities, seen: &Observation) -> Vec<Action> {
        let places = seen.batch_places();
        let mut actions = Vec::new();
        for place in &places {
            let why = "batch's requests wait behind others'";
            for (there, file) in [
                (capabilities.io_weight, "io.weight"),
                (capabilities.io_bfq_weight, "io.bfq.weight"),
            ] {
                if there {
                    actions.push(Action::new(place, file, WEIGHT.to_string(), why));
                }
            }
        }
        let Some(limit) = self.share.limit.filter(|_| capabilities.io_max) else {
            return actions;
        };
        let why = self.share.last_action.as_deref().unwrap_or("the guard limits batch");
        let whole = sum(self.reference.values());
        let each = u64::try_from(places.len().max(1)).unwrap_or(1);
        for place in places {
            // A pod that came later has no past: it gets the mean of all.
            let own = self.reference.get(place).cloned().unwrap_or_else(|| {
                let mean = |io: &Io| io.with(*io, |a, _| a / each);
                whole.iter().map(|(device, io)| (device.clone(), mean(io))).collect()
            });
            for (device, reference) in own {
                let part =
                    |a: u64, least: u64| (a.saturating_mul(limit.unsigned_abs()) / ALL.unsigned_abs()).max(least);
                let io = reference.with(LEAST, part);
                let value = format!(
                    "rbps={} wbps={} riops={} wiops={}",
                    io.read_bytes, io.written_bytes, io.reads, io.writes
                );
                actions.push(Action::new(place, format!("io.max {device}"), value, why));
            }
        }
        actions
    }
}

/// The value of a key, which is copied only where it is new.
fn known<'a, V: Default>(map: &'a mut BTreeMap<String, V>, key: &str) -> Option<&'a mut V> {
    if !map.contains_key(key) {
        map.insert(key.to_owned(), V::default());
    }
    map.get_mut(key)
}

/// IO by device, of all groups.
fn sum<'a>(groups: impl Iterator<Item = &'a BTreeMap<String, Io>>) -> BTreeMap<String, Io> {
    let mut sum: BTreeMap<String, Io> = BTreeMap::new();
    for (device, io) in groups.flatten() {
        let entry = sum.entry(device.clone()).or_default();
        *entry = entry.with(*io, u64::saturating_add);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It said that the kernel has no `io.max`, where that was absent and the weight was refused.
    #[test]
    fn a_guard_that_is_off_names_the_file_that_is_refused() {
        let seen = Observation::default();
        let said = |capabilities: &Capabilities| {
            let mut guard = IoGuard::default();
            let reading = Reading {
                seen: &seen,
                capabilities,
                stall: None,
                unread: false,
            };
            guard.step(&policy::IoGuard::default(), reading, 1_000);
            guard.share.last_action.unwrap_or_default()
        };
        let other = Capabilities {
            cpu_max: true,
            ..Capabilities::default()
        };
        assert_eq!(said(&other), "off: the kernel has neither io.max nor io.weight here");
        for file in FILES {
            let refuses = other.clone().without(file, "b/x: write: it will not");
            let words = format!("off: the kernel refuses {file}: b/x");
            assert!(said(&refuses).starts_with(&words), "{}", said(&refuses));
        }
        // Another guard's file is another guard's.
        let refuses = other.clone().without("cpu.max", "b/x: write: it will not");
        assert_eq!(said(&refuses), said(&other));
    }
}
