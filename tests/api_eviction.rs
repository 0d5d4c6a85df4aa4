//! Evictions of batch by the agent on a real API server: who goes, who stays, and who says so.
//!
//! The nodes are simulated and have no kubelet: the test says that pods run, and an evicted pod stays in its grace.
//! Half of the node's memory is wanted free, so that two pods of 20 GiB on 64 are a shortage, and one of them is none.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::time::Duration;

use duosuan_crds::{
    ANNOTATION_EVICTION_NOTICE, ANNOTATION_LAST_CHECKPOINT, CapacityClaim, NodeReport, RESOURCE_BATCH_CPU,
    RESOURCE_BATCH_MEMORY, report::EvictionReport,
};
use duosuan_tests::{
    access::agent_rules,
    cluster::{account, admin, cluster, eventually},
};
use k8s_openapi::{
    api::{
        core::v1::{Node, Pod},
        events::v1::Event,
        policy::v1::PodDisruptionBudget,
    },
    jiff::Timestamp,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

#[path = "agent/lab.rs"]
mod lab;

use lab::{Lab, until};

const GIB: i64 = 1 << 30;

/// As much eviction as a policy can ask for.
fn policy(more: Value) -> Value {
    let mut spec = json!({"eviction": {"availablePercent": 50}});
    lab::merge(&mut spec, more);
    spec
}

fn pods(lab: &Lab) -> Api<Pod> {
    Api::namespaced(lab.client.clone(), "default")
}

fn full(lab: &Lab, name: &str) -> String {
    format!("{}-{name}", lab.node)
}

/// A batch pod that has run for so many seconds.
async fn batch(lab: &Lab, name: &str, seconds: i64, more: Value) {
    let requests = json!({RESOURCE_BATCH_CPU: "1000", RESOURCE_BATCH_MEMORY: (20 * GIB).to_string()});
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": full(lab, name), "namespace": "default", "labels": {"pod": full(lab, name)}},
        "spec": {"nodeName": lab.node, "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 600,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "c", "image": "none", "resources": {"requests": requests, "limits": requests}}]}});
    lab::merge(&mut pod, more);
    lab::create(&pods(lab), pod).await;
    let started = Timestamp::now() - Duration::from_secs(seconds.unsigned_abs());
    let status = json!({"status": {"phase": "Running", "startTime": started.to_string(),
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": started.to_string()}]}});
    pods(lab)
        .patch_status(&full(lab, name), &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
}

/// Two pods of which the first loses less: it has run for longer, and wrote a checkpoint a moment ago.
async fn two(lab: &Lab) {
    let checkpoint = json!({"metadata": {"annotations": {ANNOTATION_LAST_CHECKPOINT: Timestamp::now().to_string()}}});
    batch(lab, "cheap", 900, checkpoint).await;
    batch(lab, "dear", 600, json!({})).await;
}

async fn evicted(lab: &Lab, name: &str) -> Pod {
    until(&pods(lab), &full(lab, name), "being deleted", |pod| {
        pod.metadata.deletion_timestamp.is_some()
    })
    .await
}

/// Neither evicted nor warned.
async fn stays(lab: &Lab, name: &str) {
    let pod = pods(lab).get(&full(lab, name)).await.unwrap();
    assert_eq!(pod.metadata.deletion_timestamp, None, "{name} was evicted");
    assert_eq!(
        pod.annotations().get(ANNOTATION_EVICTION_NOTICE),
        None,
        "{name} was warned"
    );
}

fn evictions(report: &NodeReport) -> Vec<EvictionReport> {
    report.status.clone().unwrap_or_default().evictions
}

/// Names without the node's, and what became of each.
fn outcomes(lab: &Lab, report: &NodeReport) -> Vec<(String, String)> {
    let prefix = format!("default/{}-", lab.node);
    let each = evictions(report);
    each.iter()
        .map(|e| (e.pod.replace(&prefix, ""), e.outcome.clone()))
        .collect()
}

fn is(outcomes: &[(String, String)], wanted: &[(&str, &str)]) -> bool {
    outcomes
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .eq(wanted.iter().copied())
}

fn batch_memory(node: &Node) -> Option<i64> {
    let allocatable = node.status.as_ref()?.allocatable.as_ref()?;
    duosuan_node::quantity::whole(allocatable.get(RESOURCE_BATCH_MEMORY)?)
}

/// The chart's rules for agents, in force.
async fn rules() {
    let control_plane = cluster().unwrap();
    let client = admin(control_plane).await.unwrap();
    agent_rules(&client).await.unwrap();
    let nobody: Api<Pod> = Api::namespaced(account(control_plane, "duosuan-agent", None).await.unwrap(), "default");
    let probe = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "namespace": "default"},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "c", "image": "none"}]}});
    let admins: Api<Pod> = Api::namespaced(client, "default");
    lab::create(&admins, probe).await;
    eventually("the confinement of evictions is in force", async || {
        let note = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION_EVICTION_NOTICE: "x"}}}));
        let answer = nobody.patch("probe", &PatchParams::default(), &note).await;
        Ok(answer
            .is_err_and(|e| e.to_string().contains("names no node"))
            .then_some(()))
    })
    .await
    .unwrap();
    admins
        .delete("probe", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lowest_lost_work_is_evicted_with_a_notice_within_the_charts_rules_and_does_not_come_back() {
    rules().await;
    let lab = Lab::start_as("evict-lowest", true, true).await;
    two(&lab).await;
    lab.policy(policy(json!({}))).await;
    let gone = evicted(&lab, "cheap").await;
    let notice = gone.annotations().get(ANNOTATION_EVICTION_NOTICE).unwrap();
    assert!(notice.contains("MemoryShort: "), "{notice}");
    assert_eq!(gone.metadata.deletion_grace_period_seconds, Some(600), "its own grace");

    let told = lab
        .report_until("an eviction", |r| is(&outcomes(&lab, r), &[("cheap", "Evicted")]))
        .await;
    let told = &evictions(&told)[0];
    assert_eq!(told.cause, "MemoryShort");
    assert!(told.message.contains("the policy wants 32768 MiB"), "{}", told.message);
    let events: Api<Event> = Api::namespaced(lab.client.clone(), "default");
    let event = eventually("an event on the pod", async || {
        let list = events.list(&ListParams::default()).await?;
        let of = |e: &Event| e.regarding.as_ref().and_then(|r| r.name.clone());
        Ok(list.items.into_iter().find(|e| of(e) == Some(full(&lab, "cheap"))))
    })
    .await
    .unwrap();
    assert_eq!(event.reason.as_deref(), Some("Evicted"));
    assert!(event.note.unwrap().contains("of the node's memory are available"));

    // As its kubelet ends it.
    pods(&lab)
        .delete(&full(&lab, "cheap"), &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    // There is room for another such pod, and none is offered.
    let offer = |n: &Node| batch_memory(n).is_some_and(|bytes| bytes == 20 * GIB);
    lab.node_until("no more than what is bound is offered", offer).await;
    let report = lab.report_until("a report after that", |r| r.status.is_some()).await;
    assert!(report.status.unwrap().batch_closed);
    stays(&lab, "dear").await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disruption_budget_is_respected_and_the_next_pod_goes() {
    let lab = Lab::start("evict-budget").await;
    two(&lab).await;
    let name = full(&lab, "cheap");
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"pod": name}}}});
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(lab.client.clone(), "default");
    budgets
        .create(&PostParams::default(), &serde_json::from_value(budget).unwrap())
        .await
        .unwrap();
    // As the controller of budgets says it.
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 1,
        "desiredHealthy": 1, "expectedPods": 1}});
    budgets
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
    lab.policy(policy(json!({}))).await;
    evicted(&lab, "dear").await;
    let wanted = [("cheap", "Refused"), ("dear", "Evicted")];
    lab.report_until("both", |r| is(&outcomes(&lab, r), &wanted)).await;
    stays(&lab, "cheap").await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kill_switch_and_mode_observe_evict_nobody() {
    let lab = Lab::start("evict-switch").await;
    two(&lab).await;
    lab.policy(policy(json!({"suspended": true}))).await;
    let time = |r: &NodeReport| r.status.as_ref().and_then(|s| s.time.clone()).map(|t| t.0);
    let first = time(&lab.report_until("a report", |r| time(r).is_some()).await).unwrap();
    // Twice the time that the agent is patient.
    let later = first + Duration::from_secs(10);
    let report = lab
        .report_until("a later one", |r| time(r).is_some_and(|t| t > later))
        .await;
    assert_eq!(evictions(&report), []);
    for name in ["cheap", "dear"] {
        stays(&lab, name).await;
    }
    lab.policy(policy(json!({"suspended": false, "mode": "observe"}))).await;
    let wanted = [("cheap", "Observed")];
    let report = lab
        .report_until("what it would do", |r| is(&outcomes(&lab, r), &wanted))
        .await;
    assert!(!report.status.unwrap().batch_closed);
    for name in ["cheap", "dear"] {
        stays(&lab, name).await;
    }
    lab.policy(policy(json!({"mode": "act"}))).await;
    evicted(&lab, "cheap").await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gang_costs_the_work_of_all_its_pods_wherever_they_run() {
    let lab = Lab::start("evict-gang").await;
    let claim = json!({"apiVersion": "duosuan.io/v1alpha1", "kind": "CapacityClaim",
        "metadata": {"name": "evict-gang", "namespace": "default"},
        "spec": {"tier": "batch", "groups": [{"name": "worker", "count": 10}]}});
    let claims: Api<CapacityClaim> = Api::namespaced(lab.client.clone(), "default");
    claims
        .create(&PostParams::default(), &serde_json::from_value(claim).unwrap())
        .await
        .unwrap();
    let status = json!({"status": {"phase": "Running", "placedPods": 10, "desiredPods": 10,
        "placed": [{"group": "worker", "count": 10, "desired": 10}]}});
    claims
        .patch_status("evict-gang", &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
    // By itself the member would be the cheaper one.
    let minute = (Timestamp::now() - Duration::from_secs(60)).to_string();
    let member = json!({"metadata": {"labels": {"duosuan.io/claim": "evict-gang", "duosuan.io/group": "worker"},
        "annotations": {ANNOTATION_LAST_CHECKPOINT: minute}}});
    batch(&lab, "member", 600, member).await;
    let five = (Timestamp::now() - Duration::from_secs(300)).to_string();
    let single = json!({"metadata": {"annotations": {ANNOTATION_LAST_CHECKPOINT: five}}});
    batch(&lab, "single", 600, single).await;
    lab.policy(policy(json!({}))).await;
    evicted(&lab, "single").await;
    stays(&lab, "member").await;
    lab.end().await;
}
