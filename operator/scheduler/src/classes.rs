//! What the nodes say to a pod, node class by node class: nodes that are equal in all that the pod can tell.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Cluster,
    event::NODE_NAME,
    fit::Constraint,
    index,
    model::{Model, NodeSlot, Shape},
    query::ByResource,
    reason,
};

/// Nodes that are equal in size, taints and the labels that the pod asks about, and that say the same to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeClass {
    /// How many.
    pub nodes: u32,
    /// The first of them in node order.
    pub example: String,
    /// What each has, of what the pod asks for.
    pub size: ByResource,
    /// GPUs by model, if the pod asks for some.
    pub gpus: BTreeMap<String, u32>,
    /// Taints, as `KEY=VALUE:EFFECT`.
    pub taints: Vec<String>,
    /// Labels that the pod's selector or affinity names; without those that the nodes do not have.
    pub labels: BTreeMap<String, String>,
    /// The first constraint that turns the pod away, in words; `None` if it fits.
    pub against: Option<String>,
    /// What lacks, with numbers, if it is an amount.
    pub lacks: Option<Lack>,
}

/// An amount that lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lack {
    /// Name of the resource; `gpu` for whole devices in thousandths, `gpu share` for thousandths of one.
    pub resource: String,
    /// What the pod asks for.
    pub asked: i64,
    /// What is free on the node of the class that has most.
    pub free: i64,
}

impl Lack {
    /// In words: `asks for 4 cpu; at most 1500m cpu are free`.
    #[must_use]
    pub fn words(&self) -> String {
        let (resource, of_one) = match self.resource.as_str() {
            "gpu share" => ("gpu", " on one device"),
            other => (other, ""),
        };
        let (asked, free) = (
            reason::amount(resource, self.asked),
            reason::amount(resource, self.free),
        );
        format!("asks for {asked}{of_one}; at most {free} are free{of_one}")
    }
}

/// All in which nodes of a class are equal.
type Key = (
    ByResource,
    BTreeMap<String, u32>,
    Vec<String>,
    BTreeMap<String, String>,
    Option<Constraint>,
);

impl Cluster {
    /// What each class of nodes says to a pod that has no seat, largest class first; `None` if the pod is unknown or has
    /// a seat. Looks at every node.
    #[must_use]
    pub fn classes(&self, pod: &str) -> Option<Vec<NodeClass>> {
        let pod = &self.model.pods[*self.model.pods_by_uid.get(pod)?];
        if pod.place.seat().is_some() {
            return None;
        }
        let shape = self.model.shapes.value(pod.shape);
        let mut classes: BTreeMap<Key, NodeClass> = BTreeMap::new();
        let said = index::verdicts(&self.model, pod);
        let nodes = self.model.nodes_by_name.values();
        for (node, against) in nodes.filter_map(|node| Some((&self.model.nodes[*node], *said.get(node)?))) {
            let lacks = against.and_then(|constraint| self.model.lack(shape, node, constraint));
            let class = self.model.class_of(shape, node);
            let key = (
                class.size.clone(),
                class.gpus.clone(),
                class.taints.clone(),
                class.labels.clone(),
                against,
            );
            let class = classes.entry(key).or_insert_with(|| NodeClass {
                against: against.map(|constraint| self.model.word(constraint)),
                ..class
            });
            class.nodes += 1;
            if let Some(lacks) = lacks {
                let most = class.lacks.get_or_insert_with(|| lacks.clone());
                most.free = most.free.max(lacks.free);
            }
        }
        let mut classes: Vec<NodeClass> = classes.into_values().collect();
        // A node is in one class, so that its name decides ties.
        classes.sort_by(|a, b| b.nodes.cmp(&a.nodes).then_with(|| a.example.cmp(&b.example)));
        Some(classes)
    }
}

impl Model {
    /// The class of one node, but for what it says.
    fn class_of(&self, shape: &Shape, node: &NodeSlot) -> NodeClass {
        let size = shape.resources();
        let size = size.map(|r| (self.resources.name(r).to_owned(), node.allocatable.of(r).get()));
        let mut gpus = BTreeMap::new();
        if shape.gpus.is_some() {
            for device in &node.devices {
                let model = self.models.value(device.model).cloned().unwrap_or_default();
                *gpus.entry(model).or_insert(0) += 1;
            }
        }
        let keys = shape
            .terms
            .iter()
            .chain(&shape.volume_terms)
            .flatten()
            .map(|requirement| requirement.key.as_str());
        let labels = keys.filter(|key| *key != NODE_NAME).filter_map(|key| {
            let value = node.labels.get(key)?;
            Some((key.to_owned(), value.clone()))
        });
        let taints = node.taints.iter().filter_map(|&taint| {
            let taint = self.taint(taint)?;
            let value = if taint.value.is_empty() { "" } else { "=" };
            Some(format!("{}{value}{}:{}", taint.key, taint.value, taint.effect))
        });
        NodeClass {
            example: node.name.to_string(),
            size: size.collect(),
            gpus,
            taints: taints.collect(),
            labels: labels.collect(),
            ..NodeClass::default()
        }
    }

    /// The numbers behind a constraint.
    fn lack(&self, shape: &Shape, node: &NodeSlot, constraint: Constraint) -> Option<Lack> {
        match constraint {
            Constraint::Resource(resource) => {
                let takes = node.takes(shape);
                let (_, asked) = takes.iter().find(|(r, _)| *r == resource)?;
                Some(Lack {
                    resource: self.resources.name(resource).to_owned(),
                    asked: asked.get(),
                    free: (node.allocatable.of(resource) - node.used.of(resource)).get().max(0),
                })
            }
            Constraint::Gpus => {
                let need = shape.gpus.as_ref()?;
                let (resource, free) = if need.whole() {
                    ("gpu", node.whole_devices().max(0) * 1000)
                } else {
                    let most = (0..node.devices.len())
                        .filter(|&i| node.allows(need, i))
                        .map(|i| node.free_milli(i));
                    ("gpu share", most.max().unwrap_or(0))
                };
                Some(Lack {
                    resource: resource.into(),
                    asked: need.total_milli(),
                    free,
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::{
        Event,
        event::{Gpu, GpuRequest, Node, Operator, Pod, Requirement, Taint},
    };

    fn node(name: &str, cpu: i64, zone: &str) -> Node {
        Node {
            name: name.into(),
            labels: [("zone".into(), zone.into()), ("host".into(), name.into())].into(),
            allocatable: [("cpu".into(), cpu), ("memory".into(), 9), ("pods".into(), 10)].into(),
            ..Default::default()
        }
    }

    fn pod(uid: &str, cpu: i64) -> Pod {
        Pod {
            uid: uid.into(),
            requests: [("cpu".into(), cpu)].into(),
            ours: true,
            ..Default::default()
        }
    }

    fn cluster(nodes: Vec<Node>, pods: Vec<Pod>) -> Cluster {
        let mut cluster = Cluster::default();
        for node in nodes {
            cluster.apply(Event::Node(Box::new(node)));
        }
        for pod in pods {
            cluster.apply(Event::Pod(Box::new(pod)));
        }
        cluster
    }

    #[test]
    fn nodes_that_the_pod_cannot_tell_apart_are_one_class_with_the_best_of_its_numbers() {
        let mut asks = pod("p", 4000);
        asks.node_terms = vec![vec![Requirement {
            key: "zone".into(),
            operator: Operator::In,
            values: vec!["a".into()],
        }]];
        let mut tainted = node("n4", 8000, "a");
        tainted.taints = vec![Taint {
            key: "k".into(),
            value: "v".into(),
            effect: "NoSchedule".into(),
        }];
        let nodes = vec![
            node("n1", 3000, "a"),
            node("n2", 3000, "a"),
            node("n3", 3000, "b"),
            tainted,
        ];
        let held = Pod {
            node: Some("n1".into()),
            ..pod("q", 1000)
        };
        let classes = cluster(nodes, vec![held, asks]).classes("p").unwrap();
        let said: Vec<_> = classes
            .iter()
            .map(|c| (c.nodes, c.example.as_str(), c.against.as_deref(), c.taints.join(",")))
            .collect();
        assert_eq!(
            said,
            [
                (2, "n1", Some("insufficient cpu"), String::new()),
                (1, "n3", Some("node affinity"), String::new()),
                (1, "n4", Some("taint k=v:NoSchedule"), "k=v:NoSchedule".into()),
            ]
        );
        let first = classes.first().unwrap();
        assert_eq!(first.labels, [("zone".to_owned(), "a".to_owned())].into());
        assert_eq!(first.size, [("cpu".to_owned(), 3000), ("pods".to_owned(), 10)].into());
        let lacks = first.lacks.as_ref().unwrap();
        assert_eq!((lacks.asked, lacks.free), (4000, 3000));
        assert_eq!(lacks.words(), "asks for 4 cpu; at most 3 cpu are free");
    }

    #[test]
    fn devices_that_lack_are_counted() {
        let gpu = Gpu {
            model: "A100".into(),
            ..Default::default()
        };
        let with_gpus = Node {
            gpus: vec![gpu.clone(), gpu],
            ..node("n", 9000, "a")
        };
        let request = |count, milli| {
            Some(GpuRequest {
                count,
                milli,
                memory: 0,
                models: vec![],
            })
        };
        let asks = |uid: &str, gpus| Pod { gpus, ..pod(uid, 1) };
        let held = Pod {
            node: Some("n".into()),
            devices: vec![0],
            ..asks("held", request(1, 700))
        };
        let second = Pod {
            devices: vec![1],
            ..held.clone()
        };
        let second = Pod {
            uid: "second".into(),
            ..second
        };
        let pods = vec![
            held,
            second,
            asks("whole", request(2, 1000)),
            asks("share", request(1, 500)),
        ];
        let cluster = cluster(vec![with_gpus], pods);
        let words = |pod: &str| {
            let classes = cluster.classes(pod).unwrap();
            let class = classes.first().unwrap();
            assert_eq!(class.gpus, [("A100".to_owned(), 2)].into());
            class.lacks.as_ref().unwrap().words()
        };
        assert_eq!(words("whole"), "asks for 2 gpu; at most 0 gpu are free");
        assert_eq!(
            words("share"),
            "asks for 500m gpu on one device; at most 300m gpu are free on one device"
        );
        assert_eq!(cluster.classes("held"), None, "it has a seat");
    }
}
