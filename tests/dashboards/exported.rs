//! What the binaries export, filled by their own code, as Prometheus would read it.

use std::sync::Arc;

use anyhow::{Result, ensure};
use duosuan_controller::{
    index::{ClaimEntry, Index, Waiting},
    measure::Gauges,
    metrics::{CauseResult, Kind, Metrics, ResultLabel},
};
use duosuan_node::{
    agent::Agent, machine::Failure, metrics::Metrics as NodeMetrics, pods::PodInfo, selection::Choice,
    simulated::SimulatedMachine,
};
use duosuan_policy::{
    Answer, CacheUse, Cause, LostWork, Network, Outcome, Policy, Resources, State, Tier,
    action::Slowest,
    eviction::Eviction,
    host::{DiskView, HostView},
    network::Uplink,
    numa::NumaView,
    observation::Paging,
};
use duosuan_scheduler::{
    Cluster, Event,
    event::{Gpu, GpuRequest, Node, Pod, Quota},
};

/// The operator's metrics of a small cluster in which there is something of everything.
///
/// # Errors
///
/// If they cannot be encoded.
pub(crate) fn operator() -> Result<String> {
    let metrics = Metrics::new();
    Gauges::default().measure(&metrics, &index(), &cluster());
    // What is counted as it happens, and not measured of the cluster.
    metrics.cycle_seconds.observe(0.001);
    metrics.decisions.get_or_create(&Kind { kind: "bind" }).inc();
    metrics.binds.get_or_create(&ResultLabel { result: "bound" }).inc();
    metrics
        .evictions
        .get_or_create(&CauseResult {
            cause: "reclaim",
            result: "evicted",
        })
        .inc();
    metrics.watch_restarts.get_or_create(&Kind { kind: "Pod" }).inc();
    metrics.broken_objects.get_or_create(&Kind { kind: "Pod" }).inc();
    metrics.leader.set(1);
    Ok(metrics.encode()?)
}

fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    let amounts = |list: &[(&str, i64)]| {
        list.iter()
            .map(|(name, amount)| ((*name).to_owned(), *amount))
            .collect()
    };
    let node = Node {
        name: "n".into(),
        allocatable: amounts(&[
            ("cpu", 8_000),
            ("memory", 1 << 34),
            ("pods", 110),
            ("duosuan.io/batch-cpu", 4_000),
            ("duosuan.io/batch-memory", 1 << 33),
        ]),
        gpus: vec![Gpu {
            model: "A100".into(),
            memory: 80 << 30,
            ..Gpu::default()
        }],
        ..Node::default()
    };
    let quota = |tier| Quota {
        tier,
        guaranteed: amounts(&[("cpu", 1_000), ("gpu", 1_000), ("memory", 1 << 30)]),
        limit: amounts(&[("cpu", 9_000), ("gpu", 1_000), ("memory", 1 << 35)]),
        ..Quota::default()
    };
    use duosuan_scheduler::{Tier, event::Queue};
    let queue = Queue {
        name: "q".into(),
        weight: 1,
        quotas: vec![quota(Tier::Prod), quota(Tier::Batch)],
        ..Queue::default()
    };
    let pod = |uid: &str, tier, requests: &[(&str, i64)], gpus| Pod {
        uid: uid.into(),
        name: uid.into(),
        queue: "q".into(),
        tier,
        requests: amounts(requests),
        gpus,
        node: Some("n".into()),
        ours: true,
        ..Pod::default()
    };
    let gpu = GpuRequest {
        count: 1,
        milli: 1000,
        memory: 0,
        models: Vec::new(),
    };
    cluster.apply(Event::Node(Box::new(node)));
    cluster.apply(Event::Queue(Box::new(queue)));
    cluster.apply(Event::Pod(Box::new(pod(
        "online",
        Tier::Prod,
        &[("cpu", 2_000), ("memory", 1 << 30)],
        Some(gpu),
    ))));
    let batch = [("duosuan.io/batch-cpu", 1_000), ("duosuan.io/batch-memory", 1 << 30)];
    cluster.apply(Event::Pod(Box::new(pod("batch", Tier::Batch, &batch, None))));
    cluster
}

fn index() -> Index {
    let mut index = Index::default();
    let claim = ClaimEntry {
        uid: "c".into(),
        queue: "q".into(),
        groups: vec![("worker".into(), 1, 1)],
        generation: 1,
        says: None,
        broken: None,
        ignored: vec![],
        misread: None,
    };
    index.claims.insert(("default".into(), "c".into()), claim);
    index.waiting.insert(
        "c".into(),
        Waiting {
            reason: "WaitingForQuota",
            message: String::new(),
        },
    );
    index
}

/// An agent's metrics of a simulated node with prod and batch on it, after some minutes of its own `decide()`.
///
/// # Errors
///
/// If the agent offered nothing in this time, so that some of the metrics stayed empty.
pub(crate) fn agent() -> Result<String> {
    let mut agent = Agent::new(
        SimulatedMachine::new(
            Resources {
                cpu: 8_000,
                memory: 1 << 34,
            },
            1,
        ),
        State::default(),
    );
    agent.follow(Choice::Policy {
        name: "default".into(),
        policy: Policy::default(),
    });
    let pod = |uid: &str, tier, cpu| PodInfo {
        uid: uid.into(),
        name: format!("default/{uid}"),
        node: "n".into(),
        tier,
        requests: Resources { cpu, memory: 1 << 32 },
        burstable: tier != Tier::Batch,
        latency: None,
        evictable: None,
    };
    agent.set_pods(vec![pod("online", Tier::Prod, 4_000), pod("batch", Tier::Batch, 2_000)]);
    let metrics = NodeMetrics::new();
    let mut offered = false;
    for second in 0..600 {
        let mut look = agent.look(second * 1000);
        // No simulated node has a service that is read, or counts its cache.
        look.report.slowest = Some(Slowest {
            service: "default/online".into(),
            milli: 500,
        });
        look.report.cache = Some(CacheUse::default());
        // Nor a kernel that counts its disks and knows NUMA nodes.
        look.report.numa = Arc::new(vec![NumaView {
            usage: look.report.usage,
            ..NumaView::default()
        }]);
        look.report.host = Arc::new(HostView {
            at: Some(look.report.at),
            load: Some([100; 3]),
            paging: Some(Paging::default()),
            disks: vec![DiskView {
                name: "vda".into(),
                ..DiskView::default()
            }],
        });
        // Nor has it a link.
        look.report.network = Some(Network {
            uplink: Some(Uplink::default()),
            ..Network::default()
        });
        for guard in &mut look.report.guards {
            guard.limit = guard.limit.or((guard.name == "network").then_some(1_000_000));
        }
        metrics.record("n", &look.report, &look.acted);
        offered |= look.report.batch_offer().cpu > 0;
    }
    let eviction = Eviction {
        at: 0,
        uid: "batch".into(),
        name: "default/batch".into(),
        gang: None,
        tier: Tier::Batch,
        cause: Cause::Memory,
        notice: 0,
        why: String::new(),
        lost: LostWork::default(),
        outcome: Outcome::Ordered,
    };
    metrics.evicted("n", &eviction, Answer::Evicted);
    ensure!(offered, "the simulated agent offered nothing in ten minutes");
    metrics.report_age("n", 15.0);
    metrics.failures(
        "n",
        &[Failure {
            file: "cpu.max".into(),
            message: String::new(),
        }],
    );
    Ok(metrics.encode())
}
