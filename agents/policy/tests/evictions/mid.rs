//! Mid, which goes last, late and with notice.

use duosuan_policy::{Cause, Outcome, Tier};

use crate::node::Node;

#[test]
fn mid_stays_while_there_is_batch_to_evict() {
    let mut node = Node::new(80);
    node.batch("batch", 9, 9_000);
    node.pod(Tier::Mid, "mid", 9, 10);
    node.seconds(400);
    assert_eq!(
        node.ordered,
        [("batch".to_owned(), Cause::Memory)],
        "however dear its work is"
    );
}

#[test]
fn where_no_batch_is_left_mid_is_evicted_after_a_minute_of_shortage_with_notice_and_no_more_of_it_than_needed() {
    let mut node = Node::new(80);
    node.pod(Tier::Mid, "dear", 9, 5_000);
    node.pod(Tier::Mid, "cheap", 9, 10);
    node.seconds(58);
    assert_eq!(node.ordered(), [""; 0]);
    let mut orders = Vec::new();
    for _ in 0..10 {
        orders.extend(node.second().eviction.decided);
    }
    let [order] = orders.as_slice() else {
        panic!("{orders:?}")
    };
    assert_eq!(
        (order.uid.as_str(), order.tier, order.notice, order.outcome),
        ("cheap", Tier::Mid, 60_000, Outcome::Ordered)
    );
    assert!(
        order
            .why
            .contains("no batch is left to evict; of mid its end loses least"),
        "{}",
        order.why
    );
    let report = node.seconds(45);
    assert_eq!(node.pods(), ["cheap", "dear"], "it has its notice");
    assert!(report.eviction.closed, "the node takes nothing new of mid and batch");
    node.seconds(300);
    assert_eq!((node.ordered(), node.pods()), (vec!["cheap"], vec!["dear"]));
}

#[test]
fn a_shortage_that_passes_in_less_than_a_minute_evicts_nobody_of_mid() {
    let mut node = Node::new(80);
    node.pod(Tier::Mid, "mid", 18, 10);
    for _ in 0..20 {
        node.others = 80;
        node.seconds(20);
        node.others = 70;
        node.seconds(20);
    }
    assert_eq!(node.ordered(), [""; 0]);
}

/// Its kernel kills where it must; nobody does so before it.
#[test]
fn mid_is_never_killed() {
    let mut node = Node::new(90);
    node.pod(Tier::Mid, "mid", 10, 10);
    (node.full, node.prod_stall) = (500, 500);
    node.seconds(200);
    assert_eq!(node.killed, [""; 0]);
    assert_eq!(node.ordered(), ["mid"]);
}

#[test]
fn batch_that_its_disruption_budget_keeps_does_not_keep_mid() {
    let mut node = Node::new(78);
    node.batch("batch", 10, 10);
    node.pod(Tier::Mid, "mid", 10, 10);
    node.kept = vec!["batch".to_owned()];
    node.seconds(200);
    assert!(node.ordered().contains(&"mid"));
}

/// A second in which online and each pod of mid use so much CPU, and online and mid stall so much.
fn cpu(node: &mut Node, [online, mid]: [u64; 2], stalls: [u64; 2]) {
    cpu_with(node, [online, mid, 0], stalls);
}

/// The same, with each pod of batch.
fn cpu_with(node: &mut Node, [online, mid, batch]: [u64; 3], [stall, mid_stall]: [u64; 2]) {
    let mut all = 0;
    for group in &mut node.seen.groups {
        let (used, stall) = match group.tier {
            Tier::Prod => (online, stall),
            Tier::Mid => (mid, mid_stall),
            Tier::Batch => (batch, 0),
        };
        all += used;
        *group.cpu_usage.as_mut().unwrap() += used * 1_000;
        *group.stall.cpu.as_mut().unwrap() += stall * 1_000;
    }
    *node.seen.cpu_busy.as_mut().unwrap() += all * 1_000;
    node.second();
}

fn with_mid() -> Node {
    let mut node = Node::new(10);
    for name in ["a", "b", "c"] {
        node.pod(Tier::Mid, name, 1, if name == "a" { 10 } else { 900 });
    }
    node.policy.eviction.suppressed_for = 60_000;
    node
}

#[test]
fn mid_that_uses_more_cpu_than_prod_leaves_is_evicted_where_prod_stalls_for_long() {
    let mut node = with_mid();
    // 10 - margin 1 - 7 leave 2 cores, of which mid uses 2.7.
    (0..55).for_each(|_| cpu(&mut node, [7_000, 900], [300, 0]));
    assert_eq!(node.ordered(), [""; 0]);
    (0..20).for_each(|_| cpu(&mut node, [7_000, 900], [300, 0]));
    assert_eq!(node.ordered, [("a".to_owned(), Cause::CpuStall)]);
    (0..300).for_each(|_| cpu(&mut node, [7_000, 900], [300, 0]));
    assert_eq!(node.pods(), ["b", "c"], "what the others use is left to them");
}

#[test]
fn mid_stays_where_it_is_not_prod_that_stalls_or_not_for_long_or_not_for_mid() {
    // Mid itself stalls, since prod needs the CPU.
    let mut node = with_mid();
    (0..400).for_each(|_| cpu(&mut node, [7_000, 900], [0, 800]));
    assert_eq!(node.ordered(), [""; 0]);
    // A third of the time.
    let mut node = with_mid();
    for second in 0..600 {
        cpu(&mut node, [7_000, 900], [if second % 3 == 0 { 900 } else { 0 }, 0]);
    }
    assert_eq!(node.ordered(), [""; 0]);
    // There is room for what it uses: prod stalls for another reason.
    let mut node = with_mid();
    (0..400).for_each(|_| cpu(&mut node, [7_000, 500], [300, 0]));
    assert_eq!(node.ordered(), [""; 0]);
    // Batch uses what prod lacks, and its guard is off: that is where to begin.
    let mut node = with_mid();
    node.batch("batch", 1, 10);
    node.policy.cpu.disabled = true;
    (0..400).for_each(|_| cpu_with(&mut node, [6_500, 900, 800], [300, 0]));
    assert_eq!(node.ordered(), [""; 0]);
}

/// One small pod of batch, which nobody evicts since it asks for no more than batch always has, kept all of mid for ever.
#[test]
fn batch_that_uses_no_more_than_its_floor_does_not_keep_mid_but_goes_first_where_it_asks_for_more() {
    for (asked, used, first) in [
        (100, 300, "a"),
        (400, 400, "a"),
        (400, 900, "a"),
        (1_000, 350, "a"),
        (1_000, 900, "batch"),
    ] {
        let mut node = with_mid();
        node.batch("batch", 1, 10);
        node.group("batch").unwrap().requests.cpu = asked;
        (0..50).for_each(|_| cpu_with(&mut node, [7_000, 900, used], [300, 0]));
        assert_eq!(node.ordered(), [""; 0]);
        (0..600).for_each(|_| cpu_with(&mut node, [7_000, 900, used], [300, 0]));
        assert_eq!(
            (node.ordered()[0], node.ordered().contains(&"a")),
            (first, true),
            "{asked} {used} {:?}",
            node.ordered
        );
        assert_eq!(node.pods().contains(&"batch"), first == "a");
    }
}

#[test]
fn the_node_takes_nothing_new_for_five_minutes_from_the_end_of_a_notice_and_not_from_its_beginning() {
    let mut node = Node::new(80);
    node.policy.eviction.mid_notice = 600_000;
    node.pod(Tier::Mid, "mid", 18, 10);
    node.seconds(61);
    assert_eq!(node.ordered(), ["mid"]);
    for second in 0..890 {
        assert!(node.second().eviction.closed, "open again after {second} s");
    }
    assert_eq!(node.pods(), [""; 0]);
    assert!(!node.seconds(30).eviction.closed);
}

/// It was waited for the memory guard to have nothing more to take of batch, which it never tries where there is none.
#[test]
fn where_prod_lacks_memory_for_long_and_there_is_no_batch_mid_is_evicted() {
    for memory_guard in [false, true] {
        let mut node = with_mid();
        node.policy.memory.disabled = !memory_guard;
        for name in ["a", "b", "c"] {
            node.holds(name, 7);
        }
        node.prod_stall = 500;
        node.seconds(200);
        assert_eq!(
            node.ordered(),
            [""; 0],
            "69 % are available: prod stalls at a limit of its own"
        );
        node.others = 72;
        node.seconds(58);
        assert_eq!(node.ordered(), [""; 0]);
        let report = node.seconds(10);
        assert_eq!(node.ordered, [("a".to_owned(), Cause::MemoryStall)]);
        assert!(report.eviction.near, "what its end loses is asked before");
        // The stall has passed.
        node.prod_stall = 0;
        node.seconds(400);
        assert_eq!(node.ordered(), ["a"]);
    }
}

/// The order was noted, the node closed, and the next one waited for it; but nobody was asked to carry it out.
#[test]
fn no_order_of_mid_is_noted_beside_a_kill() {
    let start = || {
        let mut node = with_mid();
        node.batch("batch", 9, 10);
        node.group("batch").unwrap().requests.cpu = 100;
        node
    };
    let suffers = |node: &mut Node| cpu_with(node, [7_000, 900, 100], [300, 0]);
    let mut node = start();
    let mut seconds = 0;
    while node.ordered.is_empty() {
        suffers(&mut node);
        seconds += 1;
        assert!(seconds < 200);
    }
    assert_eq!(node.ordered(), ["a"]);
    // Memory fails in just that second.
    let mut node = start();
    (1..seconds).for_each(|_| suffers(&mut node));
    (node.others, node.full) = (90, 500);
    suffers(&mut node);
    assert_eq!((node.killed.len(), node.ordered()), (1, vec!["batch"]));
    let report = node.second();
    let of_mid = report.eviction.last.iter().find(|e| e.tier == Tier::Mid);
    assert!(of_mid.is_none_or(|e| e.at == node.now), "{of_mid:?} was not handed on");
}
