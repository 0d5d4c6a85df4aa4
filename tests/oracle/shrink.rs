//! The smallest snapshot that still shows a difference.

use serde_json::Value;

use crate::{
    ask::Oracle,
    compare::{Difference, Ours, differences},
    ours,
};

/// Fields that stay: without them an object is none, or means something that the API server does not admit.
const STAY: [&str; 36] = [
    "metadata",
    "name",
    "namespace",
    "uid",
    "nodeName",
    "schedulerName",
    "containers",
    "status",
    "spec",
    "nodes",
    "pods",
    "pod",
    "key",
    "operator",
    "value",
    "values",
    "effect",
    "hostPort",
    "containerPort",
    "nodeSelectorTerms",
    "topologyKey",
    "maxSkew",
    "whenUnsatisfiable",
    "weight",
    "podAffinityTerm",
    "deletionTimestamp",
    "persistentVolumeClaim",
    "claimName",
    "persistentVolumes",
    "persistentVolumeClaims",
    "storageClasses",
    "csiNodes",
    "provisioner",
    "volumeBindingMode",
    "driver",
    "volumeHandle",
];

/// Takes away what can be taken away.
pub(crate) fn smallest(oracle: &mut Oracle, snapshot: &Value, difference: &Difference) -> Value {
    smallest_by(oracle, snapshot, difference, &ours::verdicts)
}

pub(crate) fn smallest_by(
    oracle: &mut Oracle,
    snapshot: &Value,
    difference: &Difference,
    ours: &dyn Fn(&Value) -> Result<Ours, String>,
) -> Value {
    let mut shows = |smaller: &Value| {
        let Some(Ok(theirs)) = oracle.ask(std::slice::from_ref(smaller)).pop() else {
            return false;
        };
        ours(smaller).is_ok_and(|ours| differences(&theirs, &ours).iter().any(|d| d.is_like(difference)))
    };
    let mut best = snapshot.clone();
    loop {
        let mut places = Vec::new();
        parts(&best, String::new(), &mut places);
        let smaller = places.iter().find_map(|place| {
            let mut smaller = best.clone();
            remove(&mut smaller, place);
            shows(&smaller).then_some(smaller)
        });
        match smaller {
            Some(smaller) => best = smaller,
            None => return best,
        }
    }
}

/// JSON pointers of all parts that may go, larger ones before what is in them.
fn parts(value: &Value, place: String, into: &mut Vec<String>) {
    let mut add = |key: &str, part: &Value, may_go: bool| {
        let place = format!("{place}/{}", key.replace('~', "~0").replace('/', "~1"));
        if may_go {
            into.push(place.clone());
        }
        if key != "values" {
            parts(part, place, into);
        }
    };
    match value {
        Value::Object(fields) => fields
            .iter()
            .for_each(|(key, part)| add(key, part, !STAY.contains(&key.as_str()))),
        Value::Array(parts) => parts
            .iter()
            .enumerate()
            .for_each(|(i, part)| add(&i.to_string(), part, true)),
        _ => {}
    }
}

fn remove(from: &mut Value, place: &str) {
    let (parent, key) = place.rsplit_once('/').unwrap();
    match from.pointer_mut(parent).unwrap() {
        Value::Array(parts) => drop(parts.remove(key.parse().unwrap())),
        Value::Object(fields) => drop(fields.remove(&key.replace("~1", "/").replace("~0", "~"))),
        other => panic!("{place}: {other} has no parts"),
    }
}
