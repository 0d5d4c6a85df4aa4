#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
use proptest::prelude::*;

use super::*;

/// Bits a second.
const LINE: i64 = 1_000_000_000;
const FLOOR_OF_LINE: i64 = LINE / 20;
const MOST_OF_LINE: i64 = LINE / 10 * 9;

/// A link that carries what prod needs, and of batch's what it is let send and receive and there is room for.
struct Plant {
    guard: NetworkGuard,
    seen: Network,
    now: Millis,
    /// What batch would send and receive.
    greed: i64,
}

fn able() -> Capabilities {
    Capabilities {
        police: true,
        cpu_max: true,
        ..Capabilities::default()
    }
}

fn node(network: Network) -> Observation {
    Observation {
        network: Some(network),
        ..Observation::default()
    }
}

fn policy(rate: Option<i64>, line: Option<i64>) -> policy::NetworkGuard {
    policy::NetworkGuard {
        disabled: false,
        rate,
        line,
    }
}

impl Plant {
    fn new() -> Self {
        Self {
            guard: NetworkGuard::default(),
            seen: Network {
                uplink: Some(Uplink {
                    name: "eth0".to_owned(),
                    speed: Some(LINE),
                    ..Uplink::default()
                }),
                held: 2,
                ..Network::default()
            },
            now: 0,
            greed: LINE,
        }
    }

    fn step(&mut self) -> Option<Action> {
        self.seen.at = self.now;
        let seen = node(self.seen.clone());
        self.guard.step(&policy(None, None), &able(), &seen, self.now)
    }

    /// Lets a span pass in which prod needs so much each way, and looks.
    fn pass(&mut self, prod: i64, span: Millis) -> Option<Action> {
        let rates = self.guard.rates.unwrap_or([LINE; 2]);
        self.now += span;
        let mut carried = [0; 2];
        let mut batch = [0; 2];
        for (at, rate) in rates.into_iter().enumerate() {
            // Nobody of batch slows down: what it sends over its rate is dropped before the link, what comes for it, after.
            let comes_by = self.greed.min(rate * 21 / 20);
            let on_link = if at == 0 { self.greed.min(rate) } else { comes_by };
            // A full link drops of everybody alike.
            carried[at] = (prod + on_link).min(LINE);
            batch[at] = if at == 0 || prod + on_link <= LINE {
                comes_by
            } else {
                i64::try_from(i128::from(on_link) * i128::from(LINE) / i128::from(prod + on_link)).unwrap()
            };
        }
        let uplink = self.seen.uplink.as_mut().unwrap();
        uplink.sent += bytes_in(carried[0], span);
        uplink.received += bytes_in(carried[1], span);
        self.seen.sent.bytes += bytes_in(batch[0], span);
        self.seen.received.bytes += bytes_in(batch[1], span);
        self.seen.sent.dropped += u64::from(self.greed > rates[0]);
        self.seen.received.dropped += u64::from(self.greed > rates[1]);
        self.step()
    }

    fn rates(&self) -> [i64; 2] {
        self.guard.rates.unwrap()
    }
}

proptest! {
    #[test]
    fn batch_always_has_a_floor_and_never_more_than_nine_tenths_of_the_link(
        loads in prop::collection::vec((0..=LINE, 0..=LINE, 50_u64..5_000), 1..60),
    ) {
        let mut plant = Plant::new();
        plant.step();
        for (prod, greed, span) in loads {
            plant.greed = greed;
            plant.pass(prod, span);
            if let Some(rates) = plant.guard.rates {
                for rate in rates {
                    prop_assert!((FLOOR_OF_LINE..=MOST_OF_LINE).contains(&rate), "{rate}");
                }
            }
        }
    }

    /// However batch used what it had, and whatever was given back before: at the next look where the surge fits on the link beside
    /// it, else by half each look until it does.
    #[test]
    fn a_surge_of_prod_is_taken_from_batch_at_the_next_look(
        before in prop::collection::vec((0..LINE / 2, 0..=LINE), 1..40),
        surge in 0..=LINE,
    ) {
        let mut plant = Plant::new();
        plant.step();
        for (prod, greed) in before {
            plant.greed = greed;
            plant.pass(prod, 1_000);
        }
        let had = plant.rates();
        let used = had.map(|rate| plant.greed.min(rate * 21 / 20));
        plant.pass(surge, 1_000);
        let left = (MOST_OF_LINE - surge).max(FLOOR_OF_LINE);
        let enough = left + LINE / 1000 * SAME;
        for ((rate, had), used) in plant.rates().into_iter().zip(had).zip(used) {
            prop_assert!(rate <= had + LINE / 1000 * STEP, "raised from {had} to {rate}");
            if surge + used <= LINE {
                prop_assert!(rate <= enough, "{rate} where {left} is left, of {had}");
            } else {
                prop_assert!(rate <= (had / 2).max(FLOOR_OF_LINE), "{rate} of {had} on a full link");
            }
        }
        for _ in 0..5 {
            plant.pass(surge, 1_000);
        }
        for rate in plant.rates() {
            prop_assert!(rate <= enough, "{rate} where {left} is left, five looks later");
        }
    }

    /// What batch is let do does not show as prod's need, so that nothing swings: a minute after the last change of prod the
    /// rate stands, at what prod leaves.
    #[test]
    fn beside_steady_prod_the_rate_stands_still_at_what_prod_leaves(
        start in 0..=LINE,
        prod in 0..=LINE * 4 / 5,
        greed in 0..=LINE,
        span in 900_u64..2_000,
    ) {
        let mut plant = Plant::new();
        plant.greed = greed;
        plant.step();
        for _ in 0..10 {
            plant.pass(start, span);
        }
        for _ in 0..60 {
            plant.pass(prod, span);
        }
        let stands = plant.rates();
        let left = (MOST_OF_LINE - prod).max(FLOOR_OF_LINE);
        for rate in stands {
            prop_assert!((rate - left).abs() <= LINE / 1000 * SAME, "{rate} where {left} is left");
        }
        for _ in 0..60 {
            plant.pass(prod, span);
            prop_assert_eq!(plant.rates(), stands);
        }
    }
}

#[test]
fn after_prods_surge_batch_has_everything_back_within_half_a_minute() {
    let mut plant = Plant::new();
    plant.step();
    plant.pass(0, 1_000);
    assert_eq!(plant.rates(), [MOST_OF_LINE; 2]);
    assert_eq!((plant.guard.state, plant.guard.cuts), (GuardState::Idle, 0));
    plant.greed = LINE / 5;
    plant.pass(LINE * 7 / 10, 1_000);
    assert_eq!((plant.guard.state, plant.guard.cuts), (GuardState::Suppressing, 1));
    let said = plant.guard.last_action.clone().unwrap();
    assert!(
        said.starts_with(
            "cut batch to 200 Mbit/s to send and 200 to receive: prod sends 700 and receives 700 of the 1000 of eth0"
        ),
        "{said}"
    );
    let mut seconds = 0;
    while plant.rates() != [MOST_OF_LINE; 2] {
        seconds += 1;
        assert!(seconds <= 30, "{:?}", plant.rates());
        plant.pass(0, 1_000);
    }
    assert!(seconds >= 10, "all at once");
    assert_eq!((plant.guard.state, plant.guard.cuts), (GuardState::Idle, 1));
}

#[test]
fn a_counter_that_begins_anew_or_a_look_that_knows_none_changes_nothing() {
    let mut plant = Plant::new();
    plant.step();
    plant.pass(LINE / 2, 1_000);
    let rates = plant.rates();
    let mut anew = plant.seen.clone();
    anew.sent.bytes = 0;
    plant.now += 1_000;
    anew.at = plant.now;
    plant.guard.step(&policy(None, None), &able(), &node(anew), plant.now);
    assert_eq!(plant.rates(), rates);
    plant.now += 1_000;
    let unread = Network {
        unread: true,
        uplink: None,
        held: 0,
        ..Network::default()
    };
    let action = plant.guard.step(&policy(None, None), &able(), &node(unread), plant.now);
    assert_eq!((action.is_some(), plant.rates()), (true, rates));
    plant.now += 1_000;
    let mut blind = plant.seen.clone();
    blind.uplink = None;
    let action = plant
        .guard
        .step(&policy(None, Some(LINE)), &able(), &node(blind), plant.now);
    assert_eq!(action, None);
    assert!(plant.guard.last_action.unwrap().contains("no route leads out"));
}

#[test]
fn the_policys_own_rate_holds_whatever_prod_needs() {
    let mut guard = NetworkGuard::default();
    let mut network = Plant::new().seen;
    network.uplink = None;
    let mut step = |rate, now| {
        let action = guard.step(&policy(Some(rate), None), &able(), &node(network.clone()), now);
        (action.unwrap().value, guard.cuts, guard.limit())
    };
    assert_eq!(
        step(8_000_000, 0),
        ("send=8000000 receive=8000000".to_owned(), 1, Some(8_000_000))
    );
    assert_eq!(step(8_000_000, 1_000).1, 1);
    // More is no cut, less is one.
    assert_eq!(step(9_000_000, 2_000).1, 1);
    assert_eq!(
        step(2_000_000, 3_000),
        ("send=2000000 receive=2000000".to_owned(), 2, Some(2_000_000))
    );
}

#[test]
fn where_nobody_can_be_held_the_guard_says_why_not() {
    let said = |network: Option<Network>, capabilities: &Capabilities| {
        let mut guard = NetworkGuard::default();
        let seen = Observation {
            network,
            ..Observation::default()
        };
        let action = guard.step(&policy(None, None), capabilities, &seen, 0);
        assert_eq!(action, None);
        (guard.state, guard.last_action.unwrap_or_default())
    };
    let network = || Plant::new().seen;
    let (state, why) = said(None, &able());
    assert_eq!(state, GuardState::Off);
    assert!(why.contains("agent.network in the chart's values"), "{why}");
    let refused = able().without(POLICE, "batch's rate: no such file");
    let (state, why) = said(Some(network()), &refused);
    assert_eq!(state, GuardState::Off);
    assert!(why.contains("refuses tc.police: batch's rate"), "{why}");
    let unknown = Network {
        uplink: Some(Uplink {
            name: "ens5".to_owned(),
            speed: None,
            ..Uplink::default()
        }),
        ..network()
    };
    let (state, why) = said(Some(unknown), &able());
    assert_eq!(state, GuardState::Off);
    assert!(
        why.contains("driver of ens5") && why.contains("guards.network.line"),
        "{why}"
    );
    let beyond = Network {
        held: 0,
        apart: 2,
        taken: 1,
        refused: 3,
        bypassed: 4,
        ..network()
    };
    let (state, why) = said(Some(beyond), &able());
    assert_eq!(state, GuardState::Off);
    assert!(
        why.contains("2 pods of batch have no link")
            && why.contains("3 pods of batch have a link on which the kernel refuses")
            && why.contains("4 pods of batch have a link whose packets")
            && why.contains("1 pods of batch have a link with hooks"),
        "{why}"
    );
    let nobody = Network { held: 0, ..network() };
    assert_eq!(said(Some(nobody), &able()), (GuardState::Idle, String::new()));
}

#[test]
fn pods_that_all_went_leave_no_limit_and_the_next_one_gets_it_anew() {
    let mut plant = Plant::new();
    plant.greed = LINE / 4;
    plant.step();
    assert!(plant.pass(0, 1_000).is_some());
    plant.seen.held = 0;
    assert_eq!(plant.pass(0, 1_000), None);
    assert!(
        plant
            .guard
            .last_action
            .clone()
            .unwrap()
            .contains("no pod of batch is left")
    );
    plant.seen.held = 1;
    assert!(plant.pass(LINE / 2, 1_000).is_some());
    assert_eq!(plant.rates(), [MOST_OF_LINE - LINE / 2; 2]);
}

/// A cable that was plugged in anew, or a driver that said -1 at one look, switched the guard off.
#[test]
fn a_driver_that_says_no_speed_for_some_looks_changes_nothing_and_one_that_says_none_for_long_ends_it() {
    let mut plant = Plant::new();
    plant.step();
    plant.pass(LINE / 2, 1_000);
    plant.seen.uplink.as_mut().unwrap().speed = None;
    let mut acts = 0;
    for _ in 0..LASTS / 1_000 - 1 {
        acts += u32::from(plant.pass(LINE / 2, 1_000).is_some());
        assert_ne!(plant.guard.state, GuardState::Off);
    }
    assert_eq!(u64::from(acts), LASTS / 1_000 - 1);
    assert_eq!(plant.pass(LINE / 2, 1_000), None);
    assert!(plant.guard.last_action.clone().unwrap().contains("driver of eth0"));
    plant.seen.uplink.as_mut().unwrap().speed = Some(LINE);
    assert!(plant.pass(LINE / 2, 1_000).is_some());
    // Another link's speed is none of this one's.
    let uplink = plant.seen.uplink.as_mut().unwrap();
    (uplink.name, uplink.speed) = ("eth1".to_owned(), None);
    assert_eq!(plant.pass(LINE / 2, 1_000), None);
}

/// A kernel that said nothing any more had batch held to the last rate for ever.
#[test]
fn a_rate_that_nobody_knows_the_need_of_holds_for_minutes_and_no_longer() {
    let mut plant = Plant::new();
    plant.step();
    plant.pass(LINE / 2, 1_000);
    let rates = plant.rates();
    plant.seen.unread = true;
    for _ in 0..=(LASTS - 1) / 1_000 {
        assert!(plant.pass(LINE / 2, 1_000).is_some());
        assert_eq!(plant.rates(), rates);
    }
    for _ in 0..10 {
        assert_eq!(plant.pass(LINE / 2, 1_000), None);
        assert_eq!((plant.guard.state, plant.guard.rates), (GuardState::Off, None));
        assert!(
            plant
                .guard
                .last_action
                .as_deref()
                .unwrap()
                .contains("has not said for minutes")
        );
    }
    plant.seen.unread = false;
    plant.pass(LINE / 2, 1_000);
    assert!(plant.pass(LINE / 2, 1_000).is_some());
    assert_ne!(plant.guard.state, GuardState::Off);
}

/// Each second prod needed a little more or less, and each was a state of its own, an action of the last ten, and a report.
#[test]
fn a_need_that_goes_up_and_down_is_told_of_once() {
    for (level, swing) in [(0, LINE / 20), (LINE * 2 / 5, LINE / 25)] {
        let mut plant = Plant::new();
        plant.greed = LINE / 5;
        plant.step();
        plant.pass(0, 1_000);
        let (mut states, mut deeds) = (vec![plant.guard.state], vec![plant.guard.last_action.clone()]);
        for second in 0..600 {
            // Ups and downs of 8 s each.
            plant.pass(level + if second / 8 % 2 == 0 { swing } else { 0 }, 1_000);
            states.push(plant.guard.state);
            deeds.push(plant.guard.last_action.clone());
        }
        states.dedup();
        deeds.dedup();
        let expected: &[GuardState] = if level == 0 {
            &[GuardState::Idle]
        } else {
            &[GuardState::Idle, GuardState::Suppressing]
        };
        assert_eq!(
            (states.as_slice(), deeds.len()),
            (expected, expected.len()),
            "{deeds:?}"
        );
    }
}

#[test]
fn where_what_leaves_the_node_cannot_be_counted_it_is_said_why_and_a_rate_of_the_policys_own_holds() {
    let mut guard = NetworkGuard::default();
    let network = Network {
        uplink: None,
        hidden: Some("br0 is a bridge".to_owned()),
        ..Plant::new().seen
    };
    let seen = node(network);
    assert_eq!(guard.step(&policy(None, None), &able(), &seen, 0), None);
    let said = guard.last_action.clone().unwrap();
    assert_eq!(said, "off: br0 is a bridge: give guards.network.rate");
    assert!(guard.step(&policy(Some(LEAST), None), &able(), &seen, 1_000).is_some());
}
