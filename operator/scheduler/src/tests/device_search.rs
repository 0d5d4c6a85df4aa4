//! How much work the search for devices is.

use crate::{
    event::{DeviceClaim, DeviceConstraint, DevicePool, PoolDevice},
    tests::{
        device_claims::{asks, device, given, gpus, one, pool, reason, request, using},
        fixtures::{World, node},
    },
};

/// A node's devices, no two of them alike, on two cards: to have the eighth of them is impossible, which a search finds out
/// only by trying all ways to choose seven.
fn hard(node: &str) -> DevicePool {
    let devices = (0..24).map(|i| PoolDevice {
        attributes: [("gpu/uuid".to_owned(), format!("{node}-{i}"))].into(),
        consumes: [("card/slices".to_owned(), 2)].into(),
        ..device(&format!("gpu-{i}"), node)
    });
    DevicePool {
        counters: [("card/slices".to_owned(), 15)].into(),
        ..pool(node, devices.collect())
    }
}

fn tried(world: &World, claim: &DeviceClaim) -> Vec<u32> {
    let model = &world.cluster.model;
    let each = model
        .nodes
        .iter()
        .map(|(_, node)| model.dra.tried(node, &[&claim.spec]));
    each.collect()
}

#[test]
fn the_searches_on_all_nodes_share_their_work() {
    let eight = asks("c", vec![request("gpu", 8)]);
    let mut world = World::default();
    let mut sums = Vec::new();
    for count in [1_usize, 4, 100, 400] {
        for i in world.cluster.model.nodes.iter().count()..count {
            let name = format!("n{i:03}");
            world.tell(hard(&name));
            world.tell(node(&name, 4));
        }
        let tried = tried(&world, &eight);
        assert_eq!(tried.len(), count);
        assert!(tried.iter().all(|each| *each > 24), "each is looked at: {tried:?}");
        sums.push(tried.iter().map(|each| u64::from(*each)).sum::<u64>());
    }
    // On few nodes each is searched for long; on many the sum grows by what has to be looked at alone.
    assert!(sums[0] >= 50_000, "{sums:?}");
    assert!(sums[2] <= 400_000 + 100 * 16 * 24, "{sums:?}");
    assert!(sums[3] <= 400_000 + 400 * 16 * 24, "{sums:?}");
    world.tell(eight);
    world.tell(using("p", &["c"]));
    let said = reason(&mut world, "p");
    assert!(said.contains("the search for devices was given up"), "{said}");
    // What is easy is found beside that.
    world.tell(asks("easy", vec![request("gpu", 7)]));
    world.tell(using("q", &["easy"]));
    assert_eq!(given(&world.cycle()).len(), 1);
}

#[test]
fn devices_that_have_to_agree_are_not_tried_where_too_few_do() {
    let mut world = World::default();
    let devices = (0..32).map(|i| PoolDevice {
        attributes: [
            ("gpu/uuid".to_owned(), format!("{i}")),
            ("gpu/bus".to_owned(), format!("{}", i % 4)),
        ]
        .into(),
        ..device(&format!("gpu-{i}"), "n")
    });
    world.tell(pool("n", devices.collect()));
    world.tell(node("n", 4));
    for (count, distinct) in [(9, false), (5, true)] {
        let mut claim = asks("c", vec![request("gpu", count)]);
        claim.spec.constraints = vec![DeviceConstraint {
            requests: vec![],
            attribute: "gpu/bus".into(),
            distinct,
        }];
        let tried = tried(&world, &claim)[0];
        assert!(tried < 500, "{tried} tried for {count}");
        claim.spec.requests = vec![request("gpu", count - 1)];
        world.tell(claim);
        world.tell(using("p", &["c"]));
        assert_eq!(given(&world.cycle()).len(), 1);
        world.tell(crate::Event::PodGone("p".into()));
        world.tell(crate::Event::BindFailed {
            pod: "p".into(),
            node: "n".into(),
            message: "gone".into(),
            lasting: false,
        });
    }
}

#[test]
fn a_claim_to_more_devices_than_are_free_is_not_searched_for_in_vain() {
    let mut many = gpus("a", 24);
    for device in &mut many.devices {
        // As drivers have it: no two are alike.
        device.attributes = [("gpu/uuid".to_owned(), device.name.clone())].into();
    }
    let mut world = World::with([node("a", 4).into(), many.into(), one("c1").into()]);
    world.tell(using("p1", &["c1"]));
    assert_eq!(given(&world.cycle()).len(), 1);
    world.tell(asks("all", vec![request("gpu", 24)]));
    world.tell(using("p2", &["all"]));
    assert!(given(&world.cycle()).is_empty());
    let said = reason(&mut world, "p2");
    assert!(!said.contains("given up"), "{said}");
    assert!(said.contains("1 device for request gpu more"), "{said}");
}

/// A new selector makes pools anew: nodes of whose devices it says nothing are left alone.
#[test]
fn only_nodes_are_looked_at_again_of_whose_devices_something_is_another() {
    let mut world = World::default();
    let both = || {
        let devices = ["a", "b"].map(|node| device(&format!("gpu-{node}"), node));
        pool("both", devices.into())
    };
    for name in ["a", "b"] {
        world.tell(node(name, 4));
    }
    world.tell(both());
    world.tell(one("large"));
    world.tell(crate::event::Pod {
        requests: [("cpu".to_owned(), 9000)].into(),
        ..using("large", &["large"])
    });
    assert_eq!(given(&world.cycle()), []);
    let visited = world.cluster.work().nodes_visited;
    let mut other = both();
    other.devices[0].selectors = vec![1, 2];
    world.tell(other);
    world.cycle();
    assert_eq!(world.cluster.work().nodes_visited, visited + 1);
    world.tell(gpus("c", 1));
    world.cycle();
    assert_eq!(world.cluster.work().nodes_visited, visited + 1);
}
