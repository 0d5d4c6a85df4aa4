//! Kubernetes' own PodGroups, in the version that the crate's API server serves.

use duosuan_tests::cluster::apply;
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};

use crate::{
    VERSION,
    lab::{Lab, PATIENCE},
};

/// The pod groups of the test's namespace.
fn groups(lab: &Lab) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("scheduling.k8s.io", VERSION, "PodGroup");
    Api::namespaced_with(lab.client.clone(), &lab.namespace, &ApiResource::from_gvk(&kind))
}

pub async fn group(lab: &Lab, name: &str, policy: Value) {
    let object = json!({
        "apiVersion": format!("scheduling.k8s.io/{VERSION}"), "kind": "PodGroup",
        "metadata": {"name": name, "namespace": lab.namespace},
        "spec": {"schedulingPolicy": policy},
    });
    apply(&lab.client, &serde_json::from_value(object).unwrap())
        .await
        .unwrap();
}

/// A pod of one CPU that belongs to a group, and has no label of ours.
pub async fn member(lab: &Lab, name: &str, group: &str) {
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
pub async fn scheduled(lab: &Lab, name: &str, status: &str) -> (String, String) {
    let found = async {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let kind = GroupVersionKind::gvk("scheduling.k8s.io", VERSION, "PodGroup");
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

/// Nothing that keeps a group after its test, whose controller does not run here, may stay.
pub async fn end(lab: &Lab) {
    for group in groups(lab).list(&ListParams::default()).await.unwrap() {
        let name = group.metadata.name.unwrap();
        let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        groups(lab).patch(&name, &PatchParams::default(), &patch).await.unwrap();
        groups(lab).delete(&name, &DeleteParams::default()).await.unwrap();
    }
}
