//! The same snapshot through the operator's translation and the core.

use duosuan_controller::{
    index::Index,
    lean::{self, Object},
    translate,
    volumes::Stand,
    watch::Fact,
};
use duosuan_scheduler::{Budget, Cluster, Decision, Event, Time, cycle};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::compare::Ours;

/// Our scheduler's name.
pub(crate) const SCHEDULER: &str = "duosuan";

/// What each node says to the pending pod. In whatever order the operator hears of the objects, the core must say the same,
/// and a cycle must bind the pod to a node that takes it, or to none if none does.
pub(crate) fn verdicts(snapshot: &Value) -> Result<Ours, String> {
    let [nodes, storage, pods, namespaces] = facts(snapshot)?;
    let uid = snapshot["pod"]["metadata"]["uid"]
        .as_str()
        .ok_or("the pod has no uid")?;
    let said = ask(nodes.iter().chain(&storage).chain(&namespaces).chain(&pods), uid)?;
    let backwards = pods.iter().rev().chain(storage.iter().rev()).chain(nodes.iter().rev());
    let backwards = ask(backwards.chain(&namespaces), uid)?;
    if said != backwards {
        return Err(format!(
            "the core says {said:?}, and if it hears of all in another order, {backwards:?}"
        ));
    }
    Ok(said)
}

/// Nodes, storage, pods, namespaces.
fn facts(snapshot: &Value) -> Result<[Vec<Fact>; 4], String> {
    let list = |field: &str| snapshot[field].as_array().cloned().unwrap_or_default();
    let (mut nodes, mut pods, mut namespaces) = (Vec::new(), Vec::new(), Vec::new());
    for node in list("nodes") {
        let object: Object<lean::Node> = read("a node", node)?;
        let (node, broken) = translate::node::read(&object);
        if let Some(error) = broken.first() {
            return Err(format!("node {}: {error}", node.name));
        }
        nodes.push(Fact::Node(Box::new(node)));
    }
    for pod in list("pods").into_iter().chain([snapshot["pod"].clone()]) {
        let object: Object<lean::Pod> = read("a pod", pod)?;
        let read = translate::pod::read(&object, SCHEDULER);
        if let Some(error) = read.broken.first() {
            return Err(format!("pod {}: {error}", read.pod.name));
        }
        pods.push(Fact::Pod(Box::new(read)));
    }
    for namespace in list("namespaces") {
        let object: Object<lean::Namespace> = read("a namespace", namespace)?;
        namespaces.push(Fact::Namespace(Box::new(translate::relations::namespace(&object))));
    }
    let mut storage = Vec::new();
    for drivers in list("csiNodes") {
        let read = translate::volume::attachable(read("a csinode", drivers)?);
        storage.push(Fact::Attachable(Box::new(read)));
    }
    for class in list("storageClasses") {
        let read = translate::volume::class(read("a storageclass", class)?);
        storage.push(Fact::StorageClass(Box::new(read)));
    }
    for claim in list("persistentVolumeClaims") {
        let read = translate::volume::claim(read("a persistentvolumeclaim", claim)?);
        storage.push(Fact::VolumeClaim(Box::new(read)));
    }
    for volume in list("persistentVolumes") {
        let read = translate::volume::volume(read("a persistentvolume", volume)?);
        storage.push(Fact::Volume(Box::new(read)));
    }
    Ok([nodes, storage, pods, namespaces])
}

fn read<T: DeserializeOwned>(what: &str, object: Value) -> Result<T, String> {
    // As it comes over the wire.
    serde_json::from_str(&object.to_string()).map_err(|e| format!("{what}: {e}"))
}

fn ask<'a>(facts: impl Iterator<Item = &'a Fact>, uid: &str) -> Result<Ours, String> {
    let (mut index, mut events) = (Index::default(), Vec::new());
    facts.for_each(|fact| index.apply(fact.clone(), Time(0), &mut events));
    let mut cluster = Cluster::default();
    let mut refused = None;
    for event in events {
        if let Event::Pod(pod) = &event
            && pod.uid == uid
        {
            refused.clone_from(&pod.refused);
        }
        cluster.apply(event);
    }
    let verdicts = cluster
        .verdicts(uid)
        .ok_or("the pod has a seat before it was given one")?;
    // Of one that waits for its claims, nodes are not asked.
    let said = verdicts.into_iter().map(|v| (v.node, refused.clone().or(v.against)));
    let said: Ours = said.collect();
    for node in said
        .iter()
        .filter(|(_, against)| against.is_none())
        .map(|(node, _)| node)
    {
        let node = index.nodes.get(node).ok_or("a node that is not there takes the pod")?;
        if let Stand::Impossible(why) = index.volumes.stand(uid, node) {
            return Err(format!(
                "node {} takes the pod, and its volumes cannot be had there: {why}",
                node.name
            ));
        }
    }

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
