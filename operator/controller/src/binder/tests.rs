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
    carry_out(script, Order::bind(pod(), "n".into(), vec![0, 3], Some(1), vec![]))
        .await
        .0
}

async fn evict(script: &Script) -> (Outcome, Metrics) {
    carry_out(
        script,
        Order::Evict(Eviction {
            pod: pod(),
            cause: EvictCause::GangBroken,
            lost: LostWork::default(),
            notice: 1500,
        }),
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
async fn a_binding_names_the_pod_by_uid_and_carries_its_devices_and_numa_node() {
    let script = Script::default().on(BINDING, Answer::ok());
    assert_eq!(bind(&script).await, Outcome::Done);
    let expected = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "annotations": {"duosuan.io/gpus": "0,3", "duosuan.io/numa": "1"}},
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
        script = script.on(BINDING, Answer::fails(429, "busy"));
    }
    // A server that is only busy has done nothing.
    assert_eq!(bind(&script).await, Outcome::Failed("busy".into()));
}

#[tokio::test(start_paused = true)]
async fn a_binding_of_which_nobody_says_what_became_is_not_taken_for_undone() {
    let mut script = Script::default();
    for _ in 0..Retry::default().tries {
        script = script.on(BINDING, Answer::Hangs).on(GET, Answer::fails(503, "ill"));
    }
    assert_eq!(bind(&script).await, Outcome::Unknown("ill".into()));
}

#[tokio::test(start_paused = true)]
async fn a_binding_that_was_carried_out_by_a_try_without_an_answer_is_done_whatever_comes_after() {
    let script = Script::default()
        .on(BINDING, Answer::Hangs)
        .on(BINDING, Answer::fails(403, "no more"))
        .on(GET, seen("u", "n"));
    assert_eq!(bind(&script).await, Outcome::Done);
}

/// What comes of a binding, and of the same one again.
async fn again(first: Script, pause: Duration, second: Script) -> (Outcome, Outcome) {
    let carry_out = async |script: &Script, order| {
        let binder = Binder::new(script.client(), Retry::default(), Metrics::new());
        let answer = binder.carry_out(order).await;
        script.played();
        answer
    };
    let (order, before) = carry_out(&first, Order::bind(pod(), "n".into(), vec![], None, vec![])).await;
    tokio::time::sleep(pause).await;
    let (_, after) = carry_out(&second, order).await;
    (before, after)
}

#[tokio::test(start_paused = true)]
async fn a_binding_without_an_answer_may_be_carried_out_later_and_is_not_taken_for_undone() {
    let lost = || {
        Script::default()
            .on(BINDING, Answer::Hangs)
            .on(BINDING, Answer::fails(403, "no more"))
            .on(GET, seen("u", ""))
    };
    let ill = || {
        let first = Script::default().on(BINDING, Answer::fails(500, "timeout"));
        first.on(BINDING, Answer::fails(403, "no more")).on(GET, seen("u", ""))
    };
    let refused = || {
        let first = Script::default().on(BINDING, Answer::fails(403, "no more"));
        first.on(GET, seen("u", ""))
    };
    let open =
        Outcome::Unknown("it has no node yet, and a try without an answer may still be carried out: no more".into());
    for first in [lost, ill] {
        let early = again(first(), LATEST / 2, refused()).await;
        assert_eq!(early, (open.clone(), open.clone()));
        let late = again(first(), LATEST, refused()).await;
        assert_eq!(late, (open.clone(), Outcome::Refused("no more".into())));
    }
    // The same node again: whichever of the two is carried out, it is there.
    let made = Script::default().on(BINDING, Answer::ok());
    assert_eq!(again(lost(), Duration::ZERO, made).await.1, Outcome::Done);
    for (node, expected) in [
        ("n", Outcome::Done),
        ("other", Outcome::Failed("already assigned".into())),
    ] {
        let conflict = Script::default().on(BINDING, Answer::fails(409, "already assigned"));
        let conflict = conflict.on(GET, seen("u", node));
        assert_eq!(again(lost(), Duration::ZERO, conflict).await.1, expected);
    }
    let gone = Script::default().on(BINDING, Answer::fails(404, "not found"));
    assert_eq!(again(lost(), Duration::ZERO, gone).await.1, Outcome::Gone);
}

#[tokio::test(start_paused = true)]
async fn an_ill_server_keeps_the_place_of_a_pod_for_a_while_and_a_silent_one_for_as_long_as_it_is_silent() {
    let tries = |answer: Answer| {
        let mut script = Script::default();
        for _ in 0..Retry::default().tries {
            script = script.on(BINDING, answer.clone());
        }
        script.on(GET, seen("u", ""))
    };
    let ill = || tries(Answer::fails(503, "ill"));
    let (before, after) = again(ill(), LATEST, ill()).await;
    assert!(matches!(before, Outcome::Unknown(_)), "{before:?}");
    assert_eq!(after, Outcome::Failed("ill".into()));
    let (before, after) = again(tries(Answer::Hangs), LATEST, tries(Answer::Hangs)).await;
    assert!(
        matches!((&before, &after), (Outcome::Unknown(_), Outcome::Unknown(_))),
        "{before:?}, {after:?}"
    );
}

#[tokio::test]
async fn the_server_is_told_how_long_a_binding_may_take() {
    let script = Script::default().on(BINDING, Answer::ok());
    bind(&script).await;
    assert_eq!(script.queries(BINDING), ["timeout=10s"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_binding_is_asked_for_again_without_being_made() {
    let probe = async |answer: Answer| {
        let script = Script::default().on(BINDING, answer);
        let node = "n".into();
        let outcome = carry_out(&script, Order::Probe { pod: pod(), node }).await.0;
        assert_eq!(script.queries(BINDING), ["dryRun=All"]);
        outcome
    };
    assert_eq!(probe(Answer::ok()).await, Outcome::Done);
    assert_eq!(probe(Answer::fails(422, "no")).await, Outcome::Refused("no".into()));
    assert_eq!(probe(Answer::fails(404, "no")).await, Outcome::Gone);
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
    assert_eq!(bind(&script).await, Outcome::Refused("not allowed".into()));
}

#[tokio::test]
async fn an_eviction_never_meets_a_successor_of_the_same_name() {
    let script = Script::default().on(EVICTION, Answer::ok());
    assert_eq!(evict(&script).await.0, Outcome::Done);
    let body = script.bodies(EVICTION).pop().unwrap();
    assert_eq!(body.pointer("/deleteOptions/preconditions/uid"), Some(&json!("u")));
    assert_eq!(
        body.pointer("/deleteOptions/gracePeriodSeconds"),
        Some(&json!(2)),
        "1.5 s, and no less"
    );
    let conflict = async |found: Answer| {
        let script = Script::default()
            .on(EVICTION, Answer::fails(409, "precondition"))
            .on(GET, found);
        evict(&script).await.0
    };
    assert_eq!(conflict(seen("v", "n")).await, Outcome::Gone);
    assert_eq!(conflict(Answer::fails(404, "no")).await, Outcome::Gone);
    // Somebody changed it at the same moment.
    assert_eq!(conflict(seen("u", "n")).await, Outcome::Failed("precondition".into()));
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
    let order = |name: &str| {
        let name = name.into();
        Order::bind(PodName { name, ..pod() }, "n".into(), vec![], None, vec![])
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
