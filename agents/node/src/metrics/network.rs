//! Metrics of the node's network.

use duosuan_policy::Network;

use super::{
    Metrics,
    labels::{ReachLabels, WayLabels},
    raise_anew, show,
};

impl Metrics {
    pub(super) fn network(&self, node: &str, network: Option<&Network>) {
        let pods = |state, count: fn(&Network) -> u32| {
            let node = node.to_owned();
            show(
                &self.reach,
                &ReachLabels { node, state },
                network.map(|n| i64::from(count(n))),
            );
        };
        pods("held", |n| n.held);
        pods("apart", |n| n.apart);
        pods("taken", |n| n.taken);
        pods("refused", |n| n.refused);
        pods("bypassed", |n| n.bypassed);
        pods("unseen", |n| n.unseen);
        let Some(network) = network else { return };
        let mut labels = WayLabels {
            node: node.to_owned(),
            group: "",
            way: "",
        };
        let all = network.uplink.as_ref().map(|uplink| [uplink.sent, uplink.received]);
        for (at, (way, batch)) in [("sent", network.sent), ("received", network.received)]
            .into_iter()
            .enumerate()
        {
            labels.way = way;
            for (group, bytes) in [
                ("all", all.and_then(|all| all.get(at).copied())),
                ("batch", Some(batch.bytes)),
            ] {
                labels.group = group;
                if let Some(bytes) = bytes {
                    raise_anew(&self.carried, &labels, bytes);
                }
            }
            raise_anew(&self.dropped, &labels, batch.dropped);
        }
    }
}
