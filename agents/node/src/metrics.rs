//! Metrics of the agent.

mod host;
mod labels;
mod network;

use std::{hash::Hash, sync::atomic::AtomicU64};

use duosuan_policy::{
    Answer, CacheUse, Capabilities, GuardState, Outcome, Report, Tier,
    action::{MidTerms, Terms, TierWork},
    eviction::Eviction,
};
use prometheus_client::{
    encoding::text,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{self, Gauge},
    },
    registry::{Metric, Registry, Unit},
};

use crate::machine::{Acted, Failure};
use labels::{
    EvictionLabels, FeatureLabels, FileLabels, GroupLabels, GuardLabels, GuardStateLabels, NodeLabels, ReachLabels,
    ResourceLabels, ScopeLabels, TermLabels, TierLabels, WayLabels, WorkLabels,
};

type Float = Gauge<f64, AtomicU64>;

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
    mid_terms: Family<TermLabels, Float>,
    pressure: Family<ScopeLabels, Float>,
    limit: Family<GuardLabels, Float>,
    limit_bytes: Family<GuardLabels, Float>,
    limit_ratio: Family<GuardLabels, Float>,
    limit_bits: Family<GuardLabels, Gauge>,
    reclaimed: Family<NodeLabels, Counter>,
    slow: Family<NodeLabels, Float>,
    occupancy: Family<GroupLabels, Gauge>,
    traffic: Family<GroupLabels, Counter>,
    carried: Family<WayLabels, Counter>,
    dropped: Family<WayLabels, Counter>,
    reach: Family<ReachLabels, Gauge>,
    cuts: Family<GuardLabels, Counter>,
    evictions: Family<EvictionLabels, Counter>,
    closed: Family<NodeLabels, Gauge>,
    state: Family<GuardStateLabels, Gauge>,
    reasserted: Family<NodeLabels, Counter>,
    intended: Family<NodeLabels, Gauge>,
    age: Family<NodeLabels, Float>,
    errors: Family<FileLabels, Counter>,
    features: Family<FeatureLabels, Gauge>,
    host: host::HostMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics that nothing has been recorded in.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("duosuan");
        let r = &mut registry;
        Self {
            capacity: plain(r, "node_capacity", "What the node has: cpu in cores, memory in bytes"),
            usage: plain(r, "node_usage", "Used now, by tier"),
            peak: plain(r, "node_forecast_peak", "Peak that is expected of a tier"),
            bound: plain(r, "node_bound", "Asked for by the pods of a tier"),
            reclaimable: plain(r, "node_reclaimable", "Offered to a tier"),
            memory: with_unit(
                r,
                "node_memory",
                "Memory of a tier, by kind: anonymous, page_cache",
                Unit::Bytes,
            ),
            io: with_unit(
                r,
                "node_io",
                "Moved from and to devices by a tier, by kind: read, written",
                Unit::Bytes,
            ),
            operations: plain(
                r,
                "node_io_operations",
                "Reads and writes of devices by a tier, by kind: read, written",
            ),
            events: plain(
                r,
                "node_tier_events",
                "What a tier suffered, by kind: oom and oom_kill of memory, throttled for periods of CPU in which its own limits stopped it",
            ),
            throttled: with_unit(
                r,
                "node_cpu_throttled",
                "Time for which a tier's own limits stopped it, by kind of limit, summed over CPUs",
                Unit::Seconds,
            ),
            terms: plain(
                r,
                "node_offer_terms",
                "Terms of the offer to batch: target = capacity - margin - system - prod - young, where all are known",
            ),
            mid_terms: plain(
                r,
                "node_mid_offer_terms",
                "Terms of the offer to mid: target = the least of requests - peak, both prod's, of capacity - margin - system - \
                 peak, and of share, where all are known",
            ),
            pressure: plain(r, "node_pressure_ratio", "Share of wall time in which somebody waited"),
            limit: plain(
                r,
                "guard_limit_cores",
                "CPU that the guard allows batch, the node's where unlimited",
            ),
            limit_bytes: plain(
                r,
                "guard_limit_bytes",
                "Memory that the guard allows batch, the node's where unlimited",
            ),
            limit_ratio: plain(
                r,
                "guard_limit_ratio",
                "What the guard allows batch, of the last-level cache, or of the IO that batch did when it was cut; 1 where unlimited",
            ),
            limit_bits: plain(
                r,
                "guard_limit_bits",
                "Bits a second that the guard allows batch to send or to receive, whichever is less; absent where unlimited",
            ),
            reclaimed: with_unit(
                r,
                "reclaimed",
                "Memory that was reclaimed from batch before prod needed it",
                Unit::Bytes,
            ),
            slow: plain(
                r,
                "service_slow_requests_ratio",
                "Requests that took longer than promised, of those that the objective allows to, of the worst service",
            ),
            occupancy: with_unit(r, "llc_occupancy", "Last-level cache in use", Unit::Bytes),
            traffic: with_unit(
                r,
                "memory_traffic",
                "Moved from and to memory, as the processor counts it",
                Unit::Bytes,
            ),
            carried: with_unit(
                r,
                "node_network",
                "What went over the node's link to the outside since the agent's start, and what went over the links of batch's pods, by way: sent, received",
                Unit::Bytes,
            ),
            dropped: plain(
                r,
                "node_network_dropped",
                "Packets of batch that were dropped because they were over its rate, by way: sent, received",
            ),
            reach: plain(
                r,
                "node_network_pods",
                "Pods of batch by whether their traffic can be held: held; apart without a link of their own; taken by hooks of somebody else; refused by the kernel; bypassed by programs before the agent's hooks; unseen",
            ),
            cuts: plain(r, "guard_cuts", "Times that the guard cut batch"),
            evictions: plain(
                r,
                "node_evictions",
                "Evictions of batch and mid from the node, by what came of them: each order counts as Ordered and then by its answer",
            ),
            closed: plain(
                r,
                "node_batch_closed",
                "1 while the node takes nothing new of batch and mid because some was evicted",
            ),
            state: plain(
                r,
                "guard_state",
                "1 for the state that the guard is in, 0 for the others",
            ),
            reasserted: plain(r, "reasserted", "Settings that somebody else had changed back"),
            intended: plain(
                r,
                "intended_settings",
                "Settings that would be made now if the mode were not to observe only",
            ),
            age: with_unit(
                r,
                "report_age",
                "Time since the last report reached the API server",
                Unit::Seconds,
            ),
            errors: plain(r, "kernel_errors", "Kernel files that could not be read or written"),
            features: plain(
                r,
                "node_kernel_feature",
                "1 for what the node's kernel can do of what the agent uses, 0 for what it cannot",
            ),
            host: host::HostMetrics::new(r),
            registry,
        }
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
            show(family, &tier(name, "cpu"), cpu.map(cores));
            show(family, &tier(name, "memory"), memory.map(|v| v as f64));
        };
        for view in &report.tiers {
            let name = view.tier.as_str();
            self.work(node, name, &view.work);
            set(&self.usage, name, view.usage.cpu, view.usage.memory);
            set(&self.bound, name, Some(view.bound.cpu), Some(view.bound.memory));
            if view.tier != Tier::Prod {
                let offered = view.reclaimable;
                set(&self.reclaimable, name, Some(offered.cpu), Some(offered.memory));
            }
            if view.tier != Tier::Batch {
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
        let [cpu, memory] = &report.mid_terms;
        self.mid_terms(node, "cpu", cpu, cores);
        self.mid_terms(node, "memory", memory, |bytes| bytes as f64);
        let pressure = |scope, resource, stall: Option<i64>| {
            let labels = ScopeLabels {
                node: node.to_owned(),
                scope,
                resource,
            };
            show(&self.pressure, &labels, stall.map(|v| v as f64 / 1000.0));
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
            if guard.name == "network" {
                // How fast the link is, is not always known.
                show(&self.limit_bits, &labels, guard.limit);
            } else {
                family.get_or_create(&labels).set(limit);
            }
            raise(&self.cuts.get_or_create(&labels), guard.cuts);
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
            self.count_eviction(node, eviction, eviction.outcome);
        }
        let labels = NodeLabels { node: node.to_owned() };
        show(
            &self.slow,
            &labels,
            report.slowest.as_ref().map(|slowest| cores(slowest.milli)),
        );
        self.cache(node, report.cache);
        self.host.record(node, report);
        self.network(node, report.network.as_ref());
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
            show(&self.memory, &labels, bytes);
        }
        let mut count = |family: &Family<WorkLabels, Counter>, kind, value: u64| {
            labels.kind = kind;
            raise(&family.get_or_create(&labels), value);
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
            show(&self.terms, &labels, value.map(&amount));
        }
    }

    fn mid_terms(&self, node: &str, resource: &'static str, terms: &MidTerms, amount: impl Fn(i64) -> f64) {
        // Capacity, margin and system are as in batch's.
        for (term, value) in [
            ("requests", Some(terms.requests)),
            ("peak", terms.peak),
            ("share", Some(terms.share)),
            ("target", terms.target()),
        ] {
            let labels = TermLabels {
                node: node.to_owned(),
                resource,
                term,
            };
            show(&self.mid_terms, &labels, value.map(&amount));
        }
    }

    fn cache(&self, node: &str, used: Option<CacheUse>) {
        let used = used.map(|u| [(u.batch_bytes, u.batch_traffic), (u.others_bytes, u.others_traffic)]);
        for (at, group) in ["batch", "others"].into_iter().enumerate() {
            let node = node.to_owned();
            let labels = GroupLabels { node, group };
            let used = used.and_then(|u| u.get(at).copied());
            let bytes = used.map(|(bytes, _)| i64::try_from(bytes).unwrap_or(i64::MAX));
            show(&self.occupancy, &labels, bytes);
            let Some((_, traffic)) = used else {
                continue;
            };
            raise_anew(&self.traffic, &labels, traffic);
        }
    }

    /// Counts what became of an order to evict a pod.
    pub fn evicted(&self, node: &str, eviction: &Eviction, answer: Answer) {
        self.count_eviction(node, eviction, answer.outcome());
    }

    fn count_eviction(&self, node: &str, eviction: &Eviction, outcome: Outcome) {
        let labels = EvictionLabels {
            node: node.to_owned(),
            tier: eviction.tier.as_str(),
            cause: eviction.cause.as_str(),
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

/// A metric in the registry.
fn plain<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// The same of which the name says the unit, too.
fn with_unit<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str, unit: Unit) -> M {
    let metric = M::default();
    registry.register_with_unit(name, help, unit, metric.clone());
    metric
}

/// Shows a value; what is not known is not shown, since zero would be a lie.
fn show<L, V, A>(family: &Family<L, Gauge<V, A>>, labels: &L, value: Option<V>)
where
    L: Clone + Hash + Eq,
    A: gauge::Atomic<V>,
    Gauge<V, A>: Default,
{
    match value {
        Some(value) => drop(family.get_or_create(labels).set(value)),
        None => drop(family.remove(labels)),
    }
}

/// Raises a counter to what was counted elsewhere; where that began anew, from there.
fn raise_anew<L: Clone + Hash + Eq>(family: &Family<L, Counter>, labels: &L, to: u64) {
    if to < family.get_or_create(labels).get() {
        family.remove(labels);
    }
    raise(&family.get_or_create(labels), to);
}

/// Raises a counter to what was counted elsewhere.
fn raise(counter: &Counter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}
