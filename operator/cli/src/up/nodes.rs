//! Step 4: nodes without a kernel. kwok plays their kubelets, simulated agents look after them.

use std::collections::BTreeMap;

use anyhow::Context;
use duosuan_crds::{LABEL_GPU_MODEL, LABEL_RACK, LABEL_ZONE, RESOURCE_GPU};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::json;

use super::{
    apply::create_all,
    arguments::Arguments,
    cluster::{Cluster, plain},
    report::Reporter,
    trace,
};

/// kwok looks after nodes with this annotation.
const SIMULATED: (&str, &str) = ("kwok.x-k8s.io/node", "fake");
/// Racks; two to a zone.
const RACKS: usize = 4;

/// Nodes of the cluster.
pub(crate) struct Nodes {
    /// Names of those that need a simulated agent.
    pub(crate) simulated: Vec<String>,
}

/// What a node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) cpu_milli: i64,
    pub(crate) memory_mib: i64,
    pub(crate) gpus: u32,
    /// Empty without GPUs.
    pub(crate) model: String,
}

/// Creates the nodes in an embedded cluster, finds the simulated ones in another.
pub(crate) async fn prepare(arguments: &Arguments, cluster: &Cluster, reporter: &Reporter) -> anyhow::Result<Nodes> {
    let api: Api<Node> = Api::all(cluster.client.clone());
    if !cluster.embedded() {
        let nodes = api
            .list(&ListParams::default())
            .await
            .map_err(plain)
            .context("list the nodes")?;
        let simulated = nodes.iter().filter(|node| {
            node.annotations()
                .get(SIMULATED.0)
                .is_some_and(|value| value == SIMULATED.1)
        });
        return Ok(Nodes {
            simulated: simulated.map(ResourceExt::name_any).collect(),
        });
    }
    let nodes = match arguments.trace {
        Some(_) => trace::nodes()?,
        None => shapes(arguments.nodes)
            .into_iter()
            .enumerate()
            .map(|(i, shape)| (format!("node-{i:04}"), shape))
            .collect(),
    };
    let total = nodes.len();
    reporter.step(&format!("creating {total} nodes"));
    let objects = nodes
        .iter()
        .enumerate()
        .map(|(i, (name, shape))| node(i, name, shape))
        .collect::<Result<_, _>>()?;
    create_all(&api, objects, |done| {
        if done % 200 == 0 {
            reporter.step(&format!("creating nodes: {done} of {total}"));
        }
    })
    .await?;
    Ok(Nodes {
        simulated: nodes.into_iter().map(|(name, _)| name).collect(),
    })
}

/// Shapes of `count` nodes: of five, one with eight GPUs, two small and two large ones without.
fn shapes(count: u32) -> Vec<Shape> {
    (0..count)
        .map(|i| match i % 5 {
            0 => {
                let model = if i % 2 == 0 {
                    "NVIDIA-H100-80GB-HBM3"
                } else {
                    "NVIDIA-L40S"
                };
                Shape {
                    cpu_milli: 96_000,
                    memory_mib: 768 * 1024,
                    gpus: 8,
                    model: model.into(),
                }
            }
            1 | 2 => Shape {
                cpu_milli: 32_000,
                memory_mib: 128 * 1024,
                gpus: 0,
                model: String::new(),
            },
            _ => Shape {
                cpu_milli: 64_000,
                memory_mib: 256 * 1024,
                gpus: 0,
                model: String::new(),
            },
        })
        .collect()
}

/// The object of node number `i`.
fn node(i: usize, name: &str, shape: &Shape) -> anyhow::Result<Node> {
    let rack = i % RACKS;
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname", name.to_owned()),
        ("kubernetes.io/os", "linux".to_owned()),
        ("kubernetes.io/arch", "amd64".to_owned()),
        (LABEL_ZONE, format!("zone-{}", rack / 2)),
        (LABEL_RACK, format!("rack-{rack}")),
    ]);
    let mut capacity = BTreeMap::from([
        ("cpu", format!("{}m", shape.cpu_milli)),
        ("memory", format!("{}Mi", shape.memory_mib)),
        ("ephemeral-storage", "1Ti".to_owned()),
        ("pods", "256".to_owned()),
    ]);
    if shape.gpus > 0 {
        labels.insert(LABEL_GPU_MODEL, shape.model.clone());
        capacity.insert(RESOURCE_GPU, shape.gpus.to_string());
    }
    let object = json!({
        "metadata": {"name": name, "labels": labels, "annotations": {SIMULATED.0: SIMULATED.1}},
        "status": {
            "capacity": capacity,
            "allocatable": capacity,
            "nodeInfo": {
                "architecture": "amd64", "operatingSystem": "linux", "osImage": "simulated", "kernelVersion": "simulated",
                "containerRuntimeVersion": "kwok", "kubeletVersion": duosuan_embedded::kubernetes_version(),
                "kubeProxyVersion": "", "bootID": "", "machineID": "", "systemUUID": "",
            },
            "addresses": [{"type": "Hostname", "address": name}],
        },
    });
    serde_json::from_value(object).context("make a node")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[test]
    fn even_a_single_node_has_gpus_for_the_samples() {
        assert_eq!(shapes(1)[0].gpus, 8);
        assert_eq!(shapes(50).iter().filter(|shape| shape.gpus > 0).count(), 10);
    }

    #[test]
    fn a_node_without_gpus_names_none() {
        let node = node(6, "n", &shapes(2)[1]).unwrap();
        assert!(!node.status.unwrap().capacity.unwrap().contains_key(RESOURCE_GPU));
        assert_eq!(node.metadata.labels.unwrap()["topology.kubernetes.io/zone"], "zone-1");
    }
}
