//! `/proc`: the whole node.

use std::path::Path;

use rustix::io::Errno;

use crate::{
    dir::{Cgroup, failure},
    error::Error,
    pressure::Pressure,
};

/// `/proc`, or a folder that looks like it. Its files are opened once.
#[derive(Debug)]
pub struct Proc {
    root: Cgroup,
    /// Absent without pressure accounting.
    pressure: Option<Cgroup>,
}

/// CPU time of the whole node since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// Busy, over all CPUs, microseconds. Time stolen by a hypervisor is not ours and does not count.
    pub busy: u64,
    /// CPUs that are online.
    pub cpus: u32,
}

/// `/proc/meminfo`, the part of it that is used. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemInfo {
    /// All memory.
    pub total: u64,
    /// What could be had without swapping, by the kernel's estimate.
    pub available: u64,
}

/// Microseconds of one tick of `/proc/stat`: USER_HZ is 100 on every architecture that Kubernetes runs on.
const TICK: u64 = 1_000_000 / 100;

impl Proc {
    /// `root` is `/proc`, or where it is mounted.
    ///
    /// # Errors
    ///
    /// If it is not there.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let root = Cgroup::open(root)?;
        let pressure = root.child("pressure").ok();
        Ok(Self { root, pressure })
    }

    pub(crate) const fn root(&self) -> &Cgroup {
        &self.root
    }

    /// `/proc/stat`.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or has no line for the CPUs.
    pub fn cpu_time(&self) -> Result<CpuTime, Error> {
        self.cpu_times(None)
    }

    /// The same, and calls `each`, if there is one, with the number of each CPU that is online and its busy time, microseconds.
    ///
    /// # Errors
    ///
    /// As [`Proc::cpu_time`].
    pub fn cpu_times(&self, mut each: Option<&mut dyn FnMut(u32, u64)>) -> Result<CpuTime, Error> {
        let time = self.root.read_again("stat", |text| {
            let mut busy = None;
            let mut cpus = 0;
            for line in text.lines().take_while(|l| l.starts_with("cpu")) {
                let Some(ticks) = line.strip_prefix("cpu ") else {
                    cpus += 1;
                    if let Some(each) = &mut each {
                        let one = line.strip_prefix("cpu").and_then(|rest| rest.split_once(' '));
                        let one = one.and_then(|(cpu, ticks)| Some((cpu.parse().ok()?, busy_ticks(ticks)?)));
                        let wrong = || self.root.wrong("stat", line, "the CPU times of a CPU");
                        let (cpu, ticks) = one.ok_or_else(wrong)?;
                        each(cpu, ticks.saturating_mul(TICK));
                    }
                    continue;
                };
                let ticks = busy_ticks(ticks);
                let wrong = || self.root.wrong("stat", line, "the CPU times of the node");
                busy = Some(ticks.ok_or_else(wrong)?.saturating_mul(TICK));
            }
            let wrong = || {
                self.root
                    .wrong("stat", text.lines().next().unwrap_or_default(), "the line of all CPUs")
            };
            Ok(CpuTime {
                busy: busy.ok_or_else(wrong)?,
                cpus,
            })
        })?;
        time.ok_or_else(|| self.missing("stat"))
    }

    /// `/proc/meminfo`.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or lacks what is used.
    pub fn meminfo(&self) -> Result<MemInfo, Error> {
        let info = self.root.read_again("meminfo", |text| {
            let find = |key: &'static str| {
                let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
                let kib = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
                kib.map(|kib| kib.saturating_mul(1024))
                    .ok_or_else(|| self.root.wrong("meminfo", line.unwrap_or_default(), key))
            };
            Ok(MemInfo {
                total: find("MemTotal")?,
                available: find("MemAvailable")?,
            })
        })?;
        info.ok_or_else(|| self.missing("meminfo"))
    }

    /// `/proc/pressure/RESOURCE`: `cpu`, `memory`, `io`. `None` without pressure accounting.
    ///
    /// # Errors
    ///
    /// If it is there and cannot be read, or is no pressure.
    pub fn pressure(&self, resource: &'static str) -> Result<Option<Pressure>, Error> {
        self.pressure
            .as_ref()
            .map_or(Ok(None), |folder| folder.pressure(resource))
    }

    fn missing(&self, file: &str) -> Error {
        failure(&self.root.path().join(file), "open", Errno::NOENT)
    }
}

/// Time that the CPUs were busy, of the line of all of them.
fn busy_ticks(line: &str) -> Option<u64> {
    // user nice system idle iowait irq softirq steal guest guest_nice; guest is in user already.
    const BUSY: [usize; 5] = [0, 1, 2, 5, 6];
    let mut sum = 0_u64;
    let mut words = 0;
    for (at, word) in line.split_ascii_whitespace().enumerate() {
        let ticks: u64 = word.parse().ok()?;
        words = at + 1;
        if BUSY.contains(&at) {
            sum = sum.saturating_add(ticks);
        }
    }
    (words >= 7).then_some(sum)
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
    fn the_node_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).unwrap();
        put(
            "stat",
            "cpu  10 1 5 100 7 1 2 50 3 0\ncpu0 5 1 2 50 3 1 1 25 3 0\ncpu1 5 0 3 50 4 0 1 25 0 0\nintr 5\n",
        );
        put(
            "meminfo",
            "MemTotal:        2048 kB\nMemFree: 1 kB\nMemAvailable:    1024 kB\n",
        );
        let proc = Proc::open(dir.path()).unwrap();
        assert_eq!(
            proc.cpu_time().unwrap(),
            CpuTime {
                busy: 19 * 10_000,
                cpus: 2
            }
        );
        assert_eq!(
            proc.meminfo().unwrap(),
            MemInfo {
                total: 2 << 20,
                available: 1 << 20
            }
        );
        assert_eq!(proc.pressure("cpu").unwrap(), None);
        let mut each = Vec::new();
        proc.cpu_times(Some(&mut |cpu, busy| each.push((cpu, busy)))).unwrap();
        assert_eq!(each, [(0, 10 * 10_000), (1, 9 * 10_000)]);
    }

    #[test]
    fn what_is_not_there_or_broken_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).unwrap();
        let proc = || Proc::open(dir.path()).unwrap();
        assert!(proc().cpu_time().unwrap_err().to_string().contains("stat: open"));
        put("stat", "cpu  10 1\n");
        assert!(
            proc()
                .cpu_time()
                .unwrap_err()
                .to_string()
                .contains("\"cpu  10 1\" is not the CPU times")
        );
        put("meminfo", "MemTotal: 2048 kB\n");
        assert!(
            proc()
                .meminfo()
                .unwrap_err()
                .to_string()
                .contains("is not MemAvailable")
        );
    }

    #[test]
    fn this_kernel_is_read() {
        let proc = Proc::open(Path::new("/proc")).unwrap();
        assert!(proc.cpu_time().unwrap().cpus > 0);
        assert!(proc.meminfo().unwrap().total > 0);
    }
}
