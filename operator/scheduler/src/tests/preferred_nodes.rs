//! Preferred node affinity: a pod goes where most of its wishes come true, of the nodes that have room.

use super::fixtures::*;
use crate::event::{NODE_NAME, Node, Operator, Pod, PreferredNodes, Requirement, Taint, Term};

fn is(key: &str, value: &str) -> Term {
    vec![Requirement {
        key: key.into(),
        operator: Operator::In,
        values: vec![value.into()],
    }]
}

fn prefers(weight: i32, term: Term) -> PreferredNodes {
    PreferredNodes { weight, term }
}

fn labelled(name: &str, labels: &[(&str, &str)]) -> Node {
    let mut node = node(name, 4);
    let labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into()));
    node.labels.extend(labels);
    node
}

/// The nodes that pods like this one go to, one after the other.
fn go(nodes: Vec<Node>, preferred: Vec<PreferredNodes>, pods: usize) -> Vec<String> {
    let mut world = World::with(nodes.into_iter().map(Into::into));
    let mut went = Vec::new();
    for i in 0..pods {
        world.tell(Pod {
            preferred_nodes: preferred.clone(),
            ..pod(&format!("p{i}"), 2000)
        });
        went.extend(binds(&world.run()).iter().map(|(_, node)| (*node).to_owned()));
    }
    went
}

#[test]
fn the_preferred_node_is_taken_while_it_has_room_however_full_it_is() {
    let nodes = || vec![node("a", 4), labelled("b", &[("disk", "ssd")]), node("c", 4)];
    assert_eq!(go(nodes(), vec![], 3), ["a", "b", "c"]);
    assert_eq!(
        go(nodes(), vec![prefers(1, is("disk", "ssd"))], 4),
        ["b", "b", "a", "c"]
    );
}

#[test]
fn the_weights_of_all_that_a_node_meets_are_added() {
    let nodes = vec![
        labelled("a", &[("disk", "ssd")]),
        labelled("b", &[("zone", "z"), ("rack", "r")]),
    ];
    let preferred = vec![
        prefers(50, is("disk", "ssd")),
        prefers(30, is("zone", "z")),
        prefers(21, is("rack", "r")),
    ];
    assert_eq!(go(nodes, preferred, 1), ["b"]);
}

#[test]
fn a_node_can_be_preferred_by_name_and_a_preference_without_requirements_is_none() {
    let nodes = vec![node("a", 4), node("b", 4)];
    let preferred = vec![prefers(100, vec![]), prefers(1, is(NODE_NAME, "b"))];
    assert_eq!(go(nodes, preferred, 1), ["b"]);
}

#[test]
fn a_taint_that_would_rather_have_others_counts_for_more() {
    let mut nodes = vec![node("a", 4), labelled("b", &[("disk", "ssd")])];
    nodes[1].taints = vec![Taint {
        key: "k".into(),
        value: String::new(),
        effect: "PreferNoSchedule".into(),
    }];
    assert_eq!(go(nodes, vec![prefers(100, is("disk", "ssd"))], 1), ["a"]);
}

/// A claim's group said so in vain.
#[test]
fn what_a_group_prefers_is_added_to_what_its_pods_prefer() {
    let mut world = World::with([
        labelled("a", &[("disk", "ssd")]).into(),
        labelled("b", &[("zone", "z")]).into(),
        labelled("c", &[("zone", "z"), ("disk", "ssd")]).into(),
    ]);
    let mut of = claim("gang", "", &[("w", 2, 2, 1)]);
    of.groups[0].preferred_nodes = vec![prefers(2, is("zone", "z"))];
    world.tell(of);
    for uid in ["w-0", "w-1"] {
        world.tell(Pod {
            preferred_nodes: vec![prefers(1, is("disk", "ssd"))],
            ..member(uid, "gang", "w", 3000)
        });
    }
    assert_eq!(binds(&world.run()), [("w-0", "c"), ("w-1", "b")]);
}

#[test]
fn labels_that_come_later_count_from_then_on() {
    let mut world = World::with([node("a", 4).into(), node("b", 4).into()]);
    let wish = |uid: &str| Pod {
        preferred_nodes: vec![prefers(1, is("disk", "ssd"))],
        ..pod(uid, 1000)
    };
    world.tell(wish("p0"));
    assert_eq!(binds(&world.run()), [("p0", "a")]);
    world.tell(labelled("b", &[("disk", "ssd")]));
    for uid in ["p1", "p2"] {
        world.tell(wish(uid));
    }
    assert_eq!(binds(&world.run()), [("p1", "b"), ("p2", "b")]);
}
