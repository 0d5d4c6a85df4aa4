//! The published openb experiment with the production core: pods arrive once in the given order, none departs, none is
//! retried for its own sake.

use std::collections::BTreeMap;

use duosuan_scheduler::{Budget, Cluster, Decision, Policy, Time, Violation, cycle};
use serde::{Deserialize, Serialize};

use crate::openb::Trace;

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
        // Whole percents, rounded as the published analysis does; a figure is the mean of the samples in its bucket.
        let bucket = u32::try_from((arrived * 100 + capacity / 2) / capacity).unwrap_or(u32::MAX);
        let sample = samples.entry(bucket).or_insert((0.0, 0));
        sample.0 += percent(used, capacity);
        sample.1 += 1;
        if index % CHECK_EVERY == 0 {
            cluster.check()?;
        }
    }
    cluster.check()?;
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    outcome.pods = count(trace.pods.len());
    outcome.failed = count(trace.pods.len() - outcome.bindings.len());
    outcome.allocation_percent = samples
        .into_iter()
        .map(|(at, (sum, n))| (at, sum / f64::from(n)))
        .collect();
    outcome.nodes_visited = cluster.work().nodes_visited;
    Ok(outcome)
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a figure for people, below 2^53; nothing is decided by it"
)]
fn percent(part: i64, whole: i64) -> f64 {
    part as f64 * 100.0 / whole as f64
}
