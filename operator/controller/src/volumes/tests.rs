#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use duosuan_scheduler::event::{NODE_NAME, Operator, Requirement, Term};

use super::{places::ONE_POD, *};
use crate::translate::volume::Disk;

mod limits;

fn named(name: &str) -> Namespaced {
    ("ns".to_owned(), name.to_owned())
}

fn pod(uid: &str) -> event::Pod {
    event::Pod {
        uid: uid.to_owned(),
        name: uid.to_owned(),
        namespace: "ns".to_owned(),
        ours: true,
        ..event::Pod::default()
    }
}

fn bound_to(uid: &str, node: &str) -> event::Pod {
    event::Pod {
        node: Some(node.to_owned()),
        ..pod(uid)
    }
}

fn claim(name: &str, class: &str, volume: Option<&str>) -> VolumeClaim {
    VolumeClaim {
        name: named(name),
        uid: format!("uid-{name}"),
        class: class.to_owned(),
        volume: volume.map(str::to_owned),
        named: volume.map(str::to_owned),
        wish: Disk {
            storage: 10,
            modes: vec!["ReadWriteOnce".to_owned()],
            ..Disk::default()
        },
        ..VolumeClaim::default()
    }
}

fn within(key: &str, value: &str) -> Vec<Term> {
    vec![vec![Requirement {
        key: key.to_owned(),
        operator: Operator::In,
        values: vec![value.to_owned()],
    }]]
}

/// A volume of a zone, of this size.
fn volume(name: &str, class: &str, zone: &str, storage: i64) -> Volume {
    Volume {
        name: name.to_owned(),
        version: String::new(),
        class: class.to_owned(),
        places: vec![within("zone", zone)],
        handle: Some(("disk".to_owned(), name.to_owned())),
        claimed_by: None,
        available: true,
        deleting: false,
        labels: [("kind".to_owned(), "ssd".to_owned())].into(),
        broken: None,
        has: Disk {
            storage,
            modes: vec!["ReadWriteOnce".to_owned()],
            ..Disk::default()
        },
    }
}

fn class(name: &str, made_by_hand: bool) -> Class {
    Class {
        name: name.to_owned(),
        made_by_hand,
        provisioner: "disk".to_owned(),
        waits: true,
        places: Vec::new(),
    }
}

fn node(name: &str, zone: &str) -> event::Node {
    event::Node {
        name: name.to_owned(),
        labels: [("zone".to_owned(), zone.to_owned())].into(),
        ..event::Node::default()
    }
}

fn names(claims: &[&str]) -> Vec<ClaimUse> {
    let used = |claim: &&str| ClaimUse {
        name: (*claim).to_owned(),
        own: false,
    };
    claims.iter().map(used).collect()
}

fn refused(volumes: &mut Volumes, claims: &[&str]) -> String {
    volumes.pod(pod("p"), &names(claims)).refused.unwrap_or_default()
}

#[test]
fn a_pod_stands_where_all_its_volumes_can_be_used_and_where_it_wants_itself() {
    let mut volumes = Volumes::default();
    volumes.volume("v".into(), Some(volume("v", "", "a", 10)));
    volumes.volume("w".into(), Some(volume("w", "", "b", 10)));
    volumes.claim(named("c"), Some(claim("c", "", Some("v"))));
    volumes.claim(named("d"), Some(claim("d", "", Some("w"))));
    let own = event::Pod {
        node_terms: [within("disk", "ssd"), within("disk", "nvme")].concat(),
        ..pod("p")
    };
    let seen = volumes.pod(own.clone(), &names(&["c", "d"]));
    assert_eq!(seen.node_terms, own.node_terms);
    let both = [within("zone", "a").concat(), within("zone", "b").concat()].concat();
    assert_eq!(seen.volume_terms, [both]);
    assert_eq!(seen.refused, None);
}

#[test]
fn a_claim_that_cannot_be_used_says_why_and_the_pod_is_seen_anew_when_it_can() {
    let mut volumes = Volumes::default();
    assert_eq!(refused(&mut volumes, &["c"]), r#"persistentvolumeclaim "c" not found"#);
    let mut broken = claim("c", "", Some("v"));
    broken.broken = Some(crate::translate::FieldError::new("spec.x", "is odd"));
    let seen = volumes.claim(named("c"), Some(broken));
    let why = seen.first().and_then(|p| p.refused.as_deref()).unwrap();
    assert_eq!(why, r#"persistentvolumeclaim "c" cannot be understood: spec.x: is odd"#);
    let mut gone = claim("c", "", Some("v"));
    gone.deleting = true;
    let seen = volumes.claim(named("c"), Some(gone));
    assert_eq!(
        seen.iter().map(|p| p.refused.as_deref()).collect::<Vec<_>>(),
        [Some(r#"persistentvolumeclaim "c" is being deleted"#)]
    );
    let seen = volumes.claim(named("c"), Some(claim("c", "slow", None)));
    let why = seen.first().and_then(|p| p.refused.as_deref()).unwrap();
    assert!(
        why.contains(r#""c" is not bound; its storage class "slow" does not wait"#),
        "{why}"
    );
    let seen = volumes.claim(named("c"), Some(claim("c", "slow", Some("v"))));
    let why = seen.first().and_then(|p| p.refused.as_deref()).unwrap();
    assert_eq!(why, r#"persistentvolume "v" of persistentvolumeclaim "c" is not found"#);
    let seen = volumes.volume("v".into(), Some(volume("v", "slow", "a", 10)));
    let wanted = event::Pod {
        volume_terms: within("zone", "a"),
        ..pod("p")
    };
    assert_eq!(seen, [wanted]);
    assert_eq!(
        volumes.volume("other".into(), Some(volume("other", "slow", "a", 10))),
        [],
        "what concerns no pod is told to nobody"
    );
    volumes.pod_gone("p");
    assert_eq!(volumes.claim(named("c"), None), []);
}

#[test]
fn a_claim_for_one_pod_alone_is_used_by_one_at_a_time() {
    let mut volumes = Volumes::default();
    let mut one = claim("c", "", Some("v"));
    one.wish.modes = vec![ONE_POD.to_owned()];
    volumes.claim(named("c"), Some(one));
    volumes.volume("v".into(), Some(volume("v", "", "a", 10)));
    assert_eq!(
        refused(&mut volumes, &["c"]),
        "",
        "its own use does not stand against it"
    );
    // One that gets a node counts before the API server says so.
    volumes.pod(pod("q"), &names(&["c"]));
    volumes.placed("q");
    let why = r#"persistentvolumeclaim "c" is ReadWriteOncePod, and pod "q" uses it"#;
    assert_eq!(volumes.stand("p", &node("n", "a")), Stand::Impossible(why.to_owned()));
    volumes.pod(pod("q"), &names(&["c"]));
    assert_eq!(
        refused(&mut volumes, &["c"]),
        why,
        "and is not forgotten when it is read again"
    );
    volumes.unplaced("q");
    assert_eq!(volumes.stand("p", &node("n", "a")), Stand::Ready);
    assert_eq!(refused(&mut volumes, &["c"]), "");
    volumes.pod(bound_to("q", "n"), &names(&["c"]));
    let others = volumes.others(&names(&["c"]), "ns", "q");
    assert_eq!(
        others.iter().map(|p| p.refused.as_deref()).collect::<Vec<_>>(),
        [Some(
            r#"persistentvolumeclaim "c" is ReadWriteOncePod, and pod "q" uses it"#
        )]
    );
    let ended = event::Pod {
        finished: true,
        ..bound_to("q", "n")
    };
    volumes.pod(ended, &names(&["c"]));
    let others = volumes.others(&names(&["c"]), "ns", "q");
    assert_eq!(others.iter().map(|p| p.refused.as_deref()).collect::<Vec<_>>(), [None]);
}

#[test]
fn an_ephemeral_volume_is_that_of_its_own_pod() {
    let mut volumes = Volumes::default();
    let used = [ClaimUse {
        name: "c".into(),
        own: true,
    }];
    let why = volumes.pod(pod("p"), &used).refused.unwrap();
    assert!(why.contains("is not made yet"), "{why}");
    volumes.volume("v".into(), Some(volume("v", "", "a", 10)));
    let mut of_other = claim("c", "", Some("v"));
    of_other.owner = Some("q".into());
    let told = volumes.claim(named("c"), Some(of_other.clone()));
    let why = told.first().and_then(|p| p.refused.as_deref()).unwrap();
    assert!(why.contains("was not created for this pod"), "{why}");
    of_other.owner = Some("p".into());
    let told = volumes.claim(named("c"), Some(of_other));
    assert_eq!(told.first().map(|p| p.refused.as_deref()), Some(None));
}

#[test]
fn a_volume_that_lies_ready_is_taken_before_one_is_made() {
    let mut volumes = Volumes::default();
    let mut zoned = class("fast", false);
    zoned.places = within("zone", "a");
    volumes.class("fast".into(), Some(zoned));
    volumes.volume("v".into(), Some(volume("v", "fast", "b", 10)));
    volumes.claim(named("c"), Some(claim("c", "fast", None)));
    let seen = volumes.pod(pod("p"), &names(&["c"]));
    assert_eq!(seen.volume_terms, [within("zone", "a"), within("zone", "b")].concat());
    let wants = |volumes: &Volumes, zone: &str| match volumes.stand("p", &node("n", zone)) {
        Stand::Wanting(wanting) => wanting.into_iter().next(),
        _ => None,
    };
    assert!(matches!(wants(&volumes, "a"), Some(Preparation::Select { .. })));
    assert!(matches!(wants(&volumes, "b"), Some(Preparation::Give { .. })));
    assert_eq!(wants(&volumes, "c"), None);
    // One that is meant for the claim is all that it gets.
    let mut meant = volume("w", "fast", "c", 10);
    meant.claimed_by = Some(("ns".into(), "c".into(), String::new()));
    meant.available = false;
    volumes.volume("w".into(), Some(meant));
    assert!(matches!(wants(&volumes, "c"), Some(Preparation::Give { .. })));
    assert_eq!(wants(&volumes, "b"), None);
}

#[test]
fn a_claim_that_names_a_volume_which_it_does_not_have_waits_and_so_does_one_that_lost_it() {
    let mut volumes = Volumes::default();
    volumes.class("fast".into(), Some(class("fast", false)));
    let mut asks = claim("c", "fast", None);
    asks.named = Some("v".into());
    volumes.claim(named("c"), Some(asks.clone()));
    let why = refused(&mut volumes, &["c"]);
    assert!(
        why.contains(r#"names persistentvolume "v" and is not bound to it"#),
        "{why}"
    );
    (asks.volume, asks.lost) = (Some("v".into()), true);
    volumes.claim(named("c"), Some(asks));
    let why = refused(&mut volumes, &["c"]);
    assert!(why.contains(r#"bound to non-existent persistentvolume "v""#), "{why}");
}

#[test]
fn a_volume_that_is_made_for_its_first_pod_is_asked_for_on_the_node_that_the_pod_gets() {
    let mut volumes = Volumes::default();
    volumes.class("fast".into(), Some(class("fast", false)));
    volumes.claim(named("c"), Some(claim("c", "fast", None)));
    let seen = volumes.pod(pod("p"), &names(&["c"]));
    assert_eq!((seen.refused, seen.volume_terms), (None, vec![]));
    let here = node("n", "a");
    let select = Preparation::Select {
        claim: named("c"),
        node: "n".into(),
    };
    assert_eq!(volumes.stand("p", &here), Stand::Wanting(vec![select.clone()]));
    // Another pod of the same claim does not have it made elsewhere.
    volumes.give(std::slice::from_ref(&select));
    volumes.pod(pod("q"), &names(&["c"]));
    let why = r#"the volume of persistentvolumeclaim "c" is being made for node n"#;
    assert_eq!(volumes.stand("q", &node("m", "a")), Stand::Impossible(why.to_owned()));
    assert_eq!(volumes.stand("q", &here), Stand::Wanting(vec![select.clone()]));
    volumes.take_back(&[select]);
    volumes.pod_gone("q");
    let mut selected = claim("c", "fast", None);
    selected.selected_node = Some("n".into());
    let seen = volumes.claim(named("c"), Some(selected));
    assert_eq!(volumes.stand("p", &here), Stand::Waiting);
    assert_eq!(
        seen.first().map(|p| p.volume_terms.clone()),
        Some(within(NODE_NAME, "n")),
        "after a restart it goes where its volume is being made"
    );
    volumes.volume("v".into(), Some(volume("v", "fast", "a", 10)));
    volumes.claim(named("c"), Some(claim("c", "fast", Some("v"))));
    assert_eq!(volumes.stand("p", &here), Stand::Ready);
    let Stand::Impossible(why) = volumes.stand("p", &node("m", "b")) else {
        unreachable!()
    };
    assert_eq!(
        why,
        r#"persistentvolume "v" of persistentvolumeclaim "c" cannot be used on node m"#
    );
    let mut zoned = class("fast", false);
    zoned.places = within("zone", "a");
    volumes.claim(named("c"), Some(claim("c", "fast", None)));
    let seen = volumes.class("fast".into(), Some(zoned));
    assert_eq!(seen.first().map(|p| p.volume_terms.clone()), Some(within("zone", "a")));
}

#[test]
fn a_volume_that_lies_ready_is_given_to_one_claim_and_the_smallest_that_suits() {
    let mut volumes = Volumes::default();
    volumes.class("local".into(), Some(class("local", true)));
    volumes.claim(named("c"), Some(claim("c", "local", None)));
    let why = refused(&mut volumes, &["c"]);
    assert!(
        why.starts_with(r#"no free persistentvolume of class "local" has 10 bytes"#),
        "{why}"
    );
    for (name, zone, storage) in [
        ("small", "a", 9),
        ("large", "a", 20),
        ("right", "a", 10),
        ("there", "b", 10),
    ] {
        volumes.volume(name.into(), Some(volume(name, "local", zone, storage)));
    }
    let places = |volumes: &mut Volumes| volumes.pod(pod("p"), &names(&["c"])).volume_terms;
    assert_eq!(
        places(&mut volumes),
        [within("zone", "a"), within("zone", "b")].concat()
    );
    let give = |volume: &str| Preparation::Give {
        claim: named("c"),
        uid: "uid-c".into(),
        volume: volume.into(),
        version: String::new(),
    };
    assert_eq!(volumes.stand("p", &node("n", "a")), Stand::Wanting(vec![give("right")]));
    let mut picky = claim("c", "local", None);
    picky.selector = within("kind", "disk").concat();
    volumes.claim(named("c"), Some(picky.clone()));
    assert!(matches!(volumes.stand("p", &node("n", "a")), Stand::Impossible(_)));
    picky.selector = within("kind", "ssd").concat();
    volumes.claim(named("c"), Some(picky));
    assert_eq!(volumes.stand("p", &node("n", "a")), Stand::Wanting(vec![give("right")]));
    // Another claim gets it first.
    let other = Preparation::Give {
        claim: named("d"),
        uid: "uid-d".into(),
        volume: "right".into(),
        version: String::new(),
    };
    volumes.give(std::slice::from_ref(&other));
    assert_eq!(volumes.stand("p", &node("n", "a")), Stand::Wanting(vec![give("large")]));
    volumes.take_back(&[other]);
    assert_eq!(volumes.stand("p", &node("n", "a")), Stand::Wanting(vec![give("right")]));
    let mut ours = volume("right", "local", "a", 10);
    ours.claimed_by = Some(("ns".into(), "c".into(), "uid-c".into()));
    volumes.volume("right".into(), Some(ours));
    assert_eq!(
        volumes.stand("p", &node("n", "a")),
        Stand::Waiting,
        "it is given, and not bound yet"
    );
    volumes.volume("right".into(), Some(volume("right", "local", "a", 10)));
    // What the API server says counts: a volume that is meant for another claim is not free.
    let mut taken = volume("there", "local", "b", 10);
    taken.claimed_by = Some(("ns".into(), "d".into(), String::new()));
    volumes.volume("there".into(), Some(taken));
    assert_eq!(places(&mut volumes), within("zone", "a"));
    let Stand::Impossible(why) = volumes.stand("p", &node("m", "b")) else {
        unreachable!()
    };
    assert_eq!(
        why,
        r#"no free persistentvolume for persistentvolumeclaim "c" can be used on node m"#
    );
}

/// What changed of its volumes later was told as if it had neither devices nor a NUMA node, and both seemed free.
#[test]
fn a_pod_that_was_bound_keeps_its_devices_whatever_its_volumes_become() {
    let mut volumes = Volumes::default();
    volumes.volume("v".into(), Some(volume("v", "", "a", 10)));
    volumes.claim(named("c"), Some(claim("c", "", Some("v"))));
    volumes.pod(pod("p"), &names(&["c"]));
    assert_eq!(volumes.bind("p", &node("n", "a"), &[1, 3], Some(1)), Ok(vec![]));
    let said_again = volumes.claim(named("c"), Some(claim("c", "", Some("v"))));
    assert_eq!(said_again, [], "nothing changed");
    let limited = Attachable {
        node: "n".into(),
        most: [("disk".to_owned(), 2)].into(),
    };
    let (anew, _) = volumes.attachable("n", Some(limited));
    let [seen] = anew.as_slice() else {
        unreachable!("{anew:?}")
    };
    assert_eq!(
        (seen.node.as_deref(), seen.devices.as_slice(), seen.numa),
        (Some("n"), [1, 3].as_slice(), Some(1))
    );
}

#[test]
fn two_claims_of_a_pod_do_not_get_the_same_volume() {
    let mut volumes = Volumes::default();
    volumes.class("local".into(), Some(class("local", true)));
    for name in ["c", "d"] {
        volumes.claim(named(name), Some(claim(name, "local", None)));
    }
    volumes.volume("v".into(), Some(volume("v", "local", "a", 10)));
    volumes.pod(pod("p"), &names(&["c", "d"]));
    assert!(matches!(volumes.stand("p", &node("n", "a")), Stand::Impossible(_)));
    volumes.volume("w".into(), Some(volume("w", "local", "a", 10)));
    let Stand::Wanting(wanting) = volumes.stand("p", &node("n", "a")) else {
        unreachable!()
    };
    assert_eq!(wanting.len(), 2);
}
