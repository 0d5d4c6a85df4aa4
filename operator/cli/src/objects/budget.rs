//! Disruption budgets of Kubernetes, which simulations ask before they evict.

use duosuan_controller::{
    lean::{Kind, LabelSelector, Object},
    translate::{FieldError, relations},
};
use duosuan_planner::budgets::{Budget, Keeps, Share};
use serde::Deserialize;
use serde_json::Value;

/// A disruption budget, as the API calls it.
#[derive(Clone, Copy, Debug)]
pub(super) struct DisruptionBudget;

impl Kind for DisruptionBudget {
    const GROUP: &'static str = "policy";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "PodDisruptionBudget";
    const PLURAL: &'static str = "poddisruptionbudgets";
    type Spec = Spec;
    type Status = Status;
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    selector: Option<LabelSelector>,
    min_available: Option<Value>,
    max_unavailable: Option<Value>,
    unhealthy_pod_eviction_policy: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Status {
    observed_generation: Option<i64>,
    desired_healthy: i64,
}

/// Reads a budget.
///
/// # Errors
///
/// If a field is not what it should be.
pub(super) fn read(object: Object<DisruptionBudget>) -> Result<Budget, FieldError> {
    let Object {
        metadata, spec, status, ..
    } = object;
    let available = share(spec.min_available.as_ref(), "spec.minAvailable")?;
    let unavailable = share(spec.max_unavailable.as_ref(), "spec.maxUnavailable")?;
    // The controller knows how large workloads are meant to be, which the pods alone do not say.
    let counted = status
        .observed_generation
        .is_some_and(|seen| metadata.generation.is_none_or(|now| seen >= now));
    let keeps = match (available, unavailable) {
        (Some(_), Some(_)) => {
            return Err(FieldError {
                field: "spec.maxUnavailable".to_owned(),
                problem: "is given beside minAvailable; leave one of the two out".to_owned(),
            });
        }
        _ if counted => Keeps::Healthy(status.desired_healthy),
        (Some(share), None) => Keeps::Available(share),
        (None, Some(share)) => Keeps::AllBut(share),
        (None, None) => Keeps::All,
    };
    Ok(Budget {
        namespace: metadata.namespace.unwrap_or_default(),
        name: metadata.name.unwrap_or_default(),
        selector: relations::selector(spec.selector.as_ref(), "spec.selector")?,
        keeps,
        unready_may_go: spec.unhealthy_pod_eviction_policy.as_deref() == Some("AlwaysAllow"),
    })
}

/// A number of pods, or a percentage of them as text.
fn share(value: Option<&Value>, field: &str) -> Result<Option<Share>, FieldError> {
    let share = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(count)) => count.as_i64().filter(|count| *count >= 0).map(Share::Count),
        Some(Value::String(text)) => {
            let percent = text.strip_suffix('%').and_then(|digits| digits.parse::<u32>().ok());
            percent.map(|percent| Share::Percent(i64::from(percent)))
        }
        Some(_) => None,
    };
    share.map(Some).ok_or_else(|| FieldError {
        field: field.to_owned(),
        problem: format!(
            "{} is neither a number of pods nor a percentage such as 50%",
            value.unwrap_or(&Value::Null)
        ),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn keeps(spec: Value, status: Value) -> Result<Keeps, String> {
        let metadata = json!({"name": "b", "namespace": "ns", "generation": 2});
        let object = json!({"metadata": metadata, "spec": spec, "status": status});
        let budget = read(serde_json::from_value(object).unwrap());
        budget.map(|budget| budget.keeps).map_err(|error| error.to_string())
    }

    #[test]
    fn a_budget_keeps_what_its_controller_counted_or_what_it_says_itself() {
        let half = json!({"minAvailable": "50%"});
        let counted = |generation: i64| json!({"observedGeneration": generation, "desiredHealthy": 3});
        assert_eq!(keeps(half.clone(), json!({})), Ok(Keeps::Available(Share::Percent(50))));
        assert_eq!(keeps(half.clone(), counted(2)), Ok(Keeps::Healthy(3)));
        assert_eq!(
            keeps(half, counted(1)),
            Ok(Keeps::Available(Share::Percent(50))),
            "of an older spec"
        );
        assert_eq!(
            keeps(json!({"maxUnavailable": 1}), json!({})),
            Ok(Keeps::AllBut(Share::Count(1)))
        );
        assert_eq!(keeps(json!({}), json!({})), Ok(Keeps::All));
    }

    #[test]
    fn a_number_that_is_none_is_named() {
        for value in [json!(-1), json!(1.5), json!("half"), json!("-5%"), json!([1])] {
            let expected =
                format!("spec.minAvailable: {value} is neither a number of pods nor a percentage such as 50%");
            assert_eq!(keeps(json!({"minAvailable": value}), json!({})), Err(expected));
        }
        let both = keeps(json!({"minAvailable": 1, "maxUnavailable": 1}), json!({}));
        let expected = "spec.maxUnavailable: is given beside minAvailable; leave one of the two out";
        assert_eq!(both, Err(expected.to_owned()));
    }
}
