//! `ColocationPolicy`: how far the nodes it selects go in sharing.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Condition};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

/// How far the selected nodes go in sharing.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "duosuan.io", version = "v1alpha1", kind = "ColocationPolicy", status = "ColocationPolicyStatus", shortname = "cp", category = "duosuan")]
#[serde(rename_all = "camelCase")]
pub struct ColocationPolicySpec {
    /// Labels of the nodes; empty selects all. Of several policies that select a node, the first by name holds.
    #[serde(default)]
    pub node_selector: BTreeMap<String, String>,
    /// Kill switch: return every node to its untouched state.
    #[serde(default)]
    pub suspended: bool,
    /// `act`, or only say what would be done.
    #[serde(default)]
    pub mode: Mode,
    /// What is offered.
    #[serde(default)]
    pub reclaim: Reclaim,
    /// How prod is protected.
    #[serde(default)]
    pub guards: Guards,
}

/// Whether the agent acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Mode {
    #[default]
    Act,
    Observe,
}

/// What is offered to mid and batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Reclaim {
    /// Quantile of prod's use that is kept for it, in percent, 50 to 100.
    pub quantile_percent: Option<u32>,
    /// CPU never offered, percent of capacity.
    pub cpu_margin_percent: Option<u32>,
    /// Memory never offered, percent of capacity.
    pub memory_margin_percent: Option<u32>,
    /// How much the offer may grow in 30 s, percent.
    pub growth_percent: Option<u32>,
    /// Age of a signal up to which the last offer holds.
    pub hold: Option<Duration>,
    /// Age at which the offer has decayed to what is bound.
    pub expire: Option<Duration>,
}

/// Guards, each of which may be switched off.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Guards {
    /// CPU guard.
    pub cpu: CpuGuard,
}

/// CPU guard: prod's CPU stall cuts batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CpuGuard {
    /// Off: batch is not touched.
    pub disabled: bool,
    /// Prod's CPU stall, thousandths of wall time, over which batch is cut.
    pub stall_milli: Option<u32>,
    /// Batch's CPU is never cut below this many milli-cores.
    pub floor: Option<Quantity>,
}

/// Where a policy holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ColocationPolicyStatus {
    /// Nodes that follow it.
    #[serde(default)]
    pub nodes: u32,
    /// Conditions.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}
