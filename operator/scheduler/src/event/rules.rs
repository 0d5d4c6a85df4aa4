//! What a pod asks of the places of other pods.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Term;

/// A namespace, as the namespace selectors of pod affinity see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Namespace {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
}

/// Other pods, in the same part of a topology: what a term of pod affinity or anti-affinity names.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodTerm {
    /// Label of nodes: those with the same value are one part.
    pub topology_key: String,
    /// Requirements on the other pods' labels; an empty list matches every pod, `None` no pod.
    pub selector: Option<Term>,
    /// Namespaces of the other pods. Without any, and without a selector of namespaces, it is the pod's own.
    pub namespaces: Vec<String>,
    /// Requirements on the labels of further namespaces; an empty list matches every namespace, `None` no further one.
    pub namespace_selector: Option<Term>,
}

/// A preferred term of pod affinity or anti-affinity.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Preference {
    /// 1..=100 to be near each of those pods, -100..=-1 to be away from them.
    pub weight: i32,
    /// Which pods.
    pub term: PodTerm,
}

/// A topology spread constraint.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spread {
    /// Label of nodes: those with the same value are one part.
    pub topology_key: String,
    /// Pods by which a part may exceed the emptiest one, at least 1.
    pub max_skew: i32,
    /// True for `DoNotSchedule`, false for `ScheduleAnyway`.
    pub required: bool,
    /// Requirements on the labels of the pods that count, `matchLabelKeys` included; an empty list counts no pod but the
    /// one that is to be placed, `None` no pod at all.
    pub selector: Option<Term>,
    /// With fewer parts than these, the emptiest counts as having none; at least 1.
    pub min_domains: i32,
    /// Nodes that the pod's node selector or affinity excludes do not count.
    pub honor_affinity: bool,
    /// Nodes with a taint that the pod does not tolerate do not count.
    pub honor_taints: bool,
}

/// Topology spread constraints of a pod that are looked at: the first ones. Nobody writes as many.
pub const SPREADS_AT_MOST: usize = 32;

/// What a pod asks of the places of other pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodRules {
    /// Required pod affinity: one of the pods that match all of these is in the same part, for each.
    pub affinity: Vec<PodTerm>,
    /// Required pod anti-affinity: none of the pods that match is in the same part, for each. It goes both ways.
    pub anti_affinity: Vec<PodTerm>,
    /// Preferred pod affinity and anti-affinity.
    pub preferences: Vec<Preference>,
    /// Topology spread constraints, [`SPREADS_AT_MOST`].
    pub spread: Vec<Spread>,
}

impl PodRules {
    /// True if it asks nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.affinity.is_empty()
            && self.anti_affinity.is_empty()
            && self.preferences.is_empty()
            && self.spread.is_empty()
    }
}
