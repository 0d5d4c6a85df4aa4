//! Tier mid and a real API server: what agents offer it, and that the operator places by it.
//!
//! The nodes are kwok's; what an agent would see on them is simulated, and all that reaches the API server is written by the
//! real agent's code. Waiting is for the object's own change, seen by a watch.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[allow(dead_code, reason = "this binary uses a part of it")]
#[path = "operator/lab.rs"]
mod lab;

use std::time::Duration;

use duosuan_crds::{
    NodeReport, RESOURCE_BATCH_CPU, RESOURCE_BATCH_MEMORY, RESOURCE_MID_CPU, RESOURCE_MID_MEMORY, Tier,
    report::TierReport,
};
use duosuan_node::{
    quantity,
    simulated::{FleetOptions, run_fleet},
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use lab::{Lab, bound};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Flags of the API server that this test binary starts.
pub const APISERVER_FLAGS: &[&str] = &[];

/// The agents of a lab's nodes, until dropped.
async fn agents(lab: &Lab, nodes: &[&str]) -> DropGuard {
    let mut options = FleetOptions::new(nodes.iter().map(ToString::to_string).collect());
    options.report_period = Duration::from_secs(1);
    options.report_spacing = Duration::from_millis(200);
    options.step = Duration::from_millis(200);
    options.impersonate = false;
    let shutdown = CancellationToken::new();
    tokio::spawn(run_fleet(lab.client.clone(), options, shutdown.clone()));
    shutdown.drop_guard()
}

fn nodes(lab: &Lab) -> Api<Node> {
    Api::all(lab.client.clone())
}

/// What a node has of a resource: capacity and allocatable.
fn has(node: &Node, resource: &str) -> [Option<i64>; 2] {
    let status = node.status.as_ref().unwrap();
    [&status.capacity, &status.allocatable].map(|map| quantity::whole(map.as_ref()?.get(resource)?))
}

fn managers(node: &Node, resource: &str) -> Vec<String> {
    let fields = node.managed_fields().iter();
    fields
        .filter(|f| serde_json::to_string(&f.fields_v1).unwrap().contains(resource))
        .filter_map(|f| f.manager.clone())
        .collect()
}

/// A policy under which five minutes are a long past.
fn policy(mid: Value) -> Value {
    let mut policy = json!({"reclaim": {"growthPercent": 100, "mid": {"warmUp": "5m"}}});
    for (name, value) in mid.as_object().unwrap() {
        policy["reclaim"]["mid"][name] = value.clone();
    }
    policy
}

/// A node of 16 cores and 64 GiB, and a pod of prod on it that asked for 10 and 20.
async fn node_with_prod(lab: &Lab, node: &str) {
    lab.node(node, json!({"cpu": "16", "memory": "64Gi", "pods": "110"}))
        .await;
    let operator = lab.operator().await;
    lab.pod("online", json!({"cpu": "10", "memory": "20Gi"}), json!({}))
        .await;
    lab.wait::<Pod>("online", bound).await;
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_prod_asked_for_and_does_not_use_is_offered_to_mid_and_a_mid_pod_is_placed_on_it() {
    let lab = Lab::start("mid").await;
    node_with_prod(&lab, "mid-1").await;
    let operator = lab.operator().await;
    let requests = json!({RESOURCE_MID_CPU: "1500", RESOURCE_MID_MEMORY: "2Gi"});
    lab.pod("trainer", requests, json!({"duosuan.io/tier": "mid"})).await;
    lab.policy("mid", policy(json!({}))).await;
    let _agents = agents(&lab, &["mid-1"]).await;
    lab.wait::<Pod>("trainer", bound).await;

    let node = nodes(&lab).get("mid-1").await.unwrap();
    for resource in [RESOURCE_MID_CPU, RESOURCE_MID_MEMORY] {
        let [capacity, allocatable] = has(&node, resource);
        assert_eq!(capacity, allocatable, "{resource}");
        assert_eq!(managers(&node, resource), ["duosuan-agent"]);
    }
    let cpu = has(&node, RESOURCE_MID_CPU)[0].unwrap();
    // A quarter of the node at most, by default.
    assert!((1_500..=4_000).contains(&cpu), "{cpu}");
    let reports: Api<NodeReport> = Api::all(lab.client.clone());
    let tier = |report: &NodeReport| -> Option<TierReport> {
        let status = report.status.as_ref()?;
        status.tiers.iter().find(|t| t.tier == Tier::Mid).cloned()
    };
    let report = lab
        .wait_in(&reports, "mid-1", |r: &NodeReport| {
            tier(r).is_some_and(|t| t.bound.get("cpu").is_some_and(|q| q.0 == "1500m"))
        })
        .await;
    let offers = report.status.as_ref().unwrap().mid_offers.clone();
    assert_eq!(
        (
            offers[0].resource.as_str(),
            offers[0].basis.as_str(),
            offers[0].prod_requests.0.as_str()
        ),
        ("cpu", "Fresh", "10")
    );
    let milli = |q: &_| quantity::milli(q).unwrap();
    let peak = milli(offers[0].prod_peak.as_ref().unwrap());
    let room = 16_000 - 1_600 - milli(offers[0].system_peak.as_ref().unwrap()) - peak;
    let target = (10_000 - peak).min(room).min(4_000);
    assert_eq!(milli(offers[0].target.as_ref().unwrap()), target);
    assert_eq!(milli(&offers[0].share), 4_000);
    assert!(milli(&offers[0].offered) <= target);

    let binary = duosuan_tests::binary::binary("duosuan").unwrap();
    let kubeconfig = lab::cluster().kubeconfig().display().to_string();
    let shown = std::process::Command::new(binary)
        .args(["top", "node", "mid-1", "--kubeconfig", &kubeconfig])
        .output()
        .unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains("OFFERED TO MID") && text.contains("LONG PEAK"), "{text}");
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_mid_is_offered_goes_with_the_policy_that_wants_none_and_batchs_stays() {
    let lab = Lab::start("mid-off").await;
    node_with_prod(&lab, "mid-2").await;
    lab.policy("mid", policy(json!({"cpuPercent": 0, "memoryPercent": 0})))
        .await;
    let _agents = agents(&lab, &["mid-2"]).await;
    let some = |resource: &'static str| move |n: &Node| has(n, resource).iter().all(|m| m.is_some_and(|m| m > 0));
    let none = |resource: &'static str| move |n: &Node| has(n, resource) == [None, None];
    let node = lab.wait_in(&nodes(&lab), "mid-2", some(RESOURCE_BATCH_CPU)).await;
    assert!(none(RESOURCE_MID_CPU)(&node));
    lab.policy("mid", policy(json!({"memoryPercent": 0}))).await;
    let node = lab.wait_in(&nodes(&lab), "mid-2", some(RESOURCE_MID_CPU)).await;
    assert_eq!(has(&node, RESOURCE_MID_MEMORY), [Some(0), Some(0)]);
    lab.policy("mid", policy(json!({"cpuPercent": 0, "memoryPercent": 0})))
        .await;
    let node = lab.wait_in(&nodes(&lab), "mid-2", none(RESOURCE_MID_CPU)).await;
    assert!(none(RESOURCE_MID_MEMORY)(&node) && some(RESOURCE_BATCH_CPU)(&node));
    assert_eq!(
        has(&node, "cpu"),
        [Some(16), Some(16)],
        "what the kubelet reports is not ours to touch"
    );

    // What is bound outlasts the kill switch, for both tiers in their own names.
    lab.policy("mid", policy(json!({}))).await;
    lab.wait_in(&nodes(&lab), "mid-2", some(RESOURCE_MID_CPU)).await;
    let requests = json!({RESOURCE_MID_CPU: "700", RESOURCE_MID_MEMORY: "1Gi"});
    lab.pod("stays", requests, json!({"duosuan.io/tier": "mid"})).await;
    let operator = lab.operator().await;
    lab.wait::<Pod>("stays", bound).await;
    operator.end().await;
    let mut suspended = policy(json!({}));
    suspended["suspended"] = true.into();
    lab.policy("mid", suspended).await;
    let bound = |n: &Node| has(n, RESOURCE_MID_CPU) == [Some(700), Some(700)];
    let node = lab.wait_in(&nodes(&lab), "mid-2", bound).await;
    assert_eq!(has(&node, RESOURCE_MID_MEMORY), [Some(1 << 30), Some(1 << 30)]);
    assert_eq!(has(&node, RESOURCE_BATCH_CPU), [Some(0), Some(0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_mids_cpu_keeps_it_and_the_rest_is_published_all_the_same() {
    let lab = Lab::start("mid-conflict").await;
    node_with_prod(&lab, "mid-3").await;
    let theirs = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "mid-3"}, "status": {
        "capacity": {RESOURCE_MID_CPU: "777"}, "allocatable": {RESOURCE_MID_CPU: "777"}}});
    let api = nodes(&lab);
    let params = PatchParams::apply("somebody-else");
    api.patch_status("mid-3", &params, &Patch::Apply(&theirs))
        .await
        .unwrap();
    lab.policy("mid", policy(json!({}))).await;
    let _agents = agents(&lab, &["mid-3"]).await;
    let reports: Api<NodeReport> = Api::all(lab.client.clone());
    let published = |report: &NodeReport| {
        let conditions = report.status.clone().unwrap_or_default().conditions;
        conditions.into_iter().find(|c| c.type_ == "CapacityPublished")
    };
    let report = lab
        .wait_in(&reports, "mid-3", |r: &NodeReport| {
            published(r).is_some_and(|c| c.reason == "OwnedByAnother")
        })
        .await;
    let message = published(&report).unwrap().message;
    assert!(
        message.contains("writes duosuan.io/mid-cpu of this node") && message.contains("somebody-else"),
        "{message}"
    );
    let node = api.get("mid-3").await.unwrap();
    assert_eq!(has(&node, RESOURCE_MID_CPU), [Some(777), Some(777)]);
    for resource in [RESOURCE_MID_MEMORY, RESOURCE_BATCH_CPU, RESOURCE_BATCH_MEMORY] {
        assert_eq!(managers(&node, resource), ["duosuan-agent"], "{resource}");
    }
    // It lets go: the agent takes over by itself.
    let nothing = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "mid-3"}});
    api.patch_status("mid-3", &params, &Patch::Apply(&nothing))
        .await
        .unwrap();
    lab.wait_in(&api, "mid-3", |n: &Node| {
        managers(n, RESOURCE_MID_CPU) == ["duosuan-agent"]
    })
    .await;
    lab.wait_in(&reports, "mid-3", |r: &NodeReport| {
        published(r).is_some_and(|c| c.reason == "Published" && c.message.contains("for mid; "))
    })
    .await;
}
