//! What queues lend of their guarantees, and what they keep.

use super::fixtures::*;
use crate::{
    Event, Reason, Tier,
    event::{Pod, Queue, Quota},
};

/// A queue that is guaranteed `cores` and lends `lends` of them.
fn lender(name: &str, parent: Option<&str>, cores: i64, lends: i64) -> Queue {
    let mut queue = queue(name, parent, &[("cpu", cores * 1000)], &[]);
    queue.quotas[0].lend_limit = amounts(&[("cpu", lends * 1000)]);
    queue
}

fn fill(world: &mut World, queue: &str, count: usize) {
    for i in 0..count {
        world.tell(Pod {
            queue: queue.into(),
            ..pod(&format!("{queue}-{i}"), 1000)
        });
    }
}

fn kept(queue: &str, free: i64, kept: i64) -> Reason {
    Reason::KeptForOthers {
        queue: queue.into(),
        resource: "cpu".into(),
        asked: 1000,
        free,
        kept,
    }
}

#[test]
fn what_is_not_lent_stays_free_and_whoever_waits_for_it_is_told_the_numbers() {
    let mut world = World::with([
        node("n", 10).into(),
        lender("sure", None, 6, 2).into(),
        queue("other", None, &[], &[]).into(),
    ]);
    fill(&mut world, "other", 10);
    let decisions = world.run();
    assert_eq!(binds(&decisions).len(), 6, "4 of its 6 cores are kept");
    let reason = world.reason(&decisions, "other-6").unwrap();
    assert_eq!(reason, kept("sure", 4000, 4000));
    assert_eq!(
        reason.to_string(),
        "it asks for 1 cpu; of the 4 cpu that are free, 4 cpu are kept for queues that do not lend them, most of it for \
         queue sure"
    );
    let view = world.cluster.queues();
    let lent = &view.iter().find(|q| q.name == "sure").unwrap().tiers[0].lent;
    assert_eq!(lent, &amounts(&[("cpu", 2000)]));

    // It uses what it kept: nobody has to go for it, and nothing more becomes free for others.
    fill(&mut world, "sure", 4);
    let decisions = world.run();
    assert_eq!((binds(&decisions).len(), evictions(&decisions).len()), (4, 0));
    world.tell(Event::PodGone("sure-0".into()));
    assert!(binds(&world.run()).is_empty());
    // A change of what it lends lets others in at once.
    world.tell(lender("sure", None, 6, 3));
    assert_eq!(binds(&world.run()).len(), 1);
}

#[test]
fn what_is_kept_counts_below_the_limit_of_a_parent_too() {
    let mut world = World::with([
        node("n", 100).into(),
        queue("org", None, &[], &[("cpu", 8000)]).into(),
        lender("a", Some("org"), 5, 0).into(),
        queue("b", Some("org"), &[], &[]).into(),
        queue("elsewhere", None, &[], &[]).into(),
    ]);
    fill(&mut world, "b", 8);
    fill(&mut world, "elsewhere", 10);
    let decisions = world.run();
    assert_eq!(binds(&decisions).len(), 3 + 10);
    assert_eq!(world.reason(&decisions, "b-3"), Some(kept("a", 5000, 5000)));
    fill(&mut world, "a", 5);
    assert_eq!(binds(&world.run()).len(), 5);
}

#[test]
fn a_guarantee_that_is_kept_deep_in_the_tree_is_kept_from_everybody_outside() {
    let mut world = World::with([
        node("n", 10).into(),
        queue("org", None, &[], &[]).into(),
        queue("unit", Some("org"), &[], &[]).into(),
        lender("team", Some("unit"), 7, 0).into(),
        queue("other", None, &[], &[]).into(),
    ]);
    fill(&mut world, "other", 10);
    fill(&mut world, "unit", 1);
    fill(&mut world, "org", 1);
    assert_eq!(binds(&world.run()).len(), 3);
    fill(&mut world, "team", 7);
    assert_eq!(binds(&world.run()).len(), 7);
}

/// More is promised than there is: each may still use its own.
#[test]
fn two_that_keep_more_than_there_is_do_not_block_each_other() {
    let mut world = World::with([
        node("n", 10).into(),
        lender("a", None, 8, 0).into(),
        lender("b", None, 8, 0).into(),
    ]);
    fill(&mut world, "a", 10);
    fill(&mut world, "b", 10);
    assert_eq!(binds(&world.run()).len(), 10);
}

#[test]
fn what_borrowers_hold_of_a_guarantee_comes_back_though_something_is_free() {
    let mut world = World::with([
        node("n", 10).into(),
        queue("mine", None, &[("cpu", 4000)], &[]).into(),
        lender("sure", None, 4, 0).into(),
        queue("other", None, &[], &[]).into(),
    ]);
    fill(&mut world, "other", 10);
    assert_eq!(binds(&world.run()).len(), 6);
    fill(&mut world, "mine", 1);
    let decisions = world.run();
    assert_eq!(evictions(&decisions).len(), 1, "{decisions:?}");
    let gone = evictions(&decisions)[0].to_owned();
    world.tell(Event::PodGone(gone));
    assert_eq!(binds(&world.run()), [("mine-0", "n")]);
}

/// Batch was measured against GPUs of its own tier, of which no node has any: all of its idle guarantee was said to be lent.
#[test]
fn devices_that_are_free_are_not_lent_in_whichever_tier_they_are_guaranteed() {
    let batch = Queue {
        name: "batch".into(),
        weight: 1,
        quotas: vec![Quota {
            tier: Tier::Batch,
            guaranteed: amounts(&[("gpu", 2000)]),
            ..Default::default()
        }],
        ..Default::default()
    };
    let mut world = World::with([gpu_node("n", 4, "A100").into(), batch.into()]);
    let lent = |world: &World| {
        let queues = world.cluster.queues();
        let batch = queues.iter().find(|q| q.name == "batch").unwrap();
        let tier = batch.tiers.iter().find(|t| t.tier == Tier::Batch).unwrap();
        tier.lent.clone()
    };
    assert_eq!(lent(&world), amounts(&[]));
    world.tell(gpu_pod("p", whole(3)));
    world.run();
    assert_eq!(lent(&world), amounts(&[("gpu", 1000)]));
}

/// Each idle queue used to say that it had lent all that was not free.
#[test]
fn what_two_idle_queues_lent_together_is_no_more_than_what_is_borrowed() {
    let mut world = World::with([
        node("n", 8).into(),
        lender("a", None, 3, 3).into(),
        lender("b", None, 1, 1).into(),
        queue("other", None, &[], &[]).into(),
    ]);
    fill(&mut world, "other", 8);
    assert_eq!(binds(&world.run()).len(), 8);
    let of = |name: &str| {
        let queues = world.cluster.queues();
        queues.iter().find(|q| q.name == name).unwrap().tiers[0].lent["cpu"]
    };
    assert_eq!((of("a"), of("b")), (3000, 1000));
}
