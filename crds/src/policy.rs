//! `ColocationPolicy`: how far the nodes it selects go in sharing.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Duration, Tier,
    guards::{Eviction, Guards},
};

/// How far the selected nodes go in sharing.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "duosuan.io",
    version = "v1alpha1",
    kind = "ColocationPolicy",
    plural = "colocationpolicies",
    status = "ColocationPolicyStatus",
    shortname = "cp",
    category = "duosuan",
    derive = "PartialEq",
    derive = "Default",
    doc = "How far the nodes it selects go in sharing: what they offer to mid and batch, and how they protect prod.",
    printcolumn = r#"{"name": "Mode", "type": "string", "jsonPath": ".spec.mode", "description": "act, or observe only"}"#,
    printcolumn = r#"{"name": "Suspended", "type": "boolean", "jsonPath": ".spec.suspended", "description": "Kill switch"}"#,
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status", "description": "No node refuses it"}"#,
    printcolumn = r#"{"name": "Nodes", "type": "integer", "jsonPath": ".status.nodes", "description": "Nodes that follow it"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[x_kube(validation = Rule::new("!has(self.groups) || self.groups.all(a, self.groups.all(b, a.path == b.path || !b.path.startsWith(a.path + '/')))")
    .message("a cgroup of a group must not lie in that of another: what runs there would be counted twice").field_path(".groups"))]
#[serde(rename_all = "camelCase")]
pub struct ColocationPolicySpec {
    /// Labels that a node must carry, all of them, to follow this policy. Absent: all nodes. Of several policies that select a
    /// node, the first by name holds, and the condition `Overlaps` of each says so. Example: `{pool: shared}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16), inner(length(max = 63)))]
    pub node_selector: BTreeMap<String, String>,
    /// Kill switch: true returns every selected node to its untouched state within seconds: nothing is offered, no limit stays,
    /// and batch pods that run are left to run. The condition `Untouched` is true when every selected node, and every
    /// other one that still follows the policy, has reported so; it is unknown while a node has no report younger than
    /// `reclaim.expire`.
    #[serde(default)]
    pub suspended: bool,
    /// `act`: the agent offers capacity and enforces the guards. `observe`: it only reports what it would do.
    #[serde(default)]
    pub mode: Mode,
    /// Load over which a selected node gets no new pod.
    #[serde(default)]
    pub placement: Placement,
    /// What is offered to mid and batch.
    #[serde(default)]
    pub reclaim: Reclaim,
    /// How prod is protected from them.
    #[serde(default)]
    pub guards: Guards,
    /// Cgroups outside pods that the selected nodes count to a tier and guard with it, by path: a YARN NodeManager's, a
    /// Spark worker's, a daemon's. One that a node does not have is none there. Absent: what is in no pod is the node's system,
    /// kept firm as prod's is, and never limited.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["path".into()]))]
    pub groups: Vec<NamedGroup>,
    /// When pods of batch, and then of mid, have to leave a node that cannot be relieved otherwise. Of mid only those that ask for
    /// mid's resources, where no batch is left whose eviction would help and prod has suffered for `suppressedFor` (a minute where
    /// memory is under `availablePercent`). Absent: on, with its defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eviction: Option<Eviction>,
}

impl ColocationPolicySpec {
    /// Paths of the fields that are given and that neither agent nor operator acts on yet. Their descriptions say so too.
    #[must_use]
    pub fn not_acted_on(&self) -> Vec<&'static str> {
        let guards = &self.guards;
        [("spec.guards.gpu", guards.gpu.is_some())]
            .into_iter()
            .filter_map(|(field, given)| given.then_some(field))
            .collect()
    }
}

/// True if a `nodeSelector` is for a node with these labels: it carries all of them. Agent and operator ask the same, so
/// that both know which policy a node follows: of those that are for it, the first by name.
#[must_use]
pub fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// A cgroup outside pods, and the tier of what runs in it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("self.path.split('/').all(part, part != '' && part != '.' && part != '..')")
    .message("path must lead below the cgroup root, without a slash at its ends, without . and ..").field_path(".path"))]
#[x_kube(validation = Rule::new("!self.path.matches('^((kubelet|kubelet[.]slice)/)?(kubepods|kubepods[.]slice|kubelet-kubepods[.]slice)(/|$)')")
    .message("pods are in a tier by their own labels and requests: name a cgroup outside kubepods").field_path(".path"))]
#[x_kube(validation = Rule::new("!(self.path in ['init.scope', 'kubelet', 'kubelet.slice', 'system.slice'])")
    .message("the node's own daemons run there, the kubelet among them: name the cgroup of one below it").field_path(".path"))]
#[serde(rename_all = "camelCase")]
pub struct NamedGroup {
    /// Path below the cgroup root. Example: `yarn.slice`.
    #[schemars(length(min = 1, max = 512))]
    pub path: String,
    /// Tier of what runs in it. Batch is guarded as batch pods are, but never evicted through the API.
    pub tier: Tier,
}

/// Load over which a node gets no new pod, of any tier: what the node uses, or what its forecast expects over the next
/// minutes if that is more. What runs there stays. Below the line by 5 percent of the capacity, the node gets pods again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// CPU in use over which a node gets no new pod, in percent of its capacity, 10 to 100. Absent: no line.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 100))]
    pub cpu_percent: Option<u32>,
    /// Memory in use over which a node gets no new pod, in percent of its capacity, 10 to 100. Absent: no line.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 100))]
    pub memory_percent: Option<u32>,
}

/// Whether the agent acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "ColocationPolicySpec::mode explains them")]
pub enum Mode {
    #[default]
    Act,
    Observe,
}

/// What is offered to mid and batch: to batch, capacity - margin - system - forecast peak of prod and mid; to mid, see `mid`. A value that is absent is the
/// agent's own default, which the field names.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("duration(has(self.hold) ? self.hold : '60s') < duration(has(self.expire) ? self.expire : '5m')")
    .message("hold (60s if absent) must be shorter than expire (5m if absent)").field_path(".hold"))]
#[serde(rename_all = "camelCase")]
pub struct Reclaim {
    /// Quantile of prod's past use that is kept for prod, in percent, 50 to 100. Higher offers less and is safer. Default: 98.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 50, max = 100))]
    pub quantile_percent: Option<u32>,
    /// CPU that is never offered, in percent of the node's capacity, 0 to 90. Default: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 90))]
    pub cpu_margin_percent: Option<u32>,
    /// Memory that is never offered, in percent of the node's capacity, 0 to 90. Default: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 90))]
    pub memory_margin_percent: Option<u32>,
    /// How much the offer to batch may grow in 30 seconds, and that to mid in 5 minutes, in percent of the node's capacity, 1 to
    /// 100; both shrink at once. Default: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub growth_percent: Option<u32>,
    /// Age of a measurement up to which the last offer holds. Must be shorter than expire. Default: `60s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Duration>,
    /// Age of a measurement at which the offer has shrunk to what is bound, so that nothing new is placed. Default: `5m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire: Option<Duration>,
    /// What of that is offered to mid, for longer than batch's. Absent: as `mid: {}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mid: Option<MidReclaim>,
}

/// What is offered to mid: prod's requests that its past days say stay unused, as far as the node has room for them beside
/// prod's peak, and no more than a share of the node: min(requests - peak, capacity - margin - system - peak, share). The peak
/// is of the minutes of days, not of the next minutes; what is offered falls at once and grows ten times slower than
/// batch's, and nothing that is bound is ever taken out of it. Batch is offered what mid has not asked for or does not use, until
/// it does.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!has(self.warmUp) || duration(self.warmUp) >= duration('1m')")
    .message("warmUp must be a minute or more: the past is one of minutes").field_path(".warmUp"))]
#[serde(rename_all = "camelCase")]
pub struct MidReclaim {
    /// CPU that is offered to mid at most, in percent of the node's capacity, 0 to 100; 0 offers none. Default: 25.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub cpu_percent: Option<u32>,
    /// Memory that is offered to mid at most, in percent of the node's capacity, 0 to 100; 0 offers none. Default: 25.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub memory_percent: Option<u32>,
    /// Quantile of the peaks of prod's minutes that is kept for prod, in percent, 50 to 100; a peak counts half after 24 hours.
    /// Higher offers less and takes back more rarely. Default: 99.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 50, max = 100))]
    pub quantile_percent: Option<u32>,
    /// How long the agent must have seen a prod pod before anything that it asked for counts as unused, at least `1m`. Until then
    /// it counts with all that it asked for, or used if that is more. Default: `24h`, the period of most services' load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<Duration>,
}

/// Where a policy holds; written by the operator alone.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ColocationPolicyStatus {
    /// Number of nodes that follow the policy, by their own reports.
    #[serde(default)]
    pub nodes: u32,
    /// Conditions of the policy, by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
