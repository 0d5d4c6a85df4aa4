//! What runs by discrete events, and the published packing experiment. What counts is what comes out, beside how fast.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use duosuan_planner::{
    openb::{self, Trace},
    queues::{self, Class, Config},
    replay,
};
use duosuan_scheduler::Policy;
use serde_json::json;

use super::Row;

/// A row of what took so long, with figures of its own.
fn row(nodes: usize, pods: u32, evicted: u32, total: Duration, figures: serde_json::Value) -> Row {
    let pods = pods as usize;
    let figures = figures.as_object().cloned().unwrap_or_default();
    Row {
        nodes,
        pods,
        total,
        each: Vec::new(),
        visited: 0,
        placed: pods,
        pending: 0,
        evicted: evicted as usize,
        figures,
    }
}

/// Kueue's performance cases: classes of small, medium and large jobs.
fn cohorts(cohorts: u32, queues_per_cohort: u32, counts: [u32; 3]) -> Row {
    let classes = [
        ("small", 100, 200, 1, 50),
        ("medium", 500, 500, 5, 100),
        ("large", 1200, 1000, 20, 200),
    ];
    let class = |((name, every_ms, runs_ms, cpu, priority), count): ((&str, u32, u32, u32, i32), u32)| Class {
        name: name.into(),
        count,
        every_ms,
        runs_ms,
        cpu,
        priority,
    };
    let config = Config {
        cohorts,
        queues_per_cohort,
        nominal_cpu: 20,
        borrow_cpu: 100,
        classes: classes.into_iter().zip(counts).map(class).collect(),
    };
    let began = Instant::now();
    let outcome = queues::run(&config).unwrap();
    let figures = json!({
        "makespan_ms": outcome.makespan_ms,
        "floor_ms": outcome.floor_ms,
        "ratio": outcome.ratio,
    });
    row(1, outcome.jobs, outcome.evictions, began.elapsed(), figures)
}

pub(super) fn baseline() -> Row {
    cohorts(5, 6, [350, 100, 50])
}

pub(super) fn large() -> Row {
    cohorts(10, 100, [35, 11, 4])
}

/// Percents of the capacity that have arrived, at which it is compared.
const READ_AT: [u32; 2] = [100, 130];

/// The trace that the repository ships; or, if `OPENB` is a folder as `traces/README.md` describes it, every trace in the
/// order of every seed: the means over the seeds, by trace.
pub(super) fn openb() -> Row {
    let traces = match std::env::var_os("OPENB") {
        None => vec![("default 42".to_owned(), vec![openb::shipped().unwrap()])],
        Some(folder) => all(Path::new(&folder)),
    };
    let (mut pods, mut failed, mut total, mut nodes) = (0, 0, Duration::ZERO, 0);
    let mut slowest = Duration::ZERO;
    let mut by_trace = serde_json::Map::new();
    for (name, seeds) in traces {
        let mut sums: BTreeMap<(&str, u32), f64> = BTreeMap::new();
        for trace in &seeds {
            nodes = trace.nodes.len();
            for policy in [Policy::Standard, Policy::Fgd] {
                let began = Instant::now();
                let outcome = replay::openb(trace, policy).unwrap();
                let took = began.elapsed();
                if policy == Policy::Standard {
                    pods += outcome.pods;
                    failed += outcome.failed;
                    total += took;
                    slowest = slowest.max(took);
                }
                for at in READ_AT {
                    let allocated = outcome.allocation_percent.get(&at).copied().unwrap_or(f64::NAN);
                    *sums.entry((policy.name(), at)).or_default() += allocated / seeds.len() as f64;
                }
            }
        }
        let figures = sums
            .into_iter()
            .map(|((policy, at), mean)| (format!("{policy} at {at}"), json!(mean)));
        by_trace.insert(name, serde_json::Value::Object(figures.collect()));
    }
    let figures = json!({"allocation_percent": by_trace, "slowest_run_seconds": slowest.as_secs_f64()});
    let mut row = row(nodes, pods, 0, total, figures);
    row.placed -= failed as usize;
    row.pending = failed as usize;
    row
}

/// Each trace with one entry for each seed.
fn all(folder: &Path) -> Vec<(String, Vec<Trace>)> {
    let read = |path: &Path| openb::text("trace", &fs::read(path).unwrap()).unwrap();
    let names = |of: &str| {
        let entries = fs::read_dir(folder.join(of)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    let nodes = read(&folder.join("nodes.csv"));
    let orders = names("arrival_order");
    let mut traces = Vec::new();
    for file in names("pods") {
        let name = file.trim_end_matches(".csv");
        let pods = read(&folder.join("pods").join(&file));
        let ours = orders.iter().filter(|order| order.starts_with(&format!("{name}_")));
        let seeds = ours.map(|order| {
            let mut trace = Trace::read(&nodes, &pods, &read(&folder.join("arrival_order").join(order))).unwrap();
            let ranks = folder.join("arrival_order").join(format!("perm_{order}"));
            if ranks.exists() {
                trace.rank_nodes(&read(&ranks)).unwrap();
            }
            trace
        });
        traces.push((name.to_owned(), seeds.collect()));
    }
    traces
}
