//! Quotas, and taking back what others borrow.

use super::fixtures::*;
use crate::{
    Decision, Event, EvictCause, Reason, Tier,
    event::{Pod, Queue, Quota},
};

fn in_queue(uid: &str, queue: &str, milli: i64) -> Pod {
    Pod {
        queue: queue.into(),
        ..pod(uid, milli)
    }
}

fn fill(world: &mut World, queue: &str, count: usize, milli: i64) {
    for i in 0..count {
        world.tell(in_queue(&format!("{queue}-{i}"), queue, milli));
    }
}

#[test]
fn a_limit_holds_at_each_queue_above() {
    let mut world = World::with([
        node("a", 64).into(),
        queue("org", None, &[], &[("cpu", 3000)]).into(),
        queue("team", Some("org"), &[], &[("cpu", 2000)]).into(),
        queue("other", Some("org"), &[], &[]).into(),
    ]);
    fill(&mut world, "team", 3, 1000);
    let decisions = world.run();
    assert_eq!(binds(&decisions).len(), 2);
    let waits = |queue: &str| Reason::WaitingForQuota {
        queue: queue.into(),
        resource: "cpu".into(),
        asked: 1000,
        left: 0,
    };
    assert_eq!(world.reason(&decisions, "team-2"), Some(waits("team")));
    fill(&mut world, "other", 2, 1000);
    let decisions = world.run();
    assert_eq!(binds(&decisions), [("other-0", "a")]);
    assert_eq!(world.reason(&decisions, "other-1"), Some(waits("org")));

    world.tell(Event::PodGone("team-0".into()));
    assert_eq!(binds(&world.run()).len(), 1, "one of the two that wait");
}

#[test]
fn what_is_over_the_limit_alone_says_so() {
    let mut world = World::with([node("a", 64).into(), queue("q", None, &[], &[("cpu", 500)]).into()]);
    world.tell(in_queue("p", "q", 1000));
    let decisions = world.cycle();
    let [
        Decision::Pending {
            reason, counterfactual, ..
        },
    ] = decisions.as_slice()
    else {
        panic!("{decisions:?}")
    };
    assert_eq!(
        reason.to_string(),
        "it asks for 1 cpu, and the limit of queue q is 500m cpu"
    );
    assert_eq!(
        counterfactual.as_deref(),
        Some("raise the limit of queue q by 500m cpu, or ask for less")
    );
    world.tell(queue("q", None, &[], &[("cpu", 1000)]));
    assert_eq!(binds(&world.cycle()), [("p", "a")]);
}

#[test]
fn a_limit_of_zero_lets_nothing_in() {
    let mut world = World::with([
        gpu_node("a", 2, "A100").into(),
        queue("q", None, &[], &[("gpu", 0)]).into(),
    ]);
    world.tell(Pod {
        queue: "q".into(),
        ..gpu_pod("p", share(100))
    });
    world.tell(in_queue("plain", "q", 100));
    let decisions = world.cycle();
    assert_eq!(binds(&decisions), [("plain", "a")]);
    assert!(matches!(
        world.reason(&decisions, "p"),
        Some(Reason::ExceedsLimit {
            limit: 0,
            asked: 100,
            ..
        })
    ));
}

#[test]
fn a_queue_in_a_circle_or_without_its_parent_is_harmless_and_says_so() {
    let mut world = World::with([
        node("a", 8).into(),
        queue("x", Some("y"), &[], &[]).into(),
        queue("y", Some("x"), &[], &[]).into(),
        queue("z", Some("nowhere"), &[], &[]).into(),
        in_queue("px", "x", 100).into(),
        in_queue("pz", "z", 100).into(),
    ]);
    let decisions = world.cycle();
    assert_eq!(
        world.reason(&decisions, "px"),
        Some(Reason::QueueCycle {
            queue: "x".into(),
            circle: vec!["x".into(), "y".into()],
        })
    );
    assert_eq!(
        world.reason(&decisions, "pz"),
        Some(Reason::NoSuchParentQueue {
            queue: "z".into(),
            parent: "nowhere".into()
        })
    );
    world.tell(queue("y", None, &[], &[]));
    world.tell(queue("nowhere", None, &[], &[]));
    assert_eq!(binds(&world.cycle()).len(), 2);
}

#[test]
fn a_namespace_that_is_not_admitted_waits() {
    let mut closed = queue("q", None, &[], &[]);
    closed.namespaces = vec!["other".into()];
    let mut world = World::with([node("a", 8).into(), closed.into(), in_queue("p", "q", 100).into()]);
    let decisions = world.cycle();
    assert_eq!(
        world.reason(&decisions, "p"),
        Some(Reason::NamespaceNotAllowed {
            queue: "q".into(),
            namespace: "ns".into()
        })
    );
}

#[test]
fn a_queue_below_its_guarantee_goes_first() {
    let mut world = World::with([
        node("a", 2).into(),
        queue("rich", None, &[], &[]).into(),
        queue("sure", None, &[("cpu", 1000)], &[]).into(),
    ]);
    for uid in ["r0", "r1"] {
        world.tell(Pod {
            priority: 100,
            ..in_queue(uid, "rich", 1000)
        });
    }
    world.tell(in_queue("s0", "sure", 1000));
    world.tell(in_queue("s1", "sure", 1000));
    assert_eq!(
        binds(&world.cycle()).iter().map(|b| b.0).collect::<Vec<_>>(),
        ["s0", "r0"]
    );
}

/// 8 cores, all used by `b`, which is guaranteed 4 as `a` is.
fn borrowed() -> World {
    let mut world = World::with([
        node("n1", 4).into(),
        node("n2", 4).into(),
        queue("a", None, &[("cpu", 4000)], &[]).into(),
        queue("b", None, &[("cpu", 4000)], &[]).into(),
    ]);
    fill(&mut world, "b", 8, 1000);
    assert_eq!(binds(&world.run()).len(), 8);
    world
}

#[test]
fn a_queue_takes_back_its_guarantee_and_no_more() {
    let mut world = borrowed();
    fill(&mut world, "a", 6, 1000);
    let decisions = world.cycle();
    let gone: Vec<String> = evictions(&decisions).iter().map(ToString::to_string).collect();
    assert_eq!(gone.len(), 4, "{decisions:?}");
    assert!(gone.iter().all(|uid| uid.starts_with("b-")));
    assert_eq!(
        world.reason(&decisions, "a-0"),
        Some(Reason::WaitingForEviction { pods: 1 })
    );
    assert_eq!(world.cycle(), [], "the rest would be beyond the guarantee");
    // What is freed is kept for whom it was freed.
    world.tell(Pod {
        priority: 1000,
        never_preempts: true,
        ..in_queue("thief", "b", 1000)
    });
    assert!(binds(&world.cycle()).is_empty());
    for uid in &gone {
        world.tell(Event::PodGone(uid.clone()));
    }
    let decisions = world.run();
    assert_eq!(
        binds(&decisions).iter().map(|b| b.0).collect::<Vec<_>>(),
        ["a-0", "a-1", "a-2", "a-3"]
    );
    // No ping-pong: b is within its guarantee now, and so is a.
    fill(&mut world, "b", 16, 1000);
    assert!(evictions(&world.run()).is_empty());
    assert!(evictions(&world.run()).is_empty());
}

#[test]
fn a_queue_that_never_reclaims_waits_for_what_it_lent() {
    let mut world = borrowed();
    world.tell(Queue {
        never_reclaims: true,
        ..queue("a", None, &[("cpu", 4000)], &[])
    });
    fill(&mut world, "a", 1, 1000);
    assert_eq!(evictions(&world.run()).len(), 0);
    world.tell(queue("a", None, &[("cpu", 4000)], &[]));
    assert_eq!(evictions(&world.run()).len(), 1, "it may again");
}

#[test]
fn the_lowest_priority_goes_first_then_the_newest() {
    let mut world = World::with([
        node("n", 3).into(),
        queue("a", None, &[("cpu", 1000)], &[]).into(),
        queue("b", None, &[], &[]).into(),
    ]);
    for (uid, priority, created) in [("old", 0, 1), ("new", 0, 2), ("high", 9, 3)] {
        let mut pod = Pod {
            priority,
            ..in_queue(uid, "b", 1000)
        };
        pod.created.0 = created;
        world.tell(pod);
    }
    world.run();
    world.tell(in_queue("p", "a", 1000));
    assert_eq!(evictions(&world.cycle()), ["new"]);
}

#[test]
fn a_gang_is_evicted_as_a_whole_and_nobody_in_vain() {
    let mut world = World::with([
        node("n1", 2).into(),
        node("n2", 2).into(),
        queue("a", None, &[("cpu", 2000)], &[]).into(),
        queue("b", None, &[], &[]).into(),
    ]);
    world.tell(claim("gang", "b", &[("w", 2, 2, 1)]));
    world.tell(member("g0", "gang", "w", 1000));
    world.tell(member("g1", "gang", "w", 1000));
    let mut high = in_queue("single0", "b", 1000);
    high.priority = 5;
    world.tell(high.clone());
    high.uid = "single1".into();
    world.tell(high);
    assert_eq!(binds(&world.run()).len(), 4);
    // One core: the gang would go first by priority, and has to go as a whole.
    world.tell(in_queue("p", "a", 1000));
    let decisions = world.cycle();
    assert_eq!(evictions(&decisions), ["g0", "g1"]);
    assert!(decisions.iter().all(|d| !matches!(d, Decision::Evict { cause, .. }
        if *cause != EvictCause::Reclaimed { by: "p".into() })));
}

#[test]
fn victims_that_turn_out_not_to_be_needed_stay() {
    // Two cores on one node are needed; taking off the newest first goes through other nodes before.
    let mut world = World::with([
        node("n1", 1).into(),
        node("n2", 1).into(),
        node("n3", 2).into(),
        queue("a", None, &[("cpu", 2000)], &[]).into(),
        queue("b", None, &[], &[]).into(),
    ]);
    for (uid, created, node) in [("x", 1, "n3"), ("y", 2, "n3"), ("z", 3, "n1"), ("w", 4, "n2")] {
        let mut pod = Pod {
            node: Some(node.into()),
            ..in_queue(uid, "b", 1000)
        };
        pod.created.0 = created;
        world.tell(pod);
    }
    world.tell(in_queue("p", "a", 2000));
    let mut gone = evictions(&world.cycle())
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    gone.sort();
    assert_eq!(gone, ["x", "y"]);
}

#[test]
fn nothing_is_evicted_where_it_would_not_help() {
    let mut world = borrowed();
    let before = world.cluster.model.freed;
    world.tell(in_queue("huge", "a", 4000));
    assert_eq!(evictions(&world.cycle()).len(), 4, "a whole node");
    let mut never = in_queue("never", "a", 100);
    never.node_terms = vec![vec![]];
    world.tell(never);
    assert!(evictions(&world.cycle()).is_empty());
    assert_eq!(world.cluster.model.freed, before);
}

#[test]
fn the_minimum_runtime_is_respected() {
    let mut world = World::with([
        node("n", 1).into(),
        queue("a", None, &[("cpu", 1000)], &[]).into(),
        queue("b", None, &[], &[]).into(),
    ]);
    let mut kept = claim("kept", "b", &[("w", 1, 1, 1)]);
    kept.min_runtime = 10_000;
    world.tell(kept);
    world.tell(member("k", "kept", "w", 1000));
    world.run();
    world.cycle();
    world.tell(in_queue("p", "a", 1000));
    assert!(evictions(&world.cycle()).is_empty());
    world.now += 9_999;
    assert!(evictions(&world.cycle()).is_empty());
    world.now += 1;
    assert_eq!(evictions(&world.cycle()), ["k"]);
}

/// A change of the pod's status used to start the promised time anew.
#[test]
fn a_change_of_a_pod_does_not_start_its_minimum_runtime_anew() {
    let mut world = World::with([
        node("n", 1).into(),
        queue("a", None, &[("cpu", 1000)], &[]).into(),
        queue("b", None, &[], &[]).into(),
    ]);
    let mut kept = claim("kept", "b", &[("w", 1, 1, 1)]);
    kept.min_runtime = 10_000;
    world.tell(kept);
    world.tell(member("k", "kept", "w", 1000));
    world.run();
    world.now += 9_000;
    let mut changed = world.pods["k"].clone();
    changed.priority = 7;
    world.tell(Pod {
        node: Some("n".into()),
        ..changed
    });
    world.tell(in_queue("p", "a", 1000));
    assert!(evictions(&world.cycle()).is_empty());
    world.now += 1_000;
    assert_eq!(evictions(&world.cycle()), ["k"]);
}

#[test]
fn an_eviction_that_is_refused_frees_the_place_that_was_kept() {
    let mut world = borrowed();
    world.tell(in_queue("p", "a", 1000));
    let gone = evictions(&world.cycle())[0].to_string();
    world.tell(Event::EvictFailed {
        pod: gone.clone(),
        message: "disruption budget".into(),
    });
    let next = world.cycle();
    assert_eq!(evictions(&next).len(), 1);
    assert_ne!(evictions(&next)[0], gone, "another one, since this one was refused");
}

#[test]
fn a_claim_that_waits_for_an_eviction_takes_what_becomes_free_elsewhere() {
    let mut world = borrowed();
    world.tell(in_queue("p", "a", 1000));
    let decisions = world.cycle();
    let gone = evictions(&decisions)[0].to_string();
    // Whoever has to go takes long to go, and a node is added.
    world.tell(node("n3", 4));
    assert_eq!(binds(&world.run()), [("p", "n3")]);
    world.tell(Event::PodGone(gone));
    assert_eq!(world.run(), []);
}

/// The mere name of the node stayed for ever.
#[test]
fn seats_that_are_taken_elsewhere_leave_nothing_of_a_node_that_is_gone() {
    let mut world = World::with([
        node("n1", 3).into(),
        node("n2", 3).into(),
        queue("a", None, &[("cpu", 4000)], &[]).into(),
        queue("b", None, &[("cpu", 2000)], &[]).into(),
    ]);
    fill(&mut world, "b", 6, 1000);
    let sits = world.run();
    world.tell(claim("two", "a", &[("w", 2, 2, 1)]));
    for uid in ["two-0", "two-1"] {
        world.tell(member(uid, "two", "w", 2000));
    }
    assert_eq!(evictions(&world.cycle()).len(), 4, "two on each node");
    world.tell(Event::NodeGone("n1".into()));
    for (uid, _) in binds(&sits).iter().filter(|(_, node)| *node == "n1") {
        world.tell(Event::PodGone((*uid).to_owned()));
    }
    world.tell(node("n3", 4));
    assert_eq!(binds(&world.run()), [("two-0", "n3"), ("two-1", "n3")]);
    assert!(!world.cluster.model.nodes_by_name.contains_key("n1"));
}

#[test]
fn prod_takes_devices_back_from_batch_and_never_the_other_way_round() {
    let batch = Queue {
        name: "batch".into(),
        weight: 1,
        quotas: vec![Quota {
            tier: Tier::Batch,
            guaranteed: amounts(&[("gpu", 2000)]),
            ..Default::default()
        }],
        ..Default::default()
    };
    let mut world = World::with([gpu_node("n", 2, "A100").into(), batch.into()]);
    for uid in ["b0", "b1"] {
        world.tell(Pod {
            tier: Tier::Batch,
            queue: "batch".into(),
            requests: Default::default(),
            ..gpu_pod(uid, whole(1))
        });
    }
    assert_eq!(binds(&world.run()).len(), 2);
    world.tell(gpu_pod("p", whole(2)));
    let decisions = world.cycle();
    assert_eq!(evictions(&decisions).len(), 2);
    for uid in ["b0", "b1"] {
        world.tell(Event::PodGone(uid.into()));
    }
    assert_eq!(binds(&world.run()), [("p", "n")]);
    world.tell(Pod {
        tier: Tier::Batch,
        queue: "batch".into(),
        requests: Default::default(),
        ..gpu_pod("b2", whole(1))
    });
    assert!(evictions(&world.cycle()).is_empty());
}

#[test]
fn the_read_side_says_used_borrowed_and_lent() {
    let world = borrowed();
    let queues = world.cluster.queues();
    let of = |name: &str| queues.iter().find(|q| q.name == name).unwrap();
    let (a, b) = (&of("a").tiers[0], &of("b").tiers[0]);
    assert_eq!((b.used["cpu"], b.borrowed["cpu"]), (8000, 4000));
    assert_eq!(a.lent, amounts(&[("cpu", 4000)]));
    assert_eq!((of("b").running, of("b").pending, of("b").share_milli), (8, 0, 1000));
    let prod = &world.cluster.tiers()[0];
    assert_eq!((prod.capacity["cpu"], prod.allocated["cpu"]), (8000, 8000));
    assert_eq!((world.cluster.pods().bound, world.cluster.pods().pending), (8, 0));
}

/// Batch and mid were measured against their own tier's `pods`, of which there are none: eight batch pods were eight times
/// the whole cluster, and their queue came last.
#[test]
fn a_share_of_what_all_tiers_have_in_common_counts_against_all_of_it() {
    let mut offering = node("n", 8);
    offering.allocatable.insert("duosuan.io/batch-cpu".into(), 8000);
    offering.gpus = gpu_node("n", 2, "A100").gpus;
    let mut world = World::with([offering.into(), queue("q", None, &[], &[]).into()]);
    for i in 0..8 {
        world.tell(Pod {
            queue: "q".into(),
            tier: Tier::Batch,
            requests: amounts(&[("duosuan.io/batch-cpu", 100)]),
            ..pod(&format!("b{i}"), 0)
        });
    }
    assert_eq!(binds(&world.cycle()).len(), 8);
    let share = |world: &World| {
        let queues = world.cluster.queues();
        queues.iter().find(|q| q.name == "q").unwrap().share_milli
    };
    assert_eq!(
        share(&world),
        100,
        "800 of 8000 milli-cores of tier batch; 8 of 110 pods are less"
    );

    // One card in each of two tiers is all there are.
    for (uid, tier) in [("g1", Tier::Prod), ("g2", Tier::Batch)] {
        world.tell(Pod {
            queue: "q".into(),
            tier,
            requests: amounts(&[]),
            gpus: Some(whole(1)),
            ..pod(uid, 0)
        });
    }
    assert_eq!(binds(&world.cycle()).len(), 2);
    assert_eq!(share(&world), 1000);
}
