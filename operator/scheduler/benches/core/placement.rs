//! Pods that only some nodes take: 5,000 nodes in 3 zones, 5,000 pods placed, 10,000 measured.

use duosuan_scheduler::event::{Node, Operator, Pod, Requirement, Taint, Toleration};

use super::{MI, Row, Run, event, plain_nodes, pod};

const ZONE: &str = "topology.kubernetes.io/zone";
const DEDICATED: &str = "dedicated";

/// The nodes of the zone of each.
fn nodes(of_zone: impl Fn(usize, &mut Node)) -> Vec<Node> {
    let mut nodes = plain_nodes(5000);
    for (i, node) in nodes.iter_mut().enumerate() {
        node.labels = [(ZONE.to_owned(), format!("zone-{}", i % 3))].into();
        of_zone(i % 3, node);
    }
    nodes
}

fn of(nodes: Vec<Node>, like: impl Fn(Pod) -> Pod) -> Row {
    of_each(nodes, |_, pod| like(pod))
}

fn of_each(nodes: Vec<Node>, like: impl Fn(i64, Pod) -> Pod) -> Row {
    let mut run = Run::of(nodes);
    let pod = |i: i64| like(i, pod(format!("pod-{i}"), 100, 500 * MI));
    for i in 0..5000 {
        run.step(event(pod(i)));
    }
    run.start_measuring();
    for i in 5000..15_000 {
        run.step(event(pod(i)));
    }
    run.row(10_000)
}

/// One zone is required.
pub(super) fn node_affinity() -> Row {
    let in_zone = vec![Requirement {
        key: ZONE.into(),
        operator: Operator::In,
        values: vec!["zone-1".into()],
    }];
    of(nodes(|_, _| {}), |pod| Pod {
        node_terms: vec![in_zone.clone()],
        ..pod
    })
}

/// Each zone is kept for somebody by a taint, and one of them is tolerated.
pub(super) fn taints() -> Row {
    let keep = |zone: usize, node: &mut Node| {
        node.taints = vec![Taint {
            key: DEDICATED.into(),
            value: format!("team-{zone}"),
            effect: "NoSchedule".into(),
        }];
    };
    of(nodes(keep), |pod| Pod {
        tolerations: vec![Toleration {
            key: DEDICATED.into(),
            exists: false,
            value: "team-1".into(),
            effect: "NoSchedule".into(),
        }],
        ..pod
    })
}

/// Replicas of so many controllers in turn, kept apart without asking for it.
fn replicas_of(controllers: i64) -> Row {
    let in_zone = |zone: usize, node: &mut Node| node.location.zone = Some(format!("zone-{zone}"));
    of_each(nodes(in_zone), |i, pod| Pod {
        owner: format!("controller-{}", i % controllers),
        ..pod
    })
}

/// Ten of each.
pub(super) fn replicas() -> Row {
    replicas_of(1500)
}

/// More of one than there are nodes.
pub(super) fn replicas_of_one() -> Row {
    replicas_of(1)
}
