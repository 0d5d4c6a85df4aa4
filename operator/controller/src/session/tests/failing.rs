//! Orders that fail, alone and in the middle of a gang.

use super::*;
use crate::binder::Eviction;

impl Stage {
    /// The next order, which must be to bind this pod.
    pub(super) async fn bind(&mut self, name: &str) -> Order {
        let order = self.order().await;
        assert!(
            matches!(&order, Order::Bind { pod, .. } if pod.name == name),
            "{order:?}"
        );
        order
    }

    pub(super) fn answer(&self, order: Order, outcome: Outcome) {
        self.answers.send((order, outcome)).unwrap();
    }

    /// The first thing written about an object that holds these words.
    pub(super) async fn says(&mut self, words: &str) -> Target {
        loop {
            let (target, patch) = self.patch().await;
            if patch.body().contains(words) {
                return target;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_place_of_a_pod_of_which_nobody_says_whether_it_is_bound_is_given_to_nobody_else() {
    let mut stage = Stage::start(vec![node("n", 1), a_pod("a", None, None)]).await;
    stage.lead().await;
    let order = stage.bind("a").await;
    stage.answer(order, Outcome::Unknown("no answer within 10 s".into()));
    stage.facts.send(a_pod("b", None, None)).await.unwrap();
    let target = stage.says("has not answered whether the pod is bound to node n").await;
    assert!(matches!(target, Target::Pod(pod) if pod.name == "a"));
    let mut seconds = Vec::new();
    let began = Instant::now();
    for _ in 0..4 {
        let order = stage.order().await;
        assert!(
            matches!(&order, Order::Bind { pod, node, .. } if pod.name == "a" && node == "n"),
            "{order:?}"
        );
        seconds.push(began.elapsed().as_secs());
        stage.answer(order, Outcome::Unknown("no answer within 10 s".into()));
    }
    assert_eq!(seconds, [0, 2, 6, 14]);
    let order = stage.bind("a").await;
    assert_eq!(began.elapsed().as_secs(), 30);
    stage.answer(order, Outcome::Failed("not carried out".into()));
    stage.bind("a").await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_node_is_gone_is_not_bound_there_again() {
    let mut stage = Stage::start(vec![node("n", 1), a_pod("a", None, None)]).await;
    stage.lead().await;
    let order = stage.bind("a").await;
    stage.facts.send(Fact::NodeGone("n".into())).await.unwrap();
    stage.answer(order, Outcome::Unknown("no answer within 10 s".into()));
    stage.no_order().await;
    stage.facts.send(node("m", 1)).await.unwrap();
    let order = stage.bind("a").await;
    assert!(matches!(&order, Order::Bind { node, .. } if node == "m"), "{order:?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_watch_says_of_a_binding_without_an_answer_is_not_asked_for() {
    let mut stage = Stage::start(vec![node("n", 1), a_pod("a", None, None)]).await;
    stage.lead().await;
    let order = stage.bind("a").await;
    stage.answer(order, Outcome::Unknown("lost".into()));
    stage.facts.send(a_pod("a", None, Some("n"))).await.unwrap();
    stage.facts.send(a_pod("b", None, None)).await.unwrap();
    stage.no_order().await;
    stage.facts.send(Fact::PodGone("uid-a".into())).await.unwrap();
    stage.bind("b").await;
}

#[tokio::test(start_paused = true)]
async fn a_gang_of_which_one_pod_is_refused_for_good_ends_undone_and_says_why() {
    let mut stage = Stage::start(gang()).await;
    stage.lead().await;
    for name in ["a", "b", "c"] {
        let order = stage.bind(name).await;
        if name == "b" {
            stage.answer(order, Outcome::Refused("a policy forbids it".into()));
        } else {
            stage.facts.send(a_pod(name, Some("c"), Some("n"))).await.unwrap();
            stage.answer(order, Outcome::Done);
        }
    }
    // It is asked whether it would be bound, and never bound, and after a minute the others go.
    let mut evicted = Vec::new();
    while evicted.len() < 2 {
        let order = stage.order().await;
        match &order {
            Order::Probe { pod, .. } if pod.name == "b" => {
                stage.answer(order, Outcome::Refused("a policy forbids it".into()));
            }
            Order::Evict(Eviction { pod, .. }) => {
                evicted.push(pod.name.clone());
                stage.facts.send(Fact::PodGone(pod.uid.clone())).await.unwrap();
                stage.answer(order, Outcome::Done);
            }
            other => panic!("{other:?}"),
        }
    }
    evicted.sort();
    assert_eq!(evicted, ["a", "c"]);
    for name in ["a2", "c2"] {
        stage.facts.send(a_pod(name, Some("c"), None)).await.unwrap();
    }
    let said = "refuses to bind pod b, and nothing more is bound until it allows it, which is asked every minute: \
                a policy forbids it";
    while !matches!(stage.says(said).await, Target::Claim(_)) {}
    // The policy is mended.
    let probe = stage.order().await;
    assert!(matches!(probe, Order::Probe { .. }), "{probe:?}");
    stage.answer(probe, Outcome::Done);
    assert_eq!(stage.pods_ordered(3).await, ["a2", "b", "c2"]);
}

#[tokio::test(start_paused = true)]
async fn an_eviction_that_a_budget_forbids_is_ordered_again_later_and_binds_go_on() {
    let mut stage = Stage::start(gang()).await;
    stage.lead().await;
    for name in ["a", "b", "c"] {
        let order = stage.bind(name).await;
        stage.facts.send(a_pod(name, Some("c"), Some("n"))).await.unwrap();
        stage.answer(order, Outcome::Done);
    }
    stage.facts.send(Fact::PodGone("uid-b".into())).await.unwrap();
    let mut seconds = Vec::new();
    let mut began = None;
    while seconds.len() < 3 {
        let order = stage.order().await;
        let Order::Evict(Eviction { pod, .. }) = &order else {
            panic!("{order:?}")
        };
        if pod.name == "a" {
            let began = *began.get_or_insert_with(Instant::now);
            seconds.push(began.elapsed().as_secs());
        }
        stage.answer(order, Outcome::Failed("disruption budget".into()));
    }
    assert_eq!(seconds, [0, 5, 15]);
    let other = stage.order().await;
    assert!(
        matches!(&other, Order::Evict(Eviction { pod, .. }) if pod.name == "c"),
        "{other:?}"
    );
    stage.answer(other, Outcome::Failed("disruption budget".into()));
    // Nothing that was refused counts against a binding.
    stage.facts.send(a_pod("b2", Some("c"), None)).await.unwrap();
    stage.bind("b2").await;
}

/// Who goes for `owner` of those who borrow its queue's cores, by name.
async fn asked(stage: &mut Stage) -> (Order, Vec<String>) {
    let order = stage.order().await;
    let Order::AskToEvict { evictions, .. } = &order else {
        panic!("{order:?}")
    };
    let names = evictions.iter().map(|eviction| eviction.pod.name.clone()).collect();
    (order, names)
}

/// Two nodes of three cores, of which `theirs` uses all, guaranteed none; and these pods of `mine`, guaranteed four, want two each.
async fn borrowed(owners: &[&str]) -> Stage {
    let in_queue = |name: &str, queue: &str, cpu: i64, node: Option<&str>| {
        let Fact::Pod(mut pod) = a_pod(name, None, node) else {
            unreachable!()
        };
        pod.pod.queue = queue.into();
        pod.pod.requests = [("cpu".to_owned(), cpu)].into();
        Fact::Pod(pod)
    };
    let queue = |name: &str, cpu: i64| {
        let quota = event::Quota {
            guaranteed: [("cpu".to_owned(), cpu)].into(),
            ..event::Quota::default()
        };
        let queue = event::Queue {
            name: name.into(),
            weight: 1,
            quotas: vec![quota],
            ..event::Queue::default()
        };
        Fact::Queue(Box::new(crate::translate::queue::Queue {
            queue,
            status: None,
            generation: 1,
        }))
    };
    let mut facts = vec![queue("mine", 4000), queue("theirs", 0)];
    for (on, names) in [("n", ["a", "b", "c"]), ("o", ["d", "e", "f"])] {
        facts.push(node(on, 3));
        facts.extend(names.map(|name| in_queue(name, "theirs", 1000, Some(on))));
    }
    facts.extend(owners.iter().map(|name| in_queue(name, "mine", 2000, None)));
    let mut stage = Stage::start(facts).await;
    stage.lead().await;
    stage
}

/// Those who were asked about together go, one after the other, and are gone.
async fn go(stage: &mut Stage, order: Order, names: &[String]) {
    stage.answer(order, Outcome::Done);
    for name in names {
        let order = stage.order().await;
        let Order::Evict(Eviction { pod, .. }) = &order else {
            panic!("{order:?}")
        };
        assert_eq!(pod.name, *name);
        stage.facts.send(Fact::PodGone(pod.uid.clone())).await.unwrap();
        stage.answer(order, Outcome::Done);
    }
}

#[tokio::test(start_paused = true)]
async fn of_those_who_have_to_go_together_none_goes_if_one_is_kept_and_others_are_found() {
    let mut stage = borrowed(&["owner"]).await;
    let (order, first) = asked(&mut stage).await;
    let Order::AskToEvict { evictions, .. } = order else {
        unreachable!()
    };
    let [goes, stays] = evictions.as_slice() else {
        panic!("{first:?}")
    };
    let (goes, stays) = (goes.pod.clone(), stays.pod.clone());
    let kept = vec![(stays.clone(), "disruption budget".to_owned())];
    let failed = Outcome::Failed("disruption budget".into());
    let one_by_one = false;
    stage.answer(
        Order::AskToEvict {
            evictions,
            kept,
            one_by_one,
        },
        failed,
    );

    let (order, second) = asked(&mut stage).await;
    assert!(
        second.len() == 2 && second.contains(&goes.name) && !second.contains(&stays.name),
        "{second:?}"
    );
    go(&mut stage, order, &second).await;
    stage.bind("owner").await;
}

/// What a budget allows is asked for one claim after the other: it would be promised to both.
#[tokio::test(start_paused = true)]
async fn a_claim_asks_who_may_go_for_it_when_those_who_go_for_another_one_are_gone() {
    let mut stage = borrowed(&["one", "two"]).await;
    let (order, names) = asked(&mut stage).await;
    stage.no_order().await;
    go(&mut stage, order, &names).await;
    let mut next = Vec::new();
    while next.len() < 2 {
        next.push(stage.order().await);
    }
    let bound = next
        .iter()
        .any(|order| matches!(order, Order::Bind { pod, .. } if pod.name == "one"));
    let asked = next
        .iter()
        .any(|order| matches!(order, Order::AskToEvict { evictions, .. } if evictions.len() == 2));
    assert!(bound && asked, "{next:?}");
}

#[tokio::test(start_paused = true)]
async fn nobody_goes_for_a_claim_that_went_while_it_was_asked_who_may() {
    let mut stage = borrowed(&["owner"]).await;
    let (order, _) = asked(&mut stage).await;
    stage.facts.send(Fact::PodGone("uid-owner".into())).await.unwrap();
    stage.no_order().await;
    stage.answer(order, Outcome::Done);
    stage.no_order().await;
    // They stay where they are, and may go for somebody else.
    let Fact::Pod(mut other) = a_pod("other", None, None) else {
        unreachable!()
    };
    other.pod.queue = "mine".into();
    other.pod.requests = [("cpu".to_owned(), 2000)].into();
    stage.facts.send(Fact::Pod(other)).await.unwrap();
    let (order, names) = asked(&mut stage).await;
    go(&mut stage, order, &names).await;
    stage.bind("other").await;
}
