//! What the kernel refused to be set. One cgroup's setting is tried again after half a minute. Where the kernel refuses a
//! file in every cgroup in which it is wanted, it cannot do what the file is for: that is taken off its capabilities for some
//! minutes, so that the guard says so and does not claim to limit anybody.

use std::collections::{BTreeMap, BTreeSet};

use duosuan_cgroup::Error;
use duosuan_policy::Millis;
use rustix::io::Errno;

use super::slot;
use crate::journal::Key;

/// What was refused in one place is tried again after this long.
pub(super) const RETRY_AFTER: Millis = 30_000;
/// A file that is refused everywhere is tried again after this long.
const DENIED_FOR: Millis = 120_000;

/// A want of file descriptors or of memory passes, and says nothing of the file.
pub(super) const PASSING: [Errno; 6] = [
    Errno::AGAIN,
    Errno::INTR,
    Errno::MFILE,
    Errno::NFILE,
    Errno::NOMEM,
    Errno::NOBUFS,
];
/// What one cgroup is, others are not: a threaded one cannot be killed as a whole.
const OF_ONE: Errno = Errno::OPNOTSUPP;

/// A refusal.
#[derive(Debug)]
struct Refusal {
    at: Millis,
    errno: Option<Errno>,
    message: String,
}

/// What is refused.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    settings: BTreeMap<Key, Refusal>,
    /// By file; those whose time is over are kept, so that the same is not told again.
    files: BTreeMap<String, Refusal>,
    /// Files of which a setting was refused since they were judged last.
    unjudged: BTreeSet<String>,
}

impl Refusals {
    /// Whether it is too early to try a setting again.
    pub(super) fn holds_off(&self, key: &Key, now: Millis) -> bool {
        let refusal = self.settings.get(key);
        refusal.is_some_and(|r| now.saturating_sub(r.at) < RETRY_AFTER)
    }

    /// Takes note of a refusal. True if it is news: the same answer to the same setting is not, nor is that of a file that is
    /// known to be refused.
    pub(super) fn note(&mut self, key: &Key, error: &Error, at: Millis) -> bool {
        let errno = error.errno();
        let file = slot::file(&key.1);
        let same = |known: Option<&Refusal>| known.is_some_and(|r| r.errno == errno);
        let known = same(self.settings.get(key)) || same(self.files.get(file));
        let message = error.to_string();
        self.settings.insert(key.clone(), Refusal { at, errno, message });
        // Nor does a text that reads back otherwise say anything of the file.
        if errno.is_some_and(|errno| !PASSING.contains(&errno)) {
            self.unjudged.insert(file.to_owned());
        }
        !known
    }

    /// Takes note that a whole file is refused, unless that passes or is said of one cgroup. True if it is news.
    pub(super) fn deny(&mut self, file: &str, errno: Option<Errno>, message: &str, at: Millis) -> bool {
        if errno.is_some_and(|errno| errno == OF_ONE || PASSING.contains(&errno)) {
            return true;
        }
        let message = message.to_owned();
        let refusal = Refusal { at, errno, message };
        self.files.insert(file.to_owned(), refusal).is_none()
    }

    /// Takes note that a setting holds.
    pub(super) fn holds(&mut self, key: &Key) {
        if self.settings.is_empty() && self.files.is_empty() {
            return;
        }
        self.settings.remove(key);
        if self.files.remove(slot::file(&key.1)).is_some() {
            tracing::info!(path = %key.0, file = %key.1, "the kernel takes it again");
        }
    }

    /// Finds the files that are refused in each cgroup in which they are wanted, and forgets settings that are not.
    /// `is_wanted` says of one setting what `wanted` goes through: it is asked once for each that is refused.
    pub(super) fn judge<'a>(
        &mut self,
        wanted: impl Iterator<Item = (&'a str, &'a str)> + Clone,
        is_wanted: impl Fn(&Key) -> bool,
    ) {
        for file in std::mem::take(&mut self.unjudged) {
            let mut places = wanted.clone().filter(|(_, slot)| slot::file(slot) == file).peekable();
            let refusal = |(path, slot): (&str, &str)| self.settings.get(&(path.to_owned(), slot.to_owned()));
            let first = places.peek().copied().and_then(refusal);
            let Some(first) = first.filter(|_| places.all(|place| refusal(place).is_some())) else {
                continue;
            };
            let refusal = Refusal {
                at: first.at,
                errno: first.errno,
                message: first.message.clone(),
            };
            self.files.insert(file, refusal);
        }
        self.settings.retain(|key, _| is_wanted(key));
    }

    /// Files that are refused now, and how.
    pub(super) fn denied(&self, now: Millis) -> impl Iterator<Item = (&str, &str)> {
        let files = self.files.iter();
        files
            .filter(move |(_, refusal)| now.saturating_sub(refusal.at) < DENIED_FOR)
            .map(|(file, refusal)| (file.as_str(), refusal.message.as_str()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::{cell::Cell, path::Path};

    use duosuan_cgroup::Cause;
    use duosuan_policy::{Action, Observation};

    use super::*;
    use crate::{
        kernel::{Kernel, Roots},
        machine::Machine,
    };

    const PLACE: &str = "kubepods/besteffort";

    /// A node whose one cgroup is that of besteffort pods.
    fn kernel(dir: &Path) -> Kernel {
        let put = |file: &str, text: &str| {
            let path = dir.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("cgroup/cgroup.controllers", "cpu memory");
        put("cgroup/kubepods/besteffort/cpu.max", "max 100000");
        put("cgroup/kubepods/besteffort/memory.high", "max");
        put("proc/stat", "cpu  1 0 1 9 0 0 0 0 0 0\ncpu0 1 0 1 9 0 0 0 0 0 0\n");
        put(
            "proc/meminfo",
            "MemTotal: 1000 kB\nMemFree: 500 kB\nMemAvailable: 500 kB\n",
        );
        let roots = Roots {
            cgroup: dir.join("cgroup"),
            proc: dir.join("proc"),
            journal: dir.join("journal"),
            sys: dir.join("sys"),
            network: false,
        };
        Kernel::open(&roots).unwrap()
    }

    fn cut() -> Action {
        Action {
            path: PLACE.to_owned(),
            file: "cpu.max".to_owned(),
            value: "50000 100000".to_owned(),
            why: "cut batch".to_owned(),
        }
    }

    fn refusal(kernel: &Kernel, errno: Errno) -> Error {
        Error {
            path: kernel.group(PLACE).unwrap().path().join("cpu.max"),
            cause: Cause::Kernel {
                action: "write \"50000 100000\"".to_owned(),
                errno,
            },
        }
    }

    /// Guards went on to say that they cut batch, and the same refusal was logged every half minute.
    #[test]
    fn what_the_kernel_refuses_is_told_once_counted_each_time_and_taken_off_what_it_can_do_for_some_minutes() {
        for errno in [Errno::PERM, Errno::BUSY, Errno::NODEV, Errno::NOSPC, Errno::INVAL] {
            let dir = tempfile::tempdir().unwrap();
            let mut kernel = kernel(dir.path());
            let value = || std::fs::read_to_string(dir.path().join("cgroup").join(PLACE).join("cpu.max")).unwrap();
            let mut seen = Observation::default();
            kernel.observe(&[], 0, &mut seen);
            assert!(kernel.capabilities().cpu_max);
            let key = (PLACE.to_owned(), "cpu.max".to_owned());
            let error = refusal(&kernel, errno);
            let told = kernel.refuse(&key, None, &error).unwrap_err();
            assert_eq!(told, error.to_string());
            assert_eq!(kernel.act(&[cut()]).written, 0, "it is not asked the same at once");
            kernel.observe(&[], 0, &mut seen);
            let capabilities = kernel.capabilities();
            assert!(!capabilities.cpu_max && capabilities.memory_high, "{errno}");
            assert_eq!(capabilities.refused.get("cpu.max"), Some(&error.to_string()));
            // Looks come fast where somebody stalls: it is time that has to pass.
            for look in 0..1_200 {
                kernel.act(&[]);
                kernel.observe(&[], look * 99, &mut seen);
                assert!(!kernel.capabilities().cpu_max, "{errno}");
            }
            kernel.act(&[]);
            kernel.observe(&[], DENIED_FOR, &mut seen);
            assert!(kernel.capabilities().cpu_max && kernel.capabilities().refused.is_empty());
            // The same answer to the next attempt is counted and not told; one that is taken ends it.
            assert_eq!(kernel.refuse(&key, None, &error), Ok(()));
            let failed = kernel.act(&[cut()]).failed;
            assert_eq!(failed.iter().map(|f| f.file.as_str()).collect::<Vec<_>>(), ["cpu.max"]);
            kernel.observe(&[], 2 * DENIED_FOR, &mut seen);
            assert_eq!((kernel.act(&[cut()]).written, value().as_str()), (1, "50000 100000"));
            kernel.observe(&[], 0, &mut seen);
            assert!(kernel.capabilities().cpu_max);
            assert!(
                kernel.refuse(&key, None, &error).is_err(),
                "told anew after it had worked"
            );
        }
    }

    #[test]
    fn a_cgroup_that_is_gone_or_a_want_that_passes_takes_no_capability() {
        let dir = tempfile::tempdir().unwrap();
        let mut kernel = kernel(dir.path());
        let mut seen = Observation::default();
        let key = (PLACE.to_owned(), "cpu.max".to_owned());
        kernel.observe(&[], 0, &mut seen);
        let error = refusal(&kernel, Errno::MFILE);
        assert!(kernel.refuse(&key, None, &error).is_err());
        kernel.act(&[cut()]);
        kernel.observe(&[], 0, &mut seen);
        assert!(kernel.capabilities().cpu_max);
        let error = refusal(&kernel, Errno::NODEV);
        std::fs::remove_dir_all(dir.path().join("cgroup/kubepods")).unwrap();
        assert_eq!(kernel.refuse(&key, None, &error), Ok(()));
        assert_eq!(kernel.failed, []);
    }

    fn refused(errno: Errno) -> Error {
        Error {
            path: "a/memory.low".into(),
            cause: Cause::Kernel {
                action: "write".to_owned(),
                errno,
            },
        }
    }

    #[test]
    fn one_cgroup_that_refuses_beside_one_that_takes_it_takes_no_capability() {
        let mut refusals = Refusals::default();
        let error = refused(Errno::INVAL);
        let wanted = [("a", "memory.low"), ("b", "memory.low"), ("a", "io.max 8:0")];
        let is_wanted = |(path, file): &Key| wanted.contains(&(path, file));
        assert!(refusals.note(&("a".to_owned(), "memory.low".to_owned()), &error, 1_000));
        refusals.judge(wanted.into_iter(), is_wanted);
        assert_eq!(refusals.denied(1_000).count(), 0);
        assert!(refusals.note(&("b".to_owned(), "memory.low".to_owned()), &error, 2_000));
        refusals.judge(wanted.into_iter(), is_wanted);
        assert_eq!(refusals.denied(2_000).collect::<Vec<_>>().len(), 1);
        assert!(refusals.holds_off(&("a".to_owned(), "memory.low".to_owned()), 30_999));
        assert!(!refusals.holds_off(&("a".to_owned(), "memory.low".to_owned()), 31_000));
    }

    /// One threaded cgroup that could not be killed as a whole kept all others from being killed for two minutes.
    #[test]
    fn what_one_cgroup_cannot_be_is_said_of_it_alone() {
        let mut refusals = Refusals::default();
        assert!(refusals.deny("cgroup.kill", Some(Errno::OPNOTSUPP), "a/cgroup.kill: threaded", 0));
        assert_eq!(refusals.denied(0).count(), 0);
        assert!(refusals.deny("cgroup.kill", Some(Errno::PERM), "a/cgroup.kill: no", 0));
        assert_eq!(refusals.denied(0).count(), 1);
    }

    /// Each refused setting was looked for among all that were wanted.
    #[test]
    fn a_judgement_asks_once_for_each_setting_and_goes_through_them_once_for_each_file() {
        let mut refusals = Refusals::default();
        let paths: Vec<String> = (0..500).map(|n| format!("kubepods/pod{n}")).collect();
        let error = refused(Errno::INVAL);
        for path in &paths {
            refusals.note(&(path.clone(), "memory.low".to_owned()), &error, 0);
        }
        let (gone_through, asked) = (Cell::new(0), Cell::new(0));
        let wanted = paths.iter().map(|path| {
            gone_through.set(gone_through.get() + 1);
            (path.as_str(), "memory.low")
        });
        refusals.judge(wanted, |_| {
            asked.set(asked.get() + 1);
            true
        });
        assert_eq!(refusals.denied(0).count(), 1);
        // The first of them is seen twice.
        assert!(gone_through.get() <= paths.len() + 1, "{}", gone_through.get());
        assert_eq!(asked.get(), paths.len());
    }
}
