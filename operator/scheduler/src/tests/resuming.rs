//! A search for those who could go that is not over when the work of a cycle is, goes on in the next.

use super::fixtures::*;
use crate::{
    Decision, Reason,
    event::{Level, Location, Pod, Topology},
};

const RACKS: usize = 12;

/// Racks of two nodes of two cores, full of pods of one core that borrow. In all racks but one, one node has a pod that
/// nobody may evict, so that a gang of two times two cores finds room in the last one only.
fn world(helps: Option<usize>) -> World {
    let mut world = World::with([
        queue("mine", None, &[("cpu", 64_000)], &[]).into(),
        queue("theirs", None, &[], &[]).into(),
    ]);
    for rack in 0..RACKS {
        for half in 0..2 {
            let name = format!("n{rack:02}-{half}");
            let mut on = node(&name, 2);
            on.location = Location {
                rack: Some(format!("r{rack:02}")),
                ..Location::default()
            };
            world.tell(on);
            for i in 0..2 {
                world.tell(Pod {
                    queue: "theirs".into(),
                    node: Some(name.clone()),
                    ours: (half, i) != (0, 0) || helps == Some(rack),
                    ..pod(&format!("v{rack:02}-{half}{i}"), 1000)
                });
            }
        }
    }
    let mut gang = claim("gang", "mine", &[("w", 2, 2, 1)]);
    gang.topology = Some(Topology {
        pack: Level::Rack,
        required: true,
    });
    world.tell(gang);
    for i in 0..2 {
        world.tell(member(&format!("g{i}"), "gang", "w", 2000));
    }
    world
}

fn tried(decisions: &[Decision]) -> Option<(u32, u32)> {
    decisions.iter().find_map(|d| match d {
        Decision::Pending {
            reason: Reason::LookingForRoom { tried, of, .. },
            ..
        } => Some((*tried, *of)),
        _ => None,
    })
}

#[test]
fn a_search_over_many_racks_goes_on_where_the_work_of_the_last_cycle_ended() {
    let mut world = world(Some(RACKS - 1));
    let (mut cycles, mut before) = (0, 0);
    let decisions = loop {
        let decisions = world.cycle_of(7);
        cycles += 1;
        assert!(cycles < 30, "it does not come to an end: {decisions:?}");
        let Some((tried, of)) = tried(&decisions) else {
            break decisions;
        };
        assert!(world.cluster.is_unfinished());
        assert!(tried > before && of == 12, "{tried} of {of} after {before}");
        before = tried;
    };
    assert!(
        cycles > 3,
        "{cycles} cycles for 11 racks of 3 pods each, of which each may try 7"
    );
    assert_eq!(evictions(&decisions).len(), 4, "{decisions:?}");
    assert!(evictions(&decisions).iter().all(|uid| uid.starts_with("v11")));
    assert!(!world.cluster.is_unfinished());
}

#[test]
fn a_search_that_is_in_vain_ends_and_says_so() {
    let mut world = world(None);
    let mut last = None;
    for _ in 0..30 {
        let decisions = world.cycle_of(7);
        assert_eq!(evictions(&decisions), Vec::<&str>::new());
        last = world.reason(&decisions, "gang-uid").or(last);
        if !world.cluster.is_unfinished() {
            break;
        }
    }
    assert!(!matches!(last, None | Some(Reason::LookingForRoom { .. })), "{last:?}");
    assert!(!world.cluster.is_unfinished());
    assert_eq!(world.cycle_of(7), []);
    assert!(world.cluster.model.searched.is_empty());
}

/// With work for all of it in one cycle nothing is left for the next.
#[test]
fn a_search_for_which_one_cycle_is_enough_is_over_in_one() {
    let mut world = world(Some(RACKS - 1));
    let decisions = world.cycle();
    assert_eq!(evictions(&decisions).len(), 4);
    assert!(!world.cluster.is_unfinished());
}

/// It went on for ever with a search that nobody made.
#[test]
fn a_search_that_nothing_can_come_of_any_more_is_forgotten() {
    let mut world = world(None);
    world.cycle_of(7);
    assert!(world.cluster.is_unfinished());
    for rack in 0..RACKS {
        for half in 0..2 {
            let mut on = node(&format!("n{rack:02}-{half}"), 2);
            on.location.rack = Some(format!("r{rack:02}"));
            on.unschedulable = true;
            world.tell(on);
        }
    }
    for _ in 0..3 {
        world.cycle_of(7);
    }
    assert!(!world.cluster.is_unfinished());
    assert!(world.cluster.model.searched.is_empty());
}

/// Two nodes of five cores, full of pods of one core that borrow, and a gang of two times five cores: ten have to go.
fn ten_have_to_go(topology: Option<Topology>) -> World {
    let mut world = World::with([
        queue("mine", None, &[("cpu", 64_000)], &[]).into(),
        queue("theirs", None, &[], &[]).into(),
    ]);
    for n in 0..2 {
        let name = format!("n{n}");
        let mut on = node(&name, 5);
        on.location.rack = Some("r".into());
        world.tell(on);
        for i in 0..5 {
            world.tell(Pod {
                queue: "theirs".into(),
                node: Some(name.clone()),
                ..pod(&format!("v{n}{i}"), 1000)
            });
        }
    }
    let mut gang = claim("gang", "mine", &[("w", 2, 2, 1)]);
    gang.topology = topology;
    world.tell(gang);
    for i in 0..2 {
        world.tell(member(&format!("g{i}"), "gang", "w", 5000));
    }
    world
}

/// It was given up as hopeless.
#[test]
fn a_gang_for_which_the_work_of_a_whole_cycle_is_not_enough_gets_twice_as_much_in_the_next() {
    let rack = Topology {
        pack: Level::Rack,
        required: true,
    };
    for topology in [None, Some(rack)] {
        let mut world = ten_have_to_go(topology);
        // 4 and 8 are not enough for 10.
        let mut said = None;
        for _ in 0..2 {
            let decisions = world.cycle_of(4);
            assert_eq!(evictions(&decisions), Vec::<&str>::new());
            said = world.reason(&decisions, "gang-uid").or(said);
            assert!(matches!(said, Some(Reason::LookingForRoom { .. })), "{said:?}");
            assert!(world.cluster.is_unfinished());
        }
        assert_eq!(evictions(&world.cycle_of(4)).len(), 10);
        assert!(!world.cluster.is_unfinished());
        assert!(world.cluster.model.searched.is_empty());
    }
}

#[test]
fn a_gang_that_more_work_does_not_help_is_given_up_after_as_much_as_there_is_to_try() {
    let mut world = ten_have_to_go(None);
    world.tell(member("g0", "gang", "w", 6000));
    let (mut cycles, mut said) = (0, None);
    while cycles == 0 || world.cluster.is_unfinished() {
        let decisions = world.cycle_of(4);
        assert_eq!(evictions(&decisions), Vec::<&str>::new());
        said = world.reason(&decisions, "gang-uid").or(said);
        cycles += 1;
        assert!(cycles < 10, "it does not come to an end");
    }
    assert!(!matches!(said, None | Some(Reason::LookingForRoom { .. })), "{said:?}");
    assert_eq!(world.cycle_of(4), []);
}

/// Nothing was said of those whose turn did not come.
#[test]
fn a_claim_whose_turn_does_not_come_in_a_cycle_says_that_it_is_looked_for_in_the_next() {
    let mut world = ten_have_to_go(None);
    world.tell(Pod {
        queue: "mine".into(),
        created: crate::Time(1),
        ..pod("late", 1000)
    });
    let decisions = world.cycle_of(4);
    assert_eq!(evictions(&decisions), Vec::<&str>::new());
    let reason = world.reason(&decisions, "late");
    let expected = Reason::LookingForRoom {
        level: Level::Node,
        tried: 0,
        of: 0,
    };
    assert_eq!(reason, Some(expected));
}
