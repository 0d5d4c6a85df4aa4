//! `/proc`: the whole node.

use std::path::{Path, PathBuf};

use crate::{
    dir::{Cgroup, text_of},
    error::{Cause, Error},
    pressure::{self, Pressure},
};

/// `/proc`, or a folder that looks like it.
#[derive(Debug)]
pub struct Proc {
    root: PathBuf,
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
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// `/proc/stat`.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or has no line for the CPUs.
    pub fn cpu_time(&self) -> Result<CpuTime, Error> {
        let (path, text) = self.text("stat")?;
        let mut busy = None;
        let mut cpus = 0;
        for line in text.lines().take_while(|l| l.starts_with("cpu")) {
            if !line.starts_with("cpu ") {
                cpus += 1;
                continue;
            }
            let wrong = || Error {
                path: path.clone(),
                cause: Cause::Text {
                    text: line.to_owned(),
                    wanted: "the CPU times of the node",
                },
            };
            let ticks: Vec<u64> = line
                .split_ascii_whitespace()
                .skip(1)
                .map(|word| word.parse().map_err(|_| wrong()))
                .collect::<Result<_, _>>()?;
            // user nice system idle iowait irq softirq steal guest guest_nice; guest is in user already.
            let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks.as_slice() else {
                return Err(wrong());
            };
            busy = Some((user + nice + system + irq + softirq).saturating_mul(TICK));
        }
        let busy = busy.ok_or(Error {
            path,
            cause: Cause::Text {
                text: text.lines().next().unwrap_or_default().to_owned(),
                wanted: "the line of all CPUs",
            },
        })?;
        Ok(CpuTime { busy, cpus })
    }

    /// `/proc/meminfo`.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or lacks what is used.
    pub fn meminfo(&self) -> Result<MemInfo, Error> {
        let (path, text) = self.text("meminfo")?;
        let find = |key: &'static str| {
            let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
            let kib = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
            kib.map(|kib| kib.saturating_mul(1024)).ok_or_else(|| Error {
                path: path.clone(),
                cause: Cause::Text {
                    text: line.unwrap_or_default().to_owned(),
                    wanted: key,
                },
            })
        };
        Ok(MemInfo {
            total: find("MemTotal")?,
            available: find("MemAvailable")?,
        })
    }

    /// `/proc/pressure/RESOURCE`: `cpu`, `memory`, `io`. `None` without pressure accounting.
    ///
    /// # Errors
    ///
    /// If it is there and cannot be read, or is no pressure.
    pub fn pressure(&self, resource: &str) -> Result<Option<Pressure>, Error> {
        let Ok(folder) = Cgroup::open(&self.root.join("pressure")) else {
            return Ok(None);
        };
        let Some(text) = folder.read(resource)? else {
            return Ok(None);
        };
        pressure::parse(&text)
            .map(Some)
            .map_err(|line| folder.wrong(resource, &line, "a line of pressure"))
    }

    fn text(&self, file: &str) -> Result<(PathBuf, String), Error> {
        let path = self.root.join(file);
        let fail = |errno| crate::dir::failure(&path, "open", errno);
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).map_err(fail)?;
        let text = text_of(&fd, &path)?.unwrap_or_default();
        Ok((path, text))
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
        let proc = Proc::new(dir.path());
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
    }

    #[test]
    fn what_is_not_there_or_broken_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).unwrap();
        let proc = Proc::new(dir.path());
        assert!(proc.cpu_time().unwrap_err().to_string().contains("stat: open"));
        put("stat", "cpu  10 1\n");
        assert!(
            proc.cpu_time()
                .unwrap_err()
                .to_string()
                .contains("\"cpu  10 1\" is not the CPU times")
        );
        put("meminfo", "MemTotal: 2048 kB\n");
        assert!(proc.meminfo().unwrap_err().to_string().contains("is not MemAvailable"));
    }

    #[test]
    fn this_kernel_is_read() {
        let proc = Proc::new(Path::new("/proc"));
        assert!(proc.cpu_time().unwrap().cpus > 0);
        assert!(proc.meminfo().unwrap().total > 0);
    }
}
