//! Steps 4 and 6 with `--trace openb`: nodes and pods of a recorded cluster.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use duosuan_crds::{ANNOTATION_GPU_MODELS, ANNOTATION_GPU_SHARE, RESOURCE_GPU, SCHEDULER_NAME};
use duosuan_planner::openb;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Api, Client};
use serde_json::json;

use super::{apply::create_all, nodes::Shape, report::Reporter, samples::Expected};

const NAMESPACE: &str = "openb";

/// Names and shapes of the nodes.
pub(crate) fn nodes() -> anyhow::Result<Vec<(String, Shape)>> {
    let trace = openb::shipped().context("read the openb trace")?;
    let shape = |node: openb::Node| {
        let shape = Shape {
            cpu_milli: node.cpu_milli,
            memory_mib: node.memory_mib,
            gpus: node.gpus.into(),
            model: node.model,
        };
        (node.name, shape)
    };
    Ok(trace.nodes.into_iter().map(shape).collect())
}

/// Creates the pods in the order of their arrival.
pub(crate) async fn submit(client: &Client, reporter: &Reporter) -> anyhow::Result<Expected> {
    let pods = pods()?;
    let expected = Expected {
        namespace: NAMESPACE,
        pods: pods.len(),
        claims: 0,
        all: false,
    };
    let total = pods.len();
    reporter.step(&format!("creating {total} pods"));
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
    create_all(&Api::all(client.clone()), vec![namespace], |_| {}).await?;
    create_all(&Api::namespaced(client.clone(), NAMESPACE), pods, |done| {
        if done % 1000 == 0 {
            reporter.step(&format!("creating pods: {done} of {total}"));
        }
    })
    .await?;
    Ok(expected)
}

/// The pods as objects. The published experiment offers some pods more than once to reach 130 % of the GPUs; a pod's further
/// copies are left out here, so that the cluster is filled with what was really recorded: 98 % of its GPUs.
fn pods() -> anyhow::Result<Vec<Pod>> {
    let trace = openb::shipped().context("read the openb trace")?;
    let mut seen = BTreeSet::new();
    let mut pods = Vec::new();
    for recorded in &trace.pods {
        let copy = recorded
            .name
            .rsplit_once('-')
            .is_some_and(|(original, _)| seen.contains(original));
        if !copy {
            seen.insert(recorded.name.as_str());
            pods.push(pod(recorded)?);
        }
    }
    Ok(pods)
}

fn pod(recorded: &openb::Pod) -> anyhow::Result<Pod> {
    let mut annotations = BTreeMap::new();
    let mut requests = BTreeMap::from([
        ("cpu", format!("{}m", recorded.cpu_milli)),
        ("memory", format!("{}Mi", recorded.memory_mib)),
    ]);
    let mut limits = BTreeMap::new();
    if recorded.num_gpu > 0 {
        if recorded.gpu_milli == 1000 {
            requests.insert(RESOURCE_GPU, recorded.num_gpu.to_string());
            limits.insert(RESOURCE_GPU, recorded.num_gpu.to_string());
        } else {
            annotations.insert(ANNOTATION_GPU_SHARE, recorded.gpu_milli.to_string());
        }
        if !recorded.gpu_spec.is_empty() {
            annotations.insert(ANNOTATION_GPU_MODELS, recorded.gpu_spec.join("|"));
        }
    }
    let object = json!({
        "metadata": {"name": recorded.name, "namespace": NAMESPACE, "annotations": annotations},
        "spec": {
            "schedulerName": SCHEDULER_NAME,
            "containers": [{
                "name": "main", "image": "registry.k8s.io/pause:3.10",
                "resources": {"requests": requests, "limits": limits},
            }],
        },
    });
    serde_json::from_value(object).with_context(|| format!("make pod {}", recorded.name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn each_recorded_pod_is_created_once() {
        let pods = pods().unwrap();
        assert_eq!((pods.len(), nodes().unwrap().len()), (8152, 1213));
        let names: BTreeSet<_> = pods.iter().map(|pod| &pod.metadata.name).collect();
        assert_eq!(names.len(), pods.len());
    }

    #[test]
    fn whole_gpus_are_a_resource_and_shares_an_annotation() {
        let recorded = |num_gpu, gpu_milli| openb::Pod {
            name: "p".into(),
            cpu_milli: 1500,
            memory_mib: 10,
            num_gpu,
            gpu_milli,
            gpu_spec: vec!["T4".into(), "P100".into()],
        };
        let whole = serde_json::to_value(pod(&recorded(2, 1000)).unwrap()).unwrap();
        assert_eq!(
            whole
                .pointer("/spec/containers/0/resources/limits/nvidia.com~1gpu")
                .unwrap(),
            "2"
        );
        assert_eq!(
            whole.pointer("/metadata/annotations").unwrap(),
            &json!({ANNOTATION_GPU_MODELS: "T4|P100"})
        );
        let share = serde_json::to_value(pod(&recorded(1, 460)).unwrap()).unwrap();
        assert_eq!(
            share.pointer("/metadata/annotations/duosuan.io~1gpu-share").unwrap(),
            "460"
        );
        assert_eq!(
            share.pointer("/spec/containers/0/resources/requests").unwrap(),
            &json!({"cpu": "1500m", "memory": "10Mi"})
        );
    }
}
