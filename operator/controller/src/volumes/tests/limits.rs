//! Drivers that let a node have so many volumes, and volumes that several pods use, which count once.

use super::*;

#[test]
fn volumes_of_a_driver_count_where_the_driver_has_a_limit() {
    let mut volumes = Volumes::default();
    for (c, v) in [("c", "v"), ("d", "w"), ("e", "v")] {
        volumes.volume(v.into(), Some(volume(v, "", "a", 10)));
        volumes.claim(named(c), Some(claim(c, "", Some(v))));
    }
    let seen = volumes.pod(bound_to("p", "n"), &names(&["c", "d", "e"]));
    assert_eq!(seen.requests, BTreeMap::new());
    let most = |n| Attachable {
        node: "n".into(),
        most: [("disk".to_owned(), n)].into(),
    };
    let (seen, all) = volumes.attachable("n", Some(most(5)));
    assert!(all, "a node without a number is not one that can attach nothing");
    let resource = "attachable-volumes-csi-disk".to_owned();
    let requests: Vec<_> = seen.iter().map(|p| p.requests.clone()).collect();
    assert_eq!(
        requests,
        [BTreeMap::from([(resource.clone(), 2)])],
        "a volume counts once"
    );
    assert_eq!(volumes.limits("n"), [(resource.clone(), 5)]);
    assert_eq!(volumes.limits("m"), [(resource, UNLIMITED)]);
    let (seen, all) = volumes.attachable("n", Some(most(4)));
    assert_eq!((seen, all), (vec![], false));
    // One that is still to be made counts as one of its class's driver.
    volumes.class("fast".into(), Some(class("fast", false)));
    volumes.claim(named("f"), Some(claim("f", "fast", None)));
    let seen = volumes.pod(pod("w"), &names(&["f", "c"]));
    assert_eq!(counted(&[seen]), [("w", 1, vec!["disk/v"])]);
}

/// Of each pod how many volumes it is told to use alone, and which it shares.
fn counted(pods: &[event::Pod]) -> Vec<(&str, i64, Vec<&str>)> {
    let of = |pod: &'_ event::Pod| pod.requests.values().sum();
    let shared = pods
        .iter()
        .map(|pod| pod.shared_volumes.iter().map(|v| v.name.as_str()).collect());
    let pods = pods.iter().zip(shared);
    pods.map(|(pod, shared)| (pod.name.as_str(), of(pod), shared)).collect()
}

#[test]
fn a_volume_is_told_by_name_as_long_as_several_pods_use_it() {
    let mut volumes = Volumes::default();
    let most = Attachable {
        node: "n".into(),
        most: [("disk".to_owned(), 1)].into(),
    };
    volumes.attachable("n", Some(most));
    for (c, v) in [("c", "v"), ("d", "w")] {
        volumes.volume(v.into(), Some(volume(v, "", "a", 10)));
        volumes.claim(named(c), Some(claim(c, "", Some(v))));
    }
    let first = volumes.pod(bound_to("p", "n"), &names(&["c"]));
    assert_eq!(counted(&[first]), [("p", 1, vec![])]);
    let second = volumes.pod(pod("q"), &names(&["c", "d"]));
    assert_eq!(counted(&[second]), [("q", 1, vec!["disk/v"])]);
    let others = volumes.others(&names(&["c", "d"]), "ns", "q");
    assert_eq!(counted(&others), [("p", 0, vec!["disk/v"])]);
    // Another claim, to a volume that the driver knows by the same handle.
    let mut same = volume("x", "", "a", 10);
    same.handle = Some(("disk".to_owned(), "w".to_owned()));
    volumes.claim(named("e"), Some(claim("e", "", Some("x"))));
    volumes.pod(pod("r"), &names(&["e"]));
    let told = volumes.volume("x".into(), Some(same));
    assert_eq!(
        counted(&told),
        [("q", 0, vec!["disk/v", "disk/w"]), ("r", 0, vec!["disk/w"])]
    );
    assert_eq!(counted(&volumes.left("r")), [("q", 1, vec!["disk/v"])]);
    assert_eq!(counted(&volumes.left("q")), [("p", 1, vec![])]);
}

#[test]
fn who_comes_to_many_that_share_a_volume_or_leaves_them_touches_none_of_them() {
    let mut volumes = Volumes::default();
    volumes.volume("v".into(), Some(volume("v", "", "a", 10)));
    volumes.claim(named("c"), Some(claim("c", "", Some("v"))));
    let touched = |volumes: &Volumes| volumes.touched(&[named("c")]).into_iter().collect::<Vec<_>>();
    volumes.pod(pod("p"), &names(&["c"]));
    assert_eq!(touched(&volumes), ["p"]);
    volumes.pod(pod("q"), &names(&["c"]));
    assert_eq!(touched(&volumes), ["p", "q"], "the first was alone until now");
    for uid in ["r", "s"] {
        volumes.pod(pod(uid), &names(&["c"]));
        assert_eq!(touched(&volumes), Vec::<String>::new());
    }
    assert_eq!(volumes.left("s"), []);
    assert_eq!(volumes.left("r"), []);
    volumes.left("q");
    assert_eq!(touched(&volumes), ["p"], "the last is alone again");
}

#[test]
fn a_driver_is_limited_as_long_as_some_node_has_a_limit_of_it() {
    let mut volumes = Volumes::default();
    let limit = |most: i64| {
        Some(Attachable {
            node: "n".to_owned(),
            most: [("disk".to_owned(), most)].into(),
        })
    };
    assert!(volumes.attachable("n", limit(3)).1 && !volumes.attachable("m", limit(4)).1);
    assert!(!volumes.attachable("n", limit(5)).1 && !volumes.attachable("n", None).1);
    assert_eq!(volumes.limits("m"), [(format!("{ATTACHED}disk"), 4)]);
    assert!(volumes.attachable("m", None).1 && !volumes.attachable("m", None).1);
    assert_eq!(volumes.limits("m"), []);
}
