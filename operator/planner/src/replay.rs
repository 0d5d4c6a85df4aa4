//! The published openb experiment with the production core: pods arrive once in the given order, none departs, none is
//! retried for its own sake.

use std::collections::BTreeMap;

use duosuan_scheduler::{
    Budget, Cluster, Decision, Policy, Time, Violation, cycle,
    fragmentation::{Idle, Kind, Typical},
};
use serde::{Deserialize, Serialize};

use crate::openb::{self, Trace};

/// Pods between two checks of the invariants, which look at every pod.
const CHECK_EVERY: usize = 1000;

/// What came of an experiment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Policy that placed.
    pub policy: Policy,
    /// Pods that arrived.
    pub pods: u32,
    /// Pods that found no place.
    pub failed: u32,
    /// Mean of the GPU allocation in percent of the capacity, by the percent of the capacity that has arrived.
    pub allocation_percent: BTreeMap<u32, f64>,
    /// All bindings, in order: (pod, node, devices).
    #[serde(skip)]
    pub bindings: Vec<(String, String, Vec<u16>)>,
    /// Nodes that the core looked at.
    pub nodes_visited: u64,
}

impl Outcome {
    /// Allocation in percent at some percent arrived (pods that failed count as arrived).
    #[must_use]
    pub fn allocation_at(&self, arrived_percent: u32) -> Option<f64> {
        self.allocation_percent.get(&arrived_percent).copied()
    }
}

/// Runs the experiment: arrival, cycle, no departures. Pods that failed stay pending, as in production; since nothing
/// departs, they never fit later. Stops at the first invariant that does not hold.
pub fn openb(trace: &Trace, policy: Policy) -> Result<Outcome, Vec<Violation>> {
    let mut cluster = Cluster::with_policy(policy);
    if policy == Policy::Fgd {
        // As published, it knows the whole trace's mix from the start. No other policy is told.
        let expected: Vec<_> = trace.pods.iter().map(|pod| pod.fact(Time(0))).collect();
        cluster.expect(&expected);
    }
    for node in &trace.nodes {
        cluster.apply(node.event());
    }
    let capacity = trace.capacity_milli().max(1);
    let asked: BTreeMap<&str, i64> = trace.pods.iter().map(|p| (p.name.as_str(), p.total_milli())).collect();
    let (mut arrived, mut used) = (0_i64, 0_i64);
    let mut samples: BTreeMap<u32, (f64, u32)> = BTreeMap::new();
    let mut outcome = Outcome {
        policy,
        ..Default::default()
    };
    for (index, pod) in trace.pods.iter().enumerate() {
        let now = Time(i64::try_from(index).unwrap_or(i64::MAX));
        cluster.apply(pod.event(now));
        arrived += pod.total_milli();
        for decision in cycle(&mut cluster, now, Budget::default()) {
            if let Decision::Bind { pod, node, devices, .. } = decision {
                used += asked.get(pod.as_str()).copied().unwrap_or_default();
                outcome.bindings.push((pod, node, devices));
            }
        }
        add_sample(&mut samples, bucket(arrived, capacity), percent(used, capacity));
        if index % CHECK_EVERY == 0 {
            cluster.check()?;
        }
    }
    cluster.check()?;
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    outcome.pods = count(trace.pods.len());
    outcome.failed = count(trace.pods.len() - outcome.bindings.len());
    outcome.allocation_percent = means(samples);
    outcome.nodes_visited = cluster.work().nodes_visited;
    Ok(outcome)
}

/// How much of the idle GPUs is fragments under the trace's typical pods, in percent, by the percent of the capacity that
/// has arrived: computed from an experiment's bindings.
#[must_use]
pub fn fragmentation_percent_of_idle(trace: &Trace, outcome: &Outcome) -> BTreeMap<u32, f64> {
    let mut models: Vec<&str> = trace.nodes.iter().map(|node| node.model.as_str()).collect();
    models.extend(
        trace
            .pods
            .iter()
            .flat_map(|pod| pod.gpu_spec.iter().map(String::as_str)),
    );
    models.sort_unstable();
    models.dedup();
    let number = |model: &str| {
        models
            .binary_search(&model)
            .map_or(u32::MAX, |at| u32::try_from(at).unwrap_or(u32::MAX))
    };
    let kind = |pod: &openb::Pod| {
        let mut allowed: Vec<u32> = pod.gpu_spec.iter().map(|model| number(model)).collect();
        allowed.sort_unstable();
        Kind {
            cpu_milli: pod.cpu_milli,
            gpus: pod.num_gpu,
            gpu_milli: if pod.num_gpu == 0 { 0 } else { pod.gpu_milli },
            models: allowed,
        }
    };
    let typical = Typical::of(trace.pods.iter().map(kind));
    let mut nodes: BTreeMap<&str, Occupied> = trace
        .nodes
        .iter()
        .map(|node| (node.name.as_str(), Occupied::new(node, number(&node.model))))
        .collect();
    let fragments = |node: &Occupied| (node.idle().milli(), typical.fragments(&node.idle()));
    let (mut idle, mut broken) = nodes
        .values()
        .map(fragments)
        .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let bound: BTreeMap<&str, (&str, &[u16])> = outcome
        .bindings
        .iter()
        .map(|(pod, node, devices)| (pod.as_str(), (node.as_str(), devices.as_slice())))
        .collect();
    let capacity = trace.capacity_milli().max(1);
    let mut arrived = 0;
    let mut samples: BTreeMap<u32, (f64, u32)> = BTreeMap::new();
    for pod in &trace.pods {
        arrived += pod.total_milli();
        if let Some((node, devices)) = bound.get(pod.name.as_str())
            && let Some(node) = nodes.get_mut(node)
        {
            let before = fragments(node);
            node.take(pod, devices);
            let after = fragments(node);
            idle += after.0 - before.0;
            broken += after.1 - before.1;
        }
        let of_idle = percent(broken, (idle * typical.total()).max(1));
        add_sample(&mut samples, bucket(arrived, capacity), of_idle);
    }
    means(samples)
}

/// What is idle of a node of the trace, device by device.
struct Occupied {
    cpu_milli: i64,
    model: u32,
    free: Vec<u16>,
}

impl Occupied {
    fn new(node: &openb::Node, model: u32) -> Occupied {
        Occupied {
            cpu_milli: node.cpu_milli,
            model,
            free: vec![1000; usize::from(node.gpus)],
        }
    }

    fn take(&mut self, pod: &openb::Pod, devices: &[u16]) {
        self.cpu_milli -= pod.cpu_milli;
        for &device in devices {
            if let Some(free) = self.free.get_mut(usize::from(device)) {
                *free = free.saturating_sub(pod.gpu_milli);
            }
        }
    }

    fn idle(&self) -> Idle {
        let mut idle = Idle {
            cpu_milli: self.cpu_milli,
            model: self.model,
            ..Default::default()
        };
        for (slot, free) in idle.free.iter_mut().zip(&self.free) {
            *slot = *free;
        }
        idle.free.sort_unstable_by(|a, b| b.cmp(a));
        idle
    }
}

/// Whole percents that have arrived, rounded as the published analysis does; a figure is the mean of its samples.
fn bucket(arrived: i64, capacity: i64) -> u32 {
    u32::try_from((arrived * 100 + capacity / 2) / capacity).unwrap_or(u32::MAX)
}

fn add_sample(samples: &mut BTreeMap<u32, (f64, u32)>, bucket: u32, value: f64) {
    let (sum, count) = samples.entry(bucket).or_insert((0.0, 0));
    *sum += value;
    *count += 1;
}

fn means(samples: BTreeMap<u32, (f64, u32)>) -> BTreeMap<u32, f64> {
    let mean = |(at, (sum, count)): (u32, (f64, u32))| (at, sum / f64::from(count));
    samples.into_iter().map(mean).collect()
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a figure for people, below 2^53; nothing is decided by it"
)]
fn percent(part: i64, whole: i64) -> f64 {
    part as f64 * 100.0 / whole as f64
}
