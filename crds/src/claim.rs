//! `CapacityClaim`: one gang's request for capacity.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{NodeAffinity, Toleration},
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{Condition, Time},
    },
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Duration, Tier};

/// What a gang asks for. The pods themselves join by the labels `duosuan.io/claim` (this claim's name) and
/// `duosuan.io/group` (one of its groups); none of them runs before each group has at least its minimum.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "duosuan.io",
    version = "v1alpha1",
    kind = "CapacityClaim",
    namespaced,
    status = "CapacityClaimStatus",
    shortname = "cc",
    category = "duosuan",
    derive = "PartialEq",
    derive = "Default",
    doc = "One gang's request for capacity: the unit that the scheduler admits, places, resizes and evicts, all or nothing.",
    printcolumn = r#"{"name": "Queue", "type": "string", "jsonPath": ".spec.queue", "description": "Queue that pays for it"}"#,
    printcolumn = r#"{"name": "Tier", "type": "string", "jsonPath": ".spec.tier", "description": "Promise behind its capacity"}"#,
    printcolumn = r#"{"name": "Phase", "type": "string", "jsonPath": ".status.phase", "description": "Where it stands"}"#,
    printcolumn = r#"{"name": "Placed", "type": "integer", "jsonPath": ".status.placedPods", "description": "Pods that are bound to a node"}"#,
    printcolumn = r#"{"name": "Desired", "type": "integer", "jsonPath": ".status.desiredPods", "description": "Pods wanted"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.reason", "description": "Why it waits"}"#,
    printcolumn = r#"{"name": "Priority", "type": "integer", "jsonPath": ".spec.priority", "description": "Higher goes first", "priority": 1}"#,
    printcolumn = r#"{"name": "Start", "type": "string", "jsonPath": ".status.estimatedStart", "description": "When it is expected to start", "priority": 1}"#,
    printcolumn = r#"{"name": "Message", "type": "string", "jsonPath": ".status.message", "description": "Why it waits and what would change it", "priority": 1}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[x_kube(
    validation = Rule::new("!has(self.deadline) || !has(self.window) || self.deadline > self.window.start")
        .message("the deadline must lie after the start of the window").field_path(".deadline"),
    validation = Rule::new("!has(self.topology) || self.groups.all(g, !has(g.topology) || {'numa': 0, 'node': 1, 'nvlink': 2, 'rack': 3, 'block': 4, 'zone': 5}[g.topology.pack] <= {'numa': 0, 'node': 1, 'nvlink': 2, 'rack': 3, 'block': 4, 'zone': 5}[self.topology.pack])")
        .message("a group's topology.pack must not be wider than the claim's: numa < node < nvlink < rack < block < zone").field_path(".topology"),
)]
#[serde(rename_all = "camelCase")]
pub struct CapacityClaimSpec {
    /// Name of the Queue whose quota the claim uses. May be changed while the claim waits. Example: `research`.
    #[serde(default = "default_queue")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub queue: String,
    /// Promise behind the capacity. `prod`: firm, never reclaimed. `mid`: from what prod requested but, by forecast, will
    /// not use; rarely taken back, with notice. `batch`: what is idle right now; taken back at once. It decides by which names
    /// the pods ask for CPU and memory: `cpu` and `memory` in prod, `duosuan.io/mid-cpu` and `mid-memory` in mid,
    /// `duosuan.io/batch-cpu` and `batch-memory` in batch; pods that ask for another tier's stay pending. GPUs, other
    /// resources and pods without requests are the same in every tier. Cannot be changed.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the tier of a claim cannot be changed: create a new claim"))]
    pub tier: Tier,
    /// Order within the queue: higher goes first; among equals the claim whose namespace holds less of the queue, then the older
    /// one. Where it lets a claim run, claims of lower priority in its queue are evicted. From -1000000000 to 1000000000.
    #[serde(default)]
    #[schemars(range(min = -1_000_000_000, max = 1_000_000_000))]
    pub priority: i32,
    /// The roles of the gang, 1 to 16, each a set of identical pods, such as `driver` and `executor`. Groups cannot be added
    /// or removed later; an elastic group's min, max and quantum may change.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".into()]),
        validation = Rule::new("self.size() == oldSelf.size() && self.all(g, oldSelf.exists(o, o.name == g.name))")
            .message("the groups of a claim cannot be added or removed: create a new claim")
    )]
    pub groups: Vec<Group>,
    /// Where all pods of the claim stand to each other; a group may ask for a smaller domain of its own. Absent: anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology: Option<Topology>,
    /// How long the claim is expected to run once it has started. From this the first claim of a queue that waits gets its
    /// `estimatedStart`, and others are let past it if, by this, they end in time. Nothing is ended because of it: a claim
    /// that takes longer delays those who wait. Absent: unknown, treated as unlimited. Example: `4h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_duration: Option<Duration>,
    /// When the work has to be finished, in RFC 3339. Not acted on yet: the condition `Honoured` says so.
    /// Example: `2026-12-24T06:00:00Z`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Time>,
    /// A reservation: the capacity is wanted from start to end, not as soon as possible. Once the claim's pods exist, places
    /// are kept for that time: whoever would still run then is not placed on them. Nothing that runs is ended for it. The claim
    /// starts within the window or not at all, and counts as ended with it. Absent: as soon as possible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// What the claim can bear when its capacity is wanted elsewhere. Absent: it can be evicted at any time without notice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interruption: Option<Interruption>,
}

fn default_queue() -> String {
    "default".into()
}

/// One role of a claim: identical pods, either a fixed `count`, or elastic from `min` to `max` in steps of `quantum`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("has(self.count) ? !has(self.min) && !has(self.max) && !has(self.quantum) : has(self.min) && has(self.max)")
        .message("give either count, or min and max with an optional quantum"),
    validation = Rule::new("!has(self.min) || !has(self.max) || self.min <= self.max")
        .message("min must not be greater than max").field_path(".min"),
    validation = Rule::new("!has(self.min) || !has(self.max) || !has(self.quantum) || self.min > self.max || (self.max - self.min) % self.quantum == 0")
        .message("max - min must be a multiple of quantum").field_path(".quantum"),
    validation = Rule::new("has(self.count) == has(oldSelf.count) && (!has(self.count) || self.count == oldSelf.count)")
        .message("the count of a group cannot be changed: use min and max for a group that grows and shrinks").field_path(".count"),
    // As quantities: 1, "1" and 1000m are the same, and a client that reads and writes turns one into the other.
    validation = Rule::new("has(self.requests) == has(oldSelf.requests) && (!has(self.requests) || (self.requests.size() == oldSelf.requests.size() && self.requests.all(r, r in oldSelf.requests && quantity(string(self.requests[r])).compareTo(quantity(string(oldSelf.requests[r]))) == 0)))")
        .message("the requests of a group cannot be changed: create a new claim").field_path(".requests"),
    validation = Rule::new("has(self.gpus) == has(oldSelf.gpus)")
        .message("the gpus of a group cannot be changed: create a new claim").field_path(".gpus"),
    validation = Rule::new("!has(self.gpus) || !has(self.requests) || !('nvidia.com/gpu' in self.requests)")
        .message("ask for GPUs either in gpus or as nvidia.com/gpu in requests, not in both").field_path(".gpus"),
)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// Name of the role, unique in the claim: what the pods carry in the label `duosuan.io/group`. Example: `worker`.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Number of pods of a group of fixed size, 1 to 100000: all of them run or none. Excludes min, max and quantum.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub count: Option<u32>,
    /// Pods without which the claim does not run, for an elastic group, 0 to 100000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub min: Option<u32>,
    /// Pods at most, for an elastic group, 1 to 100000. What lies above min is given while it is free, and is the first to be
    /// taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max: Option<u32>,
    /// Step in pods in which an elastic group grows and shrinks between min and max, 1 if absent. For training: the pods of
    /// one data-parallel replica. `max - min` must be a multiple of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub quantum: Option<u32>,
    /// What each pod requests, by resource: a pod that asks for more than this stays pending. Absent: the pods' own requests
    /// hold. CPU and memory by the names of the claim's tier. Example: `{cpu: "4", memory: 16Gi}`. Cannot be changed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub requests: BTreeMap<String, Quantity>,
    /// GPUs of each pod: whole devices by count, or a part of one by share. Cannot be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Gpus>,
    /// Where the pods of the group stand to each other. Absent: as the claim says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology: Option<Topology>,
    /// Nodes that the group's pods may run on, and would rather, in the form of a pod's `spec.affinity.nodeAffinity`; a node has
    /// to satisfy what this requires and what the pod's own does, and the weights of both are added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<NodeAffinity>,
    /// Taints that the group's pods tolerate, added to each pod's own; in the form of a pod's `spec.tolerations`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
}

/// GPUs of each pod: whole devices by `count`, or a part of one device by `share`. MIG instances are asked for in the requests,
/// as the resources that the device plugin offers: `nvidia.com/mig-1g.10gb`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("has(self.count) != has(self.share)")
        .message("give either count (whole devices) or share (thousandths of one device)"),
    validation = Rule::new("!has(self.memory) || has(self.share)")
        .message("memory goes with share only: a whole device comes with all of its memory").field_path(".memory"),
    validation = Rule::new("has(self.count) == has(oldSelf.count) && (!has(self.count) || self.count == oldSelf.count) && has(self.share) == has(oldSelf.share) && (!has(self.share) || self.share == oldSelf.share)")
        .message("the gpus of a group cannot be changed: create a new claim"),
    // As quantities: 1024Mi and 1Gi are the same.
    validation = Rule::new("has(self.memory) == has(oldSelf.memory) && (!has(self.memory) || quantity(string(self.memory)).compareTo(quantity(string(oldSelf.memory))) == 0)")
        .message("the gpus of a group cannot be changed: create a new claim").field_path(".memory"),
    validation = Rule::new("has(self.models) == has(oldSelf.models) && (!has(self.models) || (self.models.size() == oldSelf.models.size() && self.models.all(m, m in oldSelf.models)))")
        .message("the gpus of a group cannot be changed: create a new claim").field_path(".models"),
)]
#[serde(rename_all = "camelCase")]
pub struct Gpus {
    /// Whole devices for each pod, 1 to 64. Excludes share and memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub count: Option<u16>,
    /// Part of one device's compute for each pod, in thousandths, 1 to 1000; 1000 is a whole device. Example: `250`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub share: Option<u16>,
    /// Memory of that device for each pod, in bytes. Absent: the same part of the memory as of the compute. Example: `10Gi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// Product names of which any will do, as in the node label `nvidia.com/gpu.product`. Absent: any model.
    /// Example: `[A100, H100]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub models: Vec<String>,
}

/// Where pods stand to each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Topology {
    /// Domain that all the pods shall share, from small to large: `numa` (CPU, memory and GPUs of one NUMA node), `node` (one
    /// server), `nvlink` (GPUs that reach each other without the host), `rack`, `block` (racks under one spine), `zone`. A
    /// node's rack, block and zone are named by its labels `duosuan.io/rack`, `duosuan.io/block` and
    /// `topology.kubernetes.io/zone`, unless the operator is told others; a node without the label is in no such domain. NUMA
    /// nodes and NVLink groups are those of the node's report; a node with the label `nvidia.com/gpu.clique` is in an NVLink
    /// domain with all of its GPUs, together with those of its rack that have the same. A pod without GPUs may stand anywhere
    /// on such nodes.
    pub pack: Domain,
    /// `required`: wait until one such domain has room for all; the reason `TopologyTooSmall` says how much is missing. What runs
    /// already decides where the rest goes: a lost pod is replaced in the same domain, and if that has had no room for 60 s the
    /// claim is started anew as a whole. `preferred`: the smallest domain, from this one up, that has room for all, else as few
    /// of them as hold all.
    #[serde(default)]
    pub mode: TopologyMode,
}

/// Domains of the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "named as what they are; Topology::pack explains them")]
pub enum Domain {
    Numa,
    Node,
    Nvlink,
    Rack,
    Block,
    Zone,
}

/// How binding a topology is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "Topology::mode explains them")]
pub enum TopologyMode {
    Required,
    #[default]
    Preferred,
}

/// A reservation in time.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("self.start < self.end").message("the window must start before it ends").field_path(".start"))]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// From when the capacity is wanted: the claim starts no earlier. In RFC 3339. Example: `2026-12-24T00:00:00Z`.
    pub start: Time,
    /// Until when it is wanted, in RFC 3339: from then on others count on it, and nothing more of the claim is started.
    pub end: Time,
}

/// What a claim can bear when its capacity is wanted elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Interruption {
    /// Time that the pods get from the signal to stop until they are killed, in place of their own grace period, to write a
    /// checkpoint: an eviction loses at most the work of so long. Absent: the pods' own grace period. Example: `2m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notice: Option<Duration>,
    /// Time that the claim may run undisturbed after each start. Absent: none. Example: `30m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_runtime: Option<Duration>,
    /// Time between two checkpoints: an eviction loses at most the work of so long. When the last one was written is told more
    /// exactly by the annotation `duosuan.io/last-checkpoint` of the claim or of a pod of it. Absent, as that is: all work
    /// since the start is lost, so that the claim is a dear victim. Example: `20m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_interval: Option<Duration>,
    /// Time from a new start until the claim is where it was: images, processes, reading the checkpoint. It is lost with each
    /// eviction. Absent: `1m`. Example: `5m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_time: Option<Duration>,
}

/// Where a claim stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Waits.
    #[default]
    Pending,
    /// Each group has at least its minimum of bound pods.
    Running,
    /// Its pods have all ended.
    Finished,
}

/// What became of a claim; written by the operator alone.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CapacityClaimStatus {
    /// `Pending`: waits. `Running`: each group has at least its minimum of bound pods. `Finished`: all its pods have ended.
    pub phase: Phase,
    /// Pods of all groups that are bound to a node.
    #[serde(default)]
    pub placed_pods: u32,
    /// Pods of all groups that are wanted: the sum of each group's `count` or `max`.
    #[serde(default)]
    pub desired_pods: u32,
    /// Placed pods, by group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["group".into()]))]
    pub placed: Vec<Placed>,
    /// Why the claim waits: one name of a closed set, such as `WaitingForQuota` or `GangIncomplete`. Absent when it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub reason: Option<String>,
    /// Why the claim waits, in a sentence, and what would change it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32768))]
    pub message: Option<String>,
    /// When the claim is expected to start, if that can be said: by the expected durations of what runs, or by its window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_start: Option<Time>,
    /// What the claim has on loan, if anything: capacity that its queue borrows and may have to give back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loan: Option<Loan>,
    /// Conditions of the claim, by type. `Admitted`: each group has at least its minimum of bound pods. `Honoured` is there
    /// only where it is false: nothing is done about some fields yet, or an annotation cannot be understood. `QueueUsable` is
    /// there only where it is false, on a claim that runs: its queue was deleted, its way to the top is broken, or it no
    /// longer admits the namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Placed pods of a group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placed {
    /// Name of the group.
    #[schemars(length(max = 63))]
    pub group: String,
    /// Pods that are bound to a node.
    pub count: u32,
    /// Pods wanted: the group's `count` or `max`.
    pub desired: u32,
}

/// Capacity that a claim uses beyond its queue's guarantee.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Loan {
    /// Name of the queue that lends; absent where the capacity is nobody's guarantee.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub lender: Option<String>,
    /// Until when it is lent; absent: until the lender asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// Warning before it is taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notice: Option<Duration>,
    /// What is lent, by resource.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub resources: BTreeMap<String, Quantity>,
}
