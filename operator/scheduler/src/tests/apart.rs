//! Replicas of one controller are kept apart without asking for it: first by fault domain, then by node.

use std::collections::BTreeMap;

use super::fixtures::*;
use crate::{
    Event, Tier,
    event::{Node, Pod, Spread, Taint, Topology},
};

fn in_zone(name: &str, zone: &str, cores: i64) -> Node {
    let mut node = node(name, cores);
    node.location.zone = Some(zone.into());
    node
}

fn replica(uid: &str, of: &str, milli: i64) -> Pod {
    Pod {
        owner: of.into(),
        ..pod(uid, milli)
    }
}

/// Places so many replicas, and says where they went.
fn places(world: &mut World, replicas: impl IntoIterator<Item = Pod>) -> Vec<String> {
    let mut went = Vec::new();
    for replica in replicas {
        world.tell(replica);
        went.extend(binds(&world.run()).iter().map(|(_, node)| (*node).to_owned()));
    }
    went
}

fn replicas(of: &str, count: usize) -> Vec<Pod> {
    (0..count).map(|i| replica(&format!("{of}-{i}"), of, 100)).collect()
}

fn three_zones() -> World {
    let nodes = ["a1", "a2", "b1", "b2", "c1", "c2"];
    World::with(nodes.map(|name| in_zone(name, &name[..1], 128).into()))
}

#[test]
fn they_go_to_another_zone_each_then_to_another_node_each_then_evenly() {
    let mut world = three_zones();
    let went = places(&mut world, replicas("web", 8));
    assert_eq!(went, ["a1", "b1", "c1", "a2", "b2", "c2", "a1", "b1"]);
    // Those who belong to nobody, or to somebody else, are none of theirs.
    assert_eq!(places(&mut world, replicas("", 2)), ["a1", "a1"]);
    assert_eq!(places(&mut world, replicas("other", 2)), ["a1", "b1"]);
}

#[test]
fn one_that_goes_is_missed_where_it_was() {
    let mut world = three_zones();
    places(&mut world, replicas("web", 6));
    world.tell(Event::PodGone("web-4".into()));
    assert_eq!(places(&mut world, [replica("new", "web", 100)]), ["b2"]);
    let mut going = world.pods["web-2"].clone();
    going.terminating = true;
    world.tell(going);
    assert_eq!(places(&mut world, [replica("next", "web", 100)]), ["c1"]);
}

#[test]
fn they_leave_the_emptier_node_for_one_without_kin() {
    let mut world = World::with([in_zone("a", "a", 64).into(), in_zone("b", "b", 16).into()]);
    places(
        &mut world,
        [Pod {
            node: Some("b".into()),
            ..pod("other", 12_000)
        }],
    );
    assert_eq!(places(&mut world, replicas("web", 4)), ["a", "b", "a", "b"]);
}

#[test]
fn nobody_is_turned_away_for_it_and_no_wish_taint_or_gpu_is_given_up_for_it() {
    // Room in one zone only.
    let mut world = World::with([in_zone("a", "a", 4).into(), in_zone("b", "b", 1).into()]);
    let large = (0..3).map(|i| replica(&format!("p{i}"), "web", 1200));
    assert_eq!(places(&mut world, large), ["a", "a", "a"]);

    let mut unwelcome = in_zone("b", "b", 16);
    unwelcome.taints = vec![Taint {
        key: "k".into(),
        value: String::new(),
        effect: "PreferNoSchedule".into(),
    }];
    let mut world = World::with([in_zone("a", "a", 16).into(), unwelcome.into()]);
    assert_eq!(places(&mut world, replicas("web", 2)), ["a", "a"]);

    let mut with_gpus = gpu_node("b", 8, "A100");
    with_gpus.location.zone = Some("b".into());
    let mut world = World::with([in_zone("a", "a", 64).into(), with_gpus.into()]);
    assert_eq!(places(&mut world, replicas("web", 2)), ["a", "a"]);
}

#[test]
fn without_zones_blocks_or_racks_are_what_fails_together_and_without_those_nodes() {
    let names = ["n1", "n2", "n3", "n4"];
    let mut world = World::with(names.map(|name| node(name, 16).into()));
    assert_eq!(places(&mut world, replicas("web", 5)), ["n1", "n2", "n3", "n4", "n1"]);
    // Racks become known while they run.
    for (name, rack) in names.into_iter().zip(["r1", "r1", "r2", "r2"]) {
        world.tell(in_rack(name, rack));
    }
    assert_eq!(places(&mut world, [replica("new", "web", 100)]), ["n3"]);
}

fn in_rack(name: &str, rack: &str) -> Node {
    let mut node = node(name, 16);
    node.location.rack = Some(rack.into());
    node.location.zone = Some("the only one".into());
    node
}

#[test]
fn one_that_is_in_no_rack_may_fail_with_any() {
    let racks = (0..10).map(|i| in_rack(&format!("r{i}"), &format!("{}", i % 5)).into());
    let mut world = World::with(racks);
    world.tell(node("a", 16));
    let went = places(&mut world, replicas("web", 12));
    // The first has nobody to be kept apart from.
    assert_eq!(went[0], "a");
    assert_eq!(went[1..6], ["r0", "r1", "r2", "r3", "r4"]);
    assert!(!went[1..].contains(&"a".to_owned()), "{went:?}");
}

/// How many of so many pods of each of some services are on each node.
fn counted(nodes: impl IntoIterator<Item = Event>, services: usize, each: usize) -> BTreeMap<String, usize> {
    let mut world = World::with(nodes);
    let mut on: BTreeMap<String, usize> = BTreeMap::new();
    for service in 0..services {
        for node in places(&mut world, replicas(&format!("s{service}"), each)) {
            *on.entry(node).or_default() += 1;
        }
    }
    on
}

/// All replicas would go to the two that are labelled first, or that are GPU servers.
#[test]
fn a_few_nodes_with_labels_among_many_without_are_no_fault_domains() {
    let plain = (0..18).map(|i| node(&format!("n{i:02}"), 64).into());
    let labelled = ["a", "b"].map(|zone| in_zone(&format!("z{zone}"), zone, 64).into());
    let on = counted(plain.chain(labelled), 20, 10);
    let labelled = on.get("za").copied().unwrap_or(0) + on.get("zb").copied().unwrap_or(0);
    assert!(labelled <= 30, "{on:?}");
}

#[test]
fn a_zone_of_one_node_does_not_get_half_of_a_large_service() {
    let main = (0..7).map(|i| in_zone(&format!("n{i}"), "main", 64).into());
    let small = (0..3).map(|i| in_zone(&format!("x{i}"), "x", 64).into());
    // Three on each: then as many on each of the others.
    let on = counted(main.chain(small), 1, 30);
    assert_eq!(on.values().copied().collect::<Vec<_>>(), [3; 10]);
}

#[test]
fn racks_count_where_nearly_all_nodes_are_in_one_zone() {
    let mut alone = in_zone("alone", "other", 64);
    alone.unschedulable = true;
    let racks = (0..12).map(|i| in_rack(&format!("n{i:02}"), &format!("r{}", i / 4)).into());
    let on = counted(racks.chain([alone.into()]), 1, 3);
    assert_eq!(on.into_keys().collect::<Vec<_>>(), ["n00", "n04", "n08"]);
}

#[test]
fn a_hundred_racks_are_fault_domains_and_more_than_are_looked_at_are_not() {
    let racks = |count: usize| (0..2 * count).map(|i| in_rack(&format!("n{i:03}"), &format!("r{:03}", i / 2)).into());
    let on = counted(racks(128), 1, 3);
    assert_eq!(on.into_keys().collect::<Vec<_>>(), ["n000", "n002", "n004"]);
    let on = counted(racks(129), 1, 3);
    assert_eq!(on.into_keys().collect::<Vec<_>>(), ["n000", "n001", "n002"]);
}

#[test]
fn gangs_gpu_pods_and_those_of_other_tiers_are_not_kept_apart() {
    let mut nodes = ["a", "b"].map(|zone| in_zone(zone, zone, 128));
    for node in &mut nodes {
        node.gpus = gpu_node("", 4, "A100").gpus;
        node.allocatable.insert("duosuan.io/batch-cpu".into(), 64_000);
    }
    let mut world = World::with(nodes.map(Into::into));
    let gpu = |uid: &str| Pod {
        gpus: Some(share(100)),
        ..replica(uid, "inference", 100)
    };
    let went = places(&mut world, [gpu("g0"), gpu("g1")]);
    assert_eq!(went[0], went[1]);
    let batch = |uid: &str| Pod {
        tier: Tier::Batch,
        requests: amounts(&[("duosuan.io/batch-cpu", 100)]),
        ..replica(uid, "spark", 0)
    };
    let went = places(&mut world, [batch("b0"), batch("b1")]);
    assert_eq!(went[0], went[1]);
    world.tell(claim("gang", "", &[("w", 2, 2, 1)]));
    for uid in ["m0", "m1"] {
        world.tell(Pod {
            owner: "mpi".into(),
            ..member(uid, "gang", "w", 100)
        });
    }
    let decisions = world.run();
    let went = binds(&decisions);
    assert_eq!((went.len(), went[0].1), (2, went[1].1));
}

#[test]
fn pods_that_say_how_they_are_spread_and_gangs_that_are_packed_are_left_alone() {
    let mut world = three_zones();
    let own = |uid: &str| {
        let mut pod = replica(uid, "web", 100);
        let mut rules = crate::event::PodRules::default();
        rules.spread.push(Spread {
            topology_key: "nothing has it".into(),
            max_skew: 1,
            required: false,
            selector: Some(vec![]),
            ..Spread::default()
        });
        pod.rules = Some(Box::new(rules));
        pod
    };
    assert_eq!(places(&mut world, [own("p0"), own("p1")]), ["a1", "a1"]);

    let mut gang = claim("gang", "", &[("w", 2, 2, 1)]);
    gang.topology = Some(Topology {
        pack: crate::event::Level::Zone,
        required: false,
    });
    world.tell(gang);
    for uid in ["g0", "g1"] {
        world.tell(Pod {
            owner: "job".into(),
            ..member(uid, "gang", "w", 100)
        });
    }
    let decisions = world.run();
    let nodes: Vec<_> = binds(&decisions).iter().map(|(_, node)| node[..1].to_owned()).collect();
    assert_eq!(nodes.len(), 2);
    assert_eq!(nodes[0], nodes[1]);
}

/// A service on nearly all nodes: more than a tree can pass over at once.
#[test]
fn large_services_are_as_even_as_small_ones() {
    let zones = ["a", "b", "c"];
    let nodes = (0..900).map(|i| in_zone(&format!("n{i:03}"), zones[i % 3], 16).into());
    let mut world = World::with(nodes);
    for pod in replicas("web", 1200) {
        world.cluster.apply(pod.into());
    }
    let decisions = crate::cycle(&mut world.cluster, crate::Time(0), crate::Budget { pods: 2000 });
    let mut on: BTreeMap<&str, u32> = BTreeMap::new();
    for (_, node) in binds(&decisions) {
        *on.entry(node).or_default() += 1;
    }
    assert_eq!(on.len(), 900);
    assert_eq!(on.values().filter(|count| **count == 2).count(), 300);
    assert_eq!(world.cluster.check(), Ok(()));
}
