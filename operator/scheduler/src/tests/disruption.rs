//! In which parts a claim goes for others: pod by pod above its minimum, or as a whole.

use super::fixtures::*;
use crate::{
    Decision, Event, EvictCause,
    event::{Claim, Disruption, Pod},
};

/// A group of Kubernetes' own, of pods of one core.
fn group(name: &str, min: u32, priority: i32, disruption: Disruption) -> Claim {
    let mut group = claim(name, "q", &[("pods", min, u32::MAX, 1)]);
    group.priority = priority;
    group.disruption = disruption;
    group.loose = true;
    group
}

fn of(uid: &str, priority: i32, milli: i64) -> Pod {
    Pod {
        queue: "q".into(),
        priority,
        ..pod(uid, milli)
    }
}

/// A node of so many cores, full of the pods of a group.
fn full(cores: i64, group: Claim) -> World {
    let mut world = World::with([node("n", cores).into(), queue("q", None, &[], &[]).into()]);
    let name = group.name.clone();
    world.tell(group);
    for i in 0..cores {
        world.tell(member(&format!("{name}-{i}"), &name, "pods", 1000));
    }
    assert_eq!(binds(&world.run()).len(), usize::try_from(cores).unwrap());
    world
}

fn evicted(world: &mut World, cause: &EvictCause) -> Vec<String> {
    let decisions = world.cycle();
    let gone: Vec<String> = evictions(&decisions).iter().map(ToString::to_string).collect();
    let as_said = |d: &Decision| !matches!(d, Decision::Evict { cause: c, .. } if c != cause);
    assert!(decisions.iter().all(as_said), "{decisions:?}");
    for uid in &gone {
        world.tell(Event::PodGone(uid.clone()));
    }
    gone
}

fn preempted() -> EvictCause {
    EvictCause::Preempted { by: "p".into() }
}

#[test]
fn above_its_minimum_a_group_goes_pod_by_pod_and_the_rest_as_a_whole() {
    for (cores, gone) in [
        (1, vec!["g-3"]),
        (2, vec!["g-3", "g-2"]),
        (3, vec!["g-0", "g-1", "g-2", "g-3"]),
    ] {
        let mut world = full(4, group("g", 2, 0, Disruption::Single));
        world.tell(of("p", 1, cores * 1000));
        let mut evicted = evicted(&mut world, &preempted());
        let mut gone: Vec<String> = gone.into_iter().map(str::to_owned).collect();
        evicted.sort();
        gone.sort();
        assert_eq!(evicted, gone, "{cores} cores");
        assert_eq!(binds(&world.run()), [("p", "n")]);
    }
}

#[test]
fn a_group_that_is_disrupted_together_goes_as_a_whole_for_a_single_pod() {
    let mut world = full(4, group("g", 2, 0, Disruption::All));
    world.tell(of("p", 1, 1000));
    assert_eq!(evicted(&mut world, &preempted()).len(), 4);
    assert_eq!(binds(&world.run()), [("p", "n")]);
}

#[test]
fn what_a_group_holds_above_its_minimum_stays_for_those_who_are_no_more_important() {
    for disruption in [Disruption::Single, Disruption::All] {
        for min in [0, 2] {
            let mut world = full(4, group("g", min, 5, disruption));
            world.tell(of("p", 5, 1000));
            assert!(
                evicted(&mut world, &preempted()).is_empty(),
                "{disruption:?} from {min}"
            );
        }
    }
    // A claim of ours gives it back.
    let mut world = full(4, group("g", 2, 5, Disruption::Elastic));
    world.tell(of("p", 5, 1000));
    let shrunk = EvictCause::Shrunk { by: "p".into() };
    assert_eq!(evicted(&mut world, &shrunk), ["g-3"]);
}

#[test]
fn the_least_important_go_before_a_pod_of_a_more_important_group() {
    let mut world = full(3, group("g", 1, 5, Disruption::Single));
    world.tell(node("m", 1));
    world.tell(of("low", 1, 1000));
    assert_eq!(binds(&world.run()), [("low", "m")]);
    world.tell(of("p", 9, 1000));
    assert_eq!(evicted(&mut world, &preempted()), ["low"]);
}

#[test]
fn what_a_group_borrows_is_taken_back_pod_by_pod_or_at_once() {
    for (disruption, gone) in [(Disruption::Single, 1), (Disruption::All, 4)] {
        let mut world = full(4, group("g", 0, 9, disruption));
        world.tell(queue("mine", None, &[("cpu", 1000)], &[]));
        world.tell(Pod {
            queue: "mine".into(),
            ..pod("p", 1000)
        });
        let reclaimed = EvictCause::Reclaimed { by: "p".into() };
        assert_eq!(evicted(&mut world, &reclaimed).len(), gone, "{disruption:?}");
        assert_eq!(binds(&world.run()), [("p", "n")]);
    }
}

#[test]
fn two_in_one_cycle_get_different_pods_of_a_group() {
    let mut world = full(4, group("g", 2, 0, Disruption::Single));
    for uid in ["p", "r"] {
        world.tell(of(uid, 1, 1000));
    }
    let decisions = world.cycle();
    let mut gone = evictions(&decisions);
    gone.sort_unstable();
    assert_eq!(gone, ["g-2", "g-3"]);
}
