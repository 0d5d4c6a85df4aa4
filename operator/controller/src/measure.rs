//! What is measured of the cluster, once a second: counts of the index, and use and capacity by the core's word.

use std::collections::BTreeMap;

use duosuan_crds::{QueueStatus, claim::Phase};
use duosuan_scheduler::Cluster;

use crate::{
    index::Index,
    metrics::{Metrics, QueuePhase, ReasonLabel, State},
};

/// Name of the queue of those that name none.
const DEFAULT_QUEUE: &str = "default";

fn or_default(queue: &str) -> &str {
    if queue.is_empty() { DEFAULT_QUEUE } else { queue }
}

/// Sets all gauges.
pub fn measure(metrics: &Metrics, index: &Index, _cluster: &Cluster) {
    let live = || index.pods.values().filter(|p| !p.finished);
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    metrics
        .pods
        .get_or_create(&State { state: "bound" })
        .set(count(live().filter(|p| p.bound).count()));
    metrics
        .pods
        .get_or_create(&State { state: "pending" })
        .set(count(live().filter(|p| !p.bound).count()));

    let mut claims: BTreeMap<(&str, &'static str), i64> = BTreeMap::new();
    for claim in index.claims.values() {
        let phase = phase_name(claim.says.as_ref().map_or(Phase::Pending, |s| s.phase));
        let sum = claims.entry((or_default(&claim.queue), phase)).or_default();
        *sum = sum.saturating_add(1);
    }
    metrics.claims.clear();
    for ((queue, phase), sum) in claims {
        metrics
            .claims
            .get_or_create(&QueuePhase {
                queue: queue.to_owned(),
                phase,
            })
            .set(sum);
    }

    let mut reasons: BTreeMap<&'static str, i64> = BTreeMap::new();
    for waiting in index.waiting.values() {
        let sum = reasons.entry(waiting.reason).or_default();
        *sum = sum.saturating_add(1);
    }
    metrics.pending_claims.clear();
    for (reason, sum) in reasons {
        metrics.pending_claims.get_or_create(&ReasonLabel { reason }).set(sum);
    }
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Finished => "Finished",
    }
}

/// Statuses that queues shall have and do not have.
pub fn queues(index: &Index, _cluster: &Cluster) -> Vec<(String, QueueStatus)> {
    let mut counts: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    let mut add = |queue, running: bool| {
        let (pending, run) = counts.entry(or_default(queue)).or_default();
        let count = if running { run } else { pending };
        *count = count.saturating_add(1);
    };
    for claim in index.claims.values() {
        match claim.says.as_ref().map_or(Phase::Pending, |s| s.phase) {
            Phase::Finished => {}
            phase => add(&claim.queue, phase == Phase::Running),
        }
    }
    for pod in index.pods.values().filter(|p| p.claim.is_none() && !p.finished) {
        add(&pod.queue, pod.bound);
    }
    let mut changed = Vec::new();
    for (name, queue) in &index.queues {
        let (pending, running) = counts.get(name.as_str()).copied().unwrap_or_default();
        let says = queue.says.clone();
        let wanted = QueueStatus {
            pending,
            running,
            ..says.clone().unwrap_or_default()
        };
        if says.as_ref() != Some(&wanted) {
            changed.push((name.clone(), wanted));
        }
    }
    changed
}
