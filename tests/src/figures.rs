//! What the tests on a real kernel measure, for `tests/vm/run`.

use std::{cell::RefCell, env, fs::File, io::Write, thread};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::vm::Vm;

/// Names the file into which each test writes a line. Without it they write nothing.
pub const FILE: &str = "DUOSUAN_VM_FIGURES";
/// Ticks of a second in which `/proc` counts: `USER_HZ`, the same on all architectures.
const TICKS: f64 = 100.0;

/// Figures of a case; what a case does not measure is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Most memory that the agent had resident, MiB.
    pub rss_mib: Option<f64>,
    /// CPU time of the agent by the time that it ran, percent of one emulated CPU.
    pub cpu_percent: Option<f64>,
    /// Time from the start of a spike of online load to batch's limit in the kernel, milliseconds: the median.
    pub spike_to_suppressed_ms_p50: Option<f64>,
    /// The 99th percentile of that; the longest where there are fewer than a hundred.
    pub spike_to_suppressed_ms_p99: Option<f64>,
    /// The 99th percentile of the online service's latency beside batch by the one without batch: the median of the runs.
    pub online_p99_ratio: Option<f64>,
    /// The lowest and the highest of the runs.
    pub online_p99_ratio_range: Option<[f64; 2]>,
    /// The same where no agent acts: the median of the runs.
    pub online_p99_ratio_without_agent: Option<f64>,
    /// The node's CPU in use while that was measured, percent.
    pub node_cpu_percent: Option<f64>,
    /// Whether every setting was as before each time that the agent had ended, or was killed and followed by another.
    pub restored: Option<bool>,
}

/// A line of the file: the figures of a test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The test's function.
    pub test: String,
    /// What it measured.
    #[serde(flatten)]
    pub figures: Figures,
}

/// The figures of a running test. Dropped, it appends its line where somebody asks for it.
#[derive(Debug, Default)]
pub struct Recorder {
    taken: RefCell<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    figures: Figures,
    /// CPU time and time of the agents that have ended, seconds.
    cpu: f64,
    age: f64,
}

impl Recorder {
    /// Takes down what an agent has used that is about to end.
    ///
    /// # Errors
    ///
    /// If it has ended already.
    pub fn ends(&self, vm: &Vm, agent: &str) -> Result<()> {
        let used = Usage::of(vm, agent)?;
        let mut taken = self.taken.borrow_mut();
        taken.cpu += used.cpu;
        taken.age += used.age;
        let percent = taken.cpu / taken.age.max(f64::MIN_POSITIVE) * 100.0;
        let figures = &mut taken.figures;
        figures.cpu_percent = Some(percent);
        figures.rss_mib = Some(figures.rss_mib.map_or(used.peak_mib, |most| most.max(used.peak_mib)));
        Ok(())
    }

    /// Takes down whether everything is as before.
    pub fn restored(&self, restored: bool) {
        self.measure(|figures| figures.restored = Some(restored && figures.restored.unwrap_or(true)));
    }

    /// Takes down what the test itself measures.
    pub fn measure(&self, take: impl FnOnce(&mut Figures)) {
        take(&mut self.taken.borrow_mut().figures);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // Without its line the figures are absent, and that is said.
        let _ = append(&self.taken.borrow().figures);
    }
}

fn append(figures: &Figures) -> Result<()> {
    let Some(file) = env::var_os(FILE) else { return Ok(()) };
    let line = Line {
        // The test harness names a thread by its test.
        test: thread::current().name().unwrap_or_default().to_owned(),
        figures: figures.clone(),
    };
    let text = serde_json::to_string(&line)? + "\n";
    let mut file = File::options().create(true).append(true).open(file)?;
    Ok(file.write_all(text.as_bytes())?)
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Most memory that it had resident, MiB.
    pub peak_mib: f64,
    /// Memory that it has resident now, MiB.
    pub resident_mib: f64,
    /// CPU time, seconds.
    pub cpu: f64,
    /// Time since its start, seconds.
    pub age: f64,
}

impl Usage {
    /// Asks the guest's kernel.
    ///
    /// # Errors
    ///
    /// If the process has ended.
    pub fn of(vm: &Vm, process: &str) -> Result<Self> {
        let text = vm.run(&format!(
            "awk '/^VmHWM|^VmRSS/ {{print $2}}' /proc/{process}/status && awk '{{print $14 + $15, $22}}' /proc/{process}/stat &&
             cut -d' ' -f1 /proc/uptime"
        ))?;
        let mut numbers = text.split_whitespace().map(str::parse::<f64>);
        let mut next = || numbers.next().with_context(|| format!("process {process}: {text:?}"));
        let (peak, resident, cpu, start, now) = (next()??, next()??, next()??, next()??, next()??);
        Ok(Self {
            peak_mib: peak / 1024.0,
            resident_mib: resident / 1024.0,
            cpu: cpu / TICKS,
            age: now - start / TICKS,
        })
    }
}

/// The value that so many percent of `values` are not above; 0 of none. By nearest rank.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(
            [1, 50, 99, 100].map(|p| percentile(&values, p)),
            [2.0, 100.0, 198.0, 200.0]
        );
        assert_eq!([50, 99].map(|p| percentile(&[7.0, 3.0, 5.0], p)), [5.0, 7.0]);
        assert_eq!(percentile(&[], 99), 0.0);
    }
}
