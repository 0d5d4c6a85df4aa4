//! The agent's own node, reduced to what the agent needs of it.

use std::collections::BTreeMap;

use duosuan_crds::{LABEL_GPU_MODEL, RESOURCE_GPU, report::GpuReport};
use duosuan_policy::Resources;
use k8s_openapi::api::core::v1::Node;

use crate::quantity;

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// UID.
    pub uid: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// CPU and memory that pods may use.
    pub allocatable: Resources,
    /// Whole GPUs.
    pub gpus: u16,
}

/// Reduces a node.
pub fn reduce(node: &Node) -> NodeInfo {
    let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    let of = |name: &str| allocatable.and_then(|a| a.get(name));
    NodeInfo {
        uid: node.metadata.uid.clone(),
        labels: node.metadata.labels.clone().unwrap_or_default(),
        allocatable: Resources {
            cpu: of("cpu").and_then(quantity::milli).unwrap_or(0),
            memory: of("memory").and_then(quantity::whole).unwrap_or(0),
        },
        gpus: of(RESOURCE_GPU)
            .and_then(quantity::whole)
            .and_then(|n| u16::try_from(n).ok())
            .unwrap_or(0),
    }
}

impl NodeInfo {
    /// The GPUs that the node's labels and resources tell of; memory 0 where the model's is not known.
    pub fn gpu_reports(&self) -> Vec<GpuReport> {
        let model = self
            .labels
            .get(LABEL_GPU_MODEL)
            .cloned()
            .unwrap_or_else(|| "unknown".to_owned());
        let memory = gpu_memory(&model);
        (0..self.gpus)
            .map(|index| GpuReport {
                index,
                model: model.clone(),
                memory: quantity::mebibytes(memory),
                driver_memory: None,
                numa: None,
                nvlink: None,
                mig: Vec::new(),
                unhealthy: false,
            })
            .collect()
    }
}

/// Memory of a GPU by its model, from the vendors' data sheets, in bytes; 0 if not known.
///
/// The models with a letter and a digit alone (G1, G2, G3) are the anonymous ones of the openb trace: their memory is
/// not published.
fn gpu_memory(model: &str) -> i64 {
    const GIB: i64 = 1 << 30;
    let model = model.to_ascii_uppercase();
    let table = [
        ("H200", 141),
        ("B200", 180),
        ("A100-SXM4-80GB", 80),
        ("A100-80GB", 80),
        ("A100-PCIE-80GB", 80),
        ("H100", 80),
        ("H800", 80),
        ("H20", 96),
        ("A800", 80),
        ("L40", 48),
        ("A100", 40),
        ("V100M32", 32),
        ("V100-SXM2-32GB", 32),
        ("V100M16", 16),
        ("V100", 16),
        ("A10", 24),
        ("L4", 24),
        ("T4", 16),
        ("P100", 16),
    ];
    table
        .iter()
        .find(|(name, _)| model.contains(name))
        .map_or(0, |(_, gib)| gib * GIB)
}
