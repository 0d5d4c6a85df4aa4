#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use duosuan_scheduler::event::{Claim, Group, Node, Pod, Queue, Quota};

use super::*;
use crate::budgets::{Budget, Keeps, Share};

fn node(cpu: i64) -> Event {
    Event::Node(Box::new(Node {
        name: "n".into(),
        allocatable: [("cpu".into(), cpu), ("pods".into(), 10)].into(),
        ..Node::default()
    }))
}

fn pod(uid: &str, created: i64, cpu: i64) -> Pod {
    Pod {
        uid: uid.into(),
        namespace: "ns".into(),
        name: uid.into(),
        created: Time(created),
        requests: [("cpu".into(), cpu)].into(),
        ours: true,
        ..Pod::default()
    }
}

fn told(pod: Pod) -> Event {
    Event::Pod(Box::new(pod))
}

fn bound<E: Edge>(simulation: &Simulation<E>) -> Vec<(&str, i64)> {
    simulation.bound().iter().map(|b| (b.pod.as_str(), b.at.0)).collect()
}

#[test]
fn a_pod_starts_the_moment_that_another_ends_and_not_before() {
    let events = vec![
        node(1000),
        told(pod("a", 1, 1000)),
        told(pod("b", 2, 1000)),
        told(pod("c", 3, 1000)),
    ];
    let run_times = [("a".to_owned(), 60_000), ("b".to_owned(), 30_000)].into();
    let mut simulation = Simulation::new(Time(1000), events.clone(), run_times);
    simulation.run(None).unwrap();
    assert_eq!(bound(&simulation), [("a", 1000), ("b", 61_000), ("c", 91_000)]);
    assert_eq!(
        simulation.finished(),
        [("a".to_owned(), Time(61_000)), ("b".to_owned(), Time(91_000))]
    );
    assert_eq!((simulation.now(), simulation.waits().len()), (Time(91_000), 0));
}

#[test]
fn time_stops_where_it_is_told_to() {
    let events = vec![node(1000), told(pod("a", 1, 1000)), told(pod("b", 2, 1000))];
    let run_times: BTreeMap<_, _> = [("a".to_owned(), 60_000)].into();
    for (until, started) in [(59_999, 1), (60_000, 2)] {
        let mut simulation = Simulation::new(Time(0), events.clone(), run_times.clone());
        simulation.run(Some(Time(until))).unwrap();
        assert_eq!((simulation.bound().len(), simulation.now()), (started, Time(until)));
    }
}

#[test]
fn a_bound_pod_runs_and_ends_like_those_that_are_bound_here() {
    let running = Pod {
        node: Some("n".into()),
        ..pod("a", 1, 1000)
    };
    let events = vec![node(1000), told(running), told(pod("b", 2, 1000))];
    let mut simulation = Simulation::new(Time(0), events, [("a".to_owned(), 5)].into());
    simulation.run(None).unwrap();
    assert_eq!(bound(&simulation), [("b", 5)]);
}

#[test]
fn a_victim_is_gone_and_its_reclaimer_has_its_place() {
    let queue = |name: &str, guaranteed: i64| {
        Event::Queue(Box::new(Queue {
            name: name.into(),
            weight: 1,
            quotas: vec![Quota {
                guaranteed: [("cpu".into(), guaranteed)].into(),
                ..Quota::default()
            }],
            ..Queue::default()
        }))
    };
    let in_queue = |queue: &str, pod: Pod| Pod {
        queue: queue.into(),
        ..pod
    };
    let borrower = Pod {
        node: Some("n".into()),
        ..in_queue("poor", pod("borrows", 1, 1000))
    };
    let events = vec![
        node(1000),
        queue("rich", 1000),
        queue("poor", 0),
        told(borrower),
        told(in_queue("rich", pod("owns", 2, 1000))),
    ];
    let mut simulation = Simulation::new(Time(0), events, BTreeMap::new());
    simulation.run(None).unwrap();
    let by = "owns".to_owned();
    assert_eq!(
        simulation.evicted(),
        [Evicted {
            pod: "borrows".into(),
            cause: EvictCause::Reclaimed { by },
            // The minute that it takes to start anew.
            lost: LostWork {
                milli_card_seconds: 0,
                milli_core_seconds: 60_000,
            },
            at: Time(0),
        }]
    );
    assert_eq!(bound(&simulation), [("owns", 0)]);
}

#[test]
fn a_budget_keeps_a_victim_until_there_is_another_pod() {
    let urgent = Pod {
        priority: 10,
        ..pod("urgent", 2, 1000)
    };
    let kept = Pod {
        node: Some("n".into()),
        ..pod("kept", 1, 600)
    };
    let at_least = |count: i64| Disruption {
        budgets: vec![Budget {
            namespace: "ns".into(),
            name: "b".into(),
            selector: Some(vec![]),
            keeps: Keeps::Available(Share::Count(count)),
            unready_may_go: false,
        }],
        ..Disruption::default()
    };
    let run = |budgets: Disruption, more: Vec<Event>| {
        let events = [vec![node(1000), told(kept.clone()), told(urgent.clone())], more].concat();
        let mut simulation = Simulation::behind(NoEdge, budgets, Settings::default(), Time(0), events, BTreeMap::new());
        simulation.run(None).unwrap();
        simulation
    };
    let keeps = run(at_least(1), vec![]);
    assert_eq!((keeps.evicted(), keeps.bound()), (&[][..], &[][..]));
    assert!(keeps.waits().contains_key("urgent"));
    let lets = run(at_least(0), vec![]);
    assert_eq!((lets.evicted().len(), bound(&lets)), (1, vec![("urgent", 0)]));
    // Another one runs elsewhere.
    let m = Node {
        name: "m".into(),
        allocatable: [("cpu".into(), 600), ("pods".into(), 10)].into(),
        ..Node::default()
    };
    let other = Pod {
        node: Some("m".into()),
        ..pod("other", 1, 600)
    };
    let lets = run(at_least(1), vec![Event::Node(Box::new(m)), told(other)]);
    assert_eq!(lets.evicted()[0].pod, "kept");
}

/// Lets one pod at a time be bound.
#[derive(Default)]
struct OneAtATime(Option<String>);

impl Edge for OneAtATime {
    fn bind(&mut self, bound: &Bound) -> Result<Vec<Event>, String> {
        match &self.0 {
            Some(other) => Err(format!("{other} is bound")),
            None => {
                self.0 = Some(bound.pod.clone());
                Ok(Vec::new())
            }
        }
    }

    fn take_back(&mut self, _: &str, _: &[ClaimAllocation]) -> Vec<Event> {
        Vec::new()
    }

    fn left(&mut self, _: &str) -> Vec<Event> {
        self.0 = None;
        Vec::new()
    }
}

#[test]
fn what_the_edge_refuses_is_not_bound_and_tried_again() {
    let events = vec![node(1000), told(pod("a", 1, 100)), told(pod("b", 2, 100))];
    let simulation = |run_times: BTreeMap<String, i64>| {
        let edge = OneAtATime::default();
        let mut simulation = Simulation::behind(
            edge,
            Disruption::default(),
            Settings::default(),
            Time(0),
            events.clone(),
            run_times,
        );
        simulation.run(None).unwrap();
        simulation
    };
    let bound = |simulation: Simulation<OneAtATime>| -> Vec<String> {
        let bound = simulation.bound().iter();
        bound.map(|bound| bound.pod.clone()).collect()
    };
    assert_eq!(bound(simulation(BTreeMap::new())), ["a"]);
    assert_eq!(bound(simulation([("a".to_owned(), 5000)].into())), ["a", "b"]);
}

#[test]
fn what_waits_is_said_with_the_numbers_of_the_end() {
    let claim = Claim {
        uid: "c".into(),
        namespace: "ns".into(),
        name: "gang".into(),
        groups: vec![Group {
            name: "g".into(),
            min: 2,
            max: 2,
            quantum: 1,
            ..Group::default()
        }],
        ..Claim::default()
    };
    let member = |uid: &str| Pod {
        claim: Some("gang".into()),
        group: "g".into(),
        ..pod(uid, 2, 600)
    };
    let events = vec![
        node(1000),
        told(pod("a", 1, 500)),
        Event::Claim(Box::new(claim)),
        told(member("m1")),
        told(member("m2")),
    ];
    let mut simulation = Simulation::new(Time(0), events, [("a".to_owned(), 1000)].into());
    simulation.run(None).unwrap();
    let waits = simulation.waits();
    let said: Vec<_> = waits
        .iter()
        .map(|(uid, wait)| (uid.as_str(), wait.reason.to_string()))
        .collect();
    let words = "1 of 2 pods find a node at once; 0/1 nodes are available: 1 insufficient cpu";
    assert_eq!(said, [("c", words.to_owned())]);
    assert_eq!(
        simulation
            .facts()
            .members(simulation.facts().claim_named("ns", "gang").unwrap())
            .len(),
        2
    );
}
