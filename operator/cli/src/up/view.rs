//! What the API server says about the cluster, watched, and reduced to what the table and the verdict need.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    sync::Arc,
};

use anyhow::Context;
use duosuan_controller::translate::quantity;
use duosuan_crds::{
    ANNOTATION_GPU_SHARE, CapacityClaim, LABEL_CLAIM, LABEL_QUEUE, LABEL_TIER, NodeReport, Queue, RESOURCE_BATCH_CPU,
    RESOURCE_BATCH_MEMORY, RESOURCE_GPU, RESOURCE_MID_CPU, RESOURCE_MID_MEMORY, SCHEDULER_NAME, Tier, claim::Phase,
};
use futures::StreamExt;
use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        WatchStreamExt, reflector,
        reflector::Store,
        watcher::{self, watcher},
    },
};
use tokio::task::JoinSet;

/// Stores that watches keep up to date.
pub(crate) struct View {
    nodes: Store<Node>,
    pods: Store<Pod>,
    queues: Store<Queue>,
    claims: Store<CapacityClaim>,
    reports: Store<NodeReport>,
    _watches: JoinSet<()>,
}

/// CPU in milli-cores and memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) cpu: i64,
    pub(crate) memory: i64,
}

/// One tier over all nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TierView {
    pub(crate) capacity: Amount,
    pub(crate) requested: Amount,
    pub(crate) used: Amount,
}

/// One claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClaimView {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) queue: String,
    pub(crate) tier: Tier,
    pub(crate) phase: Phase,
    pub(crate) placed: u32,
    pub(crate) desired: u32,
    pub(crate) reason: String,
}

/// One queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueView {
    pub(crate) running: u32,
    pub(crate) pending: u32,
    pub(crate) pods: usize,
    pub(crate) requested: BTreeMap<&'static str, Amount>,
    pub(crate) gpu_milli: i64,
}

/// Pods of Duosuan's scheduler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodCounts {
    pub(crate) bound: usize,
    /// Of the bound ones: what has started or has ended well.
    pub(crate) running: usize,
    pub(crate) pending: usize,
    /// Of the pending ones: those that the operator has not said a reason for.
    pub(crate) undecided: usize,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) nodes: usize,
    pub(crate) nodes_ready: usize,
    pub(crate) pods: PodCounts,
    /// By namespace.
    pub(crate) by_namespace: BTreeMap<String, PodCounts>,
    pub(crate) queues: BTreeMap<String, QueueView>,
    pub(crate) claims: Vec<ClaimView>,
    pub(crate) prod: TierView,
    pub(crate) mid: TierView,
    pub(crate) batch: TierView,
    pub(crate) gpu_capacity_milli: i64,
    pub(crate) gpu_milli: i64,
    /// Why pods are pending, with how many of them, and one's name.
    pub(crate) reasons: BTreeMap<String, (usize, String)>,
}

impl View {
    /// Starts the watches and waits until each has its first list.
    pub(crate) async fn start(client: &Client) -> anyhow::Result<View> {
        let mut watches = JoinSet::new();
        let view = View {
            nodes: follow(client, &mut watches),
            pods: follow(client, &mut watches),
            queues: follow(client, &mut watches),
            claims: follow(client, &mut watches),
            reports: follow(client, &mut watches),
            _watches: watches,
        };
        tokio::try_join!(
            view.nodes.wait_until_ready(),
            view.pods.wait_until_ready(),
            view.queues.wait_until_ready(),
            view.claims.wait_until_ready(),
            view.reports.wait_until_ready(),
        )
        .context("watch the cluster")?;
        Ok(view)
    }

    pub(crate) fn summary(&self) -> Summary {
        summarize(
            &self.nodes.state(),
            &self.pods.state(),
            &self.queues.state(),
            &self.claims.state(),
            &self.reports.state(),
        )
    }
}

fn follow<K>(client: &Client, watches: &mut JoinSet<()>) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let stream = watcher(Api::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .modify(|object: &mut K| {
            object.managed_fields_mut().clear();
        });
    let mut stream = Box::pin(reflector::reflector(writer, stream));
    watches.spawn(async move {
        while let Some(event) = stream.next().await {
            if let Err(error) = event {
                tracing::warn!(kind = %K::kind(&()), "watch: {error}");
            }
        }
    });
    store
}

fn summarize(
    nodes: &[Arc<Node>],
    pods: &[Arc<Pod>],
    queues: &[Arc<Queue>],
    claims: &[Arc<CapacityClaim>],
    reports: &[Arc<NodeReport>],
) -> Summary {
    let mut summary = Summary::default();
    for node in nodes {
        add_node(&mut summary, node);
    }
    for report in reports {
        for tier in report.status.iter().flat_map(|status| &status.tiers) {
            let used = Amount {
                cpu: amount(&tier.usage, "cpu"),
                memory: amount(&tier.usage, "memory"),
            };
            summary.tier(tier.tier).used.add(used);
        }
    }
    for queue in queues {
        let status = queue.status.clone().unwrap_or_default();
        let view = QueueView {
            running: status.running,
            pending: status.pending,
            ..QueueView::default()
        };
        summary.queues.insert(queue.name_any(), view);
    }
    let by_name: HashMap<(String, String), &CapacityClaim> = claims
        .iter()
        .map(|claim| {
            (
                (claim.namespace().unwrap_or_default(), claim.name_any()),
                claim.as_ref(),
            )
        })
        .collect();
    for pod in pods.iter().filter(|pod| is_ours(pod)) {
        let claim = pod.labels().get(LABEL_CLAIM).and_then(|name| {
            by_name
                .get(&(pod.namespace().unwrap_or_default(), name.clone()))
                .copied()
        });
        add_pod(&mut summary, pod, claim);
    }
    summary.claims = claims.iter().map(|claim| claim_view(claim)).collect();
    summary
        .claims
        .sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    summary
}

fn is_ours(pod: &Pod) -> bool {
    let scheduler = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref());
    scheduler == Some(SCHEDULER_NAME) && pod.metadata.deletion_timestamp.is_none()
}

fn add_node(summary: &mut Summary, node: &Node) {
    summary.nodes += 1;
    let Some(status) = &node.status else { return };
    let ready = status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    summary.nodes_ready += usize::from(ready);
    let Some(allocatable) = &status.allocatable else { return };
    summary.prod.capacity.add(Amount {
        cpu: amount(allocatable, "cpu"),
        memory: amount(allocatable, "memory"),
    });
    // The extended resource of CPU counts milli-cores, so whole units of it are what `cpu` has as thousandths.
    summary.mid.capacity.add(Amount {
        cpu: amount(allocatable, RESOURCE_MID_CPU),
        memory: amount(allocatable, RESOURCE_MID_MEMORY),
    });
    summary.batch.capacity.add(Amount {
        cpu: amount(allocatable, RESOURCE_BATCH_CPU),
        memory: amount(allocatable, RESOURCE_BATCH_MEMORY),
    });
    summary.gpu_capacity_milli += amount(allocatable, RESOURCE_GPU) * 1000;
}

fn add_pod(summary: &mut Summary, pod: &Pod, claim: Option<&CapacityClaim>) {
    let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else {
        return;
    };
    let phase = status.phase.as_deref().unwrap_or_default();
    let bound = spec.node_name.is_some();
    let unschedulable = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    for counts in [
        &mut summary.pods,
        summary
            .by_namespace
            .entry(pod.namespace().unwrap_or_default())
            .or_default(),
    ] {
        counts.bound += usize::from(bound);
        counts.running += usize::from(bound && (phase == "Running" || phase == "Succeeded"));
        counts.pending += usize::from(!bound);
        counts.undecided += usize::from(!bound && unschedulable.is_none());
    }
    if !bound {
        let words = unschedulable
            .and_then(|condition| condition.message.clone())
            .unwrap_or_else(|| "not looked at yet".into());
        let entry = summary.reasons.entry(words).or_insert_with(|| (0, pod.name_any()));
        entry.0 += 1;
        return;
    }
    if phase == "Succeeded" || phase == "Failed" {
        return;
    }
    let tier = match (claim, pod.labels().get(LABEL_TIER).map(String::as_str)) {
        (Some(claim), _) => claim.spec.tier,
        (None, Some("mid")) => Tier::Mid,
        (None, Some("batch")) => Tier::Batch,
        (None, _) => Tier::Prod,
    };
    let (cpu, memory) = match tier {
        Tier::Prod => ("cpu", "memory"),
        Tier::Mid => (RESOURCE_MID_CPU, RESOURCE_MID_MEMORY),
        Tier::Batch => (RESOURCE_BATCH_CPU, RESOURCE_BATCH_MEMORY),
    };
    let (mut requested, mut whole) = (Amount::default(), 0);
    for requests in spec
        .containers
        .iter()
        .filter_map(|container| container.resources.as_ref()?.requests.as_ref())
    {
        requested.add(Amount {
            cpu: amount(requests, cpu),
            memory: amount(requests, memory),
        });
        whole += amount(requests, RESOURCE_GPU) * 1000;
    }
    let share = pod
        .annotations()
        .get(ANNOTATION_GPU_SHARE)
        .and_then(|share| share.parse().ok());
    let gpu_milli = gpu_of_group(pod, claim).or(share).unwrap_or(whole);
    summary.tier(tier).requested.add(requested);
    summary.gpu_milli += gpu_milli;
    let queue = claim
        .map(|claim| claim.spec.queue.clone())
        .or_else(|| pod.labels().get(LABEL_QUEUE).cloned())
        .unwrap_or_else(|| "default".into());
    let queue = summary.queues.entry(queue).or_default();
    queue.pods += 1;
    queue.gpu_milli += gpu_milli;
    queue.requested.entry(tier.as_str()).or_default().add(requested);
}

/// Thousandths of GPUs that the claim's group gives to each of its pods, if it says so.
fn gpu_of_group(pod: &Pod, claim: Option<&CapacityClaim>) -> Option<i64> {
    let name = pod.labels().get(duosuan_crds::LABEL_GROUP)?;
    let gpus = claim?
        .spec
        .groups
        .iter()
        .find(|group| &group.name == name)?
        .gpus
        .as_ref()?;
    gpus.share
        .map(i64::from)
        .or_else(|| gpus.count.map(|count| i64::from(count) * 1000))
}

fn claim_view(claim: &CapacityClaim) -> ClaimView {
    let status = claim.status.clone().unwrap_or_default();
    ClaimView {
        name: claim.name_any(),
        namespace: claim.namespace().unwrap_or_default(),
        queue: claim.spec.queue.clone(),
        tier: claim.spec.tier,
        phase: status.phase,
        placed: status.placed.iter().map(|placed| placed.count).sum(),
        desired: status.placed.iter().map(|placed| placed.desired).sum(),
        reason: status.message.or(status.reason).unwrap_or_default(),
    }
}

/// Amount of a resource in base units; what cannot be read counts as nothing, as it does for the operator.
fn amount(amounts: &BTreeMap<String, Quantity>, resource: &str) -> i64 {
    amounts
        .get(resource)
        .and_then(|text| quantity::amount(resource, &text.0).ok())
        .unwrap_or(0)
}

impl Amount {
    fn add(&mut self, other: Amount) {
        self.cpu = self.cpu.saturating_add(other.cpu);
        self.memory = self.memory.saturating_add(other.memory);
    }
}

impl Summary {
    fn tier(&mut self, tier: Tier) -> &mut TierView {
        match tier {
            Tier::Prod => &mut self.prod,
            Tier::Mid => &mut self.mid,
            Tier::Batch => &mut self.batch,
        }
    }

    /// Claims in this phase.
    pub(crate) fn claims_in(&self, phase: Phase) -> usize {
        self.claims.iter().filter(|claim| claim.phase == phase).count()
    }

    /// Allocated part of all GPUs, in percent.
    pub(crate) fn gpu_percent(&self) -> f64 {
        percent(self.gpu_milli, self.gpu_capacity_milli)
    }
}

/// `part` of `whole` in percent, 0 of nothing.
#[allow(clippy::cast_precision_loss, reason = "for display")]
pub(crate) fn percent(part: i64, whole: i64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        100.0 * part as f64 / whole as f64
    }
}
