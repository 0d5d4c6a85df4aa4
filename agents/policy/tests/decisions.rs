//! `decide` as its callers see it: observations in, settings and a report out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use duosuan_policy::{
    Action, Capabilities, Group, GuardState, Io, Millis, Mode, Observation, Policy, Resources, Stall, State, Tier,
    Unread, Work, action::Basis, decide,
};
use proptest::prelude::*;

const GIB: i64 = 1 << 30;

/// A node of 10 cores and 40 GiB: prod uses 2 cores and 8 GiB, system half a core and 2 GiB.
struct Node {
    now: Millis,
    seen: Observation,
    state: State,
    policy: Policy,
    capabilities: Capabilities,
}

impl Node {
    fn new() -> Self {
        let group = |path: &str, tier, cpu, memory| Group {
            path: path.to_owned(),
            tier,
            requests: Resources { cpu, memory },
            cpu_usage: Some(0),
            memory: Some(memory),
            stall: Stall {
                cpu: Some(0),
                ..Stall::default()
            },
            ..Group::default()
        };
        Self {
            now: 1_000_000,
            seen: Observation {
                capacity: Resources {
                    cpu: 10_000,
                    memory: 40 * GIB,
                },
                cpu_busy: Some(0),
                memory_used: Some(11 * GIB),
                groups: vec![
                    group("kubepods/besteffort/podb", Tier::Batch, 1_000, GIB),
                    group("kubepods/poda", Tier::Prod, 3_000, 8 * GIB),
                ],
                complete: true,
                envelope: Some("kubepods/besteffort".to_owned()),
                ..Observation::default()
            },
            state: State::default(),
            policy: Policy {
                warm_up: 0,
                ..Policy::default()
            },
            capabilities: Capabilities {
                cpu_idle: true,
                cpu_max: true,
                cpu_weight: true,
                pressure: true,
                ..Default::default()
            },
        }
    }

    fn second(&mut self, prod_stall: u64) -> (Vec<Action>, duosuan_policy::Report) {
        self.now += 1_000;
        let add = |counter: &mut Option<u64>, micros: u64| *counter = counter.map(|c| c + micros);
        for group in &mut self.seen.groups {
            match group.tier {
                Tier::Batch => add(&mut group.cpu_usage, 1_000_000),
                _ => {
                    add(&mut group.cpu_usage, 2_000_000);
                    add(&mut group.stall.cpu, prod_stall * 1_000);
                }
            }
        }
        add(&mut self.seen.cpu_busy, 3_500_000);
        decide(&self.policy, &self.capabilities, &self.seen, &mut self.state, self.now)
    }

    fn seconds(&mut self, n: u32) -> (Vec<Action>, duosuan_policy::Report) {
        for _ in 1..n {
            self.second(0);
        }
        self.second(0)
    }
}

#[test]
fn a_cold_start_offers_no_more_than_what_is_bound() {
    let mut node = Node::new();
    let (_, report) = node.seconds(59);
    assert_eq!(
        report.batch_offer(),
        Resources {
            cpu: 1_000,
            memory: GIB
        }
    );
    assert_eq!(report.cpu_basis, Basis::Cold);
}

#[test]
fn the_offer_is_capacity_less_margin_system_and_prods_peak() {
    let mut node = Node::new();
    let (_, report) = node.seconds(400);
    assert_eq!(report.cpu_basis, Basis::Fresh);
    // 10000 - 1000 - 500 - 2000 = 6500, less what the buckets round up (3 %).
    let cpu = report.batch_offer().cpu;
    assert!((6_400..=6_500).contains(&cpu), "{cpu}");
    // 40 - 4 - 2 - 8 = 26 GiB
    let memory = report.batch_offer().memory;
    assert!((25 * GIB..=26 * GIB).contains(&memory), "{memory}");
}

#[test]
fn a_new_prod_pod_counts_in_full_until_it_has_a_past() {
    let mut node = Node::new();
    node.seconds(400);
    node.policy.warm_up = 300_000;
    node.seen.groups.push(Group {
        path: "kubepods/podz".to_owned(),
        requests: Resources {
            cpu: 4_000,
            memory: GIB,
        },
        cpu_usage: Some(0),
        memory: Some(0),
        ..Group::default()
    });
    let (_, report) = node.second(0);
    assert!(report.batch_offer().cpu <= 4_500, "{:?}", report.cpu_terms);
    // It uses 2 cores of them, 2047m in its histogram, which are in the forecast already.
    assert_eq!(report.cpu_terms.young, 4_000 - 2_047);
}

#[test]
fn a_group_that_cannot_be_read_stops_the_offer_from_moving_and_never_raises_it() {
    let mut node = Node::new();
    let before = node.seconds(400).1.batch_offer();
    node.seen.groups[1].cpu_usage = None;
    node.seen.cpu_busy = None;
    let mut seen = Vec::new();
    for _ in 0..360 {
        let (_, report) = node.second(0);
        seen.push((report.cpu_basis, report.batch_offer().cpu));
        assert_eq!(report.memory_basis, Basis::Fresh, "memory is another signal");
    }
    assert_eq!(seen[0], (Basis::Held, before.cpu));
    assert!(seen.windows(2).all(|w| w[1].1 <= w[0].1));
    assert_eq!(seen[359], (Basis::Expired, 1_000));
}

/// It counted as calm beside a calm one, and batch got back what had been taken for it.
#[test]
fn a_prod_pod_whose_stall_cannot_be_read_is_not_calm_beside_one_that_is() {
    let mut node = Node::new();
    let calm = Group {
        path: "kubepods/podc".to_owned(),
        stall: Stall {
            cpu: Some(0),
            ..Stall::default()
        },
        ..node.seen.groups[1].clone()
    };
    node.seen.groups.push(calm);
    node.seconds(3);
    let cut = node.second(300).0;
    assert_eq!(settings(&cut), ["kubepods/besteffort cpu.max 50000 100000"]);
    node.seen.groups[1].stall.cpu = None;
    node.seen.groups[1].unread.cpu = true;
    assert_eq!(settings(&node.seconds(120).0), settings(&cut));
    // The first counter after that has none before it.
    node.seen.groups[1].stall.cpu = Some(0);
    node.seen.groups[1].unread.cpu = false;
    assert_eq!(settings(&node.second(0).0), settings(&cut));
    assert_eq!(node.seconds(120).0, []);
    // A kernel that tells of no stall of it is another matter: nobody will ever know.
    node.second(300);
    node.seen.groups[1].stall.cpu = None;
    assert_eq!(node.seconds(300).0, []);
}

/// Batch starved without end, and was evicted for that in the end.
#[test]
fn a_prod_pod_that_can_never_be_read_is_waited_for_until_the_policys_expiry_and_then_told_of() {
    for alone in [true, false] {
        let mut node = Node::new();
        if !alone {
            let mut calm = node.seen.groups[1].clone();
            calm.path = "kubepods/podc".to_owned();
            node.seen.groups.push(calm);
        }
        node.seconds(3);
        let cut = node.second(300).0;
        node.seen.groups[1].stall.cpu = None;
        node.seen.groups[1].unread.cpu = true;
        let (settled, report) = node.seconds(300);
        assert_eq!(settings(&settled), settings(&cut));
        assert!(report.unwitnessed.is_empty());
        let (settled, report) = node.seconds(120);
        assert_eq!(settled, [], "alone {alone}");
        let told: Vec<_> = report.unwitnessed.iter().collect();
        let cpu = Unread {
            cpu: true,
            ..Unread::default()
        };
        assert_eq!(told, [(&"kubepods/poda".to_owned(), &cpu)]);
        // It is a witness again as soon as it can be read.
        node.seen.groups[1].stall.cpu = Some(0);
        node.seen.groups[1].unread.cpu = false;
        assert!(node.seconds(2).1.unwitnessed.is_empty());
        assert_ne!(node.second(300).0, []);
    }
}

#[test]
fn groups_that_cannot_be_listed_are_not_taken_for_an_empty_node() {
    let mut node = Node::new();
    let before = node.seconds(400).1.batch_offer();
    node.seen.groups.clear();
    node.seen.complete = false;
    let (_, report) = node.second(0);
    assert_eq!((report.cpu_basis, report.batch_offer().cpu), (Basis::Held, before.cpu));
    assert_eq!(report.prod_stall.cpu, None);
}

#[test]
fn a_stall_limits_the_besteffort_cgroup_and_no_weight_of_the_kubelets_is_touched() {
    let mut node = Node::new();
    let (actions, _) = node.seconds(3);
    assert_eq!(actions, []);
    let (actions, report) = node.second(300);
    assert_eq!(settings(&actions), ["kubepods/besteffort cpu.max 50000 100000"]);
    assert_eq!(report.guards[0].state, GuardState::Suppressing);
    assert!(
        actions[0].why.contains("prod stalled 300 of 1000"),
        "{}",
        actions[0].why
    );
}

#[test]
fn a_besteffort_pod_that_is_not_batch_is_never_limited() {
    let mut node = Node::new();
    node.seen.groups.insert(
        1,
        Group {
            path: "kubepods/besteffort/podx".to_owned(),
            cpu_usage: Some(0),
            memory: Some(0),
            ..Group::default()
        },
    );
    node.seconds(3);
    let (actions, _) = node.second(300);
    assert_eq!(settings(&actions), ["kubepods/besteffort/podb cpu.max 50000 100000"]);
}

#[test]
fn a_batch_group_that_no_kubelet_owns_is_idle() {
    let mut node = Node::new();
    node.seen.groups[0].path = "batch".to_owned();
    let (actions, _) = node.seconds(3);
    assert_eq!(settings(&actions), ["batch cpu.idle 1"]);
}

#[test]
fn without_cpu_idle_the_least_weight_stands_in() {
    let mut node = Node::new();
    node.seen.groups[0].path = "batch".to_owned();
    node.capabilities.cpu_idle = false;
    let (actions, _) = node.seconds(3);
    assert_eq!(settings(&actions), ["batch cpu.weight 1"]);
}

#[test]
fn a_stall_from_prods_own_limit_cuts_nobody() {
    let mut node = Node::new();
    node.seconds(3);
    node.seen.groups[1].cpu_throttled = Some(0);
    node.second(0);
    node.seen.groups[1].cpu_throttled = Some(290_000);
    let (_, report) = node.second(300);
    assert_eq!(report.prod_stall.cpu, Some(10));
    assert_eq!(report.guards[0].state, GuardState::Idle);
}

#[test]
fn the_kill_switch_asks_for_nothing_and_offers_what_is_bound() {
    let mut node = Node::new();
    node.seconds(400);
    node.second(300);
    node.policy.suspended = true;
    let (actions, report) = node.second(300);
    assert_eq!(actions, []);
    assert_eq!(report.intended, []);
    assert_eq!(
        report.batch_offer(),
        Resources {
            cpu: 1_000,
            memory: GIB
        }
    );
    assert_eq!(report.guards[0].state, GuardState::Off);
}

#[test]
fn to_observe_is_to_say_everything_and_to_do_nothing() {
    let mut node = Node::new();
    node.policy.mode = Mode::Observe;
    node.seconds(3);
    let (actions, report) = node.second(300);
    assert_eq!(actions, []);
    assert_eq!(report.intended.len(), 1);
}

#[test]
fn a_restart_keeps_the_forecast_and_the_offer() {
    let mut node = Node::new();
    let before = node.seconds(400).1.batch_offer();
    node.state = serde_json::from_str(&serde_json::to_string(&node.state).unwrap()).unwrap();
    node.second(0);
    assert_eq!(node.second(0).1.batch_offer(), before);
}

fn settings(actions: &[Action]) -> Vec<String> {
    actions
        .iter()
        .map(|a| format!("{} {} {}", a.path, a.file, a.value))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_seen_the_offer_is_between_what_is_bound_and_the_margin(
        steps in prop::collection::vec(
            (prop::option::of(0u64..9_000_000), prop::option::of(0i64..60), 0i64..12_000, 0u64..100_000, any::<bool>()),
            1..150,
        )
    ) {
        let mut node = Node::new();
        node.policy.min_samples = 5;
        for (usage, memory, bound, wait, complete) in steps {
            node.now += wait;
            node.seen.groups[1].cpu_usage = usage;
            node.seen.groups[1].memory = memory.map(|m| m * GIB);
            node.seen.groups[0].requests.cpu = bound;
            node.seen.complete = complete;
            let (_, report) = node.second(wait % 1000);
            let offer = report.batch_offer();
            prop_assert!(offer.cpu >= bound);
            prop_assert!(offer.cpu <= bound.max(9_000));
            prop_assert!(offer.memory >= GIB && offer.memory <= 36 * GIB);
        }
    }
}

#[test]
fn what_a_tier_did_and_suffered_is_counted_on_when_its_pods_are_gone_and_never_twice() {
    let io = |bytes| Io {
        read_bytes: bytes,
        reads: 1,
        ..Io::default()
    };
    let work = |oom_kills, bytes| Work {
        throttled_periods: Some(oom_kills * 10),
        oom_kills: Some(oom_kills),
        io: Some(io(bytes)),
        anonymous: Some(3 * GIB),
        page_cache: Some(GIB),
        ..Work::default()
    };
    let mut node = Node::new();
    // What was before the first look is nobody's to count.
    node.seen.groups[1].work = work(5, 1_000);
    assert_eq!(node.second(0).1.tiers[0].work.oom_kills, 0);
    node.seen.groups[1].work = work(6, 1_500);
    node.seen.groups[0].work.io = Some(io(70));
    let tiers = node.second(0).1.tiers;
    let of = |view: &duosuan_policy::TierView| {
        (
            view.work.oom_kills,
            view.work.throttled_periods,
            view.work.io.read_bytes,
        )
    };
    assert_eq!((of(&tiers[0]), of(&tiers[2])), ((1, 10, 500), (0, 0, 0)));
    assert_eq!(
        (tiers[0].work.anonymous, tiers[0].work.page_cache),
        (Some(3 * GIB), Some(GIB))
    );
    assert_eq!(tiers[2].work.anonymous, None, "nobody knows batch's");
    // A container of it is gone, and its counters with it; then a pod comes, which began at nothing.
    node.seen.groups[1].work = work(2, 1_500);
    node.seen.groups.push(Group {
        path: "kubepods/podz".to_owned(),
        work: work(1, 30),
        ..Group::default()
    });
    assert_eq!(of(&node.second(0).1.tiers[0]), (2, 20, 530));
    node.seen.groups.truncate(1);
    let tiers = node.second(0).1.tiers;
    assert_eq!(of(&tiers[0]), (2, 20, 530));
    assert_eq!(tiers[0].work.anonymous, Some(0));
}

/// One file of one pod that could not be read made the use of its whole tier unknown.
#[test]
fn a_pod_whose_use_cannot_be_read_counts_as_it_was_known_last_and_the_rest_goes_on() {
    let mut node = Node::new();
    node.seen.groups.push(Group {
        path: "kubepods/podz".to_owned(),
        cpu_usage: Some(0),
        memory: Some(GIB),
        ..Group::default()
    });
    let before = node.seconds(400).1;
    assert_eq!(
        (before.tiers[0].usage.cpu, before.tiers[0].usage.memory),
        (Some(4_000), Some(9 * GIB))
    );
    let lost = node.now;
    (node.seen.groups[2].cpu_usage, node.seen.groups[2].memory) = (None, None);
    // The other pod grows meanwhile, and the offer makes room for it at once.
    node.seen.groups[1].memory = Some(12 * GIB);
    node.seen.memory_used = Some(15 * GIB);
    let report = node.seconds(60).1;
    let prod = report.tiers[0].usage;
    assert_eq!((prod.cpu, prod.memory), (Some(4_000), Some(13 * GIB)));
    assert_eq!((report.cpu_basis, report.memory_basis), (Basis::Fresh, Basis::Fresh));
    assert!(report.batch_offer().memory < before.batch_offer().memory - 3 * GIB);
    // The contract holds for it as for any signal: from a minute on the offer decays, and after five minutes it is gone.
    let report = node.seconds(2).1;
    assert_eq!(
        (report.tiers[0].usage.memory, report.memory_basis),
        (None, Basis::Decaying)
    );
    while node.now < lost + 299_000 {
        assert_eq!(node.second(0).1.cpu_basis, Basis::Decaying);
    }
    let report = node.seconds(2).1;
    assert_eq!(report.cpu_basis, Basis::Expired);
    assert_eq!(
        report.batch_offer(),
        Resources {
            cpu: 1_000,
            memory: GIB
        }
    );
}

/// The guard said that it had cut batch, and nothing was written.
#[test]
fn a_guard_whose_file_the_kernel_refuses_says_so_and_claims_no_cut() {
    let mut node = Node::new();
    node.seconds(3);
    let (actions, report) = node.second(300);
    assert_eq!(report.guards[0].state, GuardState::Suppressing);
    assert!(actions.iter().any(|a| a.file == "cpu.max"));
    node.capabilities = node.capabilities.clone().without("cpu.max", "Operation not permitted");
    let (actions, report) = node.second(300);
    assert!(!actions.iter().any(|a| a.file == "cpu.max"));
    let off = "off: the kernel refuses cpu.max: Operation not permitted; tried again in some minutes";
    for (guard, name) in [(&report.guards[0], "cpu"), (&report.guards[2], "latency")] {
        assert_eq!(
            (guard.name.as_str(), guard.state, guard.limit),
            (name, GuardState::Off, None)
        );
        assert_eq!(guard.last_action.as_deref(), Some(off));
    }
    assert!(
        report
            .history
            .iter()
            .any(|deed| deed.guard == "cpu" && deed.action == off)
    );
    node.capabilities = Node::new().capabilities;
    let (_, report) = node.second(300);
    assert_eq!(report.guards[0].state, GuardState::Suppressing, "tried again");
}

/// Without `memory.stat` its page cache was taken to be none, and without both its limit was lifted.
#[test]
fn a_batch_pod_whose_memory_cannot_be_read_keeps_its_limit() {
    let mut node = Node::new();
    node.capabilities.memory_high = true;
    node.seen.groups[0].memory_charged = Some(4 * GIB);
    node.seen.groups[0].memory_reclaimable = Some(2 * GIB);
    node.seconds(3);
    node.seen.memory_used = Some(39 * GIB);
    let high = |actions: &[Action]| {
        actions
            .iter()
            .find(|a| a.file == "memory.high")
            .map(|a| a.value.clone())
    };
    let cut = high(&node.second(0).0);
    assert!(cut.is_some());
    node.seen.groups[0].memory_reclaimable = None;
    assert_eq!(high(&node.second(0).0), cut);
    node.seen.groups[0].memory_charged = None;
    assert_eq!(high(&node.second(0).0), cut);
}
