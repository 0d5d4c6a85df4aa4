//! What a report says of the whole node for people: load, paging and disks.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is counted of the whole node. Nothing is decided by it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostReport {
    /// Processes that ran or waited in the mean of the last minute. Example: `1.25`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load1: Option<Quantity>,
    /// The same of the last 5 minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load5: Option<Quantity>,
    /// The same of the last 15 minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load15: Option<Quantity>,
    /// What the node's memory management did since boot; absent where the kernel does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paging: Option<PagingReport>,
    /// Disks that did anything since boot, by name; the first 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub disks: Vec<DiskReport>,
}

/// What the node's memory management did since boot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PagingReport {
    /// Read from swap, in MiB.
    pub swapped_in_mebibytes: u64,
    /// Written to swap, in MiB.
    pub swapped_out_mebibytes: u64,
    /// Reclaimed in the background, in MiB.
    pub reclaimed_mebibytes: u64,
    /// Reclaimed by those who wanted memory and waited for it, in MiB.
    pub reclaimed_direct_mebibytes: u64,
    /// Page faults that waited for a device.
    pub major_faults: u64,
    /// Processes that were killed for want of memory, in limits of their own too.
    pub oom_kills: u64,
}

/// One disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskReport {
    /// Name, as the kernel gives it. Example: `nvme0n1`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Reads since boot.
    pub reads: u64,
    /// Writes since boot.
    pub writes: u64,
    /// Bytes read since boot, in MiB.
    pub read_mebibytes: u64,
    /// Bytes written since boot, in MiB.
    pub written_mebibytes: u64,
    /// Part of the last seconds in which a request was under way, in thousandths. (A disk that serves many at a time may be busy all
    /// the time and have room still.)
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub busy_milli: Option<i64>,
    /// Requests that were under way or waited in the mean of the last seconds, in thousandths.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub queue_milli: Option<i64>,
}
