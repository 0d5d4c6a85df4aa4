//! Gangs that stand close together and find no room: whom they have evicted, and what is kept for them.

use std::collections::BTreeSet;

use super::{fixtures::*, topology::*};
use crate::{
    Decision, Event, Time,
    event::{Claim, Pod},
};

/// Racks a and b of two nodes with 2 cores each, full of one-core pods that borrow, older ones first on a.
fn borrowed_racks() -> World {
    let mut world = World::with([
        queue("mine", None, &[("cpu", 4000)], &[]).into(),
        queue("yours", None, &[("cpu", 0)], &[]).into(),
    ]);
    for (name, rack) in [("a0", "a"), ("a1", "a"), ("b0", "b"), ("b1", "b")] {
        world.tell(in_rack(name, 2, rack));
    }
    for i in 0..8 {
        world.tell(Pod {
            queue: "yours".into(),
            created: Time(i),
            // Rack b holds what matters more.
            ..pod(&format!("y{i}"), 1000)
        });
    }
    world.run();
    world
}

#[test]
fn reclaim_for_one_rack_evicts_in_one_rack_only() {
    let mut world = borrowed_racks();
    let mut mine = rack_claim("g", 3, true);
    mine.queue = "mine".into();
    gang(&mut world, mine, &[("w", 3, 1000)]);
    let said = world.run();
    let gone = evictions(&said);
    let racks: BTreeSet<String> = gone
        .iter()
        .map(|pod| world.pods[*pod].node.clone().unwrap()[..1].to_owned())
        .collect();
    assert_eq!((gone.len(), racks.len()), (3, 1), "{said:?}");
    let gone: Vec<String> = gone.into_iter().map(Into::into).collect();
    for pod in gone {
        world.tell(Event::PodGone(pod));
    }
    let decisions = world.run();
    assert_eq!(binds(&decisions).len(), 3);
    let bound: BTreeSet<&str> = nodes(&decisions).into_keys().map(|n| &n[..1]).collect();
    assert_eq!(bound.len(), 1);
}

#[test]
fn a_gang_that_waits_for_a_rack_has_a_start_reserved_in_one_rack() {
    let mut world = World::default();
    for (name, rack) in [("a0", "a"), ("a1", "a"), ("b0", "b"), ("b1", "b")] {
        world.tell(in_rack(name, 1, rack));
    }
    // a0 and b0 are free after 1 s, which makes two nodes; a rack is free after 5 s.
    for (name, length) in [("a0", 1000), ("a1", 5000), ("b0", 1000), ("b1", 9000)] {
        let mut runs = claim(&format!("on-{name}"), "", &[("w", 1, 1, 1)]);
        runs.expected_duration = Some(length);
        world.tell(runs);
        let pod = Pod {
            node: Some(name.into()),
            ..member(name, &format!("on-{name}"), "w", 1000)
        };
        world.tell(pod);
    }
    world.run();
    gang(&mut world, rack_claim("g", 2, true), &[("w", 2, 1000)]);
    let said = world.run();
    let start = said.iter().find_map(|d| match d {
        Decision::Reserve { claim, start } if claim == "g-uid" => *start,
        _ => None,
    });
    assert_eq!(start, Some(Time(5000)), "{said:?}");
    for name in ["a0", "b0", "a1"] {
        world.now = if name == "a1" { 5000 } else { 1000 };
        world.tell(Event::PodGone(name.into()));
        world.tell(Event::ClaimGone(format!("on-{name}-uid")));
        let decisions = world.run();
        let expected = if name == "a1" { vec!["a0", "a1"] } else { vec![] };
        assert_eq!(nodes(&decisions).into_keys().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn nobody_is_evicted_for_a_gang_that_no_rack_could_hold() {
    let mut world = borrowed_racks();
    let mut mine = rack_claim("g", 5, true);
    mine.queue = "mine".into();
    for i in 0..2 {
        world.tell(in_rack(&format!("z{i}"), 0, "z"));
    }
    world.tell(queue("mine", None, &[("cpu", 8000)], &[]));
    gang(&mut world, mine, &[("w", 5, 1000)]);
    let said = world.run();
    assert_eq!(evictions(&said), Vec::<&str>::new());
    assert_eq!(binds(&said), []);
    // Two racks together would have held it.
    gang(
        &mut world,
        Claim {
            queue: "mine".into(),
            ..claim("h", "", &[("w", 5, 5, 1)])
        },
        &[("w", 5, 1000)],
    );
    assert_eq!(evictions(&world.run()).len(), 5);
}
