//! The forecast of a tier as pods come and go.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::collections::BTreeMap;

use duosuan_policy::{
    Capabilities, Group, Millis, Observation, Policy, Report, Resources, State, Tier, action::Basis, decide,
};
use proptest::prelude::*;

const MIB: i64 = 1 << 20;
const GIB: i64 = 1 << 30;

/// A node of 100 cores and 400 GiB.
struct Node {
    now: Millis,
    seen: Observation,
    state: State,
    policy: Policy,
}

impl Node {
    fn of(pods: &[&str]) -> Self {
        let mut node = Self {
            now: 1_000_000,
            seen: Observation {
                capacity: Resources {
                    cpu: 100_000,
                    memory: 400 * GIB,
                },
                cpu_busy: Some(0),
                memory_used: Some(0),
                complete: true,
                ..Observation::default()
            },
            state: State::default(),
            policy: Policy::default(),
        };
        for name in pods {
            node.comes(name, 0);
        }
        node
    }

    /// A pod comes that asks for so many milli-cores, and for as many MiB.
    fn comes(&mut self, name: &str, request: i64) {
        let at = self.seen.groups.partition_point(|g| g.path.as_str() < name);
        let group = Group {
            path: name.to_owned(),
            tier: Tier::Prod,
            requests: Resources {
                cpu: request,
                memory: request * MIB,
            },
            cpu_usage: Some(0),
            memory: Some(0),
            ..Group::default()
        };
        self.seen.groups.insert(at, group);
    }

    fn leaves(&mut self, name: &str) {
        self.seen.groups.retain(|g| g.path != name);
    }

    /// A second in which each pod used so many milli-cores, and as many MiB.
    fn second(&mut self, used: impl Fn(&str) -> i64) -> Report {
        self.now += 1_000;
        let mut all = 0;
        for group in &mut self.seen.groups {
            let cpu = used(&group.path);
            all += cpu;
            group.memory = Some(cpu * MIB);
            group.cpu_usage = group.cpu_usage.map(|usage| usage + cpu.unsigned_abs() * 1_000);
        }
        self.seen.memory_used = Some(all * MIB);
        self.seen.cpu_busy = self.seen.cpu_busy.map(|busy| busy + all.unsigned_abs() * 1_000);
        let capabilities = Capabilities::default();
        decide(&self.policy, &capabilities, &self.seen, &mut self.state, self.now).1
    }

    fn seconds(&mut self, n: u64, used: impl Fn(&str) -> i64) -> Report {
        for _ in 1..n {
            self.second(&used);
        }
        self.second(&used)
    }
}

/// What is kept for prod: its forecast, and what young pods asked for beyond.
fn kept(report: &Report) -> i64 {
    report.cpu_terms.firm.unwrap_or(0) + report.cpu_terms.young
}

/// Buckets answer up to an eighth too much.
fn about(wanted: i64, value: i64) {
    assert!(
        (wanted..=wanted + wanted / 8 + 50).contains(&value),
        "{value} for {wanted}"
    );
}

#[test]
fn a_pod_that_leaves_takes_its_share_of_the_forecast_with_it_at_once() {
    let mut node = Node::of(&["a", "b", "c"]);
    let used = |name: &str| if name == "c" { 10_000 } else { 2_000 };
    about(14_000, kept(&node.seconds(1_200, used)));
    node.leaves("c");
    let report = node.second(used);
    about(4_000, kept(&report));
    assert!(report.memory_terms.firm.unwrap() < 5_000 * MIB);
}

#[test]
fn a_pod_that_peaked_at_another_time_than_the_rest_takes_no_more_than_it_always_used() {
    let mut node = Node::of(&["a", "b", "c"]);
    // b and c work in turns: together they always use 8 cores, and the two that stay are as much at their peak.
    for second in 0..1_200 {
        node.second(|name| match name {
            "a" => 1_000,
            "b" => 1_000 + 6_000 * i64::from(second % 20 == 0),
            _ => 7_000 - 6_000 * i64::from(second % 20 == 0),
        });
    }
    node.leaves("c");
    let report = node.second(|_| 1_000);
    // P98 of a and b alone is 8 cores; c used 1 core at least, so that no more than 9 - 1 is left.
    assert!(kept(&report) >= 8_000, "{}", kept(&report));
}

#[test]
fn a_pod_that_comes_counts_with_its_request_at_once_and_with_its_past_when_it_has_one() {
    let mut node = Node::of(&["a"]);
    let used = |name: &str| if name == "z" { 1_500 } else { 2_000 };
    let before = kept(&node.seconds(1_200, used));
    node.comes("z", 6_000);
    let report = node.second(used);
    assert_eq!(kept(&report), before + 6_000);
    let warm = node.seconds(298, used);
    assert_eq!(kept(&warm), before + 6_000);
    let grown = node.seconds(3, used);
    about(3_500, kept(&grown));
    assert_eq!(grown.cpu_terms.young, 0);
    // The common past, once it is all there is, knows nothing of it twice.
    about(3_500, kept(&node.seconds(1_200, used)));
}

#[test]
fn a_pod_that_uses_more_than_it_asked_for_counts_with_that() {
    let mut node = Node::of(&["a"]);
    node.seconds(1_200, |_| 2_000);
    node.comes("z", 1_000);
    node.second(|_| 2_000);
    about(
        7_000,
        kept(&node.second(|name| if name == "z" { 5_000 } else { 2_000 })),
    );
    about(
        7_000,
        kept(&node.seconds(100, |name| if name == "z" { 100 } else { 2_000 })),
    );
}

#[test]
fn pods_that_work_in_turns_are_not_added_up() {
    let mut node = Node::of(&["a", "b"]);
    let mut last = 0;
    for second in 0..1_200 {
        last = kept(&node.second(|name| if (name == "a") == (second % 2 == 0) { 4_000 } else { 0 }));
    }
    about(4_000, last);
}

/// Of many pods that seldom work, each has a quantile of nothing, and yet one always works.
#[test]
fn pods_that_seldom_work_count_with_what_they_use_together() {
    let names: Vec<String> = (0..50).map(|n| format!("{n:02}")).collect();
    let mut node = Node::of(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut last = 0;
    for second in 0..1_200 {
        last = kept(&node.second(|name| if name.parse() == Ok(second % 50) { 3_000 } else { 0 }));
    }
    assert!(last >= 3_000, "{}", last);
}

#[test]
fn who_cannot_be_listed_has_not_left() {
    let mut node = Node::of(&["a", "b"]);
    let before = kept(&node.seconds(1_200, |_| 2_000));
    let groups = std::mem::take(&mut node.seen.groups);
    node.seen.complete = false;
    node.second(|_| 2_000);
    (node.seen.groups, node.seen.complete) = (groups, true);
    assert_eq!(kept(&node.seconds(2, |_| 2_000)), before);
}

#[test]
fn a_pod_that_turns_out_to_be_mid_keeps_its_past_there_and_back() {
    let mut node = Node::of(&["a", "b"]);
    let used = |name: &str| if name == "b" { 3_000 } else { 2_000 };
    about(5_000, kept(&node.seconds(1_200, used)));
    for tier in [Tier::Mid, Tier::Prod] {
        node.seen.groups[1].tier = tier;
        let report = node.second(used);
        about(5_000, kept(&report));
        let peak = report.tiers[tier as usize].peak.cpu.unwrap();
        about(if tier == Tier::Mid { 3_000 } else { 5_000 }, peak);
    }
}

#[test]
fn a_pod_that_turns_out_to_be_batch_leaves_prod() {
    let mut node = Node::of(&["a", "b"]);
    node.seconds(1_200, |_| 2_000);
    node.seen.groups[1].tier = Tier::Batch;
    about(2_000, kept(&node.second(|_| 2_000)));
}

/// Until the pod list is there, all are taken for prod: the past of each pod of mid was forgotten at every restart.
#[test]
fn a_restart_forgets_nobody_before_it_is_known_who_is_of_which_tier() {
    let mut node = Node::of(&["a", "b"]);
    node.seen.groups[1].tier = Tier::Mid;
    let before = kept(&node.seconds(1_200, |_| 2_000));
    let text = serde_json::to_string(&node.state).unwrap();
    node.state = serde_json::from_str(&text).unwrap();
    (node.seen.groups[1].tier, node.seen.unlisted) = (Tier::Prod, true);
    let report = node.seconds(100, |_| 9_000);
    assert_ne!(report.cpu_basis, Basis::Fresh);
    assert_eq!(
        serde_json::to_value(&node.state).unwrap()["pasts"],
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["pasts"]
    );
    (node.seen.groups[1].tier, node.seen.unlisted) = (Tier::Mid, false);
    node.second(|_| 2_000);
    let report = node.second(|_| 2_000);
    assert_eq!((kept(&report), report.cpu_basis), (before, Basis::Fresh));
}

#[test]
fn a_restart_keeps_the_past_of_each_pod_and_forgets_those_that_left_meanwhile() {
    let mut node = Node::of(&["a", "pod-that-left"]);
    node.seconds(1_200, |_| 2_000);
    let text = serde_json::to_string(&node.state).unwrap();
    assert!(text.contains("pod-that-left"));
    node.state = serde_json::from_str(&text).unwrap();
    node.leaves("pod-that-left");
    node.second(|_| 2_000);
    let report = node.second(|_| 2_000);
    assert_eq!(report.cpu_basis, Basis::Fresh);
    about(2_000, kept(&report));
    assert!(!serde_json::to_string(&node.state).unwrap().contains("pod-that-left"));
}

/// It was thrown away whole, and with it until when the node was closed.
#[test]
fn a_state_stored_before_pods_had_pasts_keeps_its_forecasts_and_counts_nobody_twice() {
    let mut node = Node::of(&["a", "b"]);
    let before = kept(&node.seconds(1_200, |_| 2_000));
    let mut stored = serde_json::to_value(&node.state).unwrap();
    stored.as_object_mut().unwrap().remove("pasts").unwrap();
    node.state = serde_json::from_value(stored).unwrap();
    node.second(|_| 2_000);
    for used in [2_000, 1_000] {
        let report = node.seconds(100, |_| used);
        assert_eq!(report.cpu_basis, Basis::Fresh);
        // What the two did before is still known: neither is their short past the most that they ever used.
        assert_eq!(kept(&report), before, "using {used}");
    }
    about(4_000, kept(&node.seconds(400, |_| 2_000)));
}

#[test]
fn what_is_stored_of_the_pods_of_a_full_node_is_bounded() {
    let names: Vec<String> = (0..600).map(|n| format!("kubepods/burstable/pod{n:036}")).collect();
    for (pods, most) in [(250, 400_000), (600, 900_000)] {
        let mut node = Node::of(&names[..pods].iter().map(String::as_str).collect::<Vec<_>>());
        for second in 0..100_u64 {
            // Every pod has uses of every size.
            node.second(|name| 1 << ((name.len() as u64 + second) % 16));
        }
        let stored = serde_json::to_string(&node.state).unwrap().len();
        assert!(stored < most, "{stored} bytes for {pods} pods");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    /// Whoever comes and goes: prod keeps at least what it uses now, and no more than the most that each of those who are
    /// there used or asked for.
    #[test]
    fn what_is_kept_is_between_the_use_now_and_the_most_of_each(
        steps in prop::collection::vec((0usize..12, 1u64..400, 0i64..4_000, prop::collection::vec(0i64..5_000, 12)), 1..12)
    ) {
        let names: Vec<String> = (0..12).map(|n| format!("{n:02}")).collect();
        let mut node = Node::of(&["00", "01", "02"]);
        let mut most: BTreeMap<String, i64> = BTreeMap::new();
        let mut asked: BTreeMap<String, i64> = BTreeMap::new();
        node.seconds(61, |_| 0);
        for (who, seconds, request, uses) in steps {
            let name = &names[who];
            if node.seen.groups.iter().any(|g| g.path == *name) {
                node.leaves(name);
                most.remove(name);
                asked.remove(name);
            } else {
                node.comes(name, request);
                asked.insert(name.clone(), request);
            }
            let used = |name: &str| uses[name.parse::<usize>().unwrap()];
            let report = node.seconds(seconds, used);
            let groups = node.seen.groups.iter();
            let (mut now, mut bound) = (0, 0);
            for group in groups {
                let most = most.entry(group.path.clone()).or_default();
                *most = (*most).max(used(&group.path));
                now += used(&group.path);
                bound += (*most).max(asked.get(&group.path).copied().unwrap_or(0));
            }
            let kept = kept(&report);
            prop_assert!(kept >= now, "{kept} of {now}");
            prop_assert!(kept <= bound + bound / 8 + 12, "{kept} over {bound}");
        }
    }
}
