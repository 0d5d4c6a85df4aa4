//! The API of Duosuan, `duosuan.io/v1alpha1`: types, nothing else.
//!
//! Every field's comment is its documentation in `kubectl explain`. After a change of a type, run
//! `cargo run -p duosuan-crds --bin crds-gen`, which writes the definitions into the chart.

#![allow(
    unreachable_pub,
    reason = "KubeSchema copies each struct, with its pub, into a function"
)]

pub mod claim;
pub mod duration;
pub mod guards;
pub mod objective;
pub mod policy;
pub mod queue;
pub mod report;
pub mod schema;
pub mod tier;

pub use claim::{CapacityClaim, CapacityClaimSpec, CapacityClaimStatus};
pub use duration::{Duration, DurationError};
pub use objective::LatencyObjective;
pub use policy::{ColocationPolicy, ColocationPolicySpec, ColocationPolicyStatus};
pub use queue::{Queue, QueueSpec, QueueStatus};
pub use report::{NodeReport, NodeReportStatus};
pub use schema::{all, yaml};
pub use tier::Tier;

/// API group of every kind.
pub const GROUP: &str = "duosuan.io";
/// Label of a pod: name of the claim, in the pod's namespace, that it joins.
pub const LABEL_CLAIM: &str = "duosuan.io/claim";
/// Label of a pod: group of that claim.
pub const LABEL_GROUP: &str = "duosuan.io/group";
/// Label of a pod without a claim: its queue.
pub const LABEL_QUEUE: &str = "duosuan.io/queue";
/// Label of a pod without a claim: its tier, `prod` if absent.
pub const LABEL_TIER: &str = "duosuan.io/tier";
/// Annotation of a pod without a claim: thousandths of one GPU's compute that it asks for, 1 to 1000.
pub const ANNOTATION_GPU_SHARE: &str = "duosuan.io/gpu-share";
/// Annotation of a pod without a claim: GPU memory that it asks for, a quantity.
pub const ANNOTATION_GPU_MEMORY: &str = "duosuan.io/gpu-memory";
/// Annotation of a pod without a claim: GPU models that it accepts, separated by `|`.
pub const ANNOTATION_GPU_MODELS: &str = "duosuan.io/gpu-models";
/// Annotation that an agent writes on a pod that is about to be evicted: when and why. A pod that projects it into a file
/// by the downward API can write its checkpoint before SIGTERM comes.
pub const ANNOTATION_EVICTION_NOTICE: &str = "duosuan.io/eviction-notice";
/// Annotation of a pod for simulations: how long it runs before it ends by itself, such as `90s`; without it, for ever.
pub const ANNOTATION_RUN_TIME: &str = "duosuan.io/run-time";
/// Annotation of a claim, or of a pod of it: when the last checkpoint was written, such as `2026-11-29T13:05:00Z`.
pub const ANNOTATION_LAST_CHECKPOINT: &str = "duosuan.io/last-checkpoint";
/// Annotation of a pod of tier prod or mid: the latency that it promises, a [`LatencyObjective`] as JSON.
pub const ANNOTATION_LATENCY_OBJECTIVE: &str = "duosuan.io/latency-objective";
/// Annotation that the operator writes with the binding: indices of the pod's GPUs on its node, separated by `,`.
pub const ANNOTATION_GPUS: &str = "duosuan.io/gpus";
/// Annotation that the operator writes with the binding, if the pod's claim requires one NUMA node: its number on the node.
pub const ANNOTATION_NUMA: &str = "duosuan.io/numa";
/// Extended resource: whole GPUs, in the name that device plugins use.
pub const RESOURCE_GPU: &str = "nvidia.com/gpu";
/// Node label with the GPU's product name, as NVIDIA's feature discovery writes it.
pub const LABEL_GPU_MODEL: &str = "nvidia.com/gpu.product";
/// Node label with the name of the node's zone, unless the operator is told another one.
pub const LABEL_ZONE: &str = "topology.kubernetes.io/zone";
/// Node label with the name of the node's block, the racks under one spine, unless the operator is told another one.
pub const LABEL_BLOCK: &str = "duosuan.io/block";
/// Node label with the name of the node's rack, unless the operator is told another one.
pub const LABEL_RACK: &str = "duosuan.io/rack";
/// Node label with the name of the node's NVLink domain, the servers of a rack whose GPUs reach each other without the host, as
/// NVIDIA's feature discovery writes it; unless the operator is told another one.
pub const LABEL_NVLINK: &str = "nvidia.com/gpu.clique";
/// Extended resource: CPU of the batch tier, in milli-cores.
pub const RESOURCE_BATCH_CPU: &str = "duosuan.io/batch-cpu";
/// Extended resource: memory of the batch tier, in bytes.
pub const RESOURCE_BATCH_MEMORY: &str = "duosuan.io/batch-memory";
/// Extended resource: CPU of the mid tier, in milli-cores.
pub const RESOURCE_MID_CPU: &str = "duosuan.io/mid-cpu";
/// Extended resource: memory of the mid tier, in bytes.
pub const RESOURCE_MID_MEMORY: &str = "duosuan.io/mid-memory";
/// `spec.schedulerName` of pods that the operator places, unless it was told another.
pub const SCHEDULER_NAME: &str = "duosuan";
