//! What is read of where pods may go and where they would rather be.

use serde::Deserialize;

use super::{Texts, list};

/// Affinity of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Affinity {
    pub node_affinity: Option<NodeAffinity>,
    pub pod_affinity: Option<PodAffinity>,
    pub pod_anti_affinity: Option<PodAffinity>,
}

/// Affinity or anti-affinity to pods.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct PodAffinity {
    #[serde(deserialize_with = "list")]
    pub required_during_scheduling_ignored_during_execution: Vec<PodTerm>,
    #[serde(deserialize_with = "list")]
    pub preferred_during_scheduling_ignored_during_execution: Vec<WeightedPodTerm>,
}

/// A preferred term.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct WeightedPodTerm {
    pub weight: i32,
    pub pod_affinity_term: PodTerm,
}

/// Other pods, in the same part of a topology.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct PodTerm {
    pub topology_key: String,
    pub label_selector: Option<LabelSelector>,
    #[serde(deserialize_with = "list")]
    pub namespaces: Vec<String>,
    pub namespace_selector: Option<LabelSelector>,
}

/// A selector of labels.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct LabelSelector {
    pub match_labels: Option<Texts>,
    #[serde(deserialize_with = "list")]
    pub match_expressions: Vec<Requirement>,
}

/// Node affinity.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct NodeAffinity {
    pub required_during_scheduling_ignored_during_execution: Option<NodeSelector>,
    #[serde(deserialize_with = "list")]
    pub preferred_during_scheduling_ignored_during_execution: Vec<PreferredSchedulingTerm>,
}

/// Nodes that a pod would rather have.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct PreferredSchedulingTerm {
    pub weight: i32,
    pub preference: NodeSelectorTerm,
}

/// Alternatives of conjunctions.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct NodeSelector {
    #[serde(deserialize_with = "list")]
    pub node_selector_terms: Vec<NodeSelectorTerm>,
}

/// A conjunction.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct NodeSelectorTerm {
    #[serde(deserialize_with = "list")]
    pub match_expressions: Vec<Requirement>,
    #[serde(deserialize_with = "list")]
    pub match_fields: Vec<Requirement>,
}

/// A requirement.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Requirement {
    pub key: String,
    pub operator: String,
    #[serde(deserialize_with = "list")]
    pub values: Vec<String>,
}

/// A toleration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Toleration {
    pub key: Option<String>,
    pub operator: Option<String>,
    pub value: Option<String>,
    pub effect: Option<String>,
}

/// A topology spread constraint.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Spread {
    pub max_skew: i32,
    pub topology_key: String,
    pub when_unsatisfiable: String,
    pub label_selector: Option<LabelSelector>,
    pub min_domains: Option<i32>,
    pub node_affinity_policy: Option<String>,
    pub node_taints_policy: Option<String>,
    #[serde(deserialize_with = "list")]
    pub match_label_keys: Vec<String>,
}

/// A taint.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields are Kubernetes' own")]
pub struct Taint {
    pub key: String,
    pub value: Option<String>,
    pub effect: String,
}
