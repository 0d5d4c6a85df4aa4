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
    events::v1::Event,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

/// What came of a request of an agent, and the words of the refusal, or none if it is to be allowed.
fn judged<T>(what: &str, answer: kube::Result<T>, refusal: Option<&str>) {
    match (answer, refusal) {
        (Ok(_), None) => {}
        (Err(error), Some(words)) => {
            assert!(
                forbidden(&error) && error.to_string().contains(words),
                "{what}: {error}"
            );
        }
        (Ok(_), Some(words)) => panic!("{what} was accepted, and should be refused with {words:?}"),
        (Err(error), None) => panic!("{what} was refused: {error}"),
    }
}

/// A change of a node's status, the words of the refusal, or none if it is allowed.
async fn node_status(client: &Client, node: &str, change: Value, refusal: Option<&str>) {
    let api: Api<Node> = Api::all(client.clone());
    let params = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let answer = api.patch_status(node, &params, &Patch::Merge(&change)).await;
    judged(&format!("{node} {change}"), answer, refusal);
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
async fn an_agent_warns_and_evicts_pods_of_batch_and_mid_of_its_own_node_and_nobody_else() {
    let admins: Api<Pod> = Api::namespaced(ready().await.unwrap(), "default");
    let cluster = cluster_with_controllers().unwrap();
    let agent = account(cluster, "duosuan-agent", Some("node-a")).await.unwrap();
    let batch = json!({"requests": {"duosuan.io/batch-cpu": "100"}, "limits": {"duosuan.io/batch-cpu": "100"}});
    let mid = json!({"requests": {"duosuan.io/mid-cpu": "100"}, "limits": {"duosuan.io/mid-cpu": "100"}});
    let mut uids = std::collections::BTreeMap::new();
    for (name, node, resources) in [
        ("evict-own", "node-a", batch.clone()),
        ("evict-mid", "node-a", mid),
        ("evict-other", "node-b", batch),
        ("evict-online", "node-a", json!({})),
    ] {
        let spec = json!({"nodeName": node, "containers": [{"name": "c", "image": "none", "resources": resources}]});
        let made = admins
            .create(&PostParams::default(), &pod(name, json!({}), &spec).unwrap())
            .await
            .unwrap();
        uids.insert(name, made.metadata.uid.unwrap());
    }

    let pods: Api<Pod> = Api::namespaced(agent.clone(), "default");
    let dry_run = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let only = Some("only the annotation duosuan.io/eviction-notice");
    let notice = json!({"metadata": {"annotations": {"duosuan.io/eviction-notice": "now"}}});
    for (name, change, refusal) in [
        ("evict-own", notice.clone(), None),
        ("evict-other", notice, Some("pods of its own node node-a")),
        ("evict-own", json!({"metadata": {"annotations": {"a": "b"}}}), only),
        ("evict-own", json!({"metadata": {"labels": {"a": "b"}}}), only),
        (
            "evict-own",
            json!({"metadata": {"finalizers": ["example.com/stay"]}}),
            only,
        ),
        ("evict-own", json!({"spec": {"activeDeadlineSeconds": 1}}), only),
    ] {
        let answer = pods.patch(name, &dry_run, &Patch::Merge(&change)).await;
        judged(&format!("{name} {change}"), answer, refusal);
    }

    let evict = async |client: &Client, name: &str, metadata: Value, uid: Option<&str>| {
        let mut body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata,
            "deleteOptions": {"preconditions": {"uid": uid}}});
        body["metadata"]["name"] = name.into();
        let path = format!("/api/v1/namespaces/default/pods/{name}/eviction?dryRun=All");
        let request = http::Request::post(path)
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&body).unwrap())
            .unwrap();
        client.request_text(request).await
    };
    let labelled = |node: &str| json!({"labels": {"duosuan.io/evicting-node": node}});
    let own = Some("only pods of its own node");
    let form = Some("has to carry the label");
    // What the rule looks at is a cache of the API server's: it has to know the pods first.
    eventually("the pod of another node is known", async || {
        let answer = evict(&agent, "evict-other", labelled("node-a"), Some(&uids["evict-other"])).await;
        Ok(answer.is_err_and(|e| forbidden(&e)).then_some(()))
    })
    .await
    .unwrap();
    for (name, metadata, uid, refusal) in [
        ("evict-own", labelled("node-a"), Some(uids["evict-own"].as_str()), None),
        ("evict-mid", labelled("node-a"), Some(uids["evict-mid"].as_str()), None),
        ("evict-other", labelled("node-a"), Some(&uids["evict-other"]), own),
        ("evict-own", labelled("node-a"), Some(&uids["evict-other"]), own),
        ("evict-other", labelled("node-b"), Some(&uids["evict-other"]), form),
        ("evict-own", json!({}), Some(&uids["evict-own"]), form),
        // Two policies refuse it, and it is not said whose words come first.
        ("evict-own", labelled("node-a"), None, Some("an agent")),
        (
            "evict-online",
            labelled("node-a"),
            Some(&uids["evict-online"]),
            Some("only pods of batch and mid"),
        ),
    ] {
        let answer = evict(&agent, name, metadata.clone(), uid).await;
        judged(
            &format!("the eviction of {name} with {metadata} and {uid:?}"),
            answer,
            refusal,
        );
    }
    // Others evict as ever.
    let admin = admin(cluster).await.unwrap();
    judged("an admin's", evict(&admin, "evict-online", json!({}), None).await, None);
    let answer = pods.delete("evict-own", &DeleteParams::default()).await;
    assert!(answer.is_err_and(|e| forbidden(&e)));

    let events: Api<Event> = Api::namespaced(agent, "default");
    for (instance, refusal) in [
        ("node-a", None),
        ("node-b", Some("with its node as reporting instance")),
    ] {
        let event = json!({"metadata": {"name": format!("evict-{instance}"), "namespace": "default"},
            "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "duosuan.io/agent",
            "reportingInstance": instance, "action": "Evicting", "reason": "Evicted", "type": "Warning", "note": "x",
            "regarding": {"kind": "Pod", "namespace": "default", "name": "evict-own"}});
        let answer = events
            .create(&PostParams::default(), &serde_json::from_value(event).unwrap())
            .await;
        judged(instance, answer, refusal);
    }
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
    for name in [
        "duosuan-agent-confinement",
        "duosuan-agent-eviction",
        "duosuan-agent-eviction-node",
    ] {
        // The controller manager checks the types of the expressions and writes what it found.
        let checked = eventually("the confinement's expressions are checked", async || {
            let policy = policies.get(name).await?;
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
            .map(|w| format!("{name}: {}: {}", w.field_ref, w.warning))
            .collect();
        assert!(warnings.is_empty(), "{}", warnings.join("\n"));
    }
    let routing: Api<MutatingAdmissionPolicy> = Api::all(client);
    assert_eq!(
        routing.get("duosuan-routing").await.unwrap().name_any(),
        "duosuan-routing"
    );
}
