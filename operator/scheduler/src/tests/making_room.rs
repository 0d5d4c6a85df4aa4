//! Room that is made for one claim is not made at the cost of what was promised to another.

use super::fixtures::*;
use crate::{
    Decision, Event, Time,
    event::{Claim, Pod, Window},
};

fn of(name: &str) -> Claim {
    claim(name, "", &[("w", 1, 1, 1)])
}

/// Two nodes that are full, and node `a` promised to a window that opens at 2000: who sits there says to end by 1000.
fn promised() -> World {
    let mut world = World::with([node("a", 4).into(), node("b", 4).into()]);
    world.tell_single(of("run-b"), Some("b"));
    let mut run = of("run-a");
    (run.created, run.expected_duration) = (Time(1), Some(1000));
    world.tell_single(run, Some("a"));
    world.run();
    let mut window = of("window");
    window.window = Some(Window {
        start: Time(2000),
        end: Time(3000),
    });
    world.tell_single(window, None);
    let said = world.run();
    let start = Some(Time(2000));
    let claim = "window-uid".to_owned();
    assert!(said.contains(&Decision::Reserve { claim, start }), "{said:?}");
    world
}

fn high() -> Pod {
    Pod {
        priority: 9,
        ..pod("high", 4000)
    }
}

/// It has the newest evicted, and sat where the window was to open.
#[test]
fn nobody_is_evicted_for_one_who_would_sit_on_a_promise() {
    let mut world = promised();
    world.tell(high());
    let said = world.run();
    assert_eq!(evictions(&said), ["run-b-0"]);
    assert!(!said.iter().any(|d| matches!(d, Decision::Reserve { .. })), "{said:?}");
    world.tell(Event::PodGone("run-b-0".into()));
    assert_eq!(binds(&world.run()), [("high", "b")]);
}

/// A gang that has to share a node is placed by another way.
#[test]
fn nobody_is_evicted_for_a_gang_that_would_sit_on_a_promise() {
    let mut world = promised();
    let mut gang = claim("gang", "", &[("w", 2, 2, 1)]);
    gang.priority = 9;
    gang.topology = Some(crate::event::Topology {
        pack: crate::event::Level::Node,
        required: true,
    });
    world.tell(gang);
    for i in 0..2 {
        world.tell(member(&format!("g{i}"), "gang", "w", 2000));
    }
    assert_eq!(evictions(&world.run()), ["run-b-0"]);
}

/// Who sits on the promised seat is gone before its time: whoever waits for an eviction elsewhere took it.
#[test]
fn one_that_waits_for_an_eviction_does_not_take_a_promised_seat_meanwhile() {
    let mut world = promised();
    world.tell(high());
    assert_eq!(evictions(&world.run()), ["run-b-0"]);
    world.tell(Event::PodGone("run-a-0".into()));
    let said = world.run();
    assert_eq!(binds(&said), []);
    assert!(!said.iter().any(|d| matches!(d, Decision::Reserve { .. })), "{said:?}");
    // A seat that nobody was promised, it does take.
    world.tell(node("c", 4));
    assert_eq!(binds(&world.run()), [("high", "c")]);
}

/// Who waits for what they leave need not be whom they were told to go for.
#[test]
fn a_pod_makes_room_as_long_as_somebody_counts_on_what_it_leaves() {
    let mut world = World::with([
        node("n", 3).into(),
        queue("mine", None, &[("cpu", 3000)], &[]).into(),
        queue("theirs", None, &[("cpu", 0)], &[]).into(),
    ]);
    let of = |uid: &str, queue: &str, milli: i64, created: i64| Pod {
        queue: queue.into(),
        created: Time(created),
        ..pod(uid, milli)
    };
    for i in 0..3 {
        world.tell(of(&format!("v{i}"), "theirs", 1000, i));
    }
    world.run();
    world.tell(of("a", "mine", 1500, 10));
    let first: Vec<String> = evictions(&world.run()).iter().map(|pod| (*pod).to_owned()).collect();
    assert_eq!(first.len(), 2, "{first:?}");
    world.tell(of("b", "mine", 1500, 11));
    let second: Vec<String> = evictions(&world.run()).iter().map(|pod| (*pod).to_owned()).collect();
    assert_eq!(second.len(), 1, "b takes what a leaves of theirs");
    world.tell(Event::PodGone("a".into()));
    for victim in first.iter().chain(&second) {
        assert!(world.cluster.makes_room(victim), "{victim}");
    }
    world.tell(Event::PodGone("b".into()));
    for victim in first.iter().chain(&second) {
        assert!(!world.cluster.makes_room(victim), "{victim}");
    }
}
