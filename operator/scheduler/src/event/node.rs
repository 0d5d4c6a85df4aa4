//! What the core is told of a node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Amounts;

/// A node as placement sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.taints`.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// `status.allocatable`, extended resources of the tiers included.
    pub allocatable: Amounts,
    /// GPUs, by index. From the node's report; where there is none, from `nvidia.com/gpu`.
    pub gpus: Vec<Gpu>,
    /// Images that it holds already, by their names, with their bytes. Only those of [`BIG_IMAGE`] and more count.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub images: BTreeMap<String, i64>,
    /// Its NUMA nodes, each once; empty if they are not known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub numa: Vec<NumaNode>,
    /// The node's report is too old to place anything of the mid or batch tier by it.
    pub stale: bool,
    /// The node's load, measured or forecast, is over the line of its policy: it gets no new pod.
    pub hot: bool,
    /// How near its load, measured or forecast, is to the line of its policy, in steps of one [`LOAD_STEPS`]th of the line,
    /// from 0; `None` if nobody knows, and then it counts as half-way: never as cold. Mid and batch prefer what is cold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<u8>,
    /// Where it stands.
    pub location: Location,
}

/// Bytes from which on it matters to a pod whether a node holds its image already: 1 GiB, which takes some ten seconds to
/// fetch and to unpack. kube-scheduler counts images from 23 MB on, and up to 1000 MB by size; but most of what is that
/// small is soon there, or on every node.
pub const BIG_IMAGE: i64 = 1 << 30;

/// Steps of load that are told apart below a policy's line: so few that a change of one is rare and means something.
pub const LOAD_STEPS: u8 = 8;

/// Where a node stands. What is not known, or empty, puts it in no such area: nothing that has to share one goes there.
/// A rack is that of its block and zone, and an NVLink domain that of its rack: equal names in two zones are two racks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Location {
    /// Zone: a room or building with a fate of its own.
    pub zone: Option<String>,
    /// Block: the racks under one spine.
    pub block: Option<String>,
    /// Rack: the servers under one switch.
    pub rack: Option<String>,
    /// NVLink domain: servers of a rack whose GPUs all reach each other without the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvlink: Option<String>,
}

/// One GPU of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Gpu {
    /// Product name, for example `A100`; empty if unknown.
    pub model: String,
    /// Memory in bytes; 0 if unknown, and then memory is not accounted.
    pub memory: i64,
    /// Bytes of it that the driver keeps for itself: no share has them. `None` if nobody knows, and then it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_memory: Option<i64>,
    /// NUMA node, if known.
    pub numa: Option<u16>,
    /// NVLink group: cards of one group reach each other without the host; `None` if there is none.
    pub nvlink: Option<u16>,
    /// The device cannot be used for new pods.
    pub unhealthy: bool,
    /// The device is divided into MIG instances, which the node has as resources of their own (`nvidia.com/mig-1g.10gb`): no
    /// pod gets it as a whole or a share of it.
    pub divided: bool,
}

/// A NUMA node of a server: cores and the memory beside them. Of each tier's CPU and memory it has the same part as of the
/// server's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NumaNode {
    /// Its number on the server.
    pub id: u16,
    /// Milli-cores.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
}

/// A taint of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value, empty if none.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}
