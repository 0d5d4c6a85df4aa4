//! Whose turn it is: over the tree of queues, between the namespaces of a queue, by weight.

use super::fixtures::*;
use crate::{
    Event, Reason,
    event::{Node, Pod, Queue},
};

/// A node of so many cores that takes any number of pods.
fn large(cores: i64) -> Node {
    let mut node = node("n", cores);
    node.allocatable.insert("pods".into(), 1_000_000);
    node
}

fn weighted(name: &str, parent: Option<&str>, weight: u32) -> Queue {
    Queue {
        weight,
        ..queue(name, parent, &[], &[])
    }
}

/// Pods of one core in a queue, older than those made with a larger `created`.
fn wait_in(world: &mut World, queue: &str, count: usize, created: i64) {
    for i in 0..count {
        let mut pod = Pod {
            queue: queue.into(),
            ..pod(&format!("{queue}-{i}"), 1000)
        };
        pod.created.0 = created;
        world.tell(pod);
    }
}

/// How many pods of each queue were bound, by the names that [`wait_in`] gives.
fn bound_in(decisions: &[crate::Decision], queues: &[&str]) -> Vec<usize> {
    let of = |queue: &&str| {
        let prefix = format!("{queue}-");
        binds(decisions)
            .iter()
            .filter(|(uid, _)| uid.starts_with(&prefix))
            .count()
    };
    queues.iter().map(of).collect()
}

/// Shares were whole thousandths: half a thousandth of the cluster was nothing.
#[test]
fn a_share_of_less_than_a_thousandth_counts() {
    let mut world = World::with([
        large(20_000).into(),
        queue("busy", None, &[], &[]).into(),
        queue("idle", None, &[], &[]).into(),
    ]);
    world.tell(Pod {
        queue: "busy".into(),
        ..pod("runs", 10_000)
    });
    world.run();
    wait_in(&mut world, "busy", 1, 1);
    wait_in(&mut world, "idle", 1, 2);
    assert_eq!(binds(&world.cycle_of(1)), [("idle-0", "n")]);
}

/// A weight of 1,000 made the share of a whole cluster a single thousandth.
#[test]
fn large_weights_divide_what_there_is_as_small_ones_do() {
    for factor in [1, 1000] {
        let mut world = World::with([
            large(40).into(),
            weighted("one", None, factor).into(),
            weighted("three", None, 3 * factor).into(),
        ]);
        wait_in(&mut world, "one", 40, 0);
        wait_in(&mut world, "three", 40, 1);
        assert_eq!(bound_in(&world.cycle(), &["one", "three"]), [10, 30]);
    }
}

#[test]
fn the_weight_of_a_parent_counts_before_those_of_its_children() {
    let mut world = World::with([
        large(24).into(),
        weighted("org", None, 1).into(),
        weighted("team1", Some("org"), 1).into(),
        weighted("team2", Some("org"), 2).into(),
        weighted("alone", None, 1).into(),
    ]);
    for queue in ["team1", "team2", "alone"] {
        wait_in(&mut world, queue, 24, 0);
    }
    assert_eq!(bound_in(&world.cycle(), &["team1", "team2", "alone"]), [4, 8, 12]);
}

#[test]
fn the_guarantee_of_a_parent_goes_before_what_its_neighbours_may_borrow() {
    let mut world = World::with([
        large(10).into(),
        queue("org", None, &[("cpu", 8000)], &[]).into(),
        queue("team", Some("org"), &[], &[]).into(),
        queue("other", None, &[], &[]).into(),
    ]);
    wait_in(&mut world, "other", 10, 0);
    wait_in(&mut world, "team", 10, 1);
    // Beyond its guarantee, the other queue has the smaller share.
    assert_eq!(bound_in(&world.cycle(), &["team", "other"]), [8, 2]);
}

#[test]
fn a_queue_with_others_below_it_shares_with_them_as_one_of_them() {
    let mut world = World::with([
        large(12).into(),
        weighted("org", None, 1).into(),
        weighted("team", Some("org"), 2).into(),
    ]);
    wait_in(&mut world, "org", 12, 0);
    wait_in(&mut world, "team", 12, 1);
    assert_eq!(bound_in(&world.cycle(), &["org", "team"]), [4, 8]);
}

#[test]
fn within_a_queue_it_is_priority_then_the_share_of_the_namespace_then_age() {
    let mut world = World::with([large(5).into()]);
    for i in 0..6 {
        let mut pod = pod(&format!("many-{i}"), 1000);
        pod.namespace = "many".into();
        pod.created.0 = i;
        world.tell(pod);
    }
    for (uid, priority, created) in [("few-0", 0, 100), ("few-1", 0, 99), ("urgent", 1, 1000)] {
        let mut pod = pod(uid, 1000);
        pod.namespace = "few".into();
        pod.priority = priority;
        pod.created.0 = created;
        world.tell(pod);
    }
    let decisions = world.cycle();
    let order: Vec<&str> = binds(&decisions).into_iter().map(|(uid, _)| uid).collect();
    assert_eq!(order, ["urgent", "many-0", "many-1", "few-1", "many-2"]);
}

#[test]
fn names_of_queues_that_nobody_uses_are_forgotten() {
    let mut world = World::with([large(4).into()]);
    for i in 0..50 {
        let name = format!("q{i}");
        world.tell(queue(&name, Some(&format!("parent{i}")), &[], &[]));
        wait_in(&mut world, &name, 1, 0);
        world.tell(claim(&format!("c{i}"), &format!("elsewhere{i}"), &[("a", 1, 1, 1)]));
    }
    assert_eq!(world.cluster.model.queues.len(), 151);
    for i in 0..50 {
        world.tell(Event::QueueGone(format!("q{i}")));
        world.tell(Event::PodGone(format!("q{i}-0")));
        world.tell(Event::ClaimGone(format!("c{i}-uid")));
    }
    let left: Vec<&str> = world.cluster.model.queues.iter().map(|(_, q)| &*q.name).collect();
    assert_eq!(left, ["default"]);
}

#[test]
fn a_queue_below_a_circle_names_the_circle_and_not_itself() {
    let mut world = World::with([
        large(4).into(),
        queue("below", Some("x"), &[], &[]).into(),
        queue("x", Some("y"), &[], &[]).into(),
        queue("y", Some("x"), &[], &[]).into(),
    ]);
    wait_in(&mut world, "below", 1, 0);
    let decisions = world.cycle();
    let reason = world.reason(&decisions, "below-0").unwrap();
    let circle = vec!["x".to_owned(), "y".to_owned()];
    assert_eq!(
        reason.to_string(),
        "the parents of queue below lead in a circle: x is below y is below x"
    );
    assert_eq!(
        reason,
        Reason::QueueCycle {
            queue: "below".into(),
            circle
        }
    );
}

const HOUR: i64 = 3_600_000;

/// `long` has used all of it for a day; now both want all of it.
fn after_a_day(half_life: Option<i64>) -> World {
    let mut world = World::with([large(8).into()]);
    for name in ["long", "new"] {
        world.tell(Queue {
            fairness_half_life: half_life,
            ..queue(name, None, &[], &[])
        });
    }
    wait_in(&mut world, "long", 8, 0);
    assert_eq!(bound_in(&world.run(), &["long", "new"]), [8, 0]);
    world.now += 24 * HOUR;
    for i in 0..8 {
        world.tell(Event::PodGone(format!("long-{i}")));
    }
    // What is told has no time: it counts from the next cycle on.
    world.cycle();
    world
}

#[test]
fn past_use_counts_in_the_share_and_fades() {
    for (half_life, hours, gets) in [
        (None, 0, [4, 4]),
        // The mean of what it uses and of the 8 cores that it used: 0.5 (x + 8) and 0.5 y are equal only beyond y = 8.
        (Some(HOUR), 0, [0, 8]),
        // A half-life later it is 4 cores: x + 4 = y.
        (Some(HOUR), 1, [2, 6]),
        (Some(HOUR), 2, [3, 5]),
        (Some(HOUR), 24, [4, 4]),
    ] {
        let mut world = after_a_day(half_life);
        world.now += hours * HOUR;
        wait_in(&mut world, "long", 8, 0);
        wait_in(&mut world, "new", 8, 1);
        assert_eq!(
            bound_in(&world.cycle(), &["long", "new"]),
            gets,
            "{half_life:?} {hours}"
        );
    }
}

#[test]
fn a_share_with_a_past_is_what_it_was_for_one_that_goes_on_and_halves_for_one_that_stopped() {
    let share = |world: &mut World| {
        world.cycle();
        let queues = world.cluster.queues();
        queues.iter().find(|q| q.name == "long").unwrap().share_milli
    };
    let mut world = after_a_day(Some(HOUR));
    assert_eq!(share(&mut world), 500);
    world.now += HOUR;
    assert_eq!(share(&mut world), 250);
    wait_in(&mut world, "long", 8, 0);
    world.run();
    world.now += 48 * HOUR;
    assert_eq!(share(&mut world), 1000);
    // Its past goes with the field.
    world.tell(queue("long", None, &[], &[]));
    assert_eq!(share(&mut world), 1000);
}

#[test]
fn a_queue_that_is_deleted_while_it_is_used_is_said_of_its_claims_and_what_runs_goes_on() {
    let mut world = World::with([
        large(4).into(),
        queue("q", None, &[], &[]).into(),
        claim("c", "q", &[("a", 1, 1, 1)]).into(),
        member("p", "c", "a", 1000).into(),
    ]);
    world.run();
    let barred = |world: &World| world.cluster.claim("c-uid").unwrap().barred;
    assert_eq!(barred(&world), None);
    world.tell(Event::QueueGone("q".into()));
    assert_eq!(world.cycle(), []);
    assert_eq!(barred(&world), Some(Reason::NoSuchQueue { queue: "q".into() }));
    world.tell(queue("q", Some("q2"), &[], &[]));
    world.tell(queue("q2", Some("q"), &[], &[]));
    let queues = world.cluster.queues();
    let fault = |name: &str| queues.iter().find(|q| q.name == name).unwrap().fault.clone();
    assert!(matches!(fault("q2"), Some(Reason::QueueCycle { circle, .. }) if circle == ["q2", "q"]));
    assert_eq!(barred(&world), fault("q"));
}

#[test]
fn a_guarantee_of_gpus_gives_no_precedence_for_cpu() {
    let mut world = World::with([
        gpu_node("n", 2, "T4").into(),
        queue("a", None, &[("cpu", 1000), ("gpu", 2000)], &[]).into(),
        queue("b", None, &[], &[]).into(),
    ]);
    for name in ["a", "b"] {
        for i in 0..64 {
            world.tell(Pod {
                queue: name.into(),
                ..pod(&format!("{name}{i:02}"), 1000)
            });
        }
    }
    let decisions = world.run();
    let of_a = binds(&decisions).iter().filter(|(pod, _)| pod.starts_with('a')).count();
    assert_eq!((binds(&decisions).len(), of_a), (64, 32));
}
