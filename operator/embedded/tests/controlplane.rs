//! The control plane as its users see it: starts, answers, and leaves nothing behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::{net::TcpListener, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use duosuan_embedded::{ControlPlane, Options, Tool, build, kubernetes_version};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, Config,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

async fn client(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

async fn admin(plane: &ControlPlane) -> Client {
    client(&std::fs::read_to_string(plane.kubeconfig()).unwrap()).await
}

fn runs(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn it_answers_with_the_version_that_go_mod_requires_and_ends_without_a_trace() {
    let plane = ControlPlane::start(&Options::default()).unwrap();
    let version = admin(&plane).await.apiserver_version().await.unwrap();
    assert_eq!(version.git_version, kubernetes_version());
    let mode = std::fs::metadata(plane.kubeconfig()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (pids, dir) = (plane.pids(), plane.dir().to_owned());
    assert_eq!(pids.len(), 2, "etcd and kube-apiserver");
    plane.stop();
    assert!(!pids.into_iter().any(runs));
    assert!(!dir.exists());
}

#[test]
fn a_panic_ends_every_process() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let plane = ControlPlane::start(&Options {
            controller_manager: true,
            kwok: true,
            ..Options::default()
        })
        .unwrap();
        sender.send((plane.pids(), plane.dir().to_owned())).unwrap();
        panic!("on purpose");
    });
    let (pids, dir) = receiver.recv().unwrap();
    assert_eq!(pids.len(), 4);
    assert!(thread.join().is_err());
    assert!(!pids.into_iter().any(runs));
    assert!(!dir.exists());
}

#[test]
fn a_port_in_use_is_named_at_once() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = ControlPlane::start(&Options {
        port: Some(port),
        ..Options::default()
    })
    .err()
    .unwrap()
    .to_string();
    assert_eq!(
        error,
        format!("port {port} on 127.0.0.1 is in use: free it or choose another")
    );
}

#[test]
fn a_component_that_fails_is_named_with_the_end_of_its_log() {
    let options = Options {
        apiserver_flags: vec!["--no-such-flag".into()],
        ..Options::default()
    };
    let error = ControlPlane::start(&options).err().unwrap().to_string();
    assert!(
        error.starts_with("kube-apiserver ended with exit status: 1; its log ("),
        "{error}"
    );
    assert!(error.contains("unknown flag: --no-such-flag"), "{error}");
    assert_eq!(error.lines().count(), 1);
}

#[tokio::test]
async fn a_kubeconfig_for_a_node_is_that_node_and_no_more() {
    let plane = ControlPlane::start(&Options::default()).unwrap();
    let node = client(&plane.kubeconfig_for("system:node:a", "system:nodes", None).unwrap()).await;
    let nodes: Api<Node> = Api::all(node);
    let body = |name: &str| serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    nodes.create(&PostParams::default(), &body("a")).await.unwrap();
    let error = nodes
        .create(&PostParams::default(), &body("b"))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(r#"node "a" is not allowed to modify node "b""#),
        "{error}"
    );
}

fn ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    })
}

/// Asks until the answer is yes, by polling the state itself: a watch would need its own reconnects. When it is not for
/// five minutes, kwok's own log says why.
async fn until(plane: &ControlPlane, what: &str, mut ask: impl AsyncFnMut() -> bool) {
    for _ in 0..3000 {
        if ask().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let log = std::fs::read_to_string(plane.dir().join("kwok.log")).unwrap_or_default();
    panic!("still not: {what}; kwok says:\n{log}");
}

/// kwok must not undo what the agent publishes, neither when it makes a node ready nor in its later rounds.
#[tokio::test]
async fn kwok_runs_pods_and_leaves_extended_resources_alone() {
    let plane = ControlPlane::start(&Options {
        controller_manager: true,
        kwok: true,
        ..Options::default()
    })
    .unwrap();
    let client = admin(&plane).await;
    let nodes: Api<Node> = Api::all(client.clone());
    let capacity = json!({"cpu": "8", "memory": "32Gi", "pods": "110"});
    let node = json!({
        "metadata": {"name": "a", "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "status": {"capacity": capacity, "allocatable": capacity},
    });
    nodes
        .create(&PostParams::default(), &serde_json::from_value(node).unwrap())
        .await
        .unwrap();
    let offer = json!({"capacity": {"duosuan.io/batch-cpu": "4000"}, "allocatable": {"duosuan.io/batch-cpu": "4000"}});
    nodes
        .patch_status("a", &PatchParams::default(), &Patch::Merge(json!({"status": offer})))
        .await
        .unwrap();

    // Pods come once the node takes them, as from every scheduler: what is bound to a node that kwok does not know yet may wait
    // for ever, because kwok drops what it cannot place and looks for it again only once.
    until(&plane, "node a is ready and has no taint", async || {
        let node = nodes.get("a").await.unwrap();
        let tainted = node
            .spec
            .as_ref()
            .is_some_and(|spec| spec.taints.as_ref().is_some_and(|taints| !taints.is_empty()));
        ready(&node) && !tainted
    })
    .await;

    let pods: Api<Pod> = Api::namespaced(client, "default");
    let pod = json!({
        "metadata": {"name": "p", "annotations": {"duosuan.io/run-time": "1s"}},
        "spec": {"nodeName": "a", "restartPolicy": "Never", "containers": [{"name": "c", "image": "i",
            "resources": {"requests": {"duosuan.io/batch-cpu": "1000"}, "limits": {"duosuan.io/batch-cpu": "1000"}}}]},
    });
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
        .await
        .unwrap();
    let forever =
        json!({"metadata": {"name": "q"}, "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(forever).unwrap())
        .await
        .unwrap();
    until(&plane, "pod p succeeds and pod q runs", async || {
        let list = pods.list(&ListParams::default()).await.unwrap();
        let phases: Vec<_> = list
            .into_iter()
            .map(|pod| pod.status.unwrap_or_default().phase.unwrap_or_default())
            .collect();
        phases == ["Succeeded", "Running"]
    })
    .await;
    let node = nodes.get("a").await.unwrap();
    assert!(ready(&node));
    let status = node.status.unwrap();
    for resources in [status.capacity.unwrap(), status.allocatable.unwrap()] {
        assert_eq!(resources["duosuan.io/batch-cpu"].0, "4k");
        assert_eq!(resources["cpu"].0, "8");
    }
}

#[test]
fn a_second_build_finds_the_first() {
    let first = build(Tool::ControlPlane, &mut |_| {}).unwrap();
    let mut said = Vec::new();
    assert_eq!(
        build(Tool::ControlPlane, &mut |line| said.push(line.to_owned())).unwrap(),
        first
    );
    assert!(said.is_empty(), "{said:?}");
}
