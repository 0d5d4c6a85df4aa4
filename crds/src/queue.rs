//! `Queue`: a tenant's node in the quota tree.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Condition};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Duration, Tier};

/// What a tenant may use, and what it gets back whenever it asks.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "duosuan.io", version = "v1alpha1", kind = "Queue", status = "QueueStatus", shortname = "dq", category = "duosuan")]
#[serde(rename_all = "camelCase")]
pub struct QueueSpec {
    /// Name of the queue above it.
    pub parent: Option<String>,
    /// Its share of what is left over, against its siblings.
    #[serde(default = "one")]
    pub weight: u32,
    /// Quotas by tier.
    #[serde(default)]
    pub quotas: Vec<Quota>,
    /// Namespaces that may use it; empty allows all.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Half-life of past usage in the fair share.
    pub fairness_half_life: Option<Duration>,
    /// Whether it takes back by eviction what it lent.
    #[serde(default)]
    pub reclaim: ReclaimPolicy,
}

fn one() -> u32 {
    1
}

/// The quota of one tier.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quota {
    /// Tier.
    pub tier: Tier,
    /// By resource: what it gets back whenever it asks. Names are those of prod in each tier; `gpu` counts devices.
    #[serde(default)]
    pub guaranteed: BTreeMap<String, Quantity>,
    /// By resource: what it never exceeds.
    #[serde(default)]
    pub limit: BTreeMap<String, Quantity>,
    /// By resource: how much of its guarantee others may use while it is idle.
    #[serde(default)]
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

/// What a queue uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueStatus {
    /// Use by tier.
    #[serde(default)]
    pub tiers: Vec<TierUse>,
    /// Claims that wait.
    #[serde(default)]
    pub pending: u32,
    /// Claims that run.
    #[serde(default)]
    pub running: u32,
    /// Dominant resource share, in thousandths.
    #[serde(default)]
    pub share_milli: u32,
    /// Conditions.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// Use of one tier.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TierUse {
    /// Tier.
    pub tier: Tier,
    /// By resource, used by its claims.
    #[serde(default)]
    pub used: BTreeMap<String, Quantity>,
    /// By resource, used beyond its guarantee.
    #[serde(default)]
    pub borrowed: BTreeMap<String, Quantity>,
    /// By resource, of its guarantee, used by others.
    #[serde(default)]
    pub lent: BTreeMap<String, Quantity>,
}
