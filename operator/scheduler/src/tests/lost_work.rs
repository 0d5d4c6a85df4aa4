//! Whoever loses least goes first.

use super::fixtures::*;
use crate::{
    Decision, Event, Time,
    event::{Claim, Interruption, Pod},
};

const MINUTE: i64 = 60_000;

/// A claim of some pods of one core that runs in queue `theirs` since `started`, in minutes.
fn runs(world: &mut World, of: Claim, started: i64, on: &[&str]) {
    world.now = started * MINUTE;
    let (name, created) = (of.name.clone(), of.created);
    world.tell(of);
    for (i, on) in on.iter().enumerate() {
        world.tell(Pod {
            node: Some((*on).into()),
            created,
            ..member(&format!("{name}-{i}"), &name, "w", 1000)
        });
    }
    world.run();
}

fn of(name: &str, pods: u32) -> Claim {
    claim(name, "theirs", &[("w", pods, pods, 1)])
}

fn world(nodes: &[(&str, i64)]) -> World {
    let mut world = World::with([
        queue("mine", None, &[("cpu", 64_000)], &[]).into(),
        queue("theirs", None, &[], &[]).into(),
    ]);
    for (name, cores) in nodes {
        world.tell(node(name, *cores));
    }
    world
}

fn want(cores: i64) -> Pod {
    Pod {
        queue: "mine".into(),
        ..pod("want", cores * 1000)
    }
}

fn lost(decisions: &[Decision]) -> Vec<(&str, String)> {
    let lost = |d| match d {
        &Decision::Evict { ref pod, lost, .. } => Some((pod.as_str(), lost.to_string())),
        _ => None,
    };
    decisions.iter().filter_map(lost).collect()
}

/// One has run for longer and writes checkpoints, one for a shorter time, and one gets notice to write one.
#[test]
fn what_was_done_since_the_last_checkpoint_and_the_restart_is_the_price() {
    let interruption = |change: &dyn Fn(&mut Interruption)| {
        let mut of = Interruption::default();
        change(&mut of);
        of
    };
    let at = |minutes: i64| Time(minutes * MINUTE);
    for (cheap, price) in [
        // 100 minutes after the start the last of those every 30 minutes is 10 minutes old; and it is back after one.
        (
            interruption(&|i| i.checkpoint_interval = Some(30 * MINUTE)),
            "11.0 core-minutes of work",
        ),
        (
            interruption(&|i| i.last_checkpoint = Some(at(97))),
            "4.0 core-minutes of work",
        ),
        // What is told of counts, not what was planned.
        (
            interruption(&|i| (i.last_checkpoint, i.checkpoint_interval) = (Some(at(85)), Some(MINUTE))),
            "16.0 core-minutes of work",
        ),
        (interruption(&|i| i.notice = 2 * MINUTE), "3.0 core-minutes of work"),
        (
            interruption(&|i| (i.notice, i.restart_time) = (2 * MINUTE, Some(5 * MINUTE))),
            "7.0 core-minutes of work",
        ),
        // Its clock is ahead.
        (
            interruption(&|i| i.last_checkpoint = Some(at(1000))),
            "1.0 core-minutes of work",
        ),
    ] {
        let mut world = world(&[("n", 2)]);
        let notice = cheap.notice;
        runs(
            &mut world,
            Claim {
                interruption: cheap,
                ..of("long", 1)
            },
            0,
            &["n"],
        );
        runs(&mut world, of("short", 1), 80, &["n"]);
        world.now = 100 * MINUTE;
        world.tell(want(1));
        let decisions = world.run();
        assert_eq!(lost(&decisions), [("long-0", price.to_owned())]);
        assert!(
            decisions
                .iter()
                .any(|d| matches!(d, Decision::Evict { notice: n, .. } if *n == notice))
        );
    }
    // Nothing said: the one that ran for the shorter time.
    let mut world = world(&[("n", 2)]);
    runs(&mut world, of("long", 1), 0, &["n"]);
    runs(&mut world, of("short", 1), 80, &["n"]);
    world.now = 100 * MINUTE;
    world.tell(want(1));
    assert_eq!(
        lost(&world.run()),
        [("short-0", "21.0 core-minutes of work".to_owned())]
    );
}

#[test]
fn a_pod_tells_of_the_checkpoint_of_its_whole_gang() {
    let mut world = world(&[("n", 4)]);
    runs(&mut world, of("gang", 2), 0, &["n", "n"]);
    runs(&mut world, of("short", 1), 97, &["n"]);
    world.now = 100 * MINUTE;
    let told = Pod {
        last_checkpoint: Some(Time(100 * MINUTE)),
        ..world.pods["gang-1"].clone()
    };
    let freed = world.cluster.model.freed;
    world.tell(told);
    assert_eq!(world.cluster.model.freed, freed, "nothing is tried anew for it");
    world.tell(want(2));
    // Two pods that lose a minute each lose less than one that loses four.
    let decisions = world.run();
    assert_eq!(
        lost(&decisions),
        [
            ("gang-0", "2.0 core-minutes of work".to_owned()),
            ("gang-1", "2.0 core-minutes of work".to_owned())
        ]
    );
}

/// An operator that starts took all for what had just begun: nobody was spared for what it had done, and all were for the
/// time that they are promised.
#[test]
fn whoever_comes_later_knows_how_long_others_have_run() {
    let mut world = world(&[("n", 3)]);
    let tell = |world: &mut World, of: Claim, starts: &[i64]| {
        let name = of.name.clone();
        world.tell(of);
        for (i, minutes) in starts.iter().enumerate() {
            world.tell(Pod {
                node: Some("n".into()),
                started: Some(Time(minutes * MINUTE)),
                ..member(&format!("{name}-{i}"), &name, "w", 1000)
            });
        }
    };
    let promised = Claim {
        min_runtime: 40 * MINUTE,
        ..of("gang", 2)
    };
    // It is there when the last of its pods is.
    tell(&mut world, promised, &[0, 70]);
    tell(&mut world, of("long", 1), &[10]);
    world.now = 100 * MINUTE;
    world.run();
    world.tell(want(1));
    assert_eq!(lost(&world.run()), [("long-0", "1.5 core-hours of work".to_owned())]);
    world.tell(Event::PodGone("want".into()));
    world.now = 110 * MINUTE;
    world.tell(want(2));
    assert!(
        lost(&world.run()).iter().any(|(pod, _)| *pod == "gang-0"),
        "its time is over"
    );
}

#[test]
fn a_gang_is_priced_as_a_whole_and_cards_count_before_cores() {
    let mut world = World::with([
        gpu_node("n", 2, "A100").into(),
        queue("mine", None, &[("cpu", 64_000), ("gpu", 8000)], &[]).into(),
        queue("theirs", None, &[], &[]).into(),
    ]);
    // Ten times the cores, for ten times as long.
    world.tell(of("cores", 1));
    world.tell(Pod {
        node: Some("n".into()),
        ..member("cores-0", "cores", "w", 40_000)
    });
    world.run();
    world.now = 90 * MINUTE;
    world.tell(of("cards", 1));
    world.tell(Pod {
        node: Some("n".into()),
        devices: vec![0, 1],
        gpus: Some(whole(2)),
        ..member("cards-0", "cards", "w", 20_000)
    });
    world.run();
    world.now = 95 * MINUTE;
    world.tell(want(20));
    let decisions = world.run();
    assert_eq!(lost(&decisions), [("cores-0", "64.0 core-hours of work".to_owned())]);
}

#[test]
fn priority_goes_before_lost_work() {
    let mut world = world(&[("n", 2)]);
    for (name, priority, started) in [("low", 0, 0), ("high", 1, 99)] {
        runs(
            &mut world,
            Claim {
                priority,
                ..of(name, 1)
            },
            started,
            &["n"],
        );
    }
    world.now = 100 * MINUTE;
    world.tell(want(1));
    assert_eq!(lost(&world.run()).first().unwrap().0, "low-0");
}

/// On node `a` two stand that lose 8 core-minutes each, and on `b` one that loses 14.
#[test]
fn what_is_lost_in_all_is_what_counts() {
    let mut world = world(&[("a", 2), ("b", 2)]);
    runs(&mut world, of("a1", 1), 53, &["a"]);
    runs(&mut world, of("a2", 1), 53, &["a"]);
    runs(&mut world, of("b", 2), 54, &["b", "b"]);
    world.now = 60 * MINUTE;
    world.tell(want(2));
    let decisions = world.run();
    assert_eq!(lost(&decisions).len(), 2);
    assert_eq!(lost(&decisions)[0], ("b-0", "14.0 core-minutes of work".to_owned()));

    let mut world = world_of_many_small_ones();
    let decisions = world.run();
    assert_eq!(evictions(&decisions), ["large-0"], "{:?}", lost(&decisions));
}

/// Four of one core that lose 5 minutes each, and one of four cores that loses 3: each of the four is cheaper.
fn world_of_many_small_ones() -> World {
    let mut world = world(&[("n", 8)]);
    for i in 0..4 {
        runs(&mut world, of(&format!("small-{i}"), 1), 56, &["n"]);
    }
    world.now = 58 * MINUTE;
    world.tell(of("large", 1));
    world.tell(Pod {
        node: Some("n".into()),
        ..member("large-0", "large", "w", 4000)
    });
    world.run();
    world.now = 60 * MINUTE;
    world.tell(want(4));
    world
}

#[test]
fn a_gang_that_is_released_says_what_is_lost() {
    let mut world = world(&[("n", 4)]);
    runs(&mut world, of("gang", 2), 0, &["n", "n"]);
    world.now = 9 * MINUTE;
    world.tell(Event::PodGone("gang-1".into()));
    world.run();
    world.now = 10 * MINUTE;
    let decisions = world.run();
    assert_eq!(lost(&decisions), [("gang-0", "11.0 core-minutes of work".to_owned())]);
}

#[test]
fn who_joined_a_group_that_needs_nobody_does_not_make_the_claim_start_anew() {
    for (driver, executor, started) in [(Some(5), 65, 5), (None, 65, 65)] {
        let mut world = world(&[("n", 4)]);
        world.now = 90 * MINUTE;
        let groups = [("driver", u32::from(driver.is_some()), 1, 1), ("executor", 0, 2, 1)];
        world.tell(claim("c", "theirs", &groups));
        for (group, at) in driver
            .map(|at| ("driver", at))
            .into_iter()
            .chain([("executor", executor)])
        {
            world.tell(Pod {
                node: Some("n".into()),
                started: Some(Time(at * MINUTE)),
                ..member(&format!("c-{group}"), "c", group, 1000)
            });
        }
        world.run();
        let claim = world.cluster.model.claims.iter().next().unwrap().1;
        assert_eq!(claim.started, Some(Time(started * MINUTE)));
    }
}
