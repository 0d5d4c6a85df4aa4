//! The parts that nodes are divided into by the labels that pods' relations name.

use crate::{
    intern::{Counted, Names},
    model::Model,
    slab::{DomainOrd, KeyOrd, NodeOrd},
};

/// Labels that divide the nodes, and the values that they have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topology {
    keys: Names<KeyOrd, String>,
    /// By key. Referred to by the nodes that have the value.
    values: Vec<Counted<DomainOrd, String>>,
}

impl Topology {
    /// How many parts a label divides the nodes into.
    pub(crate) fn domains(&self, key: KeyOrd) -> usize {
        self.values.get(key.index()).map_or(0, Counted::len)
    }
}

impl Model {
    /// The ordinal of a label that divides the nodes.
    pub(crate) fn topology_key(&mut self, name: &str) -> KeyOrd {
        if let Some(key) = self.topology.keys.find(name) {
            return key;
        }
        let key = self.topology.keys.intern(name);
        self.topology.values.push(Counted::default());
        let nodes: Vec<NodeOrd> = self.nodes_by_name.values().copied().collect();
        for node in nodes {
            self.find_domains(node);
        }
        key
    }

    /// Finds the parts that a node belongs to, after its labels or the keys changed.
    pub(crate) fn find_domains(&mut self, ord: NodeOrd) {
        let node = &mut self.nodes[ord];
        for (index, values) in self.topology.values.iter_mut().enumerate() {
            let name = self.topology.keys.value(KeyOrd::new(index));
            let label = name.and_then(|name| node.labels.get(name)).filter(|_| node.present);
            let old = node.domains.get(index).copied().flatten();
            if old.map(|old| values.value(old).as_str()) == label.map(String::as_str) {
                continue;
            }
            let new = label.map(|label| values.acquire(label.clone()));
            if let Some(old) = old {
                values.release(old);
            }
            if node.domains.len() <= index {
                node.domains.resize(index + 1, None);
            }
            if let Some(slot) = node.domains.get_mut(index) {
                *slot = new;
            }
        }
    }
}
