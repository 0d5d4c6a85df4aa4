//! What an API server adds to objects before anyone reads them, for objects that never saw one.

use serde_json::{Map, Value};

/// Maps of quantities: a number in one of them is as good as a text.
const QUANTITIES: [&str; 8] = [
    "requests",
    "limits",
    "overhead",
    "allocatable",
    "capacity",
    "guaranteed",
    "limit",
    "lendLimit",
];

/// Fills in what is left out. `prefix` makes a UID of the kind's own.
pub(crate) fn fill(object: &mut Value, prefix: &str, namespaced: bool) {
    texts(object);
    let Some(Value::Object(meta)) = object.get_mut("metadata") else {
        return;
    };
    if namespaced {
        meta.entry("namespace").or_insert_with(|| "default".into());
    }
    if !meta.contains_key("uid") {
        let text = |name: &str| meta.get(name).and_then(Value::as_str).unwrap_or_default();
        let uid = format!("{prefix}/{}/{}", text("namespace"), text("name"));
        meta.insert("uid".to_owned(), uid.into());
    }
}

/// A limit without a request is one.
pub(crate) fn fill_pod(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec") else { return };
    for list in ["containers", "initContainers"] {
        let Some(Value::Array(containers)) = spec.get_mut(list) else {
            continue;
        };
        for container in containers {
            if let Some(Value::Object(resources)) = container.get_mut("resources") {
                request_limits(resources);
            }
        }
    }
}

fn request_limits(resources: &mut Map<String, Value>) {
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else {
        return;
    };
    let requests = resources.entry("requests").or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(requests) = requests {
        for (resource, limit) in limits {
            requests.entry(resource).or_insert(limit);
        }
    }
}

/// A node that reserves nothing can give all that it has.
pub(crate) fn fill_node(node: &mut Value) {
    let Some(Value::Object(status)) = node.get_mut("status") else {
        return;
    };
    if let Some(capacity) = status.get("capacity").cloned() {
        status.entry("allocatable").or_insert(capacity);
    }
}

/// Writes the numbers in maps of quantities as texts.
fn texts(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(texts),
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::Object(amounts) if QUANTITIES.contains(&name.as_str()) => {
                        for amount in amounts.values_mut().filter(|amount| amount.is_number()) {
                            *amount = Value::String(amount.to_string());
                        }
                    }
                    other => texts(other),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_by_hand_becomes_what_the_api_server_would_store() {
        let mut pod = json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"resources": {"limits": {"cpu": 2, "memory": "1Gi"}, "requests": {"cpu": 0.5}}}]},
        });
        fill(&mut pod, "pod", true);
        fill_pod(&mut pod);
        let expected = json!({
            "metadata": {"name": "p", "namespace": "default", "uid": "pod/default/p"},
            "spec": {"containers": [{"resources": {
                "limits": {"cpu": "2", "memory": "1Gi"},
                "requests": {"cpu": "0.5", "memory": "1Gi"},
            }}]},
        });
        assert_eq!(pod, expected);
    }

    #[test]
    fn a_node_by_hand_gives_all_that_it_has_and_a_real_one_what_it_says() {
        let mut node = json!({"status": {"capacity": {"cpu": "4"}}});
        fill_node(&mut node);
        assert_eq!(
            node,
            json!({"status": {"capacity": {"cpu": "4"}, "allocatable": {"cpu": "4"}}})
        );
        let mut node = json!({"status": {"capacity": {"cpu": "4"}, "allocatable": {"cpu": "3"}}});
        let before = node.clone();
        fill_node(&mut node);
        assert_eq!(node, before);
    }
}
