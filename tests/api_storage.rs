//! Pods with persistent volumes, the operator and a real API server, whose controller binds claims and volumes. What
//! makes volumes and attaches them is played by the tests.
#![allow(
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests; the lab serves other tests, too"
)]

#[path = "operator/lab.rs"]
mod lab;

use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::{CSINode, StorageClass},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use lab::{Lab, bound, condition};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Flags of the API server of this test binary.
pub const APISERVER_FLAGS: &[&str] = &[];

/// Creates an object of the whole cluster.
async fn create<K>(lab: &Lab, object: Value)
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + serde::Serialize,
{
    let api: Api<K> = Api::all(lab.client.clone());
    let object: K = serde_json::from_value(object).unwrap();
    // The turn before may have left one.
    let _ = api.delete(&object.name_any(), &DeleteParams::default()).await;
    api.create(&PostParams::default(), &object).await.unwrap();
}

async fn class(lab: &Lab, name: &str, provisioner: &str) {
    let class =
        json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"});
    create::<StorageClass>(lab, class).await;
}

/// A volume that can be used on one node only.
async fn volume(lab: &Lab, name: &str, class: &str, node: &str, more: Value) {
    let mut spec = json!({
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": class,
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}},
    });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    if spec["csi"].is_null() {
        spec["local"] = json!({"path": "/disk"});
    }
    create::<PersistentVolume>(lab, json!({"metadata": {"name": name}, "spec": spec})).await;
}

async fn claim(lab: &Lab, name: &str, class: &str) {
    let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": class,
        "resources": {"requests": {"storage": "1Gi"}}});
    let claim = json!({"metadata": {"name": name}, "spec": spec});
    let api: Api<PersistentVolumeClaim> = lab.api();
    api.create(&PostParams::default(), &serde_json::from_value(claim).unwrap())
        .await
        .unwrap();
}

/// A pod of this scheduler that uses claims.
async fn pod(lab: &Lab, name: &str, claims: &[&str]) {
    let volumes: Vec<Value> = claims
        .iter()
        .map(|c| json!({"name": c, "persistentVolumeClaim": {"claimName": c}}))
        .collect();
    let pod = json!({"metadata": {"name": name}, "spec": {"schedulerName": "duosuan", "volumes": volumes,
        "containers": [{"name": "c", "image": "none", "resources": {"requests": {"cpu": "100m"}}}]}});
    let api: Api<Pod> = lab.api();
    api.create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
        .await
        .unwrap();
}

/// Nodes with the label that volumes name them by.
async fn nodes(lab: &Lab, names: &[&str]) {
    let api: Api<Node> = Api::all(lab.client.clone());
    for name in names {
        lab.node(name, json!({"cpu": "4", "memory": "8Gi", "pods": "110"}))
            .await;
        let label = json!({"metadata": {"labels": {"kubernetes.io/hostname": name}}});
        api.patch(name, &PatchParams::default(), &Patch::Merge(label))
            .await
            .unwrap();
    }
}

fn says(pod: &Pod, words: &str) -> bool {
    condition(pod, "PodScheduled").is_some_and(|c| c.message.is_some_and(|m| m.contains(words)))
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn volume_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    let status = claim.status.as_ref()?;
    (status.phase.as_deref() == Some("Bound")).then(|| claim.spec.as_ref()?.volume_name.as_deref())?
}

fn selected(claim: &PersistentVolumeClaim) -> Option<&String> {
    claim.annotations().get("volume.kubernetes.io/selected-node")
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_with_volumes_that_lie_ready_go_where_the_volumes_are() {
    let lab = Lab::start("lying").await;
    nodes(&lab, &["lying-1", "lying-2", "lying-3"]).await;
    class(&lab, "lying", "kubernetes.io/no-provisioner").await;
    let operator = lab.operator().await;
    claim(&lab, "a", "lying").await;
    pod(&lab, "a", &["a"]).await;
    lab.wait::<Pod>("a", |p| says(p, "no free persistentvolume of class \"lying\""))
        .await;
    volume(&lab, "lying-v3", "lying", "lying-3", json!({})).await;
    let bound_pod = lab.wait::<Pod>("a", bound).await;
    assert_eq!(node_of(&bound_pod), Some("lying-3"));
    let claim_a = lab.wait::<PersistentVolumeClaim>("a", |c| volume_of(c).is_some()).await;
    assert_eq!(volume_of(&claim_a), Some("lying-v3"));
    // Two at once, and one volume for each.
    for name in ["b", "c"] {
        claim(&lab, name, "lying").await;
        pod(&lab, name, &[name]).await;
    }
    for (name, node) in [("lying-v1", "lying-1"), ("lying-v2", "lying-2")] {
        volume(&lab, name, "lying", node, json!({})).await;
    }
    let mut places = Vec::new();
    for name in ["b", "c"] {
        let pod = lab.wait::<Pod>(name, bound).await;
        places.push(node_of(&pod).unwrap().to_owned());
    }
    places.sort();
    assert_eq!(places, ["lying-1", "lying-2"]);
    // A pod that comes later stands where its bound volume is.
    pod(&lab, "again", &["a"]).await;
    let again = lab.wait::<Pod>("again", bound).await;
    assert_eq!(node_of(&again), Some("lying-3"));
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_made_for_the_node_that_its_pod_gets_and_elsewhere_if_it_cannot_be_made_there() {
    let lab = Lab::start("made").await;
    nodes(&lab, &["made-1", "made-2"]).await;
    class(&lab, "made", "test.duosuan.io/disk").await;
    let operator = lab.operator().await;
    pod(&lab, "a", &["a"]).await;
    lab.wait::<Pod>("a", |p| says(p, "persistentvolumeclaim \"a\" not found"))
        .await;
    claim(&lab, "a", "made").await;
    let wanted = lab.wait::<PersistentVolumeClaim>("a", |c| selected(c).is_some()).await;
    let first = selected(&wanted).unwrap().clone();
    lab.wait::<Pod>("a", |p| says(p, &format!("waits for its volumes on node {first}")))
        .await;
    // The provisioner cannot, and the node that it could not serve takes no more pods.
    let nodes: Api<Node> = Api::all(lab.client.clone());
    nodes.cordon(&first).await.unwrap();
    let claims: Api<PersistentVolumeClaim> = lab.api();
    let none = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": null}}});
    claims
        .patch("a", &PatchParams::default(), &Patch::Merge(none))
        .await
        .unwrap();
    let wanted = lab
        .wait::<PersistentVolumeClaim>("a", |c| selected(c).is_some_and(|node| *node != first))
        .await;
    let second = selected(&wanted).unwrap().clone();
    // Another operator takes over in the middle.
    operator.kill().await;
    let operator = lab.operator().await;
    let claim_ref = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": lab.namespace, "name": "a",
        "uid": wanted.uid().unwrap()});
    volume(&lab, "made-v", "made", &second, json!({"claimRef": claim_ref})).await;
    let pod = lab.wait::<Pod>("a", bound).await;
    assert_eq!(node_of(&pod), Some(second.as_str()));
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_no_more_volumes_than_its_driver_attaches() {
    let lab = Lab::start("limit").await;
    nodes(&lab, &["limit-1"]).await;
    let driver = json!({"name": "test.duosuan.io", "nodeID": "x", "topologyKeys": [], "allocatable": {"count": 1}});
    create::<CSINode>(
        &lab,
        json!({"metadata": {"name": "limit-1"}, "spec": {"drivers": [driver]}}),
    )
    .await;
    let operator = lab.operator().await;
    for name in ["a", "b"] {
        let csi = json!({"csi": {"driver": "test.duosuan.io", "volumeHandle": name}});
        volume(&lab, &format!("limit-{name}"), "", "limit-1", csi).await;
        claim(&lab, name, "").await;
        lab.wait::<PersistentVolumeClaim>(name, |c| volume_of(c).is_some())
            .await;
    }
    pod(&lab, "a", &["a"]).await;
    lab.wait::<Pod>("a", bound).await;
    pod(&lab, "b", &["b"]).await;
    lab.wait::<Pod>("b", |p| says(p, "insufficient attachable-volumes-csi-test.duosuan.io"))
        .await;
    let more = json!({"spec": {"drivers": [{"name": "test.duosuan.io", "nodeID": "x", "topologyKeys": [], "allocatable": {"count": 2}}]}});
    let api: Api<CSINode> = Api::all(lab.client.clone());
    api.patch("limit-1", &PatchParams::default(), &Patch::Merge(more))
        .await
        .unwrap();
    lab.wait::<Pod>("b", bound).await;
    api.delete("limit-1", &DeleteParams::default()).await.unwrap();
    operator.end().await;
}
