//! Claims to devices: which devices pods get by them, and when.

use crate::{
    Decision, Event, Reason,
    event::{
        AllocatedDevice, DeviceAllocation, DeviceClaim, DeviceClaimSpec, DeviceOption, DevicePool, DeviceRequest,
        Operator, Pod, PoolDevice, Reach, Requirement,
    },
    tests::fixtures::{World, claim, member, node, pod},
};

impl From<DevicePool> for Event {
    fn from(pool: DevicePool) -> Event {
        Event::DevicePool(Box::new(pool))
    }
}

impl From<DeviceClaim> for Event {
    fn from(claim: DeviceClaim) -> Event {
        Event::DeviceClaim(Box::new(claim))
    }
}

/// A device of a node that selector 1 means.
pub(super) fn device(name: &str, node: &str) -> PoolDevice {
    PoolDevice {
        name: name.into(),
        reach: Reach::Node(node.into()),
        selectors: vec![1],
        ..Default::default()
    }
}

/// The pool of a node.
pub(super) fn pool(node: &str, devices: Vec<PoolDevice>) -> DevicePool {
    DevicePool {
        driver: "gpu.example.com".into(),
        pool: node.into(),
        devices,
        ..Default::default()
    }
}

/// A node's GPUs, `gpu-0` and on.
pub(super) fn gpus(node: &str, count: usize) -> DevicePool {
    let devices = (0..count).map(|i| device(&format!("gpu-{i}"), node));
    pool(node, devices.collect())
}

pub(super) fn request(name: &str, count: u32) -> DeviceRequest {
    DeviceRequest {
        name: name.into(),
        options: vec![DeviceOption {
            name: name.into(),
            selector: 1,
            count: Some(count),
            ..Default::default()
        }],
    }
}

/// A claim with these requests.
pub(super) fn asks(name: &str, requests: Vec<DeviceRequest>) -> DeviceClaim {
    DeviceClaim {
        uid: format!("{name}-uid"),
        namespace: "ns".into(),
        name: name.into(),
        spec: DeviceClaimSpec {
            requests,
            constraints: vec![],
        },
        ..Default::default()
    }
}

/// A claim to one GPU.
pub(super) fn one(name: &str) -> DeviceClaim {
    asks(name, vec![request("gpu", 1)])
}

pub(super) fn using(uid: &str, claims: &[&str]) -> Pod {
    Pod {
        device_claims: claims.iter().map(ToString::to_string).collect(),
        ..pod(uid, 100)
    }
}

/// Pod, node, and the devices of its claims.
pub(super) fn given(decisions: &[Decision]) -> Vec<(String, String, Vec<String>)> {
    let bound = decisions.iter().filter_map(|decision| match decision {
        Decision::Bind {
            pod, node, allocations, ..
        } => {
            let devices = allocations.iter().flat_map(|a| &a.allocation.devices);
            let devices = devices.map(|d| format!("{}={}/{}", d.request, d.pool, d.device));
            Some((pod.clone(), node.clone(), devices.collect()))
        }
        _ => None,
    });
    bound.collect()
}

pub(super) fn reason(world: &mut World, uid: &str) -> String {
    world.cluster.say_again();
    let decisions = world.cycle();
    let said = decisions.iter().find_map(|decision| match decision {
        Decision::Pending {
            claim,
            reason,
            counterfactual,
        } if claim == uid => Some((reason.clone(), counterfactual.clone())),
        _ => None,
    });
    match said {
        Some((Reason::NoNodeFits { constraint, .. }, Some(change))) => format!("{constraint}; {change}"),
        Some((Reason::NoNodeFits { constraint, .. }, None)) => constraint,
        Some((reason, _)) => reason.to_string(),
        None => format!("nothing is said of {uid}: {decisions:?}"),
    }
}

/// What the API server says of a claim when its pod is bound.
fn told(claim: DeviceClaim, decisions: &[Decision]) -> DeviceClaim {
    let mut claim = claim;
    for decision in decisions {
        if let Decision::Bind { pod, allocations, .. } = decision
            && let Some(of_it) = allocations.iter().find(|a| a.claim == claim.name)
        {
            claim.allocation = Some(of_it.allocation.clone());
            claim.reserved.push(pod.clone());
        }
    }
    claim
}

#[test]
fn a_pod_gets_the_first_free_device_of_a_node_and_the_next_one_another() {
    let mut world = World::with([
        node("a", 4).into(),
        node("b", 4).into(),
        gpus("b", 2).into(),
        one("c1").into(),
        one("c2").into(),
        one("c3").into(),
    ]);
    for (uid, claim) in [("p1", "c1"), ("p2", "c2"), ("p3", "c3")] {
        world.tell(using(uid, &[claim]));
    }
    let decisions = world.cycle();
    let bound = |uid: &str, gpu: &str| (uid.to_owned(), "b".to_owned(), vec![format!("gpu=b/{gpu}")]);
    assert_eq!(given(&decisions), [bound("p1", "gpu-0"), bound("p2", "gpu-1")]);
    let here = vec![vec![Requirement {
        key: crate::event::NODE_NAME.into(),
        operator: Operator::In,
        values: vec!["b".into()],
    }]];
    let Some(Decision::Bind { allocations, .. }) = decisions.first() else {
        panic!("{decisions:?}");
    };
    assert_eq!(allocations[0].allocation.nodes, here);
    assert_eq!(allocations[0].uid, "c1-uid");
    assert_eq!(
        reason(&mut world, "p3"),
        "cannot allocate all claims; it would fit if 1 device for request gpu more were free on node b"
    );
    // The claims say so, and the pods are bound: nothing changes. One pod ends, and its claim is deleted.
    for claim in ["c1", "c2"] {
        world.tell(told(one(claim), &decisions));
    }
    world.confirm(&decisions);
    assert_eq!(given(&world.cycle()), []);
    world.tell(Event::PodGone("p1".into()));
    assert_eq!(given(&world.cycle()), [], "the claim still has its device");
    world.tell(Event::DeviceClaimGone {
        namespace: "ns".into(),
        name: "c1".into(),
    });
    assert_eq!(given(&world.cycle()), [bound("p3", "gpu-0")]);
}

#[test]
fn a_claim_that_is_not_there_is_waited_for_and_one_that_is_refused_says_why() {
    let mut world = World::with([node("a", 4).into(), gpus("a", 2).into()]);
    world.tell(using("p", &["later"]));
    assert_eq!(
        reason(&mut world, "p"),
        "waiting for resource claim to be created: later"
    );
    let broken = DeviceClaim {
        refused: Some("spec.devices.requests[0].exactly.adminAccess: is not supported".into()),
        ..one("later")
    };
    world.tell(broken);
    assert_eq!(
        reason(&mut world, "p"),
        "resourceclaim later: spec.devices.requests[0].exactly.adminAccess: is not supported"
    );
    let of_another = DeviceClaim {
        owner: Some("q".into()),
        ..one("later")
    };
    world.tell(of_another);
    assert!(reason(&mut world, "p").contains("was made for another pod"));
    world.tell(DeviceClaim {
        deleting: true,
        ..one("later")
    });
    assert_eq!(reason(&mut world, "p"), "resourceclaim \"later\" is being deleted");
    world.tell(one("later"));
    assert_eq!(given(&world.cycle()).len(), 1);
}

#[test]
fn where_claims_cannot_be_seen_it_is_not_said_that_one_has_to_be_created() {
    let mut world = World::with([node("a", 4).into(), gpus("a", 1).into()]);
    world.tell(using("p", &["c"]));
    assert_eq!(reason(&mut world, "p"), "waiting for resource claim to be created: c");
    world.tell(Event::DeviceClaimsServed(false));
    let said = reason(&mut world, "p");
    assert!(said.contains("resource.k8s.io/v1 is not served"), "{said}");
    // Those that were seen before, for a moment, are known still.
    world.tell(one("c"));
    assert_eq!(given(&world.cycle()).len(), 1);
    world.tell(using("q", &["d"]));
    assert!(reason(&mut world, "q").contains("resource.k8s.io/v1 is not served"));
    world.tell(Event::DeviceClaimsServed(true));
    assert_eq!(reason(&mut world, "q"), "waiting for resource claim to be created: d");
}

#[test]
fn a_gang_of_which_one_gets_no_device_has_none_of_them() {
    let mut world = World::with([
        node("a", 8).into(),
        gpus("a", 2).into(),
        claim("g", "", &[("w", 3, 3, 1)]).into(),
    ]);
    for i in 0..3 {
        world.tell(one(&format!("c{i}")));
        world.tell(Pod {
            device_claims: vec![format!("c{i}")],
            ..member(&format!("p{i}"), "g", "w", 100)
        });
    }
    let before = world.cluster.model.dra.clone();
    assert_eq!(given(&world.cycle()), []);
    assert!(world.cluster.model.dra == before, "nothing is held");
    world.tell(gpus("a", 3));
    assert_eq!(given(&world.cycle()).len(), 3);
}

#[test]
fn a_shared_claim_has_its_devices_once_and_draws_all_its_pods_to_them() {
    let mut world = World::with([
        node("a", 4).into(),
        node("b", 4).into(),
        gpus("a", 1).into(),
        gpus("b", 1).into(),
        one("shared").into(),
    ]);
    for i in 0..3 {
        world.tell(using(&format!("p{i}"), &["shared"]));
    }
    let decisions = world.cycle();
    let bound = given(&decisions);
    assert_eq!(bound.len(), 3);
    assert!(
        bound
            .iter()
            .all(|(_, node, devices)| (node, devices) == (&bound[0].1, &bound[0].2))
    );
    // It says so; those who come later go there, too, as long as there is room.
    world.tell(told(one("shared"), &decisions));
    world.confirm(&decisions);
    world.tell(using("late", &["shared"]));
    assert_eq!(given(&world.cycle())[0].1, bound[0].1);
    world.tell(Pod {
        requests: [("cpu".to_owned(), 4000)].into(),
        ..using("large", &["shared"])
    });
    let said = reason(&mut world, "large");
    assert!(
        said.starts_with("insufficient cpu") || said.starts_with("resourceclaim not available on the node"),
        "{said}"
    );
}

#[test]
fn a_claim_takes_256_pods_and_no_more() {
    let mut world = World::with([node("a", 4).into(), gpus("a", 1).into()]);
    let allocation = DeviceAllocation {
        devices: vec![AllocatedDevice {
            request: "gpu".into(),
            driver: "gpu.example.com".into(),
            pool: "a".into(),
            device: "gpu-0".into(),
            share: None,
        }],
        nodes: vec![],
    };
    let full = DeviceClaim {
        allocation: Some(allocation),
        reserved: (0..255).map(|i| format!("other-{i}")).collect(),
        ..one("c")
    };
    world.tell(full.clone());
    for uid in ["p", "q"] {
        world.tell(using(uid, &["c"]));
    }
    assert_eq!(given(&world.cycle()).len(), 1, "one place is left");
    assert_eq!(reason(&mut world, "q"), "resourceclaim in use");
    let mut more = full;
    more.reserved.push("p".into());
    world.tell(more);
    assert_eq!(
        reason(&mut world, "q"),
        "resourceclaim c in use: 256 pods have it, and it takes no more"
    );
}

#[test]
fn what_others_allocated_counts_and_a_pod_that_has_its_devices_goes_on_there() {
    let mut world = World::with([
        node("a", 4).into(),
        node("b", 4).into(),
        gpus("a", 1).into(),
        gpus("b", 1).into(),
    ]);
    let has = |claim: &str, pool: &str| {
        let device = AllocatedDevice {
            request: "gpu".into(),
            driver: "gpu.example.com".into(),
            pool: pool.into(),
            device: "gpu-0".into(),
            share: None,
        };
        DeviceClaim {
            allocation: Some(DeviceAllocation {
                devices: vec![device],
                nodes: vec![vec![Requirement {
                    key: crate::event::NODE_NAME.into(),
                    operator: Operator::In,
                    values: vec![pool.into()],
                }]],
            }),
            ..one(claim)
        }
    };
    world.tell(has("of-others", "a"));
    // An operator died between the claim and the binding.
    world.tell(has("mine", "b"));
    world.tell(using("p", &["mine"]));
    world.tell(one("new"));
    world.tell(using("q", &["new"]));
    let decisions = world.cycle();
    assert_eq!(
        given(&decisions),
        [("p".into(), "b".into(), vec!["gpu=b/gpu-0".into()])]
    );
    assert!(reason(&mut world, "q").starts_with("cannot allocate all claims"));
}

#[test]
fn devices_stay_with_a_claim_until_it_is_known_what_became_of_the_binding() {
    let mut world = World::with([
        node("a", 4).into(),
        gpus("a", 1).into(),
        one("c").into(),
        one("d").into(),
    ]);
    world.tell(using("p", &["c"]));
    assert_eq!(given(&world.cycle()).len(), 1);
    // The pod goes away while its claim is written: it may have the device by now.
    world.tell(Event::PodGone("p".into()));
    world.tell(using("q", &["d"]));
    assert_eq!(given(&world.cycle()), []);
    // A word of the claim from before that says nothing.
    world.tell(DeviceClaim {
        owner: Some("p".into()),
        ..one("c")
    });
    assert_eq!(given(&world.cycle()), []);
    world.tell(Event::BindFailed {
        pod: "p".into(),
        node: "a".into(),
        message: "gone".into(),
        lasting: false,
    });
    assert_eq!(given(&world.cycle()).len(), 1);
}

#[test]
fn a_binding_that_failed_after_its_claim_was_written_is_tried_where_the_devices_are() {
    let mut world = World::with([node("a", 4).into(), node("b", 4).into(), one("c").into()]);
    world.tell(gpus("a", 1));
    world.tell(gpus("b", 1));
    world.tell(using("p", &["c"]));
    let decisions = world.cycle();
    let first = given(&decisions);
    world.tell(told(one("c"), &decisions));
    world.tell(Event::BindFailed {
        pod: "p".into(),
        node: first[0].1.clone(),
        message: "busy".into(),
        lasting: false,
    });
    assert_eq!(given(&world.cycle()), first);
}

#[test]
fn nothing_is_left_when_everything_is_gone() {
    let mut world = World::with([node("a", 4).into(), gpus("a", 1).into(), one("c").into()]);
    world.tell(using("p", &["c"]));
    let decisions = world.cycle();
    world.tell(told(one("c"), &decisions));
    world.confirm(&decisions);
    for event in [
        Event::PodGone("p".into()),
        Event::DevicePoolGone {
            driver: "gpu.example.com".into(),
            pool: "a".into(),
        },
        Event::DeviceClaimGone {
            namespace: "ns".into(),
            name: "c".into(),
        },
    ] {
        world.tell(event);
    }
    assert!(world.cluster.model.dra.is_empty());
}

/// Each of a thousand pods with a device of its own would otherwise cost a look at all nodes.
#[test]
fn a_pod_that_takes_a_device_has_the_node_alone_looked_at_that_it_goes_to() {
    let mut world = World::default();
    for i in 0..40 {
        let name = format!("n{i:02}");
        world.tell(gpus(&name, 2));
        world.tell(node(&name, 4));
    }
    for i in 0..60 {
        world.tell(one(&format!("c{i}")));
        world.tell(using(&format!("p{i}"), &[&format!("c{i}")]));
    }
    let decisions = world.cycle();
    assert_eq!(given(&decisions).len(), 60);
    let work = world.cluster.work();
    assert_eq!(work.shapes_built, 1, "pods with claims of their own are alike");
    assert!(work.nodes_visited <= 40 + 60, "{work:?}");
}

/// Who is bound needs its claims no more: to take its seat from it on trial, and to give it back, touches no device.
#[test]
fn a_pod_that_holds_a_device_is_spared_if_another_is_enough() {
    let mut world = World::with([node("a", 4).into(), gpus("a", 1).into(), one("c").into()]);
    let low = Pod {
        requests: [("cpu".to_owned(), 2000)].into(),
        ..using("device", &["c"])
    };
    world.tell(low);
    world.tell(pod("plain", 2000));
    let decisions = world.cycle();
    world.tell(told(one("c"), &decisions));
    world.confirm(&decisions);
    let before = world.cluster.model.dra.clone();
    world.tell(Pod {
        priority: 9,
        ..pod("urgent", 1500)
    });
    let evicted = world
        .cycle()
        .iter()
        .filter(|d| matches!(d, Decision::Evict { .. }))
        .count();
    assert_eq!(evicted, 1);
    assert!(world.cluster.model.dra == before);
}

#[test]
fn a_shared_claim_keeps_its_devices_until_it_is_known_of_every_pod_whether_it_is_bound() {
    let mut world = World::with([
        node("a", 4).into(),
        gpus("a", 1).into(),
        one("c").into(),
        one("d").into(),
    ]);
    world.tell(using("p", &["c"]));
    world.tell(using("q", &["c"]));
    assert_eq!(given(&world.cycle()).len(), 2);
    let failed = |uid: &str| Event::BindFailed {
        pod: uid.into(),
        node: "a".into(),
        message: "gone".into(),
        lasting: false,
    };
    for uid in ["p", "q"] {
        world.tell(Event::PodGone(uid.into()));
    }
    world.tell(failed("p"));
    world.tell(using("r", &["d"]));
    assert_eq!(given(&world.cycle()), [], "q may have written the claim");
    world.tell(failed("q"));
    assert_eq!(given(&world.cycle()).len(), 1);
}
