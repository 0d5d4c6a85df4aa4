//! How much is looked at: counts, not times.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::fixtures::*;
use crate::{
    Cluster, Event, Policy, Time, cycle,
    event::{Node, Operator, Pod, PreferredNodes, Requirement, Taint, Toleration},
    index,
};

fn cluster(nodes: usize) -> Cluster {
    let mut cluster = Cluster::default();
    for i in 0..nodes {
        cluster.apply(node(&format!("n{i:05}"), 4).into());
    }
    cluster
}

fn visited_per_pod(nodes: usize) -> u64 {
    let mut cluster = cluster(nodes);
    cluster.apply(pod("first", 100).into());
    cycle(&mut cluster, Time(0), crate::Budget::default());
    let before = cluster.work().nodes_visited;
    for i in 0..500 {
        cluster.apply(pod(&format!("p{i}"), 100).into());
        cycle(&mut cluster, Time(i), crate::Budget::default());
    }
    assert_eq!(cluster.pods().bound, 501);
    (cluster.work().nodes_visited - before) / 500
}

#[test]
fn a_pod_costs_the_same_on_a_thousand_nodes_and_on_eight_thousand() {
    // The node that the last one got, and the one that it gets.
    assert_eq!((visited_per_pod(1000), visited_per_pod(8000)), (2, 2));
}

/// Nodes visited for 500 plain pods, one a cycle, where 5,000 are placed already.
fn visited_beside_many(nodes: usize) -> u64 {
    let mut cluster = cluster(nodes);
    for i in 0..5000 {
        cluster.apply(pod(&format!("first{i}"), 100).into());
    }
    let all = crate::Budget { pods: 5000 };
    assert_eq!(binds(&cycle(&mut cluster, Time(0), all)).len(), 5000);
    let before = cluster.work().nodes_visited;
    for i in 0..500 {
        cluster.apply(pod(&format!("p{i}"), 100).into());
        cycle(&mut cluster, Time(i), crate::Budget::default());
    }
    assert_eq!(cluster.pods().bound, 5500);
    cluster.work().nodes_visited - before
}

#[test]
fn a_plain_pod_costs_at_most_twice_as_much_on_thirty_thousand_nodes_as_on_a_thousand() {
    let (few, many) = (visited_beside_many(1000), visited_beside_many(30_000));
    assert!((500..=5 * 500).contains(&few), "{few} nodes for 500 pods");
    assert!(many <= 2 * few, "{many} nodes on 30,000, {few} on 1,000");
}

/// Each shape had a list of its own, and valued every node anew that changed since its turn before.
#[test]
fn a_pod_of_one_of_a_thousand_shapes_costs_what_it_costs_of_one() {
    let mut cluster = cluster(1000);
    let asks = |i: i64| {
        let mut pod = pod(&format!("p{i}"), 100 + i % 1000 % 32);
        pod.requests.insert("memory".into(), GI / 2 + i % 1000);
        pod
    };
    cluster.apply(asks(0).into());
    cycle(&mut cluster, Time(0), crate::Budget::default());
    let before = cluster.work();
    for i in 1..=3000 {
        cluster.apply(asks(i).into());
        cycle(&mut cluster, Time(i), crate::Budget::default());
    }
    let after = cluster.work();
    assert_eq!(cluster.pods().bound, 3001);
    let visited = after.nodes_visited - before.nodes_visited;
    assert!(visited <= 3 * 3000, "{visited} nodes");
    assert_eq!(after.shapes_built, before.shapes_built);
}

/// Each tried all the promised seats anew, and each end of a pod had all of them looked at: 40 ms a pod beside 2,500 seats.
#[test]
fn a_pod_beside_a_promise_does_not_try_the_promised_seats_again() {
    // So many pods that debug builds do not check each cycle, which is work too.
    let mut cluster = cluster(300);
    let mut gang = |name: &str, size: u32, milli: i64| {
        let mut of = claim(name, "", &[("w", size, size, 1)]);
        of.expected_duration = Some(1_000_000);
        cluster.apply(of.into());
        for i in 0..size {
            cluster.apply(member(&format!("{name}-{i}"), name, "w", milli).into());
        }
        cycle(&mut cluster, Time(0), crate::Budget::default())
    };
    assert_eq!(binds(&gang("running", 300, 3000)).len(), 300);
    assert_eq!(binds(&gang("next", 150, 4000)).len(), 0);
    assert_eq!(cluster.model.reservations.len(), 1);
    let (mut visits, mut tried) = (Vec::new(), Vec::new());
    for i in 0..150 {
        let before = cluster.work();
        cluster.apply(pod(&format!("p{i}"), 100).into());
        if i >= 100 {
            cluster.apply(Event::PodGone(format!("p{}", i - 100)));
        }
        let decisions = cycle(&mut cluster, Time(i), crate::Budget::default());
        assert_eq!(binds(&decisions).len(), 1);
        visits.push(cluster.work().nodes_visited - before.nodes_visited);
        tried.push(cluster.work().tried_beside - before.tried_beside);
    }
    assert!(visits[0] > 150, "{visits:?}");
    let often = visits.iter().filter(|visits| **visits > 8).count();
    assert!(often <= 2, "the first, and the gang when room is freed: {visits:?}");
    // Most of the seats are refused without being tried, and the one that it gets is tried.
    assert!(tried[0] <= 10, "{tried:?}");
    assert!(tried[1..].iter().all(|tried| *tried <= 2), "{tried:?}");
}

/// Each head of a queue with a limit was asked of each pod, with all seats of the others and all that will have ended.
#[test]
fn a_pod_asks_those_promises_alone_against_whose_limits_it_counts() {
    const QUEUES: usize = 20;
    let mut cluster = cluster(300);
    for q in 0..QUEUES {
        cluster.apply(queue(&format!("q{q}"), None, &[], &[("cpu", 4000)]).into());
        for (name, milli) in [("runs", 3000), ("waits", 2000)] {
            let name = format!("{name}{q}");
            let mut of = claim(&name, &format!("q{q}"), &[("w", 1, 1, 1)]);
            of.expected_duration = Some(1_000_000);
            cluster.apply(of.into());
            cluster.apply(member(&format!("{name}-0"), &name, "w", milli).into());
            cycle(&mut cluster, Time(0), crate::Budget::default());
        }
    }
    assert_eq!(cluster.model.reservations.len(), QUEUES, "one of each queue");
    for (queue, asked) in [("", 0), ("q7", 1)] {
        let before = cluster.work().quotas_asked;
        let pod = Pod {
            queue: queue.into(),
            ..pod(&format!("p-{queue}"), 500)
        };
        cluster.apply(pod.into());
        let placed = binds(&cycle(&mut cluster, Time(1), crate::Budget::default())).len();
        assert_eq!(cluster.work().quotas_asked - before, asked, "queue {queue:?}");
        assert_eq!(
            placed, 1,
            "beside 3000 of 4000 there is room until then, and 2000 of 4000 from then on"
        );
    }
}

#[test]
fn a_pod_that_fits_nowhere_costs_nothing_until_something_changes() {
    let mut cluster = cluster(1000);
    for i in 0..200 {
        cluster.apply(pod(&format!("huge{i:03}"), 5000).into());
    }
    let said = cycle(&mut cluster, Time(0), crate::Budget::default());
    assert_eq!(
        (said.len(), cluster.work().nodes_visited),
        (200, 2000),
        "the first looks at each node, for all of them: to find a place, and to say why there is none"
    );
    assert_eq!(
        cluster.work().changes_tried,
        1000,
        "what would let one in is found once for all"
    );
    for i in 0..50 {
        assert_eq!(cycle(&mut cluster, Time(i), crate::Budget::default()), []);
    }
    assert_eq!(cluster.work().nodes_visited, 2000);
    cluster.apply(node("n00000", 5).into());
    assert_eq!(
        binds(&cycle(&mut cluster, Time(60), crate::Budget::default())),
        [("huge000", "n00000")]
    );
    assert!(cluster.work().nodes_visited <= 2006, "{:?}", cluster.work());
}

#[test]
fn shapes_that_are_no_more_are_forgotten() {
    let mut cluster = cluster(10);
    for i in 0..50 {
        cluster.apply(pod("p", 100 + i).into());
        cycle(&mut cluster, Time(i), crate::Budget::default());
        cluster.apply(Event::PodGone("p".into()));
    }
    assert_eq!(
        (
            cluster.index.shapes(),
            cluster.model.shapes.len(),
            cluster.model.templates.len()
        ),
        (0, 0, 0)
    );
}

#[test]
fn the_index_says_what_a_scan_of_all_nodes_says() {
    let mut cluster = cluster(20);
    for i in 0..8 {
        cluster.apply(gpu_node(&format!("g{i}"), 1 + i % 4, if i % 2 == 0 { "T4" } else { "A100" }).into());
    }
    for i in 0..300_u16 {
        let uid = format!("p{i:03}");
        let pod = match i % 4 {
            0 => gpu_pod(&uid, share(100 + i % 9 * 100)),
            1 => gpu_pod(&uid, whole(1 + i % 3)),
            2 => pod(&uid, 300),
            _ => pod(&uid, 700),
        };
        cluster.apply(pod.into());
        if i % 7 == 3 {
            cluster.apply(Event::PodGone(format!("p{:03}", i / 2)));
        }
        if i % 50 == 20 {
            cluster.apply(Event::NodeGone(format!("n{:05}", i % 20)));
        }
        for pod in cluster.model.pods_by_uid.values().copied().collect::<Vec<_>>() {
            let look = cluster.model.look(pod);
            let best = cluster.index.best(&cluster.model, Policy::Standard, look);
            let by_scan = index::by_scan(&cluster.model, Policy::Standard, look, &BTreeSet::new(), None);
            assert_eq!(best, by_scan);
        }
        cycle(&mut cluster, Time(i64::from(i)), crate::Budget::default());
    }
}

fn any_plain_node() -> impl Strategy<Value = Node> {
    let facts = (0..12_usize, 0..4_usize, 0..5_i64, 0..3_usize);
    (facts, any::<[bool; 5]>()).prop_map(|((i, size, odd, gpus), [few, hot, stale, taint, soft])| {
        let size = [0, 2000, 4000, 3920][size];
        let mut node = gpu_node(&format!("n{i:02}"), if few { gpus } else { 0 }, "T4");
        node.allocatable = amounts(&[("cpu", size), ("memory", 4 * GI + odd), ("pods", 3 + odd)]);
        if odd > 2 {
            node.allocatable.insert("example.com/fpga".into(), odd);
        }
        node.allocatable
            .extend((0..odd * 2).map(|r| (format!("example.com/r{r}"), 1)));
        node.labels.insert("zone".into(), ["a", "b"][i % 2].into());
        // A fault domain, or a node that moves from one to another; the last has none.
        let zones = ["a", "b", "c", "d"];
        node.location.zone = zones
            .get(i % 2 + odd as usize % 3)
            .filter(|_| i < 11)
            .map(|zone| (*zone).into());
        node.location.rack = zones.get(i % 3).map(|rack| (*rack).into());
        (node.hot, node.stale) = (hot && taint, stale);
        if taint {
            node.taints = vec![Taint {
                key: "k".into(),
                value: "v".into(),
                effect: if soft { "PreferNoSchedule" } else { "NoSchedule" }.into(),
            }];
        }
        node
    })
}

fn any_plain_pod() -> impl Strategy<Value = Pod> {
    (0..60_usize, 0..16_i64, 0..4_i64, any::<[bool; 5]>()).prop_map(
        |(i, cpu, memory, [near, tolerates, exotic, gpu, port])| {
            let mut pod = pod(&format!("p{i:02}"), cpu * 125);
            pod.owner = ["", "one", "two"][i % 3].into();
            pod.requests.insert("memory".into(), memory * GI / 2);
            if near {
                pod.node_terms = vec![vec![Requirement {
                    key: "zone".into(),
                    operator: Operator::In,
                    values: vec!["a".into()],
                }]];
            }
            if cpu % 3 == 0 {
                pod.preferred_nodes = vec![PreferredNodes {
                    weight: 1 + memory as i32,
                    term: vec![Requirement {
                        key: "zone".into(),
                        operator: Operator::In,
                        values: vec!["b".into()],
                    }],
                }];
            }
            if tolerates {
                pod.tolerations = vec![Toleration {
                    exists: true,
                    ..Toleration::default()
                }];
            }
            if exotic && cpu > 8 {
                pod.requests.insert("example.com/fpga".into(), 1);
            }
            // More kinds than a tree knows.
            if exotic && cpu < 8 {
                pod.requests.insert(format!("example.com/r{}", i % 8), 1);
            }
            if gpu && cpu > 12 {
                pod.gpus = Some(share(500));
            }
            if port && cpu < 3 {
                pod.host_ports = vec!["TCP/0.0.0.0/80".into()];
            }
            pod
        },
    )
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => any_plain_node().prop_map(Event::from),
        1 => (0..12_usize).prop_map(|i| Event::NodeGone(format!("n{i:02}"))),
        6 => any_plain_pod().prop_map(Event::from),
        2 => (0..60_usize).prop_map(|i| Event::PodGone(format!("p{i:02}"))),
    ]
}

proptest! {
    /// Whatever comes and goes, each pod would get the node that a look at all of them finds best.
    #[test]
    fn trees_and_lists_find_what_a_scan_of_all_nodes_finds(events in prop::collection::vec(any_event(), 1..80)) {
        let mut cluster = Cluster::default();
        for (i, event) in events.into_iter().enumerate() {
            cluster.apply(event);
            if i % 3 > 0 {
                cycle(&mut cluster, Time(i as i64), crate::Budget::default());
            }
            for pod in cluster.model.pods_by_uid.values().copied().collect::<Vec<_>>() {
                let look = cluster.model.look(pod);
                let best = cluster.index.best(&cluster.model, Policy::Standard, look);
                let by_scan = |model: &_, refused: &_| index::by_scan(model, Policy::Standard, look, refused, None);
                prop_assert_eq!(best, by_scan(&cluster.model, &BTreeSet::new()));
                let refused = BTreeSet::from_iter(best);
                let next = cluster.index.best_beside(&cluster.model, Policy::Standard, look, &refused, None);
                prop_assert_eq!(next, by_scan(&cluster.model, &refused));
                prop_assert_eq!(cluster.check(), Ok(()));
                let Some(kin) = cluster.model.kin_to_avoid(pod) else { continue };
                for refused in [BTreeSet::new(), refused] {
                    let apart = cluster.index.best_apart(&cluster.model, Policy::Standard, look, &refused, kin);
                    let by_scan = index::by_scan(&cluster.model, Policy::Standard, look, &refused, Some(kin));
                    prop_assert_eq!(apart, by_scan);
                }
            }
        }
    }
}
