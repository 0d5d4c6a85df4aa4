//! Effective requests of a pod, as kube-scheduler computes them (`k8s.io/component-helpers/resource`, `PodRequests`).
//!
//! Containers run together, and so do the init containers that keep running beside them (sidecars, `restartPolicy:
//! Always`). The other init containers run one after another, each beside the sidecars that were started before it.
//! A pod needs the larger of the two, or what it states for itself at pod level, plus its overhead.

use std::collections::BTreeMap;

use duosuan_scheduler::event::Amounts;

use super::{FieldError, quantity::Exact};
use crate::lean::{PodSpec, Texts};

/// Amounts by resource. They are added up before they are rounded: two containers of 500u cpu ask for 1m, not for 2m.
type Sums = BTreeMap<String, Exact>;

/// Effective requests of a pod.
///
/// # Errors
///
/// If a quantity is none.
pub fn effective(spec: &PodSpec) -> Result<Amounts, FieldError> {
    let mut running = Sums::new();
    for (i, container) in spec.containers.iter().enumerate() {
        let own = read(container.resources.requests.as_ref(), &|| {
            format!("spec.containers[{i}].resources.requests")
        })?;
        add(&mut running, &own);
    }
    let mut sidecars = Sums::new();
    let mut starting = Sums::new();
    for (i, container) in spec.init_containers.iter().enumerate() {
        let own = read(container.resources.requests.as_ref(), &|| {
            format!("spec.initContainers[{i}].resources.requests")
        })?;
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut running, &own);
            add(&mut sidecars, &own);
            raise(&mut starting, &sidecars);
        } else {
            let mut beside = sidecars.clone();
            add(&mut beside, &own);
            raise(&mut starting, &beside);
        }
    }
    raise(&mut running, &starting);

    let whole_pod = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    for (resource, amount) in read(whole_pod, &|| "spec.resources.requests".into())? {
        if at_pod_level(&resource) {
            running.insert(resource, amount);
        }
    }
    add(&mut running, &read(spec.overhead.as_ref(), &|| "spec.overhead".into())?);
    // What asks for nothing is not asked for: pods of equal needs shall look equal.
    let amounts = running.into_iter().map(|(resource, sum)| {
        let amount = sum.amount(&resource);
        (resource, amount)
    });
    Ok(amounts.filter(|(_, amount)| *amount > 0).collect())
}

/// Resources that a pod may state for itself as a whole.
fn at_pod_level(resource: &str) -> bool {
    matches!(resource, "cpu" | "memory") || resource.starts_with("hugepages-")
}

fn read(texts: Option<&Texts>, field: &dyn Fn() -> String) -> Result<Sums, FieldError> {
    let amounts = texts.into_iter().flatten().map(|(resource, text)| {
        let amount = Exact::read(text).map_err(|e| FieldError::new(format!("{}[{resource}]", field()), e))?;
        Ok((resource.clone(), amount))
    });
    amounts.collect()
}

fn add(sum: &mut Sums, more: &Sums) {
    for (resource, amount) in more {
        let total = sum.entry(resource.clone()).or_default();
        *total = total.plus(*amount);
    }
}

fn raise(to: &mut Sums, least: &Sums) {
    for (resource, amount) in least {
        let value = to.entry(resource.clone()).or_default();
        *value = (*value).max(*amount);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::{Value, json};

    use super::*;

    fn of(spec: Value) -> Amounts {
        effective(&serde_json::from_value(spec).unwrap()).unwrap()
    }

    fn asks(cpu: &str, memory: &str) -> Value {
        json!({"resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    fn amounts(list: &[(&str, i64)]) -> Amounts {
        list.iter()
            .map(|(name, amount)| ((*name).to_owned(), *amount))
            .collect()
    }

    #[test]
    fn containers_add_up() {
        let pod = json!({"containers": [asks("100m", "1Ki"), asks("1.5", "1Ki"), {}]});
        assert_eq!(of(pod), amounts(&[("cpu", 1600), ("memory", 2048)]));
    }

    #[test]
    fn fractions_of_a_unit_add_up_before_they_are_rounded() {
        let pod = json!({"containers": [asks("500u", "100m"), asks("500u", "100m")]});
        assert_eq!(of(pod), amounts(&[("cpu", 1), ("memory", 1)]));
    }

    #[test]
    fn an_init_container_counts_only_by_what_it_needs_more() {
        let pod =
            json!({"initContainers": [asks("3", "1"), asks("1", "9")], "containers": [asks("1", "2"), asks("1", "2")]});
        assert_eq!(of(pod), amounts(&[("cpu", 3000), ("memory", 9)]));
    }

    #[test]
    fn a_sidecar_runs_beside_the_containers_and_beside_the_init_containers_after_it() {
        let sidecar = json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}});
        let init = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let container = init("2");
        let after = json!({"initContainers": [sidecar, init("5")], "containers": [container]});
        assert_eq!(of(after), amounts(&[("cpu", 6000)]));
        let before = json!({"initContainers": [init("5"), sidecar], "containers": [container]});
        assert_eq!(of(before), amounts(&[("cpu", 5000)]));
        let light = json!({"initContainers": [sidecar, init("1")], "containers": [container]});
        assert_eq!(of(light), amounts(&[("cpu", 3000)]));
    }

    #[test]
    fn pod_level_resources_replace_the_sum_and_overhead_comes_on_top() {
        let pod = json!({
            "containers": [{"resources": {"requests": {"cpu": "4", "example.com/x": "2"}}}],
            "resources": {"requests": {"cpu": "1", "memory": "10", "example.com/x": "9"}},
            "overhead": {"cpu": "100m"},
        });
        assert_eq!(of(pod), amounts(&[("cpu", 1100), ("example.com/x", 2), ("memory", 10)]));
    }

    #[test]
    fn a_broken_quantity_is_named_with_its_field() {
        let spec: PodSpec = serde_json::from_value(json!({"containers": [{}, asks("much", "1")]})).unwrap();
        let error = effective(&spec).unwrap_err().to_string();
        assert!(
            error.starts_with("spec.containers[1].resources.requests[cpu]: quantity \"much\""),
            "{error}"
        );
    }
}
