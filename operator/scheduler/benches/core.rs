//! The core by itself, in process, one thread: `cargo bench --bench core -- [--json] [--case NAME]`.
//!
//! Pods arrive one by one, each followed by a cycle, as they do from a watch; what is measured is `apply` and `cycle`.
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

#[path = "core/gangs.rs"]
mod gangs;
#[path = "core/gpus.rs"]
mod gpus;
#[path = "core/images.rs"]
mod images;
#[path = "core/placement.rs"]
mod placement;
#[path = "core/promises.rs"]
mod promises;
#[path = "core/relations.rs"]
mod relations;
#[path = "core/simulated.rs"]
mod simulated;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use duosuan_scheduler::{
    Budget, Cluster, Decision, Event, Time, cycle,
    event::{Claim, Group, Node, Pod},
};

const GI: i64 = 1 << 30;
const MI: i64 = 1 << 20;

fn amounts(of: &[(&str, i64)]) -> BTreeMap<String, i64> {
    of.iter().map(|(name, amount)| ((*name).to_string(), *amount)).collect()
}

/// What a case measured.
struct Row {
    nodes: usize,
    pods: usize,
    total: Duration,
    each: Vec<Duration>,
    visited: u64,
    placed: usize,
    pending: usize,
    evicted: usize,
    /// What only this case has.
    figures: serde_json::Map<String, serde_json::Value>,
}

/// A cluster, and what is done to it with a clock beside it.
struct Run {
    cluster: Cluster,
    nodes: usize,
    now: i64,
    each: Vec<Duration>,
    visited: u64,
    placed: usize,
    pending: usize,
    evicted: Vec<String>,
}

impl Run {
    fn of(nodes: impl IntoIterator<Item = Node>) -> Run {
        let mut cluster = Cluster::default();
        let mut count = 0;
        for node in nodes {
            cluster.apply(Event::Node(Box::new(node)));
            count += 1;
        }
        Run {
            cluster,
            nodes: count,
            now: 0,
            each: vec![],
            visited: 0,
            placed: 0,
            pending: 0,
            evicted: vec![],
        }
    }

    /// Tells some facts and decides, with the clock running.
    fn step(&mut self, events: Vec<Event>) -> Vec<Decision> {
        self.now += 1;
        let start = Instant::now();
        for event in events {
            self.cluster.apply(event);
        }
        let decisions = cycle(&mut self.cluster, Time(self.now), Budget { pods: 1_000_000 });
        self.each.push(start.elapsed());
        for decision in &decisions {
            match decision {
                Decision::Bind { .. } => self.placed += 1,
                Decision::Pending { .. } => self.pending += 1,
                Decision::Evict { pod, .. } => self.evicted.push(pod.clone()),
                _ => {}
            }
        }
        decisions
    }

    /// Forgets what was measured so far.
    fn start_measuring(&mut self) {
        self.each.clear();
        (self.placed, self.pending) = (0, 0);
        self.visited = self.cluster.work().nodes_visited;
    }

    fn row(self, pods: usize) -> Row {
        Row {
            nodes: self.nodes,
            pods,
            total: self.each.iter().sum(),
            each: self.each,
            visited: self.cluster.work().nodes_visited - self.visited,
            placed: self.placed,
            pending: self.pending,
            evicted: self.evicted.len(),
            figures: serde_json::Map::new(),
        }
    }
}

fn plain_nodes(count: usize) -> Vec<Node> {
    let allocatable = amounts(&[("cpu", 4000), ("memory", 32 * GI), ("pods", 110)]);
    let node = |i| Node {
        name: format!("node-{i:05}"),
        allocatable: allocatable.clone(),
        ..Default::default()
    };
    (0..count).map(node).collect()
}

fn pod(uid: String, milli: i64, memory: i64) -> Pod {
    Pod {
        name: uid.clone(),
        uid,
        namespace: "bench".into(),
        requests: amounts(&[("cpu", milli), ("memory", memory)]),
        ours: true,
        ..Default::default()
    }
}

/// A gang and its members, which are like the pod that `member` makes of a UID.
fn gang(claim: Claim, size: u32, member: impl Fn(String) -> Pod) -> Vec<Event> {
    let uid = claim.uid.clone();
    let claim = Event::Claim(Box::new(Claim {
        namespace: "bench".into(),
        name: uid.clone(),
        groups: vec![Group {
            name: "w".into(),
            min: size,
            max: size,
            quantum: 1,
            ..Default::default()
        }],
        ..claim
    }));
    let members = (0..size).map(|i| {
        Event::Pod(Box::new(Pod {
            claim: Some(uid.clone()),
            group: "w".into(),
            ..member(format!("{uid}-{i}"))
        }))
    });
    std::iter::once(claim).chain(members).collect()
}

fn event(pod: Pod) -> Vec<Event> {
    vec![Event::Pod(Box::new(pod))]
}

fn basic_of(nodes: usize, measured: usize, shapes: i64) -> Row {
    let mut run = Run::of(plain_nodes(nodes));
    let pod = |i: i64| pod(format!("pod-{i}"), 100 + i % shapes % 32, 500 * MI + i % shapes);
    for i in 0..5000 {
        run.step(event(pod(i)));
    }
    run.start_measuring();
    for i in 0..measured as i64 {
        run.step(event(pod(5000 + i)));
    }
    run.row(measured)
}

fn basic() -> Row {
    basic_of(5000, 50_000, 1)
}

fn mixed_shapes() -> Row {
    basic_of(5000, 50_000, 1000)
}

fn unschedulable() -> Row {
    let mut run = Run::of(plain_nodes(5000));
    for i in 0..20_000 {
        run.cluster.apply(Event::Pod(Box::new(Pod {
            priority: 1000,
            ..pod(format!("huge-{i}"), 9000, 500 * MI)
        })));
    }
    run.step(vec![]);
    run.step(event(pod("first".into(), 100, 500 * MI)));
    run.start_measuring();
    for i in 0..10_000 {
        run.step(event(pod(format!("pod-{i}"), 100, 500 * MI)));
    }
    run.row(10_000)
}

fn infeasible_cycle() -> Row {
    let mut run = Run::of(plain_nodes(5000));
    for i in 0..20_000 {
        run.cluster
            .apply(Event::Pod(Box::new(pod(format!("huge-{i}"), 9000, 500 * MI))));
    }
    run.step(vec![]);
    run.start_measuring();
    for i in 0..100 {
        // Something is freed, so that all of them are tried again.
        let mut node = plain_nodes(1).remove(0);
        node.labels.insert("turn".into(), i.to_string());
        run.step(vec![Event::Node(Box::new(node))]);
    }
    run.row(2_000_000)
}

fn far() -> Row {
    let allocatable = amounts(&[("cpu", 32_000), ("memory", 256 * GI), ("pods", 110)]);
    let mut nodes = plain_nodes(30_000);
    for node in &mut nodes {
        node.allocatable = allocatable.clone();
    }
    let mut run = Run::of(nodes);
    for i in 0..800_000 {
        run.step(event(pod(format!("pod-{i}"), 500 + i % 20, GI + i % 20)));
    }
    run.row(800_000)
}

/// Pods of one shape, each with labels that no other has, as those of a stateful set do: what counts is memory.
fn own_labels() -> Row {
    let mut run = Run::of(plain_nodes(5000));
    for i in 0..200_000 {
        let mut pod = pod(format!("2f1c9b1e-7f0c-4c3e-9d51-{i:012}"), 10, 50 * MI);
        pod.name = format!("service-{}-{i}", i % 500);
        for (key, value) in [
            ("app.kubernetes.io/name", "service".into()),
            ("apps.kubernetes.io/pod-index", i.to_string()),
            ("statefulset.kubernetes.io/pod-name", pod.name.clone()),
        ] {
            pod.labels.insert(key.into(), value);
        }
        run.step(event(pod));
    }
    run.row(200_000)
}

fn peak_rss_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .unwrap_or_default();
    line.split_whitespace()
        .next()
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or_default()
        / 1024
}

/// Starts the count of the peak anew: Linux takes 5 for that.
fn forget_peak_rss() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0.0, |d| d.as_secs_f64() * 1e6)
}

type Case = (&'static str, fn() -> Row);

const CASES: [Case; 32] = [
    ("basic", basic),
    ("mixed shapes", mixed_shapes),
    ("node affinity", placement::node_affinity),
    ("taints", placement::taints),
    ("images", images::held),
    ("replicas", placement::replicas),
    ("replicas of one", placement::replicas_of_one),
    ("replicas apart on hosts", relations::replicas_on_hosts),
    ("unschedulable", unschedulable),
    ("infeasible cycle", infeasible_cycle),
    ("pod affinity", relations::affinity),
    ("pod anti-affinity", relations::anti_affinity),
    ("preferred pod affinity", relations::preferred_affinity),
    ("preferred pod anti-affinity", relations::preferred_anti_affinity),
    ("topology spread", relations::spread),
    ("topology spread over hosts", relations::spread_over_hosts),
    ("preferred topology spread", relations::preferred_spread),
    ("many that relate", relations::many),
    ("gangs", gangs::anywhere),
    ("gang + rack", gangs::in_racks),
    ("beside a promise", promises::beside),
    ("gpu fill", gpus::fill),
    ("gpu shares", gpus::shares),
    ("gpu proof", gpus::proof),
    ("gpu reclaim one", gpus::reclaim_one),
    ("gpu reclaim many", gpus::reclaim_many),
    ("gpu reclaim storm", gpus::reclaim_storm),
    ("queues, baseline", simulated::baseline),
    ("queues, large", simulated::large),
    ("openb", simulated::openb),
    ("far", far),
    ("own labels", own_labels),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let json = arguments.iter().any(|a| a == "--json");
    let only = arguments
        .iter()
        .position(|a| a == "--case")
        .and_then(|i| arguments.get(i + 1));
    if let Some(name) = only
        && !CASES.iter().any(|(case, _)| case == name)
    {
        println!(
            "no case `{name}`; there are: {}",
            CASES.map(|(case, _)| case).join(", ")
        );
        std::process::exit(2);
    }
    for (case, run) in CASES.iter().filter(|(case, _)| only.is_none_or(|only| case == only)) {
        forget_peak_rss();
        let mut row = run();
        row.each.sort();
        let seconds = row.total.as_secs_f64();
        let mut figures = serde_json::json!({
            "case": case,
            "nodes": row.nodes,
            "pods": row.pods,
            "seconds": seconds,
            "pods_per_second": (row.pods as f64 / seconds).round(),
            "p50_us": percentile(&row.each, 50),
            "p99_us": percentile(&row.each, 99),
            "peak_rss_mib": peak_rss_mib(),
            "nodes_visited_per_pod": row.visited as f64 / row.pods as f64,
            "placed": row.placed,
            "pending": row.pending,
            "evicted": row.evicted,
        });
        if let Some(all) = figures.as_object_mut() {
            all.extend(row.figures.clone());
        }
        if json {
            println!("{figures}");
        } else {
            println!(
                "{case:27} {:>9.0} pods/s  {seconds:8.3} s  p50 {:.1} us  p99 {:.1} us  placed {}  pending {}  evicted {}",
                row.pods as f64 / seconds,
                percentile(&row.each, 50),
                percentile(&row.each, 99),
                row.placed,
                row.pending,
                row.evicted
            );
            for (figure, value) in row.figures {
                println!("{:29}{figure} {value}", "");
            }
        }
    }
}
