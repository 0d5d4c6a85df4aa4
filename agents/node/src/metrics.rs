//! Metrics of the agent.

use std::sync::atomic::AtomicU64;

use duosuan_policy::{
    Answer, CacheUse, Capabilities, GuardState, Outcome, Report, Tier,
    action::{Terms, TierWork},
    eviction::{Cause, Eviction},
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::machine::{Acted, Failure};

type Float = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct NodeLabels {
    node: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResourceLabels {
    node: String,
    resource: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TierLabels {
    node: String,
    tier: &'static str,
    resource: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WorkLabels {
    node: String,
    tier: &'static str,
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TermLabels {
    node: String,
    resource: &'static str,
    term: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ScopeLabels {
    node: String,
    scope: &'static str,
    resource: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct GroupLabels {
    node: String,
    group: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct GuardLabels {
    node: String,
    guard: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct GuardStateLabels {
    node: String,
    guard: String,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FileLabels {
    node: String,
    file: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FeatureLabels {
    node: String,
    feature: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EvictionLabels {
    node: String,
    cause: &'static str,
    outcome: &'static str,
}

/// Metrics of one agent, or of a fleet of simulated ones. CPU is in cores, memory in bytes.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    capacity: Family<ResourceLabels, Float>,
    usage: Family<TierLabels, Float>,
    peak: Family<TierLabels, Float>,
    bound: Family<TierLabels, Float>,
    reclaimable: Family<TierLabels, Float>,
    memory: Family<WorkLabels, Gauge>,
    io: Family<WorkLabels, Counter>,
    operations: Family<WorkLabels, Counter>,
    events: Family<WorkLabels, Counter>,
    throttled: Family<WorkLabels, Counter<f64, AtomicU64>>,
    terms: Family<TermLabels, Float>,
    pressure: Family<ScopeLabels, Float>,
    limit: Family<GuardLabels, Float>,
    limit_bytes: Family<GuardLabels, Float>,
    limit_ratio: Family<GuardLabels, Float>,
    reclaimed: Family<NodeLabels, Counter>,
    slow: Family<NodeLabels, Float>,
    occupancy: Family<GroupLabels, Gauge>,
    traffic: Family<GroupLabels, Counter>,
    cuts: Family<GuardLabels, Counter>,
    evictions: Family<EvictionLabels, Counter>,
    closed: Family<NodeLabels, Gauge>,
    state: Family<GuardStateLabels, Gauge>,
    reasserted: Family<NodeLabels, Counter>,
    intended: Family<NodeLabels, Gauge>,
    age: Family<NodeLabels, Float>,
    errors: Family<FileLabels, Counter>,
    features: Family<FeatureLabels, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics that nothing has been recorded in.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("duosuan"),
            capacity: Family::default(),
            usage: Family::default(),
            peak: Family::default(),
            bound: Family::default(),
            reclaimable: Family::default(),
            memory: Family::default(),
            io: Family::default(),
            operations: Family::default(),
            events: Family::default(),
            throttled: Family::default(),
            terms: Family::default(),
            pressure: Family::default(),
            limit: Family::default(),
            limit_bytes: Family::default(),
            limit_ratio: Family::default(),
            reclaimed: Family::default(),
            slow: Family::default(),
            occupancy: Family::default(),
            traffic: Family::default(),
            cuts: Family::default(),
            evictions: Family::default(),
            closed: Family::default(),
            state: Family::default(),
            reasserted: Family::default(),
            intended: Family::default(),
            age: Family::default(),
            errors: Family::default(),
            features: Family::default(),
        };
        let r = &mut metrics.registry;
        r.register(
            "node_capacity",
            "What the node has: cpu in cores, memory in bytes",
            metrics.capacity.clone(),
        );
        r.register("node_usage", "Used now, by tier", metrics.usage.clone());
        r.register(
            "node_forecast_peak",
            "Peak that is expected of a tier",
            metrics.peak.clone(),
        );
        r.register("node_bound", "Asked for by the pods of a tier", metrics.bound.clone());
        r.register("node_reclaimable", "Offered to a tier", metrics.reclaimable.clone());
        r.register_with_unit(
            "node_memory",
            "Memory of a tier, by kind: anonymous, page_cache",
            Unit::Bytes,
            metrics.memory.clone(),
        );
        r.register_with_unit(
            "node_io",
            "Moved from and to devices by a tier, by kind: read, written",
            Unit::Bytes,
            metrics.io.clone(),
        );
        r.register(
            "node_io_operations",
            "Reads and writes of devices by a tier, by kind: read, written",
            metrics.operations.clone(),
        );
        r.register(
            "node_tier_events",
            "What a tier suffered, by kind: oom and oom_kill of memory, throttled for periods of CPU in which its own limits stopped it",
            metrics.events.clone(),
        );
        r.register_with_unit(
            "node_cpu_throttled",
            "Time for which a tier's own limits stopped it, by kind of limit, summed over CPUs",
            Unit::Seconds,
            metrics.throttled.clone(),
        );
        r.register(
            "node_offer_terms",
            "Terms of the offer to batch: target = capacity - margin - system - prod - young, where all are known",
            metrics.terms.clone(),
        );
        r.register(
            "node_pressure_ratio",
            "Share of wall time in which somebody waited",
            metrics.pressure.clone(),
        );
        r.register(
            "guard_limit_cores",
            "CPU that the guard allows batch, the node's where unlimited",
            metrics.limit.clone(),
        );
        r.register(
            "guard_limit_bytes",
            "Memory that the guard allows batch, the node's where unlimited",
            metrics.limit_bytes.clone(),
        );
        r.register(
            "guard_limit_ratio",
            "What the guard allows batch, of the last-level cache, or of the IO that batch did when it was cut; 1 where unlimited",
            metrics.limit_ratio.clone(),
        );
        r.register_with_unit(
            "reclaimed",
            "Memory that was reclaimed from batch before prod needed it",
            Unit::Bytes,
            metrics.reclaimed.clone(),
        );
        r.register(
            "service_slow_requests_ratio",
            "Requests that took longer than promised, of those that the objective allows to, of the worst service",
            metrics.slow.clone(),
        );
        let occupancy = metrics.occupancy.clone();
        r.register_with_unit("llc_occupancy", "Last-level cache in use", Unit::Bytes, occupancy);
        r.register_with_unit(
            "memory_traffic",
            "Moved from and to memory, as the processor counts it",
            Unit::Bytes,
            metrics.traffic.clone(),
        );
        r.register("guard_cuts", "Times that the guard cut batch", metrics.cuts.clone());
        r.register(
            "node_evictions",
            "Evictions of batch from the node, by what came of them: each order counts as Ordered and then by its answer",
            metrics.evictions.clone(),
        );
        r.register(
            "node_batch_closed",
            "1 while the node takes no new batch because batch was evicted",
            metrics.closed.clone(),
        );
        r.register(
            "guard_state",
            "1 for the state that the guard is in, 0 for the others",
            metrics.state.clone(),
        );
        r.register(
            "reasserted",
            "Settings that somebody else had changed back",
            metrics.reasserted.clone(),
        );
        r.register(
            "intended_settings",
            "Settings that would be made now if the mode were not to observe only",
            metrics.intended.clone(),
        );
        let age = metrics.age.clone();
        r.register_with_unit(
            "report_age",
            "Time since the last report reached the API server",
            Unit::Seconds,
            age,
        );
        r.register(
            "kernel_errors",
            "Kernel files that could not be read or written",
            metrics.errors.clone(),
        );
        r.register(
            "node_kernel_feature",
            "1 for what the node's kernel can do of what the agent uses, 0 for what it cannot",
            metrics.features.clone(),
        );
        metrics
    }

    /// Records one look at a node.
    pub fn record(&self, node: &str, report: &Report, acted: &Acted) {
        let cores = |milli: i64| milli as f64 / 1000.0;
        let capacity = |resource| ResourceLabels {
            node: node.to_owned(),
            resource,
        };
        self.capacity
            .get_or_create(&capacity("cpu"))
            .set(cores(report.capacity.cpu));
        self.capacity
            .get_or_create(&capacity("memory"))
            .set(report.capacity.memory as f64);
        let tier = |tier: &'static str, resource| TierLabels {
            node: node.to_owned(),
            tier,
            resource,
        };
        let set = |family: &Family<TierLabels, Float>, name, cpu: Option<i64>, memory: Option<i64>| {
            // What is not known is not shown; zero would be a lie.
            match cpu {
                Some(v) => drop(family.get_or_create(&tier(name, "cpu")).set(cores(v))),
                None => drop(family.remove(&tier(name, "cpu"))),
            }
            match memory {
                Some(v) => drop(family.get_or_create(&tier(name, "memory")).set(v as f64)),
                None => drop(family.remove(&tier(name, "memory"))),
            }
        };
        for view in &report.tiers {
            let name = view.tier.as_str();
            self.work(node, name, &view.work);
            set(&self.usage, name, view.usage.cpu, view.usage.memory);
            set(&self.bound, name, Some(view.bound.cpu), Some(view.bound.memory));
            if view.tier == Tier::Batch {
                set(
                    &self.reclaimable,
                    name,
                    Some(view.reclaimable.cpu),
                    Some(view.reclaimable.memory),
                );
            } else {
                set(&self.peak, name, view.peak.cpu, view.peak.memory);
            }
        }
        set(&self.usage, "system", report.system.cpu, report.system.memory);
        set(
            &self.peak,
            "system",
            report.cpu_terms.system,
            report.memory_terms.system,
        );
        self.terms(node, "cpu", &report.cpu_terms, cores);
        self.terms(node, "memory", &report.memory_terms, |bytes| bytes as f64);
        let pressure = |scope, resource, stall: Option<i64>| {
            let labels = ScopeLabels {
                node: node.to_owned(),
                scope,
                resource,
            };
            match stall {
                Some(v) => drop(self.pressure.get_or_create(&labels).set(v as f64 / 1000.0)),
                None => drop(self.pressure.remove(&labels)),
            }
        };
        pressure("node", "cpu", report.node_stall.cpu);
        pressure("node", "memory", report.node_stall.memory);
        pressure("node", "io", report.node_stall.io);
        pressure("prod", "cpu", report.prod_stall.cpu);
        pressure("prod", "memory", report.prod_stall.memory);
        pressure("prod", "io", report.prod_stall.io);
        pressure("batch", "cpu", report.batch_stall);
        for guard in &report.guards {
            let labels = GuardLabels {
                node: node.to_owned(),
                guard: guard.name.clone(),
            };
            let (family, limit) = match guard.name.as_str() {
                "memory" => (&self.limit_bytes, guard.limit.unwrap_or(report.capacity.memory) as f64),
                "io" | "llc" => (&self.limit_ratio, cores(guard.limit.unwrap_or(1000))),
                _ => (&self.limit, cores(guard.limit.unwrap_or(report.capacity.cpu))),
            };
            family.get_or_create(&labels).set(limit);
            let cuts = self.cuts.get_or_create(&labels);
            cuts.inc_by(guard.cuts.saturating_sub(cuts.get()));
            for state in GuardState::ALL {
                let labels = GuardStateLabels {
                    node: node.to_owned(),
                    guard: guard.name.clone(),
                    state: state.as_str(),
                };
                self.state.get_or_create(&labels).set(i64::from(state == guard.state));
            }
        }
        for eviction in &report.eviction.decided {
            self.count_eviction(node, eviction.cause, eviction.outcome);
        }
        let labels = NodeLabels { node: node.to_owned() };
        match &report.slowest {
            Some(slowest) => drop(self.slow.get_or_create(&labels).set(cores(slowest.milli))),
            None => drop(self.slow.remove(&labels)),
        }
        self.cache(node, report.cache);
        self.closed
            .get_or_create(&labels)
            .set(i64::from(report.eviction.closed));
        self.reasserted.get_or_create(&labels).inc_by(acted.reasserted);
        let intended = i64::try_from(report.intended.len()).unwrap_or(i64::MAX);
        self.intended.get_or_create(&labels).set(intended);
        self.reclaimed.get_or_create(&labels).inc_by(acted.reclaimed);
        self.failures(node, &acted.failed);
    }

    fn work(&self, node: &str, tier: &'static str, work: &TierWork) {
        // One set of labels for all.
        let mut labels = WorkLabels {
            node: node.to_owned(),
            tier,
            kind: "",
        };
        for (kind, bytes) in [("anonymous", work.anonymous), ("page_cache", work.page_cache)] {
            labels.kind = kind;
            match bytes {
                Some(bytes) => drop(self.memory.get_or_create(&labels).set(bytes)),
                None => drop(self.memory.remove(&labels)),
            }
        }
        let mut count = |family: &Family<WorkLabels, Counter>, kind, value: u64| {
            labels.kind = kind;
            let counter = family.get_or_create(&labels);
            counter.inc_by(value.saturating_sub(counter.get()));
        };
        count(&self.io, "read", work.io.read_bytes);
        count(&self.io, "written", work.io.written_bytes);
        count(&self.operations, "read", work.io.reads);
        count(&self.operations, "written", work.io.writes);
        count(&self.events, "oom", work.ooms);
        count(&self.events, "oom_kill", work.oom_kills);
        count(&self.events, "throttled", work.throttled_periods);
        labels.kind = "cpu.max";
        let throttled = self.throttled.get_or_create(&labels);
        throttled.inc_by((work.throttled as f64 / 1e6 - throttled.get()).max(0.0));
    }

    fn terms(&self, node: &str, resource: &'static str, terms: &Terms, amount: impl Fn(i64) -> f64) {
        for (term, value) in [
            ("capacity", Some(terms.capacity)),
            ("margin", Some(terms.margin)),
            ("system", terms.system),
            ("prod", terms.firm),
            ("young", Some(terms.young)),
            ("target", terms.target()),
        ] {
            let labels = TermLabels {
                node: node.to_owned(),
                resource,
                term,
            };
            match value {
                Some(value) => drop(self.terms.get_or_create(&labels).set(amount(value))),
                None => drop(self.terms.remove(&labels)),
            }
        }
    }

    fn cache(&self, node: &str, used: Option<CacheUse>) {
        let used = used.map(|u| [(u.batch_bytes, u.batch_traffic), (u.others_bytes, u.others_traffic)]);
        for (at, group) in ["batch", "others"].into_iter().enumerate() {
            let node = node.to_owned();
            let labels = GroupLabels { node, group };
            let Some((bytes, traffic)) = used.and_then(|u| u.get(at).copied()) else {
                self.occupancy.remove(&labels);
                continue;
            };
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            self.occupancy.get_or_create(&labels).set(bytes);
            let before = self.traffic.get_or_create(&labels).get();
            if traffic < before {
                // The group was made anew, and counts from there.
                self.traffic.remove(&labels);
            }
            let counter = self.traffic.get_or_create(&labels);
            counter.inc_by(traffic.saturating_sub(counter.get()));
        }
    }

    /// Counts what became of an order to evict a pod.
    pub fn evicted(&self, node: &str, eviction: &Eviction, answer: Answer) {
        let outcome = match answer {
            Answer::Evicted => Outcome::Evicted,
            Answer::Refused => Outcome::Refused,
            Answer::Failed => Outcome::Failed,
        };
        self.count_eviction(node, eviction.cause, outcome);
    }

    fn count_eviction(&self, node: &str, cause: Cause, outcome: Outcome) {
        let labels = EvictionLabels {
            node: node.to_owned(),
            cause: cause.as_str(),
            outcome: outcome.as_str(),
        };
        self.evictions.get_or_create(&labels).inc();
    }

    /// Records what the node's kernel can do.
    pub fn features(&self, node: &str, capabilities: &Capabilities) {
        for (feature, there) in capabilities.features() {
            let node = node.to_owned();
            let labels = FeatureLabels { node, feature };
            self.features.get_or_create(&labels).set(i64::from(there));
        }
    }

    /// Counts kernel files that failed.
    pub fn failures(&self, node: &str, failed: &[Failure]) {
        for failure in failed {
            self.errors
                .get_or_create(&FileLabels {
                    node: node.to_owned(),
                    file: failure.file.clone(),
                })
                .inc();
        }
    }

    /// Records the age of the last report that reached the API server.
    pub fn report_age(&self, node: &str, seconds: f64) {
        self.age
            .get_or_create(&NodeLabels { node: node.to_owned() })
            .set(seconds);
    }

    /// Everything in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        if let Err(error) = text::encode(&mut out, &self.registry) {
            tracing::error!("metrics cannot be encoded: {error}");
        }
        out
    }
}
