//! `NodeReport`: what an agent sees and offers; status only, named as its node.

mod host;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::{
    api::resource::Quantity,
    apis::meta::v1::{Condition, Time},
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Tier;
pub use host::{DiskReport, HostReport, PagingReport};

/// Empty: the agent writes the status, and nobody asks anything of it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "duosuan.io",
    version = "v1alpha1",
    kind = "NodeReport",
    status = "NodeReportStatus",
    shortname = "nr",
    category = "duosuan",
    derive = "PartialEq",
    derive = "Default",
    doc = "What the agent of one node sees, offers and does. Named as its node, and written by that node's agent alone.",
    printcolumn = r#"{"name": "Policy", "type": "string", "jsonPath": ".status.policy", "description": "ColocationPolicy that the node follows"}"#,
    printcolumn = r#"{"name": "CPU", "type": "string", "jsonPath": ".status.usage.cpu", "description": "CPU in use"}"#,
    printcolumn = r#"{"name": "Memory", "type": "string", "jsonPath": ".status.usage.memory", "description": "Memory in use"}"#,
    printcolumn = r#"{"name": "Batch-CPU", "type": "string", "jsonPath": ".status.tiers[?(@.tier==\"batch\")].reclaimable.cpu", "description": "CPU offered to batch"}"#,
    printcolumn = r#"{"name": "Batch-Memory", "type": "string", "jsonPath": ".status.tiers[?(@.tier==\"batch\")].reclaimable.memory", "description": "Memory offered to batch"}"#,
    printcolumn = r#"{"name": "Mid-CPU", "type": "string", "priority": 1, "jsonPath": ".status.tiers[?(@.tier==\"mid\")].reclaimable.cpu", "description": "CPU offered to mid"}"#,
    printcolumn = r#"{"name": "Mid-Memory", "type": "string", "priority": 1, "jsonPath": ".status.tiers[?(@.tier==\"mid\")].reclaimable.memory", "description": "Memory offered to mid"}"#,
    printcolumn = r#"{"name": "Guard", "type": "string", "jsonPath": ".status.guards[?(@.name==\"cpu\")].state", "description": "State of the CPU guard"}"#,
    printcolumn = r#"{"name": "Reported", "type": "date", "jsonPath": ".status.time", "description": "Time since the report"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct NodeReportSpec {}

/// What an agent sees, offers and does.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReportStatus {
    /// When the report was made. One that is older than the policy's `expire` is not placed by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// Name of the ColocationPolicy that the node follows; absent where none selects it, and then nothing is offered.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub policy: Option<String>,
    /// CPU and memory, by tier.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["tier".into()]))]
    pub tiers: Vec<TierReport>,
    /// Use of the whole node: `cpu` in cores, `memory` in bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub usage: BTreeMap<String, Quantity>,
    /// Capacity of the whole node: `cpu` in cores, `memory` in bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub capacity: BTreeMap<String, Quantity>,
    /// Used outside pods and what the policy names: `cpu` in cores, `memory` in bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub system: BTreeMap<String, Quantity>,
    /// How the offer to batch comes about, by resource.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["resource".into()]))]
    pub offers: Vec<OfferReport>,
    /// How the offer to mid comes about, by resource.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["resource".into()]))]
    pub mid_offers: Vec<MidOfferReport>,
    /// Stall (PSI `some`) over the last 10 seconds, in thousandths of wall time.
    #[serde(default)]
    pub pressure: Pressure,
    /// NUMA nodes, by their number. Absent: not known, and nothing that requires one is placed here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["index".into()]))]
    pub numa: Vec<NumaReport>,
    /// What is counted of the whole node: load, paging, disks.
    #[serde(default)]
    pub host: HostReport,
    /// GPUs of the node, by index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["index".into()]))]
    pub gpus: Vec<GpuReport>,
    /// What the node's kernel can do, each found by trying: `cpu.idle`, `cpu.pressure`, `cpu.max.burst`, and so on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub capabilities: Vec<String>,
    /// Guards of the node, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub guards: Vec<GuardReport>,
    /// What the guards did last and why, the latest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub actions: Vec<ActionReport>,
    /// In mode `observe`, settings that the agent would make now; equal ones are one entry, and of each file the first come
    /// first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub intended: Vec<IntendedReport>,
    /// Settings that it would make beyond those in `intended`.
    #[serde(default)]
    pub intended_more: u32,
    /// True: batch or mid was evicted here lately, and the node takes no new pods of either for 5 minutes from then, or while memory
    /// is short. What runs stays.
    #[serde(default)]
    pub batch_closed: bool,
    /// Last ten evictions, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub evictions: Vec<EvictionReport>,
    /// Conditions of the node's agent, by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// One eviction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvictionReport {
    /// When it was decided.
    pub time: Time,
    /// The pod, as `namespace/name`; the path of a cgroup that is no pod's.
    #[schemars(length(max = 512))]
    pub pod: String,
    /// The claim that the pod is of, as `namespace/name`; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub claim: Option<String>,
    /// The tier that it is of: `batch`, or `mid` where no batch was left. Absent in a report of an agent that evicted none but
    /// batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// `MemoryShort`: less memory was available than the policy's `eviction.availablePercent`. `MemoryFails`: less than its
    /// `killPercent`, and it stalled. `MemoryStall`: prod stalled for memory although batch had no page cache left to give.
    /// `CpuSuppressed`: batch was held at its CPU floor for long. `CpuStall`: prod stalled for CPU for long, no batch was left, and
    /// mid used more than prod left.
    #[schemars(extend("enum" = ["MemoryShort", "MemoryFails", "MemoryStall", "CpuSuppressed", "CpuStall"]))]
    pub cause: String,
    /// `Ordered`: asked for, and not answered yet. `Evicted`: the API server evicts the pod. `Refused`: a disruption budget
    /// keeps it. `Withdrawn`: before its notice was over nobody was to be evicted any more, and the notice was taken back.
    /// `Failed`: the order did not work out. `Killed`: its processes were killed. `Observed`: the mode is `observe`, and nothing
    /// was done.
    #[schemars(extend("enum" = ["Ordered", "Evicted", "Refused", "Withdrawn", "Failed", "Killed", "Observed"]))]
    pub outcome: String,
    /// Work that was lost with it, of its whole claim where that cannot spare the pod, in core-seconds since the last
    /// checkpoint (annotation `duosuan.io/last-checkpoint`, else the claim's `interruption.checkpointInterval`), else since the
    /// start; and what it asked for during its `interruption.restartTime` on top.
    #[schemars(range(min = 0))]
    pub lost_core_seconds: i64,
    /// As `lostCoreSeconds`, for GPUs.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub lost_card_seconds: i64,
    /// Why, in words and figures.
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// One tier on the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TierReport {
    /// Tier.
    pub tier: Tier,
    /// Used now: `cpu` in cores, `memory` in bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub usage: BTreeMap<String, Quantity>,
    /// Peak that the forecast expects over the next minutes: `cpu`, `memory`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub forecast_peak: BTreeMap<String, Quantity>,
    /// Requests of the tier's pods on the node: `cpu`, `memory`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub bound: BTreeMap<String, Quantity>,
    /// Offered to the tier, what is bound included: `cpu`, `memory`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub reclaimable: BTreeMap<String, Quantity>,
    /// What the tier's pods did and suffered.
    #[serde(default)]
    pub work: TierWork,
}

/// What the pods of a tier did and suffered on the node since its agent's start, those that are gone included; and what their
/// memory is now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TierWork {
    /// Memory that is no copy of a file, in bytes; absent while that is not known of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anonymous: Option<Quantity>,
    /// Page cache, tmpfs included, in bytes; absent while that is not known of all. It counts to the use as far as it was used
    /// lately.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_cache: Option<Quantity>,
    /// Bytes read from devices, in MiB.
    pub read_mebibytes: u64,
    /// Bytes written to devices, in MiB.
    pub written_mebibytes: u64,
    /// Reads from devices.
    pub reads: u64,
    /// Writes to devices.
    pub writes: u64,
    /// Periods in which their own CPU limits stopped them, which nobody else can help.
    pub throttled_periods: u64,
    /// Time for which that was so, summed over CPUs, in seconds.
    pub throttled_seconds: u64,
    /// Times that they ran out of memory.
    pub ooms: u64,
    /// Processes that were killed for that.
    pub oom_kills: u64,
}

/// Stall, in thousandths of wall time over the last 10 seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Pressure {
    /// CPU stall of the whole node.
    pub cpu_milli: u32,
    /// Memory stall of the whole node.
    pub memory_milli: u32,
    /// IO stall of the whole node.
    pub io_milli: u32,
    /// CPU stall of prod's pods, less what they suffer from their own limits.
    pub prod_cpu_milli: u32,
    /// Memory stall of prod's pods, of those that do not run into their own limits.
    pub prod_memory_milli: u32,
    /// IO stall of prod's pods.
    pub prod_io_milli: u32,
}

/// One NUMA node: cores and the memory beside them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NumaReport {
    /// Number, as the kernel counts them, from 0.
    pub index: u16,
    /// Cores that are online. Example: `32`.
    pub cpu: Quantity,
    /// Memory, in bytes. Example: `256Gi`.
    pub memory: Quantity,
    /// Its part of what the node uses: `cpu` in cores, `memory` in bytes; the parts of all NUMA nodes add up to the node's `usage`.
    /// Absent where the kernel does not say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub usage: BTreeMap<String, Quantity>,
    /// Its part of what is offered to mid, by what prod and the system leave on it (what a tier uses is taken to be spread over
    /// NUMA nodes as all use is): `cpu`, `memory`. The parts add up to the node's `reclaimable`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub mid_reclaimable: BTreeMap<String, Quantity>,
    /// The same of what is offered to batch, by what prod, mid and the system leave.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub batch_reclaimable: BTreeMap<String, Quantity>,
}

/// One GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuReport {
    /// Index on the node, from 0.
    pub index: u16,
    /// Product name, as NVIDIA's feature discovery writes it. Example: `A100`.
    #[schemars(length(max = 253))]
    pub model: String,
    /// Memory, in bytes.
    pub memory: Quantity,
    /// What of it the driver keeps for itself, in bytes: shares of the device get what is left. Absent if not known, and then
    /// the operator assumes an amount (`--gpu-driver-memory`). Example: `600Mi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_memory: Option<Quantity>,
    /// Number of the NUMA node that the device is attached to, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa: Option<u16>,
    /// Number of its NVLink group on the node: devices of one group reach each other without the host. Absent if it has no such
    /// link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvlink: Option<u16>,
    /// MIG instances that the device is divided into. Present: no pod gets the device as a whole or a share of it; its instances
    /// are had as the resources that the node's device plugin offers, such as `nvidia.com/mig-1g.10gb`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub mig: Vec<MigReport>,
    /// True: the device must not get new pods.
    #[serde(default)]
    pub unhealthy: bool,
}

/// MIG instances of one profile on one GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigReport {
    /// Profile, as NVIDIA names it. Example: `1g.10gb`.
    #[schemars(length(min = 1, max = 63))]
    pub profile: String,
    /// Instances of it.
    #[schemars(range(min = 1))]
    pub count: u16,
}

/// One guard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuardReport {
    /// Name of the guard: `cpu`, `io`, `latency`, `llc`, `memory`, `network`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// `Idle`: nothing is cut. `Suppressing`: batch is cut. `Recovering`: it is being given back. `Off`: switched off, or the
    /// kernel cannot do it.
    #[schemars(extend("enum" = ["Idle", "Suppressing", "Recovering", "Off"]))]
    pub state: String,
    /// What the guard allows batch now: of `cpu` and `latency` in milli-cores, of `llc` in thousandths of the last-level cache, of
    /// `io` in thousandths of what batch did when it was cut.
    /// Absent if unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub limit_milli: Option<i64>,
    /// Memory that the guard of `memory` allows batch now, page cache included, in bytes; absent if unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub limit_bytes: Option<i64>,
    /// What the guard of `network` allows batch to send or to receive, whichever is less, in bits per second; absent if
    /// unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub limit_bits: Option<i64>,
    /// Times that the guard cut batch since the agent's start.
    #[serde(default)]
    pub cuts: u64,
    /// What the guard did last, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub last_action: Option<String>,
}

/// How the offer of one resource to batch comes about: `target` is `capacity` less `margin`, `systemPeak`, `prodPeak` and
/// `youngRequests`. The offer falls to it at once and rises to it slowly, and is never below `bound`. `cpu` is in cores,
/// `memory` in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfferReport {
    /// The resource: `cpu`, `memory`.
    #[schemars(length(min = 1, max = 63))]
    pub resource: String,
    /// What the offer goes by. `Fresh`: the forecast. `ColdStart`: there are too few samples, and what is bound is offered.
    /// `Held`: a signal is missing, and the last offer stands. `Decaying`: it is missing for long, and the offer falls.
    /// `Lost`: what is bound is offered. `Suspended`: the policy wants none.
    #[schemars(extend("enum" = ["Fresh", "ColdStart", "Held", "Decaying", "Lost", "Suspended"]))]
    pub basis: String,
    /// What the node has.
    pub capacity: Quantity,
    /// What the policy never offers.
    pub margin: Quantity,
    /// Expected peak of what is in no pod; absent while nothing is known of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_peak: Option<Quantity>,
    /// Expected peak of prod and mid; absent while nothing is known of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prod_peak: Option<Quantity>,
    /// What pods of prod and mid that are young, or of whatever age without a past, asked for and do not use yet: no past is a
    /// witness for them.
    pub young_requests: Quantity,
    /// What the terms amount to, 0 where that is less; absent while one is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Quantity>,
    /// What batch pods on the node have asked for.
    pub bound: Quantity,
    /// What is offered now, what is bound included.
    pub offered: Quantity,
}

/// How the offer of one resource to mid comes about: `target` is the least of `prodRequests` less `prodPeak`, of `capacity` less
/// `margin`, `systemPeak` and `prodPeak`, and of `share`. The offer falls to it at once and rises to it slowly, and is never
/// below `bound`. `cpu` is in cores, `memory` in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MidOfferReport {
    /// The resource: `cpu`, `memory`.
    #[schemars(length(min = 1, max = 63))]
    pub resource: String,
    /// What the offer goes by, as in `offers`. `ColdStart`: no day of prod's past is known yet (`reclaim.mid.warmUp`).
    #[schemars(extend("enum" = ["Fresh", "ColdStart", "Held", "Decaying", "Lost", "Suspended"]))]
    pub basis: String,
    /// What prod's pods on the node have asked for.
    pub prod_requests: Quantity,
    /// Peak of prod that is to be expected over days: the most of what its pods are expected to need each for itself, of what
    /// they used together, and of the peak of the next minutes. Pods without a long past count with what they asked for. Absent
    /// while nothing is known of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prod_peak: Option<Quantity>,
    /// What the node has.
    pub capacity: Quantity,
    /// What the policy never offers.
    pub margin: Quantity,
    /// Expected peak of what is in no pod; absent while nothing is known of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_peak: Option<Quantity>,
    /// What the policy offers mid at most.
    pub share: Quantity,
    /// What the terms amount to; absent while one is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Quantity>,
    /// What mid pods on the node have asked for.
    pub bound: Quantity,
    /// What is offered now, what is bound included.
    pub offered: Quantity,
}

/// Something that a guard did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActionReport {
    /// When.
    pub time: Time,
    /// Name of the guard.
    #[schemars(length(min = 1, max = 63))]
    pub guard: String,
    /// What it did, and why.
    #[schemars(length(max = 1024))]
    pub action: String,
}

/// A setting that the agent would make if it were to act.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IntendedReport {
    /// The file, and the device where it has a line for each. Example: `cpu.max`.
    #[schemars(length(min = 1, max = 253))]
    pub file: String,
    /// What it would be set to.
    #[schemars(length(max = 1024))]
    pub value: String,
    /// The cgroup, below the root; where there are several, the first of them.
    #[schemars(length(max = 4096))]
    pub cgroup: String,
    /// Cgroups that it would be set in.
    #[schemars(range(min = 1))]
    pub count: u32,
    /// What the guard saw that it would answer so.
    #[schemars(length(max = 1024))]
    pub why: String,
}
