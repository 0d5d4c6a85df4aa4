//! `duosuan simulate queues`: a queue file, by discrete events over the production core.

use std::{fs, path::PathBuf, time::Instant};

use anyhow::{Context, anyhow};
use clap::Args;
use duosuan_planner::queues::{self, Config, Outcome, Percentiles};
use serde::Serialize;

/// Flags of `duosuan simulate queues`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "The file, in YAML or JSON:\n  cohorts: 5            # queues of one cohort borrow from each other\n  queuesPerCohort: 6\n  \
                  nominalCpu: 20        # cores that each queue is guaranteed\n  borrowCpu: 100        # cores beyond that, at most\n  \
                  classes:              # jobs of each queue\n  - {name: small, count: 350, everyMs: 100, runsMs: 200, cpu: 1, priority: 50}"
)]
pub(crate) struct Arguments {
    /// Cohorts, queues and classes of jobs
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    outcome: Outcome,
    /// Seconds that the simulation took, of real time.
    seconds: f64,
}

/// Runs the file; what is to be printed.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<String> {
    let path = arguments.config.display();
    let text = fs::read_to_string(&arguments.config).with_context(|| format!("--config {path} cannot be read"))?;
    let config: Config = serde_yaml::from_str(&text).map_err(|e| anyhow!("--config {path}: {e}"))?;
    let started = Instant::now();
    let outcome = queues::run(&config).map_err(|e| anyhow!("--config {path}: {e}"))?;
    let report = Report {
        outcome,
        seconds: started.elapsed().as_secs_f64(),
    };
    if arguments.json {
        return Ok(serde_json::to_string(&report)?);
    }
    Ok(report.table())
}

impl Report {
    fn table(&self) -> String {
        let outcome = &self.outcome;
        let mut lines = vec![
            format!(
                "{} jobs in {} ms, {:.3} x the floor of {:.0} ms; {} evictions lost {:.1} core-seconds; simulated in {:.1} s",
                outcome.jobs,
                outcome.makespan_ms,
                outcome.ratio,
                outcome.floor_ms,
                outcome.evictions,
                outcome.lost_core_seconds,
                self.seconds
            ),
            format!(
                "{:<12} {:>8} {:>9}  {:<36}{}",
                "class", "jobs", "evictions", "wait ms: p50 / p90 / p99 / max", "to the end ms: p50 / p90 / p99 / max"
            ),
        ];
        for class in &outcome.classes {
            lines.push(format!(
                "{:<12} {:>8} {:>9}  {:<36}{}",
                class.name,
                class.jobs,
                class.evictions,
                of(class.wait_ms),
                of(class.turnaround_ms)
            ));
        }
        lines.join("\n")
    }
}

fn of(percentiles: Percentiles) -> String {
    let Percentiles { p50, p90, p99, max } = percentiles;
    format!("{p50} / {p90} / {p99} / {max}")
}
