//! Volumes: found, made for the first pod, and for one pod alone.

use serde_json::{Value, json};

use crate::{cluster, json_of, names, node, pod};

#[test]
fn a_pod_goes_where_its_volume_is_and_waits_for_one_that_is_missing() {
    let labelled = |name: &str, zone: &str| {
        let mut node = node(name, "4");
        node["metadata"]["labels"] = json!({"zone": zone});
        node
    };
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]}]}}}});
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"},
        "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}});
    let with = |name: &str, claim: &str| {
        let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]);
        pod(name, "1", json!({"spec": {"volumes": volumes}}))
    };
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [labelled("n1", "a"), labelled("n2", "b"), volume, claim,
        with("p", "c"), with("q", "none")]});
    let report = json_of(&["-f", "-"], &list.to_string());
    assert_eq!(names(&report["bound"], "node"), ["n2"]);
    assert_eq!(report["pending"][0]["pod"], "default/q");
    let message = report["pending"][0]["message"].as_str().unwrap();
    assert!(
        message.contains("persistentvolumeclaim \"none\" not found"),
        "{message}"
    );
}

/// A claim to a volume of a node's own disk, and the volume.
fn disk(name: &str, mode: &str, node: &str) -> [Value; 2] {
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": [mode], "storageClassName": "disk", "resources": {"requests": {"storage": "1Gi"}}}});
    let terms = json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]);
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("disk-of-{node}")},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": [mode], "storageClassName": "disk",
            "nodeAffinity": {"required": {"nodeSelectorTerms": terms}}},
        "status": {"phase": "Available"}});
    [claim, volume]
}

fn using(name: &str, claim: &str, more: Value) -> Value {
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]);
    let mut pod = pod(name, "1", more);
    pod["spec"]["volumes"] = volumes;
    pod
}

fn named_node(name: &str) -> Value {
    let mut node = node(name, "4");
    node["metadata"]["labels"] = json!({"kubernetes.io/hostname": name});
    node
}

fn class() -> Value {
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "disk"},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"})
}

#[test]
fn a_volume_for_one_pod_alone_is_given_to_one_until_that_has_ended() {
    let [claim, volume] = disk("c", "ReadWriteOncePod", "n1");
    let objects = |run_time: Value| {
        let first = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z", "annotations": run_time}});
        let second = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:01Z"}});
        let pods = [using("a", "c", first), using("b", "c", second)];
        let [a, b] = pods;
        json!([named_node("n1"), class(), claim, volume, a, b])
    };
    let report = cluster(objects(json!({})));
    assert_eq!(names(&report["bound"], "pod"), ["default/a"]);
    let message = report["pending"][0]["message"].as_str().unwrap();
    assert!(
        message.contains(r#"persistentvolumeclaim "c" is ReadWriteOncePod, and pod "a" uses it"#),
        "{message}"
    );
    let report = cluster(objects(json!({"duosuan.io/run-time": "60s"})));
    assert_eq!(names(&report["bound"], "pod"), ["default/a", "default/b"]);
    assert_eq!(report["bound"][1]["at"], "2026-01-01T00:01:01Z");
}

#[test]
fn a_volume_that_lies_ready_is_given_to_one_claim() {
    let [c, volume] = disk("c", "ReadWriteOnce", "n1");
    let [d, _] = disk("d", "ReadWriteOnce", "n1");
    let [_, other] = disk("d", "ReadWriteOnce", "n2");
    let pods = || [using("a", "c", json!({})), using("b", "d", json!({}))];
    let [a, b] = pods();
    let one = cluster(json!([named_node("n1"), named_node("n2"), class(), c, d, volume, a, b]));
    assert_eq!(names(&one["bound"], "pod"), ["default/a"]);
    let [a, b] = pods();
    let two = cluster(json!([
        named_node("n1"),
        named_node("n2"),
        class(),
        c,
        d,
        volume,
        other,
        a,
        b
    ]));
    let mut nodes = names(&two["bound"], "node");
    nodes.sort();
    assert_eq!(nodes, ["n1", "n2"]);
}
