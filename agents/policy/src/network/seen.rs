//! What is seen of a node's network.

use serde::{Deserialize, Serialize};

use crate::observation::Millis;

/// The node's network, as far as batch's part in it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The link that leads out of the node, if one does.
    pub uplink: Option<Uplink>,
    /// Why none is known to count what leaves the node, where a route leads out.
    pub hidden: Option<String>,
    /// Pods of batch, and its other groups, whose traffic can be held: they have a link of their own on the node.
    pub held: u32,
    /// Those that have none: they use the node's network, or a device that was given to them.
    pub apart: u32,
    /// Those whose link has hooks of somebody else, which are left alone.
    pub taken: u32,
    /// Those on whose link the kernel has no hooks or filters.
    pub refused: u32,
    /// Those whose packets do not come by the hooks of their link.
    pub bypassed: u32,
    /// Those whose processes the agent does not see, and with them not where their link is.
    pub unseen: u32,
    /// The kernel did not say how it is now: this is how it was.
    pub unread: bool,
    /// When what went over it was counted last.
    pub at: Millis,
    /// What batch's pods with a link have sent.
    pub sent: Traffic,
    /// What they have received.
    pub received: Traffic,
}

impl Network {
    /// Of batch's pods, how many cannot be held, and why; nothing where all can.
    pub fn out_of_reach(&self) -> Option<String> {
        let reasons = [
            (
                self.apart,
                "no link of their own on the node: they use its own network, or a device that was given to them",
            ),
            (self.taken, "a link with hooks of somebody else, which are left alone"),
            (
                self.refused,
                "a link on which the kernel refuses hooks: the agent's log says how",
            ),
            (
                self.bypassed,
                "a link whose packets do not come by the agent's hooks: somebody's programs (tcx, as Cilium's) take them before",
            ),
            (
                self.unseen,
                "processes that the agent does not see: it has to run in the node's own namespace of processes",
            ),
        ];
        let said = reasons.iter().filter(|(count, _)| *count > 0);
        let said: Vec<String> = said
            .map(|(count, why)| format!("{count} pods of batch have {why}"))
            .collect();
        (!said.is_empty()).then(|| said.join("; "))
    }
}

/// A link that leads out of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Bits a second each way, where its driver says so.
    pub speed: Option<i64>,
    /// Bytes that went out.
    pub sent: u64,
    /// Bytes that came in.
    pub received: u64,
}

/// What went one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes, those that were dropped then included.
    pub bytes: u64,
    /// Packets that were dropped because they were over the rate.
    pub dropped: u64,
}
