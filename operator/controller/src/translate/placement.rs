//! Where a pod may stand, and would rather: node selector, node affinity, tolerations, host ports.

use std::collections::BTreeMap;

use duosuan_scheduler::event::{NODE_NAME, Operator, PreferredNodes, Requirement, Term, Toleration};
use k8s_openapi::api::core::v1;

use super::FieldError;
use crate::lean;

/// `spec.nodeSelector` and the required node affinity as alternatives of conjunctions; empty means any node.
///
/// # Errors
///
/// If an operator is unknown.
pub fn node_terms(
    selector: Option<&BTreeMap<String, String>>,
    affinity: Option<&lean::NodeSelector>,
) -> Result<Vec<Term>, FieldError> {
    let selector: Term = selector
        .into_iter()
        .flatten()
        .map(|(key, value)| Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: vec![value.clone()],
        })
        .collect();
    let Some(affinity) = affinity else {
        return Ok(if selector.is_empty() {
            Vec::new()
        } else {
            vec![selector]
        });
    };
    let mut terms = Vec::new();
    for term in &affinity.node_selector_terms {
        let mut own = requirements(term)?;
        // Kubernetes: a term without requirements matches no node.
        if !own.is_empty() {
            own.extend(selector.iter().cloned());
            terms.push(own);
        }
    }
    if terms.is_empty() {
        terms.push(vec![no_node()]);
    }
    Ok(terms)
}

/// The preferred node affinity.
///
/// # Errors
///
/// If an operator is unknown.
pub fn preferred_nodes(affinity: Option<&lean::NodeAffinity>) -> Result<Vec<PreferredNodes>, FieldError> {
    let preferred = affinity.map(|a| &a.preferred_during_scheduling_ignored_during_execution);
    let preferred = preferred.into_iter().flatten().map(|preferred| {
        Ok(PreferredNodes {
            weight: preferred.weight,
            term: requirements(&preferred.preference)?,
        })
    });
    preferred.collect()
}

fn requirements(term: &lean::NodeSelectorTerm) -> Result<Term, FieldError> {
    let by_label = term.match_expressions.iter().map(|r| requirement(r, r.key.clone()));
    // The API server admits no other field than `metadata.name`.
    let by_name = term.match_fields.iter().map(|r| requirement(r, NODE_NAME.to_owned()));
    by_label.chain(by_name).collect()
}

/// A requirement that no node meets.
fn no_node() -> Requirement {
    Requirement {
        key: NODE_NAME.to_owned(),
        operator: Operator::In,
        values: Vec::new(),
    }
}

fn requirement(from: &lean::Requirement, key: String) -> Result<Requirement, FieldError> {
    let operator = match from.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::Gt,
        "Lt" => Operator::Lt,
        other => {
            return Err(FieldError::new(
                format!("node affinity on {key}"),
                format!("operator {other:?} is unknown"),
            ));
        }
    };
    Ok(Requirement {
        key,
        operator,
        values: from.values.clone(),
    })
}

/// A claim group's node affinity, in the form of a pod's.
pub fn of_group(affinity: &v1::NodeAffinity) -> lean::NodeAffinity {
    let requirements = |list: Option<&Vec<v1::NodeSelectorRequirement>>| {
        list.into_iter()
            .flatten()
            .map(|r| lean::Requirement {
                key: r.key.clone(),
                operator: r.operator.clone(),
                values: r.values.clone().unwrap_or_default(),
            })
            .collect()
    };
    let term = |term: &v1::NodeSelectorTerm| lean::NodeSelectorTerm {
        match_expressions: requirements(term.match_expressions.as_ref()),
        match_fields: requirements(term.match_fields.as_ref()),
    };
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref();
    let preferred = affinity.preferred_during_scheduling_ignored_during_execution.as_ref();
    lean::NodeAffinity {
        required_during_scheduling_ignored_during_execution: required.map(|required| lean::NodeSelector {
            node_selector_terms: required.node_selector_terms.iter().map(term).collect(),
        }),
        preferred_during_scheduling_ignored_during_execution: preferred
            .into_iter()
            .flatten()
            .map(|preferred| lean::PreferredSchedulingTerm {
                weight: preferred.weight,
                preference: term(&preferred.preference),
            })
            .collect(),
    }
}

/// A toleration.
pub fn toleration(from: &lean::Toleration) -> Toleration {
    Toleration {
        key: from.key.clone().unwrap_or_default(),
        exists: from.operator.as_deref() == Some("Exists"),
        value: from.value.clone().unwrap_or_default(),
        effect: from.effect.clone().unwrap_or_default(),
    }
}

/// A claim to a persistent volume that a pod uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClaimUse {
    /// Its name.
    pub name: String,
    /// It is that of an ephemeral volume, made for this pod: one that was made for anything else is not it.
    pub own: bool,
}

/// The claims to persistent volumes that a pod of this name uses, once each. An ephemeral volume has a claim that is named
/// after the pod.
pub fn volume_claims(spec: &lean::PodSpec, pod: &str) -> Vec<ClaimUse> {
    let used = |volume: &lean::PodVolume| {
        let (name, own) = match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(source), _) => (source.claim_name.clone(), false),
            (None, Some(_)) => (format!("{pod}-{}", volume.name), true),
            (None, None) => return None,
        };
        Some(ClaimUse { name, own })
    };
    let mut used: Vec<ClaimUse> = spec.volumes.iter().filter_map(used).collect();
    used.sort_unstable();
    used.dedup_by(|later, kept| {
        let same = later.name == kept.name;
        kept.own |= same && later.own;
        same
    });
    used
}

/// Host ports of all containers that run together, as `PROTOCOL/IP/PORT`, in order and once each.
pub fn host_ports(spec: &lean::PodSpec) -> Vec<String> {
    let sidecars = spec
        .init_containers
        .iter()
        .filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let mut ports: Vec<String> = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| &c.ports)
        .filter(|port| port.host_port > 0)
        .map(|port| {
            let ip = port.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
            format!(
                "{}/{}/{}",
                port.protocol.as_deref().unwrap_or("TCP"),
                ip,
                port.host_port
            )
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::{Value, json};

    use super::*;

    fn terms(spec: Value) -> Vec<Term> {
        let spec: lean::PodSpec = serde_json::from_value(spec).unwrap();
        let affinity = spec
            .affinity
            .and_then(|a| a.node_affinity)
            .and_then(|a| a.required_during_scheduling_ignored_during_execution);
        node_terms(spec.node_selector.as_ref(), affinity.as_ref()).unwrap()
    }

    fn is(key: &str, values: &[&str]) -> Requirement {
        Requirement {
            key: key.to_owned(),
            operator: Operator::In,
            values: values.iter().map(|v| (*v).to_owned()).collect(),
        }
    }

    #[test]
    fn a_selector_is_part_of_every_alternative_of_the_affinity() {
        let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]},
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]},
        ]}}});
        let disk = is("disk", &["ssd"]);
        assert_eq!(
            terms(json!({"nodeSelector": {"disk": "ssd"}, "affinity": affinity})),
            vec![
                vec![is("zone", &["a", "b"]), disk.clone()],
                vec![is(NODE_NAME, &["n1"]), disk.clone()]
            ],
        );
        assert_eq!(terms(json!({"nodeSelector": {"disk": "ssd"}})), vec![vec![disk]]);
        assert_eq!(terms(json!({})), Vec::<Term>::new());
    }

    #[test]
    fn preferences_keep_their_weights_and_have_no_part_in_what_is_required() {
        let spec: lean::PodSpec = serde_json::from_value(json!({"affinity": {"nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 7, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}},
                {"weight": 1, "preference": {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}},
            ],
        }}}))
        .unwrap();
        let affinity = spec.affinity.and_then(|a| a.node_affinity).unwrap();
        let prefers = |weight, term| PreferredNodes {
            weight,
            term: vec![term],
        };
        assert_eq!(
            preferred_nodes(Some(&affinity)).unwrap(),
            [prefers(7, is("disk", &["ssd"])), prefers(1, is(NODE_NAME, &["n1"]))]
        );
        assert_eq!(
            affinity.required_during_scheduling_ignored_during_execution.map(|_| ()),
            None
        );
    }

    #[test]
    fn a_label_may_be_called_as_the_field_of_the_name_is() {
        let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]},
        ]}}});
        assert_eq!(
            terms(json!({"affinity": affinity})),
            vec![vec![is("metadata.name", &["n1"])]]
        );
    }

    #[test]
    fn an_empty_alternative_matches_no_node_and_not_every_node() {
        let affinity =
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]}}});
        assert_eq!(terms(json!({"affinity": affinity})), vec![vec![is(NODE_NAME, &[])]]);
    }

    #[test]
    fn claims_to_volumes_are_found_by_name_also_those_of_ephemeral_volumes() {
        let spec: lean::PodSpec = serde_json::from_value(json!({"volumes": [
            {"name": "v", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "again", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {}}},
            {"name": "w", "emptyDir": {}}, {"name": "x", "projected": {"sources": []}},
        ]}))
        .unwrap();
        let used: Vec<(String, bool)> = volume_claims(&spec, "p").into_iter().map(|c| (c.name, c.own)).collect();
        assert_eq!(used, [("data".to_owned(), false), ("p-scratch".to_owned(), true)]);
    }

    #[test]
    fn host_ports_name_protocol_and_address() {
        let spec: lean::PodSpec = serde_json::from_value(json!({
            "containers": [
                {"ports": [{"containerPort": 1}, {"hostPort": 80}, {"hostPort": 53, "protocol": "UDP", "hostIP": "10.0.0.1"}]},
                {"ports": [{"hostPort": 80}]},
            ],
            "initContainers": [{"ports": [{"hostPort": 81}]}, {"restartPolicy": "Always", "ports": [{"hostPort": 82}]}],
        }))
        .unwrap();
        assert_eq!(
            host_ports(&spec),
            ["TCP/0.0.0.0/80", "TCP/0.0.0.0/82", "UDP/10.0.0.1/53"]
        );
    }
}
