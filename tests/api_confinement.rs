//! Agents are held to their own node, and labelled pods are sent to our scheduler, by policies of a real API server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use duosuan_crds::{NodeReport, report::NodeReportSpec};
use duosuan_tests::{
    access::{forbidden, pod, ready, scheduler},
    cluster::{account, admin, cluster_with_controllers, eventually},
};
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingAdmissionPolicy, ValidatingAdmissionPolicy},
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

/// A change of a node's status, the words of the refusal, or none if it is allowed.
async fn node_status(client: &Client, node: &str, change: Value, refusal: Option<&str>) {
    let api: Api<Node> = Api::all(client.clone());
    let params = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let answer = api.patch_status(node, &params, &Patch::Merge(&change)).await;
    match (answer, refusal) {
        (Ok(_), None) => {}
        (Err(error), Some(words)) => {
            assert!(
                forbidden(&error) && error.to_string().contains(words),
                "{node} {change}: {error}"
            );
        }
        (Ok(_), Some(words)) => panic!("{node} {change} was accepted, and should be refused with {words:?}"),
        (Err(error), None) => panic!("{node} {change} was refused: {error}"),
    }
}

#[tokio::test]
async fn an_agent_changes_of_its_own_node_the_batch_capacity_and_of_others_nothing() {
    ready().await.unwrap();
    let cluster = cluster_with_controllers().unwrap();
    let agent = account(cluster, "duosuan-agent", Some("node-a")).await.unwrap();
    let offer = json!({"status": {"capacity": {"duosuan.io/batch-cpu": "4000"}, "allocatable": {"duosuan.io/batch-cpu": "4000"}}});
    node_status(&agent, "node-a", offer.clone(), None).await;
    let only = Some("may change only resources in duosuan.io");
    for (change, refusal) in [
        (json!({"status": {"capacity": {"cpu": "64"}}}), only),
        (json!({"status": {"allocatable": {"memory": "1Ti"}}}), only),
        (json!({"status": {"capacity": {"pods": null}}}), only),
        (json!({"status": {"capacity": {"nvidia.com/gpu": "8"}}}), only),
        (json!({"status": {"capacity": {"duosuan.io.example.com/x": "8"}}}), only),
        (json!({"status": {"allocatable": null}}), only),
        (
            json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
            Some("only capacity and allocatable"),
        ),
        (
            json!({"status": {"conditions": null}}),
            Some("only capacity and allocatable"),
        ),
        (
            json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.9"}]}}),
            Some("only capacity and allocatable"),
        ),
        (
            json!({"metadata": {"labels": {"zone": "2"}}}),
            Some("labels, annotations"),
        ),
        (json!({"metadata": {"labels": null}}), Some("labels, annotations")),
        (
            json!({"metadata": {"annotations": {"a": "b"}}}),
            Some("labels, annotations"),
        ),
        (
            json!({"metadata": {"finalizers": ["example.com/stay"]}}),
            Some("labels, annotations"),
        ),
    ] {
        node_status(&agent, "node-a", change, refusal).await;
    }
    let own = Some("an agent may write only what belongs to its own node node-a, not to node-b");
    node_status(&agent, "node-b", offer.clone(), own).await;
    // A token without a node, as that of no pod, gets nothing.
    let nobody = account(cluster, "duosuan-agent", None).await.unwrap();
    node_status(&nobody, "node-a", offer.clone(), Some("names no node")).await;
    // The rules are about agents: others are not concerned.
    let admin = admin(cluster).await.unwrap();
    node_status(&admin, "node-b", json!({"status": {"capacity": {"cpu": "64"}}}), None).await;

    // As the agent does it: server-side apply, more, then less, then nothing.
    let nodes: Api<Node> = Api::all(agent);
    let params = PatchParams::apply("duosuan-agent");
    for amount in [Some("4500"), Some("1500"), None] {
        let map = amount.map_or(json!({}), |a| json!({"duosuan.io/batch-cpu": a}));
        let body = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"},
            "status": {"capacity": map, "allocatable": map}});
        let node = nodes
            .patch_status("node-a", &params, &Patch::Apply(&body))
            .await
            .unwrap();
        let capacity = node.status.unwrap().capacity.unwrap();
        assert_eq!(capacity.get("duosuan.io/batch-cpu").map(|q| q.0.as_str()), amount);
        assert_eq!(capacity["cpu"].0, "8");
    }
}

#[tokio::test]
async fn an_agent_writes_its_own_report_and_no_other() {
    ready().await.unwrap();
    let cluster = cluster_with_controllers().unwrap();
    let agent = account(cluster, "duosuan-agent", Some("node-a")).await.unwrap();
    let reports: Api<NodeReport> = Api::all(agent.clone());
    let params = PatchParams::apply("duosuan-agent");
    let whole = |name: &str| NodeReport::new(name, NodeReportSpec {});
    let status = |name: &str| {
        json!({"apiVersion": "duosuan.io/v1alpha1", "kind": "NodeReport", "metadata": {"name": name},
            "status": {"usage": {"cpu": "1"}}})
    };
    reports
        .patch("node-a", &params, &Patch::Apply(whole("node-a")))
        .await
        .unwrap();
    reports
        .patch_status("node-a", &params, &Patch::Apply(status("node-a")))
        .await
        .unwrap();

    Api::<NodeReport>::all(admin(cluster).await.unwrap())
        .patch("node-b", &params, &Patch::Apply(whole("node-b")))
        .await
        .unwrap();
    for error in [
        reports
            .patch("node-b", &params, &Patch::Apply(whole("node-b")))
            .await
            .unwrap_err(),
        reports
            .patch_status("node-b", &params, &Patch::Apply(status("node-b")))
            .await
            .unwrap_err(),
        reports
            .create(&PostParams::default(), &whole("node-c"))
            .await
            .unwrap_err(),
    ] {
        assert!(
            forbidden(&error) && error.to_string().contains("its own node node-a, not to node-"),
            "{error}"
        );
    }
    let error = reports.delete("node-a", &DeleteParams::default()).await.unwrap_err();
    assert!(forbidden(&error), "{error}");
    let nobody: Api<NodeReport> = Api::all(account(cluster, "duosuan-agent", None).await.unwrap());
    let error = nobody
        .patch_status("node-a", &params, &Patch::Apply(status("node-a")))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("names no node"), "{error}");
}

#[tokio::test]
async fn pods_with_a_label_of_ours_go_to_our_scheduler_and_others_are_left_alone() {
    let client = ready().await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client, "default");
    for (labels, spec, wanted) in [
        (
            json!({"duosuan.io/claim": "c", "duosuan.io/group": "g"}),
            json!({}),
            "duosuan",
        ),
        (json!({"duosuan.io/queue": "q"}), json!({}), "duosuan"),
        (
            json!({"duosuan.io/queue": "q"}),
            json!({"schedulerName": "default-scheduler"}),
            "duosuan",
        ),
        (
            json!({"duosuan.io/queue": "q"}),
            json!({"schedulerName": "volcano"}),
            "volcano",
        ),
        (
            json!({"duosuan.io/queue": "q"}),
            json!({"nodeName": "node-a"}),
            "default-scheduler",
        ),
        (json!({"duosuan.io/tier": "batch"}), json!({}), "default-scheduler"),
        (json!({"app": "web"}), json!({}), "default-scheduler"),
        (json!({}), json!({"schedulerName": "duosuan"}), "duosuan"),
        (Value::Null, json!({}), "default-scheduler"),
    ] {
        let sent = pod("routing", labels.clone(), &spec).unwrap();
        let dry_run = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let mut made = pods.create(&dry_run, &sent).await.unwrap();
        assert_eq!(scheduler(&made), wanted, "{labels} {spec}");
        // Nothing else of the pod changes: but for the scheduler it is as one without our labels.
        made.spec.as_mut().unwrap().scheduler_name = None;
        let mut plain = pods
            .create(&dry_run, &pod("routing", Value::Null, &spec).unwrap())
            .await
            .unwrap();
        plain.spec.as_mut().unwrap().scheduler_name = None;
        assert_eq!(made.spec, plain.spec);
    }
}

#[tokio::test]
async fn the_api_server_finds_no_fault_in_the_policies_expressions() {
    let client = ready().await.unwrap();
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    // The controller manager checks the types of the expressions and writes what it found.
    let checked = eventually("the confinement's expressions are checked", async || {
        let policy = policies.get("duosuan-agent-confinement").await?;
        let current = policy.metadata.generation;
        Ok(policy
            .status
            .filter(|s| s.observed_generation == current && s.type_checking.is_some()))
    })
    .await
    .unwrap();
    let warnings = checked.type_checking.unwrap().expression_warnings.unwrap_or_default();
    let warnings: Vec<String> = warnings
        .into_iter()
        .map(|w| format!("{}: {}", w.field_ref, w.warning))
        .collect();
    assert!(warnings.is_empty(), "{}", warnings.join("\n"));
    let routing: Api<MutatingAdmissionPolicy> = Api::all(client);
    assert_eq!(
        routing.get("duosuan-routing").await.unwrap().name_any(),
        "duosuan-routing"
    );
}
