//! What is offered to mid, as a day goes by, and what that does to batch's offer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod node;

use duosuan_policy::{
    Capabilities, Group, Observation, Policy, Report, Resources, Stall, State, Tier, action::Basis, decide,
    policy::Mode,
};
use node::{CAPACITY, GIB, Node, about, calm, with_a_past};
use proptest::prelude::*;

#[test]
fn what_prod_asked_for_and_never_used_is_offered_when_its_past_is_long_enough() {
    let mut node = Node::of(&[("a", 12), ("b", 8)]);
    let report = node.seconds(590, calm);
    assert_eq!(report.mid_basis, [Basis::Cold; 2]);
    assert_eq!(report.offer(Tier::Mid), Resources::default());
    assert!(report.batch_offer().cpu > 0, "batch's past is long enough");
    let report = node.seconds(310, calm);
    assert_eq!(report.mid_basis, [Basis::Fresh; 2]);
    let [cpu, memory] = report.mid_terms;
    assert_eq!((cpu.requests, memory.requests), (20_000, 20 * GIB));
    // 20 cores less 6.
    about(14_000, report.offer(Tier::Mid).cpu);
    about(14 * GIB, report.offer(Tier::Mid).memory);
}

#[test]
fn no_more_than_the_policys_share_is_offered_and_none_where_that_is_nothing() {
    let mut node = with_a_past();
    node.policy.mid.cpu_percent = 25;
    node.policy.mid.memory_percent = 0;
    let report = node.second(calm);
    assert_eq!(report.offer(Tier::Mid), Resources { cpu: 8_000, memory: 0 });
    assert_eq!(report.mid_basis, [Basis::Fresh, Basis::Suspended]);
}

/// Requests of all the node, of which little is used: there is no room for them beside margin and system.
#[test]
fn what_the_node_does_not_have_is_not_offered_however_much_was_asked_for() {
    let mut node = Node::of(&[("a", 32), ("b", 32)]);
    node.policy.mid.cpu_percent = 100;
    let report = node.seconds(1_200, |_| 5_000);
    // 32 - 3.2 - 1 - 10
    about(17_800, report.offer(Tier::Mid).cpu);
    assert!(report.offer(Tier::Mid).cpu <= 17_800);
}

#[test]
fn a_peak_of_a_minute_a_quarter_of_an_hour_counts_for_hours_and_not_for_batch_alone() {
    let mut node = Node::of(&[("a", 12)]);
    for _ in 0..4 {
        node.seconds(870, |_| 2_000);
        node.seconds(30, |_| 9_000);
    }
    let report = node.seconds(600, |_| 2_000);
    // 12 cores less 9, of which the buckets make an eighth more.
    let cpu = report.offer(Tier::Mid).cpu;
    assert!((3_000 - 9_000 / 8..=3_000).contains(&cpu), "{cpu}");
}

#[test]
fn it_falls_at_once_and_grows_in_minutes() {
    let mut node = with_a_past();
    node.policy.growth_percent = 10;
    let before = node.second(calm).offer(Tier::Mid).cpu;
    let spike = |name: &str| if name == "a" { 12_000 } else { 2_000 };
    let fallen = node.second(spike).offer(Tier::Mid).cpu;
    assert!(fallen <= 20_000 - 14_000, "{fallen} after {before}");
    let report = node.seconds(60, calm);
    // A tenth of the node in five minutes.
    let grown = report.offer(Tier::Mid).cpu;
    assert!(grown <= fallen + 3_200 / 5 + 1, "{grown} after {fallen}");
}

#[test]
fn a_pod_counts_with_what_it_asked_for_until_its_own_past_is_long_enough() {
    let mut node = with_a_past();
    let before = node.second(calm).offer(Tier::Mid).cpu;
    node.comes("c", Tier::Prod, 6);
    let report = node.seconds(590, calm);
    assert_eq!(report.mid_terms[0].requests, 26_000);
    assert!(report.offer(Tier::Mid).cpu <= before);
    let report = node.seconds(700, calm);
    about(20_000 - 4_000, report.offer(Tier::Mid).cpu);
    // It goes, and with it what it did not use.
    node.leaves("c");
    about(14_000, node.seconds(2, calm).offer(Tier::Mid).cpu);
}

/// Each job that came was added to the past with its peak, and taken out again with its least: after six hours of them 78 cores
/// were expected of prod, and mid was offered nothing for days.
#[test]
fn jobs_of_prod_that_come_and_go_all_day_leave_the_long_peak_within_what_those_there_ever_used() {
    let mut node = Node::of(&[("a", 12), ("b", 8)]);
    let mut report = node.seconds(900, calm);
    let before = report.offer(Tier::Mid);
    for minute in 0..8 * 60 {
        let (job, old) = (format!("job{}", minute / 10), format!("job{}", minute / 10 - 1));
        if minute % 10 == 0 {
            node.leaves(&old);
            node.comes(&job, Tier::Prod, 2);
        }
        for second in 0..60 {
            let burst = if second % 30 == 0 { 2_000 } else { 100 };
            report = node.second(|name| if name == job { burst } else { calm(name) });
        }
        let peak = report.mid_terms[0].peak.unwrap();
        // 6 cores and 2, of buckets that answer up to an eighth too much.
        assert!((8_000..=9_000).contains(&peak), "{peak} after {minute} minutes");
    }
    node.leaves("job47");
    report = node.seconds(120, calm);
    let [cpu, memory] = report.mid_terms.map(|terms| terms.peak.unwrap());
    assert!(cpu <= 6_750 && memory <= 6 * GIB + 6 * GIB / 8, "{cpu} {memory}");
    assert_eq!(node.seconds(600, calm).offer(Tier::Mid), before);
}

/// Each of many pods works a minute in a hundred, so that its own quantile is nothing; one of them always works.
#[test]
fn pods_that_seldom_work_count_with_what_they_use_together() {
    let names: Vec<String> = (0..100).map(|n| format!("{n:03}")).collect();
    let mut node = Node::of(&names.iter().map(|n| (n.as_str(), 1)).collect::<Vec<_>>());
    node.policy.mid.cpu_percent = 100;
    let mut report = Report::clone(&node.second(|_| 0));
    for minute in 0..120_usize {
        for _ in 0..60 {
            let works = |name: &str| name.parse::<usize>().unwrap() % 25 == minute % 25;
            report = node.second(|name| if works(name) { 1_000 } else { 0 });
        }
    }
    let peak = report.mid_terms[0].peak.unwrap();
    assert!(peak >= 4_000, "{peak}");
}

/// The most of each, added up, is no bound that would show what jobs leave behind: what was added for them goes with them.
#[test]
fn jobs_that_come_and_go_beside_pods_that_seldom_work_leave_nothing_behind() {
    let names: Vec<String> = (0..60).map(|n| format!("{n:03}")).collect();
    let mut node = Node::of(&names.iter().map(|n| (n.as_str(), 1)).collect::<Vec<_>>());
    (node.policy.mid.warm_up, node.policy.mid.quantile_percent) = (60 * 60_000, 98);
    let mut report = Report::clone(&node.second(|_| 0));
    for minute in 0..240_usize {
        let job = format!("job{}", minute / 10);
        if minute >= 120 && minute % 10 == 0 {
            node.leaves(&format!("job{}", minute / 10 - 1));
            node.comes(&job, Tier::Prod, 2);
        }
        for second in 0..60 {
            // Within one of the minutes of which the peaks are kept.
            let works = |name: &str| name.parse() == Ok(minute % 60) && (10..40).contains(&second);
            let burst = if second % 30 == 0 { 2_000 } else { 100 };
            report = node.second(|name| match name {
                _ if works(name) => 1_000,
                _ if name == job => burst,
                _ => 0,
            });
        }
    }
    let peak = report.mid_terms[0].peak.unwrap();
    assert!((3_000..=4_500).contains(&peak), "{peak}");
}

#[test]
fn what_is_bound_stays_offered_though_prod_needs_it_and_nothing_more_is() {
    let mut node = with_a_past();
    node.comes("m", Tier::Mid, 10);
    node.seen.bound_mid = Resources {
        cpu: 11_000,
        memory: GIB,
    };
    let busy = |name: &str| if name == "m" { 0 } else { 9_000 };
    let report = node.seconds(5, busy);
    // One pod of mid is bound that has no cgroup yet.
    assert_eq!(
        report.offer(Tier::Mid),
        Resources {
            cpu: 11_000,
            memory: 10 * GIB
        }
    );
    assert!(report.mid_terms[0].target().unwrap() <= 2_000);
}

#[test]
fn an_offer_to_mid_takes_nothing_from_batch_until_a_pod_is_bound_and_then_all_that_it_asked_for_at_first() {
    let mut node = with_a_past();
    let offered = node.second(calm);
    node.policy.mid.cpu_percent = 0;
    node.policy.mid.memory_percent = 0;
    let without = node.second(calm);
    assert!(offered.offer(Tier::Mid).cpu > 0);
    assert_eq!(offered.batch_offer(), without.batch_offer());
    node.policy.mid.cpu_percent = 50;
    node.comes("m", Tier::Mid, 5);
    let report = node.second(calm);
    assert_eq!(report.batch_offer().cpu, without.batch_offer().cpu - 5_000);
    // It uses two of its five cores, and batch has the others until it wants them.
    let uses = |name: &str| if name == "m" { 2_000 } else { calm(name) };
    let report = node.seconds(400, uses);
    about(without.batch_offer().cpu - 2_000, report.batch_offer().cpu);
    let wants = |name: &str| if name == "m" { 5_000 } else { calm(name) };
    let report = node.second(wants);
    assert!(report.batch_offer().cpu <= without.batch_offer().cpu - 5_000);
}

#[test]
fn a_missing_signal_holds_the_offer_then_lets_it_fall_and_then_ends_it() {
    let mut node = with_a_past();
    let before = node.second(calm).offer(Tier::Mid);
    node.seen.complete = false;
    let mut last = before.cpu;
    let mut bases = Vec::new();
    for _ in 0..310 {
        let report = node.second(calm);
        let offer = report.offer(Tier::Mid).cpu;
        assert!(offer <= last);
        last = offer;
        bases.push(report.mid_basis[0]);
    }
    bases.dedup();
    assert_eq!(bases, [Basis::Held, Basis::Decaying, Basis::Expired]);
    assert_eq!(last, 0);
}

#[test]
fn a_restart_keeps_the_long_past_and_the_offer() {
    let mut node = with_a_past();
    let before = node.second(calm).offer(Tier::Mid);
    node.state = serde_json::from_str(&serde_json::to_string(&node.state).unwrap()).unwrap();
    node.second(calm);
    let report = node.second(calm);
    assert_eq!(report.mid_basis, [Basis::Fresh; 2]);
    assert_eq!(report.offer(Tier::Mid), before);
}

/// A state as an agent stored it that knew no mid.
#[test]
fn a_state_without_a_long_past_offers_batch_what_it_did_and_mid_nothing() {
    let mut node = with_a_past();
    let before = node.second(calm);
    let mut stored = serde_json::to_value(&node.state).unwrap();
    let state = stored.as_object_mut().unwrap();
    state.remove("mid_offers").unwrap();
    for of in ["cpu", "memory"] {
        state[of].as_object_mut().unwrap().remove("long").unwrap();
    }
    for past in state["pasts"].as_object_mut().unwrap().values_mut() {
        past.as_object_mut().unwrap().remove("long").unwrap();
    }
    node.state = serde_json::from_value(stored).unwrap();
    node.second(calm);
    let report = node.second(calm);
    assert_eq!(report.batch_offer(), before.batch_offer());
    assert_eq!(report.mid_basis, [Basis::Cold; 2]);
    assert_eq!(report.offer(Tier::Mid), Resources::default());
}

#[test]
fn the_kill_switch_offers_mid_what_is_bound_and_to_observe_offers_as_to_act_does() {
    let mut node = with_a_past();
    let before = node.second(calm).offer(Tier::Mid);
    node.policy.mode = Mode::Observe;
    assert_eq!(node.second(calm).offer(Tier::Mid), before);
    node.policy.suspended = true;
    let report = node.second(calm);
    assert_eq!(report.offer(Tier::Mid), Resources::default());
    assert_eq!(report.mid_basis, [Basis::Suspended; 2]);
}

/// The kubelet puts both in its besteffort cgroup.
#[test]
fn mid_beside_batch_is_not_limited_with_it_and_its_memory_is_protected_as_prods_is() {
    let group = |path: &str, tier| Group {
        path: path.to_owned(),
        tier,
        requests: Resources {
            cpu: 1_000,
            memory: GIB,
        },
        cpu_usage: Some(0),
        memory: Some(GIB),
        memory_charged: Some(GIB),
        memory_reclaimable: Some(0),
        stall: Stall {
            cpu: Some(0),
            ..Stall::default()
        },
        ..Group::default()
    };
    let mut seen = Observation {
        capacity: CAPACITY,
        cpu_busy: Some(0),
        memory_used: Some(3 * GIB),
        complete: true,
        envelope: Some("kubepods/besteffort".to_owned()),
        groups: vec![
            group("kubepods/besteffort/podbatch", Tier::Batch),
            group("kubepods/besteffort/podmid", Tier::Mid),
            group("kubepods/podonline", Tier::Prod),
        ],
        ..Observation::default()
    };
    let capabilities = Capabilities {
        cpu_max: true,
        cpu_idle: true,
        pressure: true,
        memory_high: true,
        memory_low: true,
        ..Capabilities::default()
    };
    let (policy, mut state) = (Policy::default(), State::default());
    let mut settings = Vec::new();
    for second in 1..=3_u64 {
        // Mid stalls, and batch is cut for it as for prod.
        seen.groups[1].stall.cpu = Some(second * 300_000);
        seen.groups[0].cpu_usage = Some(second * 8_000_000);
        settings = decide(&policy, &capabilities, &seen, &mut state, second * 1_000).0;
    }
    let of = |file: &str| -> Vec<&str> {
        let of = settings.iter().filter(|action| action.file == file);
        of.map(|action| action.path.as_str()).collect()
    };
    assert_eq!(of("cpu.max"), ["kubepods/besteffort/podbatch"]);
    let low = of("memory.low");
    for path in [
        "kubepods/besteffort",
        "kubepods/besteffort/podmid",
        "kubepods/podonline",
    ] {
        assert!(low.contains(&path), "{path} in {low:?}");
    }
    assert!(!low.contains(&"kubepods/besteffort/podbatch"));
    assert!(
        of("memory.high").is_empty() && of("cpu.idle").is_empty(),
        "{settings:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]

    /// Whoever comes and goes and uses what: beyond what is bound, mid's offer and prod's peak fit in the node less margin and
    /// system, and what prod asked for, and the share; batch's offer is the same whether mid is offered anything or not, and
    /// together with what batch is offered, what mid *uses* fits, too.
    #[test]
    fn both_offers_add_up(
        share in 0u32..=100,
        steps in prop::collection::vec(
            (0usize..8, 1u64..400, 0i64..12, prop::collection::vec(0i64..6_000, 8)), 1..12)
    ) {
        let tiers = [Tier::Prod, Tier::Prod, Tier::Prod, Tier::Mid, Tier::Mid, Tier::Batch, Tier::Prod, Tier::Prod];
        let names: Vec<String> = (0..8).map(|n| n.to_string()).collect();
        let start = || {
            let mut node = Node::of(&[("0", 10), ("1", 6)]);
            node.policy.mid.warm_up = 120_000;
            node.policy.growth_percent = 10;
            node
        };
        let (mut node, mut without) = (start(), start());
        (node.policy.mid.cpu_percent, node.policy.mid.memory_percent) = (share, share);
        (without.policy.mid.cpu_percent, without.policy.mid.memory_percent) = (0, 0);
        for (who, seconds, cores, uses) in steps {
            for node in [&mut node, &mut without] {
                if node.seen.groups.iter().any(|g| g.path.ends_with(&names[who])) {
                    node.leaves(&names[who]);
                } else {
                    node.comes(&names[who], tiers[who], cores);
                }
            }
            let used = |name: &str| uses[name.parse::<usize>().unwrap()];
            let report = node.seconds(seconds, used);
            prop_assert_eq!(report.batch_offer(), without.seconds(seconds, used).batch_offer());
            let of = |r: Resources| [r.cpu, r.memory];
            let mid = report.tier(Tier::Mid).unwrap();
            let [offered, bound] = [mid.reclaimable, mid.bound].map(of);
            let now = of(Resources {
                cpu: report.tier(Tier::Prod).unwrap().usage.cpu.unwrap_or(0),
                memory: report.tier(Tier::Prod).unwrap().usage.memory.unwrap_or(0),
            });
            let batch = of(report.batch_offer());
            let peaks = [mid.peak.cpu, mid.peak.memory];
            let batch_bound = of(report.tier(Tier::Batch).unwrap().bound);
            for at in 0..2 {
                prop_assert!(offered[at] >= bound[at]);
                let terms = report.mid_terms[at];
                if report.mid_basis[at] == Basis::Fresh && offered[at] > bound[at] {
                    let (system, peak) = (terms.system.unwrap(), terms.peak.unwrap());
                    prop_assert!(peak >= now[at]);
                    prop_assert!(offered[at] + peak + system + terms.margin <= terms.capacity);
                    prop_assert!(offered[at] + peak <= terms.requests);
                    prop_assert!(offered[at] <= terms.share);
                    if batch[at] > batch_bound[at] {
                        prop_assert!(batch[at] + peaks[at].unwrap() + now[at] + terms.margin <= terms.capacity);
                    }
                }
            }
        }
    }
}
