//! `Queue`: a tenant's node in the quota tree.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Condition};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Duration, Tier};

/// What a tenant may use, and what it gets back whenever it asks.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "duosuan.io",
    version = "v1alpha1",
    kind = "Queue",
    status = "QueueStatus",
    shortname = "dq",
    category = "duosuan",
    derive = "PartialEq",
    derive = "Default",
    doc = "A tenant's node in the quota tree: what it may use, what it is guaranteed, and what it lends while it is idle.",
    validation = Rule::new("!has(self.spec.parent) || self.spec.parent != self.metadata.name")
        .message("a queue cannot be its own parent").field_path(".spec.parent"),
    printcolumn = r#"{"name": "Parent", "type": "string", "jsonPath": ".spec.parent", "description": "Queue above it"}"#,
    printcolumn = r#"{"name": "Weight", "type": "integer", "jsonPath": ".spec.weight", "description": "Share of what is left over, against its siblings"}"#,
    printcolumn = r#"{"name": "Running", "type": "integer", "jsonPath": ".status.running", "description": "Claims that run"}"#,
    printcolumn = r#"{"name": "Pending", "type": "integer", "jsonPath": ".status.pending", "description": "Claims that wait"}"#,
    printcolumn = r#"{"name": "Share", "type": "integer", "jsonPath": ".status.shareMilli", "description": "Dominant resource share, thousandths"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct QueueSpec {
    /// Name of the Queue above it: what this queue uses counts there too. Absent: it stands at the top. Example: `research`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub parent: Option<String>,
    /// Its share of what is left over once every guarantee is met, against the queues beside it, 1 to 10000: a queue of weight
    /// 2 gets twice what a queue of weight 1 gets.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 10_000))]
    pub weight: u32,
    /// Guarantees and limits, at most one entry for each tier. A tier without an entry has neither.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["tier".into()]))]
    pub quotas: Vec<Quota>,
    /// Namespaces whose claims and pods may use the queue, at most 256. Absent: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        inner(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub namespaces: Vec<String>,
    /// Time after which past use counts half in the fair share between queues: the share is that of the mean of what the queue
    /// uses now and of an average of what it used, in which what lies so long back counts half. The operator keeps that average
    /// in memory: when it restarts, the past begins with what is used then. Absent: only present use counts. Example: `24h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fairness_half_life: Option<Duration>,
    /// How the queue takes back what others borrow of its guarantee. `Any`: by evicting borrowers, cheapest first. `Never`: it
    /// waits until they end.
    #[serde(default)]
    pub reclaim: ReclaimPolicy,
}

fn one() -> u32 {
    1
}

/// The quota of one tier. Resources are named as for prod in every tier (`cpu`, not `duosuan.io/batch-cpu`); `gpu` counts
/// devices, of which a share is a fraction.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.guaranteed) || !has(self.limit) || self.guaranteed.all(r, !(r in self.limit) || quantity(string(self.limit[r])).compareTo(quantity(string(self.guaranteed[r]))) >= 0)")
        .message("the limit of a resource must not be less than its guarantee").field_path(".limit"),
    validation = Rule::new("!has(self.lendLimit) || self.lendLimit.all(r, has(self.guaranteed) && r in self.guaranteed && quantity(string(self.lendLimit[r])).compareTo(quantity(string(self.guaranteed[r]))) <= 0)")
        .message("the lendLimit of a resource must not be more than its guarantee").field_path(".lendLimit"),
)]
#[serde(rename_all = "camelCase")]
pub struct Quota {
    /// Tier that this entry speaks of: `prod`, `mid` or `batch`.
    pub tier: Tier,
    /// What the queue gets back whenever it asks, by resource; while it is idle, others may use it.
    /// Example: `{cpu: "400", memory: 1600Gi, gpu: "16"}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    #[x_kube(validation = Rule::new("self.all(r, r in ['cpu', 'memory', 'gpu', 'pods', 'ephemeral-storage'] || r.contains('/'))")
        .message("a resource must be cpu, memory, gpu, pods, ephemeral-storage, or an extended resource with a domain, such as example.com/fpga"))]
    pub guaranteed: BTreeMap<String, Quantity>,
    /// What the queue never exceeds, by resource. A resource that is not named has no limit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    #[x_kube(validation = Rule::new("self.all(r, r in ['cpu', 'memory', 'gpu', 'pods', 'ephemeral-storage'] || r.contains('/'))")
        .message("a resource must be cpu, memory, gpu, pods, ephemeral-storage, or an extended resource with a domain, such as example.com/fpga"))]
    pub limit: BTreeMap<String, Quantity>,
    /// How much of the guarantee others may use while it is idle, by resource. A resource that is not named is lent as a whole;
    /// 0 keeps it free. Who waits for what is kept has the reason `KeptForOthers`. Example: `{cpu: "100"}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub lend_limit: BTreeMap<String, Quantity>,
}

/// How a queue takes back what it lent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReclaimPolicy {
    /// By evicting what borrows from it.
    #[default]
    Any,
    /// Never; it waits.
    Never,
}

/// What a queue uses; written by the operator alone.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueStatus {
    /// Use, by tier; what the queues below use counts too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["tier".into()]))]
    pub tiers: Vec<TierUse>,
    /// Claims and single pods of the queue that wait.
    #[serde(default)]
    pub pending: u32,
    /// Claims and single pods of the queue that run.
    #[serde(default)]
    pub running: u32,
    /// Dominant resource share: the largest part of any resource of the cluster that the queue uses, in thousandths, by its
    /// weight. With a `fairnessHalfLife`, its past is part of it.
    #[serde(default)]
    pub share_milli: u32,
    /// Conditions of the queue, by type. `Usable` is there only where it is false: the way to the top of the tree leads in a
    /// circle or to a parent that does not exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Use of one tier.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TierUse {
    /// Tier.
    pub tier: Tier,
    /// Used by its claims and pods, by resource.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub used: BTreeMap<String, Quantity>,
    /// Used beyond the guarantee, by resource.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub borrowed: BTreeMap<String, Quantity>,
    /// Used by others of the guarantee, by resource.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub lent: BTreeMap<String, Quantity>,
}
