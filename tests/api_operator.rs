//! The operator and a real API server: what it binds, evicts and says, and what becomes of that when it dies.
//!
//! It acts as its service account with the chart's access rules, so that a right that is missing fails a test. Nodes
//! are played by kwok. An operator sees the whole cluster, so the tests take turns. Waiting is for the object's own
//! change, seen by a watch.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "operator/binary.rs"]
mod binary;
#[path = "operator/elastic.rs"]
mod elastic;
#[path = "operator/lab.rs"]
mod lab;
#[path = "operator/racks.rs"]
mod racks;
#[path = "operator/reclaim.rs"]
mod reclaim;
#[path = "operator/refused.rs"]
mod refused;
#[path = "operator/relations.rs"]
mod relations;

use std::collections::BTreeMap;

use duosuan_controller::leader::{ByLease, Election};
use duosuan_crds::{CapacityClaim, ColocationPolicy, Queue, claim::Phase};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use lab::{Lab, PATIENCE, bound, condition, message, running};
use serde_json::json;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_pod_is_bound_and_an_event_says_so() {
    let lab = Lab::start("plain").await;
    lab.node("plain-1", json!({"cpu": "4", "memory": "8Gi", "pods": "110"}))
        .await;
    let operator = lab.operator().await;
    lab.pod("web", json!({"cpu": "1"}), json!({})).await;
    let pod = lab.wait::<Pod>("web", bound).await;
    assert_eq!(pod.spec.unwrap().node_name.as_deref(), Some("plain-1"));
    let event = lab.event("web", "Scheduled").await;
    assert_eq!(
        event.note.as_deref(),
        Some(format!("Successfully assigned {}/web to plain-1", lab.namespace).as_str())
    );
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_fits_nowhere_says_why_in_the_words_of_kube_scheduler() {
    let lab = Lab::start("nowhere").await;
    lab.node("nowhere-1", json!({"cpu": "2", "memory": "8Gi", "pods": "110"}))
        .await;
    let operator = lab.operator().await;
    lab.pod("big", json!({"cpu": "64"}), json!({})).await;
    let pod = lab.wait::<Pod>("big", |p| condition(p, "PodScheduled").is_some()).await;
    let condition = condition(&pod, "PodScheduled").unwrap();
    assert_eq!(
        (condition.status.as_str(), condition.reason.as_deref()),
        ("False", Some("Unschedulable"))
    );
    let text = condition.message.unwrap();
    assert!(
        text.starts_with("0/1 nodes are available") && text.contains("cpu"),
        "{text}"
    );
    lab.event("big", "FailedScheduling").await;
    lab.node("nowhere-2", json!({"cpu": "64", "memory": "8Gi", "pods": "110"}))
        .await;
    lab.wait::<Pod>("big", bound).await;
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_a_field_that_makes_no_sense_names_it_and_holds_up_no_other() {
    let lab = Lab::start("broken").await;
    lab.node("broken-1", json!({"cpu": "2", "memory": "8Gi", "pods": "110"}))
        .await;
    let operator = lab.operator().await;
    lab.pod("odd", json!({"cpu": "1"}), json!({"duosuan.io/tier": "gold"}))
        .await;
    let says = |p: &Pod| {
        condition(p, "PodScheduled")
            .and_then(|c| c.message)
            .is_some_and(|m| m.contains("\"gold\" is none of"))
    };
    lab.wait::<Pod>("odd", says).await;
    lab.pod("even", json!({"cpu": "1"}), json!({})).await;
    lab.wait::<Pod>("even", bound).await;
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_not_renewed_any_more_goes_to_the_next() {
    let lab = Lab::start("lease").await;
    let elect = |identity: &str| {
        let client = lab.client.clone();
        let (leads, leading) = tokio::sync::watch::channel(false);
        let election = ByLease {
            client,
            namespace: "lease".into(),
            identity: identity.into(),
            duration: 4,
            grace: 2,
        };
        (
            tokio::spawn(Box::new(election).run(leads, CancellationToken::new())),
            leading,
        )
    };
    let (first, mut first_leads) = elect("first");
    tokio::time::timeout(PATIENCE, first_leads.wait_for(|leads| *leads))
        .await
        .unwrap()
        .unwrap();
    let (second, mut second_leads) = elect("second");
    let api: Api<Lease> = lab.api();
    let renewed = |l: &Lease| {
        l.spec
            .as_ref()
            .is_some_and(|s| s.holder_identity.as_deref() == Some("first") && s.renew_time > s.acquire_time)
    };
    lab.wait_in(&api, "duosuan-operator", renewed).await;
    assert!(!*second_leads.borrow());
    // It dies and releases nothing.
    first.abort();
    tokio::time::timeout(PATIENCE, second_leads.wait_for(|leads| *leads))
        .await
        .unwrap()
        .unwrap();
    second.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gang_is_bound_whole_or_not_at_all() {
    let lab = Lab::start("gang").await;
    lab.node("gang-1", json!({"cpu": "4", "memory": "8Gi", "pods": "110"}))
        .await;
    let operator = lab.operator().await;
    lab.claim(
        "train",
        json!({"groups": [{"name": "workers", "count": 3, "requests": {"cpu": "2"}}]}),
    )
    .await;
    for name in ["w-0", "w-1"] {
        lab.member(name, "train", "workers", json!({"cpu": "2"})).await;
    }
    let claim = lab
        .wait::<CapacityClaim>("train", |c| reason(c) == Some("GangIncomplete"))
        .await;
    assert!(message(&claim).contains("2 of the 3"), "{}", message(&claim));

    // All members are there, and two of three would fit.
    lab.member("w-2", "train", "workers", json!({"cpu": "2"})).await;
    let claim = lab
        .wait::<CapacityClaim>("train", |c| reason(c) == Some("NoNodeFits"))
        .await;
    let admitted = &claim.status.as_ref().unwrap().conditions[0];
    assert_eq!(
        (admitted.type_.as_str(), admitted.status.as_str()),
        ("Admitted", "False")
    );
    assert_eq!(lab.bound_pods().await, Vec::<String>::new());

    lab.node("gang-2", json!({"cpu": "2", "memory": "8Gi", "pods": "110"}))
        .await;
    let claim = lab.wait::<CapacityClaim>("train", running).await;
    assert_eq!(lab.bound_pods().await, ["w-0", "w-1", "w-2"]);
    let status = claim.status.unwrap();
    assert_eq!(
        (status.placed[0].count, status.placed[0].desired, status.reason),
        (3, 3, None)
    );
    assert_eq!(
        status.conditions.iter().find(|c| c.type_ == "Admitted").unwrap().status,
        "True"
    );
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_queue_is_the_reason_on_the_pod_and_on_the_claim_until_it_is_made() {
    let lab = Lab::start("queue").await;
    lab.node("queue-1", json!({"cpu": "4", "memory": "8Gi", "pods": "110"}))
        .await;
    let operator = lab.operator().await;
    lab.pod("alone", json!({"cpu": "1"}), json!({"duosuan.io/queue": "queue-none"}))
        .await;
    lab.claim(
        "team",
        json!({"queue": "queue-none", "groups": [{"name": "g", "count": 1}]}),
    )
    .await;
    lab.member("member", "team", "g", json!({"cpu": "1"})).await;

    let claim = lab
        .wait::<CapacityClaim>("team", |c| reason(c) == Some("NoSuchQueue"))
        .await;
    assert!(message(&claim).contains("queue-none"), "{}", message(&claim));
    for name in ["alone", "member"] {
        let says = |p: &Pod| {
            condition(p, "PodScheduled")
                .and_then(|c| c.message)
                .is_some_and(|m| m.contains("queue queue-none does not exist"))
        };
        lab.wait::<Pod>(name, says).await;
    }

    lab.queue(
        "queue-none",
        json!({"quotas": [{"tier": "prod", "limit": {"cpu": "3"}}]}),
    )
    .await;
    lab.wait::<CapacityClaim>("team", running).await;
    lab.wait::<Pod>("alone", bound).await;
    // What is used follows on the queue itself.
    let used = |q: &Queue| {
        let tiers = q.status.as_ref().map(|s| s.tiers.as_slice()).unwrap_or_default();
        tiers.iter().any(|t| t.used.get("cpu").is_some_and(|c| c.0 == "2"))
    };
    let queue = lab
        .wait_in::<Queue>(&Api::all(lab.client.clone()), "queue-none", used)
        .await;
    assert_eq!(queue.status.unwrap().running, 2);
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_had_waits_and_says_so_and_what_runs_goes_on() {
    let lab = Lab::start("asks").await;
    lab.node("asks-1", json!({"cpu": "4", "memory": "8Gi", "pods": "110"}))
        .await;
    let operator = lab.operator().await;
    let groups = json!([{"name": "g", "count": 1}]);
    let topology = json!({"pack": "nvlink", "mode": "required"});
    lab.claim("later", json!({"groups": groups, "topology": topology}))
        .await;
    lab.member("later-1", "later", "g", json!({"cpu": "1"})).await;
    let claim = lab
        .wait::<CapacityClaim>("later", |c| reason(c) == Some("TopologyTooSmall"))
        .await;
    let said = "it needs 1 pod in one NVLink group, and no node reports NVLink groups";
    assert!(message(&claim).starts_with(said), "{}", message(&claim));
    let event = lab.event("later", "FailedScheduling").await;
    assert!(event.note.is_some_and(|note| note.contains(said)));

    lab.claim("wish", json!({"groups": groups, "deadline": "2036-01-01T00:00:00Z"}))
        .await;
    lab.member("wish-1", "wish", "g", json!({"cpu": "1"})).await;
    let ignored = |c: &CapacityClaim| {
        let conditions = c.status.iter().flat_map(|s| &s.conditions);
        running(c)
            && conditions
                .into_iter()
                .any(|c| c.type_ == "Honoured" && c.message.contains("spec.deadline"))
    };
    lab.wait::<CapacityClaim>("wish", ignored).await;

    // It runs; now it asks for what cannot be had.
    let patch = json!({"spec": {"topology": topology}});
    let claims = lab.api::<CapacityClaim>();
    claims
        .patch("wish", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    let observed = |c: &CapacityClaim| {
        let conditions = c.status.iter().flat_map(|s| &s.conditions);
        conditions
            .into_iter()
            .any(|condition| condition.type_ == "Admitted" && condition.observed_generation == c.metadata.generation)
    };
    let claim = lab.wait::<CapacityClaim>("wish", observed).await;
    assert!(running(&claim), "{:?}", claim.status);
    assert_eq!(claim.status.unwrap().placed[0].count, 1);
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_told_when_it_starts_and_others_start_only_beside_that() {
    let lab = Lab::start("reserved").await;
    lab.node("reserved-1", json!({"cpu": "4", "memory": "8Gi", "pods": "110"}))
        .await;
    let operator = lab.operator().await;
    let groups = json!([{"name": "g", "count": 1}]);
    // Its window opens when the test is long over.
    let window = json!({"start": "2036-01-01T00:00:00Z", "end": "2036-01-02T00:00:00Z"});
    lab.claim("later", json!({"groups": groups, "window": window})).await;
    lab.member("later-1", "later", "g", json!({"cpu": "4"})).await;
    let kept = |c: &CapacityClaim| reason(c) == Some("WaitingForWindow") && estimate(c).is_some();
    let claim = lab.wait::<CapacityClaim>("later", kept).await;
    assert_eq!(estimate(&claim).as_deref(), Some("2036-01-01T00:00:00Z"));
    assert!(
        message(&claim).contains("its place is kept for then"),
        "{}",
        message(&claim)
    );

    // One that never ends would be in its way; one that ends in an hour is not.
    lab.claim("endless", json!({"groups": groups})).await;
    lab.member("endless-1", "endless", "g", json!({"cpu": "1"})).await;
    let waits = |c: &CapacityClaim| reason(c) == Some("WaitingForReservation");
    let claim = lab.wait::<CapacityClaim>("endless", waits).await;
    let words = format!("{}/later, which starts by 2036-01-01T00:00:00Z", lab.namespace);
    assert!(message(&claim).contains(&words), "{}", message(&claim));
    lab.claim("hour", json!({"groups": groups, "expectedDuration": "1h"}))
        .await;
    lab.member("hour-1", "hour", "g", json!({"cpu": "3"})).await;
    lab.wait::<CapacityClaim>("hour", running).await;

    // The first that waits starts when that hour is over, as far as can be said.
    lab.claim("next", json!({"groups": groups, "expectedDuration": "2h"}))
        .await;
    lab.member("next-1", "next", "g", json!({"cpu": "4"})).await;
    let told = |c: &CapacityClaim| reason(c) == Some("NoNodeFits") && estimate(c).is_some();
    lab.wait::<CapacityClaim>("next", told).await;
    lab.api::<CapacityClaim>()
        .delete("later", &DeleteParams::default())
        .await
        .unwrap();
    lab.wait::<Pod>("later-1", |p| {
        condition(p, "PodScheduled")
            .and_then(|c| c.message)
            .is_some_and(|m| m.contains("later"))
    })
    .await;
    operator.end().await;
}

fn estimate(claim: &CapacityClaim) -> Option<String> {
    let start = claim.status.as_ref()?.estimated_start.as_ref()?;
    Some(start.0.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_deleted_while_half_its_pods_are_bound_leaves_them_and_the_rest_says_so() {
    let lab = Lab::start("deleted").await;
    lab.node("deleted-1", json!({"cpu": "1", "memory": "8Gi", "pods": "110"}))
        .await;
    let operator = lab.operator().await;
    let spec = json!({"groups": [{"name": "g", "min": 1, "max": 2}]});
    lab.claim("half", spec.clone()).await;
    for name in ["a", "b"] {
        lab.member(name, "half", "g", json!({"cpu": "1"})).await;
    }
    lab.wait::<CapacityClaim>("half", running).await;
    let sitting = lab.bound_pods().await;
    assert_eq!(sitting.len(), 1);
    let waiting = if sitting[0] == "a" { "b" } else { "a" };

    lab.api::<CapacityClaim>()
        .delete("half", &DeleteParams::default())
        .await
        .unwrap();
    let says = |p: &Pod| {
        condition(p, "PodScheduled")
            .and_then(|c| c.message)
            .is_some_and(|m| m.contains("claim half"))
    };
    lab.wait::<Pod>(waiting, says).await;
    assert_eq!(lab.bound_pods().await, sitting);

    // Made again, it takes up what is there.
    lab.claim("half", spec).await;
    lab.wait::<CapacityClaim>("half", running).await;
    lab.node("deleted-2", json!({"cpu": "1", "memory": "8Gi", "pods": "110"}))
        .await;
    lab.wait::<Pod>(waiting, bound).await;
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_dies_at_any_moment_loses_nothing_and_gives_no_device_twice() {
    let lab = Lab::start("dies").await;
    for node in ["dies-1", "dies-2"] {
        lab.node(
            node,
            json!({"cpu": "64", "memory": "64Gi", "pods": "110", "nvidia.com/gpu": "8"}),
        )
        .await;
    }
    for i in 0..16 {
        lab.pod(&format!("p-{i}"), json!({"cpu": "1", "nvidia.com/gpu": "1"}), json!({}))
            .await;
    }
    // Killed as soon as it has bound some, again and again: nothing of it is asked to end in order.
    for at_least in [1, 4, 9] {
        let operator = lab.operator().await;
        lab.until_bound(at_least).await;
        operator.kill().await;
    }
    let operator = lab.operator().await;
    lab.until_bound(16).await;
    let mut given: BTreeMap<(String, String), String> = BTreeMap::new();
    for pod in lab.api::<Pod>().list(&ListParams::default()).await.unwrap() {
        let devices = pod
            .annotations()
            .get("duosuan.io/gpus")
            .expect("a pod without its devices")
            .clone();
        let seat = (pod.spec.as_ref().unwrap().node_name.clone().unwrap(), devices);
        if let Some(other) = given.insert(seat.clone(), pod.name_any()) {
            panic!("{seat:?} is given to {other} and to {}", pod.name_any());
        }
    }
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_operators_one_writes_and_the_other_takes_over_when_it_ends() {
    let lab = Lab::start("two").await;
    lab.node("two-1", json!({"cpu": "64", "memory": "64Gi", "pods": "110"}))
        .await;
    let first = lab.electing().await;
    let leases: Api<Lease> = Api::namespaced(lab.client.clone(), "duosuan-system");
    let held = |l: &Lease| l.spec.as_ref().is_some_and(|s| s.holder_identity.is_some());
    let lease = lab.wait_in(&leases, "duosuan-operator", held).await;
    let holder = lease.spec.unwrap().holder_identity.unwrap();

    let second = lab.electing().await;
    second.until_ready().await;
    for i in 0..4 {
        lab.pod(&format!("p-{i}"), json!({"cpu": "1"}), json!({})).await;
    }
    lab.until_bound(4).await;
    first
        .until(|m| m.lines().any(|l| l == "duosuan_binds_total{result=\"bound\"} 4"))
        .await;
    assert_eq!((first.bound(), second.bound(), second.leads()), (4, 0, false));

    first.end().await;
    let other = |l: &Lease| {
        l.spec
            .as_ref()
            .and_then(|s| s.holder_identity.as_ref())
            .is_some_and(|h| *h != holder)
    };
    lab.wait_in(&leases, "duosuan-operator", other).await;
    lab.pod("last", json!({"cpu": "1"}), json!({})).await;
    lab.wait::<Pod>("last", bound).await;
    second
        .until(|m| m.lines().any(|l| l == "duosuan_binds_total{result=\"bound\"} 1"))
        .await;
    second.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_pod_stands_on_what_the_agent_offers_while_its_report_is_fresh() {
    let lab = Lab::start("batch").await;
    let offer = json!({"cpu": "1", "memory": "1Gi", "pods": "110", "duosuan.io/batch-cpu": "4000", "duosuan.io/batch-memory": "4Gi"});
    lab.node("batch-1", offer).await;
    let operator = lab.operator().await;
    let requests = json!({"duosuan.io/batch-cpu": "3000", "duosuan.io/batch-memory": "1Gi"});
    let batch = json!({"duosuan.io/tier": "batch"});
    lab.pod("spark", requests, batch.clone()).await;
    lab.pod("sneak", json!({"cpu": "500m"}), batch).await;
    // Nobody vouches for the offer.
    let stale = |p: &Pod| {
        condition(p, "PodScheduled")
            .and_then(|c| c.message)
            .is_some_and(|m| m.contains("too old"))
    };
    lab.wait::<Pod>("spark", stale).await;
    // The core that is offered to nobody but prod has room for it, and prod's limits would not know of it.
    let refused = |p: &Pod| {
        condition(p, "PodScheduled")
            .and_then(|c| c.message)
            .is_some_and(|m| m.contains("requests[cpu]") && m.contains("write duosuan.io/batch-cpu"))
    };
    lab.wait::<Pod>("sneak", refused).await;

    lab.policy("everywhere", json!({})).await;
    lab.report("batch-1", "everywhere").await;
    lab.wait::<Pod>("spark", bound).await;
    let policies: Api<ColocationPolicy> = Api::all(lab.client.clone());
    lab.wait_in(&policies, "everywhere", |p: &ColocationPolicy| {
        p.status.as_ref().is_some_and(|s| s.nodes == 1)
    })
    .await;
    operator.end().await;
}

/// Flags of the API server that this test binary starts.
pub const APISERVER_FLAGS: &[&str] = &[];

fn reason(claim: &CapacityClaim) -> Option<&str> {
    let status = claim.status.as_ref().filter(|s| s.phase == Phase::Pending)?;
    status.reason.as_deref()
}
