//! Bindings that fail: once, again and again, for good; alone and in the middle of a gang.

use super::fixtures::*;
use crate::{Decision, Event, EvictCause, Reason, event::Pod};

fn failed(pod: &str, node: &str, lasting: bool) -> Event {
    Event::BindFailed {
        pod: pod.into(),
        node: node.into(),
        message: "ill".into(),
        lasting,
    }
}

/// A gang of three on a node with room for it, decided and not bound yet.
fn decided() -> World {
    let mut world = World::with([
        node("a", 4).into(),
        claim("g", "default", &[("worker", 3, 3, 1)]).into(),
    ]);
    for i in 0..3 {
        world.tell(member(&format!("g-{i}"), "g", "worker", 1000));
    }
    assert_eq!(binds(&world.cycle()).len(), 3);
    world
}

fn bound(world: &mut World, uid: &str) {
    let pod = Pod {
        node: Some("a".into()),
        ..world.pods[uid].clone()
    };
    world.tell(pod);
}

#[test]
fn a_pod_that_keeps_failing_waits_longer_each_time_without_its_place_and_says_so() {
    let mut world = World::with([node("a", 1).into(), pod("p", 1000).into()]);
    let mut at = Vec::new();
    for _ in 0..6 {
        while binds(&world.cycle()).is_empty() {
            world.now += 250;
        }
        at.push(world.now);
        world.tell(failed("p", "a", false));
    }
    assert_eq!(at, [0, 0, 1_000, 3_000, 7_000, 15_000]);
    let said = world.cycle();
    let reason = world.reason(&said, "p").expect("a reason");
    assert_eq!(
        reason.to_string(),
        "pod p has a place and could not be bound, which is tried again within a minute: ill"
    );
    world.tell(pod("q", 1000));
    assert_eq!(binds(&world.run()), [("q", "a")]);
}

#[test]
fn a_failure_that_is_told_late_frees_no_newer_place() {
    let mut world = World::with([node("a", 1).into(), node("b", 1).into(), pod("p", 1000).into()]);
    assert_eq!(binds(&world.cycle()), [("p", "a")]);
    world.tell(failed("p", "b", false));
    world.tell(pod("q", 1000));
    assert_eq!(binds(&world.cycle()), [("q", "b")], "p still holds a");
}

#[test]
fn a_refused_pod_waits_until_it_is_allowed() {
    let mut world = World::with([node("a", 1).into(), pod("p", 1000).into()]);
    world.cycle();
    world.tell(failed("p", "a", true));
    let said = world.cycle();
    assert!(matches!(
        world.reason(&said, "p"),
        Some(Reason::BindingFailed { refused: true, .. })
    ));
    world.now += 1_000_000;
    assert_eq!(world.cycle(), []);
    world.tell(Event::BindAllowed { pod: "p".into() });
    assert_eq!(binds(&world.run()), [("p", "a")]);
    world.tell(Event::BindAllowed { pod: "p".into() });
    assert_eq!(world.cycle(), []);
}

#[test]
fn a_gang_of_which_one_pod_is_refused_ends_undone_and_is_not_begun_again() {
    let mut world = decided();
    world.tell(failed("g-1", "a", true));
    world.cycle();
    for uid in ["g-0", "g-2"] {
        bound(&mut world, uid);
    }
    let said = world.cycle();
    assert!(evictions(&said).is_empty());
    world.now += 60_000;
    let ends = world.cycle();
    assert_eq!(evictions(&ends), ["g-0", "g-2"]);
    assert!(
        ends.iter()
            .all(|d| !matches!(d, Decision::Evict { cause, .. } if *cause != EvictCause::GangBroken))
    );
    for (old, new) in [("g-0", "h-0"), ("g-2", "h-2")] {
        world.now += 1_000;
        world.tell(Event::PodGone(old.into()));
        world.tell(member(new, "g", "worker", 1000));
    }
    let said = world.cycle();
    assert!(binds(&said).is_empty(), "{said:?}");
    let reason = world
        .cluster
        .claim("g-uid")
        .unwrap()
        .reason
        .expect("a reason")
        .to_string();
    assert!(reason.contains("refuses to bind pod g-1"), "{reason}");
    let held = world.cluster.queues().into_iter().flat_map(|q| q.tiers).count();
    assert_eq!(held, 0, "nothing is held");
    world.now += 1_000_000;
    assert_eq!(world.cycle(), []);
    world.tell(Event::BindAllowed { pod: "g-1".into() });
    assert_eq!(binds(&world.run()).len(), 3);
}

#[test]
fn a_gang_of_which_one_pod_keeps_failing_ends_undone_though_it_is_placed_again_and_again() {
    let mut world = decided();
    bound(&mut world, "g-0");
    bound(&mut world, "g-2");
    world.tell(failed("g-1", "a", false));
    let mut gone = Vec::new();
    while gone.is_empty() && world.now < 200_000 {
        let decisions = world.cycle();
        if !binds(&decisions).is_empty() {
            world.tell(failed("g-1", "a", false));
        }
        gone = evictions(&decisions).into_iter().map(str::to_owned).collect();
        world.now += 500;
    }
    assert_eq!(gone, ["g-0", "g-2"]);
    assert!(world.now > 60_000 && world.now < 70_000, "{}", world.now);
}

#[test]
fn a_gang_that_no_server_answers_for_loses_nobody() {
    let mut world = decided();
    for uid in ["g-0", "g-1", "g-2"] {
        world.tell(failed(uid, "a", false));
    }
    for _ in 0..400 {
        let decisions = world.cycle();
        assert!(evictions(&decisions).is_empty());
        for (pod, node) in binds(&decisions) {
            world.tell(failed(pod, node, false));
        }
        world.now += 500;
    }
    // The server is back.
    while binds(&world.run()).is_empty() {
        world.now += 500;
    }
    world.now += 100_000;
    assert_eq!(world.cycle().len(), 0);
}

#[test]
fn an_eviction_that_is_refused_is_ordered_again_later_each_time() {
    let mut world = decided();
    for uid in ["g-0", "g-1", "g-2"] {
        bound(&mut world, uid);
    }
    world.tell(Event::PodGone("g-1".into()));
    world.cycle();
    world.now += 60_000;
    let mut at = Vec::new();
    let since = world.now;
    for _ in 0..4 {
        let mut gone = Vec::new();
        while gone.is_empty() {
            gone = evictions(&world.cycle()).into_iter().map(str::to_owned).collect();
            world.now += 500;
        }
        at.push(world.now - 500 - since);
        for pod in gone {
            let message = "budget".into();
            world.tell(Event::EvictFailed { pod, message });
        }
    }
    assert_eq!(at.len(), 4);
    assert_eq!(at, [0, 5_000, 15_000, 35_000]);
}

#[test]
fn a_gang_that_loses_a_pod_while_it_is_being_bound_is_broken_from_the_first_that_is() {
    let mut world = decided();
    world.tell(Event::PodGone("g-1".into()));
    world.cycle();
    world.now += 100_000;
    bound(&mut world, "g-0");
    bound(&mut world, "g-2");
    assert!(evictions(&world.cycle()).is_empty());
    world.now += 60_000;
    assert_eq!(evictions(&world.cycle()), ["g-0", "g-2"]);
}

/// Both went for one claim: with one of them kept, the other would go for nothing.
#[test]
fn of_two_who_go_together_the_one_is_kept_and_the_other_may_go_with_a_third() {
    let mut world = World::with([
        node("n", 3).into(),
        queue("mine", None, &[("cpu", 2000)], &[]).into(),
        queue("theirs", None, &[], &[]).into(),
    ]);
    for uid in ["a", "b", "c"] {
        world.tell(Pod {
            queue: "theirs".into(),
            node: Some("n".into()),
            ..pod(uid, 1000)
        });
    }
    world.tell(Pod {
        queue: "mine".into(),
        ..pod("p", 2000)
    });
    let first: Vec<String> = evictions(&world.cycle()).into_iter().map(str::to_owned).collect();
    let [kept, other] = first.as_slice() else {
        panic!("{first:?}")
    };
    let (pod, message) = (kept.clone(), "budget".into());
    world.tell(Event::EvictFailed { pod, message });
    world.tell(Event::EvictCalledOff { pod: other.clone() });
    let next = world.cycle();
    let next = evictions(&next);
    assert!(
        next.len() == 2 && next.contains(&other.as_str()) && !next.contains(&kept.as_str()),
        "{next:?}"
    );
}
