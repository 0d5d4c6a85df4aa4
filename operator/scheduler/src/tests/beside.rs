//! Who is placed beside a promise does not move it, and what changes of those who were promised something is noticed.

use super::{
    fixtures::*,
    relations::{ZONE, apart, labels},
};
use crate::{
    Decision, Event, Reason, Time,
    event::{Claim, Node, Pod, Window},
};

fn takes(name: &str, queue: &str, length: i64) -> Claim {
    let mut claim = claim(name, queue, &[("w", 1, 1, 1)]);
    claim.expected_duration = Some(length);
    claim
}

/// Starts that are told, by claim.
fn starts(decisions: &[Decision]) -> Vec<(&str, Option<i64>)> {
    let told = decisions.iter().filter_map(|decision| match decision {
        Decision::Reserve { claim, start } => Some((claim.as_str(), start.map(|start| start.0))),
        _ => None,
    });
    told.collect()
}

/// Of pods of one shape, one was asked for all; but labels are no part of a shape.
#[test]
fn whoever_repels_one_of_a_promised_gang_is_kept_out_though_another_of_the_same_shape_is_not_meant() {
    let zoned = |name: &str| Node {
        labels: labels(&[(ZONE, "z")]),
        ..node(name, 4)
    };
    let mut world = World::with([zoned("a").into(), zoned("b").into()]);
    let mut run = claim("run", "", &[("w", 2, 2, 1)]);
    run.expected_duration = Some(1000);
    world.tell(run);
    for uid in ["run-0", "run-1"] {
        world.tell(member(uid, "run", "w", 3000));
    }
    assert_eq!(binds(&world.run()).len(), 2);
    let mut gang = claim("gang", "", &[("master", 1, 1, 1), ("worker", 1, 1, 1)]);
    gang.expected_duration = Some(1000);
    world.tell(gang);
    for role in ["master", "worker"] {
        world.tell(Pod {
            labels: labels(&[("app", role)]),
            ..member(role, "gang", role, 3000)
        });
    }
    assert_eq!(starts(&world.run()), [("gang-uid", Some(1000))]);
    world.tell(Pod {
        rules: Some(Box::new(apart(ZONE, "worker"))),
        ..pod("x", 1000)
    });
    let said = world.run();
    assert_eq!(binds(&said), []);
    let reason = world.reason(&said, "x");
    assert!(
        matches!(reason, Some(Reason::WaitingForReservation { .. })),
        "{reason:?}"
    );
}

/// It was taken for known that nobody was moved by the late start.
#[test]
fn a_late_start_moves_the_promise_that_waits_for_its_end() {
    let mut world = World::with([node("a", 4).into()]);
    world.tell_single(takes("run", "", 900), Some("a"));
    world.run();
    let mut windowed = takes("windowed", "", 500);
    windowed.window = Some(Window {
        start: Time(1000),
        end: Time(9000),
    });
    world.tell_single(windowed, None);
    assert_eq!(starts(&world.run()), [("windowed-uid", Some(1000))]);
    world.tell_single(takes("next", "", 2000), None);
    assert_eq!(starts(&world.run()), [("next-uid", Some(1500))]);
    world.now = 1003;
    world.tell(Event::PodGone("run-0".into()));
    let said = world.run();
    assert_eq!(binds(&said), [("windowed-0", "a")]);
    let mut all: Vec<(String, Option<i64>)> = starts(&said)
        .into_iter()
        .map(|(claim, start)| (claim.to_owned(), start))
        .collect();
    world.now = 1100;
    world.tell(node("too-small", 1));
    all.extend(
        starts(&world.run())
            .into_iter()
            .map(|(claim, start)| (claim.to_owned(), start)),
    );
    assert_eq!(all, [("next-uid".to_owned(), Some(1503))]);
}

/// The promise kept the end that it was given, and the next one was told to start then.
#[test]
fn a_promise_lasts_as_long_as_its_claim_says_by_now() {
    let mut world = World::with([node("a", 4).into(), queue("r", None, &[], &[]).into()]);
    world.tell_single(takes("run", "", 1000), Some("a"));
    world.run();
    world.tell_single(takes("first", "", 1000), None);
    world.run();
    world.tell_single(takes("second", "r", 1000), None);
    assert_eq!(starts(&world.run()), [("second-uid", Some(2000))]);
    world.tell(takes("first", "", 5000));
    assert_eq!(starts(&world.run()), [("second-uid", Some(6000))]);
}

/// Seats that wait for an eviction were taken to be held for ever.
#[test]
fn whoever_has_others_evicted_and_is_gone_in_time_moves_no_promise() {
    let mut world = World::with([node("a", 4).into(), node("b", 4).into()]);
    world.tell_single(claim("run-b", "", &[("w", 1, 1, 1)]), Some("b"));
    let mut run = takes("run-a", "", 1_000_000);
    run.created = Time(1);
    world.tell_single(run, Some("a"));
    world.run();
    let mut windowed = claim("windowed", "", &[("w", 1, 1, 1)]);
    windowed.window = Some(Window {
        start: Time(2_000_000),
        end: Time(3_000_000),
    });
    world.tell_single(windowed, None);
    assert_eq!(starts(&world.run()), [("windowed-uid", Some(2_000_000))]);
    let mut high = takes("high", "", 100_000);
    high.priority = 9;
    world.tell(high);
    world.tell(Pod {
        priority: 9,
        ..member("high-0", "high", "w", 4000)
    });
    let said = world.run();
    assert_eq!(evictions(&said), ["run-a-0"]);
    assert_eq!(starts(&said), []);
    world.tell(node("too-small", 1));
    assert_eq!(starts(&world.run()), []);
}
