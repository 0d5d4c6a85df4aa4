//! Batch's resctrl group: made, filled with batch's tasks and given up.

use std::collections::BTreeSet;

use duosuan_cgroup::{
    Cgroup, Error,
    resctrl::{self, Resctrl, Setting},
};
use duosuan_policy::{
    Action, Control, Observation, Range,
    llc::{GROUP, RESCTRL, SCHEMATA},
    observation::CacheUse,
};

use super::Kernel;
use crate::journal::{Entry, Key};

/// Tasks that came into batch's cgroups from outside are moved after so many looks. What a task of the group starts is in it
/// from the first.
const SWEEP_AFTER: u64 = 5;

/// The kernel's side of the group.
#[derive(Debug)]
pub(super) struct Cache {
    pub(super) resctrl: Resctrl,
    controls: Vec<Control>,
    swept: u64,
}

impl Cache {
    /// What there is to control; `None` if nothing.
    pub(super) fn of(resctrl: Resctrl) -> Result<Option<Self>, Error> {
        let controls: Vec<Control> = resctrl.controls()?.into_iter().map(translated).collect();
        Ok((!controls.is_empty()).then_some(Self {
            resctrl,
            controls,
            swept: 0,
        }))
    }

    /// Whether there is a control whose name begins so.
    pub(super) fn controls(&self, name: &str) -> bool {
        self.controls.iter().any(|c| c.resource.starts_with(name))
    }
}

fn key() -> Key {
    (RESCTRL.to_owned(), GROUP.to_owned())
}

/// Whether a journal entry is about the group.
pub(super) fn is_group(entry: &Entry) -> bool {
    entry.path == RESCTRL
}

impl Kernel {
    /// What can be controlled, and what is used.
    pub(super) fn observe_cache(&mut self, seen: &mut Observation) {
        let Some(cache) = &self.cache else { return };
        let exists = self.journal.entries().contains_key(&key());
        if seen.controls != cache.controls {
            seen.controls.clone_from(&cache.controls);
        }
        if !exists {
            seen.cache = None;
        } else if self.looks % SWEEP_AFTER == 1 {
            match used(&cache.resctrl) {
                Ok(used) => seen.cache = used,
                Err(error) if error.is_gone() => seen.cache = None,
                Err(error) => {
                    seen.cache = None;
                    self.fail("mon_data", error.to_string());
                }
            }
        }
    }

    /// Makes batch's group hold, and batch's tasks be in it; the number of settings that were written.
    pub(super) fn hold_group(&mut self, action: &Action) -> Result<u64, String> {
        let held = self.try_hold_group(action);
        match held {
            Ok(written) => {
                self.refusals.holds(&(RESCTRL.to_owned(), SCHEMATA.to_owned()));
                Ok(written)
            }
            Err(message) if self.refusals.deny(SCHEMATA, None, &message, self.now) => Err(message),
            Err(message) => {
                self.count(SCHEMATA, message);
                Ok(0)
            }
        }
    }

    fn try_hold_group(&mut self, action: &Action) -> Result<u64, String> {
        let text = |error: Error| error.to_string();
        let journal = |error: anyhow::Error| format!("{error:#}");
        let Some(cache) = &mut self.cache else { return Ok(0) };
        let known = self.journal.entries().get(&key()).map(|e| e.new.clone());
        if known.as_ref() != Some(&action.value) {
            self.journal
                .set(Entry {
                    path: RESCTRL.to_owned(),
                    file: GROUP.to_owned(),
                    // The group is ours by its name, and goes as a whole.
                    device: 0,
                    inode: 0,
                    old: String::new(),
                    weight: None,
                    new: action.value.clone(),
                    was: Vec::new(),
                })
                .map_err(journal)?;
        }
        if known.is_none() {
            if let Err(error) = cache.resctrl.create(GROUP) {
                self.journal.restored(&key()).map_err(journal)?;
                return Err(text(error));
            }
            cache.swept = 0;
        }
        let wanted = resctrl::settings(&action.value).map_err(|line| format!("{line:?} is no line of schemata"))?;
        let holds = |now: &[Setting]| wanted.iter().all(|setting| now.contains(setting));
        let now = match cache.resctrl.settings(Some(GROUP)) {
            // Somebody removed it: the next look makes it anew.
            Err(error) if error.is_gone() => {
                self.journal.restored(&key()).map_err(journal)?;
                self.fail(SCHEMATA, format!("{error}: somebody else removed the group"));
                return Ok(0);
            }
            now => now.map_err(text)?,
        };
        let mut written = 0;
        if !holds(&now) {
            cache.resctrl.set(GROUP, &action.value).map_err(text)?;
            let now = cache.resctrl.settings(Some(GROUP)).map_err(text)?;
            if !holds(&now) {
                return Err(format!(
                    "{GROUP}/schemata reads {now:?} where {:?} was written",
                    action.value
                ));
            }
            tracing::info!(group = GROUP, to = %action.value, "{}", action.why);
            written = 1;
        }
        if cache.swept == 0 || self.looks.saturating_sub(cache.swept) >= SWEEP_AFTER {
            cache.swept = self.looks;
            sweep(&cache.resctrl, &self.root, &self.batch).map_err(text)?;
        }
        Ok(written)
    }

    /// Gives the group up, and with it all limits of its tasks.
    pub(super) fn give_up_group(&mut self) -> Result<bool, String> {
        if let Some(cache) = &mut self.cache {
            cache.resctrl.remove(GROUP).map_err(|e| e.to_string())?;
            tracing::info!(group = GROUP, "gave up the resctrl group");
        }
        self.journal.restored(&key()).map_err(|e| format!("{e:#}"))?;
        Ok(self.cache.is_some())
    }
}

/// What batch's group and the default group use; the latter counts its own tasks alone.
fn used(resctrl: &Resctrl) -> Result<Option<CacheUse>, Error> {
    let both = resctrl.usage(Some(GROUP))?.zip(resctrl.usage(None)?);
    Ok(both.map(|(batch, others)| CacheUse {
        batch_bytes: batch.occupancy,
        batch_traffic: batch.traffic,
        others_bytes: others.occupancy,
        others_traffic: others.traffic,
    }))
}

/// Moves batch's tasks from the default group into batch's, and those that are batch's no more back. A task in a third group
/// is somebody else's to place.
fn sweep(resctrl: &Resctrl, root: &Cgroup, batch: &[String]) -> Result<(), Error> {
    let ours = resctrl.tasks(Some(GROUP))?;
    let mut wanted = BTreeSet::new();
    for path in batch {
        match root.child(path).and_then(|group| threads(&group, &mut wanted)) {
            Err(error) if !error.is_gone() => return Err(error),
            _ => {}
        }
    }
    for task in ours.difference(&wanted) {
        resctrl.move_task(None, *task)?;
    }
    let mut missing = wanted.difference(&ours).peekable();
    if missing.peek().is_some() {
        let free = resctrl.tasks(None)?;
        for task in missing.filter(|task| free.contains(task)) {
            resctrl.move_task(Some(GROUP), *task)?;
        }
    }
    Ok(())
}

/// The threads of a cgroup and of all below it.
fn threads(group: &Cgroup, into: &mut BTreeSet<i32>) -> Result<(), Error> {
    into.extend(group.threads()?.unwrap_or_default());
    for name in group.children()? {
        match group.child(&name).and_then(|child| threads(&child, into)) {
            Err(error) if !error.is_gone() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn translated(control: resctrl::Control) -> Control {
    Control {
        resource: control.resource,
        domains: control.domains,
        range: match control.range {
            resctrl::Range::Ways { mask, least } => Range::Ways { mask, least },
            resctrl::Range::Percent { least, step } => Range::Percent { least, step },
        },
    }
}
