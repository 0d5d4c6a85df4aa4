//! Parts of a node: NUMA nodes, links between cards, MIG.

use serde_json::{Value, json};

use crate::{cluster, node, pod, simulate};

/// A node of 16 cores in two NUMA nodes, each with two cards that are linked with each other; and one in MIG mode.
fn two_sided() -> [Value; 2] {
    let mut node = node("n", "16");
    for (resource, amount) in [("nvidia.com/gpu", "4"), ("nvidia.com/mig-1g.10gb", "7")] {
        node["status"]["allocatable"][resource] = json!(amount);
    }
    let card =
        |index: u16| json!({"index": index, "model": "A100", "memory": "80Gi", "numa": index / 2, "nvlink": index / 2});
    let mut gpus: Vec<Value> = (0..4).map(card).collect();
    gpus.push(json!({"index": 4, "model": "A100", "memory": "80Gi", "mig": [{"profile": "1g.10gb", "count": 7}]}));
    let numa: Vec<Value> = (0..2)
        .map(|index| json!({"index": index, "cpu": "8", "memory": "32Gi"}))
        .collect();
    let report = json!({
        "apiVersion": "duosuan.io/v1alpha1", "kind": "NodeReport", "metadata": {"name": "n"},
        "status": {"gpus": gpus, "numa": numa},
    });
    [node, report]
}

#[test]
fn parts_of_a_node_are_held_to_and_shown() {
    let ask = |name: &str, pack: &str, cpu: &str, gpus: u16| {
        let group = json!({"name": "g", "count": 1, "gpus": {"count": gpus}});
        let claim = json!({
            "apiVersion": "duosuan.io/v1alpha1", "kind": "CapacityClaim", "metadata": {"name": name, "namespace": "default"},
            "spec": {"groups": [group], "topology": {"pack": pack, "mode": "required"}},
        });
        let labels = json!({"duosuan.io/claim": name, "duosuan.io/group": "g"});
        let metadata = json!({"name": format!("{name}-0"), "namespace": "default", "labels": labels});
        [claim, pod("", cpu, json!({"metadata": metadata}))]
    };
    let instances = json!({"requests": {"cpu": "1", "nvidia.com/mig-1g.10gb": "3"}});
    let slice = |name: &str| pod(name, "1", json!({"spec": {"containers": [{"resources": instances}]}}));
    let objects = [
        two_sided(),
        ask("a", "numa", "6", 1),
        ask("b", "numa", "6", 1),
        ask("c", "nvlink", "1", 2),
        [slice("mig-1"), slice("mig-2")],
    ];
    let mut objects = objects.concat();
    objects.push(slice("mig-3"));
    let report = cluster(json!(objects));
    let bound: Vec<_> = report["bound"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| (b["pod"].as_str().unwrap(), b["devices"].clone(), b["numa"].clone()))
        .collect();
    assert_eq!(
        bound,
        [
            ("default/a-0", json!([0]), json!(0)),
            ("default/b-0", json!([2]), json!(1)),
            ("default/mig-1", json!([]), json!(null)),
            ("default/mig-2", json!([]), json!(null)),
        ]
    );
    let said: Vec<_> = report["pending"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["message"].as_str().unwrap())
        .collect();
    assert_eq!(
        said,
        [
            "it needs 2 GPUs in one NVLink group; the best NVLink group has 1",
            "0/1 nodes are available: 1 insufficient nvidia.com/mig-1g.10gb",
        ]
    );
    let input = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    let text = String::from_utf8(simulate(&["-f", "-"], &input).stdout).unwrap();
    assert!(
        text.lines()
            .any(|line| line.contains("b-0") && line.contains("2,NUMA 1")),
        "{text}"
    );
}
