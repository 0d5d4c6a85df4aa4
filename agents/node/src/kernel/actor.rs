//! Acting on the kernel: only differences, in the journal before they are made, read back after.

use std::collections::BTreeMap;

use duosuan_cgroup::{Cgroup, Error};
use duosuan_policy::{Action, action::RECLAIM};

use super::{Kernel, slot};
use crate::{
    journal::{Entry, Key},
    machine::Acted,
};

/// A setting that somebody changed back in this many looks more than he left it alone is left to him until he has
/// left it alone as often.
const YIELD_AT: u32 = 20;
/// What the kernel refused is tried again after this many looks.
const RETRY_AFTER: u64 = 30;
/// Settings that are patient are read back after this many looks.
const VERIFY_AFTER: u64 = 15;

impl Kernel {
    /// Makes `actions` hold and nothing else of ours.
    pub(super) fn act_on(&mut self, actions: &[Action]) -> Acted {
        let mut acted = Acted::default();
        let settings = actions.iter().filter(|a| a.file != RECLAIM);
        let wanted: BTreeMap<Key, &Action> = settings.map(|a| ((a.path.clone(), a.file.clone()), a)).collect();
        let over: Vec<Entry> = self
            .journal
            .entries()
            .iter()
            .filter(|(k, _)| !wanted.contains_key(*k))
            .map(|(_, e)| e.clone())
            .collect();
        for entry in over {
            match self.put_back(&entry) {
                Ok(written) => acted.written += u64::from(written),
                Err(message) => self.fail(slot::file(&entry.file), message),
            }
        }
        let mut planned = Vec::new();
        for (key, action) in &wanted {
            match self.plan(key, action) {
                Ok(plan) => planned.extend(plan),
                Err(message) => self.fail(slot::file(&action.file), message),
            }
        }
        // Many pods may get a setting at once: the disk is waited for once, before the first is written.
        match self.journal.set_all(planned.iter().map(|p| p.entry.clone()).collect()) {
            Ok(()) => {
                for plan in planned {
                    let file = plan.entry.file.clone();
                    match self.carry_out(plan) {
                        Ok(reasserted) => {
                            acted.written += 1;
                            acted.reasserted += u64::from(reasserted);
                        }
                        Err(message) => self.fail(slot::file(&file), message),
                    }
                }
            }
            Err(error) => self.fail("journal", format!("{error:#}")),
        }
        for order in actions.iter().filter(|a| a.file == RECLAIM) {
            match self.reclaim(order) {
                Ok(bytes) => acted.reclaimed += bytes,
                Err(message) => self.fail(RECLAIM, message),
            }
        }
        self.fights.retain(|key, _| wanted.contains_key(key));
        self.refused.retain(|key, _| wanted.contains_key(key));
        self.verified.retain(|key, _| wanted.contains_key(key));
        acted
    }

    /// Has the kernel reclaim memory of a cgroup, and answers how many bytes that took off it.
    fn reclaim(&self, order: &Action) -> Result<u64, String> {
        let done = || {
            let group = self.group(&order.path)?;
            let before = group.memory_current()?.unwrap_or(0);
            // What is not found to reclaim is asked for again where it is still wanted.
            group.reclaim(order.value.parse().unwrap_or(0))?;
            Ok::<u64, Error>(before.saturating_sub(group.memory_current()?.unwrap_or(before)))
        };
        match done() {
            Ok(bytes) => {
                tracing::info!(path = %order.path, bytes, "{}", order.why);
                Ok(bytes)
            }
            Err(error) if error.is_gone() => Ok(0),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Writes the old value back, unless somebody else has written there since, or the cgroup is gone.
    fn put_back(&mut self, entry: &Entry) -> Result<bool, String> {
        let key = (entry.path.clone(), entry.file.clone());
        let written = match self.group(&entry.path) {
            Ok(group) if group.identity().is_ok_and(|i| i == entry.identity()) => restore(&group, entry),
            Ok(_) => Ok(false),
            Err(error) if error.is_gone() => Ok(false),
            Err(error) => Err(error),
        };
        let written = match written {
            Err(error) if error.is_gone() => false,
            other => other.map_err(|e| e.to_string())?,
        };
        if written {
            tracing::info!(path = %entry.path, file = %entry.file, value = %entry.old, "put back");
        }
        self.journal.restored(&key).map_err(|e| format!("{e:#}"))?;
        Ok(written)
    }

    /// What there is to write for an action, if anything.
    fn plan<'a>(&mut self, key: &Key, action: &'a Action) -> Result<Option<Planned<'a>>, String> {
        let looks_since = |look: &u64| self.looks.saturating_sub(*look);
        if self
            .refused
            .get(key)
            .is_some_and(|look| looks_since(look) < RETRY_AFTER)
            || self
                .verified
                .get(key)
                .is_some_and(|(value, look)| *value == action.value && looks_since(look) < VERIFY_AFTER)
        {
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
        let fight = self.fights.entry(key.clone()).or_default();
        if current == value {
            *fight = fight.saturating_sub(1);
            if slot::patient(&action.file) {
                self.verified.insert(key.clone(), (action.value.clone(), self.looks));
            }
            return Ok(None);
        }
        // Ours, and neither what we wrote last nor what we found: somebody else writes here.
        let reasserted = ours.as_ref().is_some_and(|e| e.new != current);
        if reasserted {
            *fight += 1;
            if *fight > YIELD_AT {
                *fight -= 1;
                return Err(format!(
                    "{}: somebody else keeps writing {current:?} where {:?} was set: left to him",
                    group.path().join(&action.file).display(),
                    value
                ));
            }
        }
        let weight = match (&ours, action.file.as_str()) {
            (Some(entry), _) => entry.weight.clone(),
            (None, "cpu.idle") => group.read("cpu.weight").map_err(text)?,
            (None, _) => None,
        };
        let entry = Entry {
            was: ours.as_ref().map(|e| e.new.clone()),
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
            entry,
            before: ours,
            current,
            reasserted,
            why: &action.why,
        }))
    }

    /// Writes what is in the journal already; true if somebody else had changed it.
    fn carry_out(&mut self, plan: Planned<'_>) -> Result<bool, String> {
        let Entry { path, file, new, .. } = &plan.entry;
        let key = (path.clone(), file.clone());
        if let Err(error) = slot::write(&plan.group, file, new) {
            // Nothing was changed, so there is nothing to restore; and the kernel is not asked the same every second.
            self.refused.insert(key.clone(), self.looks);
            match plan.before {
                Some(before) => self.journal.set(before),
                None => self.journal.restored(&key),
            }
            .map_err(|e| format!("{e:#}"))?;
            return Err(error.to_string());
        }
        tracing::info!(%path, %file, from = %plan.current, to = %new, "{}", plan.why);
        Ok(plan.reasserted)
    }
}

/// A setting that is to be written.
struct Planned<'a> {
    group: Cgroup,
    entry: Entry,
    /// What the journal said of it.
    before: Option<Entry>,
    current: String,
    reasserted: bool,
    why: &'a str,
}

/// Writes the old value; true if that was needed.
fn restore(group: &Cgroup, entry: &Entry) -> Result<bool, Error> {
    let Some(current) = slot::read(group, &entry.file)? else {
        return Ok(false);
    };
    if current == entry.old {
        // The crash came between the journal and the kernel, or somebody did it for us. The weight may still be off.
        return restore_weight(group, entry, false);
    }
    if current != entry.new && entry.was.as_ref() != Some(&current) {
        tracing::warn!(path = %entry.path, file = %entry.file, %current, "somebody else has written here since: left as it is");
        return Ok(false);
    }
    slot::write(group, &entry.file, &entry.old)?;
    restore_weight(group, entry, true)
}

/// `cpu.idle` set back to 0 leaves `cpu.weight` at 100, whatever it was before.
fn restore_weight(group: &Cgroup, entry: &Entry, written: bool) -> Result<bool, Error> {
    const LEFT_BY_IDLE: &str = "100";
    let Some(weight) = entry
        .weight
        .as_deref()
        .filter(|w| *w != LEFT_BY_IDLE && entry.old == "0")
    else {
        return Ok(written);
    };
    if group.read("cpu.weight")?.as_deref() != Some(LEFT_BY_IDLE) {
        return Ok(written);
    }
    slot::write(group, "cpu.weight", weight)?;
    Ok(true)
}
