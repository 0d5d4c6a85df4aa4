//! Effective requests of a pod, as kube-scheduler computes them (`k8s.io/component-helpers/resource`, `PodRequests`).
//!
//! Containers run together, and so do the init containers that keep running beside them (sidecars, `restartPolicy:
//! Always`). The other init containers run one after another, each beside the sidecars that were started before it.
//! A pod needs the larger of the two, or what it states for itself at pod level, plus its overhead.
//!
//! A pod may be resized while it runs. What its spec asks for, what its node has set aside for it and what is in force
//! there then differ for a while, and the largest of the three counts; if the node has said that it can never do what
//! the spec asks for, the larger of the other two.

use std::collections::BTreeMap;

use duosuan_scheduler::event::Amounts;

use super::{FieldError, quantity::Exact};
use crate::lean::{Container, ContainerStatus, PodSpec, PodStatus, Resources, Texts};

/// Amounts by resource. They are added up before they are rounded: two containers of 500u cpu ask for 1m, not for 2m.
type Sums = BTreeMap<String, Exact>;

/// Whose word is taken for what a container asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    /// That of its spec.
    Spec,
    /// What its node has set aside for it.
    Allocated,
    /// What is in force on its node.
    Actuated,
}

/// Effective requests of a pod.
///
/// # Errors
///
/// If a quantity is none.
pub fn effective(spec: &PodSpec, status: &PodStatus) -> Result<Amounts, FieldError> {
    let refused = resize_is_infeasible(status);
    let mut running = if refused {
        Sums::new()
    } else {
        all_containers(spec, status, Word::Spec, refused)?
    };
    let in_force = status.resources.as_ref().and_then(|r| r.requests.as_ref());
    if let (Some(allocated), Some(in_force)) = (&status.allocated_resources, in_force) {
        raise(
            &mut running,
            &read(Some(allocated), &|| "status.allocatedResources".into())?,
        );
        raise(
            &mut running,
            &read(Some(in_force), &|| "status.resources.requests".into())?,
        );
    } else if refused || is_resized(spec, status) {
        raise(&mut running, &all_containers(spec, status, Word::Allocated, refused)?);
        raise(&mut running, &all_containers(spec, status, Word::Actuated, refused)?);
    }
    running.append(&mut whole_pod(spec, status, refused)?);
    add(&mut running, &read(spec.overhead.as_ref(), &|| "spec.overhead".into())?);
    // What asks for nothing is not asked for: pods of equal needs shall look equal.
    let amounts = running.into_iter().map(|(resource, sum)| {
        let amount = sum.amount(&resource);
        (resource, amount)
    });
    Ok(amounts.filter(|(_, amount)| *amount > 0).collect())
}

/// What the containers of a pod ask for together, by one word for each.
fn all_containers(spec: &PodSpec, status: &PodStatus, word: Word, refused: bool) -> Result<Sums, FieldError> {
    let mut running = Sums::new();
    for (i, container) in spec.containers.iter().enumerate() {
        let own = of_container(container, &|| format!("spec.containers[{i}]"), status, word, refused)?;
        add(&mut running, &own);
    }
    let mut sidecars = Sums::new();
    let mut starting = Sums::new();
    for (i, container) in spec.init_containers.iter().enumerate() {
        let own = of_container(
            container,
            &|| format!("spec.initContainers[{i}]"),
            status,
            word,
            refused,
        )?;
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
    Ok(running)
}

/// What a container asks for. Where its node says nothing, the spec speaks, unless the node has refused it.
fn of_container(
    container: &Container,
    field: &dyn Fn() -> String,
    status: &PodStatus,
    word: Word,
    refused: bool,
) -> Result<Sums, FieldError> {
    let said = (word != Word::Spec)
        .then(|| status_of(status, &container.name))
        .flatten();
    let allocated = said.and_then(|said| said.allocated_resources.as_ref());
    let in_force = said.and_then(in_force).filter(|_| word == Word::Actuated);
    let field_of_status = |name: &str| format!("status.containerStatuses[{}].{name}", container.name);
    if in_force.is_some() {
        read(in_force, &|| field_of_status("resources.requests"))
    } else if allocated.is_some() {
        read(allocated, &|| field_of_status("allocatedResources"))
    } else if refused {
        Ok(Sums::new())
    } else {
        let asked = container.resources.requests.as_ref();
        read(asked, &|| format!("{}.resources.requests", field()))
    }
}

/// What a pod states for itself as a whole, of the resources for which it may.
fn whole_pod(spec: &PodSpec, status: &PodStatus, refused: bool) -> Result<Sums, FieldError> {
    let own = |resources: &Sums| resources.keys().any(|resource| at_pod_level(resource));
    let stated = requests(spec.resources.as_ref());
    let mut sums = read(stated, &|| "spec.resources.requests".into())?;
    if !own(&sums) {
        return Ok(Sums::new());
    }
    if status.resources.is_some() {
        if refused {
            sums.clear();
        }
        let in_force = requests(status.resources.as_ref());
        raise(&mut sums, &read(in_force, &|| "status.resources.requests".into())?);
        let allocated = status.allocated_resources.as_ref();
        raise(&mut sums, &read(allocated, &|| "status.allocatedResources".into())?);
    }
    sums.retain(|resource, _| at_pod_level(resource));
    Ok(sums)
}

/// True if the node of a pod has said that it can never give it what its spec asks for.
fn resize_is_infeasible(status: &PodStatus) -> bool {
    let pending = status.conditions.iter().find(|c| c.type_ == "PodResizePending");
    pending.is_some_and(|c| c.reason.as_deref() == Some("Infeasible"))
}

/// True if the node says of a container something else than its spec, which is seldom so.
fn is_resized(spec: &PodSpec, status: &PodStatus) -> bool {
    spec.containers.iter().chain(&spec.init_containers).any(|container| {
        let said = status_of(status, &container.name);
        let words = said.map(|said| [said.allocated_resources.as_ref(), in_force(said)]);
        let mut words = words.into_iter().flatten().flatten();
        words.any(|word| Some(word) != container.resources.requests.as_ref())
    })
}

fn status_of<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    let mut all = status.container_statuses.iter().chain(&status.init_container_statuses);
    all.find(|status| status.name == name)
}

fn in_force(said: &ContainerStatus) -> Option<&Texts> {
    requests(said.resources.as_ref())
}

fn requests(resources: Option<&Resources>) -> Option<&Texts> {
    resources.and_then(|resources| resources.requests.as_ref())
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
        resized(spec, json!({}))
    }

    fn resized(spec: Value, status: Value) -> Amounts {
        let spec = serde_json::from_value(spec).unwrap();
        effective(&spec, &serde_json::from_value(status).unwrap()).unwrap()
    }

    /// The status of a container, with what is allocated and what is in force.
    fn said(name: &str, allocated: Value, in_force: Value) -> Value {
        json!({"name": name, "allocatedResources": allocated, "resources": {"requests": in_force}})
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
        let error = effective(&spec, &PodStatus::default()).unwrap_err().to_string();
        assert!(
            error.starts_with("spec.containers[1].resources.requests[cpu]: quantity \"much\""),
            "{error}"
        );
        let status = json!({"containerStatuses": [said("", json!({"cpu": "more"}), json!(null))]});
        let error = effective(&PodSpec::default(), &serde_json::from_value(status.clone()).unwrap());
        assert_eq!(
            error,
            Ok(Amounts::new()),
            "it is no status of a container that is there"
        );
        let spec: PodSpec = serde_json::from_value(json!({"containers": [{}]})).unwrap();
        let error = effective(&spec, &serde_json::from_value(status).unwrap())
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("status.containerStatuses[].allocatedResources[cpu]: quantity \"more\""),
            "{error}"
        );
    }

    #[test]
    fn of_a_pod_that_is_being_resized_the_largest_word_counts() {
        let container = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "5"}}});
        let status = |allocated: &str, in_force: &str| {
            let said = said(
                "c",
                json!({"cpu": allocated, "memory": "5"}),
                json!({"cpu": in_force, "memory": "9"}),
            );
            json!({"containerStatuses": [said]})
        };
        for (spec, allocated, in_force) in [("3", "1", "1"), ("1", "3", "1"), ("1", "1", "3"), ("3", "3", "3")] {
            let spec = json!({"containers": [container(spec)]});
            let expected = amounts(&[("cpu", 3000), ("memory", 9)]);
            assert_eq!(resized(spec, status(allocated, in_force)), expected);
        }
        let sidecar = json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}});
        let spec = json!({"initContainers": [sidecar], "containers": [container("1")]});
        let status = json!({"initContainerStatuses": [said("s", json!({"cpu": "2"}), json!({"cpu": "2"}))]});
        assert_eq!(resized(spec, status), amounts(&[("cpu", 3000), ("memory", 5)]));
    }

    #[test]
    fn what_the_node_cannot_ever_give_does_not_count() {
        let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "64"}}}]});
        let status = |reason: &str| {
            let said = said("c", json!({"cpu": "1"}), json!({"cpu": "2"}));
            json!({"conditions": [{"type": "PodResizePending", "status": "True", "reason": reason}], "containerStatuses": [said]})
        };
        assert_eq!(resized(spec.clone(), status("Infeasible")), amounts(&[("cpu", 2000)]));
        assert_eq!(resized(spec, status("Deferred")), amounts(&[("cpu", 64_000)]));
    }

    #[test]
    fn a_pod_that_is_resized_as_a_whole_counts_by_its_own_status() {
        let spec = json!({
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}],
            "resources": {"requests": {"cpu": "2"}},
        });
        let in_force = json!({"requests": {"cpu": "2500m"}});
        let status = json!({"allocatedResources": {"cpu": "3"}, "resources": in_force});
        assert_eq!(resized(spec.clone(), status), amounts(&[("cpu", 3000)]));
        let conditions = json!([{"type": "PodResizePending", "reason": "Infeasible"}]);
        let refused = json!({"conditions": conditions, "allocatedResources": {"cpu": "1500m"}, "resources": in_force});
        assert_eq!(resized(spec, refused), amounts(&[("cpu", 2500)]));
    }
}
