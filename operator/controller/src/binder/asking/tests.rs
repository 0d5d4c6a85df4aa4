#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use duosuan_scheduler::{EvictCause, LostWork};
use serde_json::{Value, json};

use super::*;
use crate::{
    binder::{Order, Outcome},
    failure::Retry,
    metrics::Metrics,
    script::{Answer, Script},
};

const BUDGETS: &str = "GET /apis/policy/v1/namespaces/ns/poddisruptionbudgets";

fn name(pod: &str) -> PodName {
    PodName {
        uid: format!("uid-{pod}"),
        namespace: "ns".into(),
        name: pod.into(),
    }
}

fn eviction(pod: &str) -> Eviction {
    Eviction {
        pod: name(pod),
        cause: EvictCause::Reclaimed { by: "c".into() },
        lost: LostWork::default(),
        notice: 0,
    }
}

fn post(pod: &str) -> String {
    format!("POST /api/v1/namespaces/ns/pods/{pod}/eviction")
}

fn get(pod: &str) -> String {
    format!("GET /api/v1/namespaces/ns/pods/{pod}")
}

/// A pod that runs.
fn seen(pod: &str, ready: &str) -> Answer {
    let metadata = json!({"name": pod, "namespace": "ns", "uid": format!("uid-{pod}"), "labels": {"app": "db"}});
    let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]});
    Answer::Is(
        200,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status}),
    )
}

fn budgets(list: &Value) -> Answer {
    Answer::Is(
        200,
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudgetList", "metadata": {}, "items": list}),
    )
}

fn budget(allowed: i64, selector: &Value) -> Value {
    json!({"metadata": {"name": "keep", "namespace": "ns"}, "spec": {"selector": selector},
        "status": {"disruptionsAllowed": allowed, "expectedPods": 5, "desiredHealthy": 3}})
}

/// Who is kept of `a` and `b`, by an API server that says so.
async fn ask(script: &Script) -> (Outcome, Kept) {
    let (outcome, kept, one_by_one) = ask_how(script).await;
    assert!(!one_by_one);
    (outcome, kept)
}

/// And whether the others go all the same.
async fn ask_how(script: &Script) -> (Outcome, Kept, bool) {
    let binder = Binder::new(script.client(), Retry::default(), Metrics::new());
    let evictions = vec![eviction("a"), eviction("b")];
    let (order, outcome) = binder
        .carry_out(Order::AskToEvict {
            evictions,
            kept: Vec::new(),
            one_by_one: false,
        })
        .await;
    script.played();
    // Nobody was evicted.
    for pod in ["a", "b"] {
        assert_eq!(script.queries(&post(pod)), ["dryRun=All"]);
    }
    let Order::AskToEvict { kept, one_by_one, .. } = order else {
        unreachable!()
    };
    (outcome, kept, one_by_one)
}

fn both_may_go_alone() -> Script {
    Script::default()
        .on(&post("a"), Answer::ok())
        .on(&post("b"), Answer::ok())
}

#[tokio::test]
async fn pods_without_a_budget_may_all_go() {
    let script = both_may_go_alone().on(BUDGETS, budgets(&json!([])));
    assert_eq!(ask(&script).await, (Outcome::Done, vec![]));
}

#[tokio::test]
async fn one_that_its_budget_keeps_is_named_and_nobody_is_evicted() {
    let script = Script::default()
        .on(&post("a"), Answer::ok())
        .on(&post("b"), Answer::budget());
    let (outcome, kept) = ask(&script).await;
    assert_eq!(outcome, Outcome::Failed("budget".into()));
    assert_eq!(kept, [(name("b"), "budget".into())]);
}

#[tokio::test]
async fn what_is_gone_keeps_nobody() {
    let script = Script::default()
        .on(&post("a"), Answer::fails(404, "gone"))
        .on(&post("b"), Answer::fails(409, "another uid"))
        .on(BUDGETS, budgets(&json!([])));
    assert_eq!(ask(&script).await, (Outcome::Done, vec![]));
}

const TOO_MANY: &str = "the disruption budget keep lets 1 of the 2 pods go that are to go together";

fn under(budget: Value) -> Script {
    both_may_go_alone()
        .on(BUDGETS, budgets(&json!([budget])))
        .on(&get("a"), seen("a", "True"))
        .on(&get("b"), seen("b", "True"))
}

#[tokio::test]
async fn a_budget_that_lets_go_one_of_two_for_now_keeps_both() {
    let script = under(budget(1, &json!({"matchLabels": {"app": "db"}})));
    let (outcome, kept) = ask(&script).await;
    assert_eq!(outcome, Outcome::Failed(TOO_MANY.into()));
    assert_eq!(kept, [(name("a"), TOO_MANY.into()), (name("b"), TOO_MANY.into())]);
}

/// A claim that needed the room of two of them waited for ever, and asked all the time.
#[tokio::test]
async fn a_budget_that_never_lets_both_go_together_keeps_the_other_only() {
    let mut strict = budget(1, &json!({"matchLabels": {"app": "db"}}));
    strict["status"]["desiredHealthy"] = 4.into();
    let (_, kept, one_by_one) = ask_how(&under(strict)).await;
    assert_eq!((kept, one_by_one), (vec![(name("b"), TOO_MANY.into())], true));
}

#[tokio::test]
async fn a_budget_keeps_only_those_that_it_is_for_and_that_are_ready() {
    let others = json!({"matchLabels": {"app": "web"}});
    let enough = json!({});
    for (allowed, selector, ready) in [(0, &others, "True"), (2, &enough, "True"), (1, &enough, "False")] {
        let script = both_may_go_alone()
            .on(BUDGETS, budgets(&json!([budget(allowed, selector)])))
            .on(&get("a"), seen("a", "True"))
            .on(&get("b"), seen("b", ready));
        assert_eq!(
            ask(&script).await,
            (Outcome::Done, vec![]),
            "{allowed} {selector} {ready}"
        );
    }
}

/// As the API server decides of a budget for which nobody has to be ready.
#[tokio::test]
async fn where_nobody_has_to_be_ready_one_that_is_not_counts_unless_the_budget_spares_it() {
    for (policy, goes) in [("IfHealthyBudget", false), ("AlwaysAllow", true)] {
        let mut none = budget(1, &json!({}));
        none["status"]["desiredHealthy"] = 0.into();
        none["spec"]["unhealthyPodEvictionPolicy"] = policy.into();
        let script = both_may_go_alone()
            .on(BUDGETS, budgets(&json!([none])))
            .on(&get("a"), seen("a", "True"))
            .on(&get("b"), seen("b", "False"));
        let (_, kept) = ask(&script).await;
        assert_eq!(kept.is_empty(), goes, "{policy}: {kept:?}");
    }
}

/// A thousand pods of a server that hangs took 45 minutes.
#[tokio::test(start_paused = true)]
async fn once_one_answer_stays_out_no_other_is_waited_for() {
    let evictions: Vec<Eviction> = (0..AT_ONCE * 3).map(|i| eviction(&format!("p{i}"))).collect();
    let mut script = Script::default();
    for i in 0..AT_ONCE * 3 {
        for _ in 0..Retry::default().tries {
            script = script.on(&post(&format!("p{i}")), Answer::Hangs);
        }
    }
    let binder = Binder::new(script.client(), Retry::default(), Metrics::new());
    let (kept, one_by_one) = binder.ask_to_evict(&evictions).await;
    assert!(!one_by_one);
    assert_eq!(
        kept.iter().map(|(pod, _)| pod.name.as_str()).collect::<Vec<_>>(),
        ["p0"]
    );
    // Those that are asked at once with it, and nobody after them.
    assert!(script.queries(&post(&format!("p{AT_ONCE}"))).is_empty());
}

#[tokio::test]
async fn what_cannot_be_found_out_keeps_them() {
    let script = both_may_go_alone().on(BUDGETS, Answer::fails(403, "not allowed"));
    let (_, kept) = ask(&script).await;
    let message = "disruption budgets cannot be read: not allowed";
    assert_eq!(kept, [(name("a"), message.into()), (name("b"), message.into())]);
}
