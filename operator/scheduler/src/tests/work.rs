//! How much is looked at: counts, not times.

use super::fixtures::*;
use crate::{Cluster, Event, Policy, Time, cycle, index};

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
    assert_eq!((visited_per_pod(1000), visited_per_pod(8000)), (1, 1));
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
        (200, 1000),
        "the first looks at each node, for all of them"
    );
    for i in 0..50 {
        assert_eq!(cycle(&mut cluster, Time(i), crate::Budget::default()), []);
    }
    assert_eq!(cluster.work().nodes_visited, 1000);
    cluster.apply(node("n00000", 5).into());
    assert_eq!(
        binds(&cycle(&mut cluster, Time(60), crate::Budget::default())),
        [("huge000", "n00000")]
    );
    assert!(cluster.work().nodes_visited <= 1003, "{:?}", cluster.work());
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
            assert_eq!(best, index::by_scan(&cluster.model, Policy::Standard, look.shape));
        }
        cycle(&mut cluster, Time(i64::from(i)), crate::Budget::default());
    }
}
