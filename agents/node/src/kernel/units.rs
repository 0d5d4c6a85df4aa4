//! What systemd has to know of the settings, and does not know yet.
//!
//! A setting is written into its file and then told. One that is put back stays in the journal until systemd has been told
//! of that, too: what systemd believes would come back with its next write, when no agent is there any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use duosuan_cgroup::Cgroup;
use duosuan_policy::Millis;

use super::{Kernel, refusals::RETRY_AFTER, systemd::Systemd};
use crate::journal::{Entry, Key};

/// How long the end waits until systemd has been told of everything.
const FAREWELL: Duration = Duration::from_secs(5);

/// systemd, and what is owed to it.
#[derive(Debug)]
pub(super) struct Units {
    systemd: Systemd,
    /// Settings that are put back in their files.
    leaving: BTreeSet<Key>,
    /// Settings that systemd could not be told of, and when it could not.
    failed: BTreeMap<Key, Millis>,
}

impl Units {
    /// Where systemd runs the machine.
    pub(super) fn of(root: &Cgroup) -> Option<Self> {
        Some(Self {
            systemd: Systemd::of(root)?,
            leaving: BTreeSet::new(),
            failed: BTreeMap::new(),
        })
    }

    /// Whether somebody else's value in this cgroup may be systemd's, which is told of ours just now. One that cannot be told
    /// writes as any other does, and that is counted.
    pub(super) fn is_at(&self, path: &str, now: Instant) -> bool {
        self.systemd.is_at(path, now)
    }

    /// Whether a setting is put back and waits for systemd: for its answer, or to be asked again.
    pub(super) fn waits(&self, key: &Key, now: Millis) -> bool {
        self.leaving.contains(key) && !self.is_due(key, now)
    }

    /// Whether systemd could not be told of a setting some time ago.
    pub(super) fn is_due(&self, key: &Key, now: Millis) -> bool {
        self.failed
            .get(key)
            .is_some_and(|at| now.saturating_sub(*at) >= RETRY_AFTER)
    }
}

/// Values that systemd may still write are kept, at most: those of a minute in which a guard moves at each look, or of six seconds
/// in which each spike moves it.
const IN_FLIGHT: usize = 64;

impl Kernel {
    /// The values of ours that may stand in a file when another one is written after `entry`: its own, and before it those that
    /// systemd was told and has not said that it made. One that nobody waits for any more it may still come to.
    pub(super) fn may_stand(&self, entry: &Entry) -> Vec<String> {
        let units = self.units.as_ref();
        let key = entry.key();
        let open = units.is_some_and(|units| units.systemd.is_open(&key) || units.failed.contains_key(&key));
        let told = entry.was.iter().filter(|value| open && **value != entry.new);
        let mut values: Vec<String> = told.chain([&entry.new]).cloned().collect();
        values.drain(..values.len().saturating_sub(IN_FLIGHT));
        values
    }

    /// Tells systemd of a setting that was written.
    pub(super) fn tell(&mut self, entry: &Entry, key: &Key) {
        if let Some(units) = &mut self.units {
            units.leaving.remove(key);
            units.failed.remove(key);
            units.systemd.tell(key, &entry.new, entry.weight.as_deref());
        }
    }

    /// Tells systemd of a setting that was put back, unless it is `another`'s now; false if systemd need not know.
    pub(super) fn tell_back(&mut self, entry: &Entry, key: &Key, another: bool) -> bool {
        let Some(units) = &mut self.units else { return false };
        units.failed.remove(key);
        let told = !another && units.systemd.tell(key, &entry.old, entry.weight.as_deref());
        if told {
            units.leaving.insert(key.clone());
        } else {
            units.leaving.remove(key);
        }
        told
    }

    /// Takes note of what systemd has answered.
    pub(super) fn hear(&mut self) {
        while self.hear_one(Duration::ZERO) {}
    }

    /// Waits until systemd has been told of all that is put back, for a while.
    pub(super) fn take_leave(&mut self) {
        let end = Instant::now() + FAREWELL;
        let waiting = |units: &Units| units.leaving.iter().any(|key| units.systemd.is_open(key));
        while self.units.as_ref().is_some_and(waiting) {
            let left = end.saturating_duration_since(Instant::now());
            if !self.hear_one(left) {
                self.fail("systemd", format!("systemd has not answered for {FAREWELL:?}"));
                return;
            }
        }
    }

    fn hear_one(&mut self, wait: Duration) -> bool {
        let now = self.now;
        let Some(units) = &mut self.units else { return false };
        let Some((key, answer)) = units.systemd.answer(wait) else {
            return false;
        };
        let failed = match answer {
            Ok(()) if units.leaving.remove(&key) => {
                self.journal.restored(&key).err().map(|e| ("journal", format!("{e:#}")))
            }
            Ok(()) => None,
            Err(message) => {
                units.failed.insert(key, now);
                Some(("systemd", message))
            }
        };
        if let Some((file, message)) = failed {
            self.fail(file, message);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use duosuan_policy::Action;

    use super::*;
    use crate::kernel::Roots;

    /// All that was written in the cgroup of a unit that systemd could not be told of was taken for what systemd is about to
    /// put right, and counted by nobody for as long as there was no bus.
    #[test]
    fn what_systemd_writes_that_could_not_be_told_is_counted_as_anybodys() {
        let dir = tempfile::tempdir().unwrap();
        let key: Key = ("batch.slice".to_owned(), "cpu.weight".to_owned());
        let mut units = Units {
            systemd: Systemd::at(format!("unix:path={}/none", dir.path().display())).unwrap(),
            leaving: BTreeSet::new(),
            failed: BTreeMap::new(),
        };
        assert!(units.systemd.tell(&key, "10", None));
        assert!(units.is_at("batch.slice", Instant::now()));
        let (of, answer) = units.systemd.answer(FAREWELL).unwrap();
        assert!(answer.is_err());
        units.failed.insert(of, 0);
        assert!(!units.is_at("batch.slice", Instant::now()));
        // It is told again all the same.
        assert!(units.is_due(&key, RETRY_AFTER) && !units.is_due(&key, RETRY_AFTER - 1));
    }

    /// systemd is told beside the agent, one value after the other: what it is at when the agent is killed it writes later, and the
    /// next agent took that for somebody else's and left it for ever.
    #[test]
    fn what_systemd_may_still_write_of_a_killed_agent_is_put_back_by_the_next_one() {
        const BEFORE: &str = "190000 100000";
        let dir = tempfile::tempdir().unwrap();
        let batch = dir.path().join("cgroup/batch.slice");
        std::fs::create_dir_all(&batch).unwrap();
        std::fs::write(dir.path().join("cgroup/cgroup.controllers"), "cpu\n").unwrap();
        let file = batch.join("cpu.max");
        let open = || {
            let roots = Roots {
                cgroup: dir.path().join("cgroup"),
                proc: "/proc".into(),
                journal: dir.path().join("journal"),
                sys: dir.path().join("sys"),
                network: false,
            };
            Kernel::open(&roots).unwrap()
        };
        let values = ["50000 100000", "40000 100000", "30000 100000"];
        // One that says nothing, and one of whose answer nothing came: it may have heard all the same.
        for (late, answers) in values.into_iter().flat_map(|late| [(late, false), (late, true)]) {
            std::fs::write(&file, BEFORE).unwrap();
            let socket = dir.path().join("bus");
            let _listener = (!answers).then(|| std::os::unix::net::UnixListener::bind(&socket).unwrap());
            let mut killed = open();
            killed.units = Some(Units {
                systemd: Systemd::at(format!("unix:path={}", socket.display())).unwrap(),
                leaving: BTreeSet::new(),
                failed: BTreeMap::new(),
            });
            for value in values {
                let action = Action {
                    path: "batch.slice".into(),
                    file: "cpu.max".into(),
                    value: value.into(),
                    why: "a test".into(),
                };
                assert_eq!(killed.act_on(&[action]).written, 1);
                assert_eq!(answers, answers && killed.hear_one(FAREWELL));
            }
            drop(killed);
            std::fs::write(&file, late).unwrap();
            open().put_all_back();
            assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), BEFORE, "{late}");
            let _ = std::fs::remove_file(&socket);
        }
    }
}
