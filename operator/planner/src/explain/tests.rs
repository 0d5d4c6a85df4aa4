#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use duosuan_scheduler::{
    Settings,
    event::{Gpu, GpuRequest, Group, Level, Location, Node, Operator, Queue, Quota, Requirement, Taint, Topology},
};

use super::*;
use crate::{
    budgets::{Budget, Disruption, Keeps},
    simulation::{NoEdge, Simulation},
};

fn node(name: &str, cpu: i64, gpus: usize) -> Node {
    Node {
        name: name.into(),
        allocatable: [("cpu".into(), cpu), ("pods".into(), 100)].into(),
        gpus: vec![Gpu::default(); gpus],
        ..Node::default()
    }
}

fn pod(name: &str, cpu: i64) -> Pod {
    Pod {
        uid: name.into(),
        namespace: "ns".into(),
        name: name.into(),
        requests: [("cpu".into(), cpu)].into(),
        ours: true,
        ..Pod::default()
    }
}

fn whole(count: u16) -> Option<GpuRequest> {
    Some(GpuRequest {
        count,
        milli: 1000,
        memory: 0,
        models: vec![],
    })
}

/// A claim of one group, and its pods.
fn gang(count: u32, pod: &Pod) -> (Event, Vec<Pod>) {
    let claim = Claim {
        uid: "claim".into(),
        namespace: "ns".into(),
        name: "gang".into(),
        queue: pod.queue.clone(),
        groups: vec![Group {
            name: "g".into(),
            min: count,
            max: count,
            quantum: 1,
            ..Group::default()
        }],
        ..Claim::default()
    };
    let member = |number: u32| Pod {
        uid: format!("m{number}"),
        name: format!("m{number}"),
        claim: Some("gang".into()),
        group: "g".into(),
        ..pod.clone()
    };
    (Event::Claim(Box::new(claim)), (0..count).map(member).collect())
}

fn limited(name: &str, resource: &str, limit: i64) -> Event {
    Event::Queue(Box::new(Queue {
        name: name.into(),
        weight: 1,
        quotas: vec![Quota {
            limit: [(resource.into(), limit)].into(),
            ..Quota::default()
        }],
        ..Queue::default()
    }))
}

fn told(pods: impl IntoIterator<Item = Pod>) -> Vec<Event> {
    pods.into_iter().map(|pod| Event::Pod(Box::new(pod))).collect()
}

fn settled(events: Vec<Event>) -> Simulation {
    let mut simulation = Simulation::new(Time(0), events, BTreeMap::new());
    simulation.run(Some(Time(0))).unwrap();
    simulation
}

fn explained(events: Vec<Event>, target: &Target, effort: u32) -> Explanation {
    let simulation = settled(events);
    let case = Case::of(&simulation);
    explain(case, target, effort).unwrap()
}

fn changes(explanation: &Explanation) -> Vec<String> {
    explanation
        .changes
        .iter()
        .map(|found| found.change.to_string())
        .collect()
}

fn claim() -> Target {
    Target::Claim("claim".into())
}

#[test]
fn a_full_queue_names_what_lacks_in_its_limit_if_that_alone_admits() {
    let (claim_event, pods) = gang(
        2,
        &Pod {
            queue: "q".into(),
            ..pod("m", 3000)
        },
    );
    let nodes = [
        Event::Node(Box::new(node("n", 10_000, 0))),
        limited("q", "cpu", 5000),
        claim_event,
    ];
    let explanation = explained(nodes.into_iter().chain(told(pods)).collect(), &claim(), 100);
    assert_eq!(explanation.reason.as_ref().map(Reason::name), Some("ExceedsLimit"));
    assert_eq!(
        changes(&explanation),
        [
            "500m cpu less per pod of group g",
            "1 cpu more in the prod limit of queue q",
            "1 pod fewer in group g, 1 at least"
        ]
    );
    assert!(explanation.complete);
}

#[test]
fn a_higher_limit_is_not_named_where_the_nodes_would_refuse_all_the_same() {
    let waits = Pod {
        queue: "q".into(),
        ..pod("p", 6000)
    };
    let events = [Event::Node(Box::new(node("n", 5000, 0))), limited("q", "cpu", 4000)];
    let explanation = explained(
        events.into_iter().chain(told([waits])).collect(),
        &Target::Pod("p".into()),
        100,
    );
    assert_eq!(explanation.reason.as_ref().map(Reason::name), Some("ExceedsLimit"));
    assert_eq!(changes(&explanation), ["2 cpu less asked for"]);
}

#[test]
fn as_many_nodes_are_named_as_the_gang_needs_and_no_more() {
    let (claim_event, pods) = gang(
        5,
        &Pod {
            gpus: whole(4),
            ..pod("m", 1000)
        },
    );
    let events = [
        Event::Node(Box::new(node("a", 64_000, 8))),
        Event::Node(Box::new(node("b", 64_000, 4))),
        claim_event,
    ];
    let explanation = explained(events.into_iter().chain(told(pods)).collect(), &claim(), 200);
    let Some(Reason::NoNodeFits { placed: 3, need: 5, .. }) = explanation.reason else {
        unreachable!("{:?}", explanation.reason)
    };
    assert_eq!(
        changes(&explanation),
        [
            "2 pods fewer in group g, 3 at least",
            "one more node like a",
            "2 gpu less per pod of group g"
        ]
    );
    assert_eq!(explanation.pod.as_deref(), Some("m0"));
    assert_eq!(
        explanation
            .classes
            .iter()
            .map(|class| class.example.as_str())
            .collect::<Vec<_>>(),
        ["a", "b"]
    );
}

#[test]
fn what_others_would_take_first_counts() {
    // One more node goes to the older one: only a second admits the younger.
    let older = Pod {
        created: Time(1),
        ..pod("older", 4000)
    };
    let younger = Pod {
        created: Time(2),
        ..pod("younger", 4000)
    };
    let (claim_event, _) = gang(1, &younger);
    let events = [Event::Node(Box::new(node("n", 4000, 0))), claim_event];
    let held = Pod {
        node: Some("n".into()),
        ..pod("runs", 4000)
    };
    let explanation = explained(
        events.into_iter().chain(told([held, older, younger])).collect(),
        &Target::Pod("younger".into()),
        100,
    );
    assert_eq!(
        changes(&explanation),
        ["2 more nodes like n"],
        "the first is the older one's"
    );
    assert!(explanation.tried > 0 && explanation.complete);
}

#[test]
fn a_taint_and_a_selector_that_are_all_that_stands_against_it_are_named() {
    let taint = Taint {
        key: "gpu".into(),
        value: "yes".into(),
        effect: "NoSchedule".into(),
    };
    let tainted = Node {
        taints: vec![taint],
        ..node("n", 4000, 0)
    };
    let target = Target::Pod("p".into());
    let nodes = vec![Event::Node(Box::new(tainted))];
    let explanation = explained(nodes.into_iter().chain(told([pod("p", 1000)])).collect(), &target, 100);
    assert_eq!(changes(&explanation), ["a toleration of taint gpu=yes:NoSchedule"]);

    let choosy = Pod {
        node_terms: vec![vec![Requirement {
            key: "zone".into(),
            operator: Operator::Exists,
            values: vec![],
        }]],
        ..pod("p", 1000)
    };
    let nodes = vec![Event::Node(Box::new(node("n", 4000, 0)))];
    let explanation = explained(nodes.into_iter().chain(told([choosy])).collect(), &target, 100);
    assert_eq!(changes(&explanation), ["no node selector and no node affinity"]);
    assert_eq!(
        explanation.classes.first().unwrap().against.as_deref(),
        Some("node affinity")
    );
}

#[test]
fn a_gang_that_no_rack_holds_is_told_of_nodes_in_one_and_of_preferring_it() {
    let (claim_event, pods) = gang(3, &pod("m", 3000));
    let Event::Claim(mut racked) = claim_event else {
        unreachable!()
    };
    racked.topology = Some(Topology {
        pack: Level::Rack,
        required: true,
    });
    let in_rack = |name: &str, rack: &str| {
        Event::Node(Box::new(Node {
            location: Location {
                rack: Some(rack.to_owned()),
                ..Location::default()
            },
            ..node(name, 4000, 0)
        }))
    };
    let events = vec![
        in_rack("a1", "a"),
        in_rack("a2", "a"),
        in_rack("b1", "b"),
        Event::Claim(racked),
    ];
    let explanation = explained(events.into_iter().chain(told(pods)).collect(), &claim(), 200);
    assert_eq!(explanation.reason.as_ref().map(Reason::name), Some("TopologyTooSmall"));
    let changes = changes(&explanation);
    assert!(changes.contains(&"one more node like a1".to_owned()), "{changes:?}");
    assert!(
        changes.contains(&"the required topology as a preferred one".to_owned()),
        "{changes:?}"
    );
}

#[test]
fn gates_missing_pods_and_a_queue_that_is_not_there_are_named_by_what_ends_them() {
    let nodes = || vec![Event::Node(Box::new(node("n", 9000, 0)))];
    let gated = Pod {
        gated: true,
        ..pod("p", 1000)
    };
    let target = Target::Pod("p".into());
    let said = |pods: Vec<Pod>| {
        changes(&explained(
            nodes().into_iter().chain(told(pods)).collect(),
            &target,
            100,
        ))
    };
    assert_eq!(said(vec![gated]), ["no scheduling gates"]);
    let lost = Pod {
        queue: "q".into(),
        ..pod("p", 1000)
    };
    assert_eq!(said(vec![lost]), ["a queue of the name q"]);
    let (claim_event, mut pods) = gang(3, &pod("m", 1000));
    pods.truncate(1);
    let explanation = explained(
        nodes().into_iter().chain([claim_event]).chain(told(pods)).collect(),
        &claim(),
        100,
    );
    assert_eq!(changes(&explanation), ["2 more pods of group g"]);
}

#[test]
fn the_effort_bounds_the_search_and_says_when_it_did() {
    let (claim_event, pods) = gang(5, &pod("m", 3000));
    let events: Vec<Event> = [Event::Node(Box::new(node("n", 4000, 0))), claim_event]
        .into_iter()
        .chain(told(pods))
        .collect();
    let none = explained(events.clone(), &claim(), 0);
    assert_eq!((none.tried, none.complete, none.changes.len()), (0, false, 0));
    for effort in [1, 2, 3, 5] {
        let some = explained(events.clone(), &claim(), effort);
        assert!(some.tried <= effort && !some.complete, "{effort}");
    }
    let all = explained(events, &claim(), 1000);
    assert!(all.complete && all.tried < 100, "{}", all.tried);
}

#[test]
fn what_is_named_admits_and_a_little_less_does_not() {
    // The promise itself, over gangs of many sizes.
    for (count, cpu, has) in [(2, 1000, 1500), (3, 2000, 4000), (7, 500, 2000), (16, 1000, 3000)] {
        let (claim_event, pods) = gang(count, &pod("m", cpu));
        let nodes: Vec<Event> = vec![Event::Node(Box::new(node("n", has, 0)))];
        let events: Vec<Event> = nodes.into_iter().chain([claim_event]).chain(told(pods)).collect();
        let simulation = settled(events);
        let case = Case::of(&simulation);
        let explanation = explain(case, &claim(), 1000).unwrap();
        assert!(!explanation.changes.is_empty());
        let subject = Subject::of(case, &claim()).unwrap();
        for found in &explanation.changes {
            assert!(
                admitted_after(
                    &mut case.cluster.clone(),
                    case,
                    &claim(),
                    found.change.events(case, &subject)
                ),
                "{}",
                found.change
            );
            let smaller = match found.change.clone() {
                Change::Nodes { like, count } if count > 1 => Change::Nodes { like, count: count - 1 },
                Change::Fewer { group, min, fewer } if fewer > 1 => Change::Fewer {
                    group,
                    min: min + 1,
                    fewer: fewer - 1,
                },
                Change::Less { group, resource, less } if less > 100 => Change::Less {
                    group,
                    resource,
                    less: less - 100,
                },
                _ => continue,
            };
            assert!(
                !admitted_after(
                    &mut case.cluster.clone(),
                    case,
                    &claim(),
                    smaller.events(case, &subject)
                ),
                "{smaller}"
            );
        }
    }
}

#[test]
fn what_runs_has_ended_or_is_unknown_is_told_apart() {
    let ended = Pod {
        finished: true,
        ..pod("ended", 1000)
    };
    let foreign = Pod {
        ours: false,
        ..pod("foreign", 1000)
    };
    let events = vec![Event::Node(Box::new(node("n", 4000, 0)))];
    let simulation = settled(
        events
            .into_iter()
            .chain(told([pod("runs", 1000), ended, foreign]))
            .collect(),
    );
    let case = Case::of(&simulation);
    let state = |uid: &str| explain(case, &Target::Pod(uid.into()), 10).map(|explanation| explanation.state);
    assert_eq!(state("runs"), Some(State::Runs));
    assert_eq!(state("ended"), Some(State::Ended));
    assert_eq!(state("foreign"), Some(State::OfAnother));
    assert_eq!(state("nobody"), None);
    assert!(explain(case, &claim(), 10).is_none());
}

#[test]
fn a_change_admits_only_if_no_budget_keeps_those_who_would_have_to_go() {
    let kept = Pod {
        node: Some("n".into()),
        ..pod("kept", 600)
    };
    let urgent = Pod {
        priority: 10,
        ..pod("urgent", 2000)
    };
    let less = |keeps: Keeps| {
        let budget = Budget {
            namespace: "ns".into(),
            name: "b".into(),
            selector: Some(vec![]),
            keeps,
            unready_may_go: false,
        };
        let disruption = Disruption {
            budgets: vec![budget],
            ..Disruption::default()
        };
        let node = Event::Node(Box::new(node("n", 1000, 0)));
        let events = [vec![node], told([kept.clone(), urgent.clone()])].concat();
        let mut simulation = Simulation::behind(
            NoEdge,
            disruption,
            Settings::default(),
            Time(0),
            events,
            BTreeMap::new(),
        );
        simulation.run(Some(Time(0))).unwrap();
        let explanation = explain(Case::of(&simulation), &Target::Pod("urgent".into()), 1000).unwrap();
        let less = explanation.changes.iter().find_map(|found| match found.change {
            Change::Less { less, .. } => Some(less),
            _ => None,
        });
        less.unwrap()
    };
    assert_eq!((less(Keeps::Healthy(0)), less(Keeps::All)), (1000, 1600));
}
