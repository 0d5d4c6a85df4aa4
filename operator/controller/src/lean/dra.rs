//! What is read of the objects of dynamic resource allocation.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};

use super::{NodeSelector, Taint, Texts, Toleration, list};

/// Spec of a resource slice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct ResourceSliceSpec {
    pub driver: String,
    pub pool: ResourcePool,
    #[serde(flatten)]
    pub place: Place,
    pub per_device_node_selection: bool,
    #[serde(deserialize_with = "list")]
    pub devices: Vec<Device>,
    #[serde(deserialize_with = "list")]
    pub shared_counters: Vec<CounterSet>,
}

/// The pool of a slice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct ResourcePool {
    pub name: String,
    pub generation: i64,
    pub resource_slice_count: i64,
}

/// From where devices can be used.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Place {
    pub node_name: Option<String>,
    pub node_selector: Option<NodeSelector>,
    pub all_nodes: Option<bool>,
}

/// A device of a slice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Device {
    pub name: String,
    pub attributes: Option<BTreeMap<String, Attribute>>,
    pub capacity: Option<BTreeMap<String, Capacity>>,
    #[serde(deserialize_with = "list")]
    pub consumes_counters: Vec<CounterSet>,
    #[serde(flatten)]
    pub place: Place,
    #[serde(deserialize_with = "list")]
    pub taints: Vec<Taint>,
    pub binds_to_node: Option<bool>,
    #[serde(deserialize_with = "list")]
    pub binding_conditions: Vec<IgnoredAny>,
    pub allow_multiple_allocations: Option<bool>,
    pub node_allocatable_resource_mappings: Option<IgnoredAny>,
    pub compatibility_groups: Option<IgnoredAny>,
}

/// The value of an attribute, one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Attribute {
    pub int: Option<i64>,
    pub bool: Option<bool>,
    pub string: Option<String>,
    pub version: Option<String>,
}

/// A capacity of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Capacity {
    pub value: String,
    pub request_policy: Option<RequestPolicy>,
}

/// What may be had of a capacity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct RequestPolicy {
    pub default: Option<String>,
    #[serde(deserialize_with = "list")]
    pub valid_values: Vec<String>,
    pub valid_range: Option<ValidRange>,
}

/// A range of amounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct ValidRange {
    pub min: Option<String>,
    pub max: Option<String>,
    pub step: Option<String>,
}

/// Counters of a pool (by `name`), or what a device takes from them (by `counterSet`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct CounterSet {
    pub name: String,
    pub counter_set: String,
    pub counters: Option<BTreeMap<String, Counter>>,
}

/// A counter.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Counter {
    pub value: String,
}

/// Spec of a device class.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct DeviceClassSpec {
    #[serde(deserialize_with = "list")]
    pub selectors: Vec<Selector>,
    /// Handed on as it is.
    #[serde(deserialize_with = "list")]
    pub config: Vec<serde_json::Value>,
}

/// A selector of devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Selector {
    pub cel: Option<Cel>,
}

/// An expression.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Cel {
    pub expression: String,
}

/// Spec of a resource claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct ResourceClaimSpec {
    pub devices: ClaimedDevices,
}

/// What a claim asks for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct ClaimedDevices {
    #[serde(deserialize_with = "list")]
    pub requests: Vec<DeviceRequest>,
    #[serde(deserialize_with = "list")]
    pub constraints: Vec<DeviceConstraint>,
}

/// A request of a claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct DeviceRequest {
    pub name: String,
    pub exactly: Option<ExactRequest>,
    #[serde(deserialize_with = "list")]
    pub first_available: Vec<ExactRequest>,
}

/// Devices that are asked for; an alternative has a name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct ExactRequest {
    pub name: String,
    pub device_class_name: String,
    #[serde(deserialize_with = "list")]
    pub selectors: Vec<Selector>,
    pub allocation_mode: Option<String>,
    pub count: Option<i64>,
    pub admin_access: Option<bool>,
    #[serde(deserialize_with = "list")]
    pub tolerations: Vec<Toleration>,
    pub capacity: Option<CapacityRequests>,
    #[serde(deserialize_with = "list")]
    pub derived_attributes: Vec<IgnoredAny>,
}

/// How much of a device's capacity is asked for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct CapacityRequests {
    pub requests: Option<Texts>,
}

/// What the devices of a claim have in common, or not.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct DeviceConstraint {
    #[serde(deserialize_with = "list")]
    pub requests: Vec<String>,
    pub match_attribute: Option<String>,
    pub distinct_attribute: Option<String>,
}

/// Status of a resource claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct ResourceClaimStatus {
    pub allocation: Option<Allocation>,
    #[serde(deserialize_with = "list")]
    pub reserved_for: Vec<Consumer>,
}

/// What a claim has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Allocation {
    pub devices: AllocatedDevices,
    pub node_selector: Option<NodeSelector>,
}

/// The devices that a claim has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct AllocatedDevices {
    #[serde(deserialize_with = "list")]
    pub results: Vec<AllocatedDevice>,
}

/// A device that a claim has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct AllocatedDevice {
    pub request: String,
    pub driver: String,
    pub pool: String,
    pub device: String,
    pub admin_access: Option<bool>,
    #[serde(rename = "shareID")]
    pub share_id: Option<IgnoredAny>,
    pub consumed_capacity: Option<Texts>,
}

/// Who may use a claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Consumer {
    pub uid: String,
}

/// A claim that a pod uses.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct PodResourceClaim {
    pub name: String,
    pub resource_claim_name: Option<String>,
    pub resource_claim_template_name: Option<String>,
    pub pod_group_resource_claim: Option<String>,
}

/// The claim that was made for a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct PodResourceClaimStatus {
    pub name: String,
    pub resource_claim_name: Option<String>,
}
