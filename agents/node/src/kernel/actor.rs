//! Acting on the kernel: only differences, in the journal before they are made, read back after.

use std::{borrow::Borrow, time::Instant};

use duosuan_cgroup::{Cgroup, Error};
use duosuan_policy::{
    Action, Millis,
    action::{KILL, RECLAIM},
    llc::{RESCTRL, SCHEMATA},
    network::{NETWORK, POLICE},
};

use super::{Kernel, refusals::RETRY_AFTER, slot, slow::is_slow};
use crate::{
    fault::{self, Point},
    journal::{Entry, Key},
    machine::Acted,
};

/// A setting that somebody changed back in this many looks more than he left it alone is left to him. After [`RETRY_AFTER`] it
/// is tried once: whether he goes on shows only then.
const YIELD_AT: u32 = 20;
/// Settings that are patient are read back after this many looks.
const VERIFY_AFTER: u64 = 15;

impl Kernel {
    /// Makes `actions` hold and nothing else of ours.
    pub(super) fn act_on(&mut self, actions: &[Action]) -> Acted {
        let mut acted = Acted::default();
        // First: memory is about to fail.
        for kill in actions.iter().filter(|a| a.file == KILL) {
            match self.kill(kill) {
                Ok(killed) => acted.killed += u64::from(killed),
                Err(error) => {
                    let message = error.to_string();
                    self.refusals.deny(KILL, error.errno(), &message, self.now);
                    self.fail(KILL, message);
                }
            }
        }
        self.finish(&mut acted);
        self.hear();
        let group = actions.iter().find(|a| a.path == RESCTRL);
        let order = |action: &Action| matches!(action.file.as_str(), RECLAIM | KILL);
        let network = actions.iter().find(|a| a.path == NETWORK);
        let apart = |action: &Action| matches!(action.path.as_str(), RESCTRL | NETWORK);
        let settings = actions.iter().filter(|a| !order(a) && !apart(a));
        let mut wanted: Vec<&Action> = settings.collect();
        wanted.sort_by(|a, b| names(a).cmp(&names(b)));
        wanted.dedup_by(|next, kept| {
            let same = names(next) == names(kept);
            if same {
                // Who says it last means it.
                *kept = *next;
            }
            same
        });
        let is_wanted = |(path, file): &Key| {
            (group.is_some() && path == RESCTRL)
                || (network.is_some() && path == NETWORK)
                || wanted
                    .binary_search_by(|a| names(a).cmp(&(path.as_str(), file.as_str())))
                    .is_ok()
        };
        let entries = self.journal.entries().iter();
        let over: Vec<Entry> = entries.filter(|(k, _)| !is_wanted(k)).map(|(_, e)| e.clone()).collect();
        for entry in over {
            let key = entry.key();
            let lately = |at: &Millis| self.now.saturating_sub(*at) < RETRY_AFTER;
            if self.units.as_ref().is_some_and(|units| units.waits(&key, self.now))
                || self.opened.get(&key).is_some_and(lately)
            {
                continue;
            }
            if !self.slow.take_back(&key) {
                // It is put back when it is made.
                continue;
            }
            self.pending.remove(&key);
            match self.put_back(&entry) {
                Ok(written) => acted.written += u64::from(written),
                Err(message) => self.fail(slot::file(&entry.file), message),
            }
        }
        // Patient settings that held as they are asked for now are not read back at each look.
        if self.looks >= self.settled_until {
            self.settled.clear();
            self.settled_until = self.looks + VERIFY_AFTER;
        }
        let mut settled = std::mem::take(&mut self.settled);
        settled.retain(|held| found(&wanted, held).is_some_and(|asked| asked.value == held.value));
        let mut planned = Vec::new();
        let mut holds: Vec<Action> = Vec::new();
        for &action in &wanted {
            let is_patient = slot::patient(&action.file);
            if is_patient && found(&settled, action).is_some() {
                continue;
            }
            match self.plan(&(action.path.clone(), action.file.clone()), action) {
                Ok(None) if is_patient => holds.push(action.clone()),
                Ok(plan) => planned.extend(plan),
                Err(message) => self.fail(slot::file(&action.file), message),
            }
        }
        if !holds.is_empty() {
            settled.append(&mut holds);
            settled.sort_by(|a, b| names(a).cmp(&names(b)));
        }
        self.settled = settled;
        // All of them are in the journal before the first is written.
        match self.journal.set_all(planned.iter().map(|p| p.entry.clone()).collect()) {
            Ok(()) => {
                for plan in planned {
                    let (file, reasserted) = (plan.entry.file.clone(), plan.setting.reasserted);
                    match self.carry_out(plan) {
                        Ok(false) => {}
                        Ok(true) => {
                            acted.written += 1;
                            acted.reasserted += u64::from(reasserted);
                        }
                        Err(message) => self.fail(slot::file(&file), message),
                    }
                }
            }
            Err(error) => self.fail("journal", format!("{error:#}")),
        }
        match group.map_or(Ok(0), |group| self.hold_group(group)) {
            Ok(written) => acted.written += written,
            Err(message) => self.fail(SCHEMATA, message),
        }
        match network.map_or(Ok([0; 2]), |network| self.hold_network(network)) {
            Ok([written, reasserted]) => {
                acted.written += written;
                acted.reasserted += reasserted;
            }
            Err(message) => self.fail(POLICE, message),
        }
        for order in actions.iter().filter(|a| a.file == RECLAIM) {
            if let Err(message) = self.reclaim(order) {
                self.fail(RECLAIM, message);
            }
        }
        self.fights.retain(|key, _| is_wanted(key));
        self.refusals
            .judge(wanted.iter().map(|action| names(action)), is_wanted);
        self.opened.retain(|key, _| !is_wanted(key));
        acted
    }

    /// Ends all that runs in a cgroup; false if it is gone already.
    fn kill(&self, order: &Action) -> Result<bool, Error> {
        match self
            .group(&order.path)
            .and_then(|group| group.write(KILL, &order.value))
        {
            Ok(()) => {
                tracing::warn!(path = %order.path, "killed: {}", order.why);
                Ok(true)
            }
            Err(error) if error.is_gone() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes note of what was made since the last look.
    fn finish(&mut self, acted: &mut Acted) {
        while let Some((key, made)) = self.slow.done() {
            let Some(Pending { why, setting }) = self.pending.remove(&key) else {
                continue;
            };
            let (path, file) = &key;
            let outcome = match (setting, made) {
                (None, Ok(bytes)) => {
                    self.refusals.holds(&key);
                    tracing::info!(%path, bytes, "{why}");
                    acted.reclaimed += bytes;
                    Ok(())
                }
                (None, Err(error)) if error.is_gone() => Ok(()),
                (None, Err(error)) => {
                    let message = error.to_string();
                    if self.refusals.deny(RECLAIM, error.errno(), &message, self.now) {
                        Err(message)
                    } else {
                        self.count(RECLAIM, message);
                        Ok(())
                    }
                }
                (Some(setting), Ok(_)) => {
                    tracing::info!(%path, %file, from = %setting.from, to = %setting.to, "{why}");
                    acted.written += 1;
                    acted.reasserted += u64::from(setting.reasserted);
                    self.refusals.holds(&key);
                    Ok(())
                }
                (Some(setting), Err(error)) => self.refuse(&key, setting.before, &error),
            };
            if let Err(message) = outcome {
                self.fail(slot::file(file), message);
            }
        }
    }

    /// Orders the kernel to reclaim memory of a cgroup, unless it is still at an order before this one.
    fn reclaim(&mut self, order: &Action) -> Result<(), String> {
        let key = (order.path.clone(), order.file.clone());
        if self.slow.writes(&key) {
            return Ok(());
        }
        let group = match self.group(&order.path) {
            Ok(group) => group,
            Err(error) if error.is_gone() => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        let pending = Pending {
            why: order.why.clone(),
            setting: None,
        };
        self.pending.insert(key.clone(), pending);
        self.slow.write(key, group, order.value.clone());
        Ok(())
    }

    /// What there is to write for an action, if anything.
    fn plan(&mut self, key: &Key, action: &Action) -> Result<Option<Planned>, String> {
        if self.slow.writes(key) || self.refusals.holds_off(key, self.now) {
            return Ok(None);
        }
        let group = match self.group(&action.path) {
            Ok(group) => group,
            // Gone since it was looked at: nothing to limit.
            Err(error) if error.is_gone() => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let text = |error: Error| error.to_string();
        let identity = group.identity().map_err(text)?;
        let Some(current) = slot::read(&group, &action.file).map_err(text)? else {
            return Err(format!(
                "{}: this kernel does not have it",
                group.path().join(&action.file).display()
            ));
        };
        let ours = self
            .journal
            .entries()
            .get(key)
            .filter(|e| e.identity() == identity)
            .cloned();
        let before = ours.as_ref().map_or(current.as_str(), |e| e.old.as_str());
        let value = slot::combined(&action.file, before, &action.value);
        let units = self.units.as_ref();
        let fight = self.fights.entry(key.clone()).or_default();
        if current == value {
            fight.changes = fight.changes.saturating_sub(1);
            if let Some(ours) = ours.filter(|_| units.is_some_and(|units| units.is_due(key, self.now))) {
                self.tell(&ours, key);
            }
            return Ok(None);
        }
        // Ours, and neither what we wrote last nor what we found: somebody else writes here, unless it is systemd that does
        // not know better yet.
        let reasserted = ours.as_ref().is_some_and(|e| e.new != current)
            && !units.is_some_and(|units| units.is_at(&key.0, Instant::now()));
        if reasserted {
            fight.changes += u32::from(self.now >= fight.yields_until);
            if fight.changes > YIELD_AT {
                (fight.changes, fight.yields_until) = (YIELD_AT - 1, self.now + RETRY_AFTER);
            }
            if self.now < fight.yields_until {
                return Err(format!(
                    "{}: somebody else keeps writing {current:?} where {value:?} was set: left to him, and tried again after {} s",
                    group.path().join(&action.file).display(),
                    RETRY_AFTER / 1000
                ));
            }
        }
        let weight = match (&ours, action.file.as_str()) {
            (Some(entry), _) => entry.weight.clone(),
            (None, "cpu.idle") => group.read("cpu.weight").map_err(text)?,
            (None, _) => None,
        };
        let entry = Entry {
            was: ours.as_ref().map_or_else(Vec::new, |ours| self.may_stand(ours)),
            path: action.path.clone(),
            file: action.file.clone(),
            device: identity.device,
            inode: identity.inode,
            old: ours.as_ref().map_or_else(|| current.clone(), |e| e.old.clone()),
            weight,
            new: value,
        };
        Ok(Some(Planned {
            group,
            setting: Setting {
                before: ours,
                from: current,
                to: entry.new.clone(),
                reasserted,
            },
            entry,
            why: action.why.clone(),
        }))
    }

    /// Writes what is in the journal already; false if that is under way now, or the cgroup is gone.
    fn carry_out(&mut self, plan: Planned) -> Result<bool, String> {
        let Planned {
            group,
            entry,
            setting,
            why,
        } = plan;
        let key = entry.key();
        fault::reach(Point::Journalled);
        if is_slow(&key.1) {
            self.pending.insert(
                key.clone(),
                Pending {
                    why,
                    setting: Some(setting),
                },
            );
            self.slow.write(key, group, entry.new);
            return Ok(false);
        }
        let (path, file) = &key;
        if let Err(error) = slot::write(&group, file, &entry.new) {
            return self.refuse(&key, setting.before, &error).map(|()| false);
        }
        fault::reach(Point::Verified);
        tracing::info!(%path, %file, from = %setting.from, to = %setting.to, "{why}");
        self.refusals.holds(&key);
        self.tell(&entry, &key);
        Ok(true)
    }

    /// Nothing was changed, so there is nothing to restore; and the kernel is not asked the same every second. An error is
    /// to be logged.
    pub(super) fn refuse(&mut self, key: &Key, before: Option<Entry>, error: &Error) -> Result<(), String> {
        match before {
            Some(before) => self.journal.set(before),
            None => self.journal.restored(key),
        }
        .map_err(|e| format!("{e:#}"))?;
        // A device may be gone where the cgroup is not.
        let stands = |(path, slot): &Key| self.group(path).is_ok_and(|group| group.has(slot::file(slot)));
        if error.is_gone() && !stands(key) {
            return Ok(());
        }
        if self.refusals.note(key, error, self.now) {
            return Err(error.to_string());
        }
        self.count(slot::file(&key.1), error.to_string());
        Ok(())
    }
}

/// What a setting is of: path of the cgroup and file.
fn names(action: &Action) -> (&str, &str) {
    (&action.path, &action.file)
}

/// The action on the same file of the same cgroup, in a list that is sorted by these.
fn found<'a, A: Borrow<Action>>(sorted: &'a [A], action: &Action) -> Option<&'a Action> {
    let at = sorted
        .binary_search_by(|a| names(a.borrow()).cmp(&names(action)))
        .ok()?;
    sorted.get(at).map(Borrow::borrow)
}

/// A setting that is to be written.
struct Planned {
    group: Cgroup,
    entry: Entry,
    setting: Setting,
    why: String,
}

/// A setting and what it was.
#[derive(Debug)]
pub(super) struct Setting {
    /// What the journal said of it.
    before: Option<Entry>,
    from: String,
    to: String,
    /// Whether somebody else had changed it.
    reasserted: bool,
}

/// Who writes a setting beside us.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fight {
    /// Times that he changed it back, less those that he left it alone.
    changes: u32,
    /// Until then it is left to him.
    yields_until: Millis,
}

/// A write under way: of a setting, or an order to reclaim.
#[derive(Debug)]
pub(super) struct Pending {
    why: String,
    setting: Option<Setting>,
}
