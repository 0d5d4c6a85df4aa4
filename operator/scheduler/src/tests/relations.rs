//! Pod affinity, anti-affinity and topology spread: where other pods let a pod sit.

use std::collections::BTreeMap;

use super::fixtures::*;
use crate::{
    Budget, Cluster, Decision, Event, Reason, Time, cycle,
    event::{Namespace, Node, Operator, Pod, PodRules, PodTerm, Preference, Requirement, Spread, Term},
};

pub(super) const ZONE: &str = "zone";
pub(super) const HOST: &str = "host";

pub(super) fn labels(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

pub(super) fn is(key: &str, value: &str) -> Term {
    vec![Requirement {
        key: key.into(),
        operator: Operator::In,
        values: vec![value.into()],
    }]
}

fn term(key: &str, selector: Term) -> PodTerm {
    PodTerm {
        topology_key: key.into(),
        selector: Some(selector),
        ..Default::default()
    }
}

fn spread(key: &str, selector: Term) -> Spread {
    Spread {
        topology_key: key.into(),
        max_skew: 1,
        required: true,
        selector: Some(selector),
        min_domains: 1,
        honor_affinity: true,
        honor_taints: false,
    }
}

fn zoned(name: &str, zone: &str) -> Node {
    Node {
        labels: labels(&[(ZONE, zone), (HOST, name)]),
        ..node(name, 8)
    }
}

fn app(uid: &str, app: &str, rules: PodRules) -> Pod {
    Pod {
        labels: labels(&[("app", app)]),
        rules: Some(Box::new(rules)),
        ..pod(uid, 100)
    }
}

fn near(key: &str, other: &str) -> PodRules {
    PodRules {
        affinity: vec![term(key, is("app", other))],
        ..Default::default()
    }
}

pub(super) fn apart(key: &str, other: &str) -> PodRules {
    PodRules {
        anti_affinity: vec![term(key, is("app", other))],
        ..Default::default()
    }
}

fn spread_by(key: &str, name: &str) -> PodRules {
    PodRules {
        spread: vec![spread(key, is("app", name))],
        ..Default::default()
    }
}

/// Two zones of two nodes.
fn world() -> World {
    World::with([("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")].map(|(name, zone)| zoned(name, zone).into()))
}

fn zones(decisions: &[Decision]) -> Vec<(&str, &str)> {
    binds(decisions)
        .into_iter()
        .map(|(pod, node)| (pod, &node[..1]))
        .collect()
}

#[test]
fn the_first_of_a_series_that_wants_itself_is_let_in_and_the_others_follow_it() {
    let mut world = world();
    for i in 0..6 {
        world.tell(app(&format!("p{i}"), "x", near(ZONE, "x")));
    }
    let said = world.run();
    let zones: Vec<&str> = zones(&said).into_iter().map(|(_, zone)| zone).collect();
    assert_eq!(zones.len(), 6);
    assert!(zones.iter().all(|zone| *zone == zones[0]), "{zones:?}");
}

#[test]
fn a_pod_that_waits_for_another_is_let_in_by_it_in_the_same_cycle() {
    let mut world = world();
    world.tell(app("follows", "y", near(ZONE, "x")));
    let said = world.run();
    let reason = world.reason(&said, "follows");
    assert!(
        matches!(&reason, Some(Reason::NoNodeFits { constraint, .. }) if constraint == "pod affinity"),
        "{reason:?}"
    );
    let leader = Pod {
        node_terms: vec![is(ZONE, "b")],
        created: Time(9),
        ..app("leads", "x", PodRules::default())
    };
    world.tell(leader);
    let said = world.run();
    assert_eq!(zones(&said), [("leads", "b"), ("follows", "b")]);
}

#[test]
fn only_who_hopes_for_the_new_pod_is_tried_again() {
    let mut world = world();
    world.tell(app("follows", "y", near(ZONE, "x")));
    for i in 0..50 {
        world.tell(pod(&format!("huge{i}"), 100_000));
    }
    world.run();
    let before = world.cluster.index.work;
    let freed = world.cluster.model.freed;
    world.tell(app("other", "z", PodRules::default()));
    assert_eq!(binds(&world.run()).len(), 1);
    assert!(!world.cluster.model.hopes.is_empty());
    world.tell(app("leads", "x", PodRules::default()));
    assert_eq!(binds(&world.run()).len(), 2);
    assert!(world.cluster.model.hopes.is_empty());
    assert_eq!(world.cluster.model.freed, freed);
    let visited = world.cluster.index.work.nodes_visited - before.nodes_visited;
    assert!(
        visited <= 20,
        "{visited} nodes for three pods, two of them of new shapes"
    );
}

#[test]
fn those_who_repel_others_keep_them_out_and_are_kept_out_by_them() {
    for order in [["shy", "loud"], ["loud", "shy"]] {
        let mut world = World::with([zoned("a1", "a").into(), zoned("a2", "a").into()]);
        for name in order {
            world.tell(match name {
                "shy" => app("shy", "shy", apart(ZONE, "loud")),
                _ => app("loud", "loud", PodRules::default()),
            });
            world.run();
        }
        let seated = |name: &str| world.cluster.seat_of_pod(name).is_some();
        assert_eq!((seated(order[0]), seated(order[1])), (true, false));
        // Once the first is gone, the other has its place.
        world.tell(Event::PodGone(order[0].into()));
        assert_eq!(binds(&world.run()).len(), 1);
    }
}

#[test]
fn a_node_that_goes_takes_its_pods_claims_on_the_zone_along() {
    let mut world = world();
    world.tell(Pod {
        node: Some("a1".into()),
        ..app("shy", "shy", apart(ZONE, "loud"))
    });
    let loud = Pod {
        node_terms: vec![is(ZONE, "a")],
        ..app("loud", "loud", PodRules::default())
    };
    world.tell(loud);
    assert_eq!(binds(&world.run()), []);
    world.tell(Event::NodeGone("a1".into()));
    assert_eq!(binds(&world.run()), [("loud", "a2")]);
}

#[test]
fn pods_that_keep_apart_from_each_other_get_a_node_each() {
    let mut world = world();
    for i in 0..5 {
        world.tell(app(&format!("p{i}"), "x", apart(HOST, "x")));
    }
    let said = world.run();
    let mut nodes: Vec<&str> = binds(&said).into_iter().map(|(_, node)| node).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["a1", "a2", "b1", "b2"]);
    assert!(world.reason(&said, "p4").is_some());
}

#[test]
fn spread_pods_fill_the_zones_evenly_and_skip_nodes_without_the_label() {
    let mut world = world();
    world.tell(node("nowhere", 64));
    for i in 0..8 {
        world.tell(app(&format!("p{i}"), "x", spread_by(ZONE, "x")));
    }
    let said = world.run();
    let zones = zones(&said);
    assert_eq!(zones.len(), 8);
    for i in 0..4 {
        assert_ne!(zones[2 * i].1, zones[2 * i + 1].1, "{zones:?}");
    }
}

#[test]
fn a_zone_that_is_full_holds_the_others_back_and_a_zone_that_goes_does_not() {
    let mut world = world();
    for name in ["a1", "a2"] {
        world.tell(Node {
            allocatable: amounts(&[("cpu", 50), ("memory", GI), ("pods", 9)]),
            ..zoned(name, "a")
        });
    }
    for i in 0..3 {
        world.tell(app(&format!("p{i}"), "x", spread_by(ZONE, "x")));
    }
    assert_eq!(
        binds(&world.run()).len(),
        1,
        "a second one in zone b would be two more than in a"
    );
    world.tell(Event::NodeGone("a1".into()));
    assert_eq!(binds(&world.run()), []);
    world.tell(Event::NodeGone("a2".into()));
    assert_eq!(binds(&world.run()).len(), 2);
}

#[test]
fn fewer_parts_than_are_asked_for_count_as_an_empty_one_more() {
    let rules = |min_domains| PodRules {
        spread: vec![Spread {
            min_domains,
            ..spread(ZONE, is("app", "x"))
        }],
        ..Default::default()
    };
    for (min_domains, placed) in [(2, 6), (3, 2)] {
        let mut world = world();
        for i in 0..6 {
            world.tell(app(&format!("p{i}"), "x", rules(min_domains)));
        }
        assert_eq!(binds(&world.run()).len(), placed, "{min_domains}");
    }
}

#[test]
fn pods_that_are_being_deleted_are_not_counted_where_pods_are_spread() {
    let mut world = world();
    let there = Pod {
        node: Some("a1".into()),
        ..app("old", "x", PodRules::default())
    };
    world.tell(there.clone());
    let asks = Pod {
        node_terms: vec![is(ZONE, "a")],
        ..app("new", "x", spread_by(HOST, "x"))
    };
    world.tell(Node {
        unschedulable: true,
        ..zoned("a2", "a")
    });
    world.tell(asks);
    assert_eq!(binds(&world.run()), []);
    world.tell(Pod {
        terminating: true,
        ..there
    });
    assert_eq!(binds(&world.run()), [("new", "a1")]);
}

#[test]
fn what_is_preferred_decides_among_the_places_that_there_are() {
    let wish = |weight| PodRules {
        preferences: vec![Preference {
            weight,
            term: term(ZONE, is("app", "x")),
        }],
        ..Default::default()
    };
    let mut world = world();
    world.tell(Pod {
        node: Some("a1".into()),
        ..app("there", "x", PodRules::default())
    });
    world.tell(app("likes", "likes", wish(1)));
    world.tell(app("minds", "minds", wish(-1)));
    let evenly = PodRules {
        spread: vec![Spread {
            required: false,
            ..spread(ZONE, is("app", "x"))
        }],
        ..Default::default()
    };
    world.tell(app("spreads", "spreads", evenly));
    assert_eq!(zones(&world.run()), [("likes", "a"), ("minds", "b"), ("spreads", "b")]);
    // Whoever is liked by those who are there goes to them.
    world.tell(Pod {
        node: Some("b2".into()),
        ..app(
            "fan",
            "fan",
            PodRules {
                preferences: vec![Preference {
                    weight: 50,
                    term: term(HOST, is("app", "star")),
                }],
                ..Default::default()
            },
        )
    });
    world.tell(app("star", "star", PodRules::default()));
    assert_eq!(binds(&world.run()), [("star", "b2")]);
}

#[test]
fn terms_reach_into_the_namespaces_that_they_select_as_these_are_labelled_now() {
    let rules = PodRules {
        anti_affinity: vec![PodTerm {
            namespace_selector: Some(is("team", "red")),
            ..term(ZONE, is("app", "x"))
        }],
        ..Default::default()
    };
    let namespace = |team: &str| {
        Event::Namespace(Box::new(Namespace {
            name: "theirs".into(),
            labels: labels(&[("team", team)]),
        }))
    };
    let mut world = world();
    for (name, zone) in [("a1", "a"), ("b1", "b")] {
        world.tell(Pod {
            namespace: "theirs".into(),
            node: Some(name.into()),
            ..app(&format!("there-{zone}"), "x", PodRules::default())
        });
    }
    world.tell(namespace("red"));
    world.tell(app("asks", "asks", rules));
    assert_eq!(binds(&world.run()), []);
    world.tell(namespace("blue"));
    assert_eq!(binds(&world.run()).len(), 1);
    // And the other way: pods of that namespace are kept out again once it is red.
    world.tell(namespace("red"));
    let other = Pod {
        namespace: "theirs".into(),
        node_terms: vec![is(ZONE, "a")],
        ..app("comes", "x", PodRules::default())
    };
    world.tell(other);
    let said = world.run();
    assert_eq!(binds(&said), []);
    world.tell(Event::NamespaceGone("theirs".into()));
    assert_eq!(binds(&world.run()).len(), 1);
}

#[test]
fn members_of_a_gang_let_each_other_in_whatever_their_order() {
    let mut world = world();
    world.tell(claim("c", "", &[("a", 1, 1, 1), ("b", 1, 1, 1)]));
    world.tell(Pod {
        rules: Some(Box::new(near(HOST, "x"))),
        ..member("follows", "c", "a", 100)
    });
    world.tell(Pod {
        labels: labels(&[("app", "x")]),
        ..member("leads", "c", "b", 100)
    });
    let said = world.run();
    let nodes: Vec<&str> = binds(&said).into_iter().map(|(_, node)| node).collect();
    assert_eq!(nodes.len(), 2);
    assert_eq!(nodes[0], nodes[1]);
}

#[test]
fn a_gang_whose_members_keep_apart_leaves_no_pod_behind_where_it_cannot_fit() {
    let mut world = world();
    world.tell(claim("c", "", &[("a", 5, 5, 1)]));
    for i in 0..5 {
        world.tell(Pod {
            labels: labels(&[("app", "x")]),
            rules: Some(Box::new(apart(HOST, "x"))),
            ..member(&format!("p{i}"), "c", "a", 100)
        });
    }
    let said = world.run();
    assert_eq!(binds(&said), []);
    assert!(world.cluster.model.nodes.iter().all(|(_, node)| node.marks.is_empty()));
}

#[test]
fn when_all_who_relate_are_gone_nothing_is_left_of_their_relations() {
    let mut world = world();
    for (i, rules) in [near(ZONE, "x"), apart(HOST, "x"), spread_by(ZONE, "x")]
        .into_iter()
        .enumerate()
    {
        world.tell(app(&format!("p{i}"), "x", rules));
        world.run();
    }
    for i in 0..3 {
        world.tell(Event::PodGone(format!("p{i}")));
    }
    let model = &world.cluster.model;
    assert!(model.marks.is_empty() && model.hopes.is_empty());
    assert!(model.nodes.iter().all(|(_, node)| node.marks.is_empty()));
}

/// The pods looked at, and the shapes whose lists are built, stay what they are on more nodes.
#[test]
fn the_cost_of_a_pod_does_not_grow_with_the_nodes() {
    let visited = |nodes: usize, rules: &dyn Fn() -> PodRules| {
        let mut cluster = Cluster::default();
        for i in 0..nodes {
            cluster.apply(zoned(&format!("n{i:05}"), ["a", "b", "c"][i % 3]).into());
        }
        cluster.apply(app("first", "x", rules()).into());
        cycle(&mut cluster, Time(0), Budget::default());
        let before = cluster.work();
        for i in 0..300 {
            cluster.apply(app(&format!("p{i}"), "x", rules()).into());
            cycle(&mut cluster, Time(i), Budget::default());
        }
        assert_eq!(cluster.pods().bound, 301);
        let after = cluster.work();
        (
            (after.nodes_visited - before.nodes_visited) / 300,
            after.shapes_built - before.shapes_built,
        )
    };
    let cases: [(&str, &dyn Fn() -> PodRules); 4] = [
        ("near in a zone", &|| near(ZONE, "x")),
        ("apart by host", &|| apart(HOST, "x")),
        ("spread over zones", &|| spread_by(ZONE, "x")),
        ("spread over hosts", &|| spread_by(HOST, "x")),
    ];
    for (what, rules) in cases {
        let (few, many) = (visited(600, rules), visited(4800, rules));
        assert_eq!(few, many, "{what}");
        assert!(few.0 <= 2 && few.1 <= 1, "{what}: {few:?}");
    }
}
