//! `duosuan simulate cluster`: what a user of the command gets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "sim_cluster/broken.rs"]
mod broken;
#[path = "sim_cluster/devices.rs"]
mod devices;
#[path = "sim_cluster/parts.rs"]
mod parts;
#[path = "sim_cluster/storage.rs"]
mod storage;

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

const SMALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/clusters/small.yaml");

fn simulate(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_duosuan"))
        .args(["simulate", "cluster"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that fails before it reads closes the pipe.
    let _closed = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn json_of(arguments: &[&str], input: &str) -> Value {
    let output = simulate(&[arguments, &["--json"]].concat(), input);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Some objects on standard input.
fn cluster(objects: Value) -> Value {
    json_of(
        &["-f", "-"],
        &json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string(),
    )
}

/// The one line that a failure says.
fn failure(arguments: &[&str], input: &str) -> String {
    let output = simulate(arguments, input);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    said.trim_end().strip_prefix("duosuan: ").unwrap().to_owned()
}

fn node(name: &str, cpu: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {"allocatable": {"cpu": cpu, "memory": "64Gi", "pods": "110"}},
    })
}

fn pod(name: &str, cpu: &str, more: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"schedulerName": "duosuan", "containers": [{"resources": {"requests": {"cpu": cpu}}}]},
    });
    for part in ["metadata", "spec", "status"] {
        for (name, value) in more[part].as_object().into_iter().flatten() {
            pod[part][name] = value.clone();
        }
    }
    pod
}

fn names(list: &Value, field: &str) -> Vec<String> {
    let name = |entry: &Value| entry[field].as_str().unwrap().to_owned();
    list.as_array().unwrap().iter().map(name).collect()
}

#[test]
fn a_pod_goes_where_its_image_is_by_the_word_of_the_kubelet() {
    let mut holds = node("b", "16");
    holds["status"]["images"] = json!([
        {"names": ["docker.io/team/llm@sha256:0a", "docker.io/team/llm:7b"], "sizeBytes": 9_u64 << 30},
        {"names": ["registry.k8s.io/pause:3.10"], "sizeBytes": 300_000},
    ]);
    let with = |name: &str, image: &str| {
        let container = json!({"image": image, "resources": {"requests": {"cpu": "1"}}});
        pod(name, "1", json!({"spec": {"containers": [container]}}))
    };
    let report = cluster(json!([
        node("a", "16"),
        holds,
        with("large", "team/llm:7b"),
        with("small", "registry.k8s.io/pause:3.10"),
    ]));
    assert_eq!(names(&report["bound"], "pod"), ["default/large", "default/small"]);
    assert_eq!(names(&report["bound"], "node"), ["b", "a"]);
}

#[test]
fn replicas_are_kept_apart_by_zone_and_pods_of_a_job_are_not() {
    let in_zone = |name: &str, zone: &str| {
        let mut node = node(name, "64");
        node["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": zone});
        node
    };
    let owned = |name: &str, kind: &str| {
        let owner = json!([{"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "o", "controller": true}]);
        pod(name, "100m", json!({"metadata": {"ownerReferences": owner}}))
    };
    for (kind, nodes) in [("ReplicaSet", ["a1", "b1", "a2"]), ("Job", ["a1", "a1", "a1"])] {
        let report = cluster(json!([
            in_zone("a1", "a"),
            in_zone("a2", "a"),
            in_zone("b1", "b"),
            owned("p0", kind),
            owned("p1", kind),
            owned("p2", kind),
        ]));
        assert_eq!(names(&report["bound"], "node"), nodes, "{kind}");
    }
}

#[test]
fn where_nodes_stand_is_said_by_the_labels_that_the_operator_is_told_of() {
    let in_rack = |name: &str, rack: &str| {
        let mut node = node(name, "8");
        node["metadata"]["labels"] = json!({"dc.example.com/rack": rack});
        node
    };
    let claim = json!({
        "apiVersion": "duosuan.io/v1alpha1", "kind": "CapacityClaim", "metadata": {"name": "c", "namespace": "default"},
        "spec": {"groups": [{"name": "w", "count": 2, "topology": {"pack": "rack", "mode": "required"}}]},
    });
    let member = |name: &str| {
        let labels = json!({"duosuan.io/claim": "c", "duosuan.io/group": "w"});
        pod(
            name,
            "5",
            json!({"metadata": {"labels": labels, "namespace": "default"}}),
        )
    };
    let objects = json!([
        in_rack("a", "r1"),
        in_rack("b", "r2"),
        in_rack("c", "r2"),
        claim,
        member("p0"),
        member("p1")
    ]);
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    let report = json_of(&["-f", "-", "--rack-label", "dc.example.com/rack"], &list);
    assert_eq!(names(&report["bound"], "node"), ["b", "c"]);
    assert_eq!(json_of(&["-f", "-"], &list)["bound"], json!([]));
}

#[test]
fn the_sample_is_placed_in_simulated_time_and_what_waits_says_why() {
    let report = json_of(&["-f", SMALL], "");
    let bound = json!([
        {"pod": "lab/train-0", "node": "gpu-1", "devices": [0], "at": "2026-01-05T09:01:00Z"},
        {"pod": "lab/train-1", "node": "gpu-1", "devices": [1], "at": "2026-01-05T09:01:00Z"},
        {"pod": "shop/index", "node": "cpu-2", "devices": [], "at": "2026-01-05T10:30:00Z"},
    ]);
    assert_eq!(report["bound"], bound);
    assert_eq!(
        report["finished"],
        json!([{"pod": "shop/report", "at": "2026-01-05T10:30:00Z"}])
    );
    assert_eq!(report["evicted"], json!([]));
    let pending = report["pending"].as_array().unwrap();
    assert_eq!((pending.len(), &pending[0]["claim"]), (2, &json!("lab/pretrain")));
    assert_eq!(pending[0]["reason"], "WaitingForQuota");
    assert!(
        pending[0]["message"].as_str().unwrap().contains("2 gpu are left"),
        "{pending:?}"
    );
    assert!(
        pending[0]["would_admit"].as_str().unwrap().contains("2 gpu"),
        "{pending:?}"
    );
    assert_eq!(
        (&pending[1]["pod"], &pending[1]["reason"]),
        (&json!("shop/database"), &json!("Refused"))
    );
    assert_eq!(names(&report["queues"], "name"), ["default", "online", "research"]);
    assert_eq!(report["queues"][2]["tiers"][0]["used"]["gpu"], 2000);
    assert_eq!(names(&report["nodes"], "name"), ["cpu-1", "cpu-2", "gpu-1"]);
    assert_eq!(report["nodes"][2]["free"]["gpu"], 2000);
    assert_eq!(report["nodes"][1]["used"]["cpu"], 7000);
    assert_eq!(report["skipped"], json!({"ConfigMap": 1}));
    assert_eq!(report["of_other_schedulers"], json!({"default-scheduler": 1}));
    let unserved = &report["not_acted_on"][0];
    assert_eq!(
        (&unserved["kind"], &unserved["objects"]),
        (&json!("DeviceTaintRule"), &json!(1))
    );
}

#[test]
fn a_disruption_budget_keeps_a_victim_and_its_reclaimer_waits() {
    let kept = |status: Value| {
        let more = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"nodeName": "n"}, "status": status});
        pod("kept", "4", more)
    };
    let urgent = pod("urgent", "4", json!({"spec": {"priority": 10}}));
    let budget = |spec: Value| json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"}, "spec": spec});
    let selector = json!({"matchLabels": {"app": "a"}});
    let evicted = |kept: Value, budget: Value| {
        let report = cluster(json!([node("n", "4"), kept, urgent, budget]));
        assert_eq!(report["not_acted_on"], json!([]));
        names(&report["evicted"], "pod")
    };
    let none = Vec::<String>::new();
    assert_eq!(
        evicted(
            kept(json!({})),
            budget(json!({"minAvailable": 1, "selector": selector}))
        ),
        none
    );
    assert_eq!(
        evicted(
            kept(json!({})),
            budget(json!({"maxUnavailable": "0%", "selector": selector}))
        ),
        none
    );
    assert_eq!(
        evicted(
            kept(json!({})),
            budget(json!({"minAvailable": 0, "selector": selector}))
        ),
        ["default/kept"]
    );
    assert_eq!(
        evicted(
            kept(json!({})),
            budget(json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "b"}}}))
        ),
        ["default/kept"]
    );
    // The API server asks no budget about a pod that has not started.
    assert_eq!(
        evicted(
            kept(json!({"phase": "Pending"})),
            budget(json!({"minAvailable": 1, "selector": selector}))
        ),
        ["default/kept"]
    );
}

#[test]
fn a_number_that_is_none_is_named_where_it_stands() {
    let text =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{resources: {requests: {cpu: .nan}}}]}\n";
    assert_eq!(
        failure(&["-f", "-"], text),
        "standard input, document 1: spec.containers[0].resources.requests.cpu: NaN is no number that Kubernetes knows; \
         write a finite one at line 4 column 50"
    );
}

#[test]
fn a_text_that_happens_to_be_yaml_is_no_object() {
    let expected =
        "standard input, document 1 is no object of Kubernetes: it has none of apiVersion, kind and metadata";
    assert_eq!(failure(&["-f", "-"], ":::\n"), expected);
}

#[test]
fn files_without_any_object_are_a_mistake() {
    for text in ["", "---\n", r#"{"apiVersion": "v1", "kind": "List", "items": []}"#] {
        let output = simulate(&["-f", "-"], text);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && error.contains("hold no Kubernetes object"),
            "{text:?}: {error}"
        );
    }
}

#[test]
fn the_same_files_give_the_same_result_byte_for_byte() {
    let once = simulate(&["-f", SMALL, "--json"], "");
    assert!(once.status.success());
    assert_eq!(once.stdout, simulate(&["-f", SMALL, "--json"], "").stdout);
}

#[test]
fn until_stops_before_what_comes_later() {
    let before = json_of(&["-f", SMALL, "--until", "1h28m59s"], "");
    assert_eq!(names(&before["bound"], "pod"), ["lab/train-0", "lab/train-1"]);
    assert_eq!(before["ended"], "2026-01-05T10:29:59Z");
    assert_eq!(
        names(&before["pending"], "reason"),
        ["WaitingForQuota", "Refused", "NoNodeFits"]
    );
    let after = json_of(&["-f", SMALL, "--until", "1h29m"], "");
    assert_eq!(after["bound"].as_array().unwrap().len(), 3);
}

#[test]
fn people_read_the_same_in_words() {
    let output = simulate(&["-f", SMALL], "");
    let text = String::from_utf8(output.stdout).unwrap();
    for words in [
        "3 pods bound, 0 evicted, 1 finished; 2 pending",
        "claim lab/pretrain: WaitingForQuota: it asks for 4 gpu, and 2 gpu are left below the limit of queue research",
        "Not acted on: 1 DeviceTaintRule: devices have the taints alone that their ResourceSlices say",
        "persistentvolumeclaim \"data\" is not bound",
        "Left alone: 1 pods without a node name scheduler default-scheduler",
        "Skipped: 1 ConfigMap",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn several_files_are_one_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, object: &Value| {
        let path = folder.path().join(name);
        std::fs::write(&path, object.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (nodes, pods) = (
        write("nodes", &node("n", "4")),
        write("pods", &pod("p", "1", json!({}))),
    );
    let report = json_of(&["-f", &nodes, &pods], "");
    assert_eq!(names(&report["bound"], "node"), ["n"]);
    assert_eq!(json_of(&["-f", &nodes, "-f", &pods], "")["bound"], report["bound"]);
}

#[test]
fn a_pod_is_as_urgent_as_its_priority_class_says() {
    let class = json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "urgent"}, "value": 1000,
    });
    let urgent = pod("z-urgent", "1", json!({"spec": {"priorityClassName": "urgent"}}));
    let report = cluster(json!([node("n", "1"), pod("a-calm", "1", json!({})), urgent, class]));
    assert_eq!(names(&report["bound"], "pod"), ["default/z-urgent"]);
}

#[test]
fn pods_of_a_pod_group_start_together_or_not_at_all() {
    let group = |version: &str| {
        json!({
            "apiVersion": format!("scheduling.k8s.io/{version}"), "kind": "PodGroup", "metadata": {"name": "train"},
            "spec": {"schedulingPolicy": {"gang": {"minCount": 3}}},
        })
    };
    let member = |name: &str| {
        pod(
            name,
            "1",
            json!({"spec": {"schedulingGroup": {"podGroupName": "train"}}}),
        )
    };
    let objects =
        |cpu: &str, version: &str| json!([node("n", cpu), group(version), member("a"), member("b"), member("c")]);
    for version in ["v1beta1", "v1alpha3", "v1alpha2"] {
        assert_eq!(cluster(objects("2", version))["bound"], json!([]));
        let bound = cluster(objects("3", version))["bound"].clone();
        assert_eq!(names(&bound, "pod"), ["default/a", "default/b", "default/c"]);
    }
    let unknown = json!({"kind": "List", "apiVersion": "v1", "items": objects("3", "v1alpha1")}).to_string();
    let refused = failure(&["-f", "-"], &unknown);
    assert!(
        refused.contains("apiVersion: this build reads PodGroup of scheduling.k8s.io in versions v1beta1"),
        "{refused}"
    );
}

#[test]
fn what_another_scheduler_runs_counts_and_is_placed_when_it_is_asked_for() {
    let foreign = |name: &str, node: Value| {
        pod(
            name,
            "3",
            json!({"spec": {"schedulerName": "volcano", "nodeName": node}}),
        )
    };
    let objects = json!([node("n", "4"), foreign("runs", json!("n")), pod("ours", "2", json!({}))]);
    assert_eq!(names(&cluster(objects)["pending"], "reason"), ["NoNodeFits"]);
    let waiting = json!({"kind": "List", "apiVersion": "v1", "items": [node("n", "4"), foreign("waits", Value::Null)]});
    let report = json_of(&["-f", "-", "--scheduler-name", "volcano"], &waiting.to_string());
    assert_eq!(names(&report["bound"], "pod"), ["default/waits"]);
}

#[test]
fn a_reclaimer_has_its_place_and_its_victim_says_for_whom() {
    let queue = |name: &str, cpu: &str| {
        json!({
            "apiVersion": "duosuan.io/v1alpha1", "kind": "Queue", "metadata": {"name": name},
            "spec": {"quotas": [{"tier": "prod", "guaranteed": {"cpu": cpu}}]},
        })
    };
    let of = |queue: &str| json!({"duosuan.io/queue": queue});
    let borrower = pod(
        "borrower",
        "4",
        json!({"metadata": {"labels": of("guest")}, "spec": {"nodeName": "n"}}),
    );
    let owner = pod("owner", "4", json!({"metadata": {"labels": of("host")}}));
    let report = cluster(json!([
        node("n", "4"),
        queue("host", "4"),
        queue("guest", "0"),
        borrower,
        owner
    ]));
    let evicted = &report["evicted"][0];
    assert_eq!(
        (&evicted["pod"], &evicted["for"], &evicted["reason"]),
        (&json!("default/borrower"), &json!("default/owner"), &json!("Reclaimed"))
    );
    assert_eq!(names(&report["bound"], "pod"), ["default/owner"]);
}

#[test]
fn reports_that_are_old_by_the_time_of_the_files_lend_nothing() {
    let report = |time: &str| {
        json!({
            "apiVersion": "duosuan.io/v1alpha1", "kind": "NodeReport", "metadata": {"name": "n"},
            "status": {"time": time},
        })
    };
    let mut node = node("n", "4");
    node["status"]["allocatable"]["duosuan.io/batch-cpu"] = json!(4000);
    let mut batch = pod(
        "p",
        "1",
        json!({"metadata": {"labels": {"duosuan.io/tier": "batch"}, "creationTimestamp": "2026-01-05T12:00:00Z"}}),
    );
    batch["spec"]["containers"][0]["resources"]["requests"] = json!({"duosuan.io/batch-cpu": 1000});
    let fresh = cluster(json!([node, batch, report("2026-01-05T11:59:00Z")]));
    assert_eq!(names(&fresh["bound"], "pod"), ["default/p"]);
    let stale = cluster(json!([node, batch, report("2026-01-05T11:00:00Z")]));
    assert_eq!(names(&stale["pending"], "reason"), ["StaleReports"]);
}

#[test]
fn a_file_that_is_not_there_and_a_duration_that_is_none_are_named() {
    assert_eq!(
        failure(&["-f", "absent.yaml"], ""),
        "-f absent.yaml cannot be read: No such file or directory (os error 2)"
    );
    assert!(failure(&["-f", SMALL, "--until", "tomorrow"], "").starts_with("--until: duration \"tomorrow\" "));
    assert!(Path::new(SMALL).is_file());
}
