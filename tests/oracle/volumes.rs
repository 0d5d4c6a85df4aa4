//! Pods with volumes, put into a snapshot: claims in every state, volumes that lie ready, drivers with limits.

use serde_json::{Map, Value, json};

use crate::{generate::sometimes, random::Random};

const ZONE: &str = "topology.kubernetes.io/zone";
const REGION: &str = "topology.kubernetes.io/region";
const OLD_ZONE: &str = "failure-domain.beta.kubernetes.io/zone";
const DRIVERS: [&str; 2] = ["disk.example.com", "files.example.com"];
const HANDLES: [&str; 3] = ["h1", "h2", "h3"];
/// Classes: what they are called, who makes their volumes, and whether these wait for a pod.
const CLASSES: [(&str, &str, bool); 5] = [
    ("slow", "disk.example.com", false),
    ("fast", "disk.example.com", true),
    ("zoned", "files.example.com", true),
    ("local", "kubernetes.io/no-provisioner", true),
    ("local-now", "kubernetes.io/no-provisioner", false),
];
const MODES: [&str; 3] = ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany"];
const ONE_POD: &str = "ReadWriteOncePod";
/// Namespace of most pods.
const NAMESPACE: &str = "ns";

/// What is put into a snapshot.
struct Storage<'a> {
    random: &'a mut Random,
    nodes: Vec<String>,
    volumes: Vec<Value>,
    claims: Vec<Value>,
}

/// Gives the pods of a snapshot volumes.
pub(crate) fn attach(random: &mut Random, snapshot: &mut Value) {
    // In most of them little else turns the pod away.
    if !random.once_in(4) {
        make_room(random, snapshot);
    }
    let mut nodes = Vec::new();
    for node in snapshot["nodes"].as_array_mut().unwrap() {
        label(random, node);
        nodes.push(node["metadata"]["name"].as_str().unwrap().to_owned());
    }
    snapshot["storageClasses"] = classes(random);
    snapshot["csiNodes"] = nodes.iter().filter_map(|node| drivers(random, node)).collect();
    let mut storage = Storage {
        random,
        nodes,
        volumes: Vec::new(),
        claims: Vec::new(),
    };
    for i in 0..5 {
        storage.claim(&format!("c{i}"));
    }
    storage.lie_ready();
    for pod in snapshot["pods"].as_array_mut().unwrap() {
        storage.use_there(pod);
    }
    storage.use_some(&mut snapshot["pod"]);
    snapshot["persistentVolumes"] = storage.volumes.into();
    snapshot["persistentVolumeClaims"] = storage.claims.into();
}

fn make_room(random: &mut Random, snapshot: &mut Value) {
    for node in snapshot["nodes"].as_array_mut().unwrap() {
        node["spec"] = json!({});
        node["status"] =
            json!({"allocatable": {"cpu": "1k", "memory": "1Ti", "ephemeral-storage": "1Ti", "pods": "110"}});
    }
    let spec = snapshot["pod"]["spec"].as_object_mut().unwrap();
    spec.insert("containers".into(), json!([{"name": "c"}]));
    for field in [
        "initContainers",
        "overhead",
        "resources",
        "nodeSelector",
        "affinity",
        "topologySpreadConstraints",
    ] {
        spec.remove(field);
    }
    sometimes(
        random,
        6,
        spec,
        "nodeSelector",
        |random| json!({ZONE: random.of(&["a", "b"])}),
    );
    for pod in snapshot["pods"].as_array_mut().unwrap() {
        let spec = pod["spec"].as_object_mut().unwrap();
        spec.insert("containers".into(), json!([{"name": "c"}]));
        spec.remove("affinity");
    }
}

fn label(random: &mut Random, node: &mut Value) {
    if !node["metadata"]["labels"].is_object() {
        node["metadata"]["labels"] = json!({});
    }
    let name = node["metadata"]["name"].clone();
    let labels = node["metadata"]["labels"].as_object_mut().unwrap();
    labels.insert("host".into(), name);
    if !random.once_in(4) {
        labels.insert(ZONE.into(), json!(random.of(&["a", "b"])));
    }
    sometimes(random, 4, labels, REGION, |random| json!(random.of(&["r", "s"])));
    sometimes(random, 6, labels, OLD_ZONE, |random| json!(random.of(&["a", "b"])));
}

fn classes(random: &mut Random) -> Value {
    let mut all = Vec::new();
    for (name, provisioner, waits) in CLASSES {
        if random.once_in(12) {
            continue;
        }
        let mode = if waits { "WaitForFirstConsumer" } else { "Immediate" };
        let mut class = json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
        if name == "zoned" || random.once_in(8) {
            class["allowedTopologies"] = random
                .some(0, 2, |random| {
                    let least = usize::from(!random.once_in(6));
                    let expressions = random.some(
                        least,
                        2,
                        |random| json!({"key": random.of(&[ZONE, ZONE, REGION, "host"]), "values": [random.of(&["a", "b", "node-1", "r"])]}),
                    );
                    json!({"matchLabelExpressions": expressions})
                })
                .into();
        }
        all.push(class);
    }
    all.into()
}

/// What a node says of its drivers, if anything.
fn drivers(random: &mut Random, node: &str) -> Option<Value> {
    if random.once_in(5) {
        return None;
    }
    let mut drivers = Vec::new();
    for name in DRIVERS {
        if random.once_in(4) {
            continue;
        }
        let mut driver = json!({"name": name, "nodeID": node, "topologyKeys": null});
        if !random.once_in(6) {
            driver["allocatable"] = json!({"count": random.of(&[0, 1, 1, 2, 2, 3])});
        }
        drivers.push(driver);
    }
    Some(json!({"metadata": {"name": node}, "spec": {"drivers": drivers}}))
}

impl Storage<'_> {
    /// A claim in some state, and the volume that it has.
    fn claim(&mut self, name: &str) {
        if self.random.once_in(12) {
            return;
        }
        let mut claim = self.asking(name);
        match self.random.below(8) {
            0..=3 => self.bind(&mut claim, true),
            4 if self.random.once_in(2) => {
                claim["spec"]["volumeName"] = json!(format!("of-{name}"));
                if self.random.once_in(2) {
                    let volume = self.volume(&format!("of-{name}"), 9);
                    self.volumes.push(volume);
                }
            }
            4 => {
                self.bind(&mut claim, true);
                claim["status"]["phase"] = json!("Lost");
            }
            5 => {
                let node = match self.nodes.as_slice() {
                    [] => "gone".to_owned(),
                    nodes => self.random.of(nodes).clone(),
                };
                claim["metadata"]["annotations"] = json!({"volume.kubernetes.io/selected-node": node});
            }
            _ => {}
        }
        if self.random.once_in(12) {
            claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        self.claims.push(claim);
    }

    /// A claim that has nothing yet.
    fn asking(&mut self, name: &str) -> Value {
        let random = &mut *self.random;
        let (class, ..) = random.of(&CLASSES);
        let mut modes = random.some(1, 2, |random| *random.of(&MODES));
        if random.once_in(5) {
            modes = vec![ONE_POD];
        }
        let mut spec = json!({"accessModes": modes, "resources": {"requests": {"storage": size(1 + random.below(4))}}});
        let fields = spec.as_object_mut().unwrap();
        if !random.once_in(10) {
            fields.insert("storageClassName".into(), json!(class));
        }
        more_of_a_disk(random, fields);
        sometimes(random, 6, fields, "selector", |random| {
            random
                .of(&[
                    json!({"matchLabels": {"kind": "ssd"}}),
                    json!({}),
                    json!({"matchExpressions": [{"key": "kind", "operator": "DoesNotExist"}]}),
                ])
                .clone()
        });
        json!({"metadata": {"name": name, "namespace": NAMESPACE, "uid": format!("uid-{name}")}, "spec": spec,
               "status": {"phase": "Pending"}})
    }

    /// A claim has a volume, of which its labels may say where it is.
    fn bind(&mut self, claim: &mut Value, labelled: bool) {
        let name = claim["metadata"]["name"].as_str().unwrap().to_owned();
        let named = format!("of-{name}");
        claim["spec"]["volumeName"] = json!(named);
        claim["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
        claim["status"]["phase"] = json!("Bound");
        if self.random.once_in(12) {
            return;
        }
        let mut volume = self.volume(&named, 1 + name.len());
        volume["spec"]["claimRef"] = json!({"namespace": NAMESPACE, "name": name, "uid": format!("uid-{name}")});
        volume["status"]["phase"] = json!("Bound");
        if labelled && self.random.once_in(2) {
            let random = &mut *self.random;
            let labels = volume["metadata"]["labels"].as_object_mut().unwrap();
            for key in [ZONE, OLD_ZONE, REGION] {
                sometimes(random, 2, labels, key, |random| {
                    json!(random.of(&["a", "b", "a__b", " a", "r", "a__", ""]))
                });
            }
        }
        self.volumes.push(volume);
    }

    /// A volume that is free.
    fn volume(&mut self, name: &str, gigabytes: usize) -> Value {
        let random = &mut *self.random;
        let (class, ..) = random.of(&CLASSES);
        let mut spec = json!({"capacity": {"storage": size(gigabytes)}, "accessModes": random.some(1, 3, |random| *random.of(&MODES)),
                              "storageClassName": class});
        let fields = spec.as_object_mut().unwrap();
        if random.once_in(6) {
            fields.insert("hostPath".into(), json!({"path": "/d"}));
        } else {
            let source = json!({"driver": random.of(&DRIVERS), "volumeHandle": random.of(&HANDLES)});
            fields.insert("csi".into(), source);
        }
        more_of_a_disk(random, fields);
        sometimes(random, 2, fields, "nodeAffinity", |random| {
            let least = usize::from(!random.once_in(12));
            let terms = random.some(least, 2, |random| {
                let expressions = random.some(1, 2, |random| match random.below(4) {
                    0 => json!({"key": ZONE, "operator": random.of(&["Exists", "DoesNotExist"])}),
                    1 => json!({"key": "host", "operator": "NotIn", "values": [random.of(&["a", "b", "node-1"])]}),
                    _ => json!({"key": ZONE, "operator": "In", "values": [random.of(&["a", "b"])]}),
                });
                json!({"matchExpressions": expressions})
            });
            json!({"required": {"nodeSelectorTerms": terms}})
        });
        let mut labels = Map::new();
        sometimes(random, 2, &mut labels, "kind", |random| {
            json!(random.of(&["ssd", "disk"]))
        });
        json!({"metadata": {"name": name, "uid": format!("uid-{name}"), "labels": labels}, "spec": spec,
               "status": {"phase": "Available"}})
    }

    /// Volumes that wait for a claim, no two of one size: among equals kube-scheduler takes any.
    fn lie_ready(&mut self) {
        for gigabytes in 1..=4 {
            if self.random.once_in(4) {
                continue;
            }
            let mut volume = self.volume(&format!("ready-{gigabytes}"), gigabytes);
            if self.random.once_in(2) {
                volume["spec"]["storageClassName"] = json!(self.random.of(&["local", "local", "zoned", "fast"]));
                volume["spec"]["accessModes"] = json!([MODES[0], MODES[1], MODES[2], ONE_POD]);
            }
            let random = &mut *self.random;
            if random.once_in(8) {
                volume["status"]["phase"] = json!(random.of(&["Pending", "Released", "Failed"]));
            }
            if random.once_in(12) {
                volume["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            // One of a claim at most is meant for it: of several, kube-scheduler takes any.
            let name = format!("c{gigabytes}");
            if random.once_in(4) {
                let mut meant = json!({"namespace": random.of(&[NAMESPACE, NAMESPACE, "other"]), "name": name});
                let fields = meant.as_object_mut().unwrap();
                sometimes(random, 2, fields, "uid", |random| {
                    json!(random.of(&[format!("uid-{name}"), "uid-of-another".to_owned()]))
                });
                volume["spec"]["claimRef"] = meant;
            }
            self.volumes.push(volume);
        }
    }

    /// Volumes of a pod that has a node.
    fn use_there(&mut self, pod: &mut Value) {
        let there = pod["spec"]["nodeName"].as_str().unwrap().to_owned();
        if !self.nodes.contains(&there) || self.random.once_in(4) {
            return;
        }
        if !self.random.once_in(4) {
            pod["metadata"]["namespace"] = json!(NAMESPACE);
        }
        let mut volumes = self.claims_used(0, 2, false);
        if self.random.once_in(6) {
            volumes.push(self.ephemeral(pod, true));
        }
        pod["spec"]["volumes"] = volumes.into();
    }

    /// Volumes of the pod that waits.
    fn use_some(&mut self, pod: &mut Value) {
        if !self.random.once_in(6) {
            pod["metadata"]["namespace"] = json!(NAMESPACE);
        }
        let mut volumes = self.claims_used(1, 2, true);
        if self.random.once_in(6) {
            let own = !self.random.once_in(4);
            volumes.push(self.ephemeral(pod, own));
        }
        if self.random.once_in(4) {
            volumes.push(json!({"name": "inline", "csi": {"driver": self.random.of(&DRIVERS)}}));
            volumes.push(json!({"name": "empty", "emptyDir": {}}));
        }
        pod["spec"]["volumes"] = volumes.into();
    }

    /// Some claims, no two of which are to get a volume of the same class.
    fn claims_used(&mut self, least: usize, most: usize, waits: bool) -> Vec<Value> {
        let names = self.random.some(least, most, |random| format!("c{}", random.below(5)));
        let mut used: Vec<Value> = Vec::new();
        let mut open: Vec<Value> = Vec::new();
        for name in names {
            let claim = self.claims.iter().find(|claim| claim["metadata"]["name"] == *name);
            let free = claim.filter(|claim| claim["spec"]["volumeName"].is_null());
            let class = free.map(|claim| claim["spec"]["storageClassName"].clone());
            let twice = used.iter().any(|volume| volume["name"] == *name);
            if twice || (waits && class.as_ref().is_some_and(|class| open.contains(class))) {
                continue;
            }
            open.extend(class);
            used.push(json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
        }
        used
    }

    /// An ephemeral volume of a pod, with its claim.
    fn ephemeral(&mut self, pod: &Value, own: bool) -> Value {
        let meta = &pod["metadata"];
        let name = format!("{}-scratch", meta["name"].as_str().unwrap());
        let mut claim = self.asking(&name);
        claim["spec"]["accessModes"] = json!([MODES[0]]);
        // None that lies ready suits it: it competes with no other claim of its pod.
        claim["spec"]["selector"] = json!({"matchLabels": {"kind": "none"}});
        claim["spec"]["storageClassName"] = json!(self.random.of(&["slow", "fast"]));
        if !self.random.once_in(3) {
            self.bind(&mut claim, false);
        }
        claim["metadata"]["namespace"] = meta["namespace"].clone();
        let (owner, controls) = match (own, self.random.once_in(2)) {
            (true, _) => (meta["uid"].clone(), true),
            (false, true) => (json!("uid-of-another"), true),
            (false, false) => (meta["uid"].clone(), false),
        };
        claim["metadata"]["ownerReferences"] = json!([
            {"apiVersion": "v1", "kind": "Node", "name": "x", "uid": "uid-x"},
            {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": owner, "controller": controls},
        ]);
        if !self.random.once_in(8) || own {
            self.claims.push(claim);
        }
        json!({"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}})
    }
}

/// What volumes have and claims ask for alike.
fn more_of_a_disk(random: &mut Random, spec: &mut Map<String, Value>) {
    sometimes(random, 4, spec, "volumeMode", |random| {
        json!(random.of(&["Filesystem", "Filesystem", "Block"]))
    });
    sometimes(random, 12, spec, "volumeAttributesClassName", |random| {
        json!(random.of(&["gold", ""]))
    });
}

fn size(gigabytes: usize) -> String {
    format!("{gigabytes}Gi")
}
