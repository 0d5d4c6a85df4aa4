//! Rows, and what several runs of a row come to.

use std::time::Duration;

use serde::Serialize;

use crate::{cases::Case, schedulers::Scheduler};

/// One case with one scheduler, once.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) case: Case,
    pub(crate) scheduler: Scheduler,
    /// Which run of several, from 1.
    pub(crate) run: u32,
    pub(crate) nodes: usize,
    pub(crate) pods: usize,
    pub(crate) bound: usize,
    /// From the start of the process to the first and to the last binding.
    pub(crate) seconds_to_first: f64,
    pub(crate) seconds_to_all: f64,
    /// All that were bound over `seconds_to_all`.
    pub(crate) pods_per_second: f64,
    /// Of the process, user and system; none where there is no process.
    pub(crate) cpu_ms_per_pod: Option<f64>,
    pub(crate) peak_rss_mib: Option<f64>,
    /// From creation to binding; in the paced case only, as the others create all pods before.
    pub(crate) created_to_bound_ms_p50: Option<f64>,
    pub(crate) created_to_bound_ms_p99: Option<f64>,
}

/// The columns of text.
pub(crate) const HEAD: &str = "case                 scheduler        run   pods  bound  first s  all s  pods/s  cpu ms/pod  rss MiB  p50 ms  p99 ms";

impl Row {
    /// The row as text.
    pub(crate) fn text(&self) -> String {
        let or_none =
            |value: Option<f64>, digits: usize| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"));
        format!(
            "{:<20} {:<16} {:>3}  {:>5}  {:>5}  {:>7.1}  {:>5.1}  {:>6.0}  {:>10}  {:>7}  {:>6}  {:>6}",
            name(&self.case),
            name(&self.scheduler),
            self.run,
            self.pods,
            self.bound,
            self.seconds_to_first,
            self.seconds_to_all,
            self.pods_per_second,
            or_none(self.cpu_ms_per_pod, 2),
            or_none(self.peak_rss_mib, 0),
            or_none(self.created_to_bound_ms_p50, 0),
            or_none(self.created_to_bound_ms_p99, 0)
        )
    }
}

/// The name of a value on the command line.
pub(crate) fn name(value: &impl clap::ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Least, middle and most of several runs; the middle of an even number is the mean of two.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let at = |i: usize| values.get(i).copied().unwrap_or(max);
        let median = f64::midpoint(at((values.len() - 1) / 2), at(values.len() / 2));
        Some(Spread { min, median, max })
    }
}

/// What the runs of one case with one scheduler come to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) case: Case,
    pub(crate) scheduler: Scheduler,
    /// Runs that there were.
    pub(crate) runs: usize,
    pub(crate) pods_per_second: Spread,
    /// Median of pods per second, in percent of the median of the same case posted without a scheduler, with an event each.
    pub(crate) percent_of_ceiling: Option<f64>,
    pub(crate) cpu_ms_per_pod: Option<Spread>,
    pub(crate) peak_rss_mib: Option<Spread>,
    pub(crate) created_to_bound_ms_p50: Option<Spread>,
    pub(crate) created_to_bound_ms_p99: Option<Spread>,
}

/// Summaries of rows, in the order in which their first runs came.
pub(crate) fn summaries(rows: &[Row]) -> Vec<Summary> {
    let of = |case: Case, scheduler: Scheduler| rows.iter().filter(move |r| (r.case, r.scheduler) == (case, scheduler));
    let mut all: Vec<Summary> = Vec::new();
    for row in rows {
        let (case, scheduler) = (row.case, row.scheduler);
        if all.iter().any(|s| (s.case, s.scheduler) == (case, scheduler)) {
            continue;
        }
        let speed = |scheduler| Spread::of(of(case, scheduler).map(|r| r.pods_per_second));
        let spread = |value: &dyn Fn(&Row) -> Option<f64>| Spread::of(of(case, scheduler).filter_map(value));
        let Some(pods_per_second) = speed(scheduler) else {
            continue;
        };
        let ceiling = speed(Scheduler::CeilingEvents).filter(|_| !scheduler.is_ceiling());
        all.push(Summary {
            case,
            scheduler,
            runs: of(case, scheduler).count(),
            pods_per_second,
            percent_of_ceiling: ceiling.map(|ceiling| pods_per_second.median / ceiling.median * 100.0),
            cpu_ms_per_pod: spread(&|r| r.cpu_ms_per_pod),
            peak_rss_mib: spread(&|r| r.peak_rss_mib),
            created_to_bound_ms_p50: spread(&|r| r.created_to_bound_ms_p50),
            created_to_bound_ms_p99: spread(&|r| r.created_to_bound_ms_p99),
        });
    }
    all
}

impl Summary {
    /// The summary as text.
    pub(crate) fn text(&self) -> String {
        let spread = |name: &str, spread: Option<Spread>, digits: usize| {
            spread.map_or_else(String::new, |s| {
                format!(
                    "  {name} {:.digits$} / {:.digits$} / {:.digits$}",
                    s.min, s.median, s.max
                )
            })
        };
        let ceiling = self
            .percent_of_ceiling
            .map_or_else(String::new, |p| format!(" ({p:.0} % of the ceiling)"));
        format!(
            "{:<20} {:<16} {} runs{}{ceiling}{}{}{}{}",
            name(&self.case),
            name(&self.scheduler),
            self.runs,
            spread("pods/s", Some(self.pods_per_second), 0),
            spread("cpu ms/pod", self.cpu_ms_per_pod, 2),
            spread("rss MiB", self.peak_rss_mib, 0),
            spread("p50 ms", self.created_to_bound_ms_p50, 0),
            spread("p99 ms", self.created_to_bound_ms_p99, 0)
        )
    }
}

/// Whether another row may begin.
pub(crate) fn may_begin(elapsed: Duration, minutes: Option<u64>) -> bool {
    minutes.is_none_or(|minutes| elapsed < Duration::from_secs(minutes * 60))
}
