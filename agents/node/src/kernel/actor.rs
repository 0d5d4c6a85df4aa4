//! Acting on the kernel: only differences, in the journal before they are made, read back after.

use std::collections::BTreeMap;

use duosuan_cgroup::{Cgroup, CpuMax, Error};
use duosuan_policy::Action;

use super::Kernel;
use crate::{
    journal::{Entry, Key},
    machine::Acted,
};

/// A setting that somebody changed back in this many looks more than he left it alone is left to him until he has
/// left it alone as often.
const YIELD_AT: u32 = 20;
/// What the kernel refused is tried again after this many looks.
const RETRY_AFTER: u64 = 30;

impl Kernel {
    /// Makes `actions` hold and nothing else of ours.
    pub(super) fn act_on(&mut self, actions: &[Action]) -> Acted {
        let mut acted = Acted::default();
        let wanted: BTreeMap<Key, &Action> = actions.iter().map(|a| ((a.path.clone(), a.file.clone()), a)).collect();
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
                Err(message) => self.fail(&entry.file, message),
            }
        }
        for (key, action) in &wanted {
            match self.set(key, action) {
                Ok(done) => {
                    acted.written += u64::from(done.written);
                    acted.reasserted += u64::from(done.reasserted);
                }
                Err(message) => self.fail(&action.file, message),
            }
        }
        self.fights.retain(|key, _| wanted.contains_key(key));
        self.refused.retain(|key, _| wanted.contains_key(key));
        acted
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

    fn set(&mut self, key: &Key, action: &Action) -> Result<Done, String> {
        if self
            .refused
            .get(key)
            .is_some_and(|look| self.looks.saturating_sub(*look) < RETRY_AFTER)
        {
            return Ok(Done::default());
        }
        let group = match self.group(&action.path) {
            Ok(group) => group,
            // Gone since it was looked at: nothing to limit.
            Err(error) if error.is_gone() => return Ok(Done::default()),
            Err(error) => return Err(error.to_string()),
        };
        let text = |error: Error| error.to_string();
        let identity = group.identity().map_err(text)?;
        let Some(current) = group.read(&action.file).map_err(text)? else {
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
        let value = if action.file == "cpu.max" {
            tighter(before, &action.value)
        } else {
            action.value.as_str()
        }
        .to_owned();
        let fight = self.fights.entry(key.clone()).or_default();
        if current == value {
            *fight = fight.saturating_sub(1);
            return Ok(Done::default());
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
        let before = ours.clone();
        let entry = Entry {
            was: ours.as_ref().map(|e| e.new.clone()),
            path: action.path.clone(),
            file: action.file.clone(),
            device: identity.device,
            inode: identity.inode,
            old: ours.map_or_else(|| current.clone(), |e| e.old),
            weight,
            new: value.clone(),
        };
        self.journal.set(entry).map_err(|e| format!("{e:#}"))?;
        if let Err(error) = write_and_verify(&group, &action.file, &value) {
            // Nothing was changed, so there is nothing to restore; and the kernel is not asked the same every second.
            self.refused.insert(key.clone(), self.looks);
            match before {
                Some(before) => self.journal.set(before),
                None => self.journal.restored(key),
            }
            .map_err(|e| format!("{e:#}"))?;
            return Err(error.to_string());
        }
        tracing::info!(path = %action.path, file = %action.file, from = %current, to = %value, "{}", action.why);
        Ok(Done {
            written: true,
            reasserted,
        })
    }
}

#[derive(Default)]
struct Done {
    written: bool,
    reasserted: bool,
}

/// The smaller of two values of `cpu.max`: a limit that was there before is never loosened.
fn tighter<'a>(before: &'a str, wanted: &'a str) -> &'a str {
    let share = |text: &str| {
        let max: CpuMax = text.parse().ok()?;
        Some(u128::from(max.quota?) * 1_000_000 / u128::from(max.period.max(1)))
    };
    match (share(before), share(wanted)) {
        (Some(b), Some(w)) if b <= w => before,
        _ => wanted,
    }
}

/// Writes the old value; true if that was needed.
fn restore(group: &Cgroup, entry: &Entry) -> Result<bool, Error> {
    let Some(current) = group.read(&entry.file)? else {
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
    write_and_verify(group, &entry.file, &entry.old)?;
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
    write_and_verify(group, "cpu.weight", weight)?;
    Ok(true)
}

fn write_and_verify(group: &Cgroup, file: &str, value: &str) -> Result<(), Error> {
    group.write(file, value)?;
    let now = group.read(file)?.unwrap_or_default();
    if now == value {
        return Ok(());
    }
    let wanted = "what was just written";
    Err(Error {
        path: group.path().join(file),
        cause: duosuan_cgroup::Cause::Text { text: now, wanted },
    })
}
