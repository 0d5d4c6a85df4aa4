//! Reservations and backfill: who waits longest gets a start that nobody moves.

use super::fixtures::*;
use crate::{Decision, Event, Reason, Time, event::Window};

/// A claim of one group of pods of so many cores, which takes so long, and its pods.
pub(super) fn job(name: &str, created: i64, pods: u32, cores: i64, length: Option<i64>) -> Vec<Event> {
    let mut claim = claim(name, "q", &[("w", pods, pods, 1)]);
    claim.created = Time(created);
    claim.expected_duration = length;
    let mut events: Vec<Event> = vec![claim.into()];
    for i in 0..pods {
        let mut pod = member(&format!("{name}-{i}"), name, "w", cores * 1000);
        pod.created = Time(created);
        events.push(pod.into());
    }
    events
}

pub(super) fn cluster(nodes: i64) -> World {
    let mut world = World::with([queue("q", None, &[], &[]).into()]);
    for i in 0..nodes {
        world.tell(node(&format!("n{i}"), 4));
    }
    world
}

impl World {
    pub(super) fn submit(&mut self, job: Vec<Event>) {
        for event in job {
            self.tell(event);
        }
    }

    pub(super) fn finish(&mut self, uid: &str) {
        let mut pod = self.pods[uid].clone();
        pod.finished = true;
        self.tell(pod);
    }

    pub(super) fn at(&mut self, now: i64) -> Vec<Decision> {
        self.now = now;
        self.run()
    }
}

/// (claim, start) of each reservation that was told.
pub(super) fn starts(decisions: &[Decision]) -> Vec<(&str, Option<i64>)> {
    fn start(decision: &Decision) -> Option<(&str, Option<i64>)> {
        match decision {
            Decision::Reserve { claim, start } => Some((claim, start.map(|t| t.0))),
            _ => None,
        }
    }
    decisions.iter().filter_map(start).collect()
}

#[test]
fn the_first_that_waits_gets_the_earliest_start_that_expected_ends_allow() {
    let mut world = cluster(2);
    world.submit(job("long", 0, 1, 4, Some(5000)));
    world.submit(job("short", 0, 1, 4, Some(2000)));
    world.at(0);
    world.submit(job("one", 1, 1, 4, Some(100)));
    let said = world.at(10);
    assert_eq!(starts(&said), [("one-uid", Some(2000))]);
    world.submit(job("big", 0, 2, 4, None));
    assert_eq!(
        starts(&world.at(20)),
        [],
        "the place of the first that waited stays its own"
    );
}

#[test]
fn a_gang_starts_when_the_last_of_those_it_needs_has_ended() {
    let mut world = cluster(3);
    for (i, length) in [(0, 5000), (1, 2000), (2, 3000)] {
        world.submit(job(&format!("run{i}"), 0, 1, 4, Some(length)));
    }
    world.at(0);
    world.submit(job("gang", 1, 2, 3, Some(100)));
    assert_eq!(starts(&world.at(1)), [("gang-uid", Some(3000))]);
    world.finish("run1-0");
    assert_eq!(binds(&world.at(2000)), []);
    world.finish("run2-0");
    assert_eq!(binds(&world.at(3000)), [("gang-0", "n1"), ("gang-1", "n2")]);
    assert!(world.cluster.model.reservations.is_empty());
}

/// One node of four cores of which three run for 1000, and a job that waits for all four.
fn one_that_waits() -> World {
    let mut world = cluster(1);
    world.submit(job("run", 0, 1, 3, Some(1000)));
    world.at(0);
    world.submit(job("big", 1, 1, 4, Some(1000)));
    assert_eq!(starts(&world.at(100)), [("big-uid", Some(1000))]);
    world
}

#[test]
fn who_ends_before_a_reservation_starts_at_once() {
    let mut world = one_that_waits();
    world.submit(job("small", 2, 1, 1, Some(900)));
    assert_eq!(binds(&world.at(100)), [("small-0", "n0")]);
}

#[test]
fn who_would_move_a_reservation_waits_and_is_told_for_whom_and_until_when() {
    for length in [Some(901), None] {
        let mut world = one_that_waits();
        world.submit(job("small", 2, 1, 1, length));
        let said = world.at(100);
        assert_eq!(binds(&said), []);
        let reason = world.reason(&said, "small-uid").unwrap();
        assert_eq!(
            reason,
            Reason::WaitingForReservation {
                claim: "ns/big".into(),
                start: Time(1000),
                length,
                hold: false,
            }
        );
        let counterfactual = said.iter().find_map(|d| match d {
            Decision::Pending {
                claim, counterfactual, ..
            } if claim == "small-uid" => counterfactual.clone(),
            _ => None,
        });
        let words = match length {
            Some(_) => "it would start now if it took 900ms or less",
            None => "it would start now if it stated an expectedDuration of 900ms or less",
        };
        assert_eq!(counterfactual.as_deref(), Some(words));
        assert_eq!(world.at(200), [], "it is said once");
        // When the reservation has become a place, what is beside it is free for all.
        world.finish("run-0");
        assert_eq!(binds(&world.at(1000)), [("big-0", "n0")]);
        world.finish("big-0");
        assert_eq!(binds(&world.at(2000)), [("small-0", "n0")]);
    }
}

#[test]
fn room_that_a_reservation_does_not_need_is_free_for_any_length() {
    let mut world = cluster(2);
    world.submit(job("run", 0, 2, 3, Some(1000)));
    world.at(0);
    world.submit(job("big", 1, 1, 4, None));
    assert_eq!(starts(&world.at(10)), [("big-uid", Some(1000))]);
    world.submit(job("endless", 2, 2, 1, None));
    let said = world.at(20);
    assert_eq!(binds(&said), [], "two of them take the core beside big's");
    world.tell(Event::ClaimGone("endless-uid".into()));
    world.tell(Event::PodGone("endless-0".into()));
    world.tell(Event::PodGone("endless-1".into()));
    world.submit(job("other", 3, 1, 1, None));
    let said = world.at(30);
    let [(pod, node)] = binds(&said)[..] else {
        panic!("{said:?}")
    };
    let kept = world.cluster.model.reservations[0].nodes().next().unwrap();
    assert_eq!(pod, "other-0");
    assert_ne!(node, &*world.cluster.model.nodes[kept].name);
}

#[test]
fn pods_without_a_claim_never_end_and_wait_beside_a_reservation() {
    let mut world = one_that_waits();
    world.tell(pod("plain", 1000));
    let said = world.at(100);
    assert_eq!(binds(&said), []);
    assert!(matches!(
        world.reason(&said, "plain"),
        Some(Reason::WaitingForReservation { length: None, .. })
    ));
}

#[test]
fn a_claim_that_outlives_its_estimate_delays_the_reservation_and_does_not_break_it() {
    let mut world = one_that_waits();
    let said = world.at(1000);
    assert_eq!(starts(&said), [("big-uid", Some(1062))], "late by a sixteenth at first");
    world.submit(job("small", 2, 1, 1, Some(500)));
    assert_eq!(binds(&world.at(1010)), [], "it goes on to hold against others");
    assert_eq!(starts(&world.at(1062)), [("big-uid", Some(1124))]);
    assert_eq!(starts(&world.at(1200)), [("big-uid", Some(1248))]);
    world.finish("run-0");
    assert_eq!(binds(&world.at(1210)), [("big-0", "n0")]);
}

/// Placement by itself would give `a` the emptier node, and leave one core too few for the second `b`.
#[test]
fn a_gang_gets_the_seats_of_its_reservation_where_placement_by_itself_would_not_find_them() {
    let mut world = cluster(2);
    for (name, cores, length, on) in [
        ("r0", 4, Some(2000), "n0"),
        ("r1", 3, Some(1000), "n1"),
        ("e", 1, None, "n1"),
    ] {
        let mut running = job(name, 0, 1, cores, length);
        if let Some(Event::Pod(pod)) = running.get_mut(1) {
            pod.node = Some(on.into());
        }
        world.submit(running);
    }
    world.at(0);
    let mut gang = claim("gang", "q", &[("a", 1, 1, 1), ("b", 2, 2, 1)]);
    gang.created = Time(1);
    world.tell(gang);
    world.tell(member("a", "gang", "a", 3000));
    world.tell(member("b0", "gang", "b", 2000));
    world.tell(member("b1", "gang", "b", 2000));
    assert_eq!(starts(&world.at(1)), [("gang-uid", Some(2000))]);
    world.finish("r1-0");
    assert_eq!(binds(&world.at(1000)), []);
    world.finish("r0-0");
    assert_eq!(binds(&world.at(2000)), [("a", "n1"), ("b0", "n0"), ("b1", "n0")]);
}

#[test]
fn a_claim_that_ends_early_brings_the_start_forward() {
    let mut world = cluster(2);
    world.submit(job("a", 0, 1, 4, Some(1000)));
    world.submit(job("b", 0, 1, 4, Some(3000)));
    world.at(0);
    world.submit(job("gang", 1, 2, 4, None));
    assert_eq!(starts(&world.at(1)), [("gang-uid", Some(3000))]);
    world.finish("b-0");
    assert_eq!(starts(&world.at(500)), [("gang-uid", Some(1000))]);
}

#[test]
fn without_an_expected_end_there_is_no_reservation_and_nobody_waits_for_one() {
    let mut world = cluster(1);
    world.submit(job("run", 0, 1, 3, None));
    world.at(0);
    world.submit(job("big", 1, 1, 4, None));
    assert_eq!(starts(&world.at(1)), []);
    world.submit(job("small", 2, 1, 1, None));
    assert_eq!(binds(&world.at(2)), [("small-0", "n0")]);
}

#[test]
fn one_that_no_time_helps_does_not_keep_the_next_from_a_reservation() {
    let mut world = cluster(1);
    world.submit(job("run", 0, 1, 3, Some(1000)));
    world.at(0);
    world.submit(job("huge", 1, 1, 9, None));
    world.submit(job("big", 2, 1, 4, None));
    assert_eq!(starts(&world.at(1)), [("big-uid", Some(1000))]);
}

#[test]
fn a_more_important_claim_of_the_queue_takes_the_reservation_over() {
    let mut world = one_that_waits();
    let mut urgent = job("urgent", 3, 1, 4, Some(500));
    if let Event::Claim(claim) = &mut urgent[0] {
        claim.priority = 9;
    }
    // It could have what runs evicted, but is asked not to.
    if let Event::Pod(pod) = &mut urgent[1] {
        pod.never_preempts = true;
    }
    world.submit(urgent);
    let said = world.at(200);
    assert_eq!(starts(&said), [("big-uid", None), ("urgent-uid", Some(1000))]);
}

#[test]
fn a_limit_of_a_queue_is_kept_for_the_reservation_too() {
    let mut world = World::with([queue("q", None, &[], &[("cpu", 4000)]).into()]);
    world.tell(node("n", 64));
    world.submit(job("run", 0, 1, 3, Some(1000)));
    world.at(0);
    world.submit(job("big", 1, 1, 4, None));
    assert_eq!(starts(&world.at(1)), [("big-uid", Some(1000))]);
    world.submit(job("small", 2, 1, 1, None));
    assert_eq!(binds(&world.at(2)), [], "it would use the quota that big needs");
    world.submit(job("short", 3, 1, 1, Some(100)));
    assert_eq!(binds(&world.at(3)), [("short-0", "n")]);
}

#[test]
fn the_head_of_each_queue_starts_as_early_as_its_limits_and_those_above_allow() {
    let mut world = World::with([
        queue("org", None, &[], &[("cpu", 8000)]).into(),
        queue("a", Some("org"), &[], &[("cpu", 4000)]).into(),
        queue("b", Some("org"), &[], &[("cpu", 6000)]).into(),
    ]);
    world.tell(node("n", 64));
    let submit = |world: &mut World, queue: &str, name: &str, cores: i64, length: i64| {
        let mut events = job(name, world.now, 1, cores, Some(length));
        for event in &mut events {
            if let Event::Claim(claim) = event {
                claim.queue = queue.into();
            }
        }
        world.submit(events);
    };
    submit(&mut world, "a", "run-a", 3, 1000);
    submit(&mut world, "b", "run-b", 5, 2000);
    assert_eq!(binds(&world.at(0)).len(), 2);
    // Of its own limit it could have 4 when `run-a` has ended, and of that above no more than 3 before `run-b` has, too.
    submit(&mut world, "a", "head-a", 4, 500);
    assert_eq!(starts(&world.at(1)), [("head-a-uid", Some(2000))]);
    // With 4 of 8 promised until 2500, it has 3 of 8 at once when `run-a` ends, and its own limit when `run-b` does.
    submit(&mut world, "b", "head-b", 3, 400);
    assert_eq!(starts(&world.at(2)), [("head-b-uid", Some(2000))]);
    // Both at once: 4 and 3 of 8. Who is small and short enough starts before, and who would move one of them does not.
    submit(&mut world, "a", "small-a", 1, 5000);
    assert_eq!(binds(&world.at(1000)), [], "head-a takes all that a may have");
    world.finish("run-a-0");
    submit(&mut world, "a", "short-a", 3, 900);
    assert_eq!(binds(&world.at(1001)), [("short-a-0", "n")]);
    world.finish("short-a-0");
    world.finish("run-b-0");
    let said = world.at(2000);
    let mut started = binds(&said);
    started.sort_unstable();
    assert_eq!(started, [("head-a-0", "n"), ("head-b-0", "n")]);
}

#[test]
fn the_devices_that_a_reservation_needs_are_left_to_it() {
    let mut world = World::with([queue("q", None, &[], &[]).into(), gpu_node("g", 2, "A100").into()]);
    let gpu_job = |name: &str, created, gpus, length| {
        let mut events = job(name, created, 1, 1, length);
        if let Some(Event::Pod(pod)) = events.get_mut(1) {
            pod.gpus = Some(gpus);
        }
        events
    };
    world.submit(gpu_job("run", 0, whole(1), Some(1000)));
    world.submit(gpu_job("part", 0, share(500), None));
    world.at(0);
    world.submit(gpu_job("big", 1, whole(1), None));
    assert_eq!(starts(&world.at(1)), [("big-uid", Some(1000))]);
    world.submit(gpu_job("half", 2, share(500), None));
    assert_eq!(binds(&world.at(2)), [("half-0", "g")], "beside the other half");
}

fn windowed(name: &str, created: i64, cores: i64, start: i64, end: i64) -> Vec<Event> {
    let mut events = job(name, created, 1, cores, None);
    if let Event::Claim(claim) = &mut events[0] {
        claim.window = Some(Window {
            start: Time(start),
            end: Time(end),
        });
    }
    events
}

#[test]
fn a_claim_with_a_window_gets_its_capacity_at_that_time() {
    let mut world = cluster(1);
    world.submit(windowed("demo", 0, 4, 1000, 2000));
    let said = world.at(0);
    assert_eq!(binds(&said), []);
    assert_eq!(starts(&said), [("demo-uid", Some(1000))]);
    assert_eq!(
        world.reason(&said, "demo-uid"),
        Some(Reason::WaitingForWindow {
            start: Time(1000),
            kept: true,
        })
    );
    world.submit(job("long", 1, 1, 2, Some(1500)));
    world.submit(job("short", 1, 1, 2, Some(600)));
    let said = world.at(100);
    let words = "long would be in its way, short is gone by then";
    assert_eq!(binds(&said), [("short-0", "n0")], "{words}");
    let words = "who is kept out by a window has no right to the reservation of the queue";
    assert_eq!(starts(&said), [], "{words}");
    world.finish("short-0");
    assert_eq!(binds(&world.at(700)), []);
    let said = world.at(1000);
    assert_eq!(binds(&said), [("demo-0", "n0")], "time alone is enough");
    assert_eq!(starts(&said), [("long-uid", Some(2000))], "a window ends");
}

#[test]
fn a_window_for_which_nothing_can_be_kept_says_so_and_is_kept_when_that_changes() {
    let mut world = cluster(1);
    world.submit(job("endless", 0, 1, 4, None));
    world.at(0);
    world.submit(windowed("demo", 0, 4, 1000, 2000));
    let said = world.at(1);
    assert_eq!(starts(&said), []);
    assert_eq!(
        world.reason(&said, "demo-uid"),
        Some(Reason::WaitingForWindow {
            start: Time(1000),
            kept: false,
        })
    );
    world.finish("endless-0");
    assert_eq!(starts(&world.at(500)), [("demo-uid", Some(1000))]);
}

#[test]
fn a_window_that_is_over_says_so() {
    let mut world = cluster(1);
    world.submit(windowed("late", 0, 4, 1000, 2000));
    let said = world.at(2000);
    assert_eq!(
        world.reason(&said, "late-uid"),
        Some(Reason::WindowOver { end: Time(2000) })
    );
    assert_eq!(binds(&said), []);
}

#[test]
fn a_window_that_opens_in_vain_waits_for_those_who_are_late_and_starts_within_it() {
    let mut world = cluster(1);
    world.submit(job("run", 0, 1, 4, Some(900)));
    world.at(0);
    world.submit(windowed("demo", 0, 4, 1000, 2000));
    assert_eq!(starts(&world.at(1)), [("demo-uid", Some(1000))]);
    let said = world.at(1000);
    assert_eq!(binds(&said), []);
    assert_eq!(starts(&said), [("demo-uid", Some(1012))]);
    world.submit(job("other", 0, 1, 4, Some(100)));
    world.finish("run-0");
    assert_eq!(binds(&world.at(1100)), [("demo-0", "n0")]);
}

/// A stream of small jobs, one each 100, of which four fit and each takes 400: never are all four cores free.
fn stream(protected: bool) -> Option<i64> {
    let mut world = cluster(1);
    let length = |length| protected.then_some(length);
    let mut ends: Vec<(i64, String)> = Vec::new();
    for step in 0..100 {
        let now = step * 100;
        while let Some(at) = ends.iter().position(|(end, _)| *end <= now) {
            world.finish(&ends.remove(at).1);
        }
        world.submit(job(&format!("s{step}"), now, 1, 1, length(400)));
        if step == 5 {
            world.submit(job("big", now, 1, 4, length(400)));
        }
        let said = world.at(now);
        for (pod, _) in binds(&said) {
            if pod == "big-0" {
                return Some(now);
            }
            ends.push((now + 400, pod.to_owned()));
        }
    }
    None
}

/// Until it has waited for so long that it gets a hold: see [`super::holds`].
#[test]
fn a_stream_of_small_jobs_starves_a_big_one_only_where_no_length_is_known() {
    assert_eq!(stream(false), None);
    assert_eq!(stream(true), Some(800), "when the last of those before it ended");
}

#[test]
fn what_is_reserved_survives_the_loss_of_its_pods_and_claims() {
    let mut world = one_that_waits();
    world.tell(Event::PodGone("big-0".into()));
    let said = world.at(300);
    assert_eq!(starts(&said), [("big-uid", None)]);
    world.tell(Event::ClaimGone("big-uid".into()));
    world.submit(job("small", 2, 1, 1, None));
    assert_eq!(binds(&world.at(400)), [("small-0", "n0")]);
    assert!(world.cluster.model.reservations.is_empty());
}

#[test]
fn the_claim_of_a_reservation_that_goes_lets_in_whom_it_kept_out() {
    let mut world = one_that_waits();
    world.submit(job("small", 2, 1, 1, None));
    assert_eq!(binds(&world.at(200)), []);
    world.tell(Event::ClaimGone("big-uid".into()));
    assert_eq!(binds(&world.at(300)), [("small-0", "n0")]);
}

#[test]
fn with_nobody_blocked_nothing_is_kept_and_nothing_is_told() {
    let mut world = cluster(4);
    for i in 0..8 {
        world.submit(job(&format!("j{i}"), i, 1, 2, Some(1000)));
    }
    let said = world.at(10);
    assert_eq!((binds(&said).len(), starts(&said)), (8, vec![]));
}
