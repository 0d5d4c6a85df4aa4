//! Claims to devices: given by name and by template, and given back when pods end.

use serde_json::{Value, json};

use crate::{cluster, failure, names, node, pod};

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "resource.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn class() -> Value {
    object(
        "DeviceClass",
        "gpu",
        json!({"selectors": [{"cel": {"expression": "device.driver == 'd'"}}]}),
    )
}

fn slice(node: &str, devices: &[&str]) -> Value {
    let devices: Vec<Value> = devices.iter().map(|name| json!({"name": name})).collect();
    let pool = json!({"name": node, "generation": 1, "resourceSliceCount": 1});
    object(
        "ResourceSlice",
        node,
        json!({"driver": "d", "nodeName": node, "pool": pool, "devices": devices}),
    )
}

fn one() -> Value {
    json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}})
}

fn using(name: &str, source: &str, of: &str, more: Value) -> Value {
    let mut pod = pod(name, "1", more);
    pod["spec"]["resourceClaims"] = json!([{"name": "gpu", source: of}]);
    pod
}

#[test]
fn pods_get_devices_by_template_and_by_name_and_say_which() {
    let report = cluster(json!([
        node("n", "8"),
        slice("n", &["gpu-0", "gpu-1"]),
        class(),
        object("ResourceClaimTemplate", "single", json!({"spec": one()})),
        object("ResourceClaim", "named", one()),
        using("a", "resourceClaimTemplateName", "single", json!({})),
        using("b", "resourceClaimName", "named", json!({})),
        using("c", "resourceClaimName", "named", json!({})),
        using("d", "resourceClaimTemplateName", "single", json!({})),
        using("e", "resourceClaimName", "missing", json!({})),
        using("f", "resourceClaimTemplateName", "missing", json!({})),
    ]));
    let mut bound: Vec<(&Value, &Value)> = report["bound"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| (&b["pod"], &b["devices"]))
        .collect();
    bound.sort_by_key(|(pod, _)| pod.to_string());
    assert_eq!(
        json!(bound),
        json!([
            ["default/a", ["d/n/gpu-0"]],
            ["default/b", ["d/n/gpu-1"]],
            ["default/c", ["d/n/gpu-1"]],
        ])
    );
    let message = |pod: &str| {
        let pending = report["pending"].as_array().unwrap();
        pending.iter().find(|p| p["pod"] == pod).unwrap()["message"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert!(message("default/d").contains("cannot allocate all claims"), "{report}");
    assert_eq!(
        message("default/e"),
        "waiting for resource claim to be created: missing"
    );
    assert_eq!(
        message("default/f"),
        "waiting for resource claim to be created: gpu (of ResourceClaimTemplate missing)"
    );
    assert_eq!(report["not_acted_on"], json!([]));
}

#[test]
fn what_a_pod_had_is_had_by_the_next_when_it_ends_and_a_shared_claim_when_all_have() {
    let soon = json!({"metadata": {"annotations": {"duosuan.io/run-time": "60s"}}});
    let later = json!({"metadata": {"annotations": {"duosuan.io/run-time": "90s"}}});
    let report = cluster(json!([
        node("n", "8"),
        slice("n", &["gpu-0"]),
        class(),
        object("ResourceClaim", "shared", one()),
        object("ResourceClaim", "next", one()),
        using("a", "resourceClaimName", "shared", soon),
        using("b", "resourceClaimName", "shared", later),
        using("z", "resourceClaimName", "next", json!({})),
    ]));
    assert_eq!(names(&report["bound"], "pod"), ["default/a", "default/b", "default/z"]);
    let at = |pod: usize| report["bound"][pod]["at"].as_str().unwrap();
    assert_eq!((&at(0)[17..], &at(2)[14..]), ("00Z", "01:30Z"), "{report}");
}

#[test]
fn a_broken_or_older_object_is_an_error_with_its_field() {
    let broken = |object: Value| {
        failure(
            &["-f", "-"],
            &json!({"kind": "List", "apiVersion": "v1", "items": [object]}).to_string(),
        )
    };
    let mut older = class();
    older["apiVersion"] = json!("resource.k8s.io/v1beta1");
    assert!(broken(older).contains("this build reads DeviceClass in version resource.k8s.io/v1 only"));
    let mut odd = slice("n", &["gpu-0"]);
    odd["spec"]["devices"][0]["capacity"] = json!({"memory": {"value": "lots"}});
    let said = broken(odd);
    assert!(
        said.contains("spec.devices[0].capacity[memory].value") && said.contains("lots"),
        "{said}"
    );
    let number = json!({"devices": {"requests": [{"name": 7}]}});
    let said = broken(object("ResourceClaim", "c", number));
    assert!(said.contains("spec.devices.requests[0].name"), "{said}");
}
