//! What operator and agents may do and may not by the chart's roles, asked of a real API server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use duosuan_crds::ColocationPolicy;
use duosuan_tests::{
    access::{forbidden, pod, ready},
    cluster::{account, cluster_with_controllers},
};
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::{Pod, Secret},
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, ObjectMeta, PostParams},
};
use serde_json::{Value, json};

/// Who may do what: verb, resource with its subresource, group, namespace ("" for all of them or a cluster's object), answer.
type Row = (&'static str, &'static str, &'static str, &'static str, bool);

async fn check(client: Client, rows: &[Row]) {
    let api: Api<SelfSubjectAccessReview> = Api::all(client);
    let mut wrong = Vec::new();
    for (verb, resource, group, namespace, allowed) in rows {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let attributes = ResourceAttributes {
            verb: Some((*verb).to_owned()),
            group: Some((*group).to_owned()),
            resource: Some(resource.to_owned()),
            subresource: Some(subresource.to_owned()),
            namespace: Some((*namespace).to_owned()),
            // Leases are allowed by name.
            name: (resource == "leases" && *verb != "create").then(|| "duosuan-operator".to_owned()),
            ..ResourceAttributes::default()
        };
        let review = SelfSubjectAccessReview {
            metadata: ObjectMeta::default(),
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                non_resource_attributes: None,
            },
            status: None,
        };
        let answer = api
            .create(&PostParams::default(), &review)
            .await
            .unwrap()
            .status
            .unwrap();
        if answer.allowed != *allowed {
            let may = if answer.allowed { "may" } else { "may not" };
            wrong.push(format!(
                "{may} {verb} {resource}/{subresource} of {group:?} in {namespace:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn the_operator_may_place_and_report_and_no_more() {
    ready().await.unwrap();
    let operator = account(cluster_with_controllers().unwrap(), "duosuan-operator", None)
        .await
        .unwrap();
    let ours = "duosuan.io";
    let mut rows = vec![
        ("create", "pods/binding", "", "", true),
        ("create", "pods/eviction", "", "", true),
        ("patch", "pods/status", "", "", true),
        ("create", "events", "events.k8s.io", "", true),
        ("patch", "events", "events.k8s.io", "", true),
        ("create", "leases", "coordination.k8s.io", "duosuan-system", true),
        ("get", "leases", "coordination.k8s.io", "duosuan-system", true),
        ("update", "leases", "coordination.k8s.io", "duosuan-system", true),
        ("patch", "leases", "coordination.k8s.io", "duosuan-system", true),
        ("update", "leases", "coordination.k8s.io", "kube-system", false),
        ("get", "secrets", "", "", false),
        ("list", "secrets", "", "duosuan-system", false),
        ("get", "configmaps", "", "", false),
        ("create", "pods", "", "", false),
        ("delete", "pods", "", "", false),
        ("update", "pods", "", "", false),
        ("patch", "pods", "", "", false),
        ("create", "pods/exec", "", "", false),
        ("patch", "nodes", "", "", false),
        ("patch", "nodes/status", "", "", false),
        ("patch", "nodereports/status", ours, "", false),
        ("update", "queues", ours, "", false),
        ("update", "capacityclaims", ours, "", false),
        ("delete", "capacityclaims", ours, "", false),
        ("create", "clusterrolebindings", "rbac.authorization.k8s.io", "", false),
        ("impersonate", "users", "", "", false),
        ("create", "serviceaccounts/token", "", "", false),
    ];
    for verb in ["get", "list", "watch"] {
        rows.extend(
            [
                ("nodes", ""),
                ("pods", ""),
                ("queues", ours),
                ("capacityclaims", ours),
                ("nodereports", ours),
                ("colocationpolicies", ours),
            ]
            .map(|(resource, group)| (verb, resource, group, "", true)),
        );
    }
    for resource in ["capacityclaims/status", "queues/status", "colocationpolicies/status"] {
        rows.push(("patch", resource, ours, "", true));
    }
    check(operator, &rows).await;
}

#[tokio::test]
async fn an_agent_may_read_its_world_and_write_reports_and_no_more() {
    ready().await.unwrap();
    let agent = account(cluster_with_controllers().unwrap(), "duosuan-agent", Some("node-a"))
        .await
        .unwrap();
    let ours = "duosuan.io";
    let mut rows = vec![
        ("get", "nodereports", ours, "", true),
        ("create", "nodereports", ours, "", true),
        ("patch", "nodereports", ours, "", true),
        ("patch", "nodereports/status", ours, "", true),
        ("patch", "nodes/status", "", "", true),
        ("patch", "nodes", "", "", false),
        ("update", "nodes", "", "", false),
        ("delete", "nodes", "", "", false),
        ("create", "nodes", "", "", false),
        ("delete", "nodereports", ours, "", false),
        ("list", "nodereports", ours, "", false),
        ("get", "queues", ours, "", false),
        ("get", "capacityclaims", ours, "", false),
        ("patch", "colocationpolicies", ours, "", false),
        ("patch", "colocationpolicies/status", ours, "", false),
        ("get", "secrets", "", "", false),
        ("get", "configmaps", "", "", false),
        ("create", "pods", "", "", false),
        ("delete", "pods", "", "", false),
        ("patch", "pods", "", "", false),
        ("patch", "pods/status", "", "", false),
        ("create", "pods/binding", "", "", false),
        ("create", "pods/eviction", "", "", false),
        ("create", "pods/exec", "", "", false),
        ("update", "leases", "coordination.k8s.io", "duosuan-system", false),
        ("impersonate", "users", "", "", false),
    ];
    for verb in ["get", "list", "watch"] {
        rows.extend([
            (verb, "nodes", "", "", true),
            (verb, "pods", "", "", true),
            (verb, "colocationpolicies", ours, "", true),
        ]);
    }
    check(agent, &rows).await;
}

#[tokio::test]
async fn the_operator_binds_and_is_refused_secrets_in_fact_and_not_only_by_review() {
    let admin = ready().await.unwrap();
    let operator = account(cluster_with_controllers().unwrap(), "duosuan-operator", None)
        .await
        .unwrap();
    let pods: Api<Pod> = Api::namespaced(admin, "default");
    pods.create(
        &PostParams::default(),
        &pod("to-bind", json!({"duosuan.io/queue": "q"}), &json!({})).unwrap(),
    )
    .await
    .unwrap();
    let binding = json!({"apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": "to-bind", "annotations": {"duosuan.io/gpus": "0"}},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "node-a"}});
    Api::<Pod>::namespaced(operator.clone(), "default")
        .create_subresource::<Value, Value>("binding", "to-bind", &PostParams::default(), &binding)
        .await
        .unwrap();
    let bound = pods.get("to-bind").await.unwrap();
    assert_eq!(bound.annotations()["duosuan.io/gpus"], "0");
    assert_eq!(bound.spec.unwrap().node_name.as_deref(), Some("node-a"));

    let error = Api::<Secret>::all(operator.clone())
        .list(&ListParams::default())
        .await
        .unwrap_err();
    assert!(forbidden(&error), "{error}");
    let policies: Api<ColocationPolicy> = Api::all(operator);
    let error = policies
        .create(
            &PostParams::default(),
            &ColocationPolicy::new("own", Default::default()),
        )
        .await
        .unwrap_err();
    assert!(forbidden(&error), "{error}");
}
