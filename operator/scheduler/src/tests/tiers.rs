//! Tiers: who may ask for which capacity, and that no label gets anybody past a limit.

use proptest::prelude::*;

use super::fixtures::*;
use crate::{
    Event, Reason, Tier,
    event::{Claim, Pod, Queue, Quota},
};

const BATCH_CPU: &str = "duosuan.io/batch-cpu";
const TIERS: [Tier; 3] = [Tier::Prod, Tier::Mid, Tier::Batch];

fn offering(name: &str) -> Event {
    let mut node = gpu_node(name, 2, "A100");
    for resource in [BATCH_CPU, "duosuan.io/mid-cpu"] {
        node.allocatable.insert(resource.into(), 64_000);
    }
    node.allocatable.insert("nvidia.com/gpu".into(), 2);
    node.into()
}

fn asking(uid: &str, tier: Tier, requests: &[(&str, i64)]) -> Pod {
    Pod {
        tier,
        requests: amounts(requests),
        ..pod(uid, 0)
    }
}

fn refusal(pod: Pod) -> Option<String> {
    let uid = pod.uid.clone();
    let mut world = World::with([offering("n"), pod.into()]);
    let decisions = world.cycle();
    let reason = world.reason(&decisions, &uid);
    assert_eq!(reason.is_none(), binds(&decisions).len() == 1, "{decisions:?}");
    reason.map(|reason| match reason {
        Reason::Refused { message } => message,
        other => format!("{other:?}"),
    })
}

#[test]
fn a_pod_that_asks_for_what_is_another_tiers_is_refused_with_the_field_and_what_to_write() {
    for (tier, requests, field, instead) in [
        (
            Tier::Batch,
            ("cpu", 1000),
            "cpu",
            "tier prod, and the pod is of tier batch: write duosuan.io/batch-cpu (in milli-cores)",
        ),
        (
            Tier::Mid,
            ("memory", GI),
            "memory",
            "tier prod, and the pod is of tier mid: write duosuan.io/mid-memory (in bytes)",
        ),
        (
            Tier::Mid,
            (BATCH_CPU, 1000),
            BATCH_CPU,
            "tier batch, and the pod is of tier mid: write duosuan.io/mid-cpu (in milli-cores)",
        ),
        (
            Tier::Prod,
            (BATCH_CPU, 1000),
            BATCH_CPU,
            "tier batch, and the pod is of tier prod: write cpu",
        ),
    ] {
        assert_eq!(
            refusal(asking("p", tier, &[requests])).unwrap(),
            format!(
                "spec.containers[].resources.requests[{field}] (or spec.overhead): this is capacity of {instead} instead"
            )
        );
    }
    assert!(
        refusal(asking("p", Tier::Batch, &[("cpu", 1), (BATCH_CPU, 1)])).is_some(),
        "one of both is enough"
    );
}

#[test]
fn every_tier_may_ask_for_gpus_or_for_nothing() {
    for tier in TIERS {
        assert_eq!(refusal(asking("p", tier, &[])), None);
        let cards = Pod {
            gpus: Some(whole(1)),
            ..asking("p", tier, &[("nvidia.com/gpu", 1), ("ephemeral-storage", 0)])
        };
        assert_eq!(refusal(cards), None);
    }
    assert_eq!(refusal(asking("p", Tier::Batch, &[(BATCH_CPU, 100)])), None);
}

#[test]
fn the_tier_of_a_member_is_that_of_its_claim() {
    let batch = Claim {
        tier: Tier::Batch,
        ..claim("c", "", &[("worker", 1, 1, 1)])
    };
    let mut world = World::with([offering("n"), batch.into()]);
    world.tell(member("p", "c", "worker", 1000));
    let decisions = world.cycle();
    assert_eq!(binds(&decisions), []);
    assert!(matches!(
        world.reason(&decisions, "c-uid"),
        Some(Reason::Refused { .. })
    ));
    assert!(matches!(world.reason(&decisions, "p"), Some(Reason::Refused { .. })));
    world.tell(Pod {
        requests: amounts(&[(BATCH_CPU, 1000)]),
        ..member("p", "c", "worker", 0)
    });
    assert_eq!(binds(&world.cycle()), [("p", "n")]);
}

#[test]
fn a_claim_whose_groups_state_what_is_another_tiers_is_refused_and_its_pods_may_be_right() {
    let mut wrong = claim("c", "", &[("driver", 1, 1, 1), ("worker", 1, 1, 1)]);
    wrong.tier = Tier::Mid;
    wrong.groups[0].requests = amounts(&[("duosuan.io/mid-cpu", 500), ("cpu", 0)]);
    wrong.groups[1].requests = amounts(&[("duosuan.io/mid-cpu", 500), ("memory", GI)]);
    let mut world = World::with([offering("n"), wrong.into()]);
    for group in ["driver", "worker"] {
        world.tell(Pod {
            requests: amounts(&[("duosuan.io/mid-cpu", 500)]),
            ..member(group, "c", group, 0)
        });
    }
    let decisions = world.cycle();
    assert_eq!(binds(&decisions), []);
    assert_eq!(
        world.reason(&decisions, "c-uid").unwrap().to_string(),
        "spec.groups[worker].requests[memory]: this is capacity of tier prod, and the claim is of tier mid: \
         write duosuan.io/mid-memory (in bytes) instead"
    );
    assert_eq!(world.cycle(), [], "told once");
}

#[test]
fn a_pod_that_runs_is_charged_for_what_it_holds_whatever_its_label_becomes() {
    let mut world = World::with([offering("n"), limited().into()]);
    let runs = Pod {
        queue: "q".into(),
        ..pod("p", 3000)
    };
    world.tell(runs.clone());
    assert_eq!(binds(&world.run()), [("p", "n")]);
    world.tell(Pod {
        tier: Tier::Batch,
        node: Some("n".into()),
        ..runs.clone()
    });
    let view = &world.cluster.queues()[1];
    assert_eq!(
        (view.name.as_str(), view.tiers[0].tier, view.tiers[0].used["cpu"]),
        ("q", Tier::Prod, 3000)
    );
    world.tell(Pod {
        uid: "late".into(),
        ..runs
    });
    let decisions = world.run();
    assert!(matches!(
        world.reason(&decisions, "late"),
        Some(Reason::WaitingForQuota { left: 1000, .. })
    ));
}

#[test]
fn a_seat_that_is_kept_for_a_member_is_given_up_when_the_member_is_refused() {
    let mut world = World::with([
        node("n", 4).into(),
        queue("a", None, &[("cpu", 4000)], &[]).into(),
        queue("b", None, &[], &[]).into(),
        claim("c", "a", &[("worker", 1, 1, 1)]).into(),
    ]);
    let borrows = |uid: &str| Pod {
        queue: "b".into(),
        ..pod(uid, 4000)
    };
    world.tell(borrows("first"));
    assert_eq!(binds(&world.run()), [("first", "n")]);
    world.tell(member("waits", "c", "worker", 4000));
    assert_eq!(evictions(&world.cycle()), ["first"]);
    // It asks for another tier's capacity too now.
    world.tell(Pod {
        requests: amounts(&[("cpu", 4000), (BATCH_CPU, 1)]),
        ..member("waits", "c", "worker", 0)
    });
    world.tell(Event::PodGone("first".into()));
    world.tell(borrows("next"));
    let decisions = world.run();
    assert_eq!(binds(&decisions), [("next", "n")], "{decisions:?}");
    assert!(matches!(
        world.reason(&decisions, "waits"),
        Some(Reason::Refused { .. })
    ));
}

/// A queue of four cores in each tier.
fn limited() -> Queue {
    let quota = |tier| Quota {
        tier,
        limit: amounts(&[("cpu", 4000)]),
        ..Default::default()
    };
    Queue {
        name: "q".into(),
        weight: 1,
        quotas: TIERS.map(quota).to_vec(),
        ..Default::default()
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A pod of this number, with a tier by its label: what it asks for never changes.
    Label(usize, usize),
    Claim(usize, usize),
    ClaimGone(usize),
    PodGone(usize),
    Cycle,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..12_usize, 0..3_usize).prop_map(|(i, tier)| Step::Label(i, tier)),
        2 => (0..2_usize, 0..3_usize).prop_map(|(i, tier)| Step::Claim(i, tier)),
        1 => (0..2_usize).prop_map(Step::ClaimGone),
        1 => (0..12_usize).prop_map(Step::PodGone),
        4 => Just(Step::Cycle),
    ]
}

/// Pods 0 to 5 stand alone, the others are in one of two claims.
fn numbered(i: usize, tier: usize) -> Pod {
    let resources = ["cpu", "duosuan.io/mid-cpu", BATCH_CPU];
    let mut asked = vec![(resources[i % 3], 700 * (1 + i as i64 % 4))];
    if i % 4 == 3 {
        asked.push((resources[(i + 1) % 3], 600));
    }
    Pod {
        queue: "q".into(),
        claim: (i >= 6).then(|| format!("c{}", i % 2)),
        group: "worker".into(),
        ..asking(&format!("p{i}"), TIERS[tier], &asked)
    }
}

proptest! {
    #[test]
    fn no_tier_is_used_beyond_its_limit_whatever_the_labels_say(steps in prop::collection::vec(any_step(), 1..60)) {
        let mut world = World::with([offering("n"), offering("m"), limited().into()]);
        for step in steps {
            match step {
                Step::Label(i, tier) => {
                    let mut pod = numbered(i, tier);
                    pod.node = world.pods.get(&pod.uid).and_then(|p| p.node.clone());
                    world.tell(pod);
                }
                Step::Claim(i, tier) => world.tell(Claim {
                    uid: format!("c{i}-{tier}"),
                    tier: TIERS[tier],
                    ..claim(&format!("c{i}"), "q", &[("worker", 1, 3, 1)])
                }),
                Step::ClaimGone(i) => (0..3).for_each(|tier| world.tell(Event::ClaimGone(format!("c{i}-{tier}")))),
                Step::PodGone(i) => world.tell(Event::PodGone(format!("p{i}"))),
                Step::Cycle => {
                    world.run();
                }
            }
            let held = |resource: &str| -> i64 {
                let bound = world.pods.values().filter(|p| p.node.is_some());
                bound.filter_map(|p| p.requests.get(resource)).sum()
            };
            for resource in ["cpu", "duosuan.io/mid-cpu", BATCH_CPU] {
                prop_assert!(held(resource) <= 4000, "{} of {resource} are held", held(resource));
            }
        }
    }
}
