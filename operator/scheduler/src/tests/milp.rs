//! The core against the exact optimum on instances that are too large for trying everything, with two resources, gangs and
//! priorities: each is solved as a mixed integer programme. What the core chooses is possible, and never better than the
//! optimum, which would mean that the programme is wrong; the gap is printed
//! (`cargo test -p duosuan-scheduler milp -- --nocapture`), and has a bound in the mean.

use microlp::{ComparisonOp, Error, LinearExpr, OptimizationDirection, Problem, Variable};

use super::{
    fixtures::*,
    optimum::{Gap, Random},
};
use crate::{
    Decision, Event, Time,
    event::{Claim, Node, Pod},
};

const INSTANCES: u64 = 150;

/// What a node has, or a pod asks for.
#[derive(Clone, Copy, Debug)]
struct Size {
    cores: i32,
    gib: i32,
}

impl Size {
    fn of(random: &mut Random, cores: (i64, i64), gib: (i64, i64)) -> Size {
        let mut some = |(low, high)| i32::try_from(random.between(low, high)).unwrap();
        Size {
            cores: some(cores),
            gib: some(gib),
        }
    }

    fn parts(self) -> [i32; 2] {
        [self.cores, self.gib]
    }

    fn less(self, other: Size) -> Size {
        Size {
            cores: self.cores - other.cores,
            gib: self.gib - other.gib,
        }
    }

    fn holds(self, other: Size) -> bool {
        self.cores >= other.cores && self.gib >= other.gib
    }

    fn node(self, name: &str) -> Node {
        let mut node = node(name, i64::from(self.cores));
        node.allocatable.insert("memory".into(), i64::from(self.gib) * GI);
        node
    }

    /// A pod of a claim.
    fn member(self, uid: &str, claim: &str, group: &str) -> Pod {
        let mut pod = member(uid, claim, group, i64::from(self.cores) * 1000);
        pod.requests.insert("memory".into(), i64::from(self.gib) * GI);
        pod
    }
}

fn nodes(random: &mut Random, count: (i64, i64)) -> Vec<Size> {
    let count = random.between(count.0, count.1);
    (0..count).map(|_| Size::of(random, (4, 10), (8, 32))).collect()
}

fn cluster(nodes: &[Size], queues: impl IntoIterator<Item = Event>) -> World {
    let mut world = World::with(queues);
    for (i, node) in nodes.iter().enumerate() {
        world.tell(node.node(&format!("n{i}")));
    }
    world
}

/// The node of a pod, by its number.
fn number(node: &str) -> usize {
    node[1..].parse().unwrap()
}

/// Pods of one size that start together with those of other sizes.
#[derive(Clone, Copy, Debug)]
struct Kind {
    pods: u32,
    size: Size,
}

/// How many pods of each kind sit on each node; `None` where none has room.
type Seats = Vec<Vec<Option<Variable>>>;

/// A programme in which pods of some kinds may sit on nodes, and how many of each sit where.
fn programme(direction: OptimizationDirection, nodes: &[Size], kinds: &[Kind]) -> (Problem, Seats) {
    let mut problem = Problem::new(direction);
    let seats = kinds
        .iter()
        .map(|kind| {
            let most = i32::try_from(kind.pods).unwrap();
            let seat = |node: &Size| node.holds(kind.size).then(|| problem.add_integer_var(0.0, (0, most)));
            nodes.iter().map(seat).collect()
        })
        .collect();
    (problem, seats)
}

/// No more sits on any node than is free there, and so much of both resources as is given back.
fn within_capacity(
    problem: &mut Problem,
    seats: &Seats,
    free: &[Size],
    kinds: &[Kind],
    given_back: &[(Variable, Vec<(usize, Size)>)],
) {
    for (n, node) in free.iter().enumerate() {
        for part in 0..2 {
            let mut sum = LinearExpr::empty();
            for (kind, seats) in kinds.iter().zip(seats) {
                if let Some(seat) = seats[n] {
                    sum.add(seat, f64::from(kind.size.parts()[part]));
                }
            }
            for (goes, pods) in given_back {
                let here = pods.iter().filter(|(on, _)| *on == n);
                let freed: i32 = here.map(|(_, size)| size.parts()[part]).sum();
                if freed > 0 {
                    sum.add(*goes, -f64::from(freed));
                }
            }
            problem.add_constraint(sum, ComparisonOp::Le, f64::from(node.parts()[part]));
        }
    }
}

/// All pods of a kind have a seat, if `starts`, or none of them; without that, all have.
fn all_or_none(problem: &mut Problem, kind: &Kind, seats: &[Option<Variable>], starts: Option<Variable>) {
    let mut sum = LinearExpr::empty();
    seats.iter().flatten().for_each(|seat| sum.add(*seat, 1.0));
    let pods = f64::from(kind.pods);
    match starts {
        Some(starts) => {
            sum.add(starts, -pods);
            problem.add_constraint(sum, ComparisonOp::Eq, 0.0);
        }
        None => problem.add_constraint(sum, ComparisonOp::Eq, pods),
    }
}

/// The best value that there is; `None` if nothing is possible.
#[allow(clippy::cast_possible_truncation, reason = "a whole number below a million")]
fn best(problem: &Problem) -> Option<i64> {
    match problem.solve() {
        Ok(outcome) => {
            assert!(outcome.is_optimal());
            let value = outcome.into_solution().unwrap().objective();
            // A variable may be a millionth off, and is worth up to some thousands.
            assert!((value - value.round()).abs() < 0.1, "{value} is no whole number");
            Some(value.round() as i64)
        }
        Err(Error::Infeasible) => None,
        Err(other) => panic!("{other}"),
    }
}

/// Takes the bound pods of a world off what nodes have: none may have less than nothing.
fn take(free: &mut [Size], node: &str, size: Size) {
    let node = &mut free[number(node)];
    assert!(node.holds(size), "{node:?} has no room for {size:?}");
    *node = node.less(size);
}

/// What a pod of a priority is worth: as much as sixteen of the next lower one, and there are no more than that.
fn worth(priority: i32) -> i64 {
    1 << (4 * priority)
}

#[test]
fn the_worth_of_what_is_placed_is_near_the_optimum() {
    let mut gap = Gap::default();
    for seed in 0..INSTANCES {
        let mut random = Random(seed);
        let nodes = nodes(&mut random, (6, 8));
        let mut gangs: Vec<(Kind, i32)> = Vec::new();
        let mut left = u32::try_from(random.between(12, 16)).unwrap();
        while left > 0 {
            let pods = u32::try_from(random.between(1, 4)).unwrap().min(left);
            left -= pods;
            let size = Size::of(&mut random, (2, 7), (3, 20));
            gangs.push((Kind { pods, size }, i32::try_from(random.below(3)).unwrap()));
        }
        let kinds: Vec<Kind> = gangs.iter().map(|(kind, _)| *kind).collect();
        let (mut problem, seats) = programme(OptimizationDirection::Maximize, &nodes, &kinds);
        within_capacity(&mut problem, &seats, &nodes, &kinds, &[]);
        for ((kind, priority), seats) in gangs.iter().zip(&seats) {
            let worth = i32::try_from(worth(*priority)).unwrap();
            let starts = problem.add_binary_var(f64::from(worth) * f64::from(kind.pods));
            all_or_none(&mut problem, kind, seats, Some(starts));
        }

        let mut world = cluster(&nodes, [queue("q", None, &[], &[]).into()]);
        for (i, (kind, priority)) in gangs.iter().enumerate() {
            let name = format!("g{i}");
            world.tell(Claim {
                priority: *priority,
                created: Time(i64::try_from(i).unwrap()),
                ..claim(&name, "q", &[("w", kind.pods, kind.pods, 1)])
            });
            for pod in 0..kind.pods {
                world.tell(kind.size.member(&format!("{name}-{pod}"), &name, "w"));
            }
        }
        let decisions = world.run();
        let (mut free, mut ours, mut placed) = (nodes.clone(), 0, vec![0; gangs.len()]);
        for (pod, node) in binds(&decisions) {
            let gang = number(pod.split('-').next().unwrap());
            take(&mut free, node, gangs[gang].0.size);
            ours += worth(gangs[gang].1);
            placed[gang] += 1;
        }
        for (placed, (kind, _)) in placed.iter().zip(&gangs) {
            assert!(*placed == 0 || *placed == kind.pods, "all or none");
        }
        gap.more_is_better(ours, best(&problem).unwrap());
    }
    gap.print("worth of what is placed", 100);
}

/// Somebody who runs: the seats of its pods, and a number, of minutes of work that it loses, or when it ends.
struct Runs {
    pods: Vec<(usize, Size)>,
    number: i32,
}

/// Fills nodes with those who run, some of them on several nodes; what is free then.
fn fill(random: &mut Random, nodes: &[Size], numbers: (i64, i64)) -> (Vec<Runs>, Vec<Size>) {
    let mut free = nodes.to_vec();
    let mut running: Vec<Runs> = Vec::new();
    for (n, free) in free.iter_mut().enumerate() {
        loop {
            let size = Size::of(random, (1, 4), (1, 9));
            if !free.holds(size) {
                break;
            }
            *free = free.less(size);
            match running.iter_mut().find(|r| r.pods.iter().all(|(on, _)| *on < n)) {
                Some(other) if random.below(4) == 0 => other.pods.push((n, size)),
                _ => running.push(Runs {
                    pods: vec![(n, size)],
                    number: i32::try_from(random.between(numbers.0, numbers.1)).unwrap(),
                }),
            }
        }
    }
    (running, free)
}

/// A gang of one or two kinds of pods.
fn gang(random: &mut Random) -> Vec<Kind> {
    let kinds = random.between(1, 2);
    let kind = |_| Kind {
        pods: u32::try_from(random.between(1, 3)).unwrap(),
        size: Size::of(random, (2, 6), (3, 16)),
    };
    (0..kinds).map(kind).collect()
}

/// A claim with a group for each kind of pods, and the pods, on nodes where they run.
fn tell(world: &mut World, of: Claim, pods: &[(String, Size, Option<usize>)]) {
    let (name, created) = (of.name.clone(), of.created);
    world.tell(of);
    for (i, (group, size, node)) in pods.iter().enumerate() {
        world.tell(Pod {
            node: node.map(|n| format!("n{n}")),
            created,
            ..size.member(&format!("{name}-{i}"), &name, group)
        });
    }
}

/// The claim of one who runs.
fn tell_running(world: &mut World, one: &Runs, of: impl FnOnce(Vec<(&str, u32, u32, u32)>) -> Claim) {
    let groups: Vec<String> = (0..one.pods.len()).map(|g| format!("g{g}")).collect();
    let of = of(groups.iter().map(|g| (g.as_str(), 1, 1, 1)).collect());
    let pods = one.pods.iter().zip(&groups);
    let pods: Vec<_> = pods
        .map(|((node, size), group)| (group.clone(), *size, Some(*node)))
        .collect();
    tell(world, of, &pods);
}

/// The claim of a gang that waits.
fn tell_gang(world: &mut World, gang: &[Kind], of: impl FnOnce(Vec<(&str, u32, u32, u32)>) -> Claim) {
    let names = ["a", "b"];
    let groups = gang
        .iter()
        .zip(names)
        .map(|(kind, name)| (name, kind.pods, kind.pods, 1));
    let of = of(groups.collect());
    let each = gang.iter().zip(names);
    let pods = each.flat_map(|(kind, name)| (0..kind.pods).map(move |_| (name.to_owned(), kind.size, None)));
    tell(world, of, &pods.collect::<Vec<_>>());
}

/// Takes the seats that are kept for the gang off what is free: they have room.
fn take_kept(world: &World, free: &mut [Size], gang: &[Kind], seats: &[(String, String)]) {
    let pods: u32 = gang.iter().map(|kind| kind.pods).sum();
    assert_eq!(seats.len(), pods as usize, "all or none");
    for (pod, node) in seats {
        let kind = usize::from(world.pods[pod].group == "b");
        take(free, node, gang[kind].size);
    }
}

#[test]
fn little_more_work_is_lost_for_a_gang_than_has_to_be() {
    const MINUTE: i64 = 60_000;
    let (mut gap, mut missed) = (Gap::default(), 0);
    for seed in 0..INSTANCES {
        let mut random = Random(seed);
        let nodes = nodes(&mut random, (6, 8));
        let (running, free) = fill(&mut random, &nodes, (2, 60));
        let gang = gang(&mut random);
        let lost = |one: &Runs| one.pods.iter().map(|(_, size)| size.cores).sum::<i32>() * one.number;

        let (mut problem, seats) = programme(OptimizationDirection::Minimize, &nodes, &gang);
        let goes = |one: &Runs| (problem.add_binary_var(f64::from(lost(one))), one.pods.clone());
        let going: Vec<_> = running.iter().map(goes).collect();
        within_capacity(&mut problem, &seats, &free, &gang, &going);
        for (kind, seats) in gang.iter().zip(&seats) {
            all_or_none(&mut problem, kind, seats, None);
        }

        let queues = [
            queue("mine", None, &[("cpu", 640_000), ("memory", 6400 * GI)], &[]).into(),
            queue("theirs", None, &[], &[]).into(),
        ];
        let mut world = cluster(&nodes, queues);
        for (i, one) in running.iter().enumerate() {
            tell_running(&mut world, one, |groups| {
                let mut of = claim(&format!("r{i}"), "theirs", &groups);
                // One of the minutes is that of its restart.
                of.interruption.last_checkpoint = Some(Time((100 - i64::from(one.number - 1)) * MINUTE));
                of
            });
        }
        world.run();
        world.now = 100 * MINUTE;
        tell_gang(&mut world, &gang, |groups| claim("wants", "mine", &groups));
        let decisions = world.run();
        let gone = evictions(&decisions);
        // It starts beside the others; or it finds no seats, even where there are some.
        if gone.is_empty() {
            let least = best(&problem);
            if binds(&decisions).is_empty() {
                missed += u32::from(least.is_some());
            } else {
                assert_eq!(least, Some(0));
            }
            continue;
        }
        let (mut free, mut ours) = (free, 0);
        for (i, one) in running.iter().enumerate() {
            let of_it = gone.iter().filter(|pod| pod.starts_with(&format!("r{i}-"))).count();
            assert!(of_it == 0 || of_it == one.pods.len(), "all or none");
            if of_it > 0 {
                ours += lost(one);
                for (node, size) in &one.pods {
                    free[*node] = free[*node].less(Size {
                        cores: -size.cores,
                        gib: -size.gib,
                    });
                }
            }
        }
        let kept = world.pods.keys().filter(|pod| pod.starts_with("wants-"));
        let kept = kept.filter_map(|pod| Some((pod.clone(), world.cluster.kept_seat_of_pod(pod)?.to_owned())));
        take_kept(&world, &mut free, &gang, &kept.collect::<Vec<_>>());
        gap.less_is_better(i64::from(ours), best(&problem).unwrap());
    }
    gap.print("work that is lost for a gang", 80);
    assert!(missed <= 10, "{missed} gangs find no seats that there are");
}

/// What is free when those have ended who end by a time.
fn free_at(nodes: &[Size], running: &[Runs], at: i32) -> Vec<Size> {
    let mut free = nodes.to_vec();
    for (node, size) in running.iter().filter(|one| one.number > at).flat_map(|one| &one.pods) {
        free[*node] = free[*node].less(*size);
    }
    free
}

/// The earliest start of a gang; `None` if it can never start.
fn earliest(nodes: &[Size], running: &[Runs], gang: &[Kind]) -> Option<i32> {
    let fits = |at: i32| {
        let (mut problem, seats) = programme(OptimizationDirection::Minimize, nodes, gang);
        within_capacity(&mut problem, &seats, &free_at(nodes, running, at), gang, &[]);
        for (kind, seats) in gang.iter().zip(&seats) {
            all_or_none(&mut problem, kind, seats, None);
        }
        best(&problem).is_some()
    };
    let mut times: Vec<i32> = running.iter().map(|one| one.number).chain([0]).collect();
    times.sort_unstable();
    times.dedup();
    // What fits at a time fits later, too.
    let first = times.partition_point(|at| !fits(*at));
    times.get(first).copied()
}

#[test]
fn the_head_of_a_queue_starts_near_the_earliest_time() {
    let (mut gap, mut missed) = (Gap::default(), 0);
    for seed in 0..2 * INSTANCES {
        let mut random = Random(seed);
        let nodes = nodes(&mut random, (6, 8));
        let (running, _) = fill(&mut random, &nodes, (5, 40));
        let gang = gang(&mut random);
        let Some(earliest) = earliest(&nodes, &running, &gang) else {
            continue;
        };
        let mut world = cluster(&nodes, [queue("q", None, &[], &[]).into()]);
        for (i, one) in running.iter().enumerate() {
            tell_running(&mut world, one, |groups| Claim {
                expected_duration: Some(i64::from(one.number)),
                ..claim(&format!("r{i}"), "q", &groups)
            });
        }
        world.run();
        tell_gang(&mut world, &gang, |groups| Claim {
            created: Time(1),
            expected_duration: Some(10),
            ..claim("head", "q", &groups)
        });
        let decisions = world.run();
        let binds = binds(&decisions);
        let start = decisions.iter().find_map(|d| match d {
            Decision::Reserve { claim, start } if claim == "head-uid" => *start,
            _ => None,
        });
        let (start, seats) = match start {
            Some(start) => {
                let model = &world.cluster.model;
                let seats = model.reservations.iter().flat_map(|r| &r.seats);
                let seat = |(pod, seat): &(_, crate::model::Seat)| {
                    (
                        model.pods[*pod].uid.to_string(),
                        model.nodes[seat.node].name.to_string(),
                    )
                };
                (start.0, seats.map(seat).collect())
            }
            None if binds.is_empty() => {
                // It finds no seats even where all have ended.
                missed += 1;
                continue;
            }
            None => {
                let seats = binds.iter().map(|(pod, node)| ((*pod).to_owned(), (*node).to_owned()));
                (0, seats.collect::<Vec<_>>())
            }
        };
        let mut free = free_at(&nodes, &running, i32::try_from(start).unwrap());
        take_kept(&world, &mut free, &gang, &seats);
        gap.less_is_better(start, i64::from(earliest));
    }
    gap.print("start of the head of a queue", 20);
    assert!(missed <= 10, "{missed} gangs find no seats that there are");
}
