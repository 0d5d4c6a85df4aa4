//! What enters the core: plain, serialisable facts about the world, with names as the API server spells
//! them and amounts as integers of the base unit. [`Cluster::apply`](crate::Cluster::apply) turns names into
//! ordinals; nothing else of the core knows a name.

mod dra;
mod node;
mod rules;
mod volume;

use std::collections::BTreeMap;

pub use dra::{
    AllocatedDevice, Capacity, DeviceAllocation, DeviceClaim, DeviceClaimSpec, DeviceConstraint, DeviceOption,
    DevicePool, DeviceRequest, PoolDevice, Reach, Steps,
};
pub use node::{BIG_IMAGE, Gpu, LOAD_STEPS, Location, Node, NumaNode, Taint};
pub use rules::{Namespace, PodRules, PodTerm, Preference, SPREADS_AT_MOST, Spread};
use serde::{Deserialize, Serialize};
pub use volume::SharedVolume;

/// Milliseconds since the Unix epoch. The core has no clock: every time is given to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(pub i64);

/// Amounts by resource name: `cpu` in milli-cores, `memory` and `ephemeral-storage` in bytes, `pods` and
/// extended resources in units (`duosuan.io/batch-cpu` and `mid-cpu` are milli-cores by definition).
pub type Amounts = BTreeMap<String, i64>;

/// The promise behind a unit of capacity; see DESIGN.md §1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Firm, never reclaimed.
    #[default]
    Prod,
    /// From prod's requests that a forecast says stay unused.
    Mid,
    /// What prod and mid leave idle right now.
    Batch,
}

impl Tier {
    /// The name that people write.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Tier::Prod => "prod",
            Tier::Mid => "mid",
            Tier::Batch => "batch",
        }
    }
}

/// One fact. Unknown, duplicate, late and out-of-order events are harmless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// A node appeared or changed; the whole node.
    Node(Box<Node>),
    /// A node, by name, is gone.
    NodeGone(String),
    /// A pod appeared or changed; the whole pod.
    Pod(Box<Pod>),
    /// A pod, by UID, is gone.
    PodGone(String),
    /// A claim appeared or changed; the whole claim.
    Claim(Box<Claim>),
    /// A claim, by UID, is gone.
    ClaimGone(String),
    /// A queue appeared or changed; the whole queue.
    Queue(Box<Queue>),
    /// A queue, by name, is gone.
    QueueGone(String),
    /// A namespace appeared or changed; the whole namespace.
    Namespace(Box<Namespace>),
    /// A namespace, by name, is gone.
    NamespaceGone(String),
    /// A pool of devices appeared or changed; the whole pool.
    DevicePool(Box<DevicePool>),
    /// A pool of devices is gone.
    DevicePoolGone {
        /// Name of its driver.
        driver: String,
        /// Its name.
        pool: String,
    },
    /// A claim to devices appeared or changed; the whole claim.
    DeviceClaim(Box<DeviceClaim>),
    /// A claim to devices is gone.
    DeviceClaimGone {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Whether the API server serves claims to devices and lets this account see them. While it does not, it is not said of
    /// a claim that it has to be created.
    DeviceClaimsServed(bool),
    /// It is known what became of the decision to give back the devices of a claim, and was told before: there is nothing
    /// under way any more.
    TakenBack {
        /// Namespace of the claim.
        namespace: String,
        /// Name of the claim.
        name: String,
        /// UID of the claim.
        uid: String,
    },
    /// A binding that `cycle()` decided was certainly not carried out; the pod is pending again. Of one whose outcome is
    /// not known nothing is said.
    BindFailed {
        /// UID of the pod.
        pod: String,
        /// Node that it was to be bound to; empty where a record does not have it.
        #[serde(default)]
        node: String,
        /// What the API server answered.
        message: String,
        /// The API server refuses it, and trying again changes nothing: the pod waits for `BindAllowed`.
        #[serde(default)]
        lasting: bool,
    },
    /// A binding that the API server lastingly refused would be carried out now.
    BindAllowed {
        /// UID of the pod.
        pod: String,
    },
    /// The API server refused an eviction that `cycle()` decided (a disruption budget, for example).
    EvictFailed {
        /// UID of the pod.
        pod: String,
        /// What the API server answered.
        message: String,
    },
    /// An eviction that `cycle()` decided is not made, since another one that is needed beside it was refused, or nobody
    /// [waits for it](crate::Cluster::makes_room) any more; it would have been carried out.
    EvictCalledOff {
        /// UID of the pod.
        pod: String,
    },
}

/// Areas that pods can share, from small to large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// One NUMA node of one server: [`NumaNode`].
    Numa,
    /// One server.
    Node,
    /// GPUs that reach each other without the host: those of servers in one [`Location::nvlink`], or, of a server that is
    /// in none, those with the same [`Gpu::nvlink`].
    Nvlink,
    /// [`Location::rack`].
    Rack,
    /// [`Location::block`].
    Block,
    /// [`Location::zone`].
    Zone,
}

/// How pods stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Topology {
    /// Area that all of them share.
    pub pack: Level,
    /// They wait until one such area has room for all. Otherwise they go into as few of them as hold them.
    pub required: bool,
}

/// A toleration of a pod, with the meaning that kube-scheduler gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    /// Key; empty with `exists` tolerates every taint.
    pub key: String,
    /// True for operator `Exists`, false for `Equal`.
    pub exists: bool,
    /// Value for `Equal`.
    pub value: String,
    /// Effect; empty means every effect.
    pub effect: String,
}

/// Key that stands for the node's name, `metadata.name` of `matchFields`, instead of a label. No label can have it: the
/// key `metadata.name` itself is one that a label may have.
pub const NODE_NAME: &str = "field:metadata.name";

/// One requirement on a node's labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requirement {
    /// Label key, or [`NODE_NAME`].
    pub key: String,
    /// How the label is compared.
    pub operator: Operator,
    /// Values; one integer for `Gt` and `Lt`, none for `Exists` and `DoesNotExist`.
    pub values: Vec<String>,
}

/// Operators of node selector requirements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
}

/// A conjunction of requirements.
pub type Term = Vec<Requirement>;

/// Nodes that a pod would rather have than others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PreferredNodes {
    /// How much they are preferred, 1 to 100 in Kubernetes. The weights of all preferences that a node meets are added.
    pub weight: i32,
    /// What the labels of the nodes have to be. Without any requirement no node is meant.
    pub term: Term,
}

/// What a pod asks of GPUs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuRequest {
    /// How many devices, at least 1; more than 1 only with `milli` = 1000.
    pub count: u16,
    /// Thousandths of each device's compute, 1..=1000.
    pub milli: u16,
    /// Bytes of each device's memory; 0 asks for the same fraction of memory as of compute.
    pub memory: i64,
    /// Allowed models; empty allows any.
    pub models: Vec<String>,
}

/// A pod as placement sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`: what other pods' affinity and spread look at.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `metadata.creationTimestamp`.
    pub created: Time,
    /// `spec.priority`.
    pub priority: i32,
    /// `spec.preemptionPolicy` is `Never`: it waits, and nothing of lower priority in its queue goes for it.
    pub never_preempts: bool,
    /// UID of the object that controls it, if pods of one controller are replicas that are not to fail together; empty if
    /// nothing does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// Name of the claim (in the pod's namespace) that the pod joins; without one, the pod is its own claim.
    pub claim: Option<String>,
    /// Group of that claim.
    pub group: String,
    /// Queue of a pod without a claim; empty means the default queue.
    pub queue: String,
    /// Tier of a pod without a claim.
    pub tier: Tier,
    /// Effective requests: containers, init containers, sidecars and overhead summed as Kubernetes does.
    pub requests: Amounts,
    /// GPUs asked for.
    pub gpus: Option<GpuRequest>,
    /// `spec.nodeSelector` and the required node affinity, as alternatives of conjunctions; empty means any node.
    /// (A selector without affinity is one term; with affinity, it is part of each.)
    pub node_terms: Vec<Term>,
    /// The preferred node affinity.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preferred_nodes: Vec<PreferredNodes>,
    /// `spec.tolerations`.
    pub tolerations: Vec<Toleration>,
    /// Images of its containers, init containers included, by the names that [`Node::images`] has them by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    /// Where its volumes can be used, as alternatives; empty means any node. Unlike its own terms, they do not say over which
    /// nodes it is spread.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volume_terms: Vec<Term>,
    /// Volumes that other pods use, too: a node gives one of the resource for all pods there that use it. What this pod
    /// alone uses is part of its requests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shared_volumes: Vec<SharedVolume>,
    /// Names of the claims to devices that it uses, in its namespace. They count as long as it has no node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_claims: Vec<String>,
    /// Host ports, as `PROTOCOL/IP/PORT` with `0.0.0.0` for every address.
    pub host_ports: Vec<String>,
    /// Pod affinity and anti-affinity, topology spread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<Box<PodRules>>,
    /// `spec.nodeName`.
    pub node: Option<String>,
    /// Devices given to it when it was bound, by index on that node.
    pub devices: Vec<u16>,
    /// When it started on its node, if that is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<Time>,
    /// When it wrote its last checkpoint, if it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_checkpoint: Option<Time>,
    /// NUMA node given to it when it was bound, if it had to get one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa: Option<u16>,
    /// Succeeded or failed: it holds nothing.
    pub finished: bool,
    /// Being deleted: it still holds what it has, and is never placed.
    pub terminating: bool,
    /// Has scheduling gates: not to be placed yet.
    pub gated: bool,
    /// Why it is never to be placed as it is: a field that the edge cannot read, or that asks for what the core does
    /// not do. If it is bound, it counts like any other.
    pub refused: Option<String>,
    /// True if `spec.schedulerName` is ours; pods of other schedulers count but are never placed or evicted.
    pub ours: bool,
}

/// A claim: one gang's request for capacity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Claim {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.creationTimestamp`.
    pub created: Time,
    /// Queue; empty means the default queue.
    pub queue: String,
    /// Tier.
    pub tier: Tier,
    /// Higher goes first.
    pub priority: i32,
    /// Groups, by name.
    pub groups: Vec<Group>,
    /// Milliseconds that it is expected to run, if stated.
    pub expected_duration: Option<i64>,
    /// When it is to have its capacity, if not as soon as possible.
    pub window: Option<Window>,
    /// Milliseconds that it runs at least before it may be reclaimed.
    pub min_runtime: i64,
    /// What it loses when it is interrupted.
    #[serde(skip_serializing_if = "is_default")]
    pub interruption: Interruption,
    /// Its pods come and go each by itself: that some are missing beside others that run breaks nothing.
    pub loose: bool,
    /// In which parts it goes for others.
    #[serde(skip_serializing_if = "is_default")]
    pub disruption: Disruption,
    /// Why nothing more of it is to be placed as it is. What is bound counts and stays.
    pub refused: Option<String>,
    /// How all its pods stand to each other.
    pub topology: Option<Topology>,
}

/// In which parts a claim goes for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Disruption {
    /// What it holds above its minima it gives back quantum by quantum before anybody is evicted, also for a minimum of the
    /// same priority; the rest goes as a whole.
    #[default]
    Elastic,
    /// What it holds above its minima goes quantum by quantum, for those who could have it evicted and in the order in which
    /// they would; the rest as a whole.
    Single,
    /// As a whole or not at all.
    All,
}

/// What a claim loses when it is interrupted, and what it gets before. Times in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Interruption {
    /// Warning that its pods get, in which they write a checkpoint; 0 for none.
    pub notice: i64,
    /// Time between two checkpoints, if it writes any.
    pub checkpoint_interval: Option<i64>,
    /// Time from a new start until it is where it was, if it says so.
    pub restart_time: Option<i64>,
    /// When it wrote its last checkpoint, if it says so.
    pub last_checkpoint: Option<Time>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A span of time for which capacity is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Window {
    /// The claim starts no earlier.
    pub start: Time,
    /// It starts no later, and is expected to have ended by then.
    pub end: Time,
}

/// One role of a claim: identical pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Group {
    /// Name, unique in the claim.
    pub name: String,
    /// Pods without which the claim does not run.
    pub min: u32,
    /// Pods at most; a `count` is `min` = `max`.
    pub max: u32,
    /// Step in which it grows between min and max; at least 1.
    pub quantum: u32,
    /// What each pod may ask for; a pod that asks for more stays pending. Empty: not checked.
    pub requests: Amounts,
    /// GPUs of each pod, if the pods do not say it themselves.
    pub gpus: Option<GpuRequest>,
    /// Added to each pod's own: every alternative of the pod is joined with one of these.
    pub node_terms: Vec<Term>,
    /// Added to each pod's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preferred_nodes: Vec<PreferredNodes>,
    /// Added to each pod's own.
    pub tolerations: Vec<Toleration>,
    /// How its pods stand to each other, inside what the claim asks for.
    pub topology: Option<Topology>,
}

/// A queue: a tenant's node in the quota tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Queue {
    /// `metadata.name`.
    pub name: String,
    /// Name of the parent; `None` at the top.
    pub parent: Option<String>,
    /// Share of what is left over, against its siblings; at least 1.
    pub weight: u32,
    /// Limits and guarantees.
    pub quotas: Vec<Quota>,
    /// Namespaces that may use it; empty allows all.
    pub namespaces: Vec<String>,
    /// It waits for what it lent, and has nothing evicted.
    pub never_reclaims: bool,
    /// Milliseconds after which past use counts half in its share; `None` or not positive: only present use counts.
    pub fairness_half_life: Option<i64>,
}

/// The quota of a queue in one tier. Resource names are those of prod in every tier (`cpu`, not
/// `duosuan.io/batch-cpu`); `gpu` counts thousandths of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Quota {
    /// Tier that it speaks of.
    pub tier: Tier,
    /// What the queue gets back by reclaim whenever it asks.
    pub guaranteed: Amounts,
    /// What it never exceeds; a resource that is not named has no limit.
    pub limit: Amounts,
    /// How much of the guarantee others may use while it is idle; a resource that is not named is lent as a whole.
    pub lend_limit: Amounts,
}
