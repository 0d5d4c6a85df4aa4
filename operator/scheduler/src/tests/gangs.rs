//! Claims: all or nothing, elastic ones, and what happens when a member is lost.

use super::fixtures::*;
use crate::{
    Decision, Event, EvictCause, Reason, Time,
    event::{Claim, Pod},
    query::{ClaimPhase, QueueTierView},
};

fn gang(world: &mut World, name: &str, pods: u32, milli: i64) {
    world.tell(claim(name, "", &[("worker", pods, pods, 1)]));
    for i in 0..pods {
        world.tell(member(&format!("{name}-{i}"), name, "worker", milli));
    }
}

#[test]
fn a_gang_that_fits_is_bound_together() {
    let mut world = World::with([node("a", 4).into(), node("b", 4).into()]);
    gang(&mut world, "g", 4, 2000);
    let decisions = world.cycle();
    assert_eq!(
        binds(&decisions),
        [("g-0", "a"), ("g-1", "b"), ("g-2", "a"), ("g-3", "b")]
    );
    assert!(
        decisions
            .iter()
            .all(|d| matches!(d, Decision::Bind { claim: Some(c), .. } if c == "g-uid"))
    );
    let view = world.cluster.claim("g-uid").unwrap();
    assert_eq!((view.phase, view.groups[0].placed), (ClaimPhase::Running, 4));
}

#[test]
fn a_gang_that_cannot_fit_leaves_the_model_as_it_was() {
    let mut world = World::with([node("a", 4).into(), gpu_node("b", 2, "A100").into()]);
    world.tell(pod("small", 500));
    world.run();
    gang(&mut world, "g", 3, 50_000);
    let first = world.cycle();
    assert_eq!(
        world.reason(&first, "g-uid").unwrap().to_string(),
        "1 of 3 pods find a node at once; 0/2 nodes are available: 2 insufficient cpu"
    );
    assert!(
        first
            .iter()
            .any(|d| matches!(d, Decision::Pending { counterfactual: Some(change), .. }
            if change.starts_with("one more of its pods would fit if "))),
        "what is said to help lets in one pod, not the gang: {first:?}"
    );
    // From here on nothing is new but the attempt itself.
    let before = world.cluster.model.clone();
    let ord = world.cluster.model.claims_by_uid["g-uid"];
    world.cluster.model.unpark(ord);
    assert!(world.cluster.model != before, "it is tried again");
    assert_eq!(world.cycle(), []);
    assert!(world.cluster.model == before);
}

#[test]
fn a_claim_that_is_refused_keeps_what_runs_and_gets_no_more() {
    let mut world = World::with([node("a", 8).into()]);
    let elastic = claim("g", "", &[("worker", 1, 3, 1)]);
    world.tell(elastic.clone());
    world.tell(member("p0", "g", "worker", 100));
    assert_eq!(binds(&world.run()), [("p0", "a")]);
    let message = "spec.window: not yet".to_owned();
    world.tell(Claim {
        refused: Some(message.clone()),
        ..elastic.clone()
    });
    world.tell(member("p1", "g", "worker", 100));
    let said = world.run();
    assert_eq!(binds(&said), []);
    assert_eq!(world.reason(&said, "g-uid"), Some(Reason::Refused { message }));
    let view = world.cluster.claim("g-uid").unwrap();
    assert_eq!((view.phase, view.groups[0].placed), (ClaimPhase::Running, 1));
    world.tell(elastic);
    assert_eq!(binds(&world.run()), [("p1", "a")]);
}

#[test]
fn a_gang_waits_for_all_its_pods() {
    let mut world = World::with([node("a", 8).into(), claim("g", "", &[("worker", 2, 2, 1)]).into()]);
    let said = world.cycle();
    let incomplete = |have| Reason::GangIncomplete {
        group: "worker".into(),
        have,
        need: 2,
    };
    assert_eq!(world.reason(&said, "g-uid"), Some(incomplete(0)));
    world.tell(member("p0", "g", "worker", 100));
    let said = world.cycle();
    assert_eq!(world.reason(&said, "g-uid"), Some(incomplete(1)));
    world.tell(Pod {
        gated: true,
        ..member("p1", "g", "worker", 100)
    });
    let said = world.cycle();
    assert_eq!(world.reason(&said, "g-uid"), Some(Reason::Gated));
    world.tell(member("p1", "g", "worker", 100));
    assert_eq!(binds(&world.cycle()).len(), 2);
}

#[test]
fn pods_may_come_before_their_claim() {
    let mut world = World::with([node("a", 8).into(), member("p0", "g", "worker", 100).into()]);
    let said = world.cycle();
    assert_eq!(
        world.reason(&said, "p0"),
        Some(Reason::NoSuchClaim { claim: "g".into() })
    );
    world.tell(claim("g", "", &[("worker", 1, 1, 1)]));
    assert_eq!(binds(&world.cycle()), [("p0", "a")]);
}

#[test]
fn a_pod_that_does_not_belong_says_why_and_does_not_hold_up_the_others() {
    let mut world = World::with([node("a", 8).into()]);
    let mut stated = claim("g", "", &[("worker", 1, 1, 1)]);
    stated.groups[0].requests = amounts(&[("cpu", 500)]);
    world.tell(stated);
    world.tell(member("stray", "g", "driver", 100));
    world.tell(Pod {
        created: Time(1),
        ..member("big", "g", "worker", 501)
    });
    world.tell(Pod {
        created: Time(2),
        ..member("good", "g", "worker", 500)
    });
    world.tell(Pod {
        created: Time(3),
        ..member("late", "g", "worker", 500)
    });
    let decisions = world.cycle();
    assert_eq!(binds(&decisions), [("good", "a")]);
    assert_eq!(
        world.reason(&decisions, "stray"),
        Some(Reason::NoSuchGroup { group: "driver".into() })
    );
    assert_eq!(
        world.reason(&decisions, "big").unwrap().to_string(),
        "pod big asks for 501m cpu and its group states 500m cpu"
    );
    assert_eq!(
        world.reason(&decisions, "late"),
        Some(Reason::GroupFull {
            group: "worker".into(),
            max: 1
        })
    );
}

#[test]
fn groups_of_different_kinds_start_together() {
    let mut world = World::with([node("cpu", 8).into()]);
    let mut both = claim("job", "", &[("driver", 1, 1, 1), ("worker", 2, 2, 1)]);
    both.groups[1].gpus = Some(whole(1));
    world.tell(both);
    world.tell(member("d", "job", "driver", 100));
    world.tell(member("w0", "job", "worker", 100));
    world.tell(member("w1", "job", "worker", 100));
    assert!(
        binds(&world.cycle()).is_empty(),
        "no GPUs: the driver does not start either"
    );
    world.tell(gpu_node("gpu", 2, "A100"));
    let decisions = world.cycle();
    assert_eq!(binds(&decisions), [("w0", "gpu"), ("w1", "gpu"), ("d", "cpu")]);
    let devices: Vec<_> = decisions
        .iter()
        .filter_map(|d| match d {
            Decision::Bind { devices, .. } => Some(devices.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(devices, [vec![0], vec![1], vec![]]);
}

#[test]
fn an_elastic_group_starts_at_its_minimum_and_grows_by_quanta() {
    let mut world = World::with([node("a", 7).into(), claim("e", "", &[("worker", 2, 8, 2)]).into()]);
    for i in 0..9 {
        world.tell(Pod {
            created: Time(i),
            ..member(&format!("e-{i}"), "e", "worker", 1000)
        });
    }
    let decisions = world.run();
    assert_eq!(
        binds(&decisions).len(),
        6,
        "7 cores hold the minimum and two steps of two"
    );
    assert!(matches!(
        world.reason(&decisions, "e-uid"),
        Some(Reason::NoNodeFits { placed: 1, need: 2, .. })
    ));
    world.tell(node("b", 7));
    let decisions = world.run();
    assert_eq!(binds(&decisions), [("e-6", "b"), ("e-7", "b")]);
    assert!(decisions.contains(&Decision::Placed { claim: "e-uid".into() }));
    assert_eq!(world.cycle(), []);
}

#[test]
fn a_gang_that_lost_a_member_is_repaired_in_place() {
    let mut world = World::with([node("a", 4).into()]);
    gang(&mut world, "g", 2, 1000);
    world.run();
    world.tell(Event::PodGone("g-0".into()));
    let said = world.cycle();
    assert!(matches!(
        world.reason(&said, "g-uid"),
        Some(Reason::GangIncomplete { have: 1, need: 2, .. })
    ));
    world.now += 59_000;
    world.tell(member("g-new", "g", "worker", 1000));
    let decisions = world.run();
    assert_eq!(binds(&decisions), [("g-new", "a")]);
    assert!(decisions.contains(&Decision::Placed { claim: "g-uid".into() }));
    world.now += 600_000;
    assert_eq!(world.cycle(), []);
}

#[test]
fn a_gang_that_is_not_repaired_in_time_is_released_as_a_whole() {
    let mut world = World::with([node("a", 4).into()]);
    gang(&mut world, "g", 3, 1000);
    world.run();
    world.tell(Event::PodGone("g-1".into()));
    world.cycle();
    world.now += 59_999;
    assert_eq!(world.cycle(), []);
    world.now += 1;
    let decisions = world.cycle();
    assert_eq!(evictions(&decisions), ["g-0", "g-2"]);
    assert!(matches!(
        &decisions[0],
        Decision::Evict {
            cause: EvictCause::GangBroken,
            ..
        }
    ));
    assert!(evictions(&world.cycle()).is_empty(), "once");
}

#[test]
fn what_is_lost_of_a_loose_gang_is_placed_again_and_breaks_nothing() {
    let mut world = World::with([node("a", 4).into()]);
    let mut loose = claim("g", "default", &[("worker", 3, u32::MAX, 1)]);
    world.tell(loose.clone());
    for i in 0..3 {
        world.tell(member(&format!("g-{i}"), "g", "worker", 1000));
    }
    assert_eq!(binds(&world.run()).len(), 3);
    loose.loose = true;
    world.tell(loose);
    world.tell(Event::PodGone("g-1".into()));
    world.cycle();
    world.now += 600_000;
    assert_eq!(world.cycle(), []);
    for i in 3..6 {
        world.tell(member(&format!("g-{i}"), "g", "worker", 1000));
    }
    assert_eq!(binds(&world.run()).len(), 2, "as many as have room, each by itself");
}

#[test]
fn a_group_without_a_minimum_is_placed_pod_by_pod() {
    let mut world = World::with([node("a", 2).into()]);
    let mut basic = claim("g", "default", &[("worker", 0, u32::MAX, 1)]);
    basic.loose = true;
    world.tell(basic);
    for i in 0..3 {
        world.tell(member(&format!("g-{i}"), "g", "worker", 1000));
    }
    assert_eq!(binds(&world.run()).len(), 2);
    world.now += 600_000;
    assert!(evictions(&world.cycle()).is_empty());
}

#[test]
fn a_member_that_failed_to_bind_is_placed_again() {
    let mut world = World::with([node("a", 4).into(), node("b", 4).into()]);
    gang(&mut world, "g", 2, 3000);
    assert_eq!(binds(&world.cycle()).len(), 2);
    world.tell(Event::BindFailed {
        pod: "g-1".into(),
        node: String::new(),
        lasting: false,
        message: "timeout".into(),
    });
    assert_eq!(binds(&world.cycle()), [("g-1", "b")]);
}

#[test]
fn a_gang_whose_member_finished_is_not_broken() {
    let mut world = World::with([node("a", 4).into()]);
    gang(&mut world, "g", 2, 1000);
    world.run();
    world.tell(Pod {
        finished: true,
        node: Some("a".into()),
        ..member("g-0", "g", "worker", 1000)
    });
    world.cycle();
    world.tell(Event::PodGone("g-0".into()));
    world.now += 600_000;
    assert_eq!(world.cycle(), []);
    world.tell(Pod {
        finished: true,
        node: Some("a".into()),
        ..member("g-1", "g", "worker", 1000)
    });
    assert_eq!(world.cycle(), []);
    assert_eq!(world.cluster.claim("g-uid").unwrap().phase, ClaimPhase::Finished);
}

#[test]
fn bound_pods_of_a_deleted_claim_go_on_and_count() {
    let mut world = World::with([node("a", 4).into()]);
    gang(&mut world, "g", 2, 1500);
    world.run();
    world.tell(Event::ClaimGone("g-uid".into()));
    world.tell(member("g-2", "g", "worker", 100));
    world.tell(pod("p", 2000));
    let decisions = world.cycle();
    assert_eq!(
        world.reason(&decisions, "g-2"),
        Some(Reason::NoSuchClaim { claim: "g".into() })
    );
    assert!(binds(&decisions).is_empty());
    world.now += 600_000;
    assert!(evictions(&world.cycle()).is_empty());
}

#[test]
fn a_claim_that_is_deleted_while_half_of_it_is_bound_leaves_no_quota_behind() {
    let mut world = World::with([node("a", 4).into()]);
    gang(&mut world, "g", 2, 1000);
    let decisions = world.cycle();
    world.confirm(&decisions[..1]);
    world.tell(Event::ClaimGone("g-uid".into()));
    world.tell(Event::BindFailed {
        pod: "g-1".into(),
        node: String::new(),
        lasting: false,
        message: "not found".into(),
    });
    world.cycle();
    for uid in ["g-0", "g-1"] {
        world.tell(Event::PodGone(uid.into()));
    }
    let used: Vec<_> = world.cluster.queues().into_iter().flat_map(|q| q.tiers).collect();
    assert_eq!(used, []);
    assert_eq!(world.cluster.model.claims.len(), 0);
}

/// Six in two nodes; one node vanishes while two are bound there, two are on their way there and the others are bound.
#[test]
fn a_node_that_vanishes_with_a_gang_half_bound_leaves_no_part_of_it_and_no_quota_in_use() {
    let mut world = World::with([
        node("a", 3).into(),
        node("b", 3).into(),
        queue("q", None, &[("cpu", 6000)], &[("cpu", 6000)]).into(),
        claim("g", "q", &[("w", 6, 6, 1)]).into(),
        claim("beside", "q", &[("w", 1, 1, 1)]).into(),
    ]);
    for i in 0..6 {
        world.tell(member(&format!("g{i}"), "g", "w", 1000));
    }
    let used = |world: &World| {
        let queue = world
            .cluster
            .queues()
            .into_iter()
            .find(|queue| queue.name == "q")
            .unwrap();
        let used = |tier: &QueueTierView| tier.used.get("cpu").copied().unwrap_or_default();
        queue.tiers.iter().map(used).sum::<i64>()
    };
    let decisions = world.cycle();
    let places = binds(&decisions);
    assert_eq!(places.len(), 6);
    let mut on_b = places.iter().filter(|(_, node)| *node == "b").map(|(pod, _)| *pod);
    let lost = on_b.next().unwrap();
    for (pod, node) in places.iter().filter(|(pod, node)| *node == "a" || *pod == lost) {
        let bound = Pod {
            node: Some((*node).to_owned()),
            ..world.pods[*pod].clone()
        };
        world.tell(bound);
    }
    assert_eq!(used(&world), 6000);

    world.tell(Event::NodeGone("b".into()));
    for pod in on_b {
        world.tell(Event::BindFailed {
            pod: pod.into(),
            node: "b".into(),
            message: "node b is gone".into(),
            lasting: false,
        });
    }
    world.tell(Event::PodGone(lost.into()));
    let decisions = world.cycle();
    assert_eq!(
        (binds(&decisions), evictions(&decisions)),
        (vec![], vec![]),
        "it may be repaired"
    );
    assert_eq!(used(&world), 3000, "what is bound on a");
    assert!(
        world.reason(&decisions, "g-uid").is_some(),
        "it does not say why: {decisions:?}"
    );

    // It is not repaired, for there is no room.
    world.now += 60_000;
    let decisions = world.cycle();
    let mut gone: Vec<String> = evictions(&decisions).into_iter().map(str::to_owned).collect();
    gone.sort();
    assert_eq!(gone.len(), 3, "{decisions:?}");
    assert_eq!(binds(&decisions), []);
    for pod in gone {
        world.tell(Event::PodGone(pod));
    }
    world.cycle();
    assert_eq!(used(&world), 0);
    // All of the quota is there for others.
    for i in 0..3 {
        world.tell(Pod {
            queue: "q".into(),
            ..pod(&format!("p{i}"), 1000)
        });
    }
    assert_eq!(binds(&world.run()).len(), 3);
    assert_eq!(used(&world), 3000);
}
