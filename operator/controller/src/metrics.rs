//! What the operator measures of itself and of the cluster. Labels are bounded: kinds, reasons, tiers and resources
//! are closed sets, and queues are as many as an administrator made.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// A gauge of a fraction or an amount.
pub type Amount = Gauge<f64, AtomicU64>;

/// Label `kind`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Kind {
    /// Kind of the decision or of the watched objects.
    pub kind: &'static str,
}

/// Label `state`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct State {
    /// `pending` or `bound`.
    pub state: &'static str,
}

/// Labels `queue` and `phase`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
pub struct QueuePhase {
    /// Queue.
    pub queue: String,
    /// Phase of the claim.
    pub phase: &'static str,
}

/// Label `reason`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
pub struct ReasonLabel {
    /// Name of the reason.
    pub reason: &'static str,
}

/// Labels `queue`, `tier` and `resource`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
pub struct QueueResource {
    /// Queue.
    pub queue: String,
    /// Tier.
    pub tier: &'static str,
    /// Resource, in the name that it has in prod.
    pub resource: String,
}

/// Labels `tier` and `resource`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
pub struct TierResource {
    /// Tier.
    pub tier: &'static str,
    /// Resource, in the name that it has in prod.
    pub resource: &'static str,
}

/// Label `result`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ResultLabel {
    /// What came of a request.
    pub result: &'static str,
}

/// Labels `cause` and `result`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct CauseResult {
    /// Why the pod was evicted.
    pub cause: &'static str,
    /// What came of the request.
    pub result: &'static str,
}

/// All metrics. Cheap to clone: every clone counts into the same registry.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Duration of a scheduling cycle.
    pub cycle_seconds: Histogram,
    /// Decisions, by kind.
    pub decisions: Family<Kind, Counter>,
    /// Pods of this scheduler, by state.
    pub pods: Family<State, Gauge>,
    /// Claims, by queue and phase.
    pub claims: Family<QueuePhase, Gauge>,
    /// Claims and pods without one that wait, by reason.
    pub pending_claims: Family<ReasonLabel, Gauge>,
    /// What the pods of a queue use.
    pub queue_used: Family<QueueResource, Amount>,
    /// What a queue is guaranteed.
    pub queue_guaranteed: Family<QueueResource, Amount>,
    /// What a queue never exceeds.
    pub queue_limit: Family<QueueResource, Amount>,
    /// What the nodes offer.
    pub capacity: Family<TierResource, Amount>,
    /// What bound pods hold of it.
    pub allocated: Family<TierResource, Amount>,
    /// Bindings, by result.
    pub binds: Family<ResultLabel, Counter>,
    /// Evictions, by cause and result.
    pub evictions: Family<CauseResult, Counter>,
    /// Events that were not written because the queue was full.
    pub events_dropped: Counter,
    /// Times that a watch failed and was started again.
    pub watch_restarts: Family<Kind, Counter>,
    /// Objects that cannot be understood and were left out.
    pub broken_objects: Family<Kind, Counter>,
    /// Times that a debug build found an invariant of the core broken.
    pub violations: Counter,
    /// 1 if this instance decides and writes.
    pub leader: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Bounds of the cycle's histogram: 100 us x 2^n, up to 3.3 s.
const CYCLE_BUCKETS: u16 = 16;

impl Metrics {
    /// New metrics in a registry of their own.
    pub fn new() -> Self {
        let buckets = prometheus_client::metrics::histogram::exponential_buckets(0.0001, 2.0, CYCLE_BUCKETS);
        let mut metrics = Self {
            registry: Arc::new(Registry::default()),
            cycle_seconds: Histogram::new(buckets),
            decisions: Family::default(),
            pods: Family::default(),
            claims: Family::default(),
            pending_claims: Family::default(),
            queue_used: Family::default(),
            queue_guaranteed: Family::default(),
            queue_limit: Family::default(),
            capacity: Family::default(),
            allocated: Family::default(),
            binds: Family::default(),
            evictions: Family::default(),
            events_dropped: Counter::default(),
            watch_restarts: Family::default(),
            broken_objects: Family::default(),
            violations: Counter::default(),
            leader: Gauge::default(),
        };
        let mut all = Registry::default();
        let r = all.sub_registry_with_prefix("duosuan");
        r.register_with_unit(
            "cycle",
            "Duration of a scheduling cycle",
            Unit::Seconds,
            metrics.cycle_seconds.clone(),
        );
        r.register(
            "decisions",
            "Decisions of the scheduling core",
            metrics.decisions.clone(),
        );
        r.register(
            "pods",
            "Pods of this scheduler that have not ended",
            metrics.pods.clone(),
        );
        r.register("claims", "Capacity claims by queue and phase", metrics.claims.clone());
        r.register(
            "pending_claims",
            "Claims, and pods without one, that wait, by reason",
            metrics.pending_claims.clone(),
        );
        r.register(
            "queue_used",
            "What the pods of a queue use, in cores, bytes or devices",
            metrics.queue_used.clone(),
        );
        r.register(
            "queue_guaranteed",
            "What a queue gets back whenever it asks",
            metrics.queue_guaranteed.clone(),
        );
        r.register("queue_limit", "What a queue never exceeds", metrics.queue_limit.clone());
        r.register(
            "capacity",
            "What the nodes offer, in cores, bytes or devices",
            metrics.capacity.clone(),
        );
        r.register(
            "allocated",
            "What bound pods hold, in cores, bytes or devices",
            metrics.allocated.clone(),
        );
        r.register("binds", "Bindings by result", metrics.binds.clone());
        r.register("evictions", "Evictions by cause and result", metrics.evictions.clone());
        r.register(
            "events_dropped",
            "Events that were not written since the queue was full",
            metrics.events_dropped.clone(),
        );
        r.register(
            "watch_restarts",
            "Times that a watch failed and was started again",
            metrics.watch_restarts.clone(),
        );
        r.register(
            "broken_objects",
            "Objects that could not be understood and were left out",
            metrics.broken_objects.clone(),
        );
        r.register(
            "invariant_violations",
            "Times that a debug build found an invariant of the core broken",
            metrics.violations.clone(),
        );
        r.register(
            "leader",
            "1 if this instance decides and writes",
            metrics.leader.clone(),
        );
        metrics.registry = Arc::new(all);
        metrics
    }

    /// All metrics in the OpenMetrics text format.
    ///
    /// # Errors
    ///
    /// If a metric cannot be written, which would be a mistake of its encoder.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn names_carry_prefix_unit_and_total() {
        let metrics = Metrics::new();
        metrics.cycle_seconds.observe(0.001);
        metrics.binds.get_or_create(&ResultLabel { result: "bound" }).inc();
        metrics.leader.set(1);
        let text = metrics.encode().unwrap();
        for line in [
            "duosuan_cycle_seconds_count 1",
            "duosuan_binds_total{result=\"bound\"} 1",
            "duosuan_leader 1",
            "duosuan_events_dropped_total 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
