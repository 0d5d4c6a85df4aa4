//! Elastic claims: they grow into what is free, by shares, and shrink for minima.

use proptest::prelude::*;

use super::fixtures::*;
use crate::{
    Decision, Event, EvictCause, Time,
    event::{Claim, Pod, Queue},
};

/// An elastic claim, with all the pods that it may ever have, of one core each.
fn elastic(world: &mut World, name: &str, queue: &str, (min, max, quantum): (u32, u32, u32)) {
    elastic_of(world, claim(name, queue, &[("w", min, max, quantum)]));
}

fn elastic_of(world: &mut World, of: Claim) {
    let (name, max, created) = (of.name.clone(), of.groups[0].max, of.created);
    world.tell(of);
    for i in 0..max {
        world.tell(Pod {
            created,
            ..member(&format!("{name}-{i:02}"), &name, "w", 1000)
        });
    }
}

/// Cycles until nothing is decided, with a controller that makes each pod anew that is evicted. All that was decided.
fn settle(world: &mut World) -> Vec<Decision> {
    let mut all = Vec::new();
    for _ in 0..100 {
        let decisions = world.run();
        if decisions.is_empty() {
            return all;
        }
        for uid in evictions(&decisions).into_iter().map(ToOwned::to_owned) {
            let again = Pod {
                node: None,
                devices: vec![],
                ..world.pods[&uid].clone()
            };
            world.tell(Event::PodGone(uid));
            world.tell(again);
        }
        all.extend(decisions);
    }
    panic!("it does not come to rest: {:?}", world.run());
}

/// Pods of a claim that have a seat.
fn size(world: &World, name: &str) -> usize {
    let model = &world.cluster.model;
    let uid = format!("{name}-uid");
    let claim = model.claims_by_uid[&*uid];
    model.members(claim).filter(|&p| model.pods[p].is_live()).count()
}

fn weighted(name: &str, weight: u32) -> Queue {
    Queue {
        weight,
        ..queue(name, None, &[], &[])
    }
}

#[test]
fn a_claim_grows_by_whole_quanta_and_says_its_size() {
    let mut world = World::with([node("n", 8).into(), queue("q", None, &[], &[]).into()]);
    elastic(&mut world, "c", "q", (2, 11, 3));
    let decisions = settle(&mut world);
    assert_eq!(size(&world, "c"), 8);
    assert_eq!(sizes(&decisions), [("c-uid", "w", 8)]);
    world.tell(node("m", 2));
    assert_eq!(sizes(&settle(&mut world)), [], "two are no quantum");
    world.tell(node("m", 9));
    assert_eq!(sizes(&settle(&mut world)), [("c-uid", "w", 11)]);
}

/// The first in the order took all there was.
#[test]
fn two_that_grow_share_what_is_free_by_the_weights_of_their_queues() {
    for (weights, shares) in [((1, 1), (12, 12)), ((3, 1), (18, 6)), ((1, 2), (8, 16))] {
        let mut world = World::with([
            node("n", 24).into(),
            weighted("a", weights.0).into(),
            weighted("b", weights.1).into(),
        ]);
        elastic(&mut world, "a", "a", (2, 30, 2));
        elastic(&mut world, "b", "b", (2, 30, 2));
        settle(&mut world);
        assert_eq!((size(&world, "a"), size(&world, "b")), shares, "{weights:?}");
    }
}

#[test]
fn two_of_one_queue_grow_alike_and_the_more_important_one_first() {
    for (priority, shares) in [(0, (6, 6)), (5, (10, 2))] {
        let mut world = World::with([node("n", 12).into(), queue("q", None, &[], &[]).into()]);
        for (name, priority) in [("a", priority), ("b", 0)] {
            elastic_of(
                &mut world,
                Claim {
                    priority,
                    ..claim(name, "q", &[("w", 2, 10, 1)])
                },
            );
        }
        settle(&mut world);
        assert_eq!((size(&world, "a"), size(&world, "b")), shares);
    }
}

#[test]
fn nobody_grows_before_the_others_have_their_minima() {
    let mut world = World::with([node("n", 6).into(), weighted("a", 1).into(), weighted("b", 9).into()]);
    elastic(&mut world, "a", "a", (1, 9, 1));
    elastic(&mut world, "b", "b", (2, 9, 1));
    for i in 0..3 {
        world.tell(Pod {
            queue: "a".into(),
            created: Time(5),
            ..pod(&format!("late-{i}"), 1000)
        });
    }
    settle(&mut world);
    assert_eq!((size(&world, "a"), size(&world, "b")), (1, 2));
}

/// All that is above a minimum goes back for a minimum of a guarantee, of a higher priority, or of a smaller share; and the
/// claim that has grown goes on.
#[test]
fn a_grown_claim_shrinks_for_the_minimum_of_another_and_is_not_evicted() {
    let guaranteed = queue("mine", None, &[("cpu", 4000)], &[]);
    let cases = [
        ("guarantee", guaranteed, "mine", 0),
        ("priority", weighted("mine", 1), "theirs", 5),
        ("equal priority", weighted("mine", 1), "theirs", 0),
        ("smaller share", weighted("mine", 1), "mine", 0),
    ];
    for (case, mine, in_queue, priority) in cases {
        let mut world = World::with([node("n", 10).into(), mine.into(), weighted("theirs", 1).into()]);
        elastic(&mut world, "grown", "theirs", (2, 20, 2));
        settle(&mut world);
        assert_eq!(size(&world, "grown"), 10);
        let mut want = claim("want", in_queue, &[("w", 3, 3, 1)]);
        (want.priority, want.created) = (priority, Time(1));
        elastic_of(&mut world, want);
        let decisions = settle(&mut world);
        assert_eq!((size(&world, "want"), size(&world, "grown")), (3, 6), "{case}");
        assert_eq!(sizes(&decisions), [("grown-uid", "w", 6)], "{case}");
        let by = "want-uid".to_owned();
        let shrunk = decisions
            .iter()
            .filter(|d| matches!(d, Decision::Evict { cause, .. } if *cause == EvictCause::Shrunk { by: by.clone() }));
        assert_eq!((shrunk.count(), evictions(&decisions).len()), (4, 4), "{case}");
        // The newest, and the last of them by name, go.
        assert!(evictions(&decisions).contains(&"grown-09"), "{case}");
        world.tell(Event::ClaimGone("want-uid".into()));
        for i in 0..3 {
            world.tell(Event::PodGone(format!("want-{i:02}")));
        }
        settle(&mut world);
        assert_eq!(size(&world, "grown"), 10, "{case}: it grows again when there is room");
    }
}

#[test]
fn nobody_shrinks_for_a_larger_share_a_lower_priority_or_out_of_a_guarantee() {
    let guaranteed = queue("theirs", None, &[("cpu", 10_000)], &[]);
    let cases = [
        ("lower priority", weighted("theirs", 1), "theirs", -1),
        ("larger share", weighted("theirs", 100), "mine", 0),
        ("guarantee", guaranteed, "mine", 0),
    ];
    for (case, theirs, in_queue, priority) in cases {
        let mut world = World::with([node("n", 12).into(), theirs.into(), weighted("mine", 1).into()]);
        for i in 0..2 {
            world.tell(Pod {
                queue: "mine".into(),
                ..pod(&format!("runs-{i}"), 1000)
            });
        }
        elastic(&mut world, "grown", "theirs", (2, 20, 1));
        settle(&mut world);
        let mut want = claim("want", in_queue, &[("w", 3, 3, 1)]);
        (want.priority, want.created) = (priority, Time(1));
        elastic_of(&mut world, want);
        let decisions = settle(&mut world);
        assert_eq!(evictions(&decisions), Vec::<&str>::new(), "{case}");
        assert_eq!((size(&world, "want"), size(&world, "grown")), (0, 10), "{case}");
    }
}

/// Shrinking is not enough: then the rest of the room comes from those who go as a whole.
#[test]
fn those_who_shrink_do_so_before_others_are_evicted() {
    let mut world = World::with([
        node("n", 10).into(),
        queue("mine", None, &[("cpu", 8000)], &[]).into(),
        weighted("theirs", 1).into(),
    ]);
    // The newest would go first.
    for i in 0..4 {
        world.tell(Pod {
            queue: "theirs".into(),
            created: Time(9),
            ..pod(&format!("whole-{i}"), 1000)
        });
    }
    elastic(&mut world, "grown", "theirs", (2, 6, 1));
    settle(&mut world);
    assert_eq!(size(&world, "grown"), 6);
    let mut want = |uid: &str, cores: i64| {
        world.tell(Pod {
            queue: "mine".into(),
            ..pod(uid, cores * 1000)
        });
        let decisions = settle(&mut world);
        evictions(&decisions)
            .into_iter()
            .map(ToOwned::to_owned)
            .collect::<Vec<_>>()
    };
    let gone = want("small", 3);
    assert!(
        gone.len() == 3 && gone.iter().all(|uid| uid.starts_with("grown")),
        "{gone:?}"
    );
    let gone = want("large", 3);
    assert_eq!(
        gone.iter().filter(|uid| uid.starts_with("grown")).count(),
        1,
        "{gone:?}"
    );
    assert_eq!(
        gone.iter().filter(|uid| uid.starts_with("whole")).count(),
        2,
        "{gone:?}"
    );
}

/// Its minimum goes: what it holds above that goes with it.
#[test]
fn a_grown_claim_that_has_to_go_goes_as_a_whole() {
    let mut world = World::with([
        node("n", 4).into(),
        queue("mine", None, &[("cpu", 4000)], &[]).into(),
        weighted("theirs", 1).into(),
    ]);
    elastic(&mut world, "grown", "theirs", (2, 4, 1));
    settle(&mut world);
    world.tell(Pod {
        queue: "mine".into(),
        ..pod("want", 3000)
    });
    let decisions = world.run();
    assert_eq!(evictions(&decisions).len(), 4, "{decisions:?}");
    let by = "want".to_owned();
    assert!(
        decisions
            .iter()
            .all(|d| !matches!(d, Decision::Evict { cause, .. } if *cause != EvictCause::Reclaimed { by: by.clone() }))
    );
}

#[test]
fn the_minimum_runtime_keeps_what_has_grown_too() {
    let mut world = World::with([node("n", 4).into(), weighted("q", 1).into()]);
    elastic_of(
        &mut world,
        Claim {
            min_runtime: 60_000,
            ..claim("grown", "q", &[("w", 1, 4, 1)])
        },
    );
    settle(&mut world);
    world.tell(Pod {
        queue: "q".into(),
        ..pod("want", 1000)
    });
    assert_eq!(evictions(&settle(&mut world)), Vec::<&str>::new());
    world.now += 60_000;
    assert_eq!(evictions(&settle(&mut world)), ["grown-03"]);
}

/// Those that stand where the others need the room give way, whoever is the newest.
#[test]
fn of_a_claim_that_shrinks_those_go_that_stand_in_the_way() {
    let mut world = World::with([
        node("a", 4).into(),
        node("b", 4).into(),
        queue("mine", None, &[("cpu", 4000)], &[]).into(),
        weighted("theirs", 1).into(),
    ]);
    world.tell(claim("grown", "theirs", &[("w", 4, 8, 1)]));
    for i in 0..8 {
        world.tell(Pod {
            node: Some(["a", "b"][i % 2].into()),
            ..member(&format!("grown-{i:02}"), "grown", "w", 1000)
        });
    }
    settle(&mut world);
    world.tell(Pod {
        queue: "mine".into(),
        ..pod("want", 4000)
    });
    let decisions = settle(&mut world);
    assert_eq!(evictions(&decisions).len(), 4, "{decisions:?}");
    assert_eq!(size(&world, "grown"), 4, "it goes on");
}

#[derive(Clone, Debug)]
struct Any {
    queue: usize,
    priority: i32,
    sizes: (u32, u32, u32),
    created: i64,
}

fn any_claim() -> impl Strategy<Value = Any> {
    (0..3_usize, 0..2_i32, 0..4_u32, 0..8_u32, 1..4_u32, 0..5_i64).prop_map(
        |(queue, priority, min, more, quantum, created)| Any {
            queue,
            priority,
            sizes: (min, min + more, quantum),
            created,
        },
    )
}

proptest! {
    /// `settle` fails if they go on for ever, with every pod that is evicted made anew at once; and at rest each has a size
    /// that it may have.
    #[test]
    fn elastic_claims_come_to_rest_whatever_they_want(
        claims in prop::collection::vec(any_claim(), 1..8),
        cores in prop::collection::vec(1..9_i64, 1..4),
        weights in prop::array::uniform3(1..4_u32),
        guaranteed in 0..6_i64,
        leaves in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let mut world = World::default();
        for (i, cores) in cores.iter().enumerate() {
            world.tell(node(&format!("n{i}"), *cores));
        }
        for (i, weight) in weights.into_iter().enumerate() {
            let guarantee = [("cpu", guaranteed * 1000)];
            let guarantee = if i == 0 && guaranteed > 0 { &guarantee[..] } else { &[] };
            world.tell(Queue { weight, ..queue(&format!("q{i}"), None, guarantee, &[]) });
        }
        let tell = |world: &mut World, i: usize, of: &Any| elastic_of(world, Claim {
            priority: of.priority,
            created: Time(of.created),
            ..claim(&format!("c{i}"), &format!("q{}", of.queue), &[("w", of.sizes.0, of.sizes.1, of.sizes.2)])
        });
        for (i, of) in claims.iter().enumerate() {
            tell(&mut world, i, of);
            settle(&mut world);
        }
        for leaf in leaves {
            let i = leaf.index(claims.len());
            for pod in 0..claims[i].sizes.1 {
                world.tell(Event::PodGone(format!("c{i}-{pod:02}")));
            }
            settle(&mut world);
            tell(&mut world, i, &claims[i]);
            settle(&mut world);
        }
        prop_assert_eq!(world.cycle(), []);
        for (i, of) in claims.iter().enumerate() {
            let (size, (min, max, quantum)) = (u32::try_from(size(&world, &format!("c{i}"))).unwrap(), of.sizes);
            prop_assert!(size == 0 || (size >= min && size <= max), "c{}: {}", i, size);
            prop_assert!(size == 0 || size == max || (size - min) % quantum == 0, "c{}: {}", i, size);
        }
    }
}
