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

#[path = "operator/pod_groups.rs"]
mod pod_groups;

use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use lab::{Lab, bound, condition};
use pod_groups::{end, group, member, scheduled};
use serde_json::json;

/// Flags of the API server that this test binary starts.
pub const APISERVER_FLAGS: &[&str] = &[
    "--feature-gates=GenericWorkload=true",
    "--runtime-config=scheduling.k8s.io/v1beta1=true",
];
/// The version of PodGroups that it serves.
pub const VERSION: &str = "v1beta1";

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
