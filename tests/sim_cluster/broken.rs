//! Objects that cannot be understood.

use serde_json::{Value, json};

use crate::{failure, node, pod};

/// A document that is broken in one place, behind one that is whole.
fn broken(object: Value) -> String {
    let text = format!("{}\n---\n{}\n", node("n", "4"), object);
    failure(&["-f", "-"], &text)
}

#[test]
fn a_broken_object_is_an_error_with_file_document_and_field() {
    let claim = |spec: Value| json!({"apiVersion": "duosuan.io/v1alpha1", "kind": "CapacityClaim", "metadata": {"name": "c"}, "spec": spec});
    let queue = |spec: Value| json!({"apiVersion": "duosuan.io/v1alpha1", "kind": "Queue", "metadata": {"name": "q"}, "spec": spec});
    let report = json!({
        "apiVersion": "duosuan.io/v1alpha1", "kind": "NodeReport", "metadata": {"name": "n"},
        "status": {"gpus": [{"index": 0, "model": "A100", "memory": "much"}]},
    });
    let group = |more: Value| claim(json!({"groups": [more]}));
    let cases = [
        (
            pod("p", "lots", json!({})),
            "Pod default/p: spec.containers[0].resources.requests[cpu]: ",
        ),
        (
            pod("p", "1", json!({"spec": {"containers": 3}})),
            "Pod default/p: spec.containers: ",
        ),
        (
            pod(
                "p",
                "1",
                json!({"metadata": {"annotations": {"duosuan.io/run-time": "soon"}}}),
            ),
            "Pod default/p: metadata.annotations[duosuan.io/run-time]: duration \"soon\" ",
        ),
        (
            pod("p", "1", json!({"spec": {"priorityClassName": "none"}})),
            "Pod default/p: spec.priorityClassName: there is no PriorityClass none in the files",
        ),
        (
            pod("p", "1", json!({"metadata": {"labels": {"duosuan.io/tier": "gold"}}})),
            "Pod default/p: metadata.labels[duosuan.io/tier]: ",
        ),
        (node("m", "4 cores"), "Node m: status.allocatable[cpu]: "),
        (
            group(json!({"name": "g", "count": 1, "requests": {"cpu": "x"}})),
            "CapacityClaim default/c: spec.groups[0].requests[cpu]: ",
        ),
        (
            group(json!({"name": "g", "count": -1})),
            "CapacityClaim default/c: spec.groups[0].count: ",
        ),
        (claim(json!({"groups": 3})), "CapacityClaim default/c: spec.groups: "),
        (
            queue(json!({"quotas": [{"tier": "gold"}]})),
            "Queue q: spec.quotas[0].tier: ",
        ),
        (
            queue(json!({"quotas": [{"tier": "prod", "guaranteed": {"cpu": "2"}, "limit": {"cpu": "1500m"}}]})),
            "Queue q: spec.quotas[0].limit[cpu]: the limit of a resource must not be less than its guarantee",
        ),
        (report, "NodeReport n: status.gpus[0].memory: "),
        (json!({"kind": "Pod"}), ": apiVersion: is missing"),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}}),
            ": metadata.name: is missing",
        ),
        (
            json!({"apiVersion": "duosuan.io/v9", "kind": "Queue", "metadata": {"name": "q"}}),
            "Queue q: apiVersion: this build reads Queue in version duosuan.io/v1alpha1 only",
        ),
        (
            node("n", "4"),
            "Node n is there already: standard input, document 1, Node n",
        ),
    ];
    for (object, words) in cases {
        let said = broken(object);
        assert!(said.starts_with("standard input, document 2"), "{said}");
        assert!(said.contains(words), "{words}: {said}");
    }
}
