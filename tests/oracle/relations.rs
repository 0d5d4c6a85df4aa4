//! Pods that relate to each other, put into a snapshot: labels, namespaces, affinity, anti-affinity, topology spread.

use serde_json::{Map, Value, json};

use crate::{
    generate::{NAMES, sometimes},
    ours::SCHEDULER,
    random::Random,
};

/// Namespaces of pods. Of each of them there may be an object or not.
const NAMESPACES: [&str; 3] = ["ns", "other", "third"];
const APPS: [&str; 3] = ["x", "y", ""];
/// The last one is a label that no node has.
const TOPOLOGY_KEYS: [&str; 6] = [
    "zone",
    "zone",
    "kubernetes.io/hostname",
    "kubernetes.io/hostname",
    "rack",
    "absent",
];

/// Makes the pods of a snapshot relate to each other.
pub(crate) fn relate(random: &mut Random, snapshot: &mut Value) {
    // In most of them little else turns the pod away, so that relations decide.
    let roomy = !random.once_in(4);
    // In some, most pods are alike and the one that waits is to be spread among them: what constraints say in detail
    // seldom matters otherwise.
    let alike = random.once_in(3);
    for node in snapshot["nodes"].as_array_mut().unwrap() {
        label(random, node);
        if roomy {
            make_room(random, node, alike);
        }
    }
    let more = random.some(0, 8, |random| {
        json!({"spec": {"schedulerName": SCHEDULER, "containers": [{"name": "c"}], "nodeName": random.of(&NAMES)},
               "status": {"phase": "Running"}})
    });
    let pods = snapshot["pods"].as_array_mut().unwrap();
    for (i, mut pod) in more.into_iter().enumerate() {
        let name = format!("more-{i}");
        pod["metadata"] =
            json!({"name": name, "uid": format!("uid-{name}"), "creationTimestamp": "2026-01-01T00:00:00Z"});
        if random.once_in(8) {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        pods.push(pod);
    }
    for pod in pods {
        belong(random, pod, alike);
        if random.once_in(if alike { 6 } else { 2 }) {
            rules(random, pod);
        }
    }
    let pending = &mut snapshot["pod"];
    belong(random, pending, alike);
    if roomy {
        pending["spec"]["containers"] = json!([{"name": "c"}]);
        let spec = pending["spec"].as_object_mut().unwrap();
        for field in ["initContainers", "overhead", "resources"] {
            spec.remove(field);
        }
        if !random.once_in(3) {
            spec.remove("nodeSelector");
            spec.remove("affinity");
        }
        // What excludes nodes from being counted.
        sometimes(
            random,
            4,
            spec,
            "nodeSelector",
            |random| json!({"pool": random.of(&["1", "2"])}),
        );
    }
    if alike {
        let constraints = random.some(1, 2, spread_among_alike);
        pending["spec"]["topologySpreadConstraints"] = without_doubles(constraints);
    } else if !random.once_in(6) {
        rules(random, pending);
    }
    snapshot["namespaces"] = NAMESPACES
        .into_iter()
        .filter_map(|name| {
            let mut labels = Map::new();
            sometimes(random, 2, &mut labels, "team", |random| {
                json!(random.of(&["red", "blue"]))
            });
            (!random.once_in(4)).then(|| json!({"metadata": {"name": name, "labels": labels}}))
        })
        .collect();
}

fn label(random: &mut Random, node: &mut Value) {
    let name = node["metadata"]["name"].clone();
    if !node["metadata"]["labels"].is_object() {
        node["metadata"]["labels"] = json!({});
    }
    let labels = node["metadata"]["labels"].as_object_mut().unwrap();
    labels.remove("zone");
    if !random.once_in(8) {
        labels.insert("zone".into(), json!(random.of(&["a", "a", "b", ""])));
    }
    if !random.once_in(8) {
        // Nothing keeps two nodes from the same label.
        let host = if random.once_in(12) { json!("shared") } else { name };
        labels.insert("kubernetes.io/hostname".into(), host);
    }
    for key in ["rack", "pool"] {
        sometimes(random, 2, labels, key, |random| json!(random.of(&["1", "1", "2"])));
    }
}

fn make_room(random: &mut Random, node: &mut Value, tainted: bool) {
    if !tainted && !random.once_in(3) {
        let spec = node["spec"].as_object_mut().unwrap();
        spec.remove("taints");
        spec.remove("unschedulable");
    }
    node["status"] = json!({"allocatable": {"cpu": "1k", "memory": "1Ti", "ephemeral-storage": "1Ti", "pods": "110"}});
    node["status"]["allocatable"]["example.com/x"] = json!("1k");
}

/// Gives a pod a namespace and labels.
fn belong(random: &mut Random, pod: &mut Value, alike: bool) {
    pod["metadata"]["namespace"] = json!(if random.once_in(if alike { 12 } else { 3 }) {
        random.of(&NAMESPACES)
    } else {
        &"ns"
    });
    if !pod["metadata"]["labels"].is_object() {
        pod["metadata"]["labels"] = json!({});
    }
    let labels = pod["metadata"]["labels"].as_object_mut().unwrap();
    if !random.once_in(6) {
        let app = if alike && !random.once_in(4) {
            &"x"
        } else {
            random.of(&APPS)
        };
        labels.insert("app".into(), json!(app));
    }
    sometimes(random, 3, labels, "side", |random| json!(random.of(&["front", "back"])));
}

fn rules(random: &mut Random, pod: &mut Value) {
    let spec = pod["spec"].as_object_mut().unwrap();
    for field in ["podAffinity", "podAntiAffinity"] {
        if !random.once_in(3) {
            continue;
        }
        let mut affinity = Map::new();
        if !random.once_in(4) {
            let terms = random.some(1, 2, term);
            affinity.insert("requiredDuringSchedulingIgnoredDuringExecution".into(), terms.into());
        }
        if random.once_in(4) {
            let terms = random.some(
                1,
                2,
                |random| json!({"weight": random.of(&[1, 50, 100]), "podAffinityTerm": term(random)}),
            );
            affinity.insert("preferredDuringSchedulingIgnoredDuringExecution".into(), terms.into());
        }
        if !spec.get("affinity").is_some_and(Value::is_object) {
            spec.insert("affinity".into(), json!({}));
        }
        spec["affinity"][field] = affinity.into();
    }
    if random.once_in(2) {
        let constraints = random.some(1, 3, spread);
        spec.insert("topologySpreadConstraints".into(), without_doubles(constraints));
    }
}

fn term(random: &mut Random) -> Value {
    let mut term = Map::new();
    term.insert("topologyKey".into(), json!(random.of(&TOPOLOGY_KEYS)));
    if !random.once_in(10) {
        term.insert("labelSelector".into(), selector(random));
    }
    sometimes(random, 4, &mut term, "namespaces", |random| {
        random.some(0, 2, |random| json!(random.of(&NAMESPACES))).into()
    });
    sometimes(random, 4, &mut term, "namespaceSelector", |random| {
        let operator = *random.of(&["In", "NotIn", "Exists", "DoesNotExist"]);
        match (random.below(3), operator) {
            (0, _) => json!({}),
            (1, _) => json!({"matchLabels": {"team": random.of(&["red", "blue"])}}),
            (_, "In" | "NotIn") => {
                json!({"matchExpressions": [{"key": "team", "operator": operator, "values": [random.of(&["red", "blue"])]}]})
            }
            _ => json!({"matchExpressions": [{"key": "team", "operator": operator}]}),
        }
    });
    term.into()
}

fn selector(random: &mut Random) -> Value {
    match random.below(8) {
        0 => json!({}),
        1 => json!({"matchExpressions": [{"key": "app", "operator": random.of(&["Exists", "DoesNotExist"])}]}),
        2 => json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": [random.of(&APPS)]}]}),
        3 => json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["x", random.of(&APPS)]}]}),
        4 => json!({"matchLabels": {"app": random.of(&APPS), "side": random.of(&["front", "back"])}}),
        5 => json!({"matchLabels": {"side": "front"}, "matchExpressions": [{"key": "app", "operator": "Exists"}]}),
        _ => json!({"matchLabels": {"app": random.of(&APPS)}}),
    }
}

/// The API server admits each pair of key and action once.
fn without_doubles(mut constraints: Vec<Value>) -> Value {
    let mut known = Vec::new();
    constraints.retain(|c| {
        let pair = (c["topologyKey"].clone(), c["whenUnsatisfiable"].clone());
        let new = !known.contains(&pair);
        known.push(pair);
        new
    });
    constraints.into()
}

fn spread_among_alike(random: &mut Random) -> Value {
    let mut constraint = json!({
        "topologyKey": random.of(&["zone", "kubernetes.io/hostname", "rack"]), "maxSkew": random.of(&[1, 1, 2]),
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "x"}},
    });
    let fields = constraint.as_object_mut().unwrap();
    sometimes(random, 3, fields, "matchLabelKeys", |_| json!(["side"]));
    sometimes(random, 3, fields, "minDomains", |random| json!(random.of(&[2, 3])));
    for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
        sometimes(random, 2, fields, policy, |random| {
            json!(random.of(&["Honor", "Ignore"]))
        });
    }
    constraint
}

fn spread(random: &mut Random) -> Value {
    let required = !random.once_in(4);
    let mut constraint = json!({
        "topologyKey": random.of(&TOPOLOGY_KEYS), "maxSkew": random.of(&[1, 1, 1, 2, 3]),
        "whenUnsatisfiable": if required { "DoNotSchedule" } else { "ScheduleAnyway" },
    });
    let fields = constraint.as_object_mut().unwrap();
    if !random.once_in(10) {
        fields.insert("labelSelector".into(), selector(random));
        // Only with a selector that does not name the key itself.
        if !fields["labelSelector"].to_string().contains("side") {
            sometimes(random, 4, fields, "matchLabelKeys", |_| json!(["side", "absent"]));
        }
    }
    if required {
        sometimes(random, 4, fields, "minDomains", |random| {
            json!(random.of(&[1, 2, 3, 5]))
        });
    }
    for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
        sometimes(random, 3, fields, policy, |random| {
            json!(random.of(&["Honor", "Ignore"]))
        });
    }
    constraint
}
