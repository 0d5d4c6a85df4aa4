#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use serde_json::json;

use super::*;
use crate::script::{Answer, Script};

const BINDING: &str = "POST /api/v1/namespaces/ns/pods/p/binding";
const EVICTION: &str = "POST /api/v1/namespaces/ns/pods/p/eviction";
const GET: &str = "GET /api/v1/namespaces/ns/pods/p";

fn pod() -> PodName {
    PodName {
        uid: "u".into(),
        namespace: "ns".into(),
        name: "p".into(),
    }
}

async fn carry_out(script: &Script, order: Order) -> (Outcome, Metrics) {
    let metrics = Metrics::new();
    let binder = Binder::new(script.client(), Retry::default(), metrics.clone());
    let (_, outcome) = binder.carry_out(order).await;
    script.played();
    (outcome, metrics)
}

async fn bind(script: &Script) -> Outcome {
    carry_out(
        script,
        Order::Bind {
            pod: pod(),
            node: "n".into(),
            devices: vec![0, 3],
        },
    )
    .await
    .0
}

async fn evict(script: &Script) -> (Outcome, Metrics) {
    carry_out(
        script,
        Order::Evict {
            pod: pod(),
            cause: EvictCause::GangBroken,
        },
    )
    .await
}

fn seen(uid: &str, node: &str) -> Answer {
    Answer::Is(
        200,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "uid": uid}, "spec": {"nodeName": node}}),
    )
}

#[tokio::test]
async fn a_binding_names_the_pod_by_uid_and_carries_its_devices() {
    let script = Script::default().on(BINDING, Answer::ok());
    assert_eq!(bind(&script).await, Outcome::Done);
    let expected = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "annotations": {"duosuan.io/gpus": "0,3"}},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "n"},
    });
    assert_eq!(script.bodies(BINDING), [expected]);
}

#[tokio::test]
async fn a_pod_that_is_there_already_is_bound() {
    let script = Script::default()
        .on(BINDING, Answer::fails(409, "already assigned"))
        .on(GET, seen("u", "n"));
    assert_eq!(bind(&script).await, Outcome::Done);
}

#[tokio::test]
async fn a_pod_that_is_elsewhere_is_not() {
    let script = Script::default()
        .on(BINDING, Answer::fails(409, "already assigned"))
        .on(GET, seen("u", "other"));
    assert_eq!(bind(&script).await, Outcome::Failed("already assigned".into()));
}

#[tokio::test]
async fn a_successor_of_the_same_name_is_another_pod() {
    let script = Script::default()
        .on(BINDING, Answer::fails(409, "uid"))
        .on(GET, seen("v", "n"));
    assert_eq!(bind(&script).await, Outcome::Gone);
}

#[tokio::test]
async fn a_pod_that_is_gone_needs_no_second_try() {
    let script = Script::default().on(BINDING, Answer::fails(404, "not found"));
    assert_eq!(bind(&script).await, Outcome::Gone);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_busy_or_ill_is_tried_again() {
    let script = Script::default()
        .on(BINDING, Answer::fails(429, "too many requests"))
        .on(BINDING, Answer::fails(500, "ill"))
        .on(BINDING, Answer::Hangs)
        .on(BINDING, Answer::ok());
    assert_eq!(bind(&script).await, Outcome::Done);
}

#[tokio::test(start_paused = true)]
async fn tries_end() {
    let mut script = Script::default();
    for _ in 0..Retry::default().tries {
        script = script.on(BINDING, Answer::fails(503, "ill"));
    }
    assert_eq!(bind(&script).await, Outcome::Failed("ill".into()));
}

#[tokio::test(start_paused = true)]
async fn a_binding_that_was_carried_out_and_not_answered_is_found_out() {
    let script = Script::default()
        .on(BINDING, Answer::Hangs)
        .on(BINDING, Answer::fails(409, "already assigned"))
        .on(GET, seen("u", "n"));
    assert_eq!(bind(&script).await, Outcome::Done);
}

#[tokio::test]
async fn a_refusal_is_not_tried_again() {
    let script = Script::default().on(BINDING, Answer::fails(403, "not allowed"));
    assert_eq!(bind(&script).await, Outcome::Failed("not allowed".into()));
}

#[tokio::test]
async fn an_eviction_never_meets_a_successor_of_the_same_name() {
    let script = Script::default().on(EVICTION, Answer::ok());
    assert_eq!(evict(&script).await.0, Outcome::Done);
    let body = script.bodies(EVICTION).pop().unwrap();
    assert_eq!(body.pointer("/deleteOptions/preconditions/uid"), Some(&json!("u")));
    let other = Script::default().on(EVICTION, Answer::fails(409, "precondition"));
    assert_eq!(evict(&other).await.0, Outcome::Gone);
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_kept_and_a_busy_server_is_asked_again() {
    let script = Script::default().on(EVICTION, Answer::budget());
    let (outcome, metrics) = evict(&script).await;
    assert_eq!(outcome, Outcome::Failed("budget".into()));
    assert_eq!(
        metrics
            .evictions
            .get_or_create(&CauseResult {
                cause: "GangBroken",
                result: "budget"
            })
            .get(),
        1
    );
    let busy = Script::default()
        .on(EVICTION, Answer::fails(429, "busy"))
        .on(EVICTION, Answer::ok());
    assert_eq!(evict(&busy).await.0, Outcome::Done);
}

#[tokio::test(start_paused = true)]
async fn an_order_that_hangs_holds_up_no_other_and_not_the_end() {
    let script = Script::default()
        .on(BINDING, Answer::Hangs)
        .on("POST /api/v1/namespaces/ns/pods/q/binding", Answer::ok());
    let binder = Binder::new(script.client(), Retry::default(), Metrics::new());
    let (orders, orders_in) = mpsc::unbounded_channel();
    let (answers, mut answers_in) = mpsc::unbounded_channel();
    let end = CancellationToken::new();
    let task = tokio::spawn(binder.run(orders_in, answers, end.clone()));
    let order = |name: &str| Order::Bind {
        pod: PodName {
            name: name.into(),
            ..pod()
        },
        node: "n".into(),
        devices: vec![],
    };
    orders.send(order("p")).unwrap();
    orders.send(order("q")).unwrap();
    assert_eq!(answers_in.recv().await, Some((order("q"), Outcome::Done)));
    end.cancel();
    tokio::time::timeout(Duration::from_secs(1), task)
        .await
        .expect("the binder does not end")
        .unwrap();
}
