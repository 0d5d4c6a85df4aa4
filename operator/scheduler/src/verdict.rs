//! What each node says to a pod: the read side of placement, for those who ask why a pod waits.

use serde::{Deserialize, Serialize};

use crate::{Cluster, index, slab::NodeOrd};

/// What a node says to a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Name of the node.
    pub node: String,
    /// The first constraint that turns the pod away, in words; `None` if it fits.
    pub against: Option<String>,
}

impl Cluster {
    /// What each node says to a pod that has no seat, in node order; `None` if the pod is unknown or has a seat.
    ///
    /// It is what placement itself finds, node by node: a pod that fits may still wait for its gang, its queue or its
    /// gates.
    #[must_use]
    pub fn verdicts(&self, pod: &str) -> Option<Vec<Verdict>> {
        let pod = &self.model.pods[*self.model.pods_by_uid.get(pod)?];
        if pod.place.seat().is_some() {
            return None;
        }
        let said = index::verdicts(&self.model, pod);
        let nodes = self.model.nodes_by_name.values();
        let verdict = |node: &NodeOrd| {
            Some(Verdict {
                node: self.model.nodes[*node].name.to_string(),
                against: said.get(node)?.map(|constraint| self.model.word(constraint)),
            })
        };
        Some(nodes.filter_map(verdict).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::{
        Event,
        event::{Node, Pod, Taint},
    };

    fn node(name: &str, cpu: i64) -> Node {
        Node {
            name: name.into(),
            allocatable: [("cpu".into(), cpu), ("pods".into(), 10)].into(),
            ..Default::default()
        }
    }

    #[test]
    fn each_node_says_what_turns_the_pod_away_and_placement_agrees() {
        let taint = Taint {
            key: "k".into(),
            effect: "NoSchedule".into(),
            ..Default::default()
        };
        let tainted = Node {
            taints: vec![taint],
            ..node("b", 9)
        };
        let pod = Pod {
            uid: "p".into(),
            requests: [("cpu".into(), 3)].into(),
            ours: true,
            ..Default::default()
        };
        let mut cluster = Cluster::default();
        for node in [node("c", 3), tainted, node("a", 2)] {
            cluster.apply(Event::Node(Box::new(node)));
        }
        cluster.apply(Event::Pod(Box::new(pod)));
        let said = cluster.verdicts("p").unwrap();
        let said: Vec<_> = said.iter().map(|v| (v.node.as_str(), v.against.as_deref())).collect();
        assert_eq!(
            said,
            [
                ("a", Some("insufficient cpu")),
                ("b", Some("taint k:NoSchedule")),
                ("c", None)
            ]
        );

        crate::cycle(&mut cluster, crate::Time(0), crate::Budget::default());
        assert_eq!(cluster.seat_of_pod("p").map(|(node, _)| node), Some("c"));
        assert_eq!(cluster.verdicts("p"), None, "it has a seat");
        assert_eq!(cluster.verdicts("q"), None, "nobody knows it");
    }
}
