//! Who goes for a claim of higher priority in the same queue.

use super::fixtures::*;
use crate::{
    Decision, Event, EvictCause,
    event::{Pod, Queue},
};

fn of(uid: &str, queue: &str, priority: i32, milli: i64) -> Pod {
    Pod {
        queue: queue.into(),
        priority,
        ..pod(uid, milli)
    }
}

fn leave(world: &mut World, decisions: &[Decision]) -> Vec<String> {
    let gone: Vec<String> = evictions(decisions).iter().map(ToString::to_string).collect();
    for uid in &gone {
        world.tell(Event::PodGone(uid.clone()));
    }
    gone
}

#[test]
fn the_least_important_go_for_a_higher_priority_in_their_queue_and_are_told_for_whom() {
    let mut world = World::with([node("n", 4).into(), queue("q", None, &[], &[]).into()]);
    for (uid, priority) in [("low", 1), ("lowest", 0), ("same", 5), ("high", 9)] {
        world.tell(of(uid, "q", priority, 1000));
    }
    world.run();
    world.tell(of("p", "q", 5, 2000));
    let decisions = world.cycle();
    assert_eq!(evictions(&decisions), ["lowest", "low"]);
    let cause = EvictCause::Preempted { by: "p".into() };
    assert!(
        decisions
            .iter()
            .all(|d| !matches!(d, Decision::Evict { cause: c, .. } if *c != cause))
    );
    leave(&mut world, &decisions);
    assert_eq!(binds(&world.run()), [("p", "n")]);

    // No ping-pong: those that went wait, and so does one of the same priority.
    for (uid, priority) in [("low", 1), ("lowest", 0), ("equal", 5)] {
        world.tell(of(uid, "q", priority, 1000));
    }
    assert!(evictions(&world.run()).is_empty());
}

#[test]
fn nobody_goes_in_another_queue_whatever_the_priority() {
    let mut world = World::with([
        node("n", 1).into(),
        queue("q", None, &[], &[]).into(),
        queue("below", Some("q"), &[], &[]).into(),
    ]);
    world.tell(of("low", "below", 0, 1000));
    world.run();
    world.tell(of("p", "q", 9, 1000));
    assert!(evictions(&world.run()).is_empty());
}

#[test]
fn a_full_quota_is_freed_by_priority_as_a_full_node_is() {
    let mut world = World::with([
        node("n", 64).into(),
        queue("org", None, &[], &[("cpu", 3000)]).into(),
        queue("q", Some("org"), &[], &[]).into(),
    ]);
    for i in 0..3 {
        world.tell(of(&format!("low-{i}"), "q", 0, 1000));
    }
    world.run();
    world.tell(of("p", "q", 1, 2000));
    let decisions = world.run();
    assert_eq!(evictions(&decisions).len(), 2);
    leave(&mut world, &decisions);
    assert_eq!(binds(&world.run()), [("p", "n")]);
}

#[test]
fn a_claim_that_may_not_have_others_evicted_waits() {
    let mut world = World::with([node("n", 1).into()]);
    world.tell(pod("low", 1000));
    world.run();
    let mut never = of("never", "", 9, 1000);
    never.never_preempts = true;
    world.tell(never.clone());
    assert!(evictions(&world.run()).is_empty());
    world.tell(of("may", "", 1, 1000));
    assert_eq!(evictions(&world.run()), ["low"]);
}

#[test]
fn the_minimum_runtime_is_kept_from_higher_priorities_too() {
    let mut world = World::with([node("n", 1).into()]);
    let mut kept = claim("kept", "", &[("w", 1, 1, 1)]);
    kept.min_runtime = 10_000;
    world.tell(kept);
    world.tell(member("k", "kept", "w", 1000));
    world.run();
    world.cycle();
    world.tell(of("p", "", 9, 1000));
    assert!(evictions(&world.cycle()).is_empty());
    world.now += 10_000;
    assert_eq!(evictions(&world.cycle()), ["k"]);
}

#[test]
fn a_gang_of_lower_priority_goes_as_a_whole_and_nobody_who_would_not_help() {
    let mut world = World::with([node("n1", 2).into(), node("n2", 2).into(), node("n3", 1).into()]);
    world.tell(claim("gang", "", &[("w", 2, 2, 1)]));
    for (uid, node) in [("g0", "n1"), ("g1", "n2"), ("x", "n1"), ("y", "n2"), ("z", "n3")] {
        let mut pod = if uid.starts_with('g') {
            member(uid, "gang", "w", 1000)
        } else {
            pod(uid, 1000)
        };
        pod.created.0 = i64::from(uid == "z");
        pod.node = Some(node.into());
        world.tell(pod);
    }
    world.run();
    let mut wide = claim("wide", "", &[("w", 1, 1, 1)]);
    wide.priority = 3;
    world.tell(wide);
    world.tell(member("p", "wide", "w", 2000));
    let gone = world.cycle();
    let gone = evictions(&gone);
    assert!(!gone.contains(&"z"), "its node is too small: {gone:?}");
    assert_eq!(gone.contains(&"g0"), gone.contains(&"g1"), "{gone:?}");
}

/// A queue that fills its guarantee with small work can run its large work in it, though others borrowed beside it.
#[test]
fn a_queue_makes_room_within_its_guarantee_by_its_own_least_important_and_then_by_what_others_borrow() {
    let mut world = World::with([
        node("n", 40).into(),
        queue("a", None, &[("cpu", 20_000)], &[]).into(),
        queue("b", None, &[("cpu", 20_000)], &[]).into(),
    ]);
    for i in 0..10 {
        world.tell(of(&format!("a-{i}"), "a", 50, 1000));
    }
    for i in 0..6 {
        world.tell(of(&format!("b-{i}"), "b", 50, 5000));
    }
    assert_eq!(binds(&world.run()).len(), 16);
    world.tell(of("large", "a", 200, 20_000));
    let decisions = world.run();
    let gone = leave(&mut world, &decisions);
    assert_eq!(gone.iter().filter(|uid| uid.starts_with("a-")).count(), 10, "{gone:?}");
    assert_eq!(gone.iter().filter(|uid| uid.starts_with("b-")).count(), 2, "{gone:?}");
    assert_eq!(binds(&world.run()), [("large", "n")]);
    // It is within its guarantee and so is b: nobody takes anything back.
    for uid in gone {
        let (queue, milli) = if uid.starts_with('a') { ("a", 1000) } else { ("b", 5000) };
        world.tell(of(&uid, queue, 50, milli));
    }
    assert!(evictions(&world.run()).is_empty());
}

#[test]
fn a_queue_that_never_reclaims_still_prefers_its_own_important_work() {
    let mut world = World::with([node("n", 2).into()]);
    for name in ["a", "b"] {
        world.tell(Queue {
            never_reclaims: true,
            ..queue(name, None, &[("cpu", 1000)], &[])
        });
    }
    world.tell(of("a-low", "a", 0, 1000));
    world.tell(of("b-low", "b", 0, 1000));
    world.run();
    world.tell(of("a-high", "a", 1, 1000));
    assert_eq!(evictions(&world.run()), ["a-low"]);
}

/// The first runs for a second and has half of that left; whoever is more important and runs as long waits for that, and has
/// it evicted when it does not end.
#[test]
fn a_short_wait_is_better_than_lost_work_and_has_an_end() {
    let mut world = World::with([node("n", 1).into()]);
    let tell = |world: &mut World, name: &str, priority: i32, created: i64, length: i64| {
        let mut claim = claim(name, "", &[("w", 1, 1, 1)]);
        claim.priority = priority;
        claim.created.0 = created;
        claim.expected_duration = Some(length);
        world.tell(claim);
        let mut pod = member(&format!("{name}-0"), name, "w", 1000);
        pod.created.0 = created;
        world.tell(pod);
    };
    world.now = 1_000_000;
    tell(&mut world, "low", 0, 1_000_000, 1000);
    world.run();
    world.cycle();
    world.now += 500;
    tell(&mut world, "high", 9, 1_000_500, 1000);
    assert!(evictions(&world.cycle()).is_empty(), "it starts within 500 ms");
    world.now += 499;
    assert!(evictions(&world.cycle()).is_empty());
    world.now += 1;
    assert_eq!(evictions(&world.cycle()), ["low-0"], "it did not end when it said");

    // With nothing stated, or with more to wait for, nobody waits.
    for (length, left) in [(100, 500), (1000, 600)] {
        let mut world = World::with([node("n", 1).into()]);
        world.now = 1_000_000;
        tell(&mut world, "low", 0, 1_000_000, 1000);
        world.run();
        world.cycle();
        world.now += 1000 - left;
        let now = world.now;
        tell(&mut world, "high", 9, now, length);
        assert_eq!(evictions(&world.cycle()), ["low-0"]);
    }
}
