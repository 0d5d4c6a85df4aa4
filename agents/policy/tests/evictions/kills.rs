//! Batch is killed where memory is about to fail, and only there.

use duosuan_policy::{Cause, Outcome};

use crate::node::Node;

#[test]
fn batch_is_killed_only_where_memory_is_about_to_fail() {
    let mut node = Node::new(80);
    node.batch("cheap", 10, 10);
    node.batch("dear", 10, 900);
    node.kept = vec!["cheap".to_owned(), "dear".to_owned()];
    node.policy.memory.disabled = true;
    // Nothing is available, but nobody waits for memory.
    node.seconds(30);
    assert_eq!(node.killed, [""; 0]);
    node.full = 100;
    let report = node.second();
    assert_eq!(node.killed, ["kubepods/besteffort/podcheap"]);
    let killed = report.eviction.last.last().unwrap();
    assert_eq!((killed.cause, killed.outcome), (Cause::MemoryFails, Outcome::Killed));
    // And the pod is to be evicted, since its kubelet would start it again.
    assert_eq!(report.eviction.orders().count(), 1);
    node.seconds(30);
    assert_eq!(node.killed.len(), 1, "10 % are available");
}

#[test]
fn one_whose_memory_outlasts_his_processes_is_killed_once_and_the_next_one_follows() {
    let mut node = Node::new(80);
    node.batch("cheap", 10, 10);
    node.batch("dear", 10, 900);
    node.kept = vec!["cheap".to_owned(), "dear".to_owned()];
    node.outlast.push("cheap".to_owned());
    node.policy.memory.disabled = true;
    node.full = 100;
    // The first look knows no rates; a kill has a second to show.
    node.seconds(4);
    assert_eq!(
        node.killed,
        ["kubepods/besteffort/podcheap", "kubepods/besteffort/poddear"]
    );
}

#[test]
fn what_a_kill_did_not_free_is_not_waited_for() {
    let mut node = Node::new(80);
    node.batch("cheap", 10, 10);
    node.batch("dear", 10, 900);
    node.grace = 600_000;
    node.outlast.push("cheap".to_owned());
    node.policy.memory.disabled = true;
    node.full = 100;
    node.seconds(2);
    assert_eq!(node.killed, ["kubepods/besteffort/podcheap"]);
    // Nobody waits for memory any more, and it is as short as it was.
    node.full = 0;
    node.seconds(10);
    assert_eq!((node.ordered(), node.killed.len()), (vec!["cheap", "dear"], 1));
}

#[test]
fn one_who_is_started_again_after_a_kill_may_be_killed_again() {
    let mut node = Node::new(80);
    node.batch("cheap", 20, 10);
    node.kept.push("cheap".to_owned());
    node.policy.memory.disabled = true;
    node.full = 100;
    node.seconds(10);
    assert_eq!(node.killed.len(), 1);
    node.holds("cheap", 20);
    node.seconds(2);
    assert_eq!(node.killed.len(), 2);
}

#[test]
fn prods_stall_is_a_witness_too_and_a_kernel_without_pressure_is_believed_by_its_memory() {
    for (measured, stall, kills) in [(true, 60, true), (true, 40, false), (false, 0, true)] {
        let mut node = Node::new(90);
        node.batch("b", 10, 10);
        node.policy.memory.disabled = true;
        node.prod_stall = stall;
        if !measured {
            node.seen.memory_full = None;
            node.seen.groups.iter_mut().for_each(|g| g.stall.memory = None);
        }
        node.kept.push("b".to_owned());
        // The first look knows no rates, and kills nobody for that.
        node.second();
        assert_eq!(node.killed, [""; 0]);
        node.seconds(10);
        assert_eq!(!node.killed.is_empty(), kills, "{measured} {stall}");
    }
}

#[test]
fn a_stall_that_outlasts_all_page_cache_evicts_one_pod_a_minute() {
    let mut node = Node::new(60);
    node.batch("a", 5, 10);
    node.batch("b", 5, 20);
    node.policy.eviction.suppressed_for = 60_000;
    node.prod_stall = 200;
    node.seconds(60);
    assert_eq!(node.ordered(), [""; 0]);
    node.seconds(10);
    assert_eq!(node.ordered, [("a".to_owned(), Cause::MemoryStall)]);
    node.seconds(40);
    assert_eq!(node.ordered.len(), 1);
    node.seconds(60);
    assert_eq!(node.ordered(), ["a", "b"]);
}
