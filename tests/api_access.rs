//! What operator and agents may do and may not by the chart's roles, asked of a real API server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use duosuan_crds::{CapacityClaim, ColocationPolicy, NodeReport, Queue, claim::Phase};
use duosuan_tests::{
    access::{forbidden, pod, ready},
    cluster::{account, account_config, apply, cluster_with_controllers, eventually, objects},
};
use k8s_openapi::{
    api::{
        authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
        coordination::v1::Lease,
        core::v1::{Pod, Secret},
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

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
        ("list", "podgroups", "scheduling.k8s.io", "", true),
        ("watch", "podgroups", "scheduling.k8s.io", "", true),
        ("patch", "podgroups/status", "scheduling.k8s.io", "", true),
        ("patch", "podgroups", "scheduling.k8s.io", "", false),
        ("list", "resourceslices", "resource.k8s.io", "", true),
        ("watch", "deviceclasses", "resource.k8s.io", "", true),
        ("watch", "resourceclaims", "resource.k8s.io", "", true),
        ("update", "resourceclaims/status", "resource.k8s.io", "", true),
        ("update", "resourceclaims/binding", "resource.k8s.io", "", true),
        ("create", "resourceclaims", "resource.k8s.io", "", false),
        ("delete", "resourceclaims", "resource.k8s.io", "", false),
        ("update", "resourceslices", "resource.k8s.io", "", false),
        ("list", "resourceclaimtemplates", "resource.k8s.io", "", false),
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
        ("patch", "persistentvolumeclaims", "", "", true),
        ("patch", "persistentvolumes", "", "", true),
        ("delete", "persistentvolumes", "", "", false),
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
                ("namespaces", ""),
                ("persistentvolumes", ""),
                ("persistentvolumeclaims", ""),
                ("storageclasses", "storage.k8s.io"),
                ("csinodes", "storage.k8s.io"),
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
        // What an eviction would cost a gang.
        ("get", "capacityclaims", ours, "", true),
        ("list", "capacityclaims", ours, "", false),
        ("patch", "capacityclaims", ours, "", false),
        ("patch", "capacityclaims/status", ours, "", false),
        ("patch", "colocationpolicies", ours, "", false),
        ("patch", "colocationpolicies/status", ours, "", false),
        ("get", "secrets", "", "", false),
        ("get", "configmaps", "", "", false),
        ("create", "pods", "", "", false),
        ("delete", "pods", "", "", false),
        ("update", "pods", "", "", false),
        ("patch", "pods/status", "", "", false),
        ("create", "pods/binding", "", "", false),
        // An eviction's notice, the eviction and its event: of whom, admission decides.
        ("patch", "pods", "", "", true),
        ("create", "pods/eviction", "", "", true),
        ("create", "events", "events.k8s.io", "", true),
        ("patch", "events", "events.k8s.io", "", false),
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

#[tokio::test]
async fn a_whole_operator_gets_by_with_its_own_rights() {
    let client = ready().await.unwrap();
    let config = account_config(cluster_with_controllers().unwrap(), "duosuan-operator", None)
        .await
        .unwrap();
    let end = CancellationToken::new();
    let options = duosuan_controller::Options {
        config: Some(config),
        ..Default::default()
    };
    let operator = tokio::spawn(duosuan_controller::run(options, end.clone()));
    let text = "
apiVersion: duosuan.io/v1alpha1
kind: Queue
metadata: {name: rights}
---
apiVersion: duosuan.io/v1alpha1
kind: ColocationPolicy
metadata: {name: rights}
spec: {guards: {gpu: {}}}
---
apiVersion: duosuan.io/v1alpha1
kind: CapacityClaim
metadata: {name: rights, namespace: default}
spec: {queue: rights, groups: [{name: worker, count: 1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: rights-fits, namespace: default, labels: {duosuan.io/claim: rights, duosuan.io/group: worker}}
spec: {containers: [{name: main, image: none, resources: {requests: {cpu: 1}}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: rights-waits, namespace: default, labels: {duosuan.io/queue: rights}}
spec: {containers: [{name: main, image: none, resources: {requests: {cpu: 1000}}}]}
";
    for object in objects(text).unwrap() {
        apply(&client, &object).await.unwrap();
    }
    // A node that follows the policy, so that there is something to count.
    let reports: Api<NodeReport> = Api::all(client.clone());
    let params = PatchParams::apply("duosuan-agent").force();
    let report = json!({"apiVersion": "duosuan.io/v1alpha1", "kind": "NodeReport", "metadata": {"name": "node-a"}});
    reports.patch("node-a", &params, &Patch::Apply(&report)).await.unwrap();
    let mut report = report;
    report["status"] = json!({"policy": "rights"});
    reports
        .patch_status("node-a", &params, &Patch::Apply(&report))
        .await
        .unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let claims: Api<CapacityClaim> = Api::namespaced(client.clone(), "default");
    let queues: Api<Queue> = Api::all(client.clone());
    let policies: Api<ColocationPolicy> = Api::all(client.clone());
    let events: Api<Event> = Api::namespaced(client.clone(), "default");
    let leases: Api<Lease> = Api::namespaced(client, "duosuan-system");
    let holder = async || {
        leases
            .get_opt("duosuan-operator")
            .await
            .map(|l| l?.spec?.holder_identity)
    };
    // One right after another: each of these is written by a request of its own.
    eventually("the lease is held", async || Ok(holder().await?))
        .await
        .unwrap();
    let bound = async || Ok(pods.get("rights-fits").await?.spec.and_then(|s| s.node_name));
    eventually("the pod that fits is bound", bound).await.unwrap();
    let running = async || {
        let status = claims.get("rights").await?.status;
        Ok(status.filter(|s| s.phase == Phase::Running).map(drop))
    };
    eventually("the claim says that it runs", running).await.unwrap();
    let told = async || {
        let conditions = pods
            .get("rights-waits")
            .await?
            .status
            .and_then(|s| s.conditions)
            .unwrap_or_default();
        Ok(conditions
            .into_iter()
            .find(|c| c.reason.as_deref() == Some("Unschedulable")))
    };
    eventually("the pod that does not fit says so", told).await.unwrap();
    eventually("the queue has a status", async || {
        Ok(queues.get("rights").await?.status)
    })
    .await
    .unwrap();
    let counted = async || Ok(policies.get("rights").await?.status.filter(|s| s.nodes == 1));
    let status = eventually("the policy counts its node", counted).await.unwrap();
    let said = |conditions: &[Condition]| {
        conditions
            .iter()
            .find(|c| c.type_ == "Honoured")
            .map(|c| c.message.clone())
    };
    assert_eq!(
        said(&status.conditions).as_deref(),
        Some("nothing is done about spec.guards.gpu yet")
    );
    let without = Patch::Merge(json!({"spec": {"guards": {"gpu": null}}}));
    policies
        .patch("rights", &PatchParams::default(), &without)
        .await
        .unwrap();
    eventually("the policy takes its word back", async || {
        let status = policies.get("rights").await?.status.unwrap_or_default();
        Ok(said(&status.conditions).is_none().then_some(()))
    })
    .await
    .unwrap();
    let scheduled = async || {
        let list = events.list(&ListParams::default()).await?;
        Ok(list
            .items
            .into_iter()
            .find(|e| e.reason.as_deref() == Some("Scheduled")))
    };
    eventually("there is an event about the binding", scheduled)
        .await
        .unwrap();
    end.cancel();
    operator.await.unwrap().unwrap();
    let released = holder().await.unwrap().is_none_or(|holder| holder.is_empty());
    assert!(released, "the lease is still held");
}
