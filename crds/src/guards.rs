//! The part of a `ColocationPolicy` that protects prod: guards, and eviction where they do not suffice.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

/// Guards, each of which may be switched off.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Guards {
    /// CPU guard: when prod waits for CPU, batch is cut at once and given back slowly.
    #[serde(default)]
    pub cpu: CpuGuard,
    /// Memory guard: when memory runs short, batch gives its page cache and then its growth back before prod loses any, and
    /// the kernel takes what prod asked for last. Absent: on, with its defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryGuard>,
    /// IO guard: when prod waits for its disks, batch's share of them is cut at once and given back slowly. Absent: on,
    /// with its defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io: Option<IoGuard>,
    /// Guard of the last-level cache and of memory bandwidth, by the kernel's resctrl: batch beside prod is held to a part of
    /// both. Absent: on, with its defaults, where the processor has it and resctrl is mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub llc: Option<LlcGuard>,
    /// Network guard: the batch pods of a node together send and receive no more than prod leaves of the link that leads out of
    /// the node. Absent: on, with its defaults, where the agent may look after the node's links (`agent.network` in the chart's
    /// values), and the link's speed is known. Held are pods with a link of their own on the node (veth, netkit), on which
    /// nobody else has hooks (`clsact`, `ingress`) for packets; others are left alone, and counted in the condition `NetworkHeld`.
    /// So are links whose packets do not come by the agent's hooks, as where programs of tcx take them before (Cilium's, since
    /// Linux 6.6): by the counts, some minutes after the first 200 packets of a pod at the latest. Where the node's end of a link sees no packet
    /// at all (netkit with programs that redirect), nothing tells of it: give `disabled: true` there. A route out by a bridge, a
    /// VLAN or Open vSwitch is followed to the card below; where there is none, or more than one, only `rate` is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkGuard>,
    /// GPU guard: batch on a card that it shares with prod computes in prod's gaps and gives memory back when prod asks
    /// for it. Not acted on yet: the condition `Honoured` says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuGuard>,
    /// Latency guard: an online service's own latency histogram cuts batch's CPU before its objective is missed. A service that
    /// misses it for half a minute with batch at its floor, too, is slow by itself: from there on batch may make it a quarter
    /// slower, and the node's report says so in the condition `LatencyKept`. Absent: on, with its defaults; it acts where a pod
    /// states an objective.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencyGuard>,
}

/// CPU guard: prod's CPU stall cuts batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CpuGuard {
    /// True switches the guard off: batch is not touched, whatever prod suffers.
    #[serde(default)]
    pub disabled: bool,
    /// Prod's CPU stall (PSI `some`) over which batch is cut, in thousandths of wall time, 1 to 1000. Default: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub stall_milli: Option<u32>,
    /// CPU below which batch is never cut, so that it keeps moving; a quantity of cores. Default: a
    /// twentieth of the node. Example: `500m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<Quantity>,
    /// What a prod or mid container that runs into its own CPU limit may use beyond it in a burst, out of what it left of
    /// it before, in percent of the limit, 0 to 100 (`cpu.max.burst`). Its mean use stays within the limit. While it holds, the
    /// kernel takes no limit below this part of the one that stands, so that a pod is not resized in place to less.
    /// Default: 0, which is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub burst_percent: Option<u32>,
    /// True: while a guard cuts batch's CPU, batch runs on as few whole cores as that needs, the last ones of the node, so that
    /// prod is alone on all others and on their second threads. Not where a container has CPUs of its own by the kubelet's
    /// static CPU manager.
    #[serde(default)]
    pub confine: bool,
}

/// Memory guard: shortage of memory takes batch's first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemoryGuard {
    /// True switches the guard off: batch's memory is not touched, whatever prod suffers.
    #[serde(default)]
    pub disabled: bool,
    /// Prod's memory stall (PSI `some`) over which batch's memory is taken back, in thousandths of wall time, 1 to 1000.
    /// Default: 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub stall_milli: Option<u32>,
    /// Available memory of the node under which batch's is taken back, whatever the stall, in percent of its capacity,
    /// 1 to 50. Default: 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 50))]
    pub available_percent: Option<u32>,
}

/// IO guard: prod's IO stall cuts batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IoGuard {
    /// True switches the guard off: batch's IO is not touched, whatever prod suffers.
    #[serde(default)]
    pub disabled: bool,
    /// Prod's IO stall (PSI `some`) over which batch is cut, in thousandths of wall time, 1 to 1000. Default: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub stall_milli: Option<u32>,
}

/// Guard of the last-level cache and of memory bandwidth.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LlcGuard {
    /// True switches the guard off: batch uses the whole cache and bandwidth.
    #[serde(default)]
    pub disabled: bool,
    /// Part of the last-level cache that batch may fill, in percent, 1 to 100, rounded up to whole ways. Default: 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub cache_percent: Option<u32>,
    /// Part of the memory bandwidth that batch may use, in percent, 1 to 100, rounded up to what the processor can
    /// enforce. Default: 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub bandwidth_percent: Option<u32>,
}

/// Network guard: batch's packets over the rate are dropped at the node's end of its pods' links, so that senders slow down.
/// What a pod of batch sends to another on the same node counts as well. Packets get no priority: the queues that nodes have by
/// default (`fq_codel`) know none, and forwarding sets it anew from the packet's own type of service, which is its sender's to say.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!has(self.rate) || quantity(string(self.rate)).compareTo(quantity('1M')) >= 0")
    .message("rate must be at least 1M (bits per second)").field_path(".rate"))]
#[x_kube(validation = Rule::new("!has(self.line) || quantity(string(self.line)).compareTo(quantity('1M')) >= 0")
    .message("line must be at least 1M (bits per second)").field_path(".line"))]
#[x_kube(validation = Rule::new("!has(self.rate) || !has(self.line) || quantity(string(self.rate)).compareTo(quantity(string(self.line))) <= 0")
    .message("rate must be no more than line: the link carries no more").field_path(".rate"))]
#[serde(rename_all = "camelCase")]
pub struct NetworkGuard {
    /// True switches the guard off: batch sends and receives as prod does.
    #[serde(default)]
    pub disabled: bool,
    /// Most that the batch pods of a node send together, and most that they receive together, in bits per second, at least `1M`.
    /// Absent: what prod leaves of nine tenths of the link, less at once when prod needs more, and more by a twentieth of the
    /// link a second; a twentieth always.
    /// Example: `2G`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Quantity>,
    /// What the link that leads out of the node carries each way, in bits per second, at least `1M`, where its driver does
    /// not say so, as those of most virtual machines, or where less is paid for. Absent: what the driver says.
    /// Example: `25G`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<Quantity>,
}

/// GPU guard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuGuard {
    /// True switches the guard off: batch and prod share the card as its driver does.
    #[serde(default)]
    pub disabled: bool,
    /// Prod's use of a card over which batch on it is held back, in percent of the card's time, 1 to 100. Default: 60.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub busy_percent: Option<u32>,
}

/// Latency guard: a service with about as many slow requests as its objective allows cuts batch's CPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LatencyGuard {
    /// True switches the guard off: no service's latency cuts batch.
    #[serde(default)]
    pub disabled: bool,
    /// Part of the slow requests that a service's objective allows, over which batch is cut, in percent, 10 to 100: where 1
    /// request of 100 may take longer than promised, 80 cuts when 0.8 of 100 do. Default: 80.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 100))]
    pub budget_percent: Option<u32>,
}

/// Eviction of batch pods from a node, lowest lost work first and never more than needed. A pod that is to go gets the annotation
/// `duosuan.io/eviction-notice`, and SIGTERM with its grace two seconds later; where its disruption budget keeps it, the next one goes.
/// Pods that ask for mid's resources are evicted only where no batch is left whose eviction would help (what uses no more CPU than
/// the guards leave batch in any case does not count) and prod has suffered for `suppressedFor` (for a minute where memory is
/// under `availablePercent`; by a stall for memory only while less than four times that is available), with `midNotice` between the annotation and SIGTERM; they are never
/// killed. Those that are mid by their label alone, and pods of prod, are never evicted. A pod under notice stays, and the
/// annotation is taken off, where the policy does not allow evictions any more or the agent ends, and one of mid also where the
/// node has recovered of what it was to go for, unless that is prod's stall for memory.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("(has(self.killPercent) ? self.killPercent : 1) < (has(self.availablePercent) ? self.availablePercent : 3)")
    .message("killPercent (1 if absent) must be less than availablePercent (3 if absent)").field_path(".killPercent"))]
#[x_kube(validation = Rule::new("!has(self.midNotice) || duration(self.midNotice) <= duration('1h')")
    .message("midNotice must be an hour or less").field_path(".midNotice"))]
#[serde(rename_all = "camelCase")]
pub struct Eviction {
    /// True switches eviction off: what is suppressed stays suppressed, and the kernel's OOM killer decides.
    #[serde(default)]
    pub disabled: bool,
    /// Available memory under which pods are evicted through the API, with their disruption budgets and grace, in percent
    /// of the node's capacity, 2 to 50. Default: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 50))]
    pub available_percent: Option<u32>,
    /// Available memory under which batch pods are killed at once, if memory stalls too, because the kernel would soon choose
    /// somebody itself, in percent of the node's capacity, 1 to 49. Must be less than availablePercent. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 49))]
    pub kill_percent: Option<u32>,
    /// How long the guards of CPU and latency may hold batch at its floor before pods that cannot use what is left are
    /// evicted, and how long prod may lack memory when batch has no page cache left to give. Default: `5m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppressed_for: Option<Duration>,
    /// Time between the annotation and SIGTERM for pods of mid, an hour at most. Default: `60s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mid_notice: Option<Duration>,
}
