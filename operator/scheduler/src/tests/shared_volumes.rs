//! What volumes do to placement: those that several pods use count once on a node, as kube-scheduler counts them.

use super::fixtures::*;
use crate::{
    Budget, Cluster, Decision, Reason, Time, cycle,
    event::{NODE_NAME, Node, Operator, Pod, PodRules, Requirement, Spread},
};

/// A node that attaches so many volumes.
fn with_disks(name: &str, disks: i64) -> Node {
    let mut node = node(name, 64);
    node.allocatable.insert("disks".into(), disks);
    node
}

/// A pod that shares these volumes, and has so many of its own.
fn using(uid: &str, shared: &[&str], own: i64) -> Pod {
    let mut pod = pod(uid, 100);
    pod.requests.insert("disks".into(), own);
    pod.shared_volumes = volumes(shared);
    pod
}

fn lacks(world: &World, decisions: &[Decision], pod: &str) -> bool {
    matches!(world.reason(decisions, pod), Some(Reason::NoNodeFits { .. }))
}

#[test]
fn a_volume_that_several_pods_of_a_node_use_counts_once() {
    let mut world = World::with([with_disks("n", 1).into()]);
    for uid in ["a", "b", "c"] {
        world.tell(using(uid, &["v"], 0));
    }
    assert_eq!(binds(&world.run()), [("a", "n"), ("b", "n"), ("c", "n")]);
    world.tell(using("other", &["w"], 0));
    let decisions = world.run();
    assert!(lacks(&world, &decisions, "other"), "the node is full: {decisions:?}");
    // It has room when the last one is gone that uses the volume, and not before.
    for (gone, left) in [("a", true), ("b", true), ("c", false)] {
        world.tell(crate::Event::PodGone(gone.into()));
        assert_eq!(binds(&world.run()).is_empty(), left, "after {gone}");
    }
}

#[test]
fn volumes_of_its_own_and_shared_ones_have_to_have_room_together() {
    let mut world = World::with([with_disks("n", 3).into()]);
    world.tell(using("a", &["v"], 1));
    assert_eq!(binds(&world.run()), [("a", "n")]);
    world.tell(using("two-more", &["w"], 1));
    let decisions = world.run();
    assert!(lacks(&world, &decisions, "two-more"), "{decisions:?}");
    world.tell(using("one-more", &["v"], 1));
    assert_eq!(binds(&world.run()), [("one-more", "n")]);
    world.tell(using("none-more", &["v"], 0));
    assert_eq!(
        binds(&world.run()),
        [("none-more", "n")],
        "on a node that is exactly full"
    );
}

#[test]
fn pods_that_share_what_is_there_fit_on_a_node_that_is_over_its_limit() {
    let mut world = World::with([with_disks("n", 0).into()]);
    world.tell(Pod {
        node: Some("n".into()),
        ..using("there", &["v"], 0)
    });
    world.tell(using("a", &["v"], 0));
    assert_eq!(binds(&world.run()), [("a", "n")]);
}

#[test]
fn a_gang_that_shares_a_volume_finds_the_node_that_can_attach_one_more() {
    let mut world = World::with([with_disks("full", 0).into(), with_disks("room", 1).into()]);
    world.tell(claim("c", "", &[("w", 3, 3, 1)]));
    for uid in ["c-0", "c-1", "c-2"] {
        world.tell(Pod {
            shared_volumes: volumes(&["v"]),
            ..member(uid, "c", "w", 100)
        });
    }
    assert_eq!(binds(&world.run()), [("c-0", "room"), ("c-1", "room"), ("c-2", "room")]);
}

/// One that becomes shared is told anew of each pod that uses it.
#[test]
fn a_volume_that_becomes_shared_counts_once_from_then_on() {
    let mut world = World::with([with_disks("n", 1).into()]);
    world.tell(using("a", &[], 1));
    assert_eq!(binds(&world.run()), [("a", "n")]);
    let bound = world.pods["a"].clone();
    world.tell(using("b", &["v"], 0));
    assert!(binds(&world.run()).is_empty());
    world.tell(Pod {
        requests: pod("a", 100).requests,
        shared_volumes: volumes(&["v"]),
        ..bound
    });
    assert_eq!(binds(&world.run()), [("b", "n")]);
}

/// With those nodes left out, the zone of its volume would seem to be the emptiest there is.
#[test]
fn where_volumes_can_be_used_does_not_say_over_which_nodes_pods_are_spread() {
    let zoned = |name: &str| {
        let mut node = node(name, 64);
        node.labels = [("zone".to_owned(), name.to_owned())].into();
        node
    };
    let within = |key: &str, value: &str| {
        vec![Requirement {
            key: key.into(),
            operator: Operator::In,
            values: vec![value.into()],
        }]
    };
    let mut world = World::with([zoned("a").into(), zoned("b").into()]);
    let labels = [("app".to_owned(), "x".to_owned())];
    world.tell(Pod {
        node: Some("a".into()),
        labels: labels.clone().into(),
        ..pod("there", 100)
    });
    let spread = Spread {
        topology_key: "zone".into(),
        max_skew: 1,
        required: true,
        selector: Some(within("app", "x")),
        min_domains: 1,
        honor_affinity: true,
        honor_taints: false,
    };
    let rules = PodRules {
        spread: vec![spread],
        ..PodRules::default()
    };
    let spread = Pod {
        labels: labels.into(),
        rules: Some(Box::new(rules)),
        ..pod("spread", 100)
    };
    world.tell(Pod {
        volume_terms: vec![within("zone", "a")],
        ..spread.clone()
    });
    let decisions = world.run();
    assert!(lacks(&world, &decisions, "spread"), "{decisions:?}");
    world.tell(Pod {
        node_terms: vec![within("zone", "a")],
        ..spread
    });
    assert_eq!(binds(&world.run()), [("spread", "a")]);
}

#[test]
fn a_pod_that_is_bound_and_told_without_its_volumes_places_frees_nothing() {
    let mut cluster = Cluster::default();
    cluster.apply(node("n", 4).into());
    let on_it = || Requirement {
        key: NODE_NAME.into(),
        operator: Operator::In,
        values: vec!["n".into()],
    };
    let waiting = Pod {
        volume_terms: vec![vec![on_it()]],
        ..pod("p", 1000)
    };
    cluster.apply(waiting.clone().into());
    cycle(&mut cluster, Time(0), Budget::default());
    let freed = cluster.model.freed;
    let bound = Pod {
        volume_terms: Vec::new(),
        node: Some("n".into()),
        ..waiting
    };
    cluster.apply(bound.clone().into());
    assert_eq!(cluster.model.freed, freed);
    let smaller = Pod {
        requests: amounts(&[("cpu", 500)]),
        ..bound
    };
    cluster.apply(smaller.into());
    assert!(cluster.model.freed > freed, "what it gives back is");
}
