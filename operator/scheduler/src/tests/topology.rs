//! Gangs that stand close together: racks, blocks, zones and nodes, required and preferred.

use std::collections::{BTreeMap, BTreeSet};

use super::fixtures::*;
use crate::{
    Decision, Event, EvictCause, Reason,
    decision::Home,
    event::{Claim, Level, Location, Node, Operator, Pod, PodRules, PodTerm, Requirement, Topology},
};

pub(super) fn at(zone: &str, block: &str, rack: &str) -> Location {
    let named = |name: &str| (!name.is_empty()).then(|| name.to_owned());
    Location {
        zone: named(zone),
        block: named(block),
        rack: named(rack),
        nvlink: None,
    }
}

pub(super) fn in_rack(name: &str, cores: i64, rack: &str) -> Node {
    Node {
        location: at("z", "b", rack),
        ..node(name, cores)
    }
}

pub(super) fn pack(level: Level, required: bool) -> Option<Topology> {
    Some(Topology { pack: level, required })
}

pub(super) fn gang(world: &mut World, claim: Claim, pods: &[(&str, u32, i64)]) {
    let name = claim.name.clone();
    world.tell(claim);
    for &(group, count, milli) in pods {
        for i in 0..count {
            world.tell(member(&format!("{name}-{group}-{i}"), &name, group, milli));
        }
    }
}

pub(super) fn rack_claim(name: &str, pods: u32, required: bool) -> Claim {
    Claim {
        topology: pack(Level::Rack, required),
        ..claim(name, "", &[("w", pods, pods, 1)])
    }
}

/// Nodes that were bound to, each with how many.
pub(super) fn nodes(decisions: &[Decision]) -> BTreeMap<&str, usize> {
    let mut nodes = BTreeMap::new();
    for (_, node) in binds(decisions) {
        *nodes.entry(node).or_insert(0) += 1;
    }
    nodes
}

/// Racks a to c with 2, 4 and 8 cores on two nodes each, and a node of 64 cores in no rack.
pub(super) fn three_racks() -> World {
    let mut world = World::with([node("outside", 64).into()]);
    for (rack, cores) in [("a", 1), ("b", 2), ("c", 4)] {
        for i in 0..2 {
            world.tell(in_rack(&format!("{rack}{i}"), cores, rack));
        }
    }
    world
}

#[test]
fn a_gang_takes_the_tightest_rack_that_holds_it_whatever_room_there_is_elsewhere() {
    let mut world = three_racks();
    gang(&mut world, rack_claim("g", 3, true), &[("w", 3, 1000)]);
    let decisions = world.run();
    assert_eq!(nodes(&decisions), [("b0", 2), ("b1", 1)].into());
    gang(&mut world, rack_claim("h", 2, true), &[("w", 2, 1000)]);
    let decisions = world.run();
    assert_eq!(nodes(&decisions), [("a0", 1), ("a1", 1)].into());
}

#[test]
fn a_gang_that_no_rack_holds_waits_and_says_how_much_is_missing_where() {
    let mut world = three_racks();
    gang(&mut world, rack_claim("g", 9, true), &[("w", 9, 1000)]);
    let said = world.run();
    assert_eq!(binds(&said), []);
    let expected = Reason::TopologyTooSmall {
        level: Level::Rack,
        unit: "pods".into(),
        need: 9,
        best: 8,
        area: Some("c".into()),
        areas: 3,
        home: Home::Free,
    };
    assert_eq!(expected.to_string(), "it needs 9 pods in one rack; the best rack has 8");
    let change = "it would fit if rack c had room for 1 more of its pods";
    assert!(
        said.contains(&Decision::Pending {
            claim: "g-uid".into(),
            reason: expected,
            counterfactual: Some(change.into()),
        }),
        "{said:?}"
    );
    assert_eq!(world.run(), [], "and says it once");
    world.tell(in_rack("c2", 1, "c"));
    let decisions = world.run();
    assert_eq!(nodes(&decisions), [("c0", 4), ("c1", 4), ("c2", 1)].into());
}

#[test]
fn gpus_are_counted_where_every_pod_asks_for_whole_ones() {
    let mut world = World::default();
    for (name, gpus, rack) in [("a0", 4, "a"), ("a1", 2, "a"), ("b0", 4, "b")] {
        world.tell(Node {
            location: at("z", "", rack),
            ..gpu_node(name, gpus, "A100")
        });
    }
    world.tell(rack_claim("g", 4, true));
    for i in 0..4 {
        world.tell(Pod {
            gpus: Some(whole(2)),
            ..member(&format!("g-{i}"), "g", "w", 100)
        });
    }
    let said = world.run();
    let reason = world.reason(&said, "g-uid").map(|r| r.to_string());
    assert_eq!(
        reason.as_deref(),
        Some("it needs 8 GPUs in one rack; the best rack has 6")
    );
}

#[test]
fn a_node_without_the_label_is_in_no_rack() {
    let mut world = World::with([node("n", 8).into()]);
    gang(&mut world, rack_claim("g", 2, true), &[("w", 2, 1000)]);
    let said = world.run();
    let reason = world.reason(&said, "g-uid").map(|r| r.to_string());
    assert_eq!(
        reason.as_deref(),
        Some("it needs 2 pods in one rack, and no node says which rack it is in")
    );
    // An empty label is none.
    world.tell(Node {
        location: at("z", "", ""),
        ..node("n", 8)
    });
    assert_eq!(binds(&world.run()), []);
    world.tell(in_rack("n", 8, "r"));
    assert_eq!(nodes(&world.run()), [("n", 2)].into());
}

#[test]
fn what_keeps_a_pod_from_every_node_is_said_before_the_topology() {
    let mut world = three_racks();
    gang(&mut world, rack_claim("g", 2, true), &[("w", 2, 100_000)]);
    let said = world.run();
    let reason = world.reason(&said, "g-uid").unwrap();
    assert_eq!(reason.name(), "NoNodeFits", "{reason:?}");
}

#[test]
fn a_zone_is_taken_by_its_smallest_part_that_holds_all() {
    let mut world = World::default();
    let places = [
        ("a", "z1", "b1", "r1", 2),
        ("b", "z1", "b1", "r2", 2),
        ("c", "z1", "b2", "r3", 2),
        ("d", "z2", "b3", "r4", 3),
    ];
    for (name, zone, block, rack, cores) in places {
        world.tell(Node {
            location: at(zone, block, rack),
            ..node(name, cores)
        });
    }
    let zone = |name: &str, pods| Claim {
        topology: pack(Level::Zone, true),
        ..claim(name, "", &[("w", pods, pods, 1)])
    };
    // Six pods: only zone 1 holds them. Without them: a rack, then a block.
    gang(&mut world, zone("six", 6), &[("w", 6, 1000)]);
    assert_eq!(nodes(&world.run()), [("a", 2), ("b", 2), ("c", 2)].into());
    for i in 0..6 {
        world.tell(Event::PodGone(format!("six-w-{i}")));
    }
    gang(&mut world, zone("three", 3), &[("w", 3, 1000)]);
    assert_eq!(nodes(&world.run()), [("d", 3)].into());
    gang(&mut world, zone("four", 4), &[("w", 4, 1000)]);
    assert_eq!(nodes(&world.run()), [("a", 2), ("b", 2)].into());
}

#[test]
fn a_gang_on_one_node() {
    let mut world = three_racks();
    let claim = Claim {
        topology: pack(Level::Node, true),
        ..claim("g", "", &[("w", 4, 4, 1)])
    };
    gang(&mut world, claim, &[("w", 4, 1000)]);
    assert_eq!(nodes(&world.run()), [("c0", 4)].into());
}

#[test]
fn groups_stand_closer_than_their_claim() {
    let mut world = World::default();
    for (name, zone, rack, cores) in [
        ("a0", "z1", "a", 4),
        ("b0", "z1", "b", 2),
        ("c0", "z2", "c", 4),
        ("d0", "z2", "d", 4),
    ] {
        world.tell(Node {
            location: at(zone, "", rack),
            ..node(name, cores)
        });
    }
    let mut both = claim("g", "", &[("ps", 1, 1, 1), ("x", 3, 3, 1), ("y", 3, 3, 1)]);
    both.topology = pack(Level::Zone, true);
    both.groups[1].topology = pack(Level::Rack, true);
    both.groups[2].topology = pack(Level::Rack, true);
    gang(&mut world, both, &[("ps", 1, 1000), ("x", 3, 1000), ("y", 3, 1000)]);
    let decisions = world.run();
    let racks = |group: &str| -> BTreeSet<&str> {
        let of = binds(&decisions).into_iter().filter(|(pod, _)| pod.contains(group));
        of.map(|(_, node)| node).collect()
    };
    assert_eq!((racks("-x-").len(), racks("-y-").len()), (1, 1), "{decisions:?}");
    let all: BTreeSet<&str> = binds(&decisions).into_iter().map(|(_, node)| node).collect();
    assert_eq!(all, ["c0", "d0"].into(), "zone 1 has room for six only");
}

#[test]
fn groups_in_racks_of_their_own_need_no_common_one() {
    let mut world = three_racks();
    let mut both = claim("g", "", &[("x", 4, 4, 1), ("y", 8, 8, 1)]);
    for group in &mut both.groups {
        group.topology = pack(Level::Rack, true);
    }
    gang(&mut world, both, &[("x", 4, 1000), ("y", 8, 1000)]);
    let decisions = world.run();
    assert_eq!(nodes(&decisions), [("b0", 2), ("b1", 2), ("c0", 4), ("c1", 4)].into());
}

#[test]
fn preferred_takes_one_rack_else_the_fewest_and_last_what_is_in_none() {
    let mut world = three_racks();
    gang(&mut world, rack_claim("g", 4, false), &[("w", 4, 1000)]);
    assert_eq!(nodes(&world.run()), [("b0", 2), ("b1", 2)].into());
    // No rack holds nine: c in full, and one more next to it.
    gang(&mut world, rack_claim("h", 9, false), &[("w", 9, 1000)]);
    assert_eq!(nodes(&world.run()), [("a0", 1), ("c0", 4), ("c1", 4)].into());
    gang(&mut world, rack_claim("i", 3, false), &[("w", 3, 1000)]);
    assert_eq!(nodes(&world.run()), [("a1", 1), ("outside", 2)].into());
}

#[test]
fn preferred_stays_in_the_block_if_that_holds_it() {
    let mut world = World::default();
    for (name, block, rack, cores) in [
        ("a", "b1", "r1", 4),
        ("b", "b2", "r2", 3),
        ("c", "b2", "r3", 3),
        ("d", "b1", "r4", 1),
    ] {
        world.tell(Node {
            location: at("z", block, rack),
            ..node(name, cores)
        });
    }
    gang(&mut world, rack_claim("g", 6, false), &[("w", 6, 1000)]);
    assert_eq!(nodes(&world.run()), [("b", 3), ("c", 3)].into());
}

#[test]
fn an_elastic_gang_grows_in_its_rack_and_no_further() {
    let mut world = three_racks();
    let elastic = Claim {
        topology: pack(Level::Rack, true),
        ..claim("g", "", &[("w", 2, 6, 1)])
    };
    gang(&mut world, elastic, &[("w", 2, 2000)]);
    assert_eq!(nodes(&world.run()), [("b0", 1), ("b1", 1)].into());
    world.tell(member("more", "g", "w", 2000));
    let said = world.run();
    assert_eq!(binds(&said), []);
    let reason = world.reason(&said, "g-uid").map(|r| r.to_string());
    assert_eq!(
        reason.as_deref(),
        Some("it needs 1 more pod in rack b, where its others run, and that has room for 0")
    );
    world.tell(in_rack("b2", 2, "b"));
    assert_eq!(binds(&world.run()), [("more", "b2")]);
}

#[test]
fn a_lost_member_is_replaced_in_the_same_rack() {
    let mut world = three_racks();
    gang(&mut world, rack_claim("g", 4, true), &[("w", 4, 1000)]);
    assert_eq!(nodes(&world.run()), [("b0", 2), ("b1", 2)].into());
    world.tell(Event::PodGone("g-w-0".into()));
    world.run();
    world.tell(member("again", "g", "w", 1000));
    assert_eq!(binds(&world.run()), [("again", "b0")]);
}

#[test]
fn a_gang_that_cannot_be_repaired_in_its_rack_is_released_as_a_whole_and_starts_elsewhere() {
    let mut world = three_racks();
    gang(&mut world, rack_claim("g", 4, true), &[("w", 4, 1000)]);
    world.run();
    world.tell(Event::PodGone("g-w-0".into()));
    // Somebody else takes the place.
    world.tell(Pod {
        node: Some("b0".into()),
        ours: false,
        ..pod("theirs", 1000)
    });
    world.tell(member("again", "g", "w", 1000));
    let said = world.run();
    assert_eq!((binds(&said), evictions(&said)), (vec![], vec![]));
    let reason = world.reason(&said, "g-uid").unwrap();
    assert!(
        matches!(&reason, Reason::TopologyTooSmall { home: Home::In(rack), .. } if rack == "b"),
        "{reason:?}"
    );
    world.now += 59_999;
    assert_eq!(evictions(&world.run()), Vec::<&str>::new());
    world.now += 1;
    let said = world.run();
    assert_eq!(evictions(&said), ["g-w-1", "g-w-2", "g-w-3"]);
    assert!(said.iter().any(|d| matches!(
        d,
        Decision::Evict {
            cause: EvictCause::GangBroken,
            ..
        }
    )));
    for i in 1..4 {
        world.tell(Event::PodGone(format!("g-w-{i}")));
        world.tell(member(&format!("anew-{i}"), "g", "w", 1000));
    }
    let decisions = world.run();
    assert_eq!(binds(&decisions).len(), 4);
    assert!(nodes(&decisions).keys().all(|n| n.starts_with('c')), "{decisions:?}");
}

#[test]
fn nothing_joins_a_gang_that_a_changed_label_has_parted() {
    let mut world = three_racks();
    let elastic = Claim {
        topology: pack(Level::Rack, true),
        ..claim("g", "", &[("w", 2, 6, 1)])
    };
    gang(&mut world, elastic, &[("w", 2, 2000)]);
    world.run();
    world.tell(in_rack("b1", 8, "c"));
    world.tell(member("more", "g", "w", 2000));
    let said = world.run();
    assert_eq!(binds(&said), []);
    let reason = world.reason(&said, "g-uid").map(|r| r.to_string());
    assert_eq!(
        reason.as_deref(),
        Some("it needs 1 more pod in the same rack as its others, and these are not in one rack")
    );
}

#[test]
fn pods_that_want_each_other_find_their_rack_together() {
    let mut world = three_racks();
    let rules = PodRules {
        affinity: vec![PodTerm {
            topology_key: "host".into(),
            selector: Some(vec![Requirement {
                key: "app".into(),
                operator: Operator::In,
                values: vec!["ps".into()],
            }]),
            ..Default::default()
        }],
        ..Default::default()
    };
    for (rack, cores) in [("a", 1), ("b", 2), ("c", 4)] {
        for i in 0..2 {
            let name = format!("{rack}{i}");
            let mut node = in_rack(&name, cores, rack);
            node.labels.insert("host".into(), name);
            world.tell(node);
        }
    }
    let mut claim = claim("g", "", &[("ps", 1, 1, 1), ("w", 3, 3, 1)]);
    claim.topology = pack(Level::Rack, true);
    world.tell(claim);
    for i in 0..3 {
        world.tell(Pod {
            rules: Some(Box::new(rules.clone())),
            ..member(&format!("w{i}"), "g", "w", 1000)
        });
    }
    let mut ps = member("ps", "g", "ps", 1000);
    ps.labels.insert("app".into(), "ps".into());
    world.tell(ps);
    let decisions = world.run();
    // Four cores on one node of one rack: no node has room for a worker before the server is there.
    assert_eq!(
        nodes(&decisions).into_values().collect::<Vec<_>>(),
        [4],
        "{decisions:?}"
    );
}

#[test]
fn a_gang_that_cannot_fit_costs_a_look_at_each_rack_and_not_at_the_nodes() {
    let mut world = World::default();
    for rack in 0..20 {
        for i in 0..20 {
            world.tell(in_rack(&format!("n-{rack:02}-{i:02}"), 1, &format!("r{rack:02}")));
        }
    }
    gang(&mut world, rack_claim("g", 21, true), &[("w", 21, 1000)]);
    world.run();
    let before = world.cluster.work();
    for turn in 0..50 {
        gang(
            &mut world,
            rack_claim(&format!("h{turn}"), 21, true),
            &[("w", 21, 1000)],
        );
        let said = world.run();
        assert_eq!(binds(&said), []);
    }
    let after = world.cluster.work();
    assert_eq!(
        (after.shapes_built, after.nodes_visited),
        (before.shapes_built, before.nodes_visited)
    );
}
