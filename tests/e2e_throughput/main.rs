//! How fast pods are bound on a real API server: kube-scheduler and ours in turn, on the same cases, on one machine in one
//! run, beside what the API server takes at most.
//!
//! ```sh
//! cargo bench -p duosuan-tests --bench e2e_throughput -- [--case NAME]... [--scheduler NAME]... [--runs N] [--minutes M] [--json]
//! ```
//!
//! Each row has a control plane of its own: etcd without fsync, API priority and fairness off, client limits lifted. Nodes and
//! pods are there before the scheduler starts (save in the paced case), and time runs from the start of its process, so that
//! what it needs to read the cluster counts. Binding is what a watch with a field selector sees. CPU and memory are those of
//! the scheduler's process alone. Figures move with the machine; the ratio of two rows of one run holds better.

#![allow(clippy::print_stdout, reason = "the rows are its output")]

mod cases;
mod ceiling;
mod rows;
mod schedulers;
mod watch;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cases::Case;
use clap::Parser;
use duosuan_embedded::ControlPlane;
use duosuan_tests::cluster::{admin, install_crds};
use rows::Row;
use schedulers::Scheduler;
use watch::Bindings;

/// What would take longer never ends.
const PATIENCE: Duration = Duration::from_secs(240);

const HELP: &str = "\
With --json, one object a line, as it is known. Of each run of a case with a scheduler:
  case, scheduler, run          names as on the command line, and the number of the run, from 1
  nodes, pods, bound            nodes of the cluster, pods to bind, pods that were bound
  seconds_to_first, seconds_to_all
                                from the start of the scheduler's process to the first and the last binding
  pods_per_second               bound / seconds_to_all
  cpu_ms_per_pod, peak_rss_mib  of the scheduler's process; null for a ceiling, which has none
  created_to_bound_ms_p50, created_to_bound_ms_p99
                                percentiles; null but in the paced case
Last, {\"summary\": ...} of each case with each scheduler: case, scheduler, runs, the figures above (seconds left out) each as
{\"min\", \"median\", \"max\"}, and percent_of_ceiling: the median of pods_per_second in percent of ceiling-events' in this
case, null where that was not run.

ceiling and ceiling-events post a binding for each pod, 32 at a time, and decide nothing; ceiling-events posts an event behind
each binding, as schedulers do. Bindings that no scheduler paces are none of the paced case.

The small set, in some 8 minutes on two cores: --case backlog --case paced --runs 9 --minutes 7";

#[derive(Parser)]
#[command(after_help = HELP)]
struct Arguments {
    /// Only this case; may be given several times
    #[arg(long, value_enum)]
    case: Vec<Case>,
    /// Only this scheduler; may be given several times
    #[arg(long, value_enum)]
    scheduler: Vec<Scheduler>,
    /// How often everything is run, one run after the other
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Begin no row after so many minutes; what has begun is ended
    #[arg(long)]
    minutes: Option<u64>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let began = Instant::now();
    let cases = chosen(arguments.case);
    let schedulers = chosen(arguments.scheduler);
    let mut rows = Vec::new();
    if !arguments.json {
        println!("{}", rows::HEAD);
    }
    let pairs = cases
        .iter()
        .flat_map(|case| schedulers.iter().map(move |scheduler| (*case, *scheduler)));
    let pairs: Vec<_> = pairs
        .filter(|(case, scheduler)| case.waits_at_first() || !scheduler.is_ceiling())
        .collect();
    for (run, (case, scheduler)) in (1..=arguments.runs).flat_map(|run| pairs.iter().map(move |pair| (run, *pair))) {
        if !rows::may_begin(began.elapsed(), arguments.minutes) {
            break;
        }
        let row = measure(case, scheduler, run)
            .await
            .with_context(|| format!("{case:?} with {scheduler:?}"))?;
        if arguments.json {
            println!("{}", serde_json::to_string(&row)?);
        } else {
            println!("{}", row.text());
        }
        rows.push(row);
    }
    if !arguments.json {
        println!("\nleast / middle / most");
    }
    for summary in rows::summaries(&rows) {
        if arguments.json {
            println!("{}", serde_json::json!({"summary": summary}));
        } else {
            println!("{}", summary.text());
        }
    }
    Ok(())
}

fn chosen<T: clap::ValueEnum>(named: Vec<T>) -> Vec<T> {
    if named.is_empty() {
        T::value_variants().to_vec()
    } else {
        named
    }
}

async fn measure(case: Case, scheduler: Scheduler, run: u32) -> Result<Row> {
    let options = duosuan_embedded::Options {
        apiserver_flags: [
            "--enable-priority-and-fairness=false",
            "--feature-gates=GenericWorkload=true",
            "--runtime-config=scheduling.k8s.io/v1beta1=true",
        ]
        .map(str::to_owned)
        .into(),
        ..Default::default()
    };
    let plane = tokio::task::spawn_blocking(move || ControlPlane::start(&options)).await??;
    let client = admin(&plane).await?;
    if scheduler == Scheduler::Duosuan {
        install_crds(&client).await?;
    }
    cases::nodes(&client, case).await?;
    cases::before(&client, case, scheduler).await?;
    let bindings = Bindings::watch(&client);
    // Its binary may have to be built first.
    let mut running = scheduler.start(&plane, &client, case)?;
    let started = Instant::now();
    let created = cases::after(&client, case, scheduler, &bindings).await?;
    let pods = case.pods();
    tokio::select! {
        reached = bindings.reach(pods + usize::from(case == Case::Paced)) => reached?,
        ended = running.ended() => bail!("the scheduler ended with {}", ended?),
        // The row says how many it were.
        () = tokio::time::sleep(PATIENCE) => {}
    }
    let cost = running.cost()?;
    let mut bound = bindings.all();
    bound.remove(cases::FIRST);
    if bound.is_empty() {
        bail!("nothing was bound: {}", running.log());
    }
    let since = |at: &Instant| at.saturating_duration_since(started).as_secs_f64();
    let first = bound.values().min().map_or(0.0, since);
    let last = bound.values().max().map_or(0.0, since);
    let mut waits: Vec<f64> = created
        .iter()
        .filter_map(|(name, at)| Some(bound.get(name)?.saturating_duration_since(*at).as_secs_f64() * 1000.0))
        .collect();
    waits.sort_by(f64::total_cmp);
    let percentile = |hundredths: usize| {
        waits
            .get((waits.len() * hundredths / 100).min(waits.len().saturating_sub(1)))
            .copied()
    };
    #[allow(clippy::cast_precision_loss, reason = "thousands")]
    let count = bound.len() as f64;
    Ok(Row {
        case,
        scheduler,
        run,
        nodes: case.nodes(),
        pods,
        bound: bound.len(),
        seconds_to_first: first,
        seconds_to_all: last,
        pods_per_second: count / last,
        cpu_ms_per_pod: cost.as_ref().map(|cost| cost.cpu_ms / count),
        peak_rss_mib: cost.as_ref().map(|cost| cost.peak_rss_mib),
        created_to_bound_ms_p50: percentile(50),
        created_to_bound_ms_p99: percentile(99),
    })
}
