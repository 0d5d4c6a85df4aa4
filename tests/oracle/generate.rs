//! Random snapshots, biased to the edges: little is chosen from, so that things meet, and what is asked for is often
//! exactly what is left, or one unit more.

use std::collections::BTreeMap;

use duosuan_controller::{lean, translate::requests};
use serde_json::{Map, Value, json};

use crate::{ours::SCHEDULER, random::Random, relations::relate, resize::resize, volumes::attach};

pub(crate) const NAMES: [&str; 5] = ["a", "b", "node-1", "node-2", "node-3.example.com"];
const KEYS: [&str; 5] = ["zone", "disk", "cores", "example.com/rack", "metadata.name"];
const VALUES: [&str; 16] = [
    "",
    "a",
    "b",
    "ssd",
    "node-1",
    "0",
    "3",
    "4",
    "04",
    "16",
    "1e3",
    "0x10",
    "1_0",
    "9223372036854775807",
    "9223372036854775808",
    "True",
];
const TAINT_KEYS: [&str; 3] = ["dedicated", "example.com/k", "node.kubernetes.io/unschedulable"];
const TAINT_VALUES: [&str; 3] = ["", "a", "b"];
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
const CPU: [&str; 14] = [
    "0", "0m", "1m", "500u", "1n", "100m", "0.1", "250m", "1e-3", "1", "1.5", "1500m", "2", "0.0005",
];
const BYTES: [&str; 13] = [
    "0",
    "1",
    "100m",
    "1.5",
    "1k",
    "1Ki",
    "0.5Ki",
    "64Mi",
    "128974848",
    "129e6",
    "123Mi",
    "1G",
    "1Gi",
];
const UNITS: [&str; 5] = ["0", "1", "1", "2", "3"];
const HUGE: [&str; 4] = ["0", "2Mi", "4Mi", "6291456"];
const PHASES: [&str; 6] = ["Running", "Running", "Running", "Pending", "Succeeded", "Failed"];

/// What the pods of one snapshot have in common: such things seldom meet unless many pods have them.
#[derive(Clone, Copy)]
struct Style {
    /// Some have host ports.
    ports: bool,
    /// They ask for fractions of what is counted.
    fine: bool,
}

impl Style {
    fn cpu(self) -> &'static [&'static str] {
        if self.fine {
            &["500u", "0.0005", "1n", "1m", "1e-4"]
        } else {
            &CPU
        }
    }

    fn bytes(self) -> &'static [&'static str] {
        if self.fine {
            &["100m", "1500m", "0.25", "1", "1u"]
        } else {
            &BYTES
        }
    }
}

/// The snapshot of a number.
pub(crate) fn snapshot(seed: u64) -> Value {
    let random = &mut Random::new(seed);
    let names: Vec<&str> = NAMES.into_iter().filter(|_| !random.once_in(3)).collect();
    let mut nodes: Vec<Value> = names.iter().map(|name| node(random, name)).collect();
    let style = Style {
        ports: random.once_in(4),
        fine: random.once_in(4),
    };
    let mut index = 0;
    let mut pods: Vec<Value> = random.some(0, 8, |random| {
        index += 1;
        bound(random, index, style)
    });
    // With a chance of its own: what else a snapshot has is what it had without.
    let chance = &mut Random::new(!seed);
    for pod in &mut pods {
        if chance.once_in(3) {
            resize(chance, pod, (style.cpu(), style.bytes()));
        }
    }
    let pending = pending(random, style);
    for node in &mut nodes {
        if random.once_in(2) {
            fill(random, node, &pods, &pending);
        }
    }
    let mut snapshot = json!({"nodes": nodes, "pods": pods, "pod": pending});
    let related = !random.once_in(3);
    if related {
        relate(random, &mut snapshot);
    }
    // Rarely both: each leaves little that the other decides about.
    if chance.once_in(if related { 8 } else { 2 }) {
        attach(chance, &mut snapshot);
    }
    snapshot
}

/// A value once in some times.
pub(crate) fn sometimes(
    random: &mut Random,
    times: usize,
    object: &mut Map<String, Value>,
    key: &str,
    make: impl FnOnce(&mut Random) -> Value,
) {
    if random.once_in(times) {
        let value = make(random);
        object.insert(key.to_owned(), value);
    }
}

fn node(random: &mut Random, name: &str) -> Value {
    let mut labels = Map::new();
    for key in KEYS {
        sometimes(random, 2, &mut labels, key, |random| json!(random.of(&VALUES)));
    }
    let mut metadata = json!({"name": name});
    if !random.once_in(8) {
        metadata["labels"] = Value::Object(labels);
    }
    let mut spec = Map::new();
    sometimes(random, 3, &mut spec, "taints", |random| random.some(0, 2, taint).into());
    sometimes(random, 6, &mut spec, "unschedulable", |random| {
        json!(!random.once_in(4))
    });
    let mut status = Map::new();
    if !random.once_in(16) {
        let mut allocatable = json!({
            "cpu": random.of(&["4", "8", "2500m", "1", "0"]), "memory": random.of(&["4Gi", "16Gi", "1500M", "0.5Gi", "0"]),
            "pods": random.of(&["110", "110", "110", "3", "1", "0"]), "ephemeral-storage": random.of(&["10Gi", "10Gi", "0", "1"]),
        });
        let amounts = allocatable.as_object_mut().unwrap();
        for resource in ["cpu", "memory", "pods", "ephemeral-storage"] {
            if random.once_in(16) {
                amounts.remove(resource);
            }
        }
        sometimes(random, 2, amounts, "example.com/x", |random| {
            json!(random.of(&["0", "1", "2", "4", "1k"]))
        });
        sometimes(random, 2, amounts, "nvidia.com/gpu", |random| {
            json!(random.of(&["0", "1", "2", "4", "8"]))
        });
        sometimes(random, 3, amounts, "duosuan.io/batch-cpu", |random| {
            json!(random.of(&["0", "500", "2000"]))
        });
        sometimes(random, 3, amounts, "hugepages-2Mi", |random| {
            json!(random.of(&["0", "4Mi", "1Gi"]))
        });
        status.insert("allocatable".to_owned(), allocatable);
    }
    json!({"metadata": metadata, "spec": spec, "status": status})
}

fn taint(random: &mut Random) -> Value {
    let mut taint = json!({"key": random.of(&TAINT_KEYS), "effect": random.of(&EFFECTS)});
    if random.once_in(2) {
        taint["value"] = json!(random.of(&TAINT_VALUES));
    }
    taint
}

/// Only what the API server admits: without a key, the operator is Exists; with Exists, there is no value.
fn toleration(random: &mut Random) -> Value {
    let mut toleration = Map::new();
    let key = !random.once_in(4);
    if key {
        toleration.insert("key".to_owned(), json!(random.of(&TAINT_KEYS)));
    } else {
        sometimes(random, 2, &mut toleration, "key", |_| json!(""));
    }
    if !key || random.once_in(2) {
        toleration.insert("operator".to_owned(), json!("Exists"));
    } else {
        sometimes(random, 2, &mut toleration, "operator", |_| json!("Equal"));
        sometimes(random, 2, &mut toleration, "value", |random| {
            json!(random.of(&TAINT_VALUES))
        });
    }
    sometimes(random, 2, &mut toleration, "effect", |random| {
        json!(random.of(&["", "NoSchedule", "PreferNoSchedule", "NoExecute"]))
    });
    if toleration.get("effect") == Some(&json!("NoExecute")) {
        sometimes(random, 2, &mut toleration, "tolerationSeconds", |_| json!(60));
    }
    toleration.into()
}

fn bound(random: &mut Random, index: usize, style: Style) -> Value {
    let mut pod = pod(random, &format!("bound-{index}"), style);
    // One of them may be on a node that is not there.
    pod["spec"]["nodeName"] = json!(random.of(&NAMES));
    pod["status"] = json!({"phase": random.of(&PHASES)});
    if random.once_in(6) {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    if random.once_in(2) {
        pod["spec"]["schedulerName"] = json!("default-scheduler");
    }
    pod
}

fn pending(random: &mut Random, style: Style) -> Value {
    let mut pod = pod(random, "pending", style);
    let spec = pod["spec"].as_object_mut().unwrap();
    sometimes(random, 2, spec, "tolerations", |random| {
        random.some(0, 3, toleration).into()
    });
    sometimes(random, 4, spec, "nodeSelector", |random| selector(random).into());
    sometimes(random, 3, spec, "affinity", affinity);
    if random.once_in(4) {
        pod["metadata"]["labels"] = json!({"duosuan.io/tier": random.of(&["batch", "mid", "prod"])});
    }
    ask_for_what_is_of_its_tier(&mut pod);
    pod
}

/// The core places no pod that asks for another tier's CPU or memory, whatever the filters say to it: the names of what
/// is asked for become those of its tier. What bound pods ask for stays: they count for what they hold.
fn ask_for_what_is_of_its_tier(pod: &mut Value) {
    let tier = pod["metadata"]["labels"]["duosuan.io/tier"].as_str().unwrap_or("prod");
    let prefix = match tier {
        "prod" => String::new(),
        tier => format!("duosuan.io/{tier}-"),
    };
    let spec = pod["spec"].as_object_mut().unwrap();
    if !prefix.is_empty() {
        // Both name plain CPU and memory only.
        spec.remove("overhead");
        spec.remove("resources");
    }
    for field in ["containers", "initContainers"] {
        let containers = spec.get_mut(field).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let Some(requests) = container
                .pointer_mut("/resources/requests")
                .and_then(Value::as_object_mut)
            else {
                continue;
            };
            for plain in ["cpu", "memory"] {
                let names = ["", "duosuan.io/mid-", "duosuan.io/batch-"].map(|tier| format!("{tier}{plain}"));
                let asked = names.map(|name| requests.remove(&name));
                if let Some(amount) = asked.into_iter().flatten().next() {
                    requests.insert(format!("{prefix}{plain}"), amount);
                }
            }
        }
    }
}

/// What pods have that are bound and those that are not.
fn pod(random: &mut Random, name: &str, style: Style) -> Value {
    let mut metadata = json!({"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "creationTimestamp": "2026-01-01T00:00:00Z"});
    if random.once_in(8) {
        metadata["labels"] = json!({"duosuan.io/tier": random.of(&["batch", "mid", "prod"])});
    }
    let gpus = random.once_in(4);
    let mut named = 0;
    let mut container = |random: &mut Random, most: usize| {
        random.some(1, most, |random| {
            named += 1;
            container(random, &format!("c{named}"), gpus, style)
        })
    };
    let mut spec = json!({"schedulerName": SCHEDULER, "containers": container(random, 3)});
    if random.once_in(4) {
        let mut init = container(random, 3);
        for container in &mut init {
            if random.once_in(2) {
                container["restartPolicy"] = json!("Always");
            }
        }
        spec["initContainers"] = json!(init);
    }
    let spec_fields = spec.as_object_mut().unwrap();
    sometimes(
        random,
        6,
        spec_fields,
        "overhead",
        |random| json!({"cpu": random.of(style.cpu()), "memory": random.of(style.bytes())}),
    );
    sometimes(random, 6, spec_fields, "resources", |random| {
        let mut requests = Map::new();
        sometimes(random, 2, &mut requests, "cpu", |random| json!(random.of(style.cpu())));
        sometimes(random, 2, &mut requests, "memory", |random| {
            json!(random.of(style.bytes()))
        });
        sometimes(random, 6, &mut requests, "hugepages-2Mi", |random| {
            json!(random.of(&HUGE))
        });
        json!({"requests": requests})
    });
    json!({"metadata": metadata, "spec": spec})
}

fn container(random: &mut Random, name: &str, gpus: bool, style: Style) -> Value {
    let mut container = json!({"name": name});
    if !random.once_in(6) {
        let mut requests = Map::new();
        sometimes(random, 2, &mut requests, "cpu", |random| json!(random.of(style.cpu())));
        sometimes(random, 2, &mut requests, "memory", |random| {
            json!(random.of(style.bytes()))
        });
        sometimes(random, 6, &mut requests, "ephemeral-storage", |random| {
            json!(random.of(style.bytes()))
        });
        sometimes(random, 12, &mut requests, "example.com/x", |random| {
            json!(random.of(&UNITS))
        });
        sometimes(random, 16, &mut requests, "duosuan.io/batch-cpu", |random| {
            json!(random.of(&["0", "1", "500", "1k"]))
        });
        sometimes(random, 24, &mut requests, "hugepages-2Mi", |random| {
            json!(random.of(&HUGE))
        });
        if gpus {
            sometimes(random, 2, &mut requests, "nvidia.com/gpu", |random| {
                json!(random.of(&UNITS))
            });
        }
        container["resources"] = json!({"requests": requests});
    }
    if style.ports {
        container["ports"] = random.some(0, 2, port).into();
    }
    container
}

fn port(random: &mut Random) -> Value {
    let mut port = json!({"containerPort": 80});
    let fields = port.as_object_mut().unwrap();
    sometimes(random, 1, fields, "hostPort", |random| {
        json!(random.of(&[80, 80, 8080, 0]))
    });
    sometimes(random, 2, fields, "hostIP", |random| {
        json!(random.of(&["", "0.0.0.0", "127.0.0.1", "10.0.0.1", "::", "::1"]))
    });
    sometimes(random, 2, fields, "protocol", |random| {
        json!(random.of(&["TCP", "UDP", "SCTP"]))
    });
    port
}

fn selector(random: &mut Random) -> Map<String, Value> {
    let pairs = random.some(0, 2, |random| {
        ((*random.of(&KEYS)).to_owned(), json!(random.of(&VALUES)))
    });
    pairs.into_iter().collect()
}

fn affinity(random: &mut Random) -> Value {
    if random.once_in(12) {
        return random
            .of(&[json!({}), json!({"nodeAffinity": {}}), Value::Null])
            .clone();
    }
    let mut affinity =
        json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": random.some(1, 3, term)}});
    if random.once_in(4) {
        affinity["preferredDuringSchedulingIgnoredDuringExecution"] =
            json!([{"weight": 1, "preference": term(random)}]);
    }
    json!({"nodeAffinity": affinity})
}

fn term(random: &mut Random) -> Value {
    let mut term = Map::new();
    if !random.once_in(8) {
        term.insert("matchExpressions".to_owned(), random.some(0, 2, expression).into());
    }
    sometimes(random, 6, &mut term, "matchFields", |random| {
        random
            .some(0, 2, |random| {
                let operator = random.of(&["In", "In", "NotIn"]);
                json!({"key": "metadata.name", "operator": operator, "values": [random.of(&NAMES)]})
            })
            .into()
    });
    term.into()
}

fn expression(random: &mut Random) -> Value {
    let operator = *random.of(&["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]);
    let mut expression = json!({"key": random.of(&KEYS), "operator": operator});
    let values = match operator {
        "In" | "NotIn" => random.some(1, 4, |random| json!(random.of(&VALUES))),
        "Gt" | "Lt" => vec![json!(random.of(&VALUES))],
        _ if random.once_in(2) => return expression,
        _ => Vec::new(),
    };
    expression["values"] = values.into();
    expression
}

/// Makes what a node has of a resource exactly what is asked of it, or one unit less or more. What is asked is computed
/// with the code that is under test: here it only says where the edge may be.
fn fill(random: &mut Random, node: &mut Value, pods: &[Value], pending: &Value) {
    let name = node["metadata"]["name"].clone();
    let here = pods.iter().filter(|pod| pod["spec"]["nodeName"] == name);
    let mut asked: BTreeMap<String, i64> = BTreeMap::new();
    for pod in here
        .filter(|pod| !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")))
        .chain([pending])
    {
        let spec: lean::PodSpec = serde_json::from_value(pod["spec"].clone()).unwrap();
        let status: lean::PodStatus = serde_json::from_value(pod["status"].clone()).unwrap_or_default();
        for (resource, amount) in requests::effective(&spec, &status).unwrap() {
            *asked.entry(resource).or_default() += amount;
        }
        *asked.entry("pods".to_owned()).or_default() += 1;
    }
    if !node["status"]["allocatable"].is_object() {
        return;
    }
    for (resource, amount) in asked {
        if random.once_in(8) {
            continue;
        }
        let amount = (amount + random.of(&[0, 0, 0, 0, 1, 1, -1])).max(0);
        let unit = if resource == "cpu" { "m" } else { "" };
        node["status"]["allocatable"][resource] = json!(format!("{amount}{unit}"));
    }
}
