//! The core against the exact optimum on small instances, found by trying everything: how many pods are placed, whether a
//! gang finds its place, how many pods go in a reclaim and how much work is lost, when the first that waits starts, and how many start before it.
//! The gap is printed (`cargo test -p duosuan-scheduler optimum -- --nocapture`); it has a bound in the mean, and no
//! instance may be solved better than is possible.

use super::fixtures::*;
use crate::{
    Decision, Event, Time,
    event::{Claim, Pod},
};

const INSTANCES: u64 = 300;

/// Numbers that only depend on the seed.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: i64) -> i64 {
        // Knuth's linear congruential generator; its upper bits are the good ones.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        i64::try_from((self.0 >> 33) % u64::try_from(bound).unwrap()).unwrap()
    }

    pub(super) fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below(high - low + 1)
    }

    fn some(&mut self, count: (i64, i64), size: (i64, i64)) -> Vec<i64> {
        (0..self.between(count.0, count.1))
            .map(|_| self.between(size.0, size.1))
            .collect()
    }
}

/// True if all items find room together.
fn packs(free: &mut [i64], items: &[i64]) -> bool {
    let Some((&item, rest)) = items.split_first() else {
        return true;
    };
    for i in 0..free.len() {
        // Of bins with equal room one is enough.
        if free[i] < item || free[..i].contains(&free[i]) {
            continue;
        }
        free[i] -= item;
        let fits = packs(free, rest);
        free[i] += item;
        if fits {
            return true;
        }
    }
    false
}

/// How many of some items find room at most.
fn most(free: &mut [i64], items: &[i64]) -> usize {
    let Some((&item, rest)) = items.split_first() else {
        return 0;
    };
    let mut best = most(free, rest);
    for i in 0..free.len() {
        if best > rest.len() || free[i] < item || free[..i].contains(&free[i]) {
            continue;
        }
        free[i] -= item;
        best = best.max(1 + most(free, rest));
        free[i] += item;
    }
    best
}

/// Sums of what we reach and of what is possible.
#[derive(Default)]
pub(super) struct Gap {
    ours: i64,
    best: i64,
    equal: u32,
    instances: u32,
}

impl Gap {
    /// Notes an instance of something that is better the larger it is.
    pub(super) fn more_is_better(&mut self, ours: i64, best: i64) {
        assert!(ours <= best, "{ours} of at most {best}");
        self.note(ours, best);
    }

    /// Notes an instance of something that is better the smaller it is.
    pub(super) fn less_is_better(&mut self, ours: i64, best: i64) {
        assert!(ours >= best, "{ours} where {best} is the least");
        self.note(ours, best);
    }

    fn note(&mut self, ours: i64, best: i64) {
        self.ours += ours;
        self.best += best;
        self.equal += u32::from(ours == best);
        self.instances += 1;
    }

    /// Prints the gap, and holds it under a bound in thousandths.
    #[allow(clippy::print_stdout, reason = "the gap is what a reader of this test wants to see")]
    pub(super) fn print(&self, what: &str, bound: i64) {
        let gap = (self.ours - self.best).abs() * 1000 / self.best.max(1);
        println!(
            "{what}: {} of {} instances solved exactly; {} against {} in sum, a gap of {}.{} %",
            self.equal,
            self.instances,
            self.ours,
            self.best,
            gap / 10,
            gap % 10
        );
        assert!(self.instances > 100, "{what}: {} instances say little", self.instances);
        assert!(gap <= bound, "{what}: a gap of {gap} thousandths is over {bound}");
    }
}

fn cluster(nodes: &[i64]) -> World {
    let mut world = World::with([queue("q", None, &[], &[]).into()]);
    for (i, &cores) in nodes.iter().enumerate() {
        world.tell(node(&format!("n{i}"), cores));
    }
    world
}

#[test]
fn the_number_of_placed_pods_is_near_the_optimum() {
    let mut gap = Gap::default();
    for seed in 0..INSTANCES {
        let mut random = Random(seed);
        let nodes = random.some((2, 3), (3, 8));
        let pods = random.some((4, 8), (1, 5));
        let mut world = cluster(&nodes);
        for (i, &cores) in pods.iter().enumerate() {
            let mut pod = pod(&format!("p{i}"), cores * 1000);
            pod.created = Time(i64::try_from(i).unwrap());
            world.tell(pod);
        }
        let ours = binds(&world.run()).len();
        let best = most(&mut nodes.clone(), &pods);
        gap.more_is_better(i64::try_from(ours).unwrap(), i64::try_from(best).unwrap());
    }
    gap.print("placed pods, the oldest first", 120);
}

#[test]
fn gangs_that_can_be_placed_mostly_are() {
    let mut gap = Gap::default();
    for seed in 0..INSTANCES {
        let mut random = Random(seed);
        let nodes = random.some((2, 4), (3, 8));
        let sizes = random.some((2, 3), (1, 5));
        let counts: Vec<i64> = sizes.iter().map(|_| random.between(1, 3)).collect();
        let mut world = cluster(&nodes);
        let names = ["a", "b", "c"];
        let groups: Vec<_> = counts
            .iter()
            .zip(names)
            .map(|(&n, name)| (name, u32::try_from(n).unwrap()))
            .collect();
        let groups: Vec<_> = groups.iter().map(|&(name, n)| (name, n, n, 1)).collect();
        world.tell(claim("g", "q", &groups));
        let mut items = Vec::new();
        for ((&size, &count), name) in sizes.iter().zip(&counts).zip(names) {
            for i in 0..count {
                world.tell(member(&format!("{name}{i}"), "g", name, size * 1000));
                items.push(size);
            }
        }
        let placed = binds(&world.run()).len();
        assert!(placed == 0 || placed == items.len(), "all or none");
        gap.more_is_better(i64::from(placed > 0), i64::from(packs(&mut nodes.clone(), &items)));
    }
    gap.print("gangs of up to three sizes", 150);
}

#[test]
fn few_more_pods_go_in_a_reclaim_than_have_to() {
    let mut gap = Gap::default();
    for seed in 0..INSTANCES {
        let mut random = Random(seed);
        let nodes = random.some((1, 3), (4, 8));
        let mut world = World::with([
            queue("mine", None, &[("cpu", 64_000)], &[]).into(),
            queue("theirs", None, &[], &[]).into(),
        ]);
        let mut victims: Vec<Vec<i64>> = vec![vec![]; nodes.len()];
        for (i, &cores) in nodes.iter().enumerate() {
            world.tell(node(&format!("n{i}"), cores));
            let mut left = cores;
            while left > 0 {
                let size = random.between(1, 4).min(left);
                left -= size;
                let uid = format!("v{i}-{}", victims[i].len());
                world.tell(Pod {
                    queue: "theirs".into(),
                    node: Some(format!("n{i}")),
                    created: Time(random.below(50)),
                    ..pod(&uid, size * 1000)
                });
                victims[i].push(size);
            }
        }
        let wants = random.between(1, *nodes.iter().max().unwrap());
        world.tell(Pod {
            queue: "mine".into(),
            created: Time(100),
            ..pod("wants", wants * 1000)
        });
        let ours = evictions(&world.run()).len();
        // The largest go first where the fewest are to go.
        let fewest = |sizes: &Vec<i64>| {
            let mut sizes = sizes.clone();
            sizes.sort_unstable_by(|a, b| b.cmp(a));
            let mut freed = 0;
            let needed = sizes.iter().position(|size| {
                freed += size;
                freed >= wants
            });
            needed.map(|n| n + 1)
        };
        let best = victims.iter().filter_map(fewest).min().unwrap();
        gap.less_is_better(i64::try_from(ours).unwrap(), i64::try_from(best).unwrap());
    }
    gap.print("pods that go in a reclaim, the newest first", 100);
}

/// Somebody who may have to go.
struct Runs {
    /// (node, cores) of each of its pods.
    pods: Vec<(usize, i64)>,
    /// Minutes of work that each core loses.
    minutes: i64,
}

impl Runs {
    /// Core-minutes that are lost.
    fn lost(&self) -> i64 {
        self.pods.iter().map(|(_, cores)| cores).sum::<i64>() * self.minutes
    }
}

/// The least that has to be lost so that all find room; `None` if that is not enough.
fn least_lost(nodes: &[i64], running: &[Runs], wants: &[i64]) -> Option<i64> {
    let sets = 0..1_u32 << running.len();
    let lost = sets.filter_map(|set| {
        let (mut free, mut lost) = (nodes.to_vec(), 0);
        for (i, one) in running.iter().enumerate() {
            if set & (1 << i) != 0 {
                lost += one.lost();
            } else {
                one.pods.iter().for_each(|&(node, cores)| free[node] -= cores);
            }
        }
        packs(&mut free, wants).then_some(lost)
    });
    lost.min()
}

#[test]
fn little_more_work_is_lost_in_a_reclaim_than_has_to_be() {
    let (mut one, mut gangs) = (Gap::default(), Gap::default());
    for seed in 0..2 * INSTANCES {
        let mut random = Random(seed);
        let nodes = random.some((1, 3), (4, 8));
        let mut running: Vec<Runs> = Vec::new();
        for (node, &cores) in nodes.iter().enumerate() {
            let mut left = cores;
            while left > 0 {
                let size = random.between(1, 4).min(left);
                left -= size;
                let pods = vec![(node, size)];
                // Some are gangs over several nodes.
                match running.iter_mut().find(|r| r.pods.iter().all(|(on, _)| *on < node)) {
                    Some(other) if random.below(4) == 0 => other.pods.extend(pods),
                    _ => running.push(Runs {
                        pods,
                        minutes: random.between(2, 60),
                    }),
                }
            }
        }
        if running.len() > 12 {
            continue;
        }
        let count = if seed % 2 == 0 { (1, 1) } else { (2, 3) };
        let wants = random.some(count, (1, *nodes.iter().max().unwrap()));
        let Some(least) = least_lost(&nodes, &running, &wants) else {
            continue;
        };
        let ours = ours_lost(&nodes, &running, &wants);
        // What finds no seats even on the empty cluster is the gap of gangs, above.
        let Some(ours) = ours else { continue };
        if wants.len() == 1 {
            one.less_is_better(ours, least);
        } else {
            gangs.less_is_better(ours, least);
        }
    }
    one.print("work that is lost in a reclaim for one pod", 5);
    gangs.print("work that is lost in a reclaim for a gang", 50);
}

/// What the core has lost so that all find room; `None` if it finds none.
fn ours_lost(nodes: &[i64], running: &[Runs], wants: &[i64]) -> Option<i64> {
    const MINUTE: i64 = 60_000;
    let mut world = World::with([
        queue("mine", None, &[("cpu", 64_000)], &[]).into(),
        queue("theirs", None, &[], &[]).into(),
    ]);
    for (i, &cores) in nodes.iter().enumerate() {
        world.tell(node(&format!("n{i}"), cores));
    }
    for (i, one) in running.iter().enumerate() {
        let groups: Vec<String> = (0..one.pods.len()).map(|g| format!("g{g}")).collect();
        let groups: Vec<_> = groups.iter().map(|g| (g.as_str(), 1, 1, 1)).collect();
        let mut of = claim(&format!("r{i}"), "theirs", &groups);
        // One of the minutes is that of its restart.
        of.interruption.last_checkpoint = Some(Time((100 - (one.minutes - 1)) * MINUTE));
        world.tell(of);
        for (g, &(node, cores)) in one.pods.iter().enumerate() {
            world.tell(Pod {
                node: Some(format!("n{node}")),
                ..member(&format!("r{i}-{g}"), &format!("r{i}"), &format!("g{g}"), cores * 1000)
            });
        }
    }
    world.run();
    world.now = 100 * MINUTE;
    let groups: Vec<String> = (0..wants.len()).map(|i| format!("g{i}")).collect();
    let groups: Vec<_> = groups.iter().map(|g| (g.as_str(), 1, 1, 1)).collect();
    world.tell(claim("wants", "mine", &groups));
    for (i, &cores) in wants.iter().enumerate() {
        world.tell(member(&format!("wants-{i}"), "wants", &format!("g{i}"), cores * 1000));
    }
    let decisions = world.run();
    let gone = evictions(&decisions);
    let lost = running
        .iter()
        .enumerate()
        .filter(|(i, _)| gone.contains(&&*format!("r{i}-0")));
    (!gone.is_empty()).then(|| lost.map(|(_, one)| one.lost()).sum())
}

/// Jobs of one pod that run, a gang that waits for them, and jobs that would start before it.
struct Wait {
    nodes: Vec<i64>,
    /// (node, cores, end)
    running: Vec<(usize, i64, i64)>,
    gang: Vec<i64>,
    /// (cores, length)
    small: Vec<(i64, i64)>,
}

impl Wait {
    fn of(seed: u64) -> Wait {
        let mut random = Random(seed);
        let nodes = random.some((2, 3), (3, 6));
        let mut running = Vec::new();
        for (i, &cores) in nodes.iter().enumerate() {
            let mut left = cores - random.below(3);
            while left > 0 {
                let size = random.between(1, 3).min(left);
                left -= size;
                running.push((i, size, random.between(5, 40)));
            }
        }
        let gang = random.some((1, 3), (1, 5));
        let small = (0..random.between(1, 4))
            .map(|_| (random.between(1, 2), random.between(1, 60)))
            .collect();
        Wait {
            nodes,
            running,
            gang,
            small,
        }
    }

    /// What is free when those have ended who end by a time.
    fn free(&self, at: i64) -> Vec<i64> {
        let mut free = self.nodes.clone();
        for &(node, size, _) in self.running.iter().filter(|(.., end)| *end > at) {
            free[node] -= size;
        }
        free
    }

    /// The earliest start of the gang; `None` if it can never start.
    fn earliest(&self) -> Option<i64> {
        let mut times: Vec<i64> = self.running.iter().map(|(.., end)| *end).collect();
        times.push(0);
        times.sort_unstable();
        times.into_iter().find(|&at| packs(&mut self.free(at), &self.gang))
    }

    /// How many of the small ones can start now with the gang at its time.
    fn most_beside(&self, start: i64) -> usize {
        fn go(small: &[(i64, i64)], now: &mut [i64], then: &mut [i64], start: i64, gang: &[i64]) -> Option<usize> {
            let Some((&(size, length), rest)) = small.split_first() else {
                return packs(then, gang).then_some(0);
            };
            let mut best = go(rest, now, then, start, gang);
            for i in 0..now.len() {
                if now[i] < size {
                    continue;
                }
                let stays = if length > start { size } else { 0 };
                now[i] -= size;
                then[i] -= stays;
                if then[i] >= 0
                    && let Some(more) = go(rest, now, then, start, gang)
                {
                    best = Some(best.map_or(more + 1, |b| b.max(more + 1)));
                }
                now[i] += size;
                then[i] += stays;
            }
            best
        }
        go(&self.small, &mut self.free(0), &mut self.free(start), start, &self.gang).unwrap()
    }

    fn submit(world: &mut World, name: &str, created: i64, length: i64, pods: &[i64]) {
        let groups: Vec<String> = (0..pods.len()).map(|i| format!("g{i}")).collect();
        let groups: Vec<_> = groups.iter().map(|g| (g.as_str(), 1, 1, 1)).collect();
        world.tell(Claim {
            created: Time(created),
            expected_duration: Some(length),
            ..claim(name, "q", &groups)
        });
        for (i, &cores) in pods.iter().enumerate() {
            let uid = format!("{name}-{i}");
            world.tell(Pod {
                created: Time(created),
                ..member(&uid, name, &format!("g{i}"), cores * 1000)
            });
        }
    }

    /// What the core makes of it: the start of the gang, and how many of the small ones start before it.
    fn ours(&self) -> (Option<i64>, usize) {
        let mut world = cluster(&self.nodes);
        for (i, &(node, size, end)) in self.running.iter().enumerate() {
            let (name, uid) = (format!("r{i}"), format!("r{i}-0"));
            world.tell(Event::from(Claim {
                expected_duration: Some(end),
                ..claim(&name, "q", &[("g", 1, 1, 1)])
            }));
            world.tell(Pod {
                node: Some(format!("n{node}")),
                ..member(&uid, &name, "g", size * 1000)
            });
        }
        world.run();
        Wait::submit(&mut world, "gang", 1, 10, &self.gang);
        let said = world.run();
        let start = said.iter().find_map(|d| match d {
            Decision::Reserve { claim, start } if claim == "gang-uid" => start.map(|t| t.0),
            Decision::Bind { claim: Some(claim), .. } if claim == "gang-uid" => Some(0),
            _ => None,
        });
        for (i, &(size, length)) in self.small.iter().enumerate() {
            Wait::submit(&mut world, &format!("s{i}"), 2, length, &[size]);
        }
        (start, binds(&world.run()).len())
    }
}

#[test]
fn the_first_that_waits_starts_near_the_earliest_time_and_nearly_as_many_start_before_it_as_can() {
    let (mut starts, mut before) = (Gap::default(), Gap::default());
    for seed in 0..3 * INSTANCES {
        let wait = Wait::of(seed);
        let Some(earliest) = wait.earliest().filter(|at| *at > 0) else {
            continue;
        };
        let (start, began) = wait.ours();
        // What finds no seats even on the empty cluster is the gap of gangs, above.
        let Some(start) = start else { continue };
        starts.less_is_better(start, earliest);
        if start == earliest {
            let most = wait.most_beside(start);
            before.more_is_better(i64::try_from(began).unwrap(), i64::try_from(most).unwrap());
        }
    }
    starts.print("start of the first that waits", 30);
    before.print("jobs that start before it", 50);
}
