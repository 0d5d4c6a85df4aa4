//! The same snapshot through the operator's translation and the core.

use duosuan_controller::{
    lean::{self, Object},
    translate,
};
use duosuan_scheduler::{Budget, Cluster, Decision, Event, Time, cycle};
use serde_json::Value;

use crate::compare::Ours;

/// Our scheduler's name.
pub(crate) const SCHEDULER: &str = "duosuan";

/// What each node says to the pending pod. In whatever order the core hears of the objects, it must say the same, and
/// a cycle must bind the pod to a node that takes it, or to none if none does.
pub(crate) fn verdicts(snapshot: &Value) -> Result<Ours, String> {
    let [nodes, pods, namespaces] = events(snapshot)?;
    let uid = snapshot["pod"]["metadata"]["uid"]
        .as_str()
        .ok_or("the pod has no uid")?;
    let said = ask(nodes.iter().chain(&namespaces).chain(&pods), uid)?;
    let backwards = ask(pods.iter().rev().chain(nodes.iter().rev()).chain(&namespaces), uid)?;
    if said != backwards {
        return Err(format!(
            "the core says {said:?}, and if it hears of all in another order, {backwards:?}"
        ));
    }
    Ok(said)
}

/// Nodes, pods, namespaces.
fn events(snapshot: &Value) -> Result<[Vec<Event>; 3], String> {
    let list = |field: &str| snapshot[field].as_array().cloned().unwrap_or_default();
    let (mut nodes, mut pods, mut namespaces) = (Vec::new(), Vec::new(), Vec::new());
    for node in list("nodes") {
        let object: Object<lean::Node> = serde_json::from_value(node).map_err(|e| format!("a node: {e}"))?;
        let (node, broken) = translate::node::read(&object);
        if let Some(error) = broken.first() {
            return Err(format!("node {}: {error}", node.name));
        }
        nodes.push(Event::Node(Box::new(node)));
    }
    for pod in list("pods").into_iter().chain([snapshot["pod"].clone()]) {
        let object: Object<lean::Pod> = serde_json::from_value(pod).map_err(|e| format!("a pod: {e}"))?;
        let read = translate::pod::read(&object, SCHEDULER);
        if let Some(error) = read.broken.first() {
            return Err(format!("pod {}: {error}", read.pod.name));
        }
        pods.push(Event::Pod(Box::new(read.pod)));
    }
    for namespace in list("namespaces") {
        let object: Object<lean::Namespace> =
            serde_json::from_value(namespace).map_err(|e| format!("a namespace: {e}"))?;
        namespaces.push(Event::Namespace(Box::new(translate::relations::namespace(&object))));
    }
    Ok([nodes, pods, namespaces])
}

fn ask<'a>(events: impl Iterator<Item = &'a Event>, uid: &str) -> Result<Ours, String> {
    let mut cluster = Cluster::default();
    events.for_each(|event| cluster.apply(event.clone()));
    let verdicts = cluster
        .verdicts(uid)
        .ok_or("the pod has a seat before it was given one")?;
    let said: Ours = verdicts.into_iter().map(|v| (v.node, v.against)).collect();

    let decisions = cycle(&mut cluster, Time(0), Budget::default());
    let bound = decisions.iter().find_map(|decision| match decision {
        Decision::Bind { pod, node, .. } if pod == uid => Some(node),
        _ => None,
    });
    let sound = match bound {
        Some(node) => said.get(node) == Some(&None),
        None => said.values().all(Option::is_some),
    };
    if sound {
        Ok(said)
    } else {
        Err(format!("the nodes say {said:?}, and a cycle decides {decisions:?}"))
    }
}
