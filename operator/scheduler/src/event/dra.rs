//! Dynamic resource allocation: pools of devices, and claims to them. What a selector means was found out at the edge: here
//! it is a number, and each device says by which numbers it is meant.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Taint, Term, Toleration};

/// The devices of one pool, as its newest generation has them; the whole pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DevicePool {
    /// Name of the driver.
    pub driver: String,
    /// Name of the pool.
    pub pool: String,
    /// Why nothing may be had of it, such as that it is being updated; its devices are listed for their places alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// The devices, in the order in which they are tried.
    pub devices: Vec<PoolDevice>,
    /// What devices that are parts of one card take from together, by `set/counter`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub counters: BTreeMap<String, i64>,
}

/// One device of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolDevice {
    /// Its name, unique in the pool.
    pub name: String,
    /// From where it can be used.
    pub reach: Reach,
    /// Selectors that mean it, ascending.
    pub selectors: Vec<u32>,
    /// Selectors that could not be evaluated for it, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<(u32, String)>,
    /// Attributes by `domain/name`, as texts of which equal ones are equal values.
    pub attributes: BTreeMap<String, String>,
    /// Taints.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
    /// Several claims may have it at once, each a part of its capacity.
    pub shared: bool,
    /// What it has to give, by the names that requests use, in thousandths.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub capacity: BTreeMap<String, Capacity>,
    /// What it takes from the pool's counters when it is allocated.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub consumes: BTreeMap<String, i64>,
}

/// From where a device can be used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reach {
    /// From every node.
    #[default]
    Everywhere,
    /// From the node of this name.
    Node(String),
    /// From the nodes that match one of the alternatives; from none, if there is none.
    Nodes(Vec<Term>),
}

/// A capacity of a device, in thousandths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Capacity {
    /// All of it.
    pub value: i64,
    /// What a request gets that names none of it; all, if this says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<i64>,
    /// What requests are rounded up to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<Steps>,
}

/// The amounts of a capacity that may be had.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Steps {
    /// One of these, ascending.
    Values(Vec<i64>),
    /// From a least amount on, in steps if one is given, up to a largest if one is given.
    Range {
        /// The least amount.
        min: i64,
        /// The largest amount.
        max: Option<i64>,
        /// The distance of two amounts.
        step: Option<i64>,
    },
}

/// A claim to devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceClaim {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// UID of the pod that it was generated for: it is for that one alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What it asks for.
    pub spec: DeviceClaimSpec,
    /// What it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocation: Option<DeviceAllocation>,
    /// UIDs of those who may use it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reserved: Vec<String>,
    /// It is being deleted.
    pub deleting: bool,
    /// Why nothing is allocated for it as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// What a claim asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceClaimSpec {
    /// Its requests.
    pub requests: Vec<DeviceRequest>,
    /// What its devices have to have in common, or not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<DeviceConstraint>,
}

/// A request of a claim: the first of some alternatives that can be had.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceRequest {
    /// Its name.
    pub name: String,
    /// The alternatives, the best first; mostly one.
    pub options: Vec<DeviceOption>,
}

/// Devices that are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceOption {
    /// What it is called in the allocation: the name of its request, or `request/alternative`.
    pub name: String,
    /// Number of the selector that says which devices are meant.
    pub selector: u32,
    /// How many; `None` for all that are meant.
    pub count: Option<u32>,
    /// Tolerations of taints of devices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// How much of each device's capacity, in thousandths.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub capacity: BTreeMap<String, i64>,
}

/// What devices of a claim have to have in common, or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceConstraint {
    /// Requests and alternatives that it is about; empty for all.
    pub requests: Vec<String>,
    /// Attribute, as `domain/name`.
    pub attribute: String,
    /// No two of them have the same value, instead of all.
    pub distinct: bool,
}

/// The devices that a claim has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceAllocation {
    /// The devices.
    pub devices: Vec<AllocatedDevice>,
    /// Nodes from where they can be used, as alternatives; empty for any node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<Term>,
}

/// A device that a claim has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AllocatedDevice {
    /// What it was asked for by: [`DeviceOption::name`].
    pub request: String,
    /// Name of its driver.
    pub driver: String,
    /// Name of its pool.
    pub pool: String,
    /// Its name.
    pub device: String,
    /// Others may have parts of it: it has so much of its capacity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<BTreeMap<String, i64>>,
}
