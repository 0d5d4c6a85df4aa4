//! `duosuan simulate openb`: the published packing experiment with the production core.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, anyhow};
use clap::{Args, builder::PossibleValuesParser};
use duosuan_planner::{openb, replay};
use duosuan_scheduler::Policy;
use serde::Serialize;

/// Percents of the GPU capacity that have arrived, at which the published experiment is read.
const READ_AT: [u32; 4] = [80, 90, 100, 130];

/// Flags of `duosuan simulate openb`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Every file may be packed by gzip.")]
pub(crate) struct Arguments {
    /// Nodes: CSV with the columns sn, cpu_milli, memory_mib, gpu, model
    #[arg(long, value_name = "FILE")]
    nodes: PathBuf,
    /// Pods: CSV with the columns name, cpu_milli, memory_mib, num_gpu, gpu_milli and perhaps gpu_spec
    #[arg(long, value_name = "FILE")]
    pods: PathBuf,
    /// Names of the pods in the order of their arrival, one a line; a name that repeats is another copy of that pod
    #[arg(long, value_name = "FILE")]
    order: PathBuf,
    /// Ranks of the nodes for ties: line i is that of the i-th node by name [default: by name]
    #[arg(long, value_name = "FILE")]
    perm: Option<PathBuf>,
    /// How places are valued: standard is what production uses, fgd the best published method
    #[arg(long, value_name = "NAME", default_value = Policy::default().name(),
          value_parser = PossibleValuesParser::new(Policy::ALL.map(Policy::name)))]
    policy: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    policy: &'static str,
    pods: u32,
    failed: u32,
    seconds: f64,
    allocation_percent: BTreeMap<u32, f64>,
    fragmentation_percent_of_idle: BTreeMap<u32, f64>,
}

/// Runs the experiment; what is to be printed.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<String> {
    let policy = Policy::ALL.into_iter().find(|policy| policy.name() == arguments.policy);
    let policy = policy.ok_or_else(|| anyhow!("no policy is named {}", arguments.policy))?;
    let trace = read(arguments)?;
    let started = Instant::now();
    let outcome = replay::openb(&trace, policy)
        .map_err(|violations| anyhow!("an invariant of the scheduler does not hold: {violations:?}"))?;
    let seconds = started.elapsed().as_secs_f64();
    let read_at = |mut figures: BTreeMap<u32, f64>| {
        figures.retain(|at, _| READ_AT.contains(at));
        figures
    };
    let report = Report {
        policy: policy.name(),
        pods: outcome.pods,
        failed: outcome.failed,
        seconds,
        fragmentation_percent_of_idle: read_at(replay::fragmentation_percent_of_idle(&trace, &outcome)),
        allocation_percent: read_at(outcome.allocation_percent),
    };
    if arguments.json {
        return Ok(serde_json::to_string(&report)?);
    }
    Ok(report.table())
}

impl Report {
    fn table(&self) -> String {
        let mut text = format!(
            "{} pods, {} found no place; policy {}, {:.2} s\n\narrived %  allocated %  fragments, % of idle\n",
            self.pods, self.failed, self.policy, self.seconds
        );
        for (at, allocated) in &self.allocation_percent {
            let fragments = self.fragmentation_percent_of_idle.get(at).copied().unwrap_or_default();
            text += &format!("{at:>9}  {allocated:>11.2}  {fragments:>20.2}\n");
        }
        text
    }
}

fn read(arguments: &Arguments) -> anyhow::Result<openb::Trace> {
    let text = |name: &'static str, path: &Path| {
        let context = || format!("--{name} {} cannot be read", path.display());
        let bytes = fs::read(path).with_context(context)?;
        openb::text(name, &bytes).with_context(context)
    };
    let nodes = text("nodes", &arguments.nodes)?;
    let pods = text("pods", &arguments.pods)?;
    let order = text("order", &arguments.order)?;
    let mut trace = openb::Trace::read(&nodes, &pods, &order)?;
    if let Some(perm) = &arguments.perm {
        trace.rank_nodes(&text("perm", perm)?)?;
    }
    Ok(trace)
}
