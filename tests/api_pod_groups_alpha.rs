//! Kubernetes' own gangs where the newest version of PodGroups is not served: the next older one is read and written.
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
use lab::{Lab, bound};
use pod_groups::{end, group, member, scheduled};
use serde_json::json;

/// Flags of the API server that this test binary starts.
pub const APISERVER_FLAGS: &[&str] = &[
    "--feature-gates=GenericWorkload=true",
    "--runtime-config=scheduling.k8s.io/v1alpha3=true",
];
/// The version of PodGroups that it serves.
pub const VERSION: &str = "v1alpha3";

#[tokio::test(flavor = "multi_thread")]
async fn the_pods_of_a_pod_group_are_a_gang_where_an_older_version_alone_is_served() {
    let lab = Lab::start("alpha").await;
    lab.node("alpha-1", json!({"cpu": "1", "memory": "8Gi", "pods": "110"}))
        .await;
    let operator = lab.operator().await;
    group(&lab, "train", json!({"gang": {"minCount": 2}})).await;
    for name in ["w-0", "w-1"] {
        member(&lab, name, "train").await;
    }
    let (reason, message) = scheduled(&lab, "train", "False").await;
    assert_eq!(reason, "Unschedulable", "{message}");
    assert_eq!(lab.bound_pods().await, Vec::<String>::new());
    // The event is about the object as it is served.
    let regarding = lab
        .event("train", "FailedScheduling")
        .await
        .regarding
        .unwrap_or_default();
    assert_eq!(regarding.api_version.as_deref(), Some("scheduling.k8s.io/v1alpha3"));
    lab.node("alpha-2", json!({"cpu": "1", "memory": "8Gi", "pods": "110"}))
        .await;
    lab.wait::<Pod>("w-1", bound).await;
    scheduled(&lab, "train", "True").await;
    operator.end().await;
    end(&lab).await;
}
