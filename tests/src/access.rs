//! The chart's access rules in force on a real API server, with two nodes.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::cluster::{account, admin, apply, cluster_with_controllers, eventually, install_crds, objects};

/// The access rules of the chart, as `duosuan up` applies them: the namespace first.
///
/// # Errors
///
/// If a file cannot be read.
pub fn rules() -> Result<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/duosuan/access");
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
        files.push(entry?.path());
    }
    files.sort_by_key(|path| (!path.ends_with("namespace.yaml"), path.clone()));
    let texts: Result<Vec<String>> = files
        .iter()
        .map(|path| fs::read_to_string(path).with_context(|| format!("read {}", path.display())))
        .collect();
    Ok(texts?.join("\n---\n"))
}

/// Puts the chart's rules for agents in force, the namespace first.
///
/// # Errors
///
/// If a file cannot be read, or the API server refuses something.
pub async fn agent_rules(client: &Client) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/duosuan/access");
    for file in ["namespace", "agent", "agent-confinement", "agent-eviction"] {
        let path = folder.join(format!("{file}.yaml"));
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        for object in objects(&text)? {
            apply(client, &object).await?;
        }
    }
    Ok(())
}

/// A client of the administrator of a cluster with the definitions, the access rules and the nodes `node-a` and `node-b`;
/// returns when the rules are in force.
///
/// # Errors
///
/// If something of this is refused.
pub async fn ready() -> Result<Client> {
    let cluster = cluster_with_controllers()?;
    let client = admin(cluster).await?;
    install_crds(&client).await?;
    for object in objects(&rules()?)? {
        apply(&client, &object).await?;
    }
    let nodes: Api<Node> = Api::all(client.clone());
    let kubelet = PatchParams::apply("kubelet").force();
    for name in ["node-a", "node-b"] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"zone": "1"}}});
        nodes.patch(name, &kubelet, &Patch::Apply(&node)).await?;
        let status = json!({"apiVersion": "v1", "kind": "Node", "status": {
            "capacity": {"cpu": "8", "memory": "16Gi", "pods": "110"},
            "allocatable": {"cpu": "7", "memory": "15Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        }});
        nodes.patch_status(name, &kubelet, &Patch::Apply(&status)).await?;
    }
    // The API server begins to enforce a policy some time after it has accepted it.
    let nobody: Api<Node> = Api::all(account(cluster, "duosuan-agent", None).await?);
    eventually("the confinement of agents is in force", async || {
        let body = json!({"status": {"capacity": {"duosuan.io/batch-cpu": "1"}}});
        let params = PatchParams {
            dry_run: true,
            ..PatchParams::default()
        };
        let answer = nobody.patch_status("node-a", &params, &Patch::Merge(body)).await;
        Ok(answer
            .is_err_and(|e| e.to_string().contains("names no node"))
            .then_some(()))
    })
    .await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let labelled = pod("routed", json!({"duosuan.io/queue": "q"}), &json!({}))?;
    eventually("the routing of pods is in force", async || {
        let made = pods
            .create(
                &PostParams {
                    dry_run: true,
                    ..PostParams::default()
                },
                &labelled,
            )
            .await?;
        Ok((scheduler(&made) == "duosuan").then_some(()))
    })
    .await?;
    Ok(client)
}

/// A pod of namespace `default` with these labels, and with these fields in its specification.
///
/// # Errors
///
/// If they do not make a pod.
pub fn pod(name: &str, labels: Value, spec: &Value) -> Result<Pod> {
    let mut whole = serde_json::Map::from_iter([("containers".into(), json!([{"name": "main", "image": "none"}]))]);
    whole.extend(spec.as_object().context("a specification is an object")?.clone());
    let metadata = json!({"name": name, "namespace": "default", "labels": labels});
    Ok(serde_json::from_value(json!({"metadata": metadata, "spec": whole}))?)
}

/// The scheduler that a pod names.
#[must_use]
pub fn scheduler(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|s| s.scheduler_name.as_deref())
        .unwrap_or_default()
}

/// Whether the API server answered that this user may not.
#[must_use]
pub fn forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}
