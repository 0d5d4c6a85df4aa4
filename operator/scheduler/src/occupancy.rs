//! What each node holds and has left.

use serde::{Deserialize, Serialize};

use crate::{
    Cluster,
    amount::Amount,
    model::{Model, NodeSlot},
    query::ByResource,
};

/// What a node holds and has left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// What pods hold there, by the names that the node uses. `gpu`: thousandths of devices.
    pub used: ByResource,
    /// What is left of what the node has, never below zero. `gpu`: thousandths of its healthy devices.
    pub free: ByResource,
}

impl Cluster {
    /// All nodes, in node order.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeView> {
        let nodes = self.model.nodes_by_name.values().map(|&node| &self.model.nodes[node]);
        nodes
            .filter(|node| node.present)
            .map(|node| self.model.node_view(node))
            .collect()
    }
}

impl Model {
    fn node_view(&self, node: &NodeSlot) -> NodeView {
        let name = |ord| self.resources.name(ord).to_owned();
        let mut used: ByResource = node.used.iter().map(|(r, amount)| (name(r), amount.get())).collect();
        let left = |(r, has): (_, Amount)| (name(r), (has - node.used.of(r)).get().max(0));
        let mut free: ByResource = node.allocatable.iter().map(left).collect();
        let unknown = node.floating.max(0).saturating_mul(1000);
        let held = node.device_use.iter().map(|device| device.milli).sum::<i64>() + unknown;
        if held > 0 || !node.devices.is_empty() {
            let idle: i64 = (0..node.devices.len()).map(|device| node.free_milli(device)).sum();
            used.insert("gpu".to_owned(), held);
            free.insert("gpu".to_owned(), (idle - unknown).max(0));
        }
        NodeView {
            name: node.name.to_string(),
            used,
            free,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Cluster, Event,
        event::{Gpu, GpuRequest, Node, Pod},
        query::ByResource,
    };

    fn amounts(pairs: &[(&str, i64)]) -> ByResource {
        pairs.iter().map(|&(name, amount)| (name.to_owned(), amount)).collect()
    }

    #[test]
    fn a_node_says_what_it_holds_and_what_is_left_down_to_its_devices() {
        let sick = Gpu {
            unhealthy: true,
            ..Gpu::default()
        };
        let mut cluster = Cluster::default();
        cluster.apply(Event::Node(Box::new(Node {
            name: "n".into(),
            allocatable: amounts(&[("cpu", 4000), ("pods", 3)]),
            gpus: vec![Gpu::default(), Gpu::default(), sick],
            ..Node::default()
        })));
        cluster.apply(Event::Pod(Box::new(Pod {
            uid: "p".into(),
            node: Some("n".into()),
            devices: vec![1],
            requests: amounts(&[("cpu", 5000)]),
            gpus: Some(GpuRequest {
                count: 1,
                milli: 300,
                memory: 0,
                models: vec![],
            }),
            ours: true,
            ..Pod::default()
        })));
        let nodes = cluster.nodes();
        let [node] = nodes.as_slice() else {
            unreachable!("{nodes:?}")
        };
        assert_eq!(node.used, amounts(&[("cpu", 5000), ("gpu", 300), ("pods", 1)]));
        assert_eq!(node.free, amounts(&[("cpu", 0), ("gpu", 1700), ("pods", 2)]));
    }
}
