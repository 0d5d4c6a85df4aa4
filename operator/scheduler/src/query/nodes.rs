//! Nodes, one by one.

use serde::{Deserialize, Serialize};

use super::ByResource;
use crate::{Cluster, model::NodeSlot};

/// How a node stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// What is held of it, by the names that pods ask by; `gpu` in thousandths of devices.
    pub used: ByResource,
    /// What is left of it. Below zero where more is held than it has.
    pub free: ByResource,
}

impl Cluster {
    /// All nodes that exist, in node order.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeView> {
        let ords = self.model.nodes_by_name.values();
        ords.map(|&ord| &self.model.nodes[ord])
            .filter(|node| node.present)
            .map(|node| self.node_view(node))
            .collect()
    }

    fn node_view(&self, node: &NodeSlot) -> NodeView {
        let name = |resource| self.model.resources.name(resource).to_owned();
        let mut used: ByResource = node.used.iter().map(|(r, a)| (name(r), a.get())).collect();
        let mut free: ByResource = node
            .allocatable
            .iter()
            .map(|(r, a)| (name(r), (a - node.used.of(r)).get()))
            .collect();
        if !node.devices.is_empty() {
            let devices = i64::try_from(node.devices.len()).unwrap_or(i64::MAX);
            let held: i64 = node.device_use.iter().map(|u| u.milli).sum::<i64>() + node.floating * 1000;
            used.insert("gpu".into(), held);
            free.insert("gpu".into(), devices * 1000 - held);
        }
        NodeView {
            name: node.name.to_string(),
            used,
            free,
        }
    }
}
