//! `CapacityClaim`: one gang's request for capacity.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{NodeAffinity, Toleration},
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{Condition, Time},
    },
};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Duration, Tier};

/// What a gang asks for.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "duosuan.io", version = "v1alpha1", kind = "CapacityClaim", namespaced, status = "CapacityClaimStatus", shortname = "cc", category = "duosuan")]
#[serde(rename_all = "camelCase")]
pub struct CapacityClaimSpec {
    /// Queue.
    #[serde(default = "default_queue")]
    pub queue: String,
    /// Tier.
    #[serde(default)]
    pub tier: Tier,
    /// Higher goes first.
    #[serde(default)]
    pub priority: i32,
    /// Roles.
    pub groups: Vec<Group>,
    /// Topology of the whole claim.
    pub topology: Option<Topology>,
    /// How long it is expected to run.
    pub expected_duration: Option<Duration>,
    /// When it has to be finished.
    pub deadline: Option<Time>,
    /// A reservation.
    pub window: Option<Window>,
    /// What it can bear.
    pub interruption: Option<Interruption>,
}

fn default_queue() -> String {
    "default".into()
}

/// One role: identical pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// Name.
    pub name: String,
    /// Pods, if fixed.
    pub count: Option<u32>,
    /// Pods at least, if elastic.
    pub min: Option<u32>,
    /// Pods at most, if elastic.
    pub max: Option<u32>,
    /// Step.
    pub quantum: Option<u32>,
    /// Of each pod.
    #[serde(default)]
    pub requests: BTreeMap<String, Quantity>,
    /// GPUs of each pod.
    pub gpus: Option<Gpus>,
    /// Topology of the group.
    pub topology: Option<Topology>,
    /// Joined with each pod's own.
    pub affinity: Option<NodeAffinity>,
    /// Added to each pod's own.
    #[serde(default)]
    pub tolerations: Vec<Toleration>,
}

/// GPUs of each pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gpus {
    /// Whole devices.
    pub count: Option<u16>,
    /// Thousandths of one device's compute.
    pub share: Option<u16>,
    /// Memory of that device.
    pub memory: Option<Quantity>,
    /// Allowed models; empty allows any.
    #[serde(default)]
    pub models: Vec<String>,
}

/// Where pods stand to each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Topology {
    /// Smallest domain to pack into.
    pub pack: Domain,
    /// Wait for it, or take the next best.
    #[serde(default)]
    pub mode: TopologyMode,
}

/// Domains of the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
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
#[allow(missing_docs)]
pub enum TopologyMode {
    Required,
    #[default]
    Preferred,
}

/// A reservation in time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Window {
    pub start: Time,
    pub end: Time,
}

/// What a claim can bear.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Interruption {
    /// Warning before an eviction.
    pub notice: Option<Duration>,
    /// Runs at least so long.
    pub min_runtime: Option<Duration>,
    /// Time between checkpoints.
    pub checkpoint_interval: Option<Duration>,
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

/// What became of a claim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CapacityClaimStatus {
    /// Phase.
    pub phase: Phase,
    /// Placed pods by group.
    #[serde(default)]
    pub placed: Vec<Placed>,
    /// Why it waits: name of the reason.
    pub reason: Option<String>,
    /// Why it waits, in a sentence, and what would change it.
    pub message: Option<String>,
    /// When it is expected to start.
    pub estimated_start: Option<Time>,
    /// Conditions.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// Placed pods of a group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placed {
    /// Group.
    pub group: String,
    /// Bound pods.
    pub count: u32,
    /// Pods wanted: `count` or `max`.
    pub desired: u32,
}
