#![allow(clippy::unwrap_used, reason = "tests")]

use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::translate::node::Load;

fn node(batch: i64) -> event::Node {
    event::Node {
        name: "n".into(),
        allocatable: [(RESOURCE_BATCH_CPU.to_owned(), batch)].into(),
        ..event::Node::default()
    }
}

fn report(millis: i64) -> Report {
    Report {
        time: Some(Timestamp::from_millisecond(millis).unwrap()),
        policy: Some("p".into()),
        load: Load::default(),
        answer: Answer::Follows,
        closed: false,
        gpus: vec![],
        numa: vec![],
    }
}

fn stale(event: Option<Event>) -> Option<bool> {
    match event {
        Some(Event::Node(node)) => Some(node.stale),
        _ => None,
    }
}

#[test]
fn a_report_that_does_not_come_any_more_makes_the_node_stale_and_a_new_one_fresh() {
    let mut nodes = Nodes {
        reports_served: true,
        ..Nodes::default()
    };
    assert_eq!(stale(nodes.node(node(1000), Time(0))), Some(true), "no report yet");
    assert_eq!(stale(nodes.report("n".into(), Some(report(0)), Time(0))), Some(false));
    assert!(nodes.aged(Time(EXPIRE)).is_empty());
    assert_eq!(stale(nodes.aged(Time(EXPIRE + 1)).pop()), Some(true));
    assert!(nodes.aged(Time(EXPIRE + 2)).is_empty(), "said once");
    // The agent's clock is an hour behind, but its word is new.
    assert_eq!(
        stale(nodes.report("n".into(), Some(report(1)), Time(EXPIRE + 3))),
        Some(false)
    );
}

#[test]
fn a_policy_says_how_long_a_report_is_believed() {
    let mut nodes = Nodes {
        reports_served: true,
        ..Nodes::default()
    };
    let rules = Rules {
        expire: Some(1000),
        ..Rules::default()
    };
    nodes.policy("p".into(), Some(rules));
    nodes.node(node(1000), Time(0));
    nodes.report("n".into(), Some(report(0)), Time(0));
    assert_eq!(stale(nodes.aged(Time(1001)).pop()), Some(true));
}

#[test]
fn a_node_that_lends_nothing_and_a_cluster_without_reports_are_never_stale() {
    let mut nodes = Nodes {
        reports_served: true,
        ..Nodes::default()
    };
    assert_eq!(stale(nodes.node(node(0), Time(0))), Some(false));
    let mut nodes = Nodes::default();
    assert_eq!(stale(nodes.node(node(1000), Time(0))), Some(false));
}

fn batch(event: Option<Event>) -> Option<i64> {
    match event {
        Some(Event::Node(node)) => node.allocatable.get(RESOURCE_BATCH_CPU).copied(),
        _ => None,
    }
}

#[test]
fn a_raise_counts_when_it_has_stood_and_a_lowering_at_once() {
    let mut nodes = Nodes::default();
    assert_eq!(batch(nodes.node(node(200), Time(0))), Some(200), "first seen");
    assert_eq!(batch(nodes.node(node(300), Time(1000))), Some(200));
    assert_eq!(batch(nodes.node(node(400), Time(2000))), Some(200));
    assert!(nodes.aged(Time(3999)).is_empty());
    assert_eq!(
        batch(nodes.aged(Time(4000)).pop()),
        Some(300),
        "raises do not delay older ones"
    );
    assert_eq!(batch(nodes.node(node(350), Time(4500))), Some(300));
    assert_eq!(
        batch(nodes.aged(Time(5000)).pop()),
        Some(350),
        "stood since the raise to 400"
    );
    assert!(nodes.aged(Time(9000)).is_empty(), "said once");
    assert_eq!(batch(nodes.node(node(100), Time(9000))), Some(100));
    assert_eq!(batch(nodes.node(node(300), Time(9100))), Some(100), "lent again");
    assert_eq!(
        batch(nodes.report("n".into(), Some(report(0)), Time(12_100))),
        Some(300)
    );
}

#[test]
fn a_node_that_evicted_batch_lends_none_until_it_takes_new_batch_again() {
    let mut nodes = Nodes::default();
    nodes.node(node(1000), Time(0));
    let told = |closed, millis| {
        let report = report(millis);
        Some(Report { closed, ..report })
    };
    assert_eq!(nodes.report("n".into(), told(false, 0), Time(0)), None);
    assert_eq!(batch(nodes.report("n".into(), told(true, 1), Time(1))), Some(0));
    assert_eq!(nodes.report("n".into(), told(true, 2), Time(2)), None, "said once");
    assert_eq!(batch(nodes.node(node(900), Time(3))), Some(0));
    // The amount has stood all the time, so that the kubelet knows it.
    assert_eq!(batch(nodes.report("n".into(), told(false, 4), Time(4))), Some(900));
}

#[test]
fn a_node_that_evicted_mid_lends_no_mid_so_that_the_successor_does_not_come_back_into_the_hole() {
    let mut nodes = Nodes::default();
    let lends_mid = event::Node {
        allocatable: [
            (RESOURCE_MID_CPU.to_owned(), 4_000),
            (RESOURCE_MID_MEMORY.to_owned(), 8 << 30),
        ]
        .into(),
        ..node(0)
    };
    nodes.node(lends_mid, Time(0));
    let report = Report {
        closed: true,
        ..report(1)
    };
    let Some(Event::Node(seen)) = nodes.report("n".into(), Some(report), Time(1)) else {
        unreachable!()
    };
    assert!(seen.allocatable.values().all(|amount| *amount == 0), "{seen:?}");
}

#[test]
fn a_heartbeat_is_no_news_and_reported_gpus_and_numa_nodes_are() {
    let mut nodes = Nodes::default();
    assert!(nodes.node(node(1), Time(0)).is_some());
    assert_eq!(nodes.node(node(1), Time(1)), None);
    let gpu = Gpu {
        model: "A100".into(),
        ..Gpu::default()
    };
    let with_gpu = Report {
        gpus: vec![gpu.clone()],
        numa: vec![NumaNode::default()],
        ..report(0)
    };
    let Some(Event::Node(seen)) = nodes.report("n".into(), Some(with_gpu.clone()), Time(2)) else {
        unreachable!()
    };
    assert_eq!(
        (seen.gpus.as_slice(), seen.numa.as_slice()),
        ([gpu].as_slice(), [NumaNode::default()].as_slice())
    );
    assert_eq!(nodes.report("n".into(), Some(with_gpu), Time(3)), None);
    assert_eq!(nodes.followers("p"), [("n", &Answer::Follows)]);
}

#[test]
fn images_that_a_node_gets_are_news() {
    let mut nodes = Nodes::default();
    nodes.node(node(1), Time(0));
    let holds = || event::Node {
        images: [("llm:7b".to_owned(), 9 << 30)].into(),
        ..node(1)
    };
    let Some(Event::Node(seen)) = nodes.node(holds(), Time(1)) else {
        unreachable!()
    };
    assert_eq!(seen.images, holds().images);
    assert_eq!(nodes.node(holds(), Time(2)), None);
}

#[test]
fn a_node_over_the_line_of_its_policy_is_hot_until_it_is_well_below_or_not_known_any_more() {
    let mut nodes = Nodes {
        reports_served: true,
        ..Nodes::default()
    };
    let lines = Lines {
        cpu: Some(80),
        memory: None,
    };
    let rules = Rules {
        expire: Some(60_000),
        lines,
        ..Rules::default()
    };
    nodes.policy("p".into(), Some(rules));
    nodes.node(node(0), Time(0));
    let hot = |event: Option<Event>| match event {
        Some(Event::Node(node)) => Some(node.hot),
        _ => None,
    };
    let mut now = 0;
    let mut report = |nodes: &mut Nodes, cpu, memory| {
        now += 1000;
        let report = Report {
            load: Load {
                cpu: Some(cpu),
                memory: Some(memory),
            },
            ..report(now)
        };
        hot(nodes.report("n".into(), Some(report), Time(now)))
    };
    assert_eq!(
        report(&mut nodes, 800, 1000),
        Some(false),
        "at the line, and memory has none; its load is told"
    );
    assert_eq!(report(&mut nodes, 801, 0), Some(true));
    assert_eq!(report(&mut nodes, 751, 0), None, "it does not swing");
    assert_eq!(report(&mut nodes, 750, 0), Some(false));
    assert_eq!(report(&mut nodes, 900, 0), Some(true));
    assert_eq!(nodes.aged(Time(60_000)), []);
    assert_eq!(hot(nodes.aged(Time(66_000)).pop()), Some(false), "too old to be known");
    assert_eq!(report(&mut nodes, 900, 0), Some(true));
    nodes.policy("p".into(), None);
    assert_eq!(hot(nodes.aged(Time(6_000)).pop()), Some(false), "nobody draws a line");
}

#[test]
fn the_load_of_a_node_is_told_in_eighths_of_the_line_that_is_nearest_and_only_when_it_is_another() {
    let mut nodes = Nodes {
        reports_served: true,
        ..Nodes::default()
    };
    let rules = |cpu, memory| Rules {
        expire: Some(60_000),
        lines: Lines { cpu, memory },
        ..Rules::default()
    };
    nodes.policy("p".into(), Some(rules(Some(80), Some(50))));
    nodes.node(node(0), Time(0));
    let load = |event: Option<Event>| match event {
        Some(Event::Node(node)) => Some(node.load),
        _ => None,
    };
    let mut now = 0;
    let mut report = |nodes: &mut Nodes, cpu, memory| {
        now += 1000;
        let report = Report {
            load: Load { cpu, memory },
            ..report(now)
        };
        load(nodes.report("n".into(), Some(report), Time(now)))
    };
    // An eighth of the line is 100 of CPU and 62.5 of memory.
    assert_eq!(report(&mut nodes, Some(250), Some(0)), Some(Some(2)));
    for still in [299, 349, 200, 150] {
        assert_eq!(report(&mut nodes, Some(still), Some(0)), None, "half a step is none");
    }
    assert_eq!(report(&mut nodes, Some(350), Some(0)), Some(Some(3)));
    assert_eq!(report(&mut nodes, Some(249), Some(0)), Some(Some(2)));
    assert_eq!(
        report(&mut nodes, Some(250), Some(480)),
        Some(Some(7)),
        "memory is nearer"
    );
    assert_eq!(report(&mut nodes, Some(250), None), Some(None), "that may be as near");
    assert_eq!(report(&mut nodes, Some(2), Some(2)), Some(Some(0)));
    assert_eq!(load(nodes.aged(Time(71_000)).pop()), Some(None), "too old to be known");
    assert_eq!(report(&mut nodes, Some(2), Some(2)), Some(Some(0)));
    nodes.policy("p".into(), Some(rules(None, None)));
    assert_eq!(load(nodes.aged(Time(12_000)).pop()), Some(None), "nobody draws a line");
}
