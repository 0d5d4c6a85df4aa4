//! Kubernetes' own gangs: an API server that serves PodGroups, and no object of ours.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests; the lab has more than this one uses"
)]

#[path = "operator/lab.rs"]
mod lab;

use duosuan_tests::cluster::apply;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use lab::{Lab, PATIENCE, bound, condition};
use serde_json::{Value, json};

/// Flags of the API server that this test binary starts.
pub const APISERVER_FLAGS: &[&str] = &[
    "--feature-gates=GenericWorkload=true",
    "--runtime-config=scheduling.k8s.io/v1beta1=true",
];

/// The pod groups of the test's namespace.
fn groups(lab: &Lab) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("scheduling.k8s.io", "v1beta1", "PodGroup");
    Api::namespaced_with(lab.client.clone(), &lab.namespace, &ApiResource::from_gvk(&kind))
}

async fn group(lab: &Lab, name: &str, policy: Value) {
    let object = json!({
        "apiVersion": "scheduling.k8s.io/v1beta1", "kind": "PodGroup",
        "metadata": {"name": name, "namespace": lab.namespace},
        "spec": {"schedulingPolicy": policy},
    });
    apply(&lab.client, &serde_json::from_value(object).unwrap())
        .await
        .unwrap();
}

/// A pod of one CPU that belongs to a group, and has no label of ours.
async fn member(lab: &Lab, name: &str, group: &str) {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": lab.namespace},
        "spec": {
            "schedulerName": "duosuan",
            "terminationGracePeriodSeconds": 0,
            "schedulingGroup": {"podGroupName": group},
            "containers": [{"name": "c", "image": "none", "resources": {"requests": {"cpu": "1"}}}],
        },
    });
    apply(&lab.client, &serde_json::from_value(object).unwrap())
        .await
        .unwrap();
}

/// Waits until the condition of a group is so; its reason and message.
async fn scheduled(lab: &Lab, name: &str, status: &str) -> (String, String) {
    let found = async {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let kind = GroupVersionKind::gvk("scheduling.k8s.io", "v1beta1", "PodGroup");
        let changes = watcher::<DynamicObject>(groups(lab), config);
        let mut changes = std::pin::pin!(changes.default_backoff().applied_objects());
        while let Some(change) = futures::StreamExt::next(&mut changes).await {
            let Ok(object) = change else { continue };
            let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
            let of_it = |c: &&Value| c["type"] == "PodGroupInitiallyScheduled" && c["status"] == status;
            if let Some(condition) = conditions.and_then(|all| all.iter().find(of_it)) {
                let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
                return (text("reason"), text("message"));
            }
        }
        panic!("the watch of {kind:?} ended")
    };
    tokio::time::timeout(PATIENCE, found)
        .await
        .unwrap_or_else(|_| panic!("PodGroup {name} did not become {status}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pods_of_a_pod_group_are_a_gang_without_any_object_of_ours() {
    let lab = Lab::start("upstream").await;
    lab.node("upstream-1", json!({"cpu": "2", "memory": "8Gi", "pods": "110"}))
        .await;
    let operator = lab.operator().await;
    // A pod whose group is not there yet waits and says so.
    member(&lab, "w-0", "train").await;
    let says = |words: &'static str| {
        move |p: &Pod| {
            condition(p, "PodScheduled")
                .and_then(|c| c.message)
                .is_some_and(|m| m.contains(words))
        }
    };
    lab.wait::<Pod>(
        "w-0",
        says("PodGroup train, which spec.schedulingGroup names, does not exist"),
    )
    .await;
    group(&lab, "train", json!({"gang": {"minCount": 3}})).await;
    for name in ["w-1", "w-2"] {
        member(&lab, name, "train").await;
    }
    // All three are there, and two of them would fit.
    lab.wait::<Pod>("w-2", says("2 of 3 pods find a node at once")).await;
    let (reason, message) = scheduled(&lab, "train", "False").await;
    assert_eq!(reason, "Unschedulable", "{message}");
    assert_eq!(lab.bound_pods().await, Vec::<String>::new());

    lab.node("upstream-2", json!({"cpu": "1", "memory": "8Gi", "pods": "110"}))
        .await;
    lab.until_bound(3).await;
    let (reason, message) = scheduled(&lab, "train", "True").await;
    assert_eq!(
        (reason.as_str(), message.as_str()),
        ("Scheduled", "3 of its pods are bound, and it needs 3")
    );
    // One that is lost is followed by another one, as any pod would be; the condition stays.
    lab.api::<Pod>().delete("w-1", &DeleteParams::default()).await.unwrap();
    member(&lab, "w-3", "train").await;
    lab.wait::<Pod>("w-3", bound).await;
    scheduled(&lab, "train", "True").await;
    operator.end().await;
    end(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_group_that_is_no_gang_are_bound_one_by_one() {
    let lab = Lab::start("basic").await;
    lab.node("basic-1", json!({"cpu": "2", "memory": "8Gi", "pods": "110"}))
        .await;
    let operator = lab.operator().await;
    group(&lab, "loose", json!({"basic": {}})).await;
    for i in 0..3 {
        member(&lab, &format!("l-{i}"), "loose").await;
    }
    lab.until_bound(2).await;
    assert_eq!(lab.bound_pods().await.len(), 2);
    scheduled(&lab, "loose", "True").await;
    operator.end().await;
    end(&lab).await;
}

/// Nothing that keeps a group after its test, whose controller does not run here, may stay.
async fn end(lab: &Lab) {
    for group in groups(lab).list(&ListParams::default()).await.unwrap() {
        let name = group.metadata.name.unwrap();
        let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        groups(lab).patch(&name, &PatchParams::default(), &patch).await.unwrap();
        groups(lab).delete(&name, &DeleteParams::default()).await.unwrap();
    }
}
