//! Putting back what was changed: the value that was found, unless somebody else has written there since.

use std::time::Duration;

use duosuan_cgroup::{Cgroup, Error};
use duosuan_policy::network::NETWORK;
use rustix::io::Errno;

use super::{Kernel, cache, network, slot};
use crate::{
    fault::{self, Point},
    journal::Entry,
    machine::Acted,
};

/// The file with the CPUs that a cgroup may use.
const CPUSET: &str = "cpuset.cpus";
/// How long the end waits for a write that the kernel is at work on. What it sets is set at its beginning.
const SETTLE: Duration = Duration::from_millis(500);

impl Kernel {
    /// Puts everything back that was changed.
    pub(super) fn put_all_back(&mut self) -> Acted {
        self.slow.settle(SETTLE);
        self.pending.clear();
        let mut acted = self.act_on(&[]);
        match self.settle_network() {
            Ok(written) => acted.written += u64::from(written),
            Err(message) => self.fail(NETWORK, message),
        }
        self.take_leave();
        acted
    }

    /// Writes the old value back, unless somebody else has written there since, or the cgroup is gone.
    pub(super) fn put_back(&mut self, entry: &Entry) -> Result<bool, String> {
        if cache::is_group(entry) {
            return self.give_up_group();
        }
        if network::is_ours(entry) {
            return self.release(entry);
        }
        let key = entry.key();
        let restored = match self.group(&entry.path) {
            Ok(group) if group.identity().is_ok_and(|i| i == entry.identity()) => match restore(&group, entry) {
                Err(error) if error.errno() == Some(Errno::NOSPC) && key.1 == CPUSET && entry.old.is_empty() => {
                    return self.open_cpus(&group, entry);
                }
                other => other,
            },
            Ok(_) => Ok(Restored::Another),
            Err(error) => Err(error),
        };
        self.opened.remove(&key);
        let restored = match restored {
            Err(error) if error.is_gone() => Restored::Another,
            other => other.map_err(|e| e.to_string())?,
        };
        fault::reach(Point::PutBack);
        let written = restored == Restored::Written;
        if written {
            tracing::info!(path = %entry.path, file = %entry.file, value = %entry.old, "put back");
        }
        let noted = if self.tell_back(entry, &key, restored == Restored::Another) {
            // Until systemd knows, the next agent has to tell it.
            self.journal.set(Entry {
                was: self.may_stand(entry),
                new: entry.old.clone(),
                ..entry.clone()
            })
        } else {
            self.journal.restored(&key)
        };
        noted.map_err(|e| format!("{e:#}"))?;
        fault::reach(Point::Restored);
        Ok(written)
    }

    /// A cgroup in which somebody runs cannot be without CPUs of its own any more once it had some: it gets all that there
    /// are above it, and no list when nobody runs in it.
    fn open_cpus(&mut self, group: &Cgroup, entry: &Entry) -> Result<bool, String> {
        let text = |error: Error| error.to_string();
        let above = entry.path.rsplit_once('/').map_or("", |(above, _)| above);
        let all = self.group(above).and_then(|above| above.read("cpuset.cpus.effective"));
        let all = all.map_err(text)?.unwrap_or_default();
        let key = entry.key();
        self.opened.insert(key, self.now);
        if group.read(CPUSET).map_err(text)?.as_ref() == Some(&all) {
            return Ok(false);
        }
        // The journal keeps it: an agent after this one would take the list for somebody's choice.
        let entry = Entry {
            was: self.may_stand(entry),
            new: all.clone(),
            ..entry.clone()
        };
        self.journal.set(entry).map_err(|e| format!("{e:#}"))?;
        slot::write(group, CPUSET, &all).map_err(text)?;
        tracing::info!(path = %group.path().display(), file = CPUSET, value = %all, "given all CPUs: the kernel takes no empty list while it is in use");
        Ok(true)
    }
}

/// What became of a setting that is to be put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Restored {
    /// The old value was written.
    Written,
    /// It was there already.
    Found,
    /// What is there now is somebody else's, or another cgroup's.
    Another,
}

/// Writes the old value, where that is needed.
fn restore(group: &Cgroup, entry: &Entry) -> Result<Restored, Error> {
    let Some(current) = slot::read(group, &entry.file)? else {
        return Ok(Restored::Another);
    };
    if current == entry.old {
        // The crash came between the journal and the kernel, or somebody did it for us. The weight may still be off.
        return restore_weight(group, entry, Restored::Found);
    }
    if current != entry.new && !entry.was.contains(&current) {
        tracing::warn!(path = %entry.path, file = %entry.file, %current, "somebody else has written here since: left as it is");
        return Ok(Restored::Another);
    }
    slot::write(group, &entry.file, &entry.old)?;
    restore_weight(group, entry, Restored::Written)
}

/// `cpu.idle` set back to 0 leaves `cpu.weight` at 100, whatever it was before.
fn restore_weight(group: &Cgroup, entry: &Entry, restored: Restored) -> Result<Restored, Error> {
    const LEFT_BY_IDLE: &str = "100";
    let Some(weight) = entry
        .weight
        .as_deref()
        .filter(|w| *w != LEFT_BY_IDLE && entry.old == "0")
    else {
        return Ok(restored);
    };
    if group.read("cpu.weight")?.as_deref() != Some(LEFT_BY_IDLE) {
        return Ok(restored);
    }
    fault::reach(Point::WeightLost);
    slot::write(group, "cpu.weight", weight)?;
    Ok(Restored::Written)
}
