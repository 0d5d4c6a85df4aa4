//! The agent's cycle without its edges: `cargo bench --bench agent -- [--json] [--pods N] [--cycles N]`.
//!
//! A cycle is a look at a node in a folder (the kernel's part of the work is not in it), the decision, what it sets and
//! what it exports. CPU time is that of the thread; allocations are those of the cycle; files are counted by the kernel
//! (inotify), not by the agent.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a benchmark"
)]

#[path = "../tests/steady/folder.rs"]
mod folder;
#[path = "../tests/steady/watch.rs"]
mod watch;

use std::time::Duration;

use duosuan_node::metrics::Metrics;
use folder::Folder;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use watch::Watch;

/// Cycles before anything is measured: the first open files, the first minute makes no offer.
const WARM_UP: u64 = 70;

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

fn measure(pods: usize, cycles: u64) -> serde_json::Value {
    let folder = Folder::of(pods);
    let mut agent = folder.agent();
    let metrics = Metrics::new();
    let mut now = 1_000_000;
    let mut cycle = || {
        now += 1_000;
        let look = agent.look(now);
        metrics.record("node", &look.report, &look.acted);
    };
    for _ in 0..WARM_UP {
        cycle();
    }
    let mut watch = Watch::on(&folder.root());
    cycle();
    let files = watch.seen();
    drop(watch);
    let allocated = allocation_counter::measure(&mut cycle);
    let mut each: Vec<Duration> = (0..cycles)
        .map(|_| {
            let before = cpu_time();
            cycle();
            cpu_time().saturating_sub(before)
        })
        .collect();
    each.sort_unstable();
    let micros = |percent: usize| each[(each.len() - 1) * percent / 100].as_nanos() as f64 / 1000.0;
    json!({
        "case": "cycle",
        "pods": pods,
        "cycles": cycles,
        "cpu_us_p50": micros(50),
        "cpu_us_p99": micros(99),
        "allocations": allocated.count_total,
        "allocated_bytes": allocated.bytes_total,
        "files_read": files.read,
        "files_opened": files.opened,
    })
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut as_json, mut cycles, mut pods) = (false, 200, vec![110, 250]);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|n| n.parse::<u64>().ok());
        match argument.as_str() {
            "--json" => as_json = true,
            "--cycles" => cycles = number().expect("--cycles N"),
            "--pods" => pods = vec![usize::try_from(number().expect("--pods N")).unwrap()],
            // What cargo itself passes on.
            "--bench" => {}
            other => panic!("unknown argument {other:?}: give --json, --cycles N, --pods N"),
        }
    }
    for pods in pods {
        let row = measure(pods, cycles);
        if as_json {
            println!("{row}");
        } else {
            println!(
                "{pods} pods: {} us of CPU a cycle (P99 {}), {} allocations of {} bytes, {} files read, {} opened",
                row["cpu_us_p50"],
                row["cpu_us_p99"],
                row["allocations"],
                row["allocated_bytes"],
                row["files_read"],
                row["files_opened"]
            );
        }
    }
}
