//! Holds: a gang starts in the end, also where nobody knows when others end.

use std::collections::BTreeMap;

use super::{backfill::*, fixtures::*};
use crate::{
    Decision, Event, Reason, Settings, Time,
    event::{Level, Topology},
    settings::HOLD_AFTER as PATIENCE,
};

const MINUTE: i64 = 60_000;

/// What came of a stream of jobs of one core, one each minute, beside a gang that needs all of a cluster.
struct Stream {
    /// When the gang started.
    started: Option<i64>,
    /// Core-minutes that stood idle from when the gang was submitted until it started.
    idle: i64,
}

/// On so many nodes of four cores, jobs that each take so many minutes and do not say so; every fourth says it, if asked.
fn stream(nodes: i64, minutes: i64, some_say: bool, gang_at: i64) -> Stream {
    stream_with(Settings::default(), nodes, minutes, some_say, gang_at)
}

fn stream_with(settings: Settings, nodes: i64, minutes: i64, some_say: bool, gang_at: i64) -> Stream {
    let mut world = cluster(nodes);
    world.cluster.model.hold_after = settings.hold_after;
    let mut ends: BTreeMap<String, i64> = BTreeMap::new();
    let (mut idle, mut next) = (0, 0);
    for minute in 0..400 {
        let now = minute * MINUTE;
        let over: Vec<String> = ends
            .iter()
            .filter(|(_, end)| **end <= now)
            .map(|(pod, _)| pod.clone())
            .collect();
        for pod in over {
            world.finish(&pod);
            ends.remove(&pod);
        }
        // As many as a full cluster needs, and one more.
        for _ in 0..=nodes * 4 / minutes {
            let says = (some_say && next % 4 == 0).then_some(minutes * MINUTE);
            world.submit(job(&format!("s{next}"), now, 1, 1, says));
            next += 1;
        }
        if minute == gang_at {
            world.submit(job("gang", now, nodes as u32, 4, None));
        }
        for (pod, _) in binds(&world.at(now)) {
            if pod.starts_with("gang") {
                return Stream {
                    started: Some(minute),
                    idle,
                };
            }
            ends.insert(pod.to_owned(), now + minutes * MINUTE);
        }
        idle += if minute >= gang_at {
            nodes * 4 - ends.len() as i64
        } else {
            0
        };
    }
    Stream { started: None, idle }
}

#[test]
fn a_gang_starts_in_the_end_under_a_stream_of_pods_of_unknown_length() {
    let patience = PATIENCE / MINUTE;
    for (nodes, minutes) in [(1, 4), (2, 5), (3, 9)] {
        let Stream { started, idle } = stream(nodes, minutes, false, 10);
        let started = started.expect("it starts");
        assert!(
            started >= 10 + patience && started <= 10 + patience + minutes + 1,
            "{nodes} nodes, {minutes} minutes: it waits for its patience, and then for those who are there: {started}"
        );
        assert!(
            idle <= nodes * 4 * (minutes + 1),
            "what it asks for stands idle for no longer than others take to leave: {idle}"
        );
    }
}

#[test]
fn how_long_it_waits_is_set_and_it_may_be_for_ever() {
    let after = |hold_after| {
        let settings = Settings {
            hold_after,
            ..Settings::default()
        };
        stream_with(settings, 2, 5, false, 10).started
    };
    let started = after(Some(2 * MINUTE)).expect("it starts");
    assert!((12..=12 + 5 + 1).contains(&started), "{started}");
    assert_eq!(after(None), None, "the stream goes past it");
}

#[test]
fn where_nothing_is_ever_held_no_time_is_waited_for() {
    let mut world = cluster(1);
    world.cluster.model.hold_after = None;
    world.submit(job("run", 0, 1, 3, None));
    world.submit(job("big", 1, 1, 4, None));
    world.at(2);
    assert_eq!(world.cluster.next_time(), None);
    world.at(1 + 2 * PATIENCE);
    assert!(world.cluster.model.reservations.is_empty());
}

/// The first term is over before anybody who was there has left.
#[test]
fn however_long_others_take_a_term_is_as_long_in_the_end() {
    let Stream { started, idle } = stream(1, 45, false, 4);
    assert_eq!(
        started,
        Some(48),
        "in the third term, when the last of the four that were there has left"
    );
    assert!(idle <= 3 + 2 + 1, "{idle}");
}

#[test]
fn who_says_when_it_ends_uses_what_is_held_until_the_term_ends() {
    let (none_say, some_say) = (stream(2, 5, false, 10), stream(2, 5, true, 10));
    assert!(some_say.started.is_some_and(|at| at <= 10 + 2 * PATIENCE / MINUTE));
    let lent = |s: &Stream| s.idle as f64 / (s.started.unwrap() - 20).max(1) as f64;
    assert!(lent(&some_say) < lent(&none_say), "{} {}", some_say.idle, none_say.idle);
}

/// Three nodes: one job of unknown length on each that takes three cores; a job that needs a whole node waits.
fn held() -> World {
    let mut world = cluster(3);
    for i in 0..3 {
        world.submit(job(&format!("run{i}"), 0, 1, 3, None));
        world.at(i * MINUTE);
    }
    world.submit(job("big", 5, 1, 4, None));
    assert_eq!(binds(&world.at(4 * MINUTE)), []);
    assert!(world.cluster.model.reservations.is_empty(), "it has to be patient");
    let said = world.at(5 + PATIENCE);
    assert_eq!(starts(&said), [], "nothing is promised");
    world
}

#[test]
fn only_those_who_came_last_and_sit_in_its_way_are_waited_for() {
    let mut world = held();
    let hold = world.cluster.model.reservations[0].hold.clone().unwrap();
    assert_eq!(
        hold.leave.into_iter().map(|uid| uid.to_string()).collect::<Vec<_>>(),
        ["run2-0"]
    );
    world.submit(job("beside", 6, 3, 1, None));
    let said = world.at(6 + PATIENCE);
    assert_eq!(binds(&said), [], "the third of them would sit on n2");
    let Some(Reason::WaitingForReservation { claim, hold: true, .. }) = world.reason(&said, "beside-uid") else {
        panic!("{said:?}")
    };
    assert_eq!(claim, "ns/big");
    world.tell(pod("plain", 1000));
    world.tell(pod("other", 1000));
    world.tell(pod("third", 1000));
    let mut nodes: Vec<_> = binds(&world.at(7 + PATIENCE))
        .iter()
        .map(|(_, node)| node.to_string())
        .collect();
    nodes.sort();
    assert_eq!(nodes, ["n0", "n1"]);
    world.finish("run2-0");
    assert_eq!(binds(&world.at(8 + PATIENCE)), [("big-0", "n2")]);
    assert_eq!(binds(&world.at(9 + PATIENCE)), [], "all is full");
}

#[test]
fn a_hold_goes_with_its_claim_and_lets_in_whom_it_kept_out() {
    let mut world = held();
    for i in 0..3 {
        world.tell(pod(&format!("p{i}"), 1000));
    }
    assert_eq!(binds(&world.at(6 + PATIENCE)).len(), 2);
    world.tell(Event::ClaimGone("big-uid".into()));
    assert_eq!(binds(&world.at(7 + PATIENCE)).len(), 1);
    assert!(world.cluster.model.reservations.is_empty());
}

#[test]
fn a_promise_takes_the_place_of_a_hold_as_soon_as_ends_are_known() {
    let mut world = held();
    let mut known = claim("run0", "q", &[("w", 1, 1, 1)]);
    known.expected_duration = Some(100 * MINUTE);
    world.tell(known);
    let said = world.at(6 + PATIENCE);
    assert_eq!(starts(&said), [("big-uid", Some(100 * MINUTE))]);
    assert!(world.cluster.model.reservations.iter().all(|r| r.hold.is_none()));
}

#[test]
fn a_limit_of_a_queue_is_held_too() {
    let mut world = World::with([queue("q", None, &[], &[("cpu", 4000)]).into()]);
    world.tell(node("n", 64));
    world.submit(job("run", 0, 1, 3, None));
    world.at(0);
    world.submit(job("big", 1, 1, 4, None));
    world.at(1);
    world.at(1 + PATIENCE);
    world.submit(job("small", 2, 1, 1, None));
    assert_eq!(
        binds(&world.at(2 + PATIENCE)),
        [],
        "it would use the quota that big needs"
    );
    world.finish("run-0");
    assert_eq!(binds(&world.at(3 + PATIENCE)), [("big-0", "n")]);
}

#[test]
fn a_gang_in_one_rack_holds_one_rack() {
    let mut world = World::with([queue("q", None, &[], &[]).into()]);
    for i in 0..4 {
        let mut node = node(&format!("n{i}"), 4);
        node.location.rack = Some(format!("r{}", i / 2));
        world.tell(node);
    }
    for i in 0..4 {
        world.submit(job(&format!("run{i}"), i, 1, 3, None));
        world.at(i);
    }
    let mut gang = job("gang", 5, 2, 4, None);
    if let Event::Claim(claim) = &mut gang[0] {
        claim.topology = Some(Topology {
            pack: Level::Rack,
            required: true,
        });
    }
    world.submit(gang);
    world.at(5);
    world.at(5 + PATIENCE);
    for i in 0..4 {
        world.tell(pod(&format!("p{i}"), 1000));
    }
    assert_eq!(binds(&world.at(6 + PATIENCE)).len(), 2, "in the other rack");
    let nodes = world.cluster.model.reservations[0].nodes().collect::<Vec<_>>();
    let racks: std::collections::BTreeSet<_> = nodes
        .iter()
        .map(|n| world.cluster.model.nodes[*n].name.as_bytes()[1] / 2)
        .collect();
    assert_eq!((nodes.len(), racks.len()), (2, 1));
}

/// Younger claims of the queue for which there is a start would else go on for ever.
#[test]
fn one_that_waits_for_long_gets_a_hold_beside_the_promise_of_another() {
    let mut world = World::with([queue("q", None, &[], &[]).into(), gpu_node("g", 1, "A100").into()]);
    world.tell(node("n", 4));
    let gpu = |name: &str, created, length| {
        let mut events = job(name, created, 1, 1, length);
        if let Some(Event::Pod(pod)) = events.get_mut(1) {
            pod.gpus = Some(whole(1));
        }
        events
    };
    for (name, cores, on) in [("fill", 62, "g"), ("run", 3, "n")] {
        let mut events = job(name, 0, 1, cores, None);
        if let Some(Event::Pod(pod)) = events.get_mut(1) {
            pod.node = Some(on.into());
        }
        world.submit(events);
        // What runs on n started last.
        world.at(if on == "n" { 1 } else { 0 });
    }
    world.submit(gpu("first", 0, Some(100 * MINUTE)));
    world.at(1);
    world.submit(job("big", 1, 1, 4, None));
    world.submit(gpu("second", 2, Some(100 * MINUTE)));
    assert_eq!(starts(&world.at(2)), [("second-uid", Some(1 + 100 * MINUTE))]);
    let said = world.at(1 + PATIENCE);
    assert_eq!(starts(&said), [], "the promise stays");
    let holds: Vec<bool> = world
        .cluster
        .model
        .reservations
        .iter()
        .map(|r| r.hold.is_some())
        .collect();
    assert_eq!(holds, [false, true]);
    world.tell(pod("small", 1000));
    assert_eq!(binds(&world.at(2 + PATIENCE)), [("small", "g")]);
    world.tell(pod("late", 1000));
    assert_eq!(binds(&world.at(3 + PATIENCE)), [], "n is held for big");
}

#[test]
fn a_window_is_never_a_hold_and_nothing_is_held_for_what_never_fits() {
    let mut world = cluster(1);
    world.submit(job("run", 0, 1, 3, None));
    world.at(0);
    world.submit(job("huge", 1, 3, 4, None));
    for at in [1, 1 + PATIENCE, 1 + 3 * PATIENCE] {
        let said: Vec<Decision> = world.at(at);
        assert_eq!(starts(&said), []);
        assert!(world.cluster.model.reservations.is_empty());
    }
    world.tell(pod("small", 1000));
    assert_eq!(binds(&world.at(2 + 3 * PATIENCE)), [("small", "n0")]);
    assert_eq!(world.cluster.model.now, Time(2 + 3 * PATIENCE));
}

/// Those who sit there never leave.
#[test]
fn a_hold_in_vain_ends_after_two_weeks() {
    let mut world = held();
    let mut now = 5 + PATIENCE;
    let mut terms = Vec::new();
    while let Some(r) = world.cluster.model.reservations.first() {
        terms.push(r.hold.as_ref().unwrap().term / PATIENCE);
        now = r.start.0;
        assert_eq!(binds(&world.at(now)), []);
    }
    assert_eq!(terms, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]);
    assert!(now < 15 * 24 * 60 * MINUTE);
    for i in 0..3 {
        world.tell(pod(&format!("p{i}"), 1000));
    }
    assert_eq!(binds(&world.at(now + 100 * PATIENCE)).len(), 3);
    assert!(world.cluster.model.reservations.is_empty());
}

/// One node ends sooner, and one after the other the seats would stand apart.
#[test]
fn a_promise_stands_as_close_together_as_its_gang_would_like() {
    let mut world = World::with([queue("q", None, &[], &[]).into()]);
    for (name, rack) in [("n0", "r0"), ("n1", "r1"), ("n2", "r1")] {
        let mut node = node(name, 4);
        node.location.rack = Some(rack.into());
        world.tell(node);
    }
    for (i, length) in [(0, 1000), (1, 2000), (2, 2000)] {
        let mut events = job(&format!("run{i}"), 0, 1, 4, Some(length));
        if let Some(Event::Pod(pod)) = events.get_mut(1) {
            pod.node = Some(format!("n{i}"));
        }
        world.submit(events);
    }
    world.at(0);
    let mut gang = job("gang", 1, 2, 4, None);
    if let Event::Claim(claim) = &mut gang[0] {
        claim.topology = Some(Topology {
            pack: Level::Rack,
            required: false,
        });
    }
    world.submit(gang);
    assert_eq!(starts(&world.at(1)), [("gang-uid", Some(2000))]);
    let nodes = world.cluster.model.reservations[0].nodes();
    let names: Vec<_> = nodes.map(|n| world.cluster.model.nodes[n].name.to_string()).collect();
    assert_eq!(names, ["n1", "n2"]);
}

/// As if it had been promised to start at the end of the hold's term, it waited for half of what it takes.
#[test]
fn a_hold_keeps_nobody_from_evicting_whom_he_may_evict() {
    let mut world = cluster(1);
    let mut low = job("low", 0, 1, 4, None);
    for event in &mut low {
        if let Event::Claim(claim) = event {
            claim.min_runtime = 20 * MINUTE;
        }
    }
    world.submit(low);
    world.at(0);
    let mut high = job("high", 5, 1, 4, Some(600 * MINUTE));
    for event in &mut high {
        match event {
            Event::Claim(claim) => claim.priority = 9,
            Event::Pod(pod) => pod.priority = 9,
            _ => {}
        }
    }
    world.submit(high);
    assert_eq!(evictions(&world.at(5)), Vec::<&str>::new(), "it may run for a while");
    world.at(6 + PATIENCE);
    let held = |world: &World| world.cluster.model.reservations.iter().any(|r| r.hold.is_some());
    assert!(held(&world));
    assert_eq!(evictions(&world.at(21 * MINUTE)), ["low-0"]);
}

#[test]
fn a_claim_that_has_run_may_have_a_hold_again() {
    let mut world = cluster(1);
    world.submit(job("a", 0, 1, 4, None));
    let claim = world.cluster.model.claims.iter().next().unwrap().0;
    world.cluster.model.claims[claim].no_hold_until = Time(i64::MAX);
    assert_eq!(binds(&world.at(1)).len(), 1);
    assert_eq!(world.cluster.model.claims[claim].no_hold_until, Time::default());
}
