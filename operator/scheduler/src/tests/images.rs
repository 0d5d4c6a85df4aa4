//! Images: a pod had rather be where its own are already, if that costs little else.

use proptest::prelude::*;

use super::fixtures::*;
use crate::{
    Budget, Cluster, Decision, Event, Policy, Tier, Time, cycle,
    event::{BIG_IMAGE, Node, Pod},
    index,
};

/// A node of 16 cores, of which each is a step of the cost, that holds images of so many GiB.
fn holding(name: &str, images: &[(&str, i64)]) -> Node {
    Node {
        images: images
            .iter()
            .map(|(name, gib)| ((*name).to_owned(), gib * GI))
            .collect(),
        ..node(name, 16)
    }
}

/// A pod of one core with a container of each image.
fn of(uid: &str, images: &[&str]) -> Pod {
    Pod {
        images: images.iter().map(|name| (*name).to_owned()).collect(),
        ..pod(uid, 1000)
    }
}

/// Another scheduler's pod, of so many cores.
fn other(uid: &str, node: &str, cores: i64) -> Pod {
    Pod {
        node: Some(node.into()),
        ours: false,
        ..pod(uid, cores * 1000)
    }
}

fn told<T: Into<Event>>(cluster: &mut Cluster, events: impl IntoIterator<Item = T>) {
    events.into_iter().for_each(|event| cluster.apply(event.into()));
}

/// Where the pods go, as `POD NODE`.
fn places(cluster: &mut Cluster) -> Vec<String> {
    let decisions = cycle(cluster, Time(1), Budget::default());
    let bound = decisions.iter().filter_map(|decision| match decision {
        Decision::Bind { pod, node, .. } => Some(format!("{pod} {node}")),
        _ => None,
    });
    bound.collect()
}

/// Where a pod goes among these nodes, beside others.
fn goes(nodes: Vec<Node>, others: Vec<Pod>, pod: Pod) -> String {
    let mut cluster = Cluster::default();
    told(&mut cluster, nodes);
    told(&mut cluster, others);
    cluster.apply(pod.into());
    places(&mut cluster).join(", ")
}

#[test]
fn a_pod_goes_where_its_image_is_and_others_stay_in_node_order() {
    let nodes = || vec![node("a", 16), holding("b", &[("llm", 9)]), node("c", 16)];
    assert_eq!(goes(nodes(), vec![], of("p", &["llm"])), "p b");
    assert_eq!(goes(nodes(), vec![], of("p", &["llm-2"])), "p a");
    assert_eq!(goes(nodes(), vec![], pod("p", 1000)), "p a");
    // The more of them the better, and the largest.
    let two = vec![
        holding("a", &[("x", 1)]),
        holding("b", &[("x", 1), ("y", 1)]),
        holding("c", &[("y", 2), ("z", 9)]),
    ];
    assert_eq!(
        goes(two.clone(), vec![], of("p", &["x", "y"])),
        "p b",
        "equal to c, and first"
    );
    assert_eq!(goes(two.clone(), vec![], of("p", &["y"])), "p c");
    assert_eq!(goes(two, vec![], of("p", &["x"])), "p a");
}

#[test]
fn an_image_is_worth_a_step_of_use_for_each_gib_and_four_at_most() {
    let goes = |gib: i64, cores: i64| {
        let nodes = vec![holding("a", &[("llm", gib)]), node("b", 16)];
        goes(nodes, vec![other("o", "a", cores)], of("p", &["llm"]))
    };
    for (gib, worth) in [(1, 1), (3, 3), (4, 4), (100, 4)] {
        assert_eq!(
            goes(gib, worth),
            "p a",
            "{gib} GiB: as good, and first in the node order"
        );
        assert_eq!(goes(gib, worth + 1), "p b", "{gib} GiB");
    }
}

#[test]
fn a_small_image_counts_for_nothing() {
    let mut nearly = holding("b", &[]);
    nearly.images.insert("llm".into(), BIG_IMAGE - 1);
    let mut cluster = Cluster::default();
    told(&mut cluster, [node("a", 16), nearly]);
    cluster.apply(of("p", &["llm"]).into());
    assert_eq!(places(&mut cluster), ["p a"]);
    assert!(cluster.model.images.is_empty());
}

#[test]
fn batch_and_gpu_pods_go_where_their_images_are_too_and_no_image_costs_a_gpu() {
    let lends = |mut node: Node| {
        node.allocatable.insert("duosuan.io/batch-cpu".into(), 16_000);
        node
    };
    let nodes = vec![lends(node("a", 16)), lends(holding("b", &[("spark", 2)]))];
    let batch = Pod {
        tier: Tier::Batch,
        requests: amounts(&[("duosuan.io/batch-cpu", 1000)]),
        ..of("p", &["spark"])
    };
    assert_eq!(goes(nodes, vec![], batch), "p b");

    let gpus = |name: &str, images: &[(&str, i64)]| Node {
        images: holding(name, images).images,
        ..gpu_node(name, 4, "A100")
    };
    let trains = |uid: &str| Pod {
        gpus: Some(whole(4)),
        ..of(uid, &["llm"])
    };
    let nodes = || vec![gpus("a", &[]), gpus("b", &[("llm", 20)])];
    assert_eq!(goes(nodes(), vec![], trains("p")), "p b");
    // A pod without GPUs does not take a node with free ones for its image.
    let with_plain = [nodes(), vec![node("c", 64)]].concat();
    assert_eq!(goes(with_plain, vec![], of("p", &["llm"])), "p c");
}

#[test]
fn what_came_or_went_meanwhile_counts() {
    let mut cluster = Cluster::default();
    told(&mut cluster, [node("a", 16), node("b", 16), node("c", 16)]);
    cluster.apply(of("p0", &["llm"]).into());
    assert_eq!(places(&mut cluster), ["p0 a"], "no node has it");
    cluster.apply(holding("b", &[("llm", 9)]).into());
    told(&mut cluster, [of("p1", &["llm"]), of("p2", &["llm"])]);
    assert_eq!(places(&mut cluster), ["p1 b", "p2 b"]);
    cluster.apply(node("b", 16).into());
    cluster.apply(of("p3", &["llm"]).into());
    assert_eq!(places(&mut cluster), ["p3 c"], "b has removed it, and is fuller");
    cluster.apply(holding("b", &[("llm", 9)]).into());
    cluster.apply(of("p4", &["llm"]).into());
    assert_eq!(places(&mut cluster), ["p4 b"]);
    cluster.apply(Event::NodeGone("b".into()));
    cluster.apply(of("p5", &["llm"]).into());
    assert_eq!(places(&mut cluster), ["p5 a"]);
}

#[test]
fn a_change_of_images_values_that_node_alone_and_only_for_those_who_want_one() {
    let mut cluster = Cluster::default();
    told(
        &mut cluster,
        (0..50).map(|i| holding(&format!("n{i:02}"), &[("llm", 2)])),
    );
    let lists = |cluster: &mut Cluster, uid: &str, images: &[&str]| {
        cluster.apply(of(uid, images).into());
        let pod = cluster.model.pods_by_uid[uid];
        let look = cluster.model.look(pod);
        cluster.index.best(&cluster.model, Policy::Standard, look);
    };
    lists(&mut cluster, "wants", &["llm"]);
    lists(&mut cluster, "plain", &["small"]);
    let (before, clock) = (cluster.work(), cluster.model.changes.clock());
    cluster.apply(holding("n07", &[("llm", 3)]).into());
    assert_eq!(cluster.model.changes.clock(), clock, "nobody else is told");
    lists(&mut cluster, "plain-2", &["small"]);
    assert_eq!(cluster.work(), before);
    lists(&mut cluster, "wants-2", &["llm"]);
    assert_eq!(cluster.work().nodes_visited - before.nodes_visited, 1);
    assert_eq!(cluster.work().shapes_built, before.shapes_built);
    // What a kubelet says again is no change.
    cluster.apply(holding("n07", &[("llm", 3)]).into());
    lists(&mut cluster, "wants-3", &["llm"]);
    assert_eq!(cluster.work().nodes_visited - before.nodes_visited, 1);
}

#[test]
fn nothing_is_left_of_images_when_pods_and_nodes_are_gone() {
    let mut cluster = Cluster::default();
    told(
        &mut cluster,
        [holding("a", &[("x", 1), ("y", 2)]), holding("b", &[("x", 1)])],
    );
    told(&mut cluster, [of("p", &["x"]), of("q", &["x", "y"])]);
    assert_eq!(places(&mut cluster).len(), 2);
    for uid in ["p", "q"] {
        cluster.apply(Event::PodGone(uid.into()));
    }
    for name in ["a", "b"] {
        cluster.apply(Event::NodeGone(name.into()));
    }
    assert!(cluster.model.images.is_empty());
}

#[test]
fn a_node_that_tells_of_many_images_is_bounded() {
    let many: Vec<(String, i64)> = (0..1000).map(|i| (format!("i{i:04}"), 2)).collect();
    let many: Vec<(&str, i64)> = many.iter().map(|(name, gib)| (name.as_str(), *gib)).collect();
    let mut cluster = Cluster::default();
    told(&mut cluster, [node("a", 16), holding("b", &many)]);
    told(&mut cluster, [of("first", &["i0000"]), of("last", &["i0999"])]);
    assert_eq!(places(&mut cluster), ["first b", "last a"]);
}

fn any_event() -> impl Strategy<Value = Event> {
    let images = prop::collection::vec(0..3_i64, 3);
    let node = (0..6_usize, images).prop_map(|(i, gib)| {
        let images: Vec<(&str, i64)> = ["x", "y", "z"].into_iter().zip(gib).collect();
        Event::from(holding(&format!("n{i}"), &images))
    });
    let pod = (0..20_usize, any::<[bool; 5]>()).prop_map(|(i, [x, y, z, batch, large])| {
        let images = [("x", x), ("y", y), ("z", z)];
        let images: Vec<&str> = images.iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect();
        let mut pod = of(&format!("p{i:02}"), &images);
        pod.requests.insert("cpu".into(), if large { 3000 } else { 1000 });
        if batch {
            pod.gpus = Some(share(500));
        }
        Event::from(pod)
    });
    prop_oneof![
        3 => node,
        5 => pod,
        1 => (0..6_usize).prop_map(|i| Event::NodeGone(format!("n{i}"))),
        2 => (0..20_usize).prop_map(|i| Event::PodGone(format!("p{i:02}"))),
    ]
}

proptest! {
    /// Whatever images come and go, each pod would get the node that a look at all of them finds best.
    #[test]
    fn lists_find_what_a_scan_of_all_nodes_finds(events in prop::collection::vec(any_event(), 1..60)) {
        let mut cluster = Cluster::default();
        cluster.apply(gpu_node("n9", 2, "T4").into());
        for (i, event) in events.into_iter().enumerate() {
            cluster.apply(event);
            if i % 3 > 0 {
                cycle(&mut cluster, Time(i as i64), Budget::default());
            }
            for pod in cluster.model.pods_by_uid.values().copied().collect::<Vec<_>>() {
                let look = cluster.model.look(pod);
                let best = cluster.index.best(&cluster.model, Policy::Standard, look);
                let by_scan = index::by_scan(&cluster.model, Policy::Standard, look, &Default::default(), None);
                prop_assert_eq!(best, by_scan);
            }
        }
    }

    /// In whatever order nodes and pods are heard of, and through whatever images there were before, the same is decided.
    #[test]
    fn the_order_of_events_and_what_was_before_do_not_matter(
        (mut nodes, pods) in (
            prop::collection::vec(prop::collection::vec(0..3_i64, 3), 1..6),
            prop::collection::vec(any::<[bool; 3]>(), 1..8),
        ),
        shuffle in any::<u64>(),
    ) {
        let names = ["x", "y", "z"];
        let named = |i: usize, gib: &[i64]| {
            let images: Vec<(&str, i64)> = names.into_iter().zip(gib.iter().copied()).collect();
            Event::from(holding(&format!("n{i}"), &images))
        };
        let mut told: Vec<Event> = nodes.iter().enumerate().map(|(i, gib)| named(i, gib)).collect();
        for (i, wanted) in pods.iter().enumerate() {
            let images: Vec<&str> = names.into_iter().zip(wanted).filter(|(_, is)| **is).map(|(name, _)| name).collect();
            told.push(Event::from(of(&format!("p{i}"), &images)));
        }
        let decided = |events: &[Event]| {
            let mut cluster = Cluster::default();
            events.iter().for_each(|event| cluster.apply(event.clone()));
            cycle(&mut cluster, Time(1), Budget::default())
        };
        let expected = decided(&told);
        // Other images first, each node once, and all in another order.
        nodes.rotate_left(1);
        let mut other: Vec<Event> = nodes.iter().enumerate().rev().map(|(i, gib)| named(i, gib)).collect();
        let mut random = shuffle;
        for i in (1..told.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            told.swap(i, (random >> 33) as usize % (i + 1));
        }
        other.extend(told);
        prop_assert_eq!(decided(&other), expected);
    }
}
