#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use duosuan_scheduler::event::{Capacity, DeviceAllocation, DeviceConstraint, DevicePool, NODE_NAME, Reach, Steps};
use serde_json::json;

use super::*;
use crate::translate::dra;

fn slice(name: &str, generation: i64, count: i64, devices: Value) -> Slice {
    sliced(json!({"metadata": {"name": name}, "spec": {
        "driver": "d", "nodeName": "n", "devices": devices,
        "pool": {"name": "p", "generation": generation, "resourceSliceCount": count},
    }}))
}

fn sliced(object: Value) -> Slice {
    dra::slice(serde_json::from_value(object).unwrap()).unwrap()
}

fn class(expression: &str) -> Class {
    let selectors = json!([{"cel": {"expression": expression}}]);
    let object = json!({"metadata": {"name": "gpu"}, "spec": {"selectors": selectors, "config": [{"opaque": {}}]}});
    dra::class(serde_json::from_value(object).unwrap()).unwrap()
}

fn claim(devices: Value) -> Claim {
    let metadata = json!({"name": "c", "namespace": "ns", "uid": "u", "resourceVersion": "7"});
    dra::claim(serde_json::from_value(json!({"metadata": metadata, "spec": {"devices": devices}})).unwrap())
}

fn one(more: Value) -> Claim {
    let mut exactly = json!({"deviceClassName": "gpu"});
    for (field, value) in more.as_object().unwrap() {
        exactly[field] = value.clone();
    }
    claim(json!({"requests": [{"name": "r", "exactly": exactly}]}))
}

fn pool(events: &[Event]) -> &DevicePool {
    let mut pools = events.iter().filter_map(|event| match event {
        Event::DevicePool(pool) => Some(&**pool),
        _ => None,
    });
    pools.next_back().unwrap()
}

fn told(events: &[Event]) -> &DeviceClaim {
    let Some(Event::DeviceClaim(claim)) = events.last() else {
        panic!("{events:?}");
    };
    claim
}

fn names(pool: &DevicePool) -> Vec<&str> {
    pool.devices.iter().map(|device| device.name.as_str()).collect()
}

#[test]
fn a_pool_has_the_slices_of_its_newest_generation_and_none_while_one_is_missing() {
    let mut devices = Devices::default();
    let events = devices.slice(slice("b", 1, 2, json!([{"name": "two"}])));
    let fault = pool(&events).fault.clone().unwrap();
    assert!(fault.contains("currently being updated: 1 of 2 slices"), "{fault}");
    let events = devices.slice(slice("a", 1, 2, json!([{"name": "one"}])));
    assert_eq!(
        (names(pool(&events)), &pool(&events).fault),
        (vec!["one", "two"], &None)
    );
    // The next generation: what is left of the old one does not count.
    let events = devices.slice(slice("c", 2, 1, json!([{"name": "three"}])));
    assert_eq!((names(pool(&events)), &pool(&events).fault), (vec!["three"], &None));
    let events = devices.slice(slice("c", 2, 1, json!([{"name": "three"}, {"name": "three"}])));
    assert!(
        pool(&events)
            .fault
            .as_ref()
            .unwrap()
            .contains("duplicate device name three")
    );
    assert_eq!(names(pool(&devices.slice_gone("c"))), ["one", "two"]);
    devices.slice_gone("a");
    let gone = Event::DevicePoolGone {
        driver: "d".into(),
        pool: "p".into(),
    };
    assert_eq!(devices.slice_gone("b"), [gone]);
    assert_eq!(devices.slice_gone("b"), []);
}

#[test]
fn devices_say_by_which_selectors_they_are_meant() {
    let mut devices = Devices::default();
    let gpus = json!([
        {"name": "a", "attributes": {"model": {"string": "A100"}}},
        {"name": "t", "attributes": {"model": {"string": "T4"}}},
        {"name": "x"},
    ]);
    devices.slice(slice("s", 1, 1, gpus));
    assert!(
        told(&devices.claim(one(json!({}))))
            .refused
            .as_ref()
            .unwrap()
            .contains("device class gpu does not exist")
    );
    let events = devices.class("gpu", Some(class("device.driver == 'd'")));
    let number = told(&events).spec.requests[0].options[0].selector;
    let meant =
        |events: &[Event]| -> Vec<bool> { pool(events).devices.iter().map(|d| !d.selectors.is_empty()).collect() };
    assert_eq!(meant(&events), [true, true, true]);
    assert_eq!(pool(&events).devices[0].selectors, [number]);
    let large = json!({"selectors": [{"cel": {"expression": "device.attributes['d'].model == 'A100'"}}]});
    let events = devices.claim(one(large));
    assert_ne!(told(&events).spec.requests[0].options[0].selector, number);
    assert_eq!(
        meant(&events),
        [true, true, true],
        "the old one is let go of after the new one is there"
    );
    let events = devices.slice_gone("nothing");
    assert_eq!(events, []);
    let events = devices.pools_anew([("d".to_owned(), "p".to_owned())]);
    assert_eq!(meant(&events), [true, true, true]);
    let (_, why) = &pool(&events).devices[2].failed[0];
    assert!(
        why.starts_with("selector #0 on device d/p/x: CEL runtime error") && why.contains("model"),
        "{why}"
    );
    // A class that means nothing any more, and an expression that is none.
    let events = devices.class("gpu", Some(class("device.driver ==")));
    let refused = told(&events).refused.as_ref().unwrap();
    assert!(
        refused.contains("request r: class gpu: selector #0: CEL compile error"),
        "{refused}"
    );
}

#[test]
fn a_new_selector_alone_is_evaluated_and_only_pools_of_which_it_means_a_device_are_said_anew() {
    let mut devices = Devices::default();
    let gpu = |name: &str, model: &str| json!({"name": name, "attributes": {"model": {"string": model}}});
    let of_pool = |pool: &str, devices: Value| {
        sliced(json!({"metadata": {"name": pool}, "spec": {
            "driver": "d", "nodeName": "n", "devices": devices,
            "pool": {"name": pool, "generation": 1, "resourceSliceCount": 1},
        }}))
    };
    let pools = |events: &[Event]| -> Vec<String> {
        let pools = events.iter().filter_map(|event| match event {
            Event::DevicePool(pool) => Some(pool.pool.clone()),
            _ => None,
        });
        pools.collect()
    };
    devices.slice(of_pool("old", json!([gpu("a", "T4"), gpu("b", "T4")])));
    devices.slice(of_pool("new", json!([gpu("a", "A100")])));
    devices.class("gpu", Some(class("true")));
    assert_eq!(pools(&devices.claim(one(json!({})))), ["new", "old"]);
    assert_eq!(devices.evaluated(), 3);
    let of_model = |model: &str| {
        let expression = format!("device.attributes['d'].model == '{model}'");
        one(json!({"selectors": [{"cel": {"expression": expression}}]}))
    };
    let events = devices.claim(of_model("A100"));
    assert_eq!((pools(&events), devices.evaluated()), (vec!["new".to_owned()], 6));
    assert_eq!(pool(&events).devices[0].selectors.len(), 2);
    let events = devices.claim(of_model("none"));
    assert_eq!((pools(&events).len(), devices.evaluated()), (0, 9));
    // A slice that comes again has nothing evaluated but what is another device since.
    devices.slice(of_pool("old", json!([gpu("a", "T4"), gpu("b", "T4")])));
    assert_eq!(devices.evaluated(), 9);
    let events = devices.slice(of_pool("old", json!([gpu("a", "T4"), gpu("b", "A100")])));
    assert_eq!(devices.evaluated(), 9 + 3);
    let selectors: Vec<usize> = pool(&events).devices.iter().map(|d| d.selectors.len()).collect();
    assert_eq!(selectors, [1, 2]);
}

/// In a simulation: what a claim asked for is known when it has nothing any more.
#[test]
fn a_claim_that_gave_back_its_devices_asks_for_what_it_asked_for() {
    let mut devices = Devices::default();
    devices.class("gpu", Some(class("true")));
    let mut allocated = one(json!({"count": 2}));
    let of = ClaimAllocation {
        claim: "c".into(),
        uid: "u".into(),
        allocation: DeviceAllocation::default(),
    };
    allocated.allocation = Some(of.allocation.clone());
    allocated.reserved = vec!["pod".into()];
    assert_eq!(told(&devices.claim(allocated)).spec, DeviceClaimSpec::default());
    let events = devices.taken_back("ns", "pod", &[of]);
    let [Event::DeviceClaim(claim), Event::TakenBack { name, uid, .. }] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!((&claim.allocation, claim.reserved.len()), (&None, 0));
    assert_eq!(claim.spec.requests[0].options[0].count, Some(2));
    assert_eq!((name.as_str(), uid.as_str()), ("c", "u"));
}

#[test]
fn a_selector_that_nobody_names_is_kept_for_a_while() {
    let mut devices = Devices::default();
    devices.slice(slice("s", 1, 1, json!([{"name": "a"}])));
    devices.class("gpu", Some(class("true")));
    let asks = |i: usize| one(json!({"selectors": [{"cel": {"expression": format!("{i} < 1000")}}]}));
    let pools = |events: &[Event]| events.iter().filter(|e| matches!(e, Event::DevicePool(_))).count();
    assert_eq!(pools(&devices.claim(asks(0))), 1);
    devices.claim_gone(("ns".into(), "c".into()));
    // The next pod of the same template has no device looked at.
    assert_eq!(pools(&devices.claim(asks(0))), 0);
    for i in 1..=IDLE + 1 {
        assert_eq!(pools(&devices.claim(asks(i))), 1);
    }
    devices.claim_gone(("ns".into(), "c".into()));
    assert_eq!(
        (devices.selectors.len(), devices.compiled.len(), devices.idle.len()),
        (IDLE, IDLE, IDLE)
    );
    assert_eq!(pools(&devices.claim(asks(0))), 1);
}

#[test]
fn what_a_claim_asks_for_is_understood_or_refused_with_its_field() {
    let refused = |claim: Claim| claim.asks.unwrap_err().to_string();
    for (more, field) in [
        (
            json!({"adminAccess": true}),
            "spec.devices.requests[0].exactly.adminAccess",
        ),
        (json!({"count": 0}), "spec.devices.requests[0].exactly.count"),
        (json!({"count": 33}), "spec.devices.requests: ask for 33 devices"),
        (
            json!({"allocationMode": "Some"}),
            "spec.devices.requests[0].exactly.allocationMode",
        ),
        (
            json!({"selectors": [{}]}),
            "spec.devices.requests[0].exactly.selectors[0]",
        ),
        (
            json!({"capacity": {"requests": {"memory": "-1"}}}),
            "spec.devices.requests[0].exactly.capacity.requests[memory]",
        ),
    ] {
        let said = refused(one(more));
        assert!(said.starts_with(field), "{said}");
    }
    let neither = refused(claim(json!({"requests": [{"name": "r"}]})));
    assert!(neither.starts_with("spec.devices.requests[0]: "), "{neither}");
    let asks = claim(json!({
        "requests": [{"name": "r", "firstAvailable": [
            {"name": "x", "deviceClassName": "gpu", "count": 2}, {"name": "y", "deviceClassName": "gpu", "allocationMode": "All"},
        ]}],
        "constraints": [{"requests": ["r"], "matchAttribute": "d/bus"}, {"distinctAttribute": "d/slot"}],
    }))
    .asks
    .unwrap();
    let options: Vec<(&str, Option<u32>)> = asks.requests[0].1.iter().map(|o| (o.name.as_str(), o.count)).collect();
    assert_eq!(options, [("r/x", Some(2)), ("r/y", None)]);
    let constraint = |requests: &[&str], attribute: &str, distinct| DeviceConstraint {
        requests: requests.iter().map(ToString::to_string).collect(),
        attribute: attribute.into(),
        distinct,
    };
    assert_eq!(
        asks.constraints,
        [constraint(&["r"], "d/bus", false), constraint(&[], "d/slot", true)]
    );
}

#[test]
fn devices_are_read_with_where_they_are_and_what_they_have() {
    let per_device = sliced(json!({"metadata": {"name": "s"}, "spec": {
        "driver": "d", "perDeviceNodeSelection": true,
        "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
        "devices": [
            {"name": "here", "nodeName": "n", "allowMultipleAllocations": true,
                "consumesCounters": [{"counterSet": "card", "counters": {"slices": {"value": "3"}}}],
                "capacity": {"mem": {"value": "80Gi", "requestPolicy": {"default": "1Gi", "validRange": {"min": "1Gi", "step": "1Gi"}}}}},
            {"name": "everywhere", "allNodes": true, "bindingConditions": ["ready"]},
            {"name": "there", "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["m"]}]}]},
                "taints": [{"key": "ill", "effect": "NoSchedule"}]},
            {"name": "nowhere"},
        ],
    }}));
    let [here, everywhere, there, nowhere] = per_device.devices.as_slice() else {
        panic!("{per_device:?}");
    };
    assert_eq!(
        (&here.reach, &everywhere.reach),
        (&Reach::Node("n".into()), &Reach::Everywhere)
    );
    let gib = 1000 << 30;
    let steps = Some(Steps::Range {
        min: gib,
        max: None,
        step: Some(gib),
    });
    let mem = Capacity {
        value: 80 * gib,
        default: Some(gib),
        steps,
    };
    assert_eq!(here.capacity, [("mem".to_owned(), mem)].into());
    assert_eq!((here.seen.shared, here.consumes["card/slices"]), (true, 3000));
    assert!(everywhere.unsupported.as_ref().unwrap().contains("bindingConditions"));
    let Reach::Nodes(terms) = &there.reach else {
        panic!("{there:?}");
    };
    assert_eq!(
        (terms[0][0].key.as_str(), there.taints[0].key.as_str()),
        (NODE_NAME, "ill")
    );
    assert_eq!(nowhere.reach, Reach::Nodes(vec![]));
    // It is tried last, and says what it has.
    let mut devices = Devices::default();
    devices.class("gpu", Some(class("true")));
    devices.claim(one(json!({})));
    let events = devices.slice(per_device);
    assert!(
        pool(&events)
            .fault
            .as_ref()
            .unwrap()
            .contains("counter card/slices not found")
    );
    let last = pool(&events).devices.last().unwrap();
    assert_eq!(
        (last.name.as_str(), last.selectors.len(), last.failed.len()),
        ("everywhere", 0, 1)
    );
}

#[test]
fn an_older_word_of_a_claim_is_passed_over_and_grants_carry_the_configuration_of_classes() {
    let mut devices = Devices::default();
    devices.class("gpu", Some(class("true")));
    let mut newer = one(json!({}));
    newer.version = Some(8);
    assert_eq!(devices.claim(newer).len(), 1);
    assert_eq!(devices.claim(one(json!({}))), []);
    let allocation = ClaimAllocation {
        claim: "c".into(),
        uid: "u".into(),
        allocation: Default::default(),
    };
    let grants = devices.grants("ns", vec![allocation]);
    assert_eq!(
        grants[0].classes,
        [("gpu".to_owned(), vec![json!({"opaque": {}})])].into()
    );
    // Another claim of the same name is no older word.
    let mut another = one(json!({}));
    another.uid = "v".into();
    assert_eq!(devices.claim(another).len(), 1);
}

#[test]
fn a_claim_is_one_pods_own_only_if_it_was_made_from_a_template() {
    let owned = |annotations: Value| {
        let owners = json!([{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "x", "controller": true}]);
        let metadata = json!({"name": "c", "ownerReferences": owners, "annotations": annotations});
        dra::claim(serde_json::from_value(json!({"metadata": metadata, "spec": {}})).unwrap()).owner
    };
    assert_eq!(
        owned(json!({"resource.kubernetes.io/pod-claim-name": "gpu"})).as_deref(),
        Some("x")
    );
    assert_eq!(owned(json!({"other": "gpu"})), None);
}
