//! What is read of a node's report.

use serde::Deserialize;

use super::{Texts, Unread, list};

/// Status of a node's report.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ReportStatus {
    /// When it was made.
    pub time: Option<String>,
    /// Policy that the node follows.
    pub policy: Option<String>,
    /// Use of the node.
    pub usage: Texts,
    /// Capacity of the node.
    pub capacity: Texts,
    /// Use and forecast by tier.
    #[serde(deserialize_with = "list")]
    pub tiers: Vec<ReportedTier>,
    /// NUMA nodes: a list of `NumaReport`.
    pub numa: Unread,
    /// GPUs: a list of `GpuReport`.
    pub gpus: Unread,
    /// The node takes nothing new of mid and batch, since some was evicted there.
    #[serde(rename = "batchClosed")]
    pub batch_closed: bool,
    /// What the agent says of itself.
    pub conditions: Vec<ReportCondition>,
}

/// A tier in a node's report.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReportedTier {
    /// Used now.
    pub usage: Texts,
    /// Expected over the next minutes.
    pub forecast_peak: Texts,
}

/// A condition of a node's report.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ReportCondition {
    /// Type.
    #[serde(rename = "type")]
    pub type_: String,
    /// Reason.
    pub reason: String,
    /// Message.
    pub message: String,
}
