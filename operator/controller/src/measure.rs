//! What is measured of the cluster, once a second: counts of the index, and use and capacity by the core's word.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hash,
};

use duosuan_crds::{QueueStatus, claim::Phase, queue::TierUse};
use duosuan_scheduler::{
    Cluster, Tier,
    query::{ByResource, QueueView},
};
use k8s_openapi::{apimachinery::pkg::api::resource::Quantity, jiff::Timestamp};
use prometheus_client::metrics::family::{Family, MetricConstructor};

use crate::{
    index::{Index, QueueEntry},
    metrics::{Amount, Metrics, QueuePhase, QueueResource, ReasonLabel, State, TierResource},
    status::{USABLE, honoured, usable},
};

/// Resources that are measured: nodes may have any number of others, and labels are bounded.
const MEASURED: [&str; 3] = ["cpu", "gpu", "memory"];

/// Sets all gauges, and takes away those of what is gone.
#[derive(Debug, Default)]
pub struct Gauges {
    claims: BTreeSet<QueuePhase>,
    reasons: BTreeSet<ReasonLabel>,
    used: BTreeSet<QueueResource>,
    guaranteed: BTreeSet<QueueResource>,
    limit: BTreeSet<QueueResource>,
}

impl Gauges {
    /// Measures everything.
    pub fn measure(&mut self, metrics: &Metrics, index: &Index, cluster: &Cluster) {
        let pods = cluster.pods();
        metrics
            .pods
            .get_or_create(&State { state: "bound" })
            .set(pods.bound.into());
        metrics
            .pods
            .get_or_create(&State { state: "pending" })
            .set(pods.pending.into());

        let mut claims: BTreeMap<QueuePhase, i64> = BTreeMap::new();
        for claim in index.claims.values() {
            let phase = phase_name(claim.says.as_ref().map_or(Phase::Pending, |s| s.phase));
            let sum = claims
                .entry(QueuePhase {
                    queue: claim.queue.clone(),
                    phase,
                })
                .or_default();
            *sum = sum.saturating_add(1);
        }
        replace(&metrics.claims, &mut self.claims, claims, |gauge, value| {
            gauge.set(value);
        });

        let mut reasons: BTreeMap<ReasonLabel, i64> = BTreeMap::new();
        for waiting in index.waiting.values() {
            let sum = reasons.entry(ReasonLabel { reason: waiting.reason }).or_default();
            *sum = sum.saturating_add(1);
        }
        replace(&metrics.pending_claims, &mut self.reasons, reasons, |gauge, value| {
            gauge.set(value);
        });

        for tier in cluster.tiers() {
            for resource in MEASURED {
                let labels = TierResource {
                    tier: tier.tier.as_str(),
                    resource,
                };
                let of = |amounts: &ByResource| whole(resource, amounts.get(resource).copied().unwrap_or_default());
                metrics.capacity.get_or_create(&labels).set(of(&tier.capacity));
                metrics.allocated.get_or_create(&labels).set(of(&tier.allocated));
            }
        }

        let (mut used, mut guaranteed, mut limit) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for queue in cluster.queues() {
            for tier in &queue.tiers {
                collect(&mut used, &queue.name, tier.tier, &tier.used);
                collect(&mut guaranteed, &queue.name, tier.tier, &tier.guaranteed);
                collect(&mut limit, &queue.name, tier.tier, &tier.limit);
            }
        }
        let set = |gauge: &Amount, value: f64| {
            gauge.set(value);
        };
        replace(&metrics.queue_used, &mut self.used, used, set);
        replace(&metrics.queue_guaranteed, &mut self.guaranteed, guaranteed, set);
        replace(&metrics.queue_limit, &mut self.limit, limit, set);
    }
}

fn collect(into: &mut BTreeMap<QueueResource, f64>, queue: &str, tier: Tier, amounts: &ByResource) {
    for resource in MEASURED {
        if let Some(amount) = amounts.get(resource) {
            let labels = QueueResource {
                queue: queue.to_owned(),
                tier: tier.as_str(),
                resource: resource.to_owned(),
            };
            into.insert(labels, whole(resource, *amount));
        }
    }
}

/// Sets the gauges of `now`, and removes those of `before` that are not among them.
fn replace<L, G, V>(family: &Family<L, G>, before: &mut BTreeSet<L>, now: BTreeMap<L, V>, set: impl Fn(&G, V))
where
    L: Clone + Hash + Ord,
    G: Clone,
    fn() -> G: MetricConstructor<G>,
{
    for gone in before.iter().filter(|labels| !now.contains_key(*labels)) {
        family.remove(gone);
    }
    *before = now.keys().cloned().collect();
    for (labels, value) in now {
        set(&family.get_or_create(&labels), value);
    }
}

/// An amount in the unit that people use: cores, devices, bytes.
#[allow(clippy::cast_precision_loss, reason = "a gauge is a float; 2^53 bytes are 8 PiB")]
fn whole(resource: &str, amount: i64) -> f64 {
    if in_thousandths(resource) {
        amount as f64 / 1000.0
    } else {
        amount as f64
    }
}

fn in_thousandths(resource: &str) -> bool {
    matches!(resource, "cpu" | "gpu")
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Finished => "Finished",
    }
}

/// Statuses that queues shall have and do not have.
pub fn queues(index: &Index, cluster: &Cluster, now: Timestamp) -> Vec<(String, QueueStatus)> {
    let mut changed = Vec::new();
    for view in cluster.queues() {
        let Some(queue) = index.queues.get(&view.name) else {
            continue;
        };
        let wanted = wanted(&view, queue, now);
        if queue.says.as_ref() != Some(&wanted) {
            changed.push((view.name, wanted));
        }
    }
    changed
}

fn wanted(view: &QueueView, queue: &QueueEntry, now: Timestamp) -> QueueStatus {
    let says = queue.says.clone().unwrap_or_default();
    let tiers = view.tiers.iter().map(|tier| TierUse {
        tier: match tier.tier {
            Tier::Prod => duosuan_crds::Tier::Prod,
            Tier::Mid => duosuan_crds::Tier::Mid,
            Tier::Batch => duosuan_crds::Tier::Batch,
        },
        used: quantities(&tier.used),
        borrowed: quantities(&tier.borrowed),
        lent: quantities(&tier.lent),
    });
    QueueStatus {
        tiers: tiers.collect(),
        pending: view.pending,
        running: view.running,
        share_milli: u32::try_from(view.share_milli).unwrap_or(u32::MAX),
        // An earlier operator may have said of a field that it does nothing about it.
        conditions: usable(
            honoured(says.conditions, &[], None, queue.generation, now),
            USABLE,
            view.fault.as_ref().map(|fault| {
                let words = format!("{fault}; until that is mended, nothing of it or below it is placed");
                (fault.name(), words)
            }),
            queue.generation,
            now,
        ),
    }
}

/// Amounts as people write them: `2`, `1500m`, `1073741824`.
fn quantities(amounts: &ByResource) -> BTreeMap<String, Quantity> {
    let text = |resource: &str, amount: i64| match amount.checked_rem(1000) {
        Some(0) if in_thousandths(resource) => (amount / 1000).to_string(),
        _ if in_thousandths(resource) => format!("{amount}m"),
        _ => amount.to_string(),
    };
    amounts
        .iter()
        .filter(|(_, amount)| **amount != 0)
        .map(|(r, amount)| (r.clone(), Quantity(text(r, *amount))))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use duosuan_scheduler::{Event, event};

    use super::*;

    fn cluster() -> Cluster {
        let mut cluster = Cluster::default();
        let limit = [
            ("cpu".to_owned(), 2500),
            ("gpu".to_owned(), 2000),
            ("memory".to_owned(), 1 << 30),
        ]
        .into();
        let quota = event::Quota {
            tier: Tier::Prod,
            limit,
            ..event::Quota::default()
        };
        let queue = event::Queue {
            name: "q".into(),
            weight: 1,
            quotas: vec![quota],
            ..event::Queue::default()
        };
        cluster.apply(Event::Queue(Box::new(queue)));
        let requests: event::Amounts = [("cpu".to_owned(), 1500)].into();
        let pod = event::Pod {
            uid: "u".into(),
            queue: "q".into(),
            requests,
            node: Some("n".into()),
            ours: true,
            ..event::Pod::default()
        };
        let allocatable = [
            ("cpu".to_owned(), 4000),
            ("memory".to_owned(), 1 << 30),
            ("pods".to_owned(), 10),
        ]
        .into();
        cluster.apply(Event::Node(Box::new(event::Node {
            name: "n".into(),
            allocatable,
            ..event::Node::default()
        })));
        cluster.apply(Event::Pod(Box::new(pod)));
        duosuan_scheduler::cycle(
            &mut cluster,
            duosuan_scheduler::Time(0),
            duosuan_scheduler::Budget::default(),
        );
        cluster
    }

    #[test]
    fn cores_bytes_and_devices_are_measured_whole() {
        let metrics = Metrics::new();
        Gauges::default().measure(&metrics, &Index::default(), &cluster());
        let text = metrics.encode().unwrap();
        for line in [
            "duosuan_pods{state=\"bound\"} 1",
            "duosuan_capacity{tier=\"prod\",resource=\"cpu\"} 4.0",
            "duosuan_allocated{tier=\"prod\",resource=\"cpu\"} 1.5",
            "duosuan_queue_used{queue=\"q\",tier=\"prod\",resource=\"cpu\"} 1.5",
            "duosuan_queue_limit{queue=\"q\",tier=\"prod\",resource=\"gpu\"} 2.0",
            "duosuan_queue_limit{queue=\"q\",tier=\"prod\",resource=\"memory\"} 1073741824.0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_queue_that_is_gone_is_measured_no_more() {
        let metrics = Metrics::new();
        let mut gauges = Gauges::default();
        let mut cluster = cluster();
        gauges.measure(&metrics, &Index::default(), &cluster);
        cluster.apply(Event::QueueGone("q".into()));
        gauges.measure(&metrics, &Index::default(), &cluster);
        assert!(!metrics.encode().unwrap().contains("queue_limit{"));
    }

    fn entry(says: Option<QueueStatus>) -> QueueEntry {
        QueueEntry {
            quotas: vec![],
            says,
            generation: 2,
        }
    }

    fn status(cluster: &Cluster, says: Option<QueueStatus>) -> QueueStatus {
        let queues = cluster.queues();
        let view = queues.iter().find(|q| q.name == "q").unwrap();
        wanted(view, &entry(says), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_queue_says_what_it_uses_in_quantities() {
        let status = status(&cluster(), None);
        assert_eq!(
            status.tiers.first().unwrap().used.get("cpu"),
            Some(&Quantity("1500m".into()))
        );
        assert_eq!((status.running, status.pending), (1, 0));
        assert_eq!(status.conditions, []);
    }

    #[test]
    fn what_an_earlier_operator_said_of_its_fields_is_taken_back() {
        let ignored = honoured(vec![], &["spec.quotas[].lendLimit"], None, 1, Timestamp::UNIX_EPOCH);
        let said = QueueStatus {
            conditions: ignored,
            ..QueueStatus::default()
        };
        assert_eq!(status(&cluster(), Some(said)).conditions, []);
    }

    #[test]
    fn a_queue_in_a_circle_says_so_until_it_is_mended() {
        let mut cluster = cluster();
        let mut tell = |name: &str, parent: Option<&str>| {
            let queue = event::Queue {
                name: name.into(),
                parent: parent.map(Into::into),
                weight: 1,
                ..event::Queue::default()
            };
            cluster.apply(Event::Queue(Box::new(queue)));
            status(&cluster, None)
        };
        tell("above", Some("q"));
        let told = tell("q", Some("above"));
        let [condition] = told.conditions.as_slice() else {
            panic!("{told:?}")
        };
        assert_eq!(
            (
                condition.type_.as_str(),
                condition.status.as_str(),
                condition.reason.as_str()
            ),
            ("Usable", "False", "QueueCycle")
        );
        assert_eq!(
            condition.message,
            "the parents of queue q lead in a circle: q is below above is below q; until that is mended, nothing of it or \
             below it is placed"
        );
        assert_eq!(condition.observed_generation, Some(2));
        let none = tell("q", Some("nowhere"));
        assert_eq!(none.conditions.first().unwrap().reason, "NoSuchParentQueue");
        tell("q", None);
        assert_eq!(status(&cluster, Some(told)).conditions, []);
    }
}
