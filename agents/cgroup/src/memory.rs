//! `memory.*`.

use std::fmt;

use crate::{dir::Cgroup, error::Error};

/// A limit in bytes, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Bytes.
    Bytes(u64),
    /// The kernel's `max`.
    Max,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Max => f.write_str("max"),
        }
    }
}

/// `memory.stat`, the part of it that is used. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStat {
    /// Anonymous memory.
    pub anon: u64,
    /// Page cache, shared memory and tmpfs included.
    pub file: u64,
    /// Of that, shared memory and tmpfs: without swap the kernel cannot drop it.
    pub shmem: u64,
    /// Page cache that was not used lately.
    pub inactive_file: u64,
    /// Kernel memory that can be given back.
    pub slab_reclaimable: u64,
}

/// `memory.events`: counts since the cgroup's birth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEvents {
    /// Reclaimed although under `memory.low`.
    pub low: u64,
    /// Throttled over `memory.high`.
    pub high: u64,
    /// Stopped at `memory.max`.
    pub max: u64,
    /// Ran out of memory.
    pub oom: u64,
    /// Processes killed for that.
    pub oom_kill: u64,
}

impl MemoryStat {
    /// What the kernel can take back without swapping, bytes.
    pub const fn reclaimable(&self) -> u64 {
        self.file
            .saturating_sub(self.shmem)
            .saturating_add(self.slab_reclaimable)
    }
}

impl Cgroup {
    /// `memory.current`, bytes.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is no number.
    pub fn memory_current(&self) -> Result<Option<u64>, Error> {
        self.number("memory.current")
    }

    /// `memory.stat`.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is not keyed numbers.
    pub fn memory_stat(&self) -> Result<Option<MemoryStat>, Error> {
        let mut stat = MemoryStat::default();
        let found = self.keyed("memory.stat", |key, value| match key {
            "anon" => stat.anon = value,
            "file" => stat.file = value,
            "shmem" => stat.shmem = value,
            "inactive_file" => stat.inactive_file = value,
            "slab_reclaimable" => stat.slab_reclaimable = value,
            _ => {}
        })?;
        Ok(found.map(|()| stat))
    }

    /// `memory.events`.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is not keyed numbers.
    pub fn memory_events(&self) -> Result<Option<MemoryEvents>, Error> {
        let mut events = MemoryEvents::default();
        let found = self.keyed("memory.events", |key, value| match key {
            "low" => events.low = value,
            "high" => events.high = value,
            "max" => events.max = value,
            "oom" => events.oom = value,
            "oom_kill" => events.oom_kill = value,
            _ => {}
        })?;
        Ok(found.map(|()| events))
    }

    /// `memory.min`: never reclaimed below it.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is neither a number nor `max`.
    pub fn memory_min(&self) -> Result<Option<Limit>, Error> {
        self.limit("memory.min")
    }

    /// `memory.low`: reclaimed below it only for want of anything else.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is neither a number nor `max`.
    pub fn memory_low(&self) -> Result<Option<Limit>, Error> {
        self.limit("memory.low")
    }

    /// `memory.high`: throttled and reclaimed above it.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is neither a number nor `max`.
    pub fn memory_high(&self) -> Result<Option<Limit>, Error> {
        self.limit("memory.high")
    }

    /// `memory.max`.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is neither a number nor `max`.
    pub fn memory_max(&self) -> Result<Option<Limit>, Error> {
        self.limit("memory.max")
    }

    /// Writes `memory.high`.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn set_memory_high(&self, limit: Limit) -> Result<(), Error> {
        self.write("memory.high", &limit.to_string())
    }

    /// Writes `memory.low`.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn set_memory_low(&self, limit: Limit) -> Result<(), Error> {
        self.write("memory.low", &limit.to_string())
    }

    /// Asks the kernel to reclaim so many bytes now, and waits for it; false if it found less than that to reclaim.
    ///
    /// # Errors
    ///
    /// If the kernel does not know how, or refuses.
    pub fn reclaim(&self, bytes: u64) -> Result<bool, Error> {
        match self.write("memory.reclaim", &bytes.to_string()) {
            Ok(()) => Ok(true),
            Err(error) if error.is_again() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn limit(&self, file: &'static str) -> Result<Option<Limit>, Error> {
        match self.read(file)?.as_deref() {
            None => Ok(None),
            Some("max") => Ok(Some(Limit::Max)),
            Some(text) => text
                .parse()
                .map(|b| Some(Limit::Bytes(b)))
                .map_err(|_| self.wrong(file, text, "bytes or max")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "tests"
    )]
    use super::*;

    #[test]
    fn memory_files_are_read_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).unwrap();
        put("memory.current", "4096\n");
        put("memory.high", "max\n");
        put("memory.low", "1024\n");
        put(
            "memory.stat",
            "anon 1\nfile 5\nshmem 1\nkernel 9\ninactive_file 3\nslab_reclaimable 2\n",
        );
        put(
            "memory.events",
            "low 0\nhigh 3\nmax 0\noom 0\noom_kill 1\noom_group_kill 0\n",
        );
        let c = Cgroup::open(dir.path()).unwrap();
        assert_eq!(c.memory_current().unwrap(), Some(4096));
        assert_eq!(c.memory_high().unwrap(), Some(Limit::Max));
        assert_eq!(c.memory_low().unwrap(), Some(Limit::Bytes(1024)));
        assert_eq!(c.memory_min().unwrap(), None);
        let stat = MemoryStat {
            anon: 1,
            file: 5,
            shmem: 1,
            inactive_file: 3,
            slab_reclaimable: 2,
        };
        assert_eq!(c.memory_stat().unwrap(), Some(stat));
        assert_eq!(stat.reclaimable(), 6);
        assert_eq!(
            c.memory_events().unwrap(),
            Some(MemoryEvents {
                high: 3,
                oom_kill: 1,
                ..Default::default()
            })
        );
        c.set_memory_high(Limit::Bytes(8192)).unwrap();
        assert_eq!(c.memory_high().unwrap(), Some(Limit::Bytes(8192)));
    }

    #[test]
    fn a_limit_that_is_no_limit_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("memory.max"), "-1\n").unwrap();
        let error = Cgroup::open(dir.path()).unwrap().memory_max().unwrap_err().to_string();
        assert!(error.ends_with("memory.max: \"-1\" is not bytes or max"), "{error}");
    }
}
