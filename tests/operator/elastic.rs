//! Elastic claims, and what evictions cost.

use duosuan_crds::{CapacityClaim, claim::Phase};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use serde_json::json;

use crate::lab::{Lab, message, running};

fn placed(claim: &CapacityClaim) -> (Phase, u32) {
    let status = claim.status.clone().unwrap_or_default();
    (status.phase, status.placed_pods)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_elastic_claim_grows_into_what_is_free_and_shrinks_for_the_minimum_of_another() {
    let lab = Lab::start("elastic").await;
    lab.node("elastic-1", json!({"cpu": "6", "memory": "8Gi", "pods": "110"}))
        .await;
    lab.queue("elastic-a", json!({})).await;
    lab.queue("elastic-b", json!({})).await;
    let operator = lab.operator().await;
    let group = json!({"name": "w", "min": 2, "max": 6, "quantum": 2, "requests": {"cpu": "1"}});
    lab.claim("grown", json!({"queue": "elastic-a", "groups": [group]}))
        .await;
    let members: Vec<String> = (0..6).map(|i| format!("g-{i}")).collect();
    for name in &members {
        lab.member(name, "grown", "w", json!({"cpu": "1"})).await;
    }
    lab.wait::<CapacityClaim>("grown", |c| placed(c) == (Phase::Running, 6))
        .await;
    lab.event("grown", "Resized").await;

    // The other queue holds nothing: two of the four above the minimum are its.
    let group = json!({"name": "w", "count": 2, "requests": {"cpu": "1"}});
    lab.claim("want", json!({"queue": "elastic-b", "groups": [group]}))
        .await;
    for name in ["x-0", "x-1"] {
        lab.member(name, "want", "w", json!({"cpu": "1"})).await;
    }
    lab.wait::<CapacityClaim>("want", running).await;
    lab.wait::<CapacityClaim>("grown", |c| placed(c) == (Phase::Running, 4))
        .await;
    let bound = lab.bound_pods().await;
    let gone: Vec<&String> = members.iter().filter(|name| !bound.contains(name)).collect();
    assert_eq!((bound.len(), gone.len()), (6, 2), "{bound:?}");
    let note = lab.event(gone[0], "Shrunk").await.note.unwrap_or_default();
    assert!(
        note.contains("for claim elastic/want; its claim goes on") && note.ends_with("core-minutes of work lost"),
        "{note}"
    );

    // Its controller makes them anew. They wait, and have their places when there is room again.
    for name in &gone {
        lab.member(name, "grown", "w", json!({"cpu": "1"})).await;
    }
    for name in ["x-0", "x-1"] {
        let now = DeleteParams::default().grace_period(0);
        lab.api::<Pod>().delete(name, &now).await.unwrap();
    }
    lab.wait::<CapacityClaim>("grown", |c| placed(c) == (Phase::Running, 6))
        .await;
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_evicted_says_for_whom_and_what_is_lost() {
    let lab = Lab::start("lost").await;
    lab.node("lost-1", json!({"cpu": "2", "memory": "8Gi", "pods": "110"}))
        .await;
    let operator = lab.operator().await;
    let group = json!({"name": "w", "count": 2, "requests": {"cpu": "1"}});
    let interruption = json!({"restartTime": "1h", "checkpointInterval": "20m", "notice": "5s"});
    lab.claim("low", json!({"groups": [group], "interruption": interruption}))
        .await;
    lab.claim("high", json!({"groups": [group], "priority": 5})).await;
    for name in ["l-0", "l-1"] {
        lab.member(name, "low", "w", json!({"cpu": "1"})).await;
    }
    let low = lab.wait::<CapacityClaim>("low", running).await;
    let honoured = |c: &CapacityClaim| {
        c.status
            .iter()
            .all(|s| s.conditions.iter().all(|c| c.type_ != "Honoured"))
    };
    assert!(honoured(&low), "{:?}", low.status);
    for name in ["h-0", "h-1"] {
        lab.member(name, "high", "w", json!({"cpu": "1"})).await;
    }
    lab.wait::<CapacityClaim>("high", running).await;
    let lost = "evicted for claim lost/high; 2.0 core-hours of work lost";
    let waits = |c: &CapacityClaim| placed(c).0 == Phase::Pending && message(c).contains(lost);
    lab.wait::<CapacityClaim>("low", waits).await;
    let note = lab.event("l-0", "Preempted").await.note.unwrap_or_default();
    assert!(note.ends_with("2.0 core-hours of work lost"), "{note}");

    // It runs again when it can, and says so no more.
    for name in ["h-0", "h-1"] {
        let now = DeleteParams::default().grace_period(0);
        lab.api::<Pod>().delete(name, &now).await.unwrap();
    }
    for name in ["l-2", "l-3"] {
        lab.member(name, "low", "w", json!({"cpu": "1"})).await;
    }
    let low = lab.wait::<CapacityClaim>("low", running).await;
    assert_eq!(low.status.and_then(|s| s.message), None);
    operator.end().await;
}
