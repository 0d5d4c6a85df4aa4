#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use duosuan_scheduler::event;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    binder::{Binder, PodName},
    clock::Clock,
    events::Note,
    failure::Retry,
    script::{Answer, Script},
    translate::{claim, pod},
};

mod devices;
mod failing;

/// A session without an API server: what it is told, and what it wants done.
struct Stage {
    facts: mpsc::Sender<Fact>,
    orders: mpsc::UnboundedReceiver<Order>,
    answers: mpsc::UnboundedSender<(Order, Outcome)>,
    leads: watch::Sender<bool>,
    catch_up: mpsc::UnboundedReceiver<()>,
    caught_up: mpsc::Sender<CaughtUp>,
    patches: mpsc::UnboundedReceiver<(Target, Patch)>,
    notes: mpsc::Receiver<Note>,
    session: JoinHandle<Ended>,
    end: CancellationToken,
}

impl Stage {
    async fn start(facts: Vec<Fact>) -> Self {
        let (facts_out, facts_in) = mpsc::channel(1000);
        let (orders, orders_in) = mpsc::unbounded_channel();
        let (answers, answers_in) = mpsc::unbounded_channel();
        let (patches, patches_in) = mpsc::unbounded_channel();
        let (binding, _) = watch::channel(false);
        let (leads, leads_in) = watch::channel(false);
        let (catch_up, catch_up_in) = mpsc::unbounded_channel();
        let (caught_up, caught_up_in) = mpsc::channel(1);
        let end = CancellationToken::new();
        let metrics = Metrics::new();
        let (events, notes) = Recorder::with_notes();
        let links = Links {
            facts: facts_in,
            orders,
            answers: answers_in,
            patches,
            binding,
            leads: leads_in,
            catch_up,
            caught_up: caught_up_in,
            events,
            metrics,
            ready: Readiness::default(),
        };
        let session = tokio::spawn(
            Session::new(
                links,
                Core::new(
                    crate::record::Recorder::default(),
                    Clock::of_the_runtime(),
                    duosuan_scheduler::Settings::default(),
                ),
            )
            .run(end.clone()),
        );
        for fact in facts {
            facts_out.send(fact).await.unwrap();
        }
        for kind in KINDS {
            facts_out.send(Fact::Synced { kind, served: true }).await.unwrap();
        }
        Self {
            facts: facts_out,
            orders: orders_in,
            answers,
            leads,
            catch_up: catch_up_in,
            caught_up,
            patches: patches_in,
            notes,
            session,
            end,
        }
    }

    /// It leads, and the last leader has left nothing.
    async fn lead(&mut self) {
        self.leads.send_replace(true);
        self.catch_up.recv().await.unwrap();
        self.caught_up.send(CaughtUp::All).await.unwrap();
    }

    async fn patch(&mut self) -> (Target, Patch) {
        tokio::time::timeout(Duration::from_secs(600), self.patches.recv())
            .await
            .expect("no patch")
            .unwrap()
    }

    async fn order(&mut self) -> Order {
        tokio::time::timeout(Duration::from_secs(600), self.orders.recv())
            .await
            .expect("no order")
            .unwrap()
    }

    async fn pods_ordered(&mut self, count: usize) -> Vec<String> {
        let mut names = Vec::new();
        for _ in 0..count {
            let Order::Bind { pod, .. } = self.order().await else {
                panic!("an eviction")
            };
            names.push(pod.name);
        }
        names.sort();
        names
    }

    /// Nothing more is ordered, however long one waits.
    async fn no_order(&mut self) {
        let order = tokio::time::timeout(Duration::from_secs(10), self.orders.recv()).await;
        assert!(order.is_err(), "an order: {order:?}");
    }
}

fn node(name: &str, cpu: i64) -> Fact {
    let allocatable = [("cpu".to_owned(), cpu * 1000), ("pods".to_owned(), 110)].into();
    Fact::Node(Box::new(event::Node {
        name: name.into(),
        allocatable,
        ..event::Node::default()
    }))
}

fn a_pod(name: &str, claim: Option<&str>, node: Option<&str>) -> Fact {
    let pod = event::Pod {
        uid: format!("uid-{name}"),
        namespace: "ns".into(),
        name: name.into(),
        claim: claim.map(str::to_owned),
        group: claim.map_or("", |_| "g").into(),
        requests: [("cpu".to_owned(), 1000)].into(),
        node: node.map(str::to_owned),
        ours: true,
        ..event::Pod::default()
    };
    Fact::Pod(Box::new(pod::Pod {
        volume_claims: vec![],
        pod,
        unschedulable: None,
        nominated: None,
        readiness: Default::default(),
        broken: vec![],
    }))
}

fn a_claim(name: &str, count: u32) -> Fact {
    let group = event::Group {
        name: "g".into(),
        min: count,
        max: count,
        quantum: 1,
        ..event::Group::default()
    };
    let claim = event::Claim {
        uid: format!("uid-{name}"),
        namespace: "ns".into(),
        name: name.into(),
        groups: vec![group],
        ..event::Claim::default()
    };
    Fact::Claim(Box::new(claim::Claim {
        claim,
        generation: 1,
        status: Some(duosuan_crds::CapacityClaimStatus::default()),
        broken: None,
        ignored: vec![],
        misread: None,
    }))
}

fn gang() -> Vec<Fact> {
    let mut facts = vec![node("n", 3), a_claim("c", 3)];
    facts.extend(["a", "b", "c"].map(|name| a_pod(name, Some("c"), None)));
    facts
}

#[tokio::test(start_paused = true)]
async fn a_follower_watches_and_orders_and_writes_nothing() {
    let mut stage = Stage::start(gang()).await;
    stage.no_order().await;
    assert!(stage.patches.try_recv().is_err());
    stage.lead().await;
    assert_eq!(stage.pods_ordered(3).await, ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_decided_before_it_is_known_what_the_last_leader_bound() {
    let facts = vec![node("n", 1), a_pod("a", None, None), a_pod("b", None, None)];
    let mut stage = Stage::start(facts).await;
    stage.leads.send_replace(true);
    stage.catch_up.recv().await.unwrap();
    stage.no_order().await;
    // The last leader bound one of the two, and the watch has not said so yet.
    let page = CaughtUp::Some(vec![a_pod("b", None, Some("n"))]);
    stage.caught_up.send(page).await.unwrap();
    stage.no_order().await;
    // There may be more of them.
    stage.caught_up.send(CaughtUp::All).await.unwrap();
    stage.no_order().await;
    // What the watch says late of the time before changes nothing.
    stage.facts.send(a_pod("b", None, None)).await.unwrap();
    stage.no_order().await;
    stage.facts.send(node("n", 2)).await.unwrap();
    assert_eq!(stage.pods_ordered(1).await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_claim_was_missing_says_what_its_claim_waits_for_once_that_is_there() {
    let mut stage = Stage::start(vec![
        node("n", 1),
        a_pod("a", Some("c"), None),
        a_pod("b", Some("c"), None),
    ])
    .await;
    stage.lead().await;
    for _ in 0..2 {
        let (target, patch) = stage.patch().await;
        assert!(
            matches!(target, Target::Pod(_)) && patch.body().contains("claim c"),
            "{patch:?}"
        );
    }
    // Two pods, and place for one.
    stage.facts.send(a_claim("c", 2)).await.unwrap();
    let mut told = Vec::new();
    // The claim's own status is among them, again and again, since nothing here carries it out.
    for _ in 0..20 {
        if told.len() == 2 {
            break;
        }
        let (target, patch) = stage.patch().await;
        if let Target::Pod(pod) = target
            && patch.body().contains("nodes are available")
        {
            told.push(pod.name);
        }
    }
    told.sort();
    assert_eq!(told, ["a", "b"]);
    stage.no_order().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_while_a_gang_is_being_made_is_an_event_only_if_it_stays_so() {
    let mut facts = gang();
    let last = facts.pop().unwrap();
    let mut stage = Stage::start(facts).await;
    stage.lead().await;
    // Its status says so at once.
    while !stage.patch().await.1.body().contains("2 of the 3 pods") {}
    stage.facts.send(last).await.unwrap();
    stage.pods_ordered(3).await;
    stage.no_order().await;
    assert!(stage.notes.try_recv().is_err());
    stage.facts.send(a_claim("d", 2)).await.unwrap();
    let note = stage.notes.recv().await.unwrap();
    assert_eq!((note.reason, note.regarding.name.as_str()), ("FailedScheduling", "d"));
    assert!(note.note.contains("0 of the 2 pods"), "{}", note.note);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_ends_the_session_and_all_that_it_assumed() {
    let mut stage = Stage::start(gang()).await;
    stage.lead().await;
    stage.pods_ordered(3).await;
    stage.leads.send_replace(false);
    assert_eq!(stage.session.await.unwrap(), Ended::LostLease);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_failed_to_bind_is_bound_again_and_the_others_are_left_alone() {
    let mut stage = Stage::start(gang()).await;
    stage.lead().await;
    for _ in 0..3 {
        let order = stage.order().await;
        let Order::Bind { pod, .. } = &order else {
            panic!("an eviction")
        };
        let outcome = if pod.name == "b" {
            Outcome::Failed("ill".into())
        } else {
            Outcome::Done
        };
        if outcome == Outcome::Done {
            stage.facts.send(a_pod(&pod.name, Some("c"), Some("n"))).await.unwrap();
        }
        stage.answers.send((order, outcome)).unwrap();
    }
    let again = stage.order().await;
    assert!(
        matches!(&again, Order::Bind { pod, .. } if pod.name == "b"),
        "{again:?}"
    );
    stage.answers.send((again, Outcome::Done)).unwrap();
    stage.facts.send(a_pod("b", Some("c"), Some("n"))).await.unwrap();
    stage.no_order().await;
    stage.end.cancel();
    assert_eq!(stage.session.await.unwrap(), Ended::Shutdown);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_keeps_failing_is_not_tried_at_full_speed() {
    let mut stage = Stage::start(vec![node("n", 1), a_pod("a", None, None)]).await;
    stage.lead().await;
    let began = tokio::time::Instant::now();
    let mut seconds = Vec::new();
    for _ in 0..6 {
        let order = stage.order().await;
        seconds.push(began.elapsed().as_secs());
        stage.answers.send((order, Outcome::Failed("refused".into()))).unwrap();
    }
    // At once, then after 1, 2, 4 and 8 s more.
    assert_eq!(seconds, [0, 0, 1, 3, 7, 15]);
}

#[tokio::test(start_paused = true)]
async fn a_gang_ends_whole_whatever_the_server_answers_in_the_middle_of_it() {
    let path = |name: &str| format!("POST /api/v1/namespaces/ns/pods/{name}/binding");
    let seen = |name: &str, node: &str| {
        let metadata = serde_json::json!({"name": name, "uid": format!("uid-{name}")});
        let spec = serde_json::json!({"nodeName": node});
        Answer::Is(
            200,
            serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}),
        )
    };
    let mut script = Script::default()
        .on(&path("a"), Answer::fails(500, "ill"))
        .on(&path("a"), Answer::fails(429, "busy"))
        .on(&path("a"), Answer::ok())
        // Carried out, not answered.
        .on(&path("b"), Answer::Hangs)
        .on(&path("b"), Answer::fails(409, "already assigned"))
        .on("GET /api/v1/namespaces/ns/pods/b", seen("b", "n"));
    // Fails for long, then not.
    for _ in 0..Retry::default().tries {
        script = script.on(&path("c"), Answer::fails(503, "ill"));
    }
    script = script.on("GET /api/v1/namespaces/ns/pods/c", seen("c", ""));
    // Then nothing at all, and at last it turns out to have been carried out.
    for _ in 0..Retry::default().tries {
        script = script
            .on(&path("c"), Answer::Hangs)
            .on("GET /api/v1/namespaces/ns/pods/c", Answer::Hangs);
    }
    script = script
        .on(&path("c"), Answer::fails(409, "already assigned"))
        .on("GET /api/v1/namespaces/ns/pods/c", seen("c", "n"));

    let mut stage = Stage::start(gang()).await;
    stage.lead().await;
    let binder = Binder::new(script.client(), Retry::default(), Metrics::new());
    let mut bound = Vec::new();
    while bound.len() < 3 {
        let order = stage.order().await;
        let (order, outcome) = binder.carry_out(order).await;
        if let (
            Order::Bind {
                pod: PodName { name, .. },
                ..
            },
            Outcome::Done,
        ) = (&order, &outcome)
        {
            bound.push(name.clone());
            stage.facts.send(a_pod(name, Some("c"), Some("n"))).await.unwrap();
        }
        stage.answers.send((order, outcome)).unwrap();
    }
    bound.sort();
    assert_eq!(bound, ["a", "b", "c"]);
    stage.no_order().await;
    script.played();
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_gone_in_the_middle_leaves_the_gang_waiting_for_its_successor() {
    let mut stage = Stage::start(gang()).await;
    stage.lead().await;
    for _ in 0..3 {
        let order = stage.order().await;
        let Order::Bind { pod, .. } = &order else {
            panic!("an eviction")
        };
        if pod.name == "b" {
            stage.facts.send(Fact::PodGone("uid-b".into())).await.unwrap();
            stage.answers.send((order, Outcome::Gone)).unwrap();
        } else {
            stage.facts.send(a_pod(&pod.name, Some("c"), Some("n"))).await.unwrap();
            stage.answers.send((order, Outcome::Done)).unwrap();
        }
    }
    stage.facts.send(a_pod("b2", Some("c"), None)).await.unwrap();
    assert_eq!(stage.pods_ordered(1).await, ["b2"]);
}
