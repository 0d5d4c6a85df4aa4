//! Nodes that keep what they have and take nothing new: cordoned, over their policy's line, or with a report that is too
//! old. Nobody goes from them for others, and a seat that was kept there is not taken.

use super::fixtures::*;
use crate::{Event, Time, event::*};

/// Pods of a core each in queue `b`, which borrows, on nodes of two cores each; the later in the list, the later they go.
fn borrowed(seats: &[(&str, &str)]) -> World {
    let mut world = World::with([
        queue("mine", None, &[("cpu", 4000)], &[]).into(),
        queue("b", None, &[("cpu", 500)], &[]).into(),
    ]);
    for (i, (uid, on)) in seats.iter().enumerate() {
        world.tell(node(on, 2));
        world.tell(Pod {
            node: Some((*on).to_owned()),
            // The newest goes first.
            created: Time(9 - i64::try_from(i).unwrap()),
            queue: "b".into(),
            ..pod(uid, 1000)
        });
    }
    world
}

fn cordoned(name: &str) -> Node {
    Node {
        unschedulable: true,
        ..node(name, 2)
    }
}

fn evicted(decisions: &[crate::Decision]) -> Vec<&str> {
    let mut gone = evictions(decisions);
    gone.sort_unstable();
    gone
}

#[test]
fn nobody_is_evicted_from_a_cordoned_node_since_that_helps_nobody() {
    let mut world = borrowed(&[("x1", "n1"), ("x2", "n1"), ("y1", "n2"), ("y2", "n2")]);
    world.tell(cordoned("n1"));
    world.tell(Pod {
        queue: "mine".into(),
        ..pod("want", 2000)
    });
    assert_eq!(evicted(&world.run()), ["y1", "y2"]);
}

#[test]
fn nobody_is_evicted_from_a_cordoned_node_for_a_gang_either() {
    let seats = [
        ("x1", "n1"),
        ("x2", "n1"),
        ("y1", "n2"),
        ("y2", "n2"),
        ("z1", "n3"),
        ("z2", "n3"),
    ];
    let mut world = borrowed(&seats);
    world.tell(cordoned("n1"));
    world.tell(claim("gang", "mine", &[("w", 2, 2, 1)]));
    for uid in ["g0", "g1"] {
        world.tell(member(uid, "gang", "w", 2000));
    }
    assert_eq!(evicted(&world.run()), ["y1", "y2", "z1", "z2"]);
}

/// Such a victim, taken off on trial for its quota, has room where it was, though the node takes no new pods.
#[test]
fn who_need_not_go_after_all_stays_on_its_cordoned_node() {
    let mut world = World::with([
        queue("top", None, &[], &[("cpu", 4000)]).into(),
        queue("mine", Some("top"), &[("cpu", 4000)], &[]).into(),
        queue("b", Some("top"), &[("cpu", 500)], &[]).into(),
    ]);
    for (uid, on, created) in [("x1", "n1", 9), ("x2", "n1", 8), ("y1", "n2", 2), ("y2", "n2", 1)] {
        world.tell(node(on, 2));
        world.tell(Pod {
            node: Some(on.to_owned()),
            created: Time(created),
            queue: "b".into(),
            ..pod(uid, 1000)
        });
    }
    world.tell(cordoned("n1"));
    world.tell(Pod {
        queue: "mine".into(),
        ..pod("want", 2000)
    });
    assert_eq!(evicted(&world.run()), ["y1", "y2"]);
}

#[test]
fn a_kept_seat_is_not_taken_on_a_node_whose_load_is_over_the_line_by_then() {
    let mut world = borrowed(&[("x1", "n1"), ("x2", "n1")]);
    world.tell(Pod {
        queue: "mine".into(),
        ..pod("want", 1000)
    });
    let gone = evictions(&world.run())[0].to_owned();
    let mut hot = node("n1", 2);
    hot.hot = true;
    world.tell(hot);
    world.tell(Event::PodGone(gone));
    assert_eq!(binds(&world.run()), []);
    world.tell(node("n1", 2));
    assert_eq!(binds(&world.run()), [("want", "n1")]);
}

#[test]
fn a_kept_seat_of_batch_is_not_taken_on_a_node_whose_report_is_too_old_by_then() {
    let reported = |stale| {
        let mut node = node("n1", 2);
        node.allocatable.insert("duosuan.io/batch-cpu".into(), 2000);
        node.stale = stale;
        node
    };
    let batch_queue = |name: &str, guaranteed| {
        let mut queue = queue(name, None, &[("cpu", guaranteed)], &[]);
        queue.quotas[0].tier = Tier::Batch;
        queue
    };
    let batch = |uid: &str, queue: &str| Pod {
        tier: Tier::Batch,
        queue: queue.into(),
        requests: amounts(&[("duosuan.io/batch-cpu", 1000)]),
        ..pod(uid, 0)
    };
    let mut world = World::with([
        reported(false).into(),
        batch_queue("mine", 2000).into(),
        batch_queue("b", 500).into(),
    ]);
    for uid in ["x1", "x2"] {
        world.tell(Pod {
            node: Some("n1".into()),
            ..batch(uid, "b")
        });
    }
    world.tell(batch("want", "mine"));
    let gone = evictions(&world.run())[0].to_owned();
    world.tell(reported(true));
    world.tell(Event::PodGone(gone));
    assert_eq!(binds(&world.run()), []);
    world.tell(reported(false));
    assert_eq!(binds(&world.run()), [("want", "n1")]);
}
