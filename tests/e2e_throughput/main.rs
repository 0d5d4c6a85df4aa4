//! How fast pods are bound on a real API server: kube-scheduler and ours in turn, on the same cases, on one machine in one run.
//!
//! ```sh
//! cargo bench -p duosuan-tests --bench e2e_throughput -- [--case NAME] [--scheduler NAME] [--json]
//! ```
//!
//! Each row has a control plane of its own: etcd without fsync, API priority and fairness off, client limits lifted. Nodes and
//! pods are there before the scheduler starts (save in the paced case), and time runs from the start of its process, so that
//! what it needs to read the cluster counts. Binding is what a watch with a field selector sees. CPU and memory are those of
//! the scheduler's process alone. Figures move with the machine; the ratio of two rows of one run holds better.

#![allow(clippy::print_stdout, reason = "the rows are its output")]

mod cases;
mod schedulers;
mod watch;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cases::Case;
use clap::Parser;
use duosuan_embedded::ControlPlane;
use duosuan_tests::cluster::{admin, install_crds};
use schedulers::Scheduler;
use serde::Serialize;
use watch::Bindings;

/// What would take longer never ends.
const PATIENCE: Duration = Duration::from_secs(240);

#[derive(Parser)]
struct Arguments {
    /// Only this case
    #[arg(long, value_enum)]
    case: Vec<Case>,
    /// Only this scheduler
    #[arg(long, value_enum)]
    scheduler: Vec<Scheduler>,
    /// One JSON object a row
    #[arg(long)]
    json: bool,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// One case with one scheduler.
#[derive(Serialize)]
struct Row {
    case: Case,
    scheduler: Scheduler,
    nodes: usize,
    pods: usize,
    bound: usize,
    /// From the start of the process to the first and to the last binding.
    seconds_to_first: f64,
    seconds_to_all: f64,
    /// All pods over `seconds_to_all`.
    pods_per_second: f64,
    /// Of the process, user and system.
    cpu_ms_per_pod: f64,
    peak_rss_mib: f64,
    /// From creation to binding; in the paced case only, as the others create all pods before.
    created_to_bound_ms_p50: Option<f64>,
    created_to_bound_ms_p99: Option<f64>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let cases = chosen(arguments.case);
    let schedulers = chosen(arguments.scheduler);
    if !arguments.json {
        println!(
            "case                 scheduler       pods  bound  first s  all s  pods/s  cpu ms/pod  rss MiB  p50 ms  p99 ms"
        );
    }
    for case in cases {
        for &scheduler in &schedulers {
            let row = measure(case, scheduler)
                .await
                .with_context(|| format!("{case:?} with {scheduler:?}"))?;
            if arguments.json {
                println!("{}", serde_json::to_string(&row)?);
            } else {
                print(&row);
            }
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

fn print(row: &Row) {
    let percentile = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0}"));
    println!(
        "{:<20} {:<14} {:>5}  {:>5}  {:>7.1}  {:>5.1}  {:>6.0}  {:>10.2}  {:>7.0}  {:>6}  {:>6}",
        name(&row.case),
        name(&row.scheduler),
        row.pods,
        row.bound,
        row.seconds_to_first,
        row.seconds_to_all,
        row.pods_per_second,
        row.cpu_ms_per_pod,
        row.peak_rss_mib,
        percentile(row.created_to_bound_ms_p50),
        percentile(row.created_to_bound_ms_p99)
    );
}

/// The name of a value on the command line.
fn name(value: &impl clap::ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

async fn measure(case: Case, scheduler: Scheduler) -> Result<Row> {
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
    let mut running = scheduler.start(&plane)?;
    let started = Instant::now();
    let created = cases::after(&client, case, scheduler, &bindings).await?;
    let pods = case.pods();
    tokio::select! {
        reached = bindings.reach(pods + usize::from(case == Case::Paced)) => reached?,
        ended = running.ended() => bail!("the scheduler ended with {}: {}", ended?, running.log()),
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
        nodes: case.nodes(),
        pods,
        bound: bound.len(),
        seconds_to_first: first,
        seconds_to_all: last,
        pods_per_second: count / last,
        cpu_ms_per_pod: cost.cpu_ms / count,
        peak_rss_mib: cost.peak_rss_mib,
        created_to_bound_ms_p50: percentile(50),
        created_to_bound_ms_p99: percentile(99),
    })
}
