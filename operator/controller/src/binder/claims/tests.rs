#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use duosuan_scheduler::{
    ClaimAllocation,
    event::{AllocatedDevice, DeviceAllocation},
};

use super::*;
use crate::{
    binder::Order,
    failure::Retry,
    metrics::Metrics,
    script::{Answer, Script},
};

const CLAIM: &str = "/apis/resource.k8s.io/v1/namespaces/ns/resourceclaims/c";
const BINDING: &str = "POST /api/v1/namespaces/ns/pods/p/binding";

const POD: &str = "GET /api/v1/namespaces/ns/pods/p";

fn pod_on(node: &str) -> Answer {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "uid": "u"}, "spec": {"nodeName": node},
    });
    Answer::Is(200, pod)
}

fn get() -> String {
    format!("GET {CLAIM}")
}

fn put() -> String {
    format!("PUT {CLAIM}")
}

fn put_status() -> String {
    format!("PUT {CLAIM}/status")
}

/// The claim as it stands, with devices and users if it has any.
fn claim(device: Option<&str>, users: &[&str]) -> Answer {
    let result = device.map(|device| json!({"request": "r", "driver": "d", "pool": "n", "device": device}));
    let allocation = result.map(|result| json!({"devices": {"results": [result]}}));
    let reserved: Vec<Value> = users
        .iter()
        .map(|uid| json!({"resource": "pods", "name": "x", "uid": uid}))
        .collect();
    Answer::Is(
        200,
        json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"name": "c", "namespace": "ns", "uid": "cu", "resourceVersion": "1"},
            "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}},
            "status": {"allocation": allocation, "reservedFor": reserved},
        }),
    )
}

/// Carries out an order about pod `p` and its claim `c` to `gpu-0`: what came of it, and what was written of the claim.
async fn carry_out(script: &Script, order: impl FnOnce(PodName, Grant) -> Order) -> (Outcome, Option<Value>) {
    let device = AllocatedDevice {
        request: "r".into(),
        driver: "d".into(),
        pool: "n".into(),
        device: "gpu-0".into(),
        share: None,
    };
    let grant = Grant {
        of: ClaimAllocation {
            claim: "c".into(),
            uid: "cu".into(),
            allocation: DeviceAllocation {
                devices: vec![device],
                nodes: vec![],
            },
        },
        classes: [].into(),
        written: None,
    };
    let pod = PodName {
        uid: "u".into(),
        namespace: "ns".into(),
        name: "p".into(),
    };
    let retry = Retry {
        tries: 1,
        ..Retry::default()
    };
    let binder = Binder::new(script.client(), retry, Metrics::new());
    let (order, outcome) = binder.carry_out(order(pod, grant)).await;
    script.played();
    let (Order::Bind { grants, .. } | Order::TakeBack { grants, .. }) = order else {
        panic!("{order:?}");
    };
    (outcome, grants[0].written.clone())
}

async fn bind(script: &Script) -> (Outcome, Option<Value>) {
    carry_out(script, |pod, grant| {
        Order::bind(pod, "n".into(), vec![], None, vec![grant])
    })
    .await
}

async fn take_back(script: &Script) -> (Outcome, Option<Value>) {
    let order = |pod, grant| Order::TakeBack {
        pod,
        grants: vec![grant],
        place: None,
    };
    carry_out(script, order).await
}

#[tokio::test]
async fn a_claim_says_what_it_has_before_its_pod_is_bound() {
    let script = Script::default()
        .on(&get(), claim(None, &[]))
        .on(&put(), claim(None, &[]))
        .on(&put_status(), claim(Some("gpu-0"), &["u"]))
        .on(BINDING, Answer::ok());
    let (outcome, written) = bind(&script).await;
    assert_eq!(outcome, Outcome::Done);
    assert!(written.is_some());
    assert_eq!(script.bodies(&put())[0]["metadata"]["finalizers"], json!([FINALIZER]));
    let status = &script.bodies(&put_status())[0]["status"];
    assert_eq!(status["allocation"]["devices"]["results"][0]["device"], "gpu-0");
    assert_eq!(
        status["reservedFor"],
        json!([{"resource": "pods", "name": "p", "uid": "u"}])
    );
}

#[tokio::test]
async fn to_bind_again_writes_nothing_again_and_who_shares_it_is_named_beside() {
    let script = Script::default()
        .on(&get(), claim(Some("gpu-0"), &["u"]))
        .on(BINDING, Answer::ok());
    assert_eq!(bind(&script).await.0, Outcome::Done);
    // Another pod of the claim was written in between.
    let script = Script::default()
        .on(&get(), claim(Some("gpu-0"), &[]))
        .on(&put_status(), Answer::fails(409, "the object has been modified"))
        .on(&get(), claim(Some("gpu-0"), &["other"]))
        .on(&put_status(), claim(Some("gpu-0"), &["other", "u"]))
        .on(BINDING, Answer::ok());
    assert_eq!(bind(&script).await.0, Outcome::Done);
    assert_eq!(
        script.bodies(&put_status())[1]["status"]["reservedFor"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[tokio::test]
async fn nothing_is_bound_if_a_claim_was_allocated_elsewhere_or_cannot_be_written() {
    let script = Script::default().on(&get(), claim(Some("gpu-7"), &["other"]));
    let Outcome::Failed(message) = bind(&script).await.0 else {
        panic!();
    };
    assert_eq!(message, "resourceclaim c: it got allocated elsewhere in the meantime");
    let script = Script::default().on(&get(), Answer::fails(404, "not found"));
    assert!(matches!(bind(&script).await.0, Outcome::Failed(_)));
    // Without an answer it may be written.
    let script = Script::default()
        .on(&get(), claim(Some("gpu-0"), &[]))
        .on(&put_status(), Answer::fails(500, "timeout"));
    assert!(matches!(bind(&script).await.0, Outcome::Unknown(_)));
}

#[tokio::test]
async fn what_was_written_for_a_pod_that_is_not_bound_is_taken_back_unless_others_use_it() {
    for (others, kept) in [(vec![], false), (vec!["other"], true)] {
        let with_pod: Vec<&str> = others.iter().copied().chain(["u"]).collect();
        let script = Script::default()
            .on(&get(), claim(Some("gpu-0"), &others))
            .on(&put_status(), claim(Some("gpu-0"), &with_pod))
            .on(BINDING, Answer::fails(422, "no"))
            .on(POD, pod_on(""))
            .on(&get(), claim(Some("gpu-0"), &with_pod))
            .on(&put_status(), claim(kept.then_some("gpu-0"), &others));
        let (outcome, written) = bind(&script).await;
        assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
        let status = &script.bodies(&put_status())[1]["status"];
        assert_eq!(status["allocation"].is_null(), !kept, "{status}");
        assert_eq!(status["reservedFor"].as_array().unwrap().len(), others.len());
        assert_eq!(written.unwrap()["status"]["allocation"].is_null(), !kept);
    }
}

#[tokio::test]
async fn a_pod_that_runs_elsewhere_keeps_what_its_claims_have() {
    let script = Script::default()
        .on(&get(), claim(Some("gpu-0"), &["u"]))
        .on(BINDING, Answer::fails(409, "already assigned"))
        .on(POD, pod_on("other"))
        .on(POD, pod_on("other"));
    let (outcome, _) = bind(&script).await;
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
}

#[tokio::test]
async fn a_claim_is_written_soon_or_never() {
    let script = Script::default()
        .on(&get(), claim(None, &[]))
        .on(&put(), claim(None, &[]))
        .on(&put_status(), claim(Some("gpu-0"), &["u"]))
        .on(BINDING, Answer::ok());
    bind(&script).await;
    assert_eq!(script.queries(&put()), ["timeout=10s"]);
    assert_eq!(script.queries(&put_status()), ["timeout=10s"]);
}

#[tokio::test]
async fn nothing_is_said_to_be_written_of_a_claim_that_is_gone() {
    let script = Script::default()
        .on(&get(), claim(Some("gpu-0"), &["u"]))
        .on(BINDING, Answer::fails(422, "no"))
        .on(POD, pod_on(""))
        .on(&get(), Answer::fails(404, "not found"));
    assert_eq!(bind(&script).await.1, None);
}

#[tokio::test]
async fn what_a_claim_has_that_nobody_else_uses_is_taken_back_from_a_pod_without_a_node() {
    for users in [&["u"][..], &[]] {
        let script = Script::default()
            .on(POD, pod_on(""))
            .on(&get(), claim(Some("gpu-0"), users))
            .on(&put_status(), claim(None, &[]));
        let (outcome, written) = take_back(&script).await;
        assert_eq!(outcome, Outcome::Done);
        assert!(written.unwrap()["status"]["allocation"].is_null());
        let body = &script.bodies(&put_status())[0];
        assert!(body["status"]["allocation"].is_null(), "{body}");
        assert_eq!(body["status"]["reservedFor"], json!([]));
        // Whoever else writes it meanwhile is not overridden.
        assert_eq!(body["metadata"]["resourceVersion"], "1");
    }
}

#[tokio::test]
async fn nothing_is_taken_back_from_a_pod_that_runs_or_of_which_that_is_not_known() {
    for answer in [pod_on("n"), Answer::fails(500, "ill")] {
        let script = Script::default().on(POD, answer);
        assert!(matches!(take_back(&script).await.0, Outcome::Failed(_)));
    }
}

#[tokio::test]
async fn what_others_use_by_then_or_what_is_allocated_anew_is_left_and_said() {
    let others = [
        claim(Some("gpu-0"), &["other"]),
        claim(Some("gpu-7"), &["u"]),
        claim(None, &[]),
    ];
    for (stands, device) in others.into_iter().zip([Some("gpu-0"), Some("gpu-7"), None]) {
        let script = Script::default()
            .on(POD, pod_on(""))
            // Of the first try nothing is written: somebody else came before it.
            .on(&get(), claim(Some("gpu-0"), &["u"]))
            .on(&put_status(), Answer::fails(409, "the object has been modified"))
            .on(&get(), stands);
        let (outcome, written) = take_back(&script).await;
        assert_eq!(outcome, Outcome::Done);
        let has = &written.unwrap()["status"]["allocation"]["devices"]["results"][0]["device"];
        assert_eq!(has.as_str(), device);
    }
}

#[tokio::test]
async fn to_take_back_is_tried_again_if_the_api_server_says_no_and_not_if_the_claim_is_gone() {
    let script = Script::default()
        .on(POD, pod_on(""))
        .on(&get(), claim(Some("gpu-0"), &["u"]))
        .on(&put_status(), Answer::fails(403, "forbidden"));
    let Outcome::Failed(message) = take_back(&script).await.0 else {
        panic!();
    };
    assert!(message.starts_with("resourceclaim c: "), "{message}");
    let script = Script::default()
        .on(POD, pod_on(""))
        .on(&get(), Answer::fails(404, "not found"));
    assert_eq!(take_back(&script).await, (Outcome::Done, None));
}
