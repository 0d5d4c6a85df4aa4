//! Parts of any node, against every way to share them out.

use proptest::prelude::*;

use super::{
    cells::{claim_of, seats, tell_all},
    fixtures::*,
};
use crate::event::{Level, Node, Pod, Topology};

/// A node with cells, whom it holds already, and a gang that asks for one cell.
#[derive(Clone, Debug)]
struct Case {
    node: Node,
    held: Vec<(Vec<u16>, i64)>,
    topology: Topology,
    count: u32,
    milli: i64,
    gpus: u16,
}

fn any_case() -> impl Strategy<Value = Case> {
    let cards = prop::collection::vec((prop::option::of(0..2_u16), prop::option::of(0..3_u16), 0..8_u8), 0..7);
    let held = prop::collection::vec((prop::collection::vec(0..7_u16, 0..3), 0..3000_i64), 0..3);
    let ask = (1..4_u32, 1..5000_i64, 0..4_u16, any::<bool>());
    (cards, prop::collection::vec(1..6_i64, 0..3), 0..14_i64, held, ask).prop_map(
        |(cards, numa, cores, held, (count, milli, gpus, by_numa))| {
            let mut node = gpu_node("n", cards.len(), "A100");
            node.allocatable = amounts(&[("cpu", cores * 1000), ("memory", 64 * GI), ("pods", 30)]);
            node.numa = numa.iter().zip(0..).map(|(cores, id)| numa_node(id, *cores)).collect();
            for (gpu, (numa, link, state)) in node.gpus.iter_mut().zip(cards) {
                (gpu.numa, gpu.nvlink) = (numa, link);
                (gpu.unhealthy, gpu.divided) = (state == 0, state == 1);
            }
            let pack = if by_numa { Level::Numa } else { Level::Nvlink };
            let topology = Topology { pack, required: true };
            Case {
                node,
                held,
                topology,
                count,
                milli,
                gpus,
            }
        },
    )
}

impl Case {
    /// Whether one cell holds all of the gang, by going through every way to give them cards.
    fn is_possible(&self) -> bool {
        let cores: i64 = self.held.iter().map(|(_, milli)| milli).sum();
        let total = self.milli * i64::from(self.count);
        if cores + total > self.node.allocatable["cpu"] || GI * i64::from(self.count) > 64 * GI {
            return false;
        }
        let taken = |card: u16| self.held.iter().any(|(cards, _)| cards.contains(&card));
        let free: Vec<u16> = (0..u16::try_from(self.node.gpus.len()).unwrap())
            .filter(|&card| {
                let gpu = &self.node.gpus[usize::from(card)];
                !gpu.unhealthy && !gpu.divided && !taken(card)
            })
            .collect();
        let wanted = usize::from(self.gpus) * self.count as usize;
        // Every set of cards of that size.
        (0..1_u32 << free.len())
            .filter(|set| set.count_ones() as usize == wanted)
            .any(|set| {
                let cards = free.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1);
                let cards: Vec<_> = cards.map(|(_, card)| &self.node.gpus[usize::from(*card)]).collect();
                match self.topology.pack {
                    Level::Numa => self.node.numa.iter().any(|numa| {
                        let all: i64 = self.node.numa.iter().map(|n| n.cpu).sum();
                        let part = self.node.allocatable["cpu"] * numa.cpu / all;
                        let memory: i64 = self.node.numa.iter().map(|n| n.memory).sum();
                        let memory = 64 * GI / memory * numa.memory;
                        total <= part
                            && GI * i64::from(self.count) <= memory
                            && cards.iter().all(|card| card.numa == Some(numa.id))
                    }),
                    _ => (0..3).any(|group| {
                        let is_there = self.node.gpus.iter().any(|card| card.nvlink == Some(group));
                        is_there && cards.iter().all(|card| card.nvlink == Some(group))
                    }),
                }
            })
    }
}

proptest! {
    /// A gang that has to share a cell gets one if, and only if, some choice of cards in some cell has room for all of it;
    /// and then no card is given twice, and all are where they have to be.
    #[test]
    fn a_cell_is_found_if_there_is_one(case in any_case()) {
        let mut world = World::with([case.node.clone().into()]);
        for (i, (devices, milli)) in case.held.iter().enumerate() {
            let count = u16::try_from(devices.len()).unwrap();
            world.tell(Pod {
                node: Some("n".into()),
                devices: devices.clone(),
                gpus: (count > 0).then(|| whole(count)),
                ours: false,
                requests: amounts(&[("cpu", *milli)]),
                ..pod(&format!("held{i}"), 0)
            });
        }
        let gpus = (case.gpus > 0).then(|| whole(case.gpus));
        let said = tell_all(&mut world, claim_of("g", Some(case.topology), case.count, case.milli, gpus));
        let bound = seats(&said);
        prop_assert_eq!(bound.len() == case.count as usize, case.is_possible(), "{:?}", said);
        prop_assert!(bound.is_empty() || bound.len() == case.count as usize);
        let mut given: Vec<u16> = bound.iter().flat_map(|seat| seat.2.clone()).collect();
        given.extend(case.held.iter().flat_map(|(devices, _)| devices.clone()));
        let of_gang = bound.iter().flat_map(|seat| seat.2.clone());
        for card in of_gang {
            prop_assert_eq!(given.iter().filter(|other| **other == card).count(), 1);
            prop_assert!(!case.node.gpus[usize::from(card)].unhealthy);
        }
    }

    /// Of the cards that are free, several for one pod are linked if they can be, else at one NUMA node if they can be.
    #[test]
    fn cards_are_as_close_as_they_can_be(case in any_case()) {
        let wanted = case.gpus.max(2);
        let mut world = World::with([Node { allocatable: amounts(&[("pods", 9)]), ..case.node.clone() }.into()]);
        world.tell(Pod { requests: amounts(&[]), ..gpu_pod("p", whole(wanted)) });
        let said = world.run();
        let open = |gpu: &&crate::event::Gpu| !gpu.unhealthy && !gpu.divided;
        let widest = |of: fn(&crate::event::Gpu) -> Option<u16>| (0..3)
            .any(|group| case.node.gpus.iter().filter(open).filter(|gpu| of(gpu) == Some(group)).count() >= usize::from(wanted));
        let bound = seats(&said);
        prop_assert_eq!(bound.is_empty(), case.node.gpus.iter().filter(open).count() < usize::from(wanted));
        let Some((_, _, cards, _)) = bound.first() else { return Ok(()) };
        let one = |of: fn(&crate::event::Gpu) -> Option<u16>| {
            let groups: std::collections::BTreeSet<_> = cards.iter().map(|card| of(&case.node.gpus[usize::from(*card)])).collect();
            groups.len() == 1 && !groups.contains(&None)
        };
        if widest(|gpu| gpu.nvlink) {
            prop_assert!(one(|gpu| gpu.nvlink), "{:?}", cards);
        } else if widest(|gpu| gpu.numa) {
            prop_assert!(one(|gpu| gpu.numa), "{:?}", cards);
        }
    }
}
