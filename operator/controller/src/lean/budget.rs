//! What is read of a disruption budget.

use serde::Deserialize;

use super::LabelSelector;

/// Spec of a disruption budget.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct BudgetSpec {
    pub selector: Option<LabelSelector>,
    pub unhealthy_pod_eviction_policy: Option<String>,
}

/// Status of a disruption budget.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct BudgetStatus {
    pub disruptions_allowed: i64,
    pub desired_healthy: i64,
    pub expected_pods: i64,
}
