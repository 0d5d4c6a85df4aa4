//! Parts of nodes: pods that have to share a NUMA node, or whose GPUs have to be linked, and those that would rather be.

use super::{fixtures::*, topology::pack};
use crate::{
    Decision, Event, Reason,
    decision::Home,
    event::{Claim, GpuRequest, Level, Location, Node, Operator, Pod, Requirement, Topology},
};

/// A node of 16 cores and 8 GPUs: two NUMA nodes of 8 cores, cards 0 to 3 and 4 to 7, each with NVLink among its own.
fn two_sided(name: &str) -> Node {
    let mut node = Node {
        numa: vec![numa_node(0, 8), numa_node(1, 8)],
        ..gpu_node(name, 8, "A100")
    };
    node.allocatable = amounts(&[("cpu", 16_000), ("memory", 64 * GI), ("pods", 110)]);
    for (i, gpu) in node.gpus.iter_mut().enumerate() {
        let side = u16::from(i >= 4);
        (gpu.numa, gpu.nvlink) = (Some(side), Some(side));
    }
    node
}

/// A claim of one group, and its pods.
pub(super) fn claim_of(
    name: &str,
    topology: Option<Topology>,
    count: u32,
    milli: i64,
    gpus: Option<GpuRequest>,
) -> Vec<Event> {
    let claim = Claim {
        topology,
        ..claim(name, "", &[("w", count, count, 1)])
    };
    let pods = (0..count).map(|i| Pod {
        gpus: gpus.clone(),
        ..member(&format!("{name}-{i}"), name, "w", milli)
    });
    std::iter::once(claim.into()).chain(pods.map(Into::into)).collect()
}

pub(super) fn tell_all(world: &mut World, events: Vec<Event>) -> Vec<Decision> {
    events.into_iter().for_each(|event| world.tell(event));
    world.run()
}

/// Pod, node, devices and NUMA node of what was bound.
pub(super) fn seats(decisions: &[Decision]) -> Vec<(&str, &str, Vec<u16>, Option<u16>)> {
    let seats = decisions.iter().filter_map(|decision| match decision {
        Decision::Bind {
            pod,
            node,
            devices,
            numa,
            ..
        } => Some((pod.as_str(), node.as_str(), devices.clone(), *numa)),
        _ => None,
    });
    seats.collect()
}

fn reason_of(world: &World, decisions: &[Decision], claim: &str) -> Reason {
    world.reason(decisions, claim).unwrap()
}

#[test]
fn one_numa_node_has_to_hold_cpu_memory_and_gpus() {
    let mut world = World::with([two_sided("n").into()]);
    let said = tell_all(
        &mut world,
        claim_of("a", pack(Level::Numa, true), 1, 6000, Some(whole(1))),
    );
    assert_eq!(seats(&said), [("a-0", "n", vec![0], Some(0))]);
    // Three cards are free beside it, and two cores.
    let said = tell_all(
        &mut world,
        claim_of("b", pack(Level::Numa, true), 1, 4000, Some(whole(2))),
    );
    assert_eq!(seats(&said), [("b-0", "n", vec![4, 5], Some(1))]);
    let said = tell_all(&mut world, claim_of("c", pack(Level::Numa, true), 1, 5000, None));
    assert_eq!(seats(&said), []);
    let reason = reason_of(&world, &said, "c-uid");
    let expected = Reason::TopologyTooSmall {
        level: Level::Numa,
        unit: "cpu".into(),
        need: 5000,
        best: 4000,
        area: Some("1 of node n".into()),
        areas: 2,
        home: Home::Free,
    };
    assert_eq!(reason, expected);
    assert_eq!(
        reason.to_string(),
        "it needs 5 cpu in one NUMA node; the best NUMA node has 4 cpu"
    );
    // Without that wish there is room: 6 cores are free.
    let said = tell_all(&mut world, claim_of("d", None, 1, 5000, None));
    assert_eq!(seats(&said), [("d-0", "n", vec![], None)]);
}

#[test]
fn pods_of_a_numa_claim_share_one_and_go_where_the_others_are() {
    let mut world = World::with([two_sided("n").into()]);
    let mut events = claim_of("a", pack(Level::Numa, true), 3, 2000, Some(whole(1)));
    let last = events.pop().unwrap();
    if let Event::Claim(claim) = &mut events[0] {
        claim.groups[0].min = 2;
    }
    let said = tell_all(&mut world, events);
    assert_eq!(
        seats(&said),
        [("a-0", "n", vec![0], Some(0)), ("a-1", "n", vec![1], Some(0))]
    );
    let other = claim_of("b", pack(Level::Numa, true), 1, 3000, None);
    assert_eq!(seats(&tell_all(&mut world, other)), [("b-0", "n", vec![], Some(0))]);
    let said = tell_all(&mut world, vec![last]);
    let reason = reason_of(&world, &said, "a-uid");
    assert_eq!(
        reason.to_string(),
        "it needs 1 more GPU in NUMA node 0 of node n, where its others run, and that has room for 0"
    );
    world.tell(Event::PodGone("b-0".into()));
    assert_eq!(seats(&world.run()), [("a-2", "n", vec![2], Some(0))]);
}

#[test]
fn gpus_that_have_to_be_linked_wait_for_a_group_that_holds_them_and_say_what_the_best_has() {
    let mut world = World::with([two_sided("m").into(), two_sided("n").into()]);
    for node in ["m", "n"] {
        for (i, devices) in [vec![0, 1], vec![4, 5, 6]].into_iter().enumerate() {
            world.tell(Pod {
                node: Some(node.into()),
                devices: devices.clone(),
                ..gpu_pod(&format!("{node}{i}"), whole(u16::try_from(devices.len()).unwrap()))
            });
        }
    }
    // Three are free on each node, and two in the best group.
    let said = tell_all(
        &mut world,
        claim_of("a", pack(Level::Nvlink, true), 1, 100, Some(whole(3))),
    );
    let Some(Decision::Pending {
        reason, counterfactual, ..
    }) = said.first()
    else {
        panic!("{said:?}")
    };
    assert_eq!(
        reason.to_string(),
        "it needs 3 GPUs in one NVLink group; the best NVLink group has 2"
    );
    assert_eq!(
        counterfactual.as_deref(),
        Some("it would fit if 1 more GPUs were free in NVLink group 0 of node m")
    );
    // Two pods of one card each are held by it.
    let said = tell_all(
        &mut world,
        claim_of("b", pack(Level::Nvlink, true), 2, 100, Some(whole(1))),
    );
    assert_eq!(seats(&said), [("b-0", "m", vec![2], None), ("b-1", "m", vec![3], None)]);
    world.tell(Event::PodGone("n1".into()));
    assert_eq!(seats(&world.run()), [("a-0", "n", vec![4, 5, 6], None)]);
}

#[test]
fn servers_of_an_nvlink_domain_are_one_group() {
    let in_domain = |name: &str, domain: &str| Node {
        location: Location {
            nvlink: Some(domain.into()),
            ..Location::default()
        },
        ..gpu_node(name, 4, "GB200")
    };
    let nodes = [("a", "x"), ("b", "y"), ("c", "y")].map(|(name, domain)| in_domain(name, domain).into());
    let mut world = World::with(nodes);
    let said = tell_all(
        &mut world,
        claim_of("g", pack(Level::Nvlink, true), 2, 100, Some(whole(4))),
    );
    let bound: Vec<&str> = seats(&said).iter().map(|seat| seat.1).collect();
    assert_eq!(bound, ["b", "c"]);
    let said = tell_all(
        &mut world,
        claim_of("h", pack(Level::Nvlink, true), 2, 100, Some(whole(4))),
    );
    assert_eq!(
        reason_of(&world, &said, "h-uid").to_string(),
        "it needs 8 GPUs in one NVLink group; the best NVLink group has 4"
    );
}

#[test]
fn who_has_no_gpu_stands_beside_the_linked_ones_of_its_gang() {
    let mut world = World::with([two_sided("m").into(), two_sided("n").into()]);
    let mut all = claim("g", "", &[("driver", 1, 1, 1), ("w", 1, 1, 1)]);
    all.topology = pack(Level::Nvlink, true);
    let worker = Pod {
        gpus: Some(whole(4)),
        ..member("w", "g", "w", 100)
    };
    let events = vec![
        all.into(),
        member("driver", "g", "driver", 100).into(),
        worker.clone().into(),
    ];
    let said = tell_all(&mut world, events);
    let mut bound = seats(&said);
    bound.sort();
    assert_eq!(
        bound,
        [("driver", "m", vec![], None), ("w", "m", vec![0, 1, 2, 3], None)]
    );
    // The one that was lost goes back to where its linked ones are, and the driver alone says nothing of that.
    world.tell(Event::PodGone("w".into()));
    world.tell(Pod {
        uid: "again".into(),
        name: "again".into(),
        ..worker
    });
    assert_eq!(seats(&world.run()), [("again", "m", vec![0, 1, 2, 3], None)]);
}

#[test]
fn a_group_stays_on_its_node_though_a_card_elsewhere_makes_a_group_of_linked_ones() {
    // Found by the property of all gangs: pods without GPUs belong to no NVLink group, so that one was tried for the claim
    // that was not where the others of its group run.
    let mut other = gpu_node("other", 1, "A100");
    other.gpus[0].nvlink = Some(0);
    let mut world = World::with([node("n", 3).into(), other.into()]);
    let mut elastic = claim("g", "", &[("w", 2, 4, 1)]);
    elastic.topology = pack(Level::Numa, false);
    elastic.groups[0].topology = pack(Level::Node, true);
    world.tell(elastic);
    for i in 0..4 {
        world.tell(member(&format!("w{i}"), "g", "w", 1000));
    }
    assert_eq!(binds(&world.run()), [("w0", "n"), ("w1", "n"), ("w2", "n")]);
}

#[test]
fn nothing_is_said_of_cells_that_nobody_reports_but_that() {
    for (level, words) in [
        (
            Level::Numa,
            "it needs 1 GPU in one NUMA node, and no node reports NUMA nodes",
        ),
        (
            Level::Nvlink,
            "it needs 1 GPU in one NVLink group, and no node reports NVLink groups",
        ),
    ] {
        let mut world = World::with([gpu_node("n", 2, "A100").into()]);
        let said = tell_all(&mut world, claim_of("a", pack(level, true), 1, 100, Some(whole(1))));
        assert_eq!(reason_of(&world, &said, "a-uid").to_string(), words);
        let said = tell_all(&mut world, claim_of("b", pack(level, false), 1, 100, Some(whole(1))));
        assert_eq!(
            seats(&said),
            [("b-0", "n", vec![0], None)],
            "what is only preferred runs"
        );
    }
}

#[test]
fn preferred_takes_one_cell_else_few_of_one_node() {
    let mut world = World::with([two_sided("m").into(), two_sided("n").into()]);
    let said = tell_all(
        &mut world,
        claim_of("a", pack(Level::Nvlink, false), 2, 100, Some(whole(2))),
    );
    assert_eq!(
        seats(&said),
        [("a-0", "m", vec![0, 1], None), ("a-1", "m", vec![2, 3], None)]
    );
    let said = tell_all(
        &mut world,
        claim_of("b", pack(Level::Nvlink, false), 6, 100, Some(whole(1))),
    );
    assert!(seats(&said).iter().all(|seat| seat.1 == "n"), "{said:?}");
    let said = tell_all(&mut world, claim_of("c", pack(Level::Numa, false), 1, 9000, None));
    assert_eq!(seats(&said), [("c-0", "m", vec![], None)], "no NUMA node has 9 cores");
}

#[test]
fn several_cards_go_to_a_node_where_they_are_linked() {
    let mut pairs = two_sided("a");
    for (i, gpu) in pairs.gpus.iter_mut().enumerate() {
        gpu.nvlink = Some(u16::try_from(i / 2).unwrap());
    }
    let mut world = World::with([pairs.into(), two_sided("b").into(), gpu_node("c", 8, "A100").into()]);
    world.tell(gpu_pod("p", whole(4)));
    assert_eq!(seats(&world.run()), [("p", "b", vec![0, 1, 2, 3], None)]);
    world.tell(gpu_pod("q", whole(4)));
    world.tell(gpu_pod("r", whole(4)));
    let said = world.run();
    assert_eq!(
        seats(&said),
        [("q", "b", vec![4, 5, 6, 7], None), ("r", "a", vec![0, 1, 2, 3], None)],
        "at one NUMA node rather than anywhere"
    );
}

#[test]
fn a_numa_node_is_remembered_over_a_restart() {
    let mut world = World::with([two_sided("n").into()]);
    let events = claim_of("a", pack(Level::Numa, true), 1, 6000, None);
    tell_all(&mut world, events.clone());
    let mut again = World::with([two_sided("n").into()]);
    for event in events {
        again.tell(event);
    }
    again.tell(world.pods["a-0"].clone());
    assert_eq!(world.pods["a-0"].numa, Some(0));
    let said = tell_all(&mut again, claim_of("b", pack(Level::Numa, true), 1, 6000, None));
    assert_eq!(seats(&said), [("b-0", "n", vec![], Some(1))]);
}

#[test]
fn a_tier_has_its_part_of_each_numa_node() {
    let mut node = two_sided("n");
    node.numa[1].cpu = 24_000;
    node.allocatable.insert("duosuan.io/batch-cpu".into(), 8000);
    let mut world = World::with([node.into()]);
    let batch = |name: &str, milli: i64| {
        let mut events = claim_of(name, pack(Level::Numa, true), 1, 0, None);
        for event in &mut events {
            match event {
                Event::Claim(claim) => claim.tier = crate::Tier::Batch,
                Event::Pod(pod) => pod.requests = amounts(&[("duosuan.io/batch-cpu", milli)]),
                _ => {}
            }
        }
        events
    };
    // Three quarters of the cores are on the second one.
    let said = tell_all(&mut world, batch("a", 6001));
    assert_eq!(
        reason_of(&world, &said, "a-uid").to_string(),
        "it needs 6001m duosuan.io/batch-cpu in one NUMA node; the best NUMA node has 6 duosuan.io/batch-cpu"
    );
    assert_eq!(
        seats(&tell_all(&mut world, batch("b", 6000))),
        [("b-0", "n", vec![], Some(1))]
    );
    assert_eq!(
        seats(&tell_all(&mut world, batch("c", 2000))),
        [("c-0", "n", vec![], Some(0))]
    );
}

#[test]
fn instances_of_divided_cards_are_resources_like_any_other() {
    let mut node = gpu_node("n", 2, "A100");
    node.gpus[0].divided = true;
    node.allocatable.insert("nvidia.com/mig-1g.10gb".into(), 7);
    let mut world = World::with([node.into()]);
    let instances = |uid: &str, count: i64| {
        let mut pod = pod(uid, 100);
        pod.requests.insert("nvidia.com/mig-1g.10gb".into(), count);
        pod
    };
    world.tell(instances("a", 4));
    world.tell(instances("b", 4));
    world.tell(gpu_pod("c", whole(1)));
    world.tell(gpu_pod("d", share(100)));
    let said = world.run();
    assert_eq!(seats(&said), [("a", "n", vec![], None), ("c", "n", vec![1], None)]);
    let Reason::NoNodeFits { constraint, .. } = reason_of(&world, &said, "b") else {
        panic!("{said:?}")
    };
    assert_eq!(constraint, "insufficient nvidia.com/mig-1g.10gb");
    assert_eq!(
        world.cluster.nodes()[0].free["gpu"],
        0,
        "what is divided is not free as a device"
    );
}

#[test]
fn a_refusal_for_lack_of_links_is_found_once_for_all_who_ask_the_same() {
    let mut world = World::default();
    for i in 0..50 {
        let mut node = two_sided(&format!("n{i:02}"));
        for (i, gpu) in node.gpus.iter_mut().enumerate() {
            gpu.nvlink = Some(u16::try_from(i / 2).unwrap());
        }
        world.tell(node);
    }
    let ask = |name: &str| claim_of(name, pack(Level::Nvlink, true), 1, 100, Some(whole(4)));
    tell_all(&mut world, ask("first"));
    let before = world.cluster.work().nodes_visited;
    for i in 0..20 {
        for event in ask(&format!("c{i}")) {
            world.tell(event);
        }
    }
    assert_eq!(world.run().len(), 20);
    // What GPU pods are expected has changed by these, so that the nodes are valued anew, once.
    assert!(world.cluster.work().nodes_visited - before <= 50);
}

/// The answer for whoever has gone was kept, and his ordinal named the next one.
#[test]
fn what_the_best_cell_has_is_said_for_the_shape_that_asks_now() {
    let of_zone = |name: &str, zone: &str, cells: u16, cores: i64| {
        let mut node = two_sided(name);
        node.labels.insert("zone".into(), zone.into());
        node.numa = (0..cells).map(|cell| numa_node(cell, cores)).collect();
        node.allocatable.insert("cpu".into(), i64::from(cells) * cores * 1000);
        Event::from(node)
    };
    let mut world = World::with([of_zone("large", "a", 2, 8), of_zone("small", "b", 3, 4)]);
    let asks = |name: &str, zone: Option<&str>| {
        let mut events = claim_of(name, pack(Level::Numa, true), 1, 10_000, None);
        for event in &mut events {
            if let Event::Pod(pod) = event {
                let zone = zone.map(|zone| Requirement {
                    key: "zone".into(),
                    operator: Operator::In,
                    values: vec![zone.into()],
                });
                pod.node_terms = zone.into_iter().map(|zone| vec![zone]).collect();
            }
        }
        events
    };
    let said = tell_all(&mut world, asks("a", None));
    let words = |world: &World, said: &[Decision], claim: &str| reason_of(world, said, claim).to_string();
    assert!(words(&world, &said, "a-uid").contains("has 8"), "{said:?}");
    world.tell(Event::PodGone("a-0".into()));
    world.tell(Event::ClaimGone("a-uid".into()));
    world.run();
    let said = tell_all(&mut world, asks("b", Some("b")));
    assert!(words(&world, &said, "b-uid").contains("has 4"), "{said:?}");
}
