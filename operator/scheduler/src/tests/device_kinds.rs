//! What claims can ask of devices, and devices of claims: attributes, alternatives, taints, shares, counters, all of them.

use std::collections::BTreeMap;

use crate::{
    Decision,
    event::{
        Capacity, DeviceConstraint, DeviceOption, DevicePool, Operator, PoolDevice, Reach, Requirement, Steps, Taint,
        Toleration,
    },
    tests::{
        device_claims::{asks, device, given, gpus, one, pool, reason, request, using},
        fixtures::{World, node},
    },
};

#[test]
fn several_devices_have_an_attribute_in_common_or_none_does() {
    let on_bus = |name: &str, bus: &str| PoolDevice {
        attributes: [("gpu.example.com/bus".to_owned(), format!("s:{bus}"))].into(),
        ..device(name, "a")
    };
    let devices = vec![on_bus("x", "1"), on_bus("y", "2"), on_bus("z", "2"), device("w", "a")];
    let with = |distinct: bool, count: u32| {
        let mut claim = asks("c", vec![request("gpu", count)]);
        claim.spec.constraints = vec![DeviceConstraint {
            requests: vec![],
            attribute: "gpu.example.com/bus".into(),
            distinct,
        }];
        claim
    };
    for (distinct, count, found) in [
        (false, 2, Some(vec!["y", "z"])),
        (false, 3, None),
        (true, 2, Some(vec!["x", "y"])),
        (true, 3, None),
    ] {
        let mut world = World::with([node("a", 4).into(), pool("a", devices.clone()).into()]);
        world.tell(with(distinct, count));
        world.tell(using("p", &["c"]));
        let bound = given(&world.cycle());
        let devices = bound.first().map(|(_, _, devices)| devices.clone());
        let expected = found.map(|names| names.iter().map(|n| format!("gpu=a/{n}")).collect::<Vec<_>>());
        assert_eq!(devices, expected, "distinct: {distinct}, {count}");
    }
}

#[test]
fn the_first_alternative_that_can_be_had_is_had() {
    let mut both = request("any", 1);
    both.options = vec![
        DeviceOption {
            name: "any/large".into(),
            selector: 2,
            count: Some(1),
            ..Default::default()
        },
        DeviceOption {
            name: "any/small".into(),
            selector: 1,
            count: Some(2),
            ..Default::default()
        },
    ];
    let mut world = World::with([node("a", 4).into(), gpus("a", 3).into()]);
    world.tell(asks("c", vec![both]));
    world.tell(using("p", &["c"]));
    assert_eq!(given(&world.cycle())[0].2, ["any/small=a/gpu-0", "any/small=a/gpu-1"]);
}

#[test]
fn taints_keep_devices_from_claims_that_do_not_tolerate_them() {
    let ill = PoolDevice {
        taints: vec![Taint {
            key: "ill".into(),
            value: String::new(),
            effect: "NoSchedule".into(),
        }],
        ..device("gpu-0", "a")
    };
    let mut world = World::with([
        node("a", 4).into(),
        pool("a", vec![ill.clone()]).into(),
        one("c").into(),
    ]);
    world.tell(using("p", &["c"]));
    assert_eq!(given(&world.cycle()), []);
    let mut tolerant = one("d");
    tolerant.spec.requests[0].options[0].tolerations = vec![Toleration {
        key: "ill".into(),
        exists: true,
        ..Default::default()
    }];
    world.tell(tolerant);
    world.tell(using("q", &["d"]));
    assert_eq!(given(&world.cycle()).len(), 1);
    // The taint clears itself, but the device is taken.
    world.tell(pool("a", vec![device("gpu-0", "a"), device("gpu-1", "a")]));
    assert_eq!(given(&world.cycle())[0].2, ["gpu=a/gpu-1"]);
}

#[test]
fn shares_of_a_device_add_up_to_no_more_than_it_has() {
    let capacity = Capacity {
        value: 80_000,
        default: Some(10_000),
        steps: Some(Steps::Range {
            min: 10_000,
            max: Some(60_000),
            step: Some(5_000),
        }),
    };
    let shared = PoolDevice {
        shared: true,
        capacity: [("memory".to_owned(), capacity)].into(),
        ..device("gpu-0", "a")
    };
    let part = |name: &str, asked: Option<i64>| {
        let mut claim = one(name);
        claim.spec.requests[0].options[0].capacity = asked.map(|a| ("memory".to_owned(), a)).into_iter().collect();
        claim
    };
    let mut world = World::with([node("a", 4).into(), pool("a", vec![shared]).into()]);
    for (name, asked, got) in [
        ("too-large", Some(61_000), None),
        ("rounded", Some(41_000), Some(45_000)),
        ("default", None, Some(10_000)),
        ("least", Some(1), Some(10_000)),
        ("beside", Some(20_000), None),
        ("rest", Some(15_000), Some(15_000)),
        ("nothing", None, None),
    ] {
        world.tell(part(name, asked));
        world.tell(using(&format!("p-{name}"), &[name]));
        let decisions = world.cycle();
        let share = decisions.iter().find_map(|decision| match decision {
            Decision::Bind { allocations, .. } => allocations[0].allocation.devices[0].share.clone(),
            _ => None,
        });
        let expected = got.map(|amount| BTreeMap::from([("memory".to_owned(), amount)]));
        assert_eq!(share, expected, "{name}");
    }
}

#[test]
fn parts_of_one_card_draw_on_its_counters() {
    let part = |name: &str, slices: i64| PoolDevice {
        consumes: [("card/slices".to_owned(), slices)].into(),
        ..device(name, "a")
    };
    let mig = DevicePool {
        counters: [("card/slices".to_owned(), 7)].into(),
        ..pool(
            "a",
            vec![
                part("whole", 7),
                part("half-0", 3),
                part("half-1", 3),
                part("half-2", 3),
            ],
        )
    };
    let mut world = World::with([node("a", 4).into(), mig.into()]);
    world.tell(asks("two", vec![request("gpu", 2)]));
    world.tell(using("p", &["two"]));
    assert_eq!(given(&world.cycle())[0].2, ["gpu=a/half-0", "gpu=a/half-1"]);
    world.tell(one("third"));
    world.tell(using("q", &["third"]));
    assert!(reason(&mut world, "q").starts_with("cannot allocate all claims"));
}

#[test]
fn all_devices_are_had_or_none_and_not_while_their_pool_is_updated() {
    let mut all = request("gpu", 1);
    all.options[0].count = None;
    let mut world = World::with([node("a", 4).into(), gpus("a", 3).into(), asks("all", vec![all]).into()]);
    let pool = DevicePool {
        fault: Some("resource pool gpu.example.com/a is being updated".into()),
        ..gpus("a", 3)
    };
    world.tell(pool);
    world.tell(using("p", &["all"]));
    assert_eq!(
        reason(&mut world, "p"),
        "resource pool gpu.example.com/a is being updated"
    );
    world.tell(gpus("a", 3));
    assert_eq!(given(&world.cycle())[0].2.len(), 3);
}

#[test]
fn a_selector_that_fails_on_a_device_says_so() {
    let odd = PoolDevice {
        selectors: vec![],
        failed: vec![(1, "selector #0 on device gpu-0: no such key: model".into())],
        ..device("gpu-0", "a")
    };
    let mut world = World::with([node("a", 4).into(), pool("a", vec![odd]).into(), one("c").into()]);
    world.tell(using("p", &["c"]));
    assert_eq!(
        reason(&mut world, "p"),
        "selector #0 on device gpu-0: no such key: model"
    );
    world.tell(gpus("a", 1));
    assert_eq!(given(&world.cycle()).len(), 1);
}

#[test]
fn devices_that_several_nodes_reach_are_had_once() {
    let mut racked = node("in-rack", 4);
    racked.labels.insert("rack".into(), "r".into());
    let in_rack = vec![vec![Requirement {
        key: "rack".into(),
        operator: Operator::In,
        values: vec!["r".into()],
    }]];
    let network = DevicePool {
        driver: "net.example.com".into(),
        pool: "fabric".into(),
        devices: vec![
            PoolDevice {
                reach: Reach::Nodes(in_rack.clone()),
                ..device("switch", "")
            },
            PoolDevice {
                reach: Reach::Everywhere,
                ..device("uplink", "")
            },
        ],
        ..Default::default()
    };
    let mut world = World::with([node("a", 4).into(), racked.into(), network.into()]);
    for i in 0..3 {
        world.tell(one(&format!("c{i}")));
        world.tell(using(&format!("p{i}"), &[&format!("c{i}")]));
    }
    let decisions = world.cycle();
    let bound = given(&decisions);
    let devices: Vec<&str> = bound.iter().map(|(_, _, devices)| devices[0].as_str()).collect();
    assert_eq!(bound.len(), 2);
    assert!(
        devices.contains(&"gpu=fabric/switch") && devices.contains(&"gpu=fabric/uplink"),
        "{bound:?}"
    );
    for decision in &decisions {
        if let Decision::Bind { allocations, .. } = decision {
            let allocation = &allocations[0].allocation;
            let expected = match allocation.devices[0].device.as_str() {
                "switch" => in_rack.clone(),
                _ => vec![],
            };
            assert_eq!(allocation.nodes, expected);
        }
    }
}
