//! `cpu.*` and `cpuset.*`.

use std::{fmt, str::FromStr};

use crate::{dir::Cgroup, error::Error};

/// `cpu.stat`. Times in microseconds. What a cgroup without the cpu controller lacks is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuStat {
    /// CPU time used.
    pub usage: u64,
    /// Of that, in user mode.
    pub user: u64,
    /// Of that, in the kernel.
    pub system: u64,
    /// Periods of its `cpu.max` in which something ran.
    pub periods: Option<u64>,
    /// Of these, in which it was stopped.
    pub throttled_periods: Option<u64>,
    /// Time for which it was stopped, summed over CPUs.
    pub throttled: Option<u64>,
}

/// `cpu.max`: how much CPU time in each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuMax {
    /// Microseconds of CPU time; `None` is the kernel's `max`.
    pub quota: Option<u64>,
    /// Length of the period, microseconds.
    pub period: u64,
}

impl fmt::Display for CpuMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.quota {
            Some(quota) => write!(f, "{quota} {}", self.period),
            None => write!(f, "max {}", self.period),
        }
    }
}

impl FromStr for CpuMax {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (quota, period) = text.split_once(' ').ok_or(())?;
        let quota = if quota == "max" {
            None
        } else {
            Some(quota.parse().map_err(|_| ())?)
        };
        Ok(Self {
            quota,
            period: period.parse().map_err(|_| ())?,
        })
    }
}

impl Cgroup {
    /// `cpu.stat`.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is not keyed numbers.
    pub fn cpu_stat(&self) -> Result<Option<CpuStat>, Error> {
        let mut stat = CpuStat::default();
        let mut usage = None;
        let found = self.keyed("cpu.stat", |key, value| match key {
            "usage_usec" => usage = Some(value),
            "user_usec" => stat.user = value,
            "system_usec" => stat.system = value,
            "nr_periods" => stat.periods = Some(value),
            "nr_throttled" => stat.throttled_periods = Some(value),
            "throttled_usec" => stat.throttled = Some(value),
            _ => {}
        })?;
        let Some(()) = found else { return Ok(None) };
        stat.usage = usage.ok_or_else(|| self.wrong("cpu.stat", "", "a list with usage_usec"))?;
        Ok(Some(stat))
    }

    /// `cpu.max`.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is no quota and period.
    pub fn cpu_max(&self) -> Result<Option<CpuMax>, Error> {
        let Some(text) = self.read("cpu.max")? else {
            return Ok(None);
        };
        text.parse()
            .map(Some)
            .map_err(|()| self.wrong("cpu.max", &text, "a quota or max, and a period"))
    }

    /// Writes `cpu.max`.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn set_cpu_max(&self, max: CpuMax) -> Result<(), Error> {
        self.write("cpu.max", &max.to_string())
    }

    /// `cpu.max.burst`, microseconds.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is no number.
    pub fn cpu_max_burst(&self) -> Result<Option<u64>, Error> {
        self.number("cpu.max.burst")
    }

    /// `cpu.weight`: 1 to 10000, or 0 while `cpu.idle` is set.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is no number.
    pub fn cpu_weight(&self) -> Result<Option<u64>, Error> {
        self.number("cpu.weight")
    }

    /// Writes `cpu.weight`, 1 to 10000.
    ///
    /// # Errors
    ///
    /// If the kernel refuses: it does so for any weight while `cpu.idle` is set.
    pub fn set_cpu_weight(&self, weight: u64) -> Result<(), Error> {
        self.write("cpu.weight", &weight.to_string())
    }

    /// `cpu.idle`; kernels before 5.15 lack it.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is neither 0 nor 1.
    pub fn cpu_idle(&self) -> Result<Option<bool>, Error> {
        match self.number("cpu.idle")? {
            None => Ok(None),
            Some(0) => Ok(Some(false)),
            Some(1) => Ok(Some(true)),
            Some(other) => Err(self.wrong("cpu.idle", &other.to_string(), "0 or 1")),
        }
    }

    /// Writes `cpu.idle`. Setting it back to false leaves `cpu.weight` at 100, whatever it was before.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn set_cpu_idle(&self, idle: bool) -> Result<(), Error> {
        self.write("cpu.idle", if idle { "1" } else { "0" })
    }

    /// `cpuset.cpus` as written: empty if it inherits.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn cpuset_cpus(&self) -> Result<Option<String>, Error> {
        self.read("cpuset.cpus")
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

    fn with(file: &str, text: &str) -> (tempfile::TempDir, Cgroup) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(file), text).unwrap();
        let c = Cgroup::open(dir.path()).unwrap();
        (dir, c)
    }

    #[test]
    fn cpu_stat_is_read_and_unknown_keys_are_passed_over() {
        let text =
            "usage_usec 10\nuser_usec 7\nsystem_usec 3\nnr_periods 2\nnr_throttled 1\nthrottled_usec 4\nnew_key 9\n";
        let (_dir, c) = with("cpu.stat", text);
        let expected = CpuStat {
            usage: 10,
            user: 7,
            system: 3,
            periods: Some(2),
            throttled_periods: Some(1),
            throttled: Some(4),
        };
        assert_eq!(c.cpu_stat().unwrap(), Some(expected));
    }

    #[test]
    fn a_cgroup_without_the_controller_has_usage_alone() {
        let (_dir, c) = with("cpu.stat", "usage_usec 10\nuser_usec 7\nsystem_usec 3\n");
        assert_eq!(c.cpu_stat().unwrap().unwrap().throttled, None);
    }

    #[test]
    fn a_truncated_line_is_named() {
        let (_dir, c) = with("cpu.stat", "usage_usec 10\nuser_us");
        let error = c.cpu_stat().unwrap_err().to_string();
        assert!(
            error.ends_with("cpu.stat: \"user_us\" is not a key and a whole number"),
            "{error}"
        );
    }

    #[test]
    fn max_is_no_number() {
        let (_dir, c) = with("cpu.max", "max 100000\n");
        assert_eq!(
            c.cpu_max().unwrap(),
            Some(CpuMax {
                quota: None,
                period: 100_000
            })
        );
        c.set_cpu_max(CpuMax {
            quota: Some(5_000),
            period: 50_000,
        })
        .unwrap();
        assert_eq!(
            c.cpu_max().unwrap(),
            Some(CpuMax {
                quota: Some(5_000),
                period: 50_000
            })
        );
        let (_dir, c) = with("cpu.max", "lots\n");
        assert!(
            c.cpu_max()
                .unwrap_err()
                .to_string()
                .contains("\"lots\" is not a quota or max")
        );
    }

    #[test]
    fn what_old_kernels_lack_is_none() {
        let (_dir, c) = with("cpu.weight", "39\n");
        assert_eq!(c.cpu_weight().unwrap(), Some(39));
        assert_eq!(c.cpu_idle().unwrap(), None);
        assert_eq!(c.cpu_max_burst().unwrap(), None);
        assert_eq!(c.cpu_stat().unwrap(), None);
        assert_eq!(c.cpuset_cpus().unwrap(), None);
    }

    #[test]
    fn idle_is_yes_or_no() {
        let (_dir, c) = with("cpu.idle", "0\n");
        assert_eq!(c.cpu_idle().unwrap(), Some(false));
        c.set_cpu_idle(true).unwrap();
        assert_eq!(c.cpu_idle().unwrap(), Some(true));
        let (_dir, c) = with("cpu.idle", "2\n");
        assert!(c.cpu_idle().is_err());
    }
}
