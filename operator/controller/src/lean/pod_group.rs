//! What is read of Kubernetes' own pod groups.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::{Condition, list};

/// The group of pods that a pod belongs to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct SchedulingGroup {
    pub pod_group_name: Option<String>,
}

/// Spec of a pod group.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct PodGroupSpec {
    pub scheduling_policy: SchedulingPolicy,
    pub scheduling_constraints: Option<SchedulingConstraints>,
    #[serde(deserialize_with = "list")]
    pub resource_claims: Vec<IgnoredAny>,
    /// In `v1alpha2` a text, later an object.
    pub disruption_mode: Value,
    pub parent_composite_pod_group_name: Option<String>,
    pub priority: Option<i32>,
}

/// How the pods of a group are scheduled: as a gang, or (without one) each by itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct SchedulingPolicy {
    pub gang: Option<GangPolicy>,
}

/// Pods that a gang needs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct GangPolicy {
    pub min_count: i32,
}

/// Where the pods of a group may be.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct SchedulingConstraints {
    #[serde(deserialize_with = "list")]
    pub topology: Vec<IgnoredAny>,
}

/// Status of a pod group.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct PodGroupStatus {
    #[serde(deserialize_with = "list")]
    pub conditions: Vec<Condition>,
}
