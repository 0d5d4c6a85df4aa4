//! Pods that other pods let in or keep out, on a real API server.

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::lab::{Lab, bound, condition};

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";

/// Nodes of that many zones, each with room for everything.
async fn nodes(lab: &Lab, zones: &[&str]) {
    let api: Api<Node> = Api::all(lab.client.clone());
    for (i, zone) in zones.iter().enumerate() {
        let name = format!("{}-{i}", lab.namespace);
        lab.node(&name, json!({"cpu": "64", "memory": "64Gi", "pods": "110"}))
            .await;
        let labels = json!({"metadata": {"labels": {ZONE: zone, HOST: name}}});
        api.patch(&name, &PatchParams::default(), &Patch::Merge(labels))
            .await
            .unwrap();
    }
}

/// A pod of application x, for the operator.
async fn pod(lab: &Lab, name: &str, rules: &Value) {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "x"}},
        "spec": {
            "schedulerName": "duosuan",
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "none", "resources": {"requests": {"cpu": "1"}}}],
        },
    });
    for (field, value) in rules.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    let api: Api<Pod> = lab.api();
    let parameters = PatchParams::apply("test").force();
    api.patch(name, &parameters, &Patch::Apply(object)).await.unwrap();
}

fn apart(key: &str, more: &Value) -> Value {
    let mut term = json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": "x"}}});
    for (field, value) in more.as_object().unwrap() {
        term[field] = value.clone();
    }
    json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
}

async fn node_of(lab: &Lab, name: &str) -> String {
    let pod = lab.wait::<Pod>(name, bound).await;
    pod.spec.unwrap().node_name.unwrap()
}

async fn waits_for(lab: &Lab, name: &str, constraint: &str) {
    lab.wait::<Pod>(name, |pod| {
        let text = condition(pod, "PodScheduled").and_then(|c| c.message);
        text.is_some_and(|text| text.contains(constraint))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_keep_apart_get_a_node_each_and_one_more_waits_until_one_goes() {
    let lab = Lab::start("apart").await;
    nodes(&lab, &["a", "b"]).await;
    let operator = lab.operator().await;
    let rules = apart(HOST, &json!({}));
    pod(&lab, "first", &rules).await;
    pod(&lab, "second", &rules).await;
    assert_ne!(node_of(&lab, "first").await, node_of(&lab, "second").await);
    pod(&lab, "third", &rules).await;
    waits_for(&lab, "third", "anti-affinity").await;
    let free = node_of(&lab, "second").await;
    let api: Api<Pod> = lab.api();
    api.delete("second", &DeleteParams::default()).await.unwrap();
    assert_eq!(node_of(&lab, "third").await, free);
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn terms_follow_the_labels_of_namespaces_as_these_change() {
    let lab = Lab::start("teams").await;
    nodes(&lab, &["a"]).await;
    let operator = lab.operator().await;
    let namespaces: Api<Namespace> = Api::all(lab.client.clone());
    let team = |team: Value| {
        let labels = json!({"metadata": {"labels": {"team": team}}});
        let (namespaces, name) = (namespaces.clone(), lab.namespace.clone());
        async move {
            let labels = Patch::Merge(labels);
            namespaces.patch(&name, &PatchParams::default(), &labels).await.unwrap();
        }
    };
    team(json!("red")).await;
    pod(&lab, "there", &json!({})).await;
    lab.wait::<Pod>("there", bound).await;
    let selector = json!({"namespaceSelector": {"matchLabels": {"team": "red"}}});
    pod(&lab, "comes", &apart(ZONE, &selector)).await;
    waits_for(&lab, "comes", "anti-affinity").await;
    team(Value::Null).await;
    lab.wait::<Pod>("comes", bound).await;
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spread_pods_fill_the_zones_evenly_however_many_nodes_these_have() {
    let lab = Lab::start("evenly").await;
    nodes(&lab, &["a", "a", "a", "b"]).await;
    let operator = lab.operator().await;
    let rules = json!({"topologySpreadConstraints": [{
        "topologyKey": ZONE, "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "x"}},
    }]});
    for i in 0..6 {
        pod(&lab, &format!("p{i}"), &rules).await;
    }
    let mut in_b = 0;
    for i in 0..6 {
        let node = node_of(&lab, &format!("p{i}")).await;
        in_b += usize::from(node.ends_with("-3"));
    }
    assert_eq!(in_b, 3);
    operator.end().await;
}
