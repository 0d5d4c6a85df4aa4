//! Measured load: batch packs onto what is cold, and what nobody measured is neither cold nor warm.

use super::fixtures::*;
use crate::{
    Tier,
    event::{LOAD_STEPS, Node, Pod},
};

const BATCH_CPU: &str = "duosuan.io/batch-cpu";

fn loaded(name: &str, load: Option<u8>) -> Node {
    let mut node = node(name, 16);
    node.allocatable.insert(BATCH_CPU.into(), 16_000);
    node.load = load;
    node
}

fn batch(uid: &str, milli: i64) -> Pod {
    Pod {
        tier: Tier::Batch,
        requests: amounts(&[(BATCH_CPU, milli)]),
        ..pod(uid, 0)
    }
}

fn world(loads: &[(&str, Option<u8>)]) -> World {
    World::with(loads.iter().map(|&(name, load)| loaded(name, load).into()))
}

/// The node that a pod goes to.
fn goes(world: &mut World, pod: Pod) -> String {
    world.tell(pod);
    binds(&world.run())[0].1.to_owned()
}

#[test]
fn batch_goes_to_the_coldest_node_and_prod_to_the_emptiest() {
    let mut world = world(&[("a", Some(6)), ("b", Some(3)), ("c", Some(1)), ("d", Some(2))]);
    assert_eq!(goes(&mut world, batch("p", 1000)), "c");
    assert_eq!(goes(&mut world, pod("q", 1000)), "a");
    let mid = Pod {
        tier: Tier::Mid,
        requests: amounts(&[("pods", 1)]),
        ..pod("m", 0)
    };
    assert_eq!(goes(&mut world, mid), "c");
}

#[test]
fn batch_packs_where_the_load_is_alike_and_leaves_what_it_filled_for_what_is_colder() {
    let mut all = world(&[("a", Some(2)), ("b", Some(2)), ("c", Some(7))]);
    let went: Vec<String> = (0..4).map(|i| goes(&mut all, batch(&format!("p{i}"), 4000))).collect();
    assert_eq!(went, ["a"; 4]);
    assert_eq!(goes(&mut all, batch("p4", 4000)), "b");
    // A node that is a quarter full is left for one that is colder by more than a quarter of the line.
    all.tell(loaded("b", Some(5)));
    all.tell(loaded("c", Some(2)));
    assert_eq!(goes(&mut all, batch("p5", 4000)), "c");
}

#[test]
fn a_load_that_nobody_knows_is_half_way_and_never_cold() {
    for (known, node) in [(0, "known"), (3, "known"), (5, "a"), (7, "a")] {
        let mut world = world(&[("a", None), ("known", Some(known))]);
        assert_eq!(goes(&mut world, batch("p", 1000)), node, "{known}");
    }
    let mut world = world(&[("a", Some(LOAD_STEPS / 2)), ("b", None)]);
    assert_eq!(goes(&mut world, batch("p", 1000)), "a", "equals go by the node order");
}

#[test]
fn another_step_of_load_values_that_node_anew_and_the_same_one_none() {
    let mut world = world(&[("a", Some(1)), ("b", Some(3)), ("c", Some(3)), ("d", None)]);
    assert_eq!(goes(&mut world, batch("p0", 1000)), "a");
    let mut pods = 0;
    let mut visited = |world: &mut World, told: Node| {
        world.tell(told);
        let before = world.cluster.work().nodes_visited;
        pods += 1;
        let node = goes(world, batch(&format!("p{pods}"), 1000));
        (node, world.cluster.work().nodes_visited - before)
    };
    let to = |node: &str, visited| (node.to_owned(), visited);
    // One is the node that the last pod got.
    assert_eq!(visited(&mut world, loaded("c", Some(3))), to("a", 1));
    assert_eq!(visited(&mut world, loaded("c", Some(2))), to("a", 2));
    assert_eq!(visited(&mut world, loaded("d", Some(2))), to("a", 2));
    assert_eq!(visited(&mut world, loaded("a", Some(7))), to("c", 1));
    assert_eq!(visited(&mut world, loaded("c", None)), to("d", 1));
    assert_eq!(visited(&mut world, loaded("a", Some(0))), to("a", 2));
}

#[test]
fn a_load_beyond_all_steps_is_the_last_of_them() {
    let mut world = world(&[("a", Some(u8::MAX)), ("b", Some(LOAD_STEPS - 1)), ("c", None)]);
    assert_eq!(goes(&mut world, batch("p", 1000)), "c");
    world.tell(loaded("c", Some(LOAD_STEPS)));
    assert_eq!(goes(&mut world, batch("q", 16_000)), "a");
}

#[test]
fn nobody_values_a_node_anew_for_its_load_for_whom_load_does_not_count() {
    let mut all = world(&[("a", Some(2)), ("b", Some(2))]);
    goes(&mut all, pod("p", 1000));
    let clock = all.cluster.model.changes.clock();
    all.tell(loaded("a", Some(6)));
    assert_eq!(all.cluster.model.changes.clock(), clock);
    assert_eq!(goes(&mut all, batch("b", 1000)), "b", "it counts for batch");
}
