//! Devices: whole ones, shares, models.

use super::fixtures::*;
use crate::{
    Decision, Event, Reason,
    event::{GpuRequest, Pod},
};

fn devices(decisions: &[Decision]) -> Vec<(&str, &str, Vec<u16>)> {
    fn bind(decision: &Decision) -> Option<(&str, &str, Vec<u16>)> {
        match decision {
            Decision::Bind { pod, node, devices, .. } => Some((pod, node, devices.clone())),
            _ => None,
        }
    }
    decisions.iter().filter_map(bind).collect()
}

#[test]
fn shares_break_as_few_devices_as_they_can() {
    let mut world = World::with([gpu_node("a", 2, "A100").into(), gpu_node("b", 2, "A100").into()]);
    for (uid, milli) in [("p0", 500), ("p1", 300), ("p2", 700), ("p3", 200)] {
        world.tell(gpu_pod(uid, share(milli)));
        world.run();
    }
    let seat = |uid| {
        world
            .cluster
            .seat_of_pod(uid)
            .map(|(n, d)| (n.to_string(), d.to_vec()))
            .unwrap()
    };
    assert_eq!(seat("p0"), ("a".into(), vec![0]));
    assert_eq!(seat("p1"), ("a".into(), vec![0]));
    assert_eq!(seat("p2"), ("a".into(), vec![1]));
    assert_eq!(seat("p3"), ("a".into(), vec![0]));
    world.tell(gpu_pod("whole", whole(2)));
    assert_eq!(devices(&world.cycle()), [("whole", "b", vec![0, 1])]);
}

#[test]
fn pods_without_gpus_keep_away_from_free_ones() {
    let mut world = World::with([gpu_node("a", 8, "A100").into(), node("b", 4).into()]);
    world.tell(pod("p", 1000));
    world.tell(pod("q", 4000));
    assert_eq!(binds(&world.cycle()), [("p", "b"), ("q", "a")]);
}

#[test]
fn models_and_memory_are_honoured() {
    let mut world = World::with([gpu_node("a", 1, "T4").into(), gpu_node("b", 1, "A100").into()]);
    let models = vec!["A100".to_string(), "H100".to_string()];
    world.tell(gpu_pod("typed", GpuRequest { models, ..share(500) }));
    assert_eq!(devices(&world.run()), [("typed", "b", vec![0])]);
    let memory = GpuRequest {
        memory: 50 * GI,
        ..share(100)
    };
    world.tell(gpu_pod(
        "m0",
        GpuRequest {
            models: vec!["A100".into()],
            ..memory.clone()
        },
    ));
    let decisions = world.run();
    let Some(Reason::NoNodeFits { nodes, .. }) = world.reason(&decisions, "m0") else {
        panic!("{decisions:?}")
    };
    assert_eq!(
        nodes,
        [("GPU model".to_string(), 1), ("insufficient free GPUs".to_string(), 1)]
    );
    world.tell(gpu_pod("m1", memory));
    assert_eq!(devices(&world.run()), [("m1", "a", vec![0])]);
}

#[test]
fn a_sick_device_gets_nothing_new() {
    let mut sick = gpu_node("a", 2, "A100");
    sick.gpus[0].unhealthy = true;
    let mut world = World::with([
        sick.into(),
        gpu_pod("p0", whole(1)).into(),
        gpu_pod("p1", whole(1)).into(),
    ]);
    assert_eq!(devices(&world.run()), [("p0", "a", vec![1])]);
}

#[test]
fn devices_survive_a_restart_and_unknown_ones_are_kept_back() {
    let bound = Pod {
        node: Some("a".into()),
        devices: vec![1],
        ..gpu_pod("known", share(600))
    };
    let unknown = Pod {
        node: Some("a".into()),
        ours: false,
        ..gpu_pod("unknown", whole(1))
    };
    let mut world = World::with([gpu_node("a", 3, "A100").into(), bound.into(), unknown.into()]);
    world.tell(gpu_pod("fits", share(400)));
    world.tell(gpu_pod("one", whole(1)));
    world.tell(gpu_pod("two", whole(1)));
    let decisions = world.run();
    assert_eq!(devices(&decisions), [("fits", "a", vec![1]), ("one", "a", vec![0])]);
    world.tell(Event::PodGone("unknown".into()));
    assert_eq!(devices(&world.run()), [("two", "a", vec![2])]);
}

#[test]
fn a_bound_pod_whose_claim_is_not_known_yet_keeps_its_devices_whole() {
    let early = Pod {
        node: Some("a".into()),
        devices: vec![0],
        ..member("m", "g", "w", 1000)
    };
    let mut world = World::with([
        gpu_node("a", 1, "A100").into(),
        early.into(),
        gpu_pod("p", share(100)).into(),
    ]);
    assert!(binds(&world.cycle()).is_empty());
    let mut known = claim("g", "", &[("w", 1, 1, 1)]);
    known.groups[0].gpus = Some(share(900));
    world.tell(known);
    assert_eq!(devices(&world.cycle()), [("p", "a", vec![0])]);
}

/// As much as the cluster has, in pieces of a tenth to nine tenths one after the other. Where seats that lose as much
/// are taken in node order, as they once were, some find no device with enough left.
#[test]
fn shares_of_all_sizes_fill_the_devices_to_the_last() {
    let mut world = World::default();
    for i in 0..18 {
        let mut node = gpu_node(&format!("n{i:02}"), 8, "A100");
        node.allocatable.insert("cpu".into(), 128_000);
        world.tell(node);
    }
    let mut placed = 0;
    for i in 0..288 {
        world.tell(gpu_pod(&format!("p{i}"), share(100 + i % 9 * 100)));
        placed += binds(&world.cycle()).len();
    }
    assert!(placed > 283, "{placed} of 288");
}

#[test]
fn shares_get_together_what_the_driver_leaves_of_a_device() {
    let kept = |bytes| {
        let mut node = gpu_node("a", 1, "A100");
        node.gpus[0].driver_memory = Some(bytes);
        node
    };
    let half = |uid| {
        let memory = 40 * GI;
        gpu_pod(uid, GpuRequest { memory, ..share(100) })
    };
    let mut world = World::with([kept(GI).into(), half("p").into(), half("q").into()]);
    assert_eq!(devices(&world.run()), [("p", "a", vec![0])]);
    // The report says now that it is less; what is found of the device is found anew.
    world.tell(kept(0));
    assert_eq!(devices(&world.run()), [("q", "a", vec![0])]);
    let mut world = World::with([kept(GI).into(), gpu_pod("all", whole(1)).into()]);
    assert_eq!(
        devices(&world.run()),
        [("all", "a", vec![0])],
        "a whole one is as it is"
    );
}

#[test]
fn nobody_goes_for_memory_that_the_driver_turned_out_to_keep_where_nobody_new_comes() {
    let keeping = |name: &str, bytes| {
        let mut node = gpu_node(name, 1, "A100");
        node.gpus[0].driver_memory = Some(bytes);
        node
    };
    let of = |uid, node: Option<&str>, priority, gpus| Pod {
        priority,
        node: node.map(Into::into),
        devices: node.iter().map(|_| 0).collect(),
        ..gpu_pod(uid, gpus)
    };
    let part = |gib: i64| GpuRequest {
        memory: gib * GI,
        ..share(100)
    };
    // The report says it when they have the device already.
    let mut world = World::with([
        keeping("a", 0).into(),
        of("bystander", Some("a"), 0, part(40)).into(),
        of("important", Some("a"), 9, part(40)).into(),
        keeping("b", 0).into(),
        of("in the way", Some("b"), 1, whole(1)).into(),
        keeping("c", 0).into(),
        of("in the way too", Some("c"), 1, whole(1)).into(),
    ]);
    world.run();
    world.tell(keeping("a", GI));
    assert!(world.run().is_empty());
    let mut gang = claim("gang", "", &[("w", 2, 2, 1)]);
    gang.priority = 5;
    gang.groups[0].gpus = Some(whole(1));
    world.tell(gang);
    for uid in ["g0", "g1"] {
        world.tell(member(uid, "gang", "w", 1000));
    }
    let decisions = world.cycle();
    let mut gone = evictions(&decisions);
    gone.sort_unstable();
    assert_eq!(gone, ["in the way", "in the way too"]);

    // Beside somebody new there is no more than the driver leaves.
    let mut world = World::with([
        keeping("a", GI).into(),
        of("small", Some("a"), 0, part(1)).into(),
        of("important", Some("a"), 9, part(40)).into(),
    ]);
    world.run();
    world.tell(of("p", None, 5, part(39)));
    assert_eq!(evictions(&world.cycle()), ["small"]);
}

#[test]
fn a_device_that_the_driver_has_wholly_takes_no_share_even_one_that_states_no_memory() {
    let mut all = gpu_node("a", 1, "A100");
    all.gpus[0].memory = GI;
    all.gpus[0].driver_memory = Some(GI);
    let mut world = World::with([all.into(), gpu_pod("part", share(500)).into()]);
    assert!(devices(&world.run()).is_empty());
    world.tell(gpu_pod("all", whole(1)));
    assert_eq!(devices(&world.run()), [("all", "a", vec![0])]);
}
