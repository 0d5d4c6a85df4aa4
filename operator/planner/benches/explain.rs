//! What an explanation costs, in process, one thread: `cargo bench -p duosuan-planner --bench explain -- [--json]`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a benchmark"
)]

use std::{collections::BTreeMap, time::Instant};

use duosuan_planner::{
    explain::{Case, Target, explain},
    simulation::Simulation,
};
use duosuan_scheduler::{
    Event, Time,
    event::{Claim, Gpu, GpuRequest, Group, Location, Node, Pod, Queue, Quota},
};

const GI: i64 = 1 << 30;
const NODES: usize = 5000;
/// Of the nodes, those with eight GPUs.
const WITH_GPUS: usize = 500;
const PODS_EACH: usize = 8;
/// Pods that wait besides the claim that is explained.
const OTHERS: usize = 200;
/// Changes that are tried.
const EFFORT: u32 = 40;

fn amounts(of: &[(&str, i64)]) -> BTreeMap<String, i64> {
    of.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect()
}

fn node(i: usize) -> Node {
    let gpus = if i < WITH_GPUS { 8 } else { 0 };
    let labels = [
        ("kubernetes.io/hostname", format!("node-{i:05}")),
        ("kubernetes.io/arch", "amd64".into()),
        ("kubernetes.io/os", "linux".into()),
        ("topology.kubernetes.io/zone", format!("zone-{}", i % 3)),
        ("duosuan.io/rack", format!("rack-{}", i / 40)),
    ];
    Node {
        name: format!("node-{i:05}"),
        labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
        allocatable: amounts(&[("cpu", 64_000), ("memory", 256 * GI), ("pods", 110)]),
        gpus: vec![
            Gpu {
                model: "A100".into(),
                memory: 80 * GI,
                ..Gpu::default()
            };
            gpus
        ],
        location: Location {
            zone: Some(format!("zone-{}", i % 3)),
            rack: Some(format!("rack-{}", i / 40)),
            ..Location::default()
        },
        ..Node::default()
    }
}

fn pod(uid: String, milli: i64) -> Pod {
    Pod {
        name: uid.clone(),
        uid,
        namespace: "bench".into(),
        labels: [("app".to_owned(), "a".to_owned())].into(),
        queue: "q".into(),
        requests: amounts(&[("cpu", milli), ("memory", GI)]),
        ours: true,
        ..Pod::default()
    }
}

/// Full of pods but for a core on each node, and of GPU pods: a gang of 16 pods of 8 GPUs each waits, and others do.
fn events() -> Vec<Event> {
    let mut events: Vec<Event> = (0..NODES).map(|i| Event::Node(Box::new(node(i)))).collect();
    events.push(Event::Queue(Box::new(Queue {
        name: "q".into(),
        weight: 1,
        quotas: vec![Quota {
            guaranteed: amounts(&[("cpu", 1_000_000)]),
            ..Quota::default()
        }],
        ..Queue::default()
    })));
    let gpus = |count| {
        Some(GpuRequest {
            count,
            milli: 1000,
            memory: 0,
            models: vec![],
        })
    };
    for i in 0..NODES {
        for k in 0..PODS_EACH {
            let mut bound = pod(format!("p-{i}-{k}"), 63_000 / PODS_EACH as i64);
            bound.node = Some(format!("node-{i:05}"));
            if i < WITH_GPUS {
                bound.gpus = gpus(1);
                bound.devices = vec![u16::try_from(k).unwrap()];
            }
            events.push(Event::Pod(Box::new(bound)));
        }
    }
    for i in 0..OTHERS {
        events.push(Event::Pod(Box::new(pod(format!("w-{i}"), 2000 + i as i64 % 10))));
    }
    events.push(Event::Claim(Box::new(Claim {
        uid: "claim".into(),
        namespace: "bench".into(),
        name: "gang".into(),
        queue: "q".into(),
        groups: vec![Group {
            name: "g".into(),
            min: 16,
            max: 16,
            quantum: 1,
            ..Group::default()
        }],
        ..Claim::default()
    })));
    for i in 0..16 {
        events.push(Event::Pod(Box::new(Pod {
            claim: Some("gang".into()),
            group: "g".into(),
            gpus: gpus(8),
            ..pod(format!("m-{i}"), 8000)
        })));
    }
    events
}

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let mut simulation = Simulation::new(Time(0), events(), BTreeMap::new());
    let start = Instant::now();
    simulation.run(Some(Time(0))).unwrap();
    let settled = start.elapsed();
    let timed = |effort| {
        let start = Instant::now();
        let explanation = explain(Case::of(&simulation), &Target::Claim("claim".into()), effort).unwrap();
        (start.elapsed().as_secs_f64() * 1000.0, explanation)
    };
    // What there is to do whatever is tried.
    let (reason, _) = timed(0);
    let (all, explanation) = timed(EFFORT);
    let each = (all - reason) / f64::from(explanation.tried.max(1));
    if json {
        let figures = serde_json::json!({
            "nodes": NODES,
            "pods": NODES * PODS_EACH + OTHERS + 16,
            "settle_ms": settled.as_secs_f64() * 1000.0,
            "reason_ms": reason,
            "tried": explanation.tried,
            "ms_per_try": each,
            "found": explanation.changes.iter().map(|found| found.change.to_string()).collect::<Vec<_>>(),
        });
        println!("{figures}");
    } else {
        println!(
            "{} tries, {each:.1} ms each: {:?}",
            explanation.tried, explanation.changes
        );
    }
}
