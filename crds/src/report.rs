//! `NodeReport`: what an agent sees and offers; status only, named as its node.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::{
    api::resource::Quantity,
    apis::meta::v1::{Condition, Time},
};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Tier;

/// Empty: the agent writes the status, nobody asks anything of it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "duosuan.io", version = "v1alpha1", kind = "NodeReport", status = "NodeReportStatus", shortname = "nr", category = "duosuan")]
#[serde(rename_all = "camelCase")]
pub struct NodeReportSpec {}

/// What an agent sees and offers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeReportStatus {
    /// When it was made.
    pub time: Option<Time>,
    /// Policy that the node follows.
    pub policy: Option<String>,
    /// CPU and memory by tier.
    #[serde(default)]
    pub tiers: Vec<TierReport>,
    /// Use of the whole node: `cpu`, `memory`.
    #[serde(default)]
    pub usage: BTreeMap<String, Quantity>,
    /// Capacity of the whole node: `cpu`, `memory`.
    #[serde(default)]
    pub capacity: BTreeMap<String, Quantity>,
    /// Stall, thousandths of wall time over the last 10 s.
    #[serde(default)]
    pub pressure: Pressure,
    /// GPUs.
    #[serde(default)]
    pub gpus: Vec<GpuReport>,
    /// What the kernel can do: `cpu.idle`, `cpu.pressure`, `cpu.max.burst`...
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Guards.
    #[serde(default)]
    pub guards: Vec<GuardReport>,
    /// Conditions.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// One tier on the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TierReport {
    /// Tier.
    pub tier: Tier,
    /// Used now: `cpu`, `memory`.
    #[serde(default)]
    pub usage: BTreeMap<String, Quantity>,
    /// Forecast peak: `cpu`, `memory`.
    #[serde(default)]
    pub forecast_peak: BTreeMap<String, Quantity>,
    /// Requests of its pods: `cpu`, `memory`.
    #[serde(default)]
    pub bound: BTreeMap<String, Quantity>,
    /// Offered: `cpu`, `memory`.
    #[serde(default)]
    pub reclaimable: BTreeMap<String, Quantity>,
}

/// Stall.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Pressure {
    /// CPU of the node.
    pub cpu_milli: u32,
    /// Memory of the node.
    pub memory_milli: u32,
    /// IO of the node.
    pub io_milli: u32,
    /// CPU of prod's pods.
    pub prod_cpu_milli: u32,
}

/// One GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuReport {
    /// Index on the node.
    pub index: u16,
    /// Product name.
    pub model: String,
    /// Memory.
    pub memory: Quantity,
    /// NUMA node.
    pub numa: Option<u16>,
    /// NVLink group.
    pub nvlink: Option<u16>,
    /// Not to be used.
    #[serde(default)]
    pub unhealthy: bool,
}

/// One guard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuardReport {
    /// Name: `cpu`.
    pub name: String,
    /// `Idle`, `Suppressing`, `Recovering`, `Off`.
    pub state: String,
    /// What it allows batch now: milli-cores; absent if unlimited.
    pub limit_milli: Option<i64>,
    /// Times that it cut batch since the agent's start.
    #[serde(default)]
    pub cuts: u64,
    /// Last action and why.
    pub last_action: Option<String>,
}
