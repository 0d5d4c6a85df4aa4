//! Batch that is held at its floor for long, and whose pods cannot use what is left.

use duosuan_policy::{Bucket, Cause, Histogram, Service, Tier};

use crate::node::Node;

#[test]
fn batch_held_at_its_floor_for_long_is_evicted_down_to_what_is_left() {
    let mut node = Node::new(10);
    for (name, seconds) in [("a", 10), ("b", 20), ("c", 30), ("d", 900)] {
        node.batch(name, 1, seconds);
    }
    node.policy.eviction.suppressed_for = 60_000;
    // Online uses 7.5 of the 10 cores and stalls, so that the guard goes to its floor: 10 - margin 1 - 7.5 are left.
    for _ in 0..50 {
        cpu(&mut node, 7_500, 300);
    }
    assert_eq!(node.ordered(), [""; 0]);
    for _ in 0..40 {
        cpu(&mut node, 7_500, 300);
    }
    assert_eq!(node.ordered(), ["a", "b", "c"]);
    assert!(node.ordered.iter().all(|(_, cause)| *cause == Cause::Cpu));
    for _ in 0..200 {
        cpu(&mut node, 7_500, 300);
    }
    assert_eq!(node.pods(), ["d"], "what asks for no more than is left stays");
}

#[test]
fn batch_that_the_latency_guard_holds_at_its_floor_is_evicted_down_to_what_is_left_too() {
    let mut node = Node::new(10);
    for (name, seconds) in [("a", 10), ("b", 20), ("c", 30), ("d", 900)] {
        node.batch(name, 1, seconds);
    }
    node.policy.eviction.suppressed_for = 60_000;
    node.policy.cpu.disabled = true;
    node.seen.services = vec![Service {
        name: "shop/web".to_owned(),
        quantile_milli: 990,
        threshold: 100_000,
        histogram: None,
    }];
    let (mut requests, mut slow) = (0, 0);
    for _ in 0..150 {
        // Of a thousand requests 200 are slow where batch has more than 600 milli-cores.
        requests += 1_000;
        slow += if node.limit.is_none_or(|limit| limit > 600) {
            200
        } else {
            0
        };
        let bucket = |up_to, count| Bucket { up_to, count };
        node.seen.services[0].histogram = Some(Histogram {
            at: node.now + 1_000,
            buckets: vec![bucket(Some(100_000), requests - slow), bucket(None, requests)],
        });
        cpu(&mut node, 7_500, 0);
    }
    assert_eq!(node.ordered(), ["a", "b", "c"]);
    assert!(node.ordered.iter().all(|(_, cause)| *cause == Cause::Cpu));
}

/// A second in which online uses so much CPU and stalls so much.
fn cpu(node: &mut Node, milli: u64, stall: u64) {
    for group in &mut node.seen.groups {
        let used = if group.tier == Tier::Prod { milli } else { 300 };
        *group.cpu_usage.as_mut().unwrap() += used * 1_000;
        if group.tier == Tier::Prod {
            *group.stall.cpu.as_mut().unwrap() += stall * 1_000;
        }
    }
    let batch = u64::try_from(node.pods().len()).unwrap();
    *node.seen.cpu_busy.as_mut().unwrap() += (milli + 300 * batch) * 1_000;
    node.second();
}
