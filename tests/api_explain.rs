//! `duosuan explain` against a real API server: it says what it says on files with the same objects, and writes nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::{fs, path::Path, process::Command};

use duosuan_tests::{
    binary::binary,
    cluster::{admin, api_of, apply, cluster, install_crds, objects},
};
use http::Request;
use kube::{
    Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

const OBJECTS: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: { name: default, namespace: default }
---
apiVersion: v1
kind: Node
metadata: { name: n1 }
---
apiVersion: duosuan.io/v1alpha1
kind: Queue
metadata: { name: narrow }
spec: { quotas: [{ tier: prod, limit: { cpu: '4' } }] }
---
apiVersion: duosuan.io/v1alpha1
kind: CapacityClaim
metadata: { name: wide, namespace: default }
spec: { queue: narrow, groups: [{ name: worker, count: 2 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: wide-0, namespace: default, labels: { duosuan.io/claim: wide, duosuan.io/group: worker } }
spec:
  schedulerName: duosuan
  tolerations: [{ operator: Exists }]
  containers: [{ name: main, image: none, resources: { requests: { cpu: '3' } } }]
---
apiVersion: v1
kind: Pod
metadata: { name: wide-1, namespace: default, labels: { duosuan.io/claim: wide, duosuan.io/group: worker } }
spec:
  schedulerName: duosuan
  tolerations: [{ operator: Exists }]
  containers: [{ name: main, image: none, resources: { requests: { cpu: '3' } } }]
";

/// All that the operator reads, as the API server writes it.
async fn dump(client: &Client, folder: &Path) -> Vec<String> {
    let paths = [
        "api/v1/nodes",
        "api/v1/pods",
        "apis/duosuan.io/v1alpha1/queues",
        "apis/duosuan.io/v1alpha1/capacityclaims",
    ];
    let mut files = Vec::new();
    for (number, path) in paths.iter().enumerate() {
        let request = Request::get(format!("/{path}")).body(Vec::new()).unwrap();
        let text = client.request_text(request).await.unwrap();
        let file = folder.join(format!("{number}.json"));
        fs::write(&file, text).unwrap();
        files.push(file.to_str().unwrap().to_owned());
    }
    files
}

fn explain(binary: &Path, arguments: &[&str]) -> Value {
    let output = Command::new(binary)
        .arg("explain")
        .args(arguments)
        .arg("--json")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn a_live_cluster_is_explained_as_files_of_its_objects_are() {
    let plane = cluster().unwrap();
    let client = admin(plane).await.unwrap();
    install_crds(&client).await.unwrap();
    for object in objects(OBJECTS).unwrap() {
        apply(&client, &object).await.unwrap();
        if object.types.as_ref().is_some_and(|types| types.kind == "Node") {
            let status = json!({"status": {"allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110"}}});
            let api = api_of(&client, &object).await.unwrap();
            api.patch_status("n1", &PatchParams::default(), &Patch::Merge(status))
                .await
                .unwrap();
        }
    }
    let binary = binary("duosuan").unwrap();
    let kubeconfig = plane.kubeconfig().to_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let before = dump(&client, folder.path()).await;
    let before_texts: Vec<String> = before.iter().map(|file| fs::read_to_string(file).unwrap()).collect();

    let live = explain(&binary, &["wide", "--kubeconfig", kubeconfig]);
    assert_eq!(
        (&live["state"], &live["reason"]),
        (&json!("waits"), &json!("ExceedsLimit"))
    );
    assert_eq!(live["would_admit"], "1 cpu less per pod of group worker");
    assert_eq!(live["alternatives"][0], "2 cpu more in the prod limit of queue narrow");
    assert_eq!(live["remarks"], json!([]));
    let mut files = vec!["wide", "-f"];
    files.extend(before.iter().map(String::as_str));
    assert_eq!(explain(&binary, &files), live);

    let pod = explain(&binary, &["--pod", "wide-1", "--kubeconfig", kubeconfig]);
    assert_eq!(
        (&pod["pod"], &pod["reason"]),
        (&json!("default/wide-1"), &json!("ExceedsLimit"))
    );
    assert_eq!(pod["classes"][0]["against"], Value::Null, "alone it fits: {pod}");

    let after = dump(&client, folder.path()).await;
    for (file, before) in after.iter().zip(before_texts) {
        // The list's own version counts every write to anything; the objects' own stay.
        let items = |text: &str| serde_json::from_str::<Value>(text).unwrap()["items"].clone();
        assert_eq!(
            items(&fs::read_to_string(file).unwrap()),
            items(&before),
            "nothing is written"
        );
    }
}
