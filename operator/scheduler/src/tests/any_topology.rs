//! Any gangs in any areas: none is parted that must not be, and what the index counts by area is what is there.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{fixtures::*, topology::at};
use crate::{
    Decision, Event,
    event::{Claim, Level, Location, Node, Pod, Topology},
    model::Seat,
};

fn any_rack_node() -> impl Strategy<Value = Node> {
    let place = (0..3_u8, 0..3_u8, 0..4_u8, 0..3_u8);
    let cells = (
        0..3_u16,
        prop::collection::vec((prop::option::of(0..2_u16), prop::option::of(0..2_u16)), 4),
    );
    (0..12_usize, 0..5_i64, 0..5_usize, place, cells).prop_map(
        |(i, cores, gpus, (zone, block, rack, nvlink), (numa, links))| {
            let name = |kind: &str, of: u8| if of == 0 { String::new() } else { format!("{kind}{of}") };
            let mut node = Node {
                allocatable: amounts(&[("cpu", cores * 1000), ("memory", 64 * GI), ("pods", 6)]),
                location: Location {
                    nvlink: (nvlink == 2).then(|| "domain".into()),
                    ..at(&name("z", zone), &name("b", block), &name("r", rack))
                },
                numa: (0..numa).map(|id| numa_node(id, 2 + i64::from(id))).collect(),
                ..gpu_node(&format!("n{i:02}"), gpus, "A100")
            };
            for (gpu, (numa, link)) in node.gpus.iter_mut().zip(links) {
                (gpu.numa, gpu.nvlink) = (numa, link);
            }
            node
        },
    )
}

fn any_topology() -> impl Strategy<Value = Option<Topology>> {
    (prop::option::of(0..Level::ALL.len()), any::<bool>()).prop_map(|(level, required)| {
        level.map(|level| Topology {
            pack: Level::ALL[level],
            required,
        })
    })
}

/// A claim of up to two groups, and their pods.
fn any_gang() -> impl Strategy<Value = (Claim, Vec<Pod>)> {
    let group = || (1..4_u32, 0..3_u32, any_topology(), 1..3_i64, 0..3_u16);
    (0..6_usize, any_topology(), prop::collection::vec(group(), 1..3)).prop_map(|(i, topology, groups)| {
        let name = format!("c{i}");
        let mut claim = claim(&name, "", &[]);
        claim.topology = topology;
        let mut pods = Vec::new();
        for (g, (min, more, topology, cores, gpus)) in groups.into_iter().enumerate() {
            let group = format!("g{g}");
            claim.groups.push(crate::event::Group {
                name: group.clone(),
                min,
                max: min + more,
                quantum: 1,
                topology,
                ..Default::default()
            });
            for p in 0..min + more {
                let mut pod = member(&format!("{name}-{group}-{p}"), &name, &group, cores * 500);
                pod.gpus = match gpus {
                    0 => Some(whole(1)),
                    1 => Some(share(400)),
                    _ => None,
                };
                pods.push(pod);
            }
        }
        (claim, pods)
    })
}

#[derive(Clone, Debug)]
enum Step {
    Node(Node),
    NodeGone(usize),
    Gang(Claim, Vec<Pod>),
    PodGone(usize),
    Cycle(bool),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any_rack_node().prop_map(Step::Node),
        1 => (0..12_usize).prop_map(Step::NodeGone),
        3 => any_gang().prop_map(|(claim, pods)| Step::Gang(claim, pods)),
        2 => (0..40_usize).prop_map(Step::PodGone),
        4 => any::<bool>().prop_map(Step::Cycle),
    ]
}

proptest! {
    /// `World` checks after each cycle that what was placed stands as it has to (`Model::keeps_its_topology`); here it is
    /// found once more from the labels alone. And what the index counts by area is what a look at every node counts.
    #[test]
    fn a_gang_is_never_parted_and_the_counts_equal_a_recount(steps in prop::collection::vec(any_step(), 1..50)) {
        let mut world = World::default();
        for step in steps {
            match step {
                Step::Node(node) => world.tell(node),
                Step::NodeGone(i) => world.tell(Event::NodeGone(format!("n{i:02}"))),
                Step::Gang(claim, pods) => {
                    world.tell(claim);
                    for pod in pods {
                        if !world.pods.contains_key(&pod.uid) {
                            world.tell(pod);
                        }
                    }
                }
                Step::PodGone(i) => {
                    let uid = world.pods.keys().nth(i % world.pods.len().max(1)).cloned();
                    if let Some(uid) = uid {
                        world.tell(Event::PodGone(uid));
                    }
                }
                Step::Cycle(confirm) => {
                    world.now += 1000;
                    let decisions = world.cycle();
                    no_required_gang_is_parted(&world, &decisions)?;
                    if confirm {
                        world.confirm(&decisions);
                    }
                }
            }
            counts_equal_a_recount(&mut world)?;
        }
        for _ in 0..3 {
            world.cycle();
        }
        prop_assert_eq!(world.cycle(), []);
    }
}

/// The pods of each gang that had some bound in this cycle.
fn no_required_gang_is_parted(world: &World, decisions: &[Decision]) -> Result<(), TestCaseError> {
    let model = &world.cluster.model;
    for (pod, node) in binds(decisions) {
        let pod = &model.pods[model.pods_by_uid[pod]];
        let claim = &model.claims[pod.claim.unwrap()];
        let group = claim.groups.iter().find(|g| *g.spec.name == *pod.group).unwrap();
        let home = pod.place.seat().unwrap();
        let one = |group: &dyn Fn(&u16) -> Option<u16>, seat: &Seat| {
            let groups: BTreeSet<_> = seat.devices.iter().map(group).collect();
            groups.first().copied().flatten().filter(|_| groups.len() == 1)
        };
        let part = |level: Level, seat: &Seat| {
            let of = &model.nodes[seat.node];
            let Location {
                zone,
                block,
                rack,
                nvlink,
            } = of.location.clone();
            match level {
                // One that was bound before its claim asked for this stands where its cards are.
                Level::Numa => {
                    let by_cards = || one(&|device| of.devices[usize::from(*device)].numa, seat);
                    let id = seat.numa.or_else(by_cards)?;
                    of.numa
                        .iter()
                        .any(|numa| numa.id == id)
                        .then(|| format!("{}/{id}", of.name))
                }
                Level::Nvlink if nvlink.is_some() => nvlink.map(|name| format!("{zone:?}/{block:?}/{rack:?}/{name}")),
                Level::Nvlink => {
                    let link = one(&|device| of.devices[usize::from(*device)].nvlink, seat)?;
                    Some(format!("{}/{link}", of.name))
                }
                Level::Node => Some(of.name.to_string()),
                Level::Rack => rack.map(|rack| format!("{zone:?}/{block:?}/{rack}")),
                Level::Block => block.map(|block| format!("{zone:?}/{block}")),
                Level::Zone => zone,
            }
        };
        let check = |topology: Option<Topology>, members: &mut dyn Iterator<Item = crate::slab::PodOrd>| {
            let Some(Topology { pack, required: true }) = topology else {
                return Ok(());
            };
            // Who has no device is in no NVLink group, and those who have are in one without it.
            let counts = |seat: &Seat| pack != Level::Nvlink || !seat.devices.is_empty();
            if !counts(home) {
                return Ok(());
            }
            let here = part(pack, home);
            prop_assert!(here.is_some(), "bound to {node}, which is in no {pack:?}");
            for other in members.filter(|&p| model.pods[p].is_live()) {
                let seat = model.pods[other].place.seat().unwrap();
                if counts(seat) {
                    prop_assert_eq!(part(pack, seat), here.clone());
                }
            }
            Ok(())
        };
        check(group.spec.topology, &mut group.members.iter().copied())?;
        check(
            claim.topology,
            &mut claim.groups.iter().flat_map(|g| g.members.iter().copied()),
        )?;
    }
    Ok(())
}

fn fits(model: &crate::model::Model, shape: &crate::model::Shape, node: &crate::model::NodeSlot) -> bool {
    model.fits_ever(shape, node).is_ok() && model.devices_now(shape, node, None).is_ok()
}

fn counts_equal_a_recount(world: &mut World) -> Result<(), TestCaseError> {
    let crate::Cluster { model, index, policy } = &mut world.cluster;
    let pods: BTreeMap<_, _> = model.pods.iter().map(|(pod, slot)| (slot.shape, pod)).collect();
    for (shape, pod) in pods {
        let look = model.look(pod);
        for level in Level::ALL {
            let mut again: BTreeMap<crate::slab::AreaOrd, u64> = BTreeMap::new();
            for (_, node) in model.nodes.iter().filter(|(_, n)| n.present) {
                let value = model.shapes.value(shape);
                if !fits(model, value, node) {
                    continue;
                }
                for (area, cell) in node.areas_at(level) {
                    let room = cell.map_or_else(|| model.room(value, node), |cell| model.room_in(value, node, cell));
                    if room > 0 {
                        *again.entry(area).or_default() += u64::from(room);
                    }
                }
            }
            for area in model.areas.of_level(level) {
                let room = index.room(model, *policy, look, area);
                prop_assert_eq!(room, again.get(&area).copied().unwrap_or_default());
                let best = index.best_beside(model, *policy, look, &BTreeSet::new(), Some(area));
                prop_assert_eq!(best.is_some(), room > 0);
                prop_assert!(best.is_none_or(|node| model.nodes[node].touches(area)));
            }
            let all = index.by_area(model, *policy, look, level).unwrap();
            let listed: BTreeSet<_> = all.tightest(1).collect();
            prop_assert_eq!(listed, again.into_keys().collect::<BTreeSet<_>>());
        }
    }
    Ok(())
}

proptest! {
    /// How many pods of a shape a node has room for is how many it takes one after the other.
    #[test]
    fn the_room_of_a_node_is_what_it_takes(
        cores in 0..9_i64,
        gpus in 0..5_usize,
        milli in 100..3000_i64,
        need in prop_oneof![Just(None), (1..4_u16).prop_map(|n| Some(whole(n))), (1..=1000_u16).prop_map(|m| Some(share(m)))],
        others in prop::collection::vec(1..=1000_u16, 0..4),
    ) {
        let mut world = World::with([Node {
            allocatable: amounts(&[("cpu", cores * 1000), ("memory", 64 * GI), ("pods", 20)]),
            ..gpu_node("n", gpus, "A100")
        }.into()]);
        for (i, other) in others.iter().enumerate() {
            world.tell(gpu_pod(&format!("other{i}"), share(*other)));
        }
        world.run();
        for i in 0..20 {
            world.tell(Pod { gpus: need.clone(), priority: -1, ..pod(&format!("p{i:02}"), milli) });
        }
        let model = &world.cluster.model;
        let shape = model.shapes.value(model.pods[model.pods_by_uid["p00"]].shape);
        let node = &model.nodes[model.nodes_by_name["n"]];
        let room = if fits(model, shape, node) { model.room(shape, node) } else { 0 };
        let decisions = world.run();
        let taken = binds(&decisions).iter().filter(|(pod, _)| pod.starts_with('p')).count();
        prop_assert_eq!(taken, room as usize);
    }
}
