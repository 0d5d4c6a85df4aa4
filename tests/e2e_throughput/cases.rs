//! The cases: BENCHMARKS' second table, with nodes of 4 cpu, 32Gi and 110 pods, and pods of 100m and 500Mi.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams, PostParams},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{PATIENCE, schedulers::Scheduler, watch::Bindings};

/// Requests of the measurement's own in flight.
pub(crate) const IN_FLIGHT: usize = 32;
/// Pods of a gang.
const GANG: usize = 4;
/// Pod of the paced case that shows that the scheduler has read the cluster; it is not counted.
pub(crate) const FIRST: &str = "first";
/// Pods created each second in the paced case.
const PACE: u32 = 100;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Case {
    /// 5,000 pods wait for 1,000 nodes.
    Backlog,
    /// 10,000 pods wait for 5,000 nodes.
    BacklogLarge,
    /// 5,000 pods behind 1,000 of higher priority that fit nowhere, on 5,000 nodes.
    Infeasible,
    /// 5,000 pods of one GPU on 1,000 nodes of eight.
    Gpu,
    /// 500 gangs of four on 1,000 nodes.
    Gangs,
    /// 100 pods a second for 20 seconds on 1,000 nodes.
    Paced,
}

impl Case {
    /// Nodes of the cluster.
    pub(crate) fn nodes(self) -> usize {
        match self {
            Case::BacklogLarge | Case::Infeasible => 5000,
            Case::Backlog | Case::Gpu | Case::Gangs | Case::Paced => 1000,
        }
    }

    /// Whether all pods are there before the scheduler.
    pub(crate) fn waits_at_first(self) -> bool {
        self != Case::Paced
    }

    /// Pods that are to be bound.
    pub(crate) fn pods(self) -> usize {
        match self {
            Case::BacklogLarge => 10_000,
            Case::Backlog | Case::Infeasible | Case::Gpu => 5000,
            Case::Gangs | Case::Paced => 2000,
        }
    }
}

/// Name of a node, by number.
pub(crate) fn node_name(i: usize) -> String {
    format!("node-{i:05}")
}

/// Name of a pod that is to be bound, by number.
pub(crate) fn pod_name(i: usize) -> String {
    format!("pod-{i:05}")
}

/// Makes the nodes, ready and without taints.
pub(crate) async fn nodes(client: &Client, case: Case) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let mut capacity = json!({"cpu": "4", "memory": "32Gi", "pods": "110", "ephemeral-storage": "100Gi"});
    if case == Case::Gpu {
        capacity =
            json!({"cpu": "4", "memory": "32Gi", "pods": "110", "ephemeral-storage": "100Gi", "nvidia.com/gpu": "8"});
    }
    let status = json!({
        "capacity": capacity, "allocatable": capacity,
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    });
    let one = async |i: usize| -> Result<()> {
        let name = node_name(i);
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "status": status});
        api.create(&PostParams::default(), &serde_json::from_value(node)?)
            .await?;
        // The API server taints every new node, and nobody here takes that away.
        let clean = json!({"spec": {"taints": null}});
        api.patch(&name, &PatchParams::default(), &Patch::Merge(clean)).await?;
        Ok(())
    };
    stream::iter(0..case.nodes())
        .map(one)
        .buffer_unordered(IN_FLIGHT)
        .try_collect::<()>()
        .await
}

/// Creates what waits when the scheduler starts.
pub(crate) async fn before(client: &Client, case: Case, scheduler: Scheduler) -> Result<()> {
    if case == Case::Infeasible {
        let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1000});
        apply(client, class).await?;
        let one = async |i: usize| {
            let mut pod = pod(scheduler, &format!("big-{i:05}"), json!({"cpu": "9"}));
            set(&mut pod, "spec", "priorityClassName", json!("high"));
            create(client, pod).await
        };
        stream::iter(0..1000)
            .map(one)
            .buffer_unordered(IN_FLIGHT)
            .try_collect::<()>()
            .await?;
    }
    match case {
        Case::Paced => return create(client, pod(scheduler, FIRST, json!({"cpu": "100m"}))).await,
        Case::Gangs if !scheduler.is_ceiling() => {
            let one = async |gang: usize| apply(client, group(scheduler, gang)).await;
            stream::iter(0..case.pods() / GANG)
                .map(one)
                .buffer_unordered(IN_FLIGHT)
                .try_collect::<()>()
                .await?;
        }
        Case::Gangs | Case::Backlog | Case::BacklogLarge | Case::Infeasible | Case::Gpu => {}
    }
    let one = async |i: usize| create(client, measured(case, scheduler, i)).await;
    stream::iter(0..case.pods())
        .map(one)
        .buffer_unordered(IN_FLIGHT)
        .try_collect::<()>()
        .await
}

/// Creates what comes while it runs, with the moment before the request for each.
pub(crate) async fn after(
    client: &Client,
    case: Case,
    scheduler: Scheduler,
    bindings: &Bindings,
) -> Result<HashMap<String, Instant>> {
    let mut created = HashMap::new();
    if case.waits_at_first() {
        return Ok(created);
    }
    // What it takes to read the cluster is the other cases' matter.
    tokio::time::timeout(PATIENCE, bindings.reach(1))
        .await
        .context("the first pod is not bound")??;
    let mut tick = tokio::time::interval(Duration::from_secs(1) / PACE);
    let mut requests = tokio::task::JoinSet::new();
    for i in 0..case.pods() {
        tick.tick().await;
        let pod = measured(case, scheduler, i);
        created.insert(pod_name(i), Instant::now());
        let client = client.clone();
        requests.spawn(async move { create(&client, pod).await });
    }
    while let Some(answer) = requests.join_next().await {
        answer??;
    }
    Ok(created)
}

fn measured(case: Case, scheduler: Scheduler, i: usize) -> Value {
    let requests = match case {
        Case::Gpu => json!({"cpu": "100m", "memory": "500Mi", "nvidia.com/gpu": "1"}),
        _ => json!({"cpu": "100m", "memory": "500Mi"}),
    };
    let mut pod = pod(scheduler, &pod_name(i), requests);
    if case == Case::Gangs {
        let name = format!("gang-{:05}", i / GANG);
        match scheduler {
            Scheduler::Upstream => set(&mut pod, "spec", "schedulingGroup", json!({"podGroupName": name})),
            Scheduler::Duosuan => set(
                &mut pod,
                "metadata",
                "labels",
                json!({duosuan_crds::LABEL_CLAIM: name, duosuan_crds::LABEL_GROUP: "worker"}),
            ),
            Scheduler::Ceiling | Scheduler::CeilingEvents => {}
        }
    }
    pod
}

/// The object that makes a gang of its pods.
fn group(scheduler: Scheduler, gang: usize) -> Value {
    let name = format!("gang-{gang:05}");
    match scheduler {
        Scheduler::Upstream => json!({
            "apiVersion": "scheduling.k8s.io/v1beta1", "kind": "PodGroup", "metadata": {"name": name, "namespace": "default"},
            "spec": {"schedulingPolicy": {"gang": {"minCount": GANG}}},
        }),
        Scheduler::Duosuan | Scheduler::Ceiling | Scheduler::CeilingEvents => json!({
            "apiVersion": "duosuan.io/v1alpha1", "kind": "CapacityClaim", "metadata": {"name": name, "namespace": "default"},
            "spec": {"queue": "default", "tier": "prod", "groups": [{"name": "worker", "count": GANG,
                "requests": {"cpu": "100m", "memory": "500Mi"}}]},
        }),
    }
}

fn pod(scheduler: Scheduler, name: &str, requests: Value) -> Value {
    let limits = requests
        .get("nvidia.com/gpu")
        .map_or_else(|| json!({}), |gpus| json!({"nvidia.com/gpu": gpus}));
    json!({
        "metadata": {"name": name},
        "spec": {"schedulerName": scheduler.name(), "containers": [{"name": "c", "image": "i",
            "resources": {"requests": requests, "limits": limits}}]},
    })
}

fn set(object: &mut Value, part: &str, field: &str, value: Value) {
    if let Some(part) = object.get_mut(part).and_then(Value::as_object_mut) {
        part.insert(field.to_owned(), value);
    }
}

async fn create(client: &Client, pod: Value) -> Result<()> {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    api.create(&PostParams::default(), &serde_json::from_value(pod)?)
        .await
        .context("create a pod")?;
    Ok(())
}

async fn apply(client: &Client, object: Value) -> Result<()> {
    let object: DynamicObject = serde_json::from_value(object)?;
    duosuan_tests::cluster::apply(client, &object).await?;
    Ok(())
}
