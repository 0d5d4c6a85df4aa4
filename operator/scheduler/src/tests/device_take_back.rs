//! Claims that have devices where no node takes their pod give them back.

use crate::{
    Decision, Event,
    event::{AllocatedDevice, DeviceAllocation, DeviceClaim, NODE_NAME, Operator, Pod, Requirement},
    tests::{
        device_claims::{given, gpus, one, reason, using},
        fixtures::{World, claim, member, node, pod},
    },
};

/// A claim that has the first GPU of a node, and who may use it.
fn has(name: &str, node: &str, users: &[&str]) -> DeviceClaim {
    let device = AllocatedDevice {
        request: "gpu".into(),
        driver: "gpu.example.com".into(),
        pool: node.into(),
        device: "gpu-0".into(),
        share: None,
    };
    let here = Requirement {
        key: NODE_NAME.into(),
        operator: Operator::In,
        values: vec![node.into()],
    };
    DeviceClaim {
        allocation: Some(DeviceAllocation {
            devices: vec![device],
            nodes: vec![vec![here]],
        }),
        reserved: users.iter().map(ToString::to_string).collect(),
        ..one(name)
    }
}

/// Two nodes with a GPU each; nothing else goes onto `full`.
fn world() -> World {
    World::with([
        node("full", 1).into(),
        node("open", 4).into(),
        gpus("full", 1).into(),
        gpus("open", 1).into(),
        Pod {
            node: Some("full".into()),
            ..pod("other", 1000)
        }
        .into(),
    ])
}

/// Pod and claims, by name.
fn taken_back(decisions: &[Decision]) -> Vec<(&str, Vec<&str>)> {
    let taken = decisions.iter().filter_map(|decision| match decision {
        Decision::TakeBack { pod, claims } => Some((pod.as_str(), claims.iter().map(|of| of.claim.as_str()).collect())),
        _ => None,
    });
    taken.collect()
}

fn settled(name: &str) -> Event {
    Event::TakenBack {
        namespace: "ns".into(),
        name: name.into(),
        uid: format!("{name}-uid"),
    }
}

/// An operator was killed between the claim and the binding, and the node is full by then.
#[test]
fn a_pod_whose_claim_has_devices_where_it_cannot_go_gives_them_back_once_and_goes_elsewhere() {
    for users in [&["p"][..], &[]] {
        let mut world = world();
        world.tell(has("c", "full", users));
        world.tell(using("p", &["c"]));
        let decisions = world.cycle();
        assert_eq!(taken_back(&decisions), [("p", vec!["c"])]);
        let Some(Decision::TakeBack { claims, .. }) = decisions.first() else {
            panic!("{decisions:?}");
        };
        assert_eq!(claims[0].uid, "c-uid");
        assert_eq!(Some(&claims[0].allocation), has("c", "full", &[]).allocation.as_ref());
        // Until it is known what became of it nothing is decided: not even where the node has room again.
        assert_eq!(world.cycle(), []);
        assert!(reason(&mut world, "p").contains("its devices are given back"));
        world.tell(Event::PodGone("other".into()));
        assert_eq!(given(&world.cycle()), []);
        world.tell(Pod {
            node: Some("full".into()),
            ..pod("other", 1000)
        });
        world.tell(one("c"));
        assert_eq!(given(&world.cycle()), [], "it is not said to be over yet");
        world.tell(settled("c"));
        assert_eq!(
            given(&world.cycle()),
            [("p".into(), "open".into(), vec!["gpu=open/gpu-0".into()])]
        );
    }
}

#[test]
fn what_somebody_else_uses_is_not_taken_back() {
    for users in [&["p", "runs"][..], &["runs"]] {
        let mut world = world();
        world.tell(has("c", "full", users));
        world.tell(using("p", &["c"]));
        assert_eq!(taken_back(&world.cycle()), []);
        // That one ends.
        world.tell(has("c", "full", &["p"]));
        assert_eq!(taken_back(&world.cycle()), [("p", vec!["c"])]);
    }
    // A small pod goes where the devices are: a large one that shares them waits.
    let mut world = world();
    world.tell(node("full", 2));
    world.tell(has("c", "full", &[]));
    world.tell(using("small", &["c"]));
    world.tell(Pod {
        requests: [("cpu".to_owned(), 3000)].into(),
        ..using("large", &["c"])
    });
    let decisions = world.cycle();
    assert_eq!((given(&decisions).len(), taken_back(&decisions)), (1, vec![]));
}

#[test]
fn devices_are_kept_where_they_do_not_stand_in_the_way() {
    let mut world = world();
    world.tell(Event::PodGone("other".into()));
    world.tell(has("c", "full", &["p"]));
    world.tell(using("p", &["c"]));
    assert_eq!(given(&world.cycle())[0].1, "full");
    // Nowhere would it fit without them, either.
    let mut world = self::world();
    world.tell(has("c", "full", &["p"]));
    world.tell(Pod {
        requests: [("cpu".to_owned(), 9000)].into(),
        ..using("p", &["c"])
    });
    assert_eq!(taken_back(&world.cycle()), []);
}

#[test]
fn what_could_not_be_taken_back_is_asked_for_again_when_that_is_known() {
    let mut world = world();
    world.tell(has("c", "full", &["p"]));
    world.tell(using("p", &["c"]));
    assert_eq!(taken_back(&world.cycle()).len(), 1);
    // A word about another claim of that name is not about this one.
    world.tell(Event::TakenBack {
        namespace: "ns".into(),
        name: "c".into(),
        uid: "older".into(),
    });
    assert_eq!(taken_back(&world.cycle()), []);
    world.tell(settled("c"));
    assert_eq!(taken_back(&world.cycle()), [("p", vec!["c"])]);
    // Another pod of that name and claim begins anew, and so does another claim.
    world.tell(Event::PodGone("p".into()));
    world.tell(settled("c"));
    world.tell(has("c", "full", &["q"]));
    world.tell(using("q", &["c"]));
    assert_eq!(taken_back(&world.cycle()), [("q", vec!["c"])]);
    world.tell(DeviceClaim {
        uid: "another".into(),
        ..one("c")
    });
    assert_eq!(given(&world.cycle())[0].1, "open");
}

/// The first of them was written before an operator was killed.
#[test]
fn a_gang_gives_back_what_keeps_one_of_it_from_every_node() {
    let mut world = World::with([
        node("full", 1).into(),
        node("open", 4).into(),
        gpus("full", 1).into(),
        gpus("open", 2).into(),
        Pod {
            node: Some("full".into()),
            ..pod("other", 1000)
        }
        .into(),
        claim("g", "", &[("w", 2, 2, 1)]).into(),
        has("c0", "full", &["p0"]).into(),
        one("c1").into(),
    ]);
    for i in 0..2 {
        world.tell(Pod {
            device_claims: vec![format!("c{i}")],
            ..member(&format!("p{i}"), "g", "w", 100)
        });
    }
    let decisions = world.cycle();
    assert_eq!(
        (given(&decisions), taken_back(&decisions)),
        (vec![], vec![("p0", vec!["c0"])])
    );
    assert_eq!(world.cycle(), []);
    world.tell(one("c0"));
    world.tell(settled("c0"));
    assert_eq!(given(&world.cycle()).len(), 2);
}
