//! Pods without a claim.

use super::fixtures::*;
use crate::{
    Decision, Event, Reason, Tier,
    event::{Operator, Pod, Requirement, Taint, Toleration},
};

#[test]
fn a_pod_is_bound_where_it_fits_and_only_once() {
    let mut world = World::with([node("a", 1).into(), node("b", 4).into(), pod("p", 2000).into()]);
    assert_eq!(binds(&world.cycle()), [("p", "b")]);
    assert_eq!(world.cycle(), [], "it is assumed");
    let mut bound = pod("p", 2000);
    bound.node = Some("b".into());
    world.tell(bound);
    assert_eq!(world.cycle(), []);
}

#[test]
fn prod_spreads_and_batch_packs() {
    let offering = |name| {
        let mut node = node(name, 8);
        node.allocatable.insert("duosuan.io/batch-cpu".into(), 8000);
        node.into()
    };
    let nodes = || [offering("a"), offering("b")];
    let mut world = World::with(nodes());
    world.tell(pod("p1", 2000));
    world.tell(pod("p2", 2000));
    assert_eq!(binds(&world.cycle()), [("p1", "a"), ("p2", "b")]);

    let mut world = World::with(nodes());
    for uid in ["b1", "b2"] {
        world.tell(Pod {
            tier: Tier::Batch,
            requests: amounts(&[("duosuan.io/batch-cpu", 2000)]),
            ..pod(uid, 0)
        });
    }
    assert_eq!(binds(&world.cycle()), [("b1", "a"), ("b2", "a")]);
}

#[test]
fn a_pod_that_fits_nowhere_says_so_once_with_numbers_and_what_would_help() {
    let mut tainted = node("c", 64);
    tainted.taints = vec![Taint {
        key: "dedicated".into(),
        value: "gpu".into(),
        effect: "NoSchedule".into(),
    }];
    let mut world = World::with([
        node("a", 1).into(),
        node("b", 2).into(),
        tainted.into(),
        pod("p", 5000).into(),
    ]);
    let decisions = world.cycle();
    let [
        Decision::Pending {
            claim,
            reason,
            counterfactual,
        },
    ] = decisions.as_slice()
    else {
        panic!("{decisions:?}")
    };
    assert_eq!(claim, "p");
    assert_eq!(
        reason.to_string(),
        "0/3 nodes are available: 2 insufficient cpu, 1 taint dedicated=gpu:NoSchedule"
    );
    assert_eq!(
        counterfactual.as_deref(),
        Some("it would fit if 3 cpu more were free on node b")
    );
    assert_eq!(world.cycle(), []);
    world.tell(node("d", 8));
    assert_eq!(
        world.cycle(),
        [
            Decision::Bind {
                numa: None,
                allocations: vec![],
                pod: "p".into(),
                node: "d".into(),
                devices: vec![],
                claim: None
            },
            Decision::Placed { claim: "p".into() }
        ]
    );
}

#[test]
fn selectors_taints_ports_and_unschedulable_are_honoured() {
    let mut zone = node("zone", 8);
    zone.labels.insert("zone".into(), "a".into());
    let mut taken = node("taken", 8);
    taken.taints = vec![Taint {
        key: "x".into(),
        value: String::new(),
        effect: "NoExecute".into(),
    }];
    let mut off = node("off", 8);
    off.unschedulable = true;
    let mut world = World::with([zone.into(), taken.into(), off.into()]);

    let mut picky = pod("picky", 100);
    picky.node_terms = vec![vec![Requirement {
        key: "zone".into(),
        operator: Operator::In,
        values: vec!["b".into()],
    }]];
    world.tell(picky);
    let said = world.cycle();
    assert_eq!(
        world.reason(&said, "picky").map(|r| r.to_string()).as_deref(),
        Some("0/3 nodes are available: 1 node affinity, 1 taint x:NoExecute, 1 unschedulable")
    );

    for uid in ["port1", "port2"] {
        let mut port = pod(uid, 100);
        port.host_ports = vec!["TCP/0.0.0.0/80".into()];
        world.tell(port);
    }
    let decisions = world.cycle();
    assert_eq!(binds(&decisions), [("port1", "zone")]);
    assert!(matches!(
        world.reason(&decisions, "port2"),
        Some(Reason::NoNodeFits { .. })
    ));

    let mut tolerant = pod("tolerant", 100);
    tolerant.tolerations = vec![Toleration {
        key: "x".into(),
        exists: true,
        ..Default::default()
    }];
    tolerant.host_ports = vec!["TCP/0.0.0.0/80".into()];
    world.tell(tolerant);
    assert_eq!(binds(&world.cycle()), [("tolerant", "taken")]);
}

#[test]
fn higher_priority_goes_first_then_the_older_then_the_uid() {
    let mut world = World::with([node("a", 1).into()]);
    for (uid, priority, created) in [("d", 0, 5), ("c", 0, 5), ("b", 0, 1), ("a", 7, 9)] {
        let mut pod = pod(uid, 100);
        pod.priority = priority;
        pod.created.0 = created;
        world.tell(pod);
    }
    assert_eq!(binds(&world.cycle()).iter().map(|b| b.0).collect::<String>(), "abcd");
}

#[test]
fn a_node_whose_load_is_over_the_line_keeps_what_it_has_and_takes_nothing_new() {
    let mut hot = node("a", 8);
    let mut world = World::with([hot.clone().into(), pod("first", 500).into()]);
    assert_eq!(binds(&world.cycle()), [("first", "a")]);
    hot.hot = true;
    world.tell(hot.clone());
    world.tell(pod("second", 500));
    let decisions = world.cycle();
    assert_eq!(
        decisions.iter().filter(|d| matches!(d, Decision::Evict { .. })).count(),
        0
    );
    let Some(Decision::Pending {
        reason,
        counterfactual: Some(change),
        ..
    }) = decisions.first()
    else {
        panic!("{decisions:?}")
    };
    assert_eq!(reason.name(), "NoNodeFits");
    assert_eq!(
        change,
        "it would fit as soon as the load of one of 1 nodes falls below the line of its policy"
    );
    hot.hot = false;
    world.tell(hot);
    assert_eq!(binds(&world.cycle()), [("second", "a")]);
}

#[test]
fn a_stale_node_takes_nothing_new_of_batch_but_prod() {
    let mut stale = node("a", 8);
    stale.stale = true;
    stale.allocatable.insert("duosuan.io/batch-cpu".into(), 8000);
    let mut batch = pod("batch", 0);
    batch.tier = Tier::Batch;
    batch.requests = amounts(&[("duosuan.io/batch-cpu", 500)]);
    let mut world = World::with([stale.clone().into(), batch.into(), pod("prod", 500).into()]);
    let decisions = world.cycle();
    assert_eq!(binds(&decisions), [("prod", "a")]);
    assert_eq!(
        world.reason(&decisions, "batch"),
        Some(Reason::StaleReports { nodes: 1 })
    );
    stale.stale = false;
    world.tell(stale);
    assert_eq!(binds(&world.cycle()), [("batch", "a")]);
}

#[test]
fn pods_of_other_schedulers_count_and_are_left_alone() {
    let other = Pod {
        ours: false,
        node: Some("a".into()),
        ..pod("other", 3500)
    };
    let waiting = Pod {
        ours: false,
        ..pod("waiting", 100)
    };
    let mut world = World::with([node("a", 4).into(), other.into(), waiting.into(), pod("p", 1000).into()]);
    assert!(binds(&world.cycle()).is_empty());
    world.tell(Event::PodGone("other".into()));
    assert_eq!(binds(&world.cycle()), [("p", "a")]);
}

#[test]
fn a_pod_that_comes_before_its_node_is_counted_there() {
    let bound = Pod {
        node: Some("a".into()),
        ..pod("early", 3500)
    };
    let mut world = World::with([bound.into(), node("a", 4).into(), pod("p", 1000).into()]);
    assert!(binds(&world.cycle()).is_empty());
    assert!(world.cluster.overcommitted_nodes().is_empty());
    world.tell(Pod {
        node: Some("a".into()),
        ..pod("much", 3500)
    });
    assert_eq!(world.cluster.overcommitted_nodes(), ["a"]);
}

#[test]
fn a_binding_that_fails_is_tried_again() {
    let mut world = World::with([node("a", 4).into(), pod("p", 1000).into()]);
    assert_eq!(binds(&world.cycle()), [("p", "a")]);
    world.tell(Event::BindFailed {
        pod: "p".into(),
        node: String::new(),
        lasting: false,
        message: "conflict".into(),
    });
    assert_eq!(binds(&world.cycle()), [("p", "a")]);
}

#[test]
fn gates_and_gone_queues_are_said() {
    let mut gated = pod("gated", 100);
    gated.gated = true;
    let mut lost = pod("lost", 100);
    lost.queue = "research".into();
    let mut world = World::with([node("a", 4).into(), gated.clone().into(), lost.into()]);
    let decisions = world.cycle();
    assert_eq!(world.reason(&decisions, "gated"), Some(Reason::Gated));
    assert_eq!(
        world.reason(&decisions, "lost"),
        Some(Reason::NoSuchQueue {
            queue: "research".into()
        })
    );
    gated.gated = false;
    world.tell(gated);
    world.tell(queue("research", None, &[], &[]));
    assert_eq!(binds(&world.cycle()), [("gated", "a"), ("lost", "a")]);
}

#[test]
fn what_is_refused_waits_with_its_own_words_and_what_is_bound_of_it_counts() {
    let mut odd = pod("odd", 100);
    odd.refused = Some("spec.volumes: not yet".into());
    let mut world = World::with([node("a", 4).into(), odd.clone().into()]);
    let decisions = world.cycle();
    let message = "spec.volumes: not yet".to_owned();
    assert_eq!(world.reason(&decisions, "odd"), Some(Reason::Refused { message }));
    assert_eq!(world.cycle(), []);
    odd.refused = None;
    world.tell(odd.clone());
    assert_eq!(binds(&world.cycle()), [("odd", "a")]);
    odd.node = Some("a".into());
    odd.refused = Some("spec.volumes: not yet".into());
    world.tell(odd);
    world.tell(pod("big", 3950));
    assert_eq!(binds(&world.cycle()), [], "what is bound counts, refused or not");
}

#[test]
fn the_budget_bounds_a_cycle_and_the_next_goes_on() {
    let mut world = World::with([node("a", 4).into()]);
    for i in 0..5 {
        world.tell(pod(&format!("p{i}"), 100));
    }
    assert_eq!(binds(&world.cycle_of(2)).len(), 2);
    assert_eq!(binds(&world.cycle_of(2)).len(), 2);
    assert_eq!(binds(&world.cycle_of(2)).len(), 1);
    assert_eq!(world.cycle_of(2), []);
}

/// The new node took the place of the gone one in the model, with the same count of changes, and the index took it for it.
#[test]
fn a_node_that_takes_the_place_of_a_gone_one_is_looked_at_as_a_new_one() {
    let mut asks = pod("p", 1000);
    asks.node_terms = vec![vec![Requirement {
        key: "zone".into(),
        operator: Operator::In,
        values: vec!["b".into()],
    }]];
    let mut world = World::with([node("old", 4).into(), asks.into()]);
    assert_eq!(binds(&world.cycle()), []);
    world.tell(Event::NodeGone("old".into()));
    let mut new = node("new", 4);
    new.labels.insert("zone".into(), "b".into());
    world.tell(new);
    assert_eq!(binds(&world.cycle()), [("p", "new")]);
}
