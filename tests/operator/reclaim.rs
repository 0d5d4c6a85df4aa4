//! What is evicted, how that is told, and what a disruption budget forbids.

use k8s_openapi::api::{core::v1::Pod, policy::v1::PodDisruptionBudget};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::lab::{Lab, bound, evicted};

#[tokio::test(flavor = "multi_thread")]
async fn reclaim_evicts_through_the_eviction_api_and_a_budget_that_forbids_it_is_kept() {
    let lab = Lab::start("reclaim").await;
    lab.node("reclaim-1", json!({"cpu": "2", "memory": "8Gi", "pods": "110"}))
        .await;
    lab.queue(
        "reclaim-owner",
        json!({"quotas": [{"tier": "prod", "guaranteed": {"cpu": "2"}}]}),
    )
    .await;
    lab.queue("reclaim-guest", json!({})).await;
    let operator = lab.operator().await;
    for name in ["guest-0", "guest-1"] {
        lab.pod(
            name,
            json!({"cpu": "1"}),
            json!({"duosuan.io/queue": "reclaim-guest", "guest": name}),
        )
        .await;
        lab.wait::<Pod>(name, bound).await;
        keep(&lab, name, &["duosuan.io/test"]).await;
    }
    let budgets: Api<PodDisruptionBudget> = lab.api();
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "keep"},
        "spec": {"maxUnavailable": 0, "selector": {"matchExpressions": [{"key": "guest", "operator": "Exists"}]}}});
    budgets
        .patch("keep", &PatchParams::apply("test"), &Patch::Apply(budget))
        .await
        .unwrap();
    let counted = |b: &PodDisruptionBudget| b.status.as_ref().is_some_and(|s| s.current_healthy == Some(2));
    lab.wait_in(&budgets, "keep", counted).await;

    lab.pod(
        "owner",
        json!({"cpu": "1"}),
        json!({"duosuan.io/queue": "reclaim-owner"}),
    )
    .await;
    let event = lab.event("owner", "EvictionFailed").await;
    let note = event.note.unwrap_or_default();
    assert!(
        note.contains("disruption budget") && note.contains("within a minute"),
        "{note}"
    );
    operator
        .until(|m| {
            m.lines()
                .any(|l| l.starts_with("duosuan_evictions_total{") && l.contains("result=\"budget\""))
        })
        .await;
    assert_eq!(lab.bound_pods().await, ["guest-0", "guest-1"]);
    let guests = lab
        .api::<Pod>()
        .list(&ListParams::default().labels("guest"))
        .await
        .unwrap();
    assert!(
        guests.iter().all(|p| p.metadata.deletion_timestamp.is_none()),
        "a pod was deleted past its budget"
    );

    // No budget any more: the same operator tries again by itself, and says where room is being made.
    budgets.delete("keep", &DeleteParams::default()).await.unwrap();
    let nominated = |p: &Pod| p.status.as_ref().and_then(|s| s.nominated_node_name.clone());
    lab.wait::<Pod>("owner", |p| nominated(p).as_deref() == Some("reclaim-1"))
        .await;
    let goes = if evicted(&lab, "guest-0").await {
        "guest-0"
    } else {
        "guest-1"
    };
    let stays = if goes == "guest-0" { "guest-1" } else { "guest-0" };
    assert!(!evicted(&lab, stays).await, "one guest goes, and only one");
    let event = lab.event(goes, "Reclaimed").await;
    assert!(event.note.unwrap_or_default().contains("owner"));
    assert!(
        !bound(&lab.api::<Pod>().get("owner").await.unwrap()),
        "its place is still held"
    );
    keep(&lab, goes, &[]).await;
    lab.wait::<Pod>("owner", |p| bound(p) && nominated(p).is_none()).await;
    keep(&lab, stays, &[]).await;
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_have_to_go_go_one_after_the_other_where_a_budget_never_lets_them_go_together() {
    let lab = Lab::start("reclaim-two").await;
    lab.node("reclaim-two-1", json!({"cpu": "3", "memory": "8Gi", "pods": "110"}))
        .await;
    lab.queue(
        "reclaim-two-owner",
        json!({"quotas": [{"tier": "prod", "guaranteed": {"cpu": "2"}}]}),
    )
    .await;
    lab.queue("reclaim-two-guest", json!({})).await;
    let operator = lab.operator().await;
    let guests = ["guest-0", "guest-1", "guest-2"];
    for name in guests {
        let labels = json!({"duosuan.io/queue": "reclaim-two-guest", "guest": name});
        lab.pod(name, json!({"cpu": "1"}), labels).await;
        lab.wait::<Pod>(name, bound).await;
        keep(&lab, name, &["duosuan.io/test"]).await;
    }
    let budgets: Api<PodDisruptionBudget> = lab.api();
    let budget = |available: i32| {
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "keep"},
            "spec": {"minAvailable": available, "selector": {"matchExpressions": [{"key": "guest", "operator": "Exists"}]}}})
    };
    let set = async |available: i32| {
        budgets
            .patch("keep", &PatchParams::apply("test"), &Patch::Apply(budget(available)))
            .await
            .unwrap();
    };
    let going = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
    let one_of_those = async |left: &[&str]| {
        let watches = left.iter().map(|name| Box::pin(lab.wait::<Pod>(name, going)));
        let (first, ..) = futures::future::select_all(watches).await;
        let first = first.name_any();
        for name in left.iter().filter(|name| **name != first) {
            assert!(!evicted(&lab, name).await, "{name} goes with {first}");
        }
        first
    };
    // One at a time, now and always.
    set(2).await;
    let allows = |b: &PodDisruptionBudget| b.status.as_ref().is_some_and(|s| s.disruptions_allowed == Some(1));
    lab.wait_in(&budgets, "keep", allows).await;
    let labels = json!({"duosuan.io/queue": "reclaim-two-owner"});
    lab.pod("owner", json!({"cpu": "2"}), labels).await;
    let note = lab.event("owner", "EvictionFailed").await.note.unwrap_or_default();
    assert!(note.contains("lets 1 of the 2 pods go"), "{note}");
    let first = one_of_those(&guests).await;
    keep(&lab, &first, &[]).await;
    // The operator may use what this allows before anybody else sees it.
    set(1).await;
    let left: Vec<&str> = guests.into_iter().filter(|name| *name != first).collect();
    let second = one_of_those(&left).await;
    keep(&lab, &second, &[]).await;
    lab.wait::<Pod>("owner", bound).await;
    for name in left.into_iter().filter(|name| *name != second) {
        keep(&lab, name, &[]).await;
    }
    operator.end().await;
}

/// Finalizers keep a pod that is being deleted.
async fn keep(lab: &Lab, pod: &str, finalizers: &[&str]) {
    let patch = json!({"metadata": {"finalizers": finalizers}});
    lab.api::<Pod>()
        .patch(pod, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
}
