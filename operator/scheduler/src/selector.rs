//! Node selectors and taints, with the meaning that kube-scheduler gives them.

use std::collections::BTreeMap;

use crate::{
    event::{NODE_NAME, Operator, Requirement, Taint, Term, Toleration},
    model::NodeSlot,
};

/// True if a node matches one of the alternatives, or there are none. An empty alternative matches nothing.
pub(crate) fn matches(terms: &[Term], node: &NodeSlot) -> bool {
    matches_node(terms, &node.name, &node.labels)
}

/// True if a node meets all of some requirements; of none at all no node does.
pub(crate) fn meets(term: &Term, node: &NodeSlot) -> bool {
    meets_all(term, &node.name, &node.labels)
}

/// True if a node of this name and with these labels matches one of the alternatives, or there are none. An empty
/// alternative matches nothing.
#[must_use]
pub fn matches_node(terms: &[Term], name: &str, labels: &BTreeMap<String, String>) -> bool {
    terms.is_empty() || terms.iter().any(|term| meets_all(term, name, labels))
}

fn meets_all(term: &Term, name: &str, labels: &BTreeMap<String, String>) -> bool {
    !term.is_empty() && term.iter().all(|r| satisfies(r, name, labels))
}

fn satisfies(requirement: &Requirement, name: &str, labels: &BTreeMap<String, String>) -> bool {
    let label = match requirement.key.as_str() {
        NODE_NAME => Some(name),
        key => labels.get(key).map(String::as_str),
    };
    let named = |value: &str| requirement.values.iter().any(|v| v == value);
    match requirement.operator {
        Operator::In => label.is_some_and(named),
        Operator::NotIn => !label.is_some_and(named),
        Operator::Exists => label.is_some(),
        Operator::DoesNotExist => label.is_none(),
        Operator::Gt => compared(label, &requirement.values).is_some_and(|(label, bound)| label > bound),
        Operator::Lt => compared(label, &requirement.values).is_some_and(|(label, bound)| label < bound),
    }
}

fn compared(label: Option<&str>, values: &[String]) -> Option<(i64, i64)> {
    let [bound] = values else { return None };
    Some((label?.parse().ok()?, bound.parse().ok()?))
}

/// True if labels of pods or of namespaces meet all of some requirements.
#[must_use]
pub fn labels_match<'a>(requirements: &[Requirement], label: impl Fn(&str) -> Option<&'a str>) -> bool {
    requirements.iter().all(|requirement| {
        let label = label(&requirement.key);
        let named = |value: &str| requirement.values.iter().any(|v| v == value);
        match requirement.operator {
            Operator::In => label.is_some_and(named),
            Operator::NotIn => !label.is_some_and(named),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            // No selector of labels has these.
            Operator::Gt | Operator::Lt => false,
        }
    })
}

/// True if no taint of a node keeps a pod away that has these tolerations.
pub(crate) fn admits<'a>(mut taints: impl Iterator<Item = &'a Taint>, tolerations: &[Toleration]) -> bool {
    !taints.any(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute") && !tolerated(taint, tolerations))
}

/// True if one of the tolerations tolerates a taint.
pub(crate) fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|t| {
        (t.effect.is_empty() || t.effect == taint.effect)
            && if t.key.is_empty() {
                t.exists
            } else {
                t.key == taint.key && (t.exists || t.value == taint.value)
            }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeSlot {
        let labels = [("zone", "a"), ("cores", "16")]
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .into();
        NodeSlot {
            name: "n1".into(),
            labels,
            ..Default::default()
        }
    }

    fn term(key: &str, operator: Operator, values: &[&str]) -> Vec<Term> {
        vec![vec![Requirement {
            key: key.into(),
            operator,
            values: values.iter().map(ToString::to_string).collect(),
        }]]
    }

    #[test]
    fn operators_mean_what_kubernetes_says() {
        let node = node();
        let cases = [
            ("zone", Operator::In, &["a", "b"][..], true),
            ("zone", Operator::In, &["b"], false),
            ("rack", Operator::In, &["b"], false),
            ("zone", Operator::NotIn, &["a"], false),
            ("rack", Operator::NotIn, &["a"], true),
            ("zone", Operator::Exists, &[], true),
            ("rack", Operator::DoesNotExist, &[], true),
            ("cores", Operator::Gt, &["15"], true),
            ("cores", Operator::Gt, &["16"], false),
            ("cores", Operator::Lt, &["17"], true),
            ("zone", Operator::Gt, &["1"], false),
            (NODE_NAME, Operator::In, &["n1"], true),
            ("metadata.name", Operator::In, &["n1"], false),
        ];
        for (key, operator, values, expected) in cases {
            assert_eq!(
                matches(&term(key, operator, values), &node),
                expected,
                "{key} {operator:?} {values:?}"
            );
        }
        assert!(matches(&[], &node));
        assert!(!matches(&[vec![]], &node), "an empty alternative matches nothing");
    }

    #[test]
    fn tolerations_mean_what_kubernetes_says() {
        let taint = Taint {
            key: "dedicated".into(),
            value: "gpu".into(),
            effect: "NoSchedule".into(),
        };
        let toleration = |key: &str, exists, value: &str, effect: &str| Toleration {
            key: key.into(),
            exists,
            value: value.into(),
            effect: effect.into(),
        };
        let cases = [
            (toleration("", true, "", ""), true),
            (toleration("", false, "", ""), false),
            (toleration("dedicated", true, "", "NoSchedule"), true),
            (toleration("dedicated", true, "", "NoExecute"), false),
            (toleration("dedicated", false, "gpu", ""), true),
            (toleration("dedicated", false, "cpu", ""), false),
        ];
        for (toleration, expected) in cases {
            assert_eq!(
                tolerated(&taint, std::slice::from_ref(&toleration)),
                expected,
                "{toleration:?}"
            );
        }
    }
}
