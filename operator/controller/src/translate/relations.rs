//! What a pod asks of the places of other pods: affinity and anti-affinity to pods, topology spread.

use std::collections::BTreeMap;

use duosuan_scheduler::event::{
    Namespace, Operator, PodRules, PodTerm, Preference, Requirement, SPREADS_AT_MOST, Spread, Term,
};

use super::FieldError;
use crate::lean::{self, Object, Texts};

const AFFINITY: &str = "spec.affinity.podAffinity";
const ANTI_AFFINITY: &str = "spec.affinity.podAntiAffinity";
const SPREAD: &str = "spec.topologySpreadConstraints";

/// The rules of a pod with these labels; `None` if it has none.
///
/// `matchLabelKeys` and `mismatchLabelKeys` of affinity are in the selectors already: the API server puts them there. Those
/// of spread are put there by it since 1.34, and by the scheduler before; to do it twice changes nothing.
///
/// # Errors
///
/// If an operator, a weight or a constraint is one that Kubernetes does not admit, or there are too many constraints.
pub fn rules(spec: &lean::PodSpec, labels: &Texts) -> Result<Option<Box<PodRules>>, FieldError> {
    let mut rules = PodRules::default();
    let affinity = spec.affinity.as_ref();
    if let Some(near) = affinity.and_then(|a| a.pod_affinity.as_ref()) {
        rules.affinity = terms(&near.required_during_scheduling_ignored_during_execution, AFFINITY)?;
        let preferred = &near.preferred_during_scheduling_ignored_during_execution;
        rules.preferences.extend(preferences(preferred, 1, AFFINITY)?);
    }
    if let Some(apart) = affinity.and_then(|a| a.pod_anti_affinity.as_ref()) {
        rules.anti_affinity = terms(
            &apart.required_during_scheduling_ignored_during_execution,
            ANTI_AFFINITY,
        )?;
        let preferred = &apart.preferred_during_scheduling_ignored_during_execution;
        rules.preferences.extend(preferences(preferred, -1, ANTI_AFFINITY)?);
    }
    if spec.topology_spread_constraints.len() > SPREADS_AT_MOST {
        let problem = format!("has more than {SPREADS_AT_MOST} constraints; leave some out");
        return Err(FieldError::new(SPREAD, problem));
    }
    for constraint in &spec.topology_spread_constraints {
        rules.spread.push(spread(constraint, labels)?);
    }
    Ok((!rules.is_empty()).then(|| Box::new(rules)))
}

fn terms(from: &[lean::PodTerm], field: &str) -> Result<Vec<PodTerm>, FieldError> {
    from.iter().map(|from| term(from, field)).collect()
}

fn term(from: &lean::PodTerm, field: &str) -> Result<PodTerm, FieldError> {
    Ok(PodTerm {
        topology_key: from.topology_key.clone(),
        selector: selector(from.label_selector.as_ref(), field)?,
        namespaces: from.namespaces.clone(),
        namespace_selector: selector(from.namespace_selector.as_ref(), field)?,
    })
}

fn preferences(from: &[lean::WeightedPodTerm], sign: i32, field: &str) -> Result<Vec<Preference>, FieldError> {
    let preference = |from: &lean::WeightedPodTerm| {
        if !(1..=100).contains(&from.weight) {
            let problem = format!("weight {} is none of 1 to 100", from.weight);
            return Err(FieldError::new(field, problem));
        }
        Ok(Preference {
            weight: sign * from.weight,
            term: term(&from.pod_affinity_term, field)?,
        })
    };
    from.iter().map(preference).collect()
}

fn spread(from: &lean::Spread, labels: &Texts) -> Result<Spread, FieldError> {
    let required = match from.when_unsatisfiable.as_str() {
        "DoNotSchedule" => true,
        "ScheduleAnyway" => false,
        other => {
            let problem = format!("whenUnsatisfiable {other:?} is neither DoNotSchedule nor ScheduleAnyway");
            return Err(FieldError::new(SPREAD, problem));
        }
    };
    let mut selector = selector(from.label_selector.as_ref(), SPREAD)?;
    if let Some(selector) = &mut selector {
        let own = from.match_label_keys.iter().filter_map(|key| labels.get_key_value(key));
        selector.extend(own.map(|(key, value)| is(key, value)));
    }
    let honors = |policy: Option<&str>, default: bool| policy.map_or(default, |policy| policy == "Honor");
    Ok(Spread {
        topology_key: from.topology_key.clone(),
        max_skew: from.max_skew,
        required,
        selector,
        min_domains: from.min_domains.unwrap_or(1),
        honor_affinity: honors(from.node_affinity_policy.as_deref(), true),
        honor_taints: honors(from.node_taints_policy.as_deref(), false),
    })
}

fn is(key: &str, value: &str) -> Requirement {
    Requirement {
        key: key.to_owned(),
        operator: Operator::In,
        values: vec![value.to_owned()],
    }
}

/// A selector of labels: without one, nothing is selected, and by an empty one everything is.
///
/// # Errors
///
/// If an operator is unknown.
pub fn selector(from: Option<&lean::LabelSelector>, field: &str) -> Result<Option<Term>, FieldError> {
    let Some(from) = from else { return Ok(None) };
    let mut all: Term = from
        .match_labels
        .iter()
        .flatten()
        .map(|(key, value)| is(key, value))
        .collect();
    for expression in &from.match_expressions {
        let operator = match expression.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => {
                let problem = format!("operator {other:?} on label {} is unknown", expression.key);
                return Err(FieldError::new(field, problem));
            }
        };
        all.push(Requirement {
            key: expression.key.clone(),
            operator,
            values: expression.values.clone(),
        });
    }
    Ok(Some(all))
}

/// A namespace.
pub fn namespace(object: &Object<lean::Namespace>) -> Namespace {
    let labels: BTreeMap<String, String> = object.metadata.labels.clone().unwrap_or_default();
    Namespace {
        name: object.metadata.name.clone().unwrap_or_default(),
        labels,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::{Value, json};

    use super::*;

    fn read(spec: Value) -> Result<Option<Box<PodRules>>, FieldError> {
        let labels = [("app".to_owned(), "x".to_owned()), ("hash".to_owned(), "1".to_owned())].into();
        rules(&serde_json::from_value(spec).unwrap(), &labels)
    }

    #[test]
    fn terms_are_read_with_their_namespaces_and_anti_affinity_weighs_against() {
        let term = json!({
            "topologyKey": "zone",
            "labelSelector": {"matchLabels": {"app": "x"}, "matchExpressions": [{"key": "k", "operator": "DoesNotExist"}]},
            "namespaces": ["a"], "namespaceSelector": {},
        });
        let expected = PodTerm {
            topology_key: "zone".into(),
            selector: Some(vec![
                is("app", "x"),
                Requirement {
                    key: "k".into(),
                    operator: Operator::DoesNotExist,
                    values: vec![],
                },
            ]),
            namespaces: vec!["a".into()],
            namespace_selector: Some(vec![]),
        };
        let both = json!({
            "requiredDuringSchedulingIgnoredDuringExecution": [term],
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 7, "podAffinityTerm": term}],
        });
        let rules = read(json!({"affinity": {"podAffinity": both, "podAntiAffinity": both}})).unwrap();
        let preference = |weight| Preference {
            weight,
            term: expected.clone(),
        };
        assert_eq!(
            *rules.unwrap(),
            PodRules {
                affinity: vec![expected.clone()],
                anti_affinity: vec![expected.clone()],
                preferences: vec![preference(7), preference(-7)],
                spread: vec![],
            }
        );
    }

    #[test]
    fn spread_has_the_defaults_of_kubernetes_and_takes_in_the_pods_own_labels() {
        let rules = read(json!({"topologySpreadConstraints": [
            {"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
             "labelSelector": {"matchLabels": {"app": "x"}}, "matchLabelKeys": ["hash", "absent"]},
            {"topologyKey": "host", "maxSkew": 2, "whenUnsatisfiable": "ScheduleAnyway", "minDomains": 3,
             "nodeAffinityPolicy": "Ignore", "nodeTaintsPolicy": "Honor", "matchLabelKeys": ["hash"]},
        ]}))
        .unwrap()
        .unwrap();
        let first = Spread {
            topology_key: "zone".into(),
            max_skew: 1,
            required: true,
            selector: Some(vec![is("app", "x"), is("hash", "1")]),
            min_domains: 1,
            honor_affinity: true,
            honor_taints: false,
        };
        let second = Spread {
            topology_key: "host".into(),
            max_skew: 2,
            required: false,
            selector: None,
            min_domains: 3,
            honor_affinity: false,
            honor_taints: true,
        };
        assert_eq!(rules.spread, [first, second]);
    }

    #[test]
    fn what_cannot_be_understood_is_named_and_a_pod_without_rules_has_none() {
        assert_eq!(read(json!({"affinity": {"podAffinity": {}}})).unwrap(), None);
        let selector = json!({"matchExpressions": [{"key": "k", "operator": "Like"}]});
        let cases = [
            (
                json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": selector}]}}}),
                r#"spec.affinity.podAntiAffinity: operator "Like" on label k is unknown"#,
            ),
            (
                json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 101}]}}}),
                "spec.affinity.podAffinity: weight 101 is none of 1 to 100",
            ),
            (
                json!({"topologySpreadConstraints": [{"whenUnsatisfiable": "Maybe"}]}),
                r#"spec.topologySpreadConstraints: whenUnsatisfiable "Maybe" is neither DoNotSchedule nor ScheduleAnyway"#,
            ),
            (
                json!({"topologySpreadConstraints": vec![json!({"whenUnsatisfiable": "ScheduleAnyway"}); SPREADS_AT_MOST + 1]}),
                "spec.topologySpreadConstraints: has more than 32 constraints; leave some out",
            ),
        ];
        for (spec, message) in cases {
            assert_eq!(read(spec).unwrap_err().to_string(), message);
        }
    }
}
