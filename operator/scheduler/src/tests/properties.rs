//! What holds for any sequence of events.

use proptest::prelude::*;

use super::{any_relations::*, fixtures::*};
use crate::{
    Budget, Cluster, Decision, Event, Tier, Time, cycle,
    event::{Disruption, Level, Location, Pod, Quota, Taint, Topology, Window},
};

const NODES: usize = 4;
const PODS: usize = 12;
const CLAIMS: usize = 3;
const QUEUES: usize = 4;

fn any_node() -> impl Strategy<Value = Event> {
    (0..NODES, 0..9_i64, 0..4_usize, any::<[bool; 4]>()).prop_map(|(i, cores, gpus, [off, stale, sick, taint])| {
        let mut node = gpu_node(&format!("n{i}"), gpus, if i % 2 == 0 { "T4" } else { "A100" });
        node.allocatable.insert("cpu".into(), cores * 1000);
        node.labels.insert("host".into(), format!("n{i}"));
        if !(stale && off) {
            node.labels
                .insert("zone".into(), ["a", "b"][(i + usize::from(taint)) % 2].into());
        }
        node.location = Location {
            zone: (!stale).then(|| "z".into()),
            block: None,
            rack: (!sick).then(|| format!("r{}", (i + usize::from(off)) % 2)),
            nvlink: None,
        };
        node.allocatable.insert("disks".into(), cores % 3);
        node.allocatable.insert("duosuan.io/batch-cpu".into(), cores * 500);
        node.allocatable.insert("duosuan.io/mid-cpu".into(), cores * 200);
        (node.unschedulable, node.stale) = (off && sick, stale);
        node.load = (!stale).then_some([0, 3, 7][gpus.min(2)]);
        if let Some(gpu) = node.gpus.first_mut() {
            gpu.unhealthy = sick;
        }
        if taint && off {
            node.taints = vec![Taint {
                key: "k".into(),
                value: "v".into(),
                effect: "NoSchedule".into(),
            }];
        }
        node.into()
    })
}

fn any_pod() -> impl Strategy<Value = Event> {
    let facts = (
        0..PODS,
        -1..5_i64,
        0..=CLAIMS,
        0..3_usize,
        0..=QUEUES,
        0..3_u8,
        0..6_u16,
    );
    let relations = (any_labels(), any_rules());
    (facts, any::<[bool; 8]>(), 0..6_usize, 0..9_usize, relations).prop_map(
        |((i, cpu, claim, group, queue, tier, gpu), flags, place, other, (labels, rules))| {
            let mut pod = pod(&format!("p{i}"), cpu * 700);
            (pod.labels, pod.rules) = (labels, rules);
            if i % 4 == 0 {
                pod.namespace = "other".into();
            }
            pod.owner = ["", "one", "two"][(i + group) % 3].into();
            pod.created = Time((i % 5) as i64);
            pod.priority = (i % 3) as i32;
            pod.claim = (claim < CLAIMS).then(|| format!("c{claim}"));
            pod.group = ["a", "b", "none"][group].into();
            pod.queue = if queue < QUEUES {
                format!("q{queue}")
            } else {
                String::new()
            };
            pod.tier = [Tier::Prod, Tier::Mid, Tier::Batch][usize::from(tier)];
            // Mostly what its tier may ask for; the tier of its claim may be another.
            pod.requests = match if other < 2 { other } else { usize::from(tier) } {
                0 => pod.requests,
                1 => amounts(&[("duosuan.io/mid-cpu", cpu * 200)]),
                _ => amounts(&[("duosuan.io/batch-cpu", cpu * 300)]),
            };
            if other > 6 {
                pod.requests.insert("disks".into(), 1);
            }
            if other % 3 == 0 {
                pod.shared_volumes = volumes(&["v", "w"][..=i % 2]);
            }
            pod.gpus = match gpu {
                0 | 1 => Some(share(250 + gpu * 500)),
                2 => Some(whole(2)),
                _ => None,
            };
            let [finished, terminating, gated, theirs, b0, b1, b2, b3] = flags;
            pod.finished = finished && b0 && b1;
            pod.terminating = terminating && b0 && b2;
            pod.gated = gated && b1;
            pod.ours = !(theirs && b2);
            if b3 && place <= NODES {
                pod.node = Some(format!("n{place}"));
                pod.devices = if pod.gpus.is_some() && b0 { vec![0] } else { vec![] };
            }
            pod.into()
        },
    )
}

fn any_claim() -> impl Strategy<Value = Event> {
    (
        0..CLAIMS,
        0..=QUEUES,
        0..3_u32,
        0..4_u32,
        0..3_u32,
        0..3_usize,
        (any::<[bool; 3]>(), 0..4_i64, 0..6_i64),
    )
        .prop_map(
            |(i, queue, min, more, quantum, tier, ([both, gpus, again], length, opens))| {
                let name = if queue < QUEUES {
                    format!("q{queue}")
                } else {
                    String::new()
                };
                let mut claim = claim(
                    &format!("c{i}"),
                    &name,
                    &[("a", min, min + more, quantum), ("b", 1, 1, 1)],
                );
                claim.groups.truncate(if both { 2 } else { 1 });
                claim.tier = [Tier::Prod, Tier::Mid, Tier::Batch][tier];
                claim.created = Time(i as i64);
                claim.disruption = [Disruption::Elastic, Disruption::Single, Disruption::All][(opens % 3) as usize];
                claim.min_runtime = i64::from(min) * 20_000;
                claim.expected_duration = (length > 0).then_some(length * 30_000);
                claim.window = (opens > 3).then(|| Window {
                    start: Time(opens * 40_000),
                    end: Time(opens * 60_000),
                });
                if gpus {
                    claim.groups[0].gpus = Some(share(500));
                }
                let pack = [Level::Node, Level::Rack, Level::Zone][(min + quantum) as usize % 3];
                let topology = Topology { pack, required: both };
                match length {
                    2 => claim.topology = Some(topology),
                    3 => claim.groups[0].topology = Some(topology),
                    _ => {}
                }
                if again {
                    claim.uid.push_str("-again");
                }
                claim.into()
            },
        )
}

fn any_queue() -> impl Strategy<Value = Event> {
    let of_others = prop::collection::vec(any_quota(), 0..3);
    let more = (any::<[bool; 4]>(), 1..5_u32, 0..4_i64, of_others);
    (0..QUEUES, 0..=QUEUES, 0..5_i64, 0..8_i64, any::<[bool; 3]>(), more).prop_map(
        |(i, parent, guaranteed, limit, [has_guarantee, has_limit, lends_all], (flags, weight, few, of_others))| {
            let [by_memory, by_gpu, own_namespace, never_reclaims] = flags;
            let parent = (parent < QUEUES).then(|| format!("q{parent}"));
            let guaranteed = [("cpu", guaranteed * 1000), ("gpu", guaranteed * 500)];
            let limit = [("cpu", limit * 1000)];
            let mut queue = queue(
                &format!("q{i}"),
                parent.as_deref(),
                if has_guarantee { &guaranteed } else { &[] },
                if has_limit { &limit } else { &[] },
            );
            if has_guarantee && !lends_all {
                queue.quotas[0].lend_limit = amounts(&[("cpu", 1000), ("gpu", 0)]);
            }
            let limits = &mut queue.quotas[0].limit;
            if by_memory {
                limits.insert("memory".into(), few * 2 * GI);
            }
            if by_gpu {
                limits.insert("gpu".into(), few * 750);
            }
            queue.quotas.extend(of_others);
            queue.weight = weight;
            queue.namespaces = if own_namespace { vec!["ns".into()] } else { vec![] };
            queue.never_reclaims = never_reclaims;
            queue.fairness_half_life = lends_all.then_some(50_000);
            queue.into()
        },
    )
}

/// A quota in one of the tiers below prod.
fn any_quota() -> impl Strategy<Value = Quota> {
    (0..4_i64, 0..4_i64, any::<[bool; 3]>()).prop_map(|(guaranteed, more, [mid, has_limit, lends])| {
        let of = |cores: i64| amounts(&[("cpu", cores * 500)]);
        Quota {
            tier: if mid { Tier::Mid } else { Tier::Batch },
            guaranteed: of(guaranteed),
            limit: if has_limit { of(guaranteed + more) } else { amounts(&[]) },
            lend_limit: of(if lends { guaranteed } else { 0 }),
        }
    })
}

fn any_end() -> impl Strategy<Value = Event> {
    (0..8_u8, 0..PODS).prop_map(|(kind, i)| match kind {
        0 => Event::NodeGone(format!("n{}", i % NODES)),
        1 => Event::PodGone(format!("p{i}")),
        2 => Event::ClaimGone(format!("c{}-uid", i % CLAIMS)),
        3 => Event::QueueGone(format!("q{}", i % QUEUES)),
        4 => Event::BindFailed {
            pod: format!("p{i}"),
            node: if i % 3 == 0 {
                String::new()
            } else {
                format!("n{}", i % NODES)
            },
            lasting: i % 2 == 0,
            message: String::new(),
        },
        5 => Event::BindAllowed { pod: format!("p{i}") },
        6 => Event::EvictCalledOff { pod: format!("p{i}") },
        _ => Event::EvictFailed {
            pod: format!("p{i}"),
            message: String::new(),
        },
    })
}

#[derive(Clone, Debug)]
enum Step {
    Tell(Event),
    /// A cycle after so many milliseconds, with this budget; then the API server does all, some or none of it.
    Cycle(i64, u32, u8),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        any_node(),
        any_pod(),
        any_claim(),
        any_queue(),
        any_end(),
        any_namespace()
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => any_node().prop_map(Step::Tell),
        6 => any_pod().prop_map(Step::Tell),
        2 => any_claim().prop_map(Step::Tell),
        1 => any_queue().prop_map(Step::Tell),
        1 => any_namespace().prop_map(Step::Tell),
        3 => any_end().prop_map(Step::Tell),
        4 => (0..40_000_i64, 1..20_u32, 0..3_u8).prop_map(|(after, pods, does)| Step::Cycle(after, pods, does)),
    ]
}

/// What the API server and its watches make of decisions.
fn answers(world: &World, decisions: &[Decision], does: u8) -> Vec<Event> {
    let mut events = Vec::new();
    for (i, decision) in decisions.iter().enumerate() {
        let works = does == 0 || (does == 1 && i % 2 == 0);
        match decision {
            Decision::Bind {
                pod,
                node,
                devices,
                numa,
                ..
            } if works => {
                let bound = Pod {
                    node: Some(node.clone()),
                    devices: devices.clone(),
                    numa: *numa,
                    ..world.pods[pod].clone()
                };
                events.push(bound.into());
            }
            Decision::Bind { pod, node, .. } if does == 1 => {
                events.push(Event::BindFailed {
                    pod: pod.clone(),
                    node: node.clone(),
                    lasting: i % 3 == 0,
                    message: "no".into(),
                });
            }
            Decision::Evict { pod, .. } if works => events.push(Event::PodGone(pod.clone())),
            Decision::Evict { pod, .. } if does == 1 && i % 3 == 0 => {
                events.push(Event::EvictCalledOff { pod: pod.clone() });
            }
            Decision::Evict { pod, .. } if does == 1 => {
                events.push(Event::EvictFailed {
                    pod: pod.clone(),
                    message: "no".into(),
                });
            }
            _ => {}
        }
    }
    events
}

fn run(steps: &[Step]) -> (World, Vec<Decision>) {
    let mut world = World::default();
    let mut all = Vec::new();
    for step in steps {
        match step {
            Step::Tell(event) => world.tell(event.clone()),
            Step::Cycle(after, pods, does) => {
                world.now += after;
                let decisions = world.cycle_of(*pods);
                for event in answers(&world, &decisions, *does) {
                    world.tell(event);
                }
                all.extend(decisions);
            }
        }
    }
    (world, all)
}

proptest! {
    /// `World` checks the invariants after each event and each cycle.
    #[test]
    fn any_events_keep_the_invariants_and_cycles_come_to_rest(steps in prop::collection::vec(any_step(), 1..60)) {
        let (mut world, _) = run(&steps);
        // With a budget for all of it, one cycle decides what can be decided; the next has nothing to add.
        for _ in 0..3 {
            world.cycle();
        }
        prop_assert_eq!(world.cycle(), []);
    }

    #[test]
    fn the_index_says_what_one_says_that_is_built_from_nothing(steps in prop::collection::vec(any_step(), 1..60)) {
        let mut world = World::default();
        for step in steps {
            match step {
                Step::Tell(event) => world.tell(event),
                Step::Cycle(after, pods, does) => {
                    world.now += after;
                    let decisions = world.cycle_of(pods);
                    for event in answers(&world, &decisions, does) {
                        world.tell(event);
                    }
                }
            }
            index_is_as_if_built_anew(&mut world.cluster);
        }
    }

    #[test]
    fn what_is_told_twice_changes_nothing(steps in prop::collection::vec(any_step(), 1..60), twice in any_event()) {
        let (mut world, _) = run(&steps);
        world.tell(twice.clone());
        let once = world.cluster.model.clone();
        world.tell(twice);
        prop_assert!(world.cluster.model == once);
    }

    /// What is rehearsed comes to what it would on a copy, and nothing of it stays.
    #[test]
    fn a_rehearsal_leaves_no_trace(
        (steps, tried, then) in (
            prop::collection::vec(any_step(), 1..40),
            prop::collection::vec(any_step(), 1..15),
            prop::collection::vec(any_step(), 1..15),
        ),
    ) {
        let (mut world, _) = run(&steps);
        let began = world.now;
        let go_on = |cluster: &mut Cluster, steps: &[Step]| {
            let (mut now, mut all) = (began, Vec::new());
            for step in steps {
                match step {
                    Step::Tell(event) => cluster.apply(event.clone()),
                    Step::Cycle(after, pods, _) => {
                        now += after;
                        all.extend(cycle(cluster, Time(now), Budget { pods: *pods }));
                    }
                }
            }
            all
        };
        let mut copy = world.cluster.clone();
        let rehearsed = world.cluster.rehearse(|cluster| go_on(cluster, &tried));
        prop_assert_eq!(rehearsed, go_on(&mut copy.clone(), &tried));
        prop_assert!(world.cluster.model == copy.model);
        prop_assert_eq!(go_on(&mut world.cluster, &then), go_on(&mut copy, &then));
    }

    #[test]
    fn the_same_events_lead_to_the_same_decisions(steps in prop::collection::vec(any_step(), 1..60)) {
        prop_assert_eq!(run(&steps).1, run(&steps).1);
    }

    #[test]
    fn when_all_is_gone_nothing_is_used(steps in prop::collection::vec(any_step(), 1..60)) {
        let (mut world, _) = run(&steps);
        for i in 0..PODS {
            world.tell(Event::PodGone(format!("p{i}")));
        }
        for i in 0..CLAIMS {
            world.tell(Event::ClaimGone(format!("c{i}-uid")));
            world.tell(Event::ClaimGone(format!("c{i}-uid-again")));
        }
        let model = &world.cluster.model;
        prop_assert!(model.queues.iter().all(|(_, q)| q.used == <[_; 3]>::default() && q.users.is_empty() && q.pending.len() + q.parked.len() == 0));
        prop_assert_eq!((model.pods.len(), model.claims.len(), model.shapes.len(), model.templates.len()), (0, 0, 0, 0));
        prop_assert!(model.nodes.iter().all(|(_, n)| n.present && n.used == crate::amount::Totals::default()));
        for i in 0..NODES {
            world.tell(Event::NodeGone(format!("n{i}")));
        }
        prop_assert_eq!(world.cluster.model.nodes.len(), 0);
        prop_assert!(world.cluster.model.marks.is_empty() && world.cluster.model.hopes.is_empty());
        prop_assert_eq!(&world.cluster.model.capacity, &<[crate::amount::Totals; 3]>::default());
    }

    /// Of different objects, that is: what is told of one object has an order.
    #[test]
    fn the_order_of_equal_events_does_not_matter(
        events in prop::collection::vec(prop_oneof![any_node(), any_pod(), any_claim(), any_queue(), any_namespace()], 1..40),
        seed in any::<u64>(),
    ) {
        let mut events: Vec<Event> = events;
        let name = |e: &Event| match e {
            Event::Node(n) => n.name.clone(),
            Event::Pod(p) => p.uid.clone(),
            Event::Claim(c) => c.name.clone(),
            Event::Queue(q) => q.name.clone(),
            Event::Namespace(n) => format!("namespace {}", n.name),
            Event::NamespaceGone(name) => format!("namespace {name}"),
            _ => String::new(),
        };
        events.sort_by_key(&name);
        events.dedup_by_key(|e| name(e));
        let mut shuffled = events.clone();
        shuffled.sort_by_key(|e| name(e).bytes().fold(seed | 1, |h, b| h.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(b)));
        let decide = |events: Vec<Event>| {
            let mut cluster = Cluster::default();
            for event in events {
                cluster.apply(event);
            }
            let mut all = Vec::new();
            for _ in 0..3 {
                all.extend(cycle(&mut cluster, Time(5), Budget { pods: 5 }));
            }
            all
        };
        prop_assert_eq!(decide(events), decide(shuffled));
    }

    #[test]
    fn events_and_decisions_survive_serialisation(steps in prop::collection::vec(any_step(), 1..30)) {
        let (_, decisions) = run(&steps);
        for decision in decisions {
            let text = serde_json::to_string(&decision).unwrap();
            prop_assert_eq!(serde_json::from_str::<Decision>(&text).unwrap(), decision);
        }
        for step in steps {
            if let Step::Tell(event) = step {
                let text = serde_json::to_string(&event).unwrap();
                prop_assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
            }
        }
    }

    /// Whoever was evicted is made again at once, as a controller does: that must not go round for ever.
    #[test]
    fn nobody_is_evicted_for_ever_in_turns(steps in prop::collection::vec(any_step(), 1..60)) {
        let (mut world, _) = run(&steps);
        let mut last = Vec::new();
        for _ in 0..40 {
            world.now += 10_000;
            last = world.cycle();
            world.confirm(&last);
            for uid in evictions(&last).into_iter().map(ToOwned::to_owned) {
                let again = Pod {
                    node: None,
                    devices: vec![],
                    terminating: false,
                    ..world.pods[&uid].clone()
                };
                world.tell(Event::PodGone(uid));
                world.tell(again);
            }
        }
        prop_assert!(evictions(&last).is_empty(), "{:?}", last);
    }
}
