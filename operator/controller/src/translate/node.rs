//! Nodes and their reports.

use std::collections::BTreeMap;

use duosuan_crds::{
    LABEL_BLOCK, LABEL_GPU_MODEL, LABEL_NVLINK, LABEL_RACK, LABEL_ZONE, RESOURCE_GPU,
    report::{GpuReport, NumaReport},
};
use duosuan_scheduler::event::{self, Gpu, Location, NumaNode, Taint};
use k8s_openapi::jiff::Timestamp;

use super::{FieldError, amounts, image, quantity};
use crate::lean::{self, Object, Texts, Unread};

/// GPUs that one node may have; a number that is larger is a mistake and not memory to allocate.
const MOST_GPUS: i64 = 1024;

/// The node labels that say where a node stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocationLabels {
    /// Key of the label with the name of its zone.
    pub zone: String,
    /// Key of the label with the name of its block.
    pub block: String,
    /// Key of the label with the name of its rack.
    pub rack: String,
    /// Key of the label with the name of its NVLink domain.
    pub nvlink: String,
}

impl Default for LocationLabels {
    fn default() -> Self {
        Self {
            zone: LABEL_ZONE.to_owned(),
            block: LABEL_BLOCK.to_owned(),
            rack: LABEL_RACK.to_owned(),
            nvlink: LABEL_NVLINK.to_owned(),
        }
    }
}

impl LocationLabels {
    /// Where a node with these labels stands.
    #[must_use]
    pub fn read(&self, labels: &BTreeMap<String, String>) -> Location {
        let named = |key: &str| labels.get(key).filter(|name| !name.is_empty()).cloned();
        Location {
            zone: named(&self.zone),
            block: named(&self.block),
            rack: named(&self.rack),
            nvlink: named(&self.nvlink),
        }
    }
}

/// Reads a node, without what its report says. It stands where the labels of [`LocationLabels::default`] say. Amounts that cannot be understood are left out: capacity that is not
/// known is not there.
pub fn read(object: &Object<lean::Node>) -> (event::Node, Vec<FieldError>) {
    let mut broken = Vec::new();
    let mut allocatable = event::Amounts::new();
    for (resource, text) in &object.status.allocatable {
        match amounts(&[(resource.clone(), text.clone())].into(), "status.allocatable") {
            Ok(amount) => allocatable.extend(amount),
            Err(error) => broken.push(error),
        }
    }
    let labels = object.metadata.labels.clone().unwrap_or_default();
    let count = allocatable
        .get(RESOURCE_GPU)
        .copied()
        .unwrap_or_default()
        .clamp(0, MOST_GPUS);
    let model = labels.get(LABEL_GPU_MODEL).cloned().unwrap_or_default();
    let node = event::Node {
        name: object.metadata.name.clone().unwrap_or_default(),
        taints: object
            .spec
            .taints
            .iter()
            .map(|t| Taint {
                key: t.key.clone(),
                value: t.value.clone().unwrap_or_default(),
                effect: t.effect.clone(),
            })
            .collect(),
        unschedulable: object.spec.unschedulable,
        gpus: (0..count)
            .map(|_| Gpu {
                model: model.clone(),
                ..Gpu::default()
            })
            .collect(),
        allocatable,
        images: image::of_node(&object.status.images),
        numa: Vec::new(),
        stale: false,
        hot: false,
        load: None,
        location: LocationLabels::default().read(&labels),
        labels,
    };
    (node, broken)
}

/// What placement looks at in a node's report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// When it was made, by the agent's clock.
    pub time: Option<Timestamp>,
    /// Policy that the node follows.
    pub policy: Option<String>,
    /// Load of the node.
    pub load: Load,
    /// What the agent makes of that policy.
    pub answer: Answer,
    /// The node takes nothing new of mid and batch, since some was evicted there.
    pub closed: bool,
    /// GPUs by index; an index that the report leaves out is a device that cannot be used.
    pub gpus: Vec<Gpu>,
    /// NUMA nodes.
    pub numa: Vec<NumaNode>,
}

/// Bytes that the driver is taken to keep of a GPU's memory where the report does not say it, unless the operator is told
/// otherwise: 1 GiB. NVIDIA's drivers keep some hundred MiB of a card of a data center, and memory that shares were
/// promised and that is not there ends one of them.
pub const DRIVER_MEMORY: i64 = 1 << 30;

impl Report {
    /// Has the driver keep so many bytes of each GPU of which it does not say how many these are.
    pub fn assume_driver_memory(&mut self, bytes: i64) {
        for gpu in &mut self.gpus {
            gpu.driver_memory.get_or_insert(bytes);
        }
    }
}

/// Load of a node: what is used, or what is to be expected over the next minutes if that is more, in thousandths of the
/// node's capacity; `None` where it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Of its CPU.
    pub cpu: Option<i64>,
    /// Of its memory.
    pub memory: Option<i64>,
}

/// What an agent makes of the policy that its node follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// It follows it, or has not said yet.
    #[default]
    Follows,
    /// The node is as without the agent, because the policy is suspended.
    Suspended,
    /// The policy asks this node for the impossible, in the agent's words.
    Refuses(String),
}

/// Reads a node's report.
///
/// # Errors
///
/// If a field is not what it should be.
pub fn report(object: Object<lean::Report>) -> Result<Report, FieldError> {
    let status = object.status;
    let answer = match status.conditions.into_iter().find(|c| c.type_ == "PolicyAccepted") {
        Some(said) if said.reason == "Suspended" => Answer::Suspended,
        Some(said) if said.reason == "Refused" => Answer::Refuses(said.message),
        _ => Answer::Follows,
    };
    let time = status
        .time
        .map(|text| {
            text.parse()
                .map_err(|e| FieldError::new("status.time", format!("{text:?}: {e}")))
        })
        .transpose()?;
    let load = load(&status.usage, &status.capacity, &status.tiers)?;
    let numa = numa(status.numa)?;
    let reports: Option<Vec<GpuReport>> = status.gpus.read_list().map_err(|e| FieldError::new("status.gpus", e))?;
    let mut gpus = Vec::new();
    for gpu in reports.into_iter().flatten() {
        let index = usize::from(gpu.index);
        if i64::from(gpu.index) >= MOST_GPUS {
            return Err(FieldError::new(
                "status.gpus",
                format!("index {index} is over {MOST_GPUS}"),
            ));
        }
        if gpus.len() <= index {
            gpus.resize_with(index.saturating_add(1), || Gpu {
                unhealthy: true,
                ..Gpu::default()
            });
        }
        let memory = quantity::amount("memory", &gpu.memory.0)
            .map_err(|e| FieldError::new(format!("status.gpus[{index}].memory"), e))?;
        let driver_memory = gpu.driver_memory.map(|text| quantity::amount("memory", &text.0));
        let driver_memory = driver_memory
            .transpose()
            .map_err(|e| FieldError::new(format!("status.gpus[{index}].driverMemory"), e))?;
        if let Some(slot) = gpus.get_mut(index) {
            *slot = Gpu {
                model: gpu.model,
                memory,
                driver_memory,
                numa: gpu.numa,
                nvlink: gpu.nvlink,
                divided: !gpu.mig.is_empty(),
                unhealthy: gpu.unhealthy,
            };
        }
    }
    Ok(Report {
        time,
        load,
        answer,
        policy: status.policy,
        closed: status.batch_closed,
        gpus,
        numa,
    })
}

/// Reads the NUMA nodes of a report.
fn numa(reported: Unread) -> Result<Vec<NumaNode>, FieldError> {
    let reports: Option<Vec<NumaReport>> = reported.read_list().map_err(|e| FieldError::new("status.numa", e))?;
    let read = |(i, numa): (usize, NumaReport)| {
        let amount = |resource: &str, text: &str| {
            quantity::amount(resource, text).map_err(|e| FieldError::new(format!("status.numa[{i}].{resource}"), e))
        };
        Ok(NumaNode {
            id: numa.index,
            cpu: amount("cpu", &numa.cpu.0)?,
            memory: amount("memory", &numa.memory.0)?,
        })
    };
    reports.into_iter().flatten().enumerate().map(read).collect()
}

/// Load by what a report says of use and of tiers. What is used by no tier (the system, and pods that nobody has
/// classified) is expected to stay as it is. Without a use or a capacity, nothing is known.
fn load(usage: &Texts, capacity: &Texts, tiers: &[lean::ReportedTier]) -> Result<Load, FieldError> {
    let of = |resource: &str| -> Result<Option<i64>, FieldError> {
        let read = |amounts: &Texts, field: &str| {
            let read = amounts.get(resource).map(|text| quantity::amount(resource, text));
            read.transpose()
                .map_err(|e| FieldError::new(format!("{field}[{resource}]"), e))
        };
        let used = read(usage, "status.usage")?;
        let mut more = 0;
        for (i, tier) in tiers.iter().enumerate() {
            let used = read(&tier.usage, &format!("status.tiers[{i}].usage"))?;
            let expected = read(&tier.forecast_peak, &format!("status.tiers[{i}].forecastPeak"))?;
            let (used, expected) = (used.unwrap_or_default(), expected.unwrap_or_default());
            more += i128::from(expected.saturating_sub(used).max(0));
        }
        let all = read(capacity, "status.capacity")?.filter(|all| *all > 0);
        Ok(used
            .zip(all)
            .map(|(used, all)| i64::try_from((i128::from(used) + more) * 1000 / i128::from(all)).unwrap_or(i64::MAX)))
    };
    Ok(Load {
        cpu: of("cpu")?,
        memory: of("memory")?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_without_a_report_has_the_gpus_of_its_device_plugin() {
        let object = serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {"nvidia.com/gpu.product": "T4"}},
            "spec": {"unschedulable": true, "taints": [{"key": "k", "effect": "NoExecute"}]},
            "status": {"allocatable": {"cpu": "3500m", "memory": "1Ki", "nvidia.com/gpu": "2", "bad": "x"},
                "images": [{"names": ["llm:7b"], "sizeBytes": 9_663_676_416_i64}]},
        }))
        .unwrap();
        let (node, broken) = read(&object);
        let t4 = Gpu {
            model: "T4".into(),
            ..Gpu::default()
        };
        let expected = event::Node {
            name: "n".into(),
            labels: [("nvidia.com/gpu.product".to_owned(), "T4".to_owned())].into(),
            taints: vec![Taint {
                key: "k".into(),
                value: String::new(),
                effect: "NoExecute".into(),
            }],
            unschedulable: true,
            allocatable: [
                ("cpu".to_owned(), 3500),
                ("memory".to_owned(), 1024),
                ("nvidia.com/gpu".to_owned(), 2),
            ]
            .into(),
            images: [("docker.io/library/llm:7b".to_owned(), 9 << 30)].into(),
            gpus: vec![t4.clone(), t4],
            numa: vec![],
            stale: false,
            hot: false,
            load: None,
            location: Location::default(),
        };
        assert_eq!(node, expected);
        let [error] = broken.as_slice() else {
            unreachable!("{broken:?}")
        };
        assert_eq!(error.field, "status.allocatable[bad]");
    }

    #[test]
    fn a_device_that_the_report_leaves_out_cannot_be_used_and_of_what_it_does_not_say_the_driver_keeps_what_is_assumed()
    {
        let object = serde_json::from_value(json!({
            "metadata": {"name": "n"},
            "status": {"time": "2026-01-01T00:00:00Z", "policy": "p", "gpus": [{"index": 1, "model": "A100", "memory": "80Gi", "driverMemory": "600Mi", "numa": 1}, {"index": 2, "memory": "16Gi", "model": "T4"}]},
        }))
        .unwrap();
        let mut report = report(object).unwrap();
        report.assume_driver_memory(DRIVER_MEMORY);
        let missing = Gpu {
            unhealthy: true,
            driver_memory: Some(DRIVER_MEMORY),
            ..Gpu::default()
        };
        let silent = Gpu {
            model: "T4".into(),
            memory: 16 << 30,
            driver_memory: Some(DRIVER_MEMORY),
            ..Gpu::default()
        };
        let there = Gpu {
            model: "A100".into(),
            memory: 80 << 30,
            driver_memory: Some(600 << 20),
            numa: Some(1),
            nvlink: None,
            divided: false,
            unhealthy: false,
        };
        assert_eq!(report.gpus, vec![missing, there, silent]);
        assert_eq!(
            (report.policy.as_deref(), report.time.unwrap().to_string().as_str()),
            (Some("p"), "2026-01-01T00:00:00Z")
        );
    }

    #[test]
    fn a_node_stands_where_its_labels_say_and_an_empty_one_says_nothing() {
        let labels = json!({"topology.kubernetes.io/zone": "z", "duosuan.io/rack": "r", "duosuan.io/block": "", "row": "7", "nvidia.com/gpu.clique": "c.1"});
        let object = json!({"metadata": {"name": "n", "labels": labels}});
        let (node, _) = read(&serde_json::from_value(object).unwrap());
        let expected = Location {
            zone: Some("z".into()),
            block: None,
            rack: Some("r".into()),
            nvlink: Some("c.1".into()),
        };
        assert_eq!(node.location, expected);
        let labels = LocationLabels {
            block: "row".into(),
            ..LocationLabels::default()
        };
        assert_eq!(labels.read(&node.labels).block.as_deref(), Some("7"));
    }

    #[test]
    fn numa_nodes_links_and_instances_are_read() {
        let object = json!({"metadata": {"name": "n"}, "status": {
            "numa": [{"index": 0, "cpu": "32", "memory": "128Gi"}, {"index": 1, "cpu": 32, "memory": "128Gi"}],
            "gpus": [
                {"index": 0, "model": "A100", "memory": "80Gi", "numa": 0, "nvlink": 3},
                {"index": 1, "model": "A100", "memory": "80Gi", "mig": [{"profile": "1g.10gb", "count": 7}]},
            ],
        }});
        let report = report(serde_json::from_value(object).unwrap()).unwrap();
        let numa = |id| NumaNode {
            id,
            cpu: 32_000,
            memory: 128 << 30,
        };
        assert_eq!(report.numa, [numa(0), numa(1)]);
        let gpus: Vec<_> = report
            .gpus
            .iter()
            .map(|gpu| (gpu.numa, gpu.nvlink, gpu.divided))
            .collect();
        assert_eq!(gpus, [(Some(0), Some(3), false), (None, None, true)]);
        let broken = json!({"status": {"numa": [{"index": 0, "cpu": "many", "memory": "1"}]}});
        let error = super::report(serde_json::from_value(broken).unwrap()).unwrap_err();
        assert_eq!(error.field, "status.numa[0].cpu");
    }

    #[test]
    fn a_report_without_a_status_is_empty_and_a_broken_one_is_named() {
        let empty = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
        assert_eq!(report(empty), Ok(Report::default()));
        let broken = serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"gpus": "many"}})).unwrap();
        assert_eq!(report(broken).unwrap_err().field, "status.gpus");
    }

    #[test]
    fn load_is_what_is_used_or_expected_if_that_is_more() {
        let load = |status: serde_json::Value| {
            let object = json!({"metadata": {"name": "n"}, "status": status});
            report(serde_json::from_value(object).unwrap()).unwrap().load
        };
        let mut status = json!({
            "usage": {"cpu": "5", "memory": "1Gi"}, "capacity": {"cpu": "10", "memory": "4Gi"},
            "tiers": [
                {"tier": "prod", "usage": {"cpu": "2"}, "forecastPeak": {"cpu": "4500m"}},
                {"tier": "batch", "usage": {"cpu": "1"}, "forecastPeak": {"cpu": "500m"}},
            ],
        });
        assert_eq!(
            load(status.clone()),
            Load {
                cpu: Some(750),
                memory: Some(250)
            }
        );
        status["capacity"] = json!({});
        assert_eq!(load(status), Load::default(), "what is not known is not over any line");
        let object = json!({"status": {"usage": {"cpu": "lots"}}});
        let error = report(serde_json::from_value(object).unwrap()).unwrap_err();
        assert_eq!(error.field, "status.usage[cpu]");
    }
}
