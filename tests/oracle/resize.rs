//! Bound pods that are being resized in place: their node says of their containers, or of them as a whole, something
//! else than their spec.

use serde_json::{Map, Value, json};

use crate::{generate::sometimes, random::Random};

/// What amounts of cpu and of bytes are chosen from.
pub(crate) type Amounts = (&'static [&'static str], &'static [&'static str]);

/// Writes into the status of a pod what its node may say in the midst of a resize.
pub(crate) fn resize(random: &mut Random, pod: &mut Value, amounts: Amounts) {
    for (containers, statuses) in [
        ("containers", "containerStatuses"),
        ("initContainers", "initContainerStatuses"),
    ] {
        let said: Vec<Value> = pod["spec"][containers]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|container| {
                let silent = random.once_in(4);
                if silent {
                    None
                } else {
                    Some(of_container(random, container, amounts))
                }
            })
            .collect();
        if !said.is_empty() {
            pod["status"][statuses] = said.into();
        }
    }
    let status = pod["status"].as_object_mut().unwrap();
    sometimes(random, 4, status, "allocatedResources", |random| list(random, amounts));
    sometimes(random, 4, status, "resources", |random| in_force(random, amounts));
    sometimes(random, 2, status, "conditions", |random| {
        let reason = random.of(&["Infeasible", "Infeasible", "Deferred", ""]);
        let kind = random.of(&["PodResizePending", "PodResizePending", "PodResizeInProgress"]);
        json!([{"type": "Ready", "status": "True"}, {"type": kind, "status": "True", "reason": reason}])
    });
}

fn of_container(random: &mut Random, container: &Value, amounts: Amounts) -> Value {
    let mut said = Map::new();
    said.insert("name".to_owned(), container["name"].clone());
    let asked = &container["resources"]["requests"];
    let list = |random: &mut Random| {
        if random.once_in(2) && asked.is_object() {
            asked.clone()
        } else {
            list(random, amounts)
        }
    };
    if !random.once_in(4) {
        let allocated = list(random);
        said.insert("allocatedResources".to_owned(), allocated);
    }
    if !random.once_in(4) {
        let in_force = list(random);
        said.insert("resources".to_owned(), json!({"requests": in_force}));
    }
    said.into()
}

fn in_force(random: &mut Random, amounts: Amounts) -> Value {
    if random.once_in(6) {
        json!({})
    } else {
        json!({"requests": list(random, amounts)})
    }
}

fn list(random: &mut Random, (cpu, bytes): Amounts) -> Value {
    let mut list = Map::new();
    sometimes(random, 2, &mut list, "cpu", |random| json!(random.of(cpu)));
    sometimes(random, 2, &mut list, "memory", |random| json!(random.of(bytes)));
    list.into()
}
