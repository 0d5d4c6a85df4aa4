//! Claims to devices that a controller makes for pods by templates, for pods that no controller saw.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Specs of claims by the namespace and name of their template.
#[derive(Debug, Default)]
pub(super) struct Templates(BTreeMap<(String, String), Value>);

impl Templates {
    /// Takes in a template.
    pub(super) fn add(&mut self, namespace: &str, name: &str, template: &Value) {
        let spec = template.pointer("/spec/spec").cloned().unwrap_or_else(|| json!({}));
        self.0.insert((namespace.to_owned(), name.to_owned()), spec);
    }

    /// The claims of a pod that have to be made for it; its status names them then, as that of the controller would. One
    /// whose template is not there is not made, and is waited for.
    pub(super) fn make_for(&self, pod: &mut Value) -> Vec<Value> {
        let text = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_str).map(str::to_owned);
        if text(pod, "/spec/nodeName").is_some_and(|node| !node.is_empty()) {
            return Vec::new();
        }
        let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
        let (Some(namespace), Some(name), Some(uid)) = (namespace, name, text(pod, "/metadata/uid")) else {
            return Vec::new();
        };
        let list = |path: &str| pod.pointer(path).and_then(Value::as_array).cloned().unwrap_or_default();
        let mut known = list("/status/resourceClaimStatuses");
        let mut made = Vec::new();
        for used in list("/spec/resourceClaims") {
            let (Some(of), Some(template)) = (text(&used, "/name"), text(&used, "/resourceClaimTemplateName")) else {
                continue;
            };
            if known.iter().any(|status| status.get("name") == used.get("name")) {
                continue;
            }
            let Some(spec) = self.0.get(&(namespace.clone(), template)) else {
                continue;
            };
            let claim = format!("{name}-{of}");
            let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid, "controller": true});
            made.push(json!({
                "metadata": {"name": claim, "namespace": namespace, "ownerReferences": [owner]}, "spec": spec,
            }));
            known.push(json!({"name": of, "resourceClaimName": claim}));
        }
        if !made.is_empty()
            && let Some(pod) = pod.as_object_mut()
        {
            let status = pod.entry("status").or_insert_with(|| json!({}));
            if let Some(status) = status.as_object_mut() {
                status.insert("resourceClaimStatuses".to_owned(), known.into());
            }
        }
        made
    }
}
