//! What leaves the core: plain, serialisable decisions. The edge carries them out and reports what failed.

use serde::{Deserialize, Serialize};

use crate::{
    event::{DeviceAllocation, Level, Time},
    lost::LostWork,
};

/// One decision of `cycle()`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Decision {
    /// Bind a pod. The core already counts it as bound. All members of a gang that start together are
    /// neighbours in the list of decisions and share `claim`.
    Bind {
        /// UID of the pod.
        pod: String,
        /// Name of the node.
        node: String,
        /// Devices on that node, by index, ascending; empty without a GPU request.
        devices: Vec<u16>,
        /// The NUMA node whose cores and memory it is to use, if its claim requires one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        numa: Option<u16>,
        /// What its claims to devices have, claim by claim; before it is bound, they have to say so.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        allocations: Vec<ClaimAllocation>,
        /// UID of its claim; `None` for a pod without one.
        claim: Option<String>,
    },
    /// Evict a pod. The core counts its capacity as leaving until the pod is gone.
    Evict {
        /// UID of the pod.
        pod: String,
        /// Why.
        cause: EvictCause,
        /// Work that is lost with all pods of its claim that go now.
        #[serde(default)]
        lost: LostWork,
        /// Milliseconds of warning that it gets, beside its own grace period; 0 for none.
        #[serde(default)]
        notice: i64,
    },
    /// Give back the devices that claims of a pod have: no node takes the pod with them, and nobody else uses them. None of
    /// those who use such a claim is placed until it is known what became of that.
    TakeBack {
        /// UID of the pod.
        pod: String,
        /// The claims, with what they have.
        claims: Vec<ClaimAllocation>,
    },
    /// An elastic group shall have this many pods: it grows by what is bound with this decision, or shrinks by what is
    /// evicted.
    Resize {
        /// UID of the claim.
        claim: String,
        /// Name of the group.
        group: String,
        /// Pods that it shall have.
        count: u32,
    },
    /// When a claim (or pod without one) that waits is to start. Given once, and again when that changes. Others start
    /// before it only if it does not move for it.
    Reserve {
        /// UID of the claim, or of the pod without one.
        claim: String,
        /// When it is expected to start; `None` if that is not known any more.
        start: Option<Time>,
    },
    /// The claim (or pod without one) stays pending. Given once, and again only when the reason changes.
    Pending {
        /// UID of the claim, or of the pod without one. `NoSuchClaim`, `NoSuchGroup`, `GroupFull`,
        /// `PodExceedsGroup` and `BindingFailed` are said of single pods of a claim, by the UID of the pod.
        claim: String,
        /// Why.
        reason: Reason,
        /// What would admit it, in words for a person.
        counterfactual: Option<String>,
    },
    /// The claim (or pod without one) that was pending is so no more: everything it asked for is placed.
    Placed {
        /// UID of the claim, or of the pod without one.
        claim: String,
    },
}

/// What a claim to devices has, or is to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimAllocation {
    /// Name of the claim, in the namespace of the pod.
    pub claim: String,
    /// Its UID.
    pub uid: String,
    /// Its devices.
    pub allocation: DeviceAllocation,
}

/// Why a pod is evicted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EvictCause {
    /// A claim within its queue's guarantee, or of a firmer tier, gets the capacity.
    Reclaimed {
        /// UID of the claim (or pod) that gets it.
        by: String,
    },
    /// A claim of higher priority in its queue gets the capacity.
    Preempted {
        /// UID of the claim (or pod) that gets it.
        by: String,
    },
    /// Its elastic group gives back what it holds above its minimum; its claim goes on.
    Shrunk {
        /// UID of the claim (or pod) that gets the capacity.
        by: String,
    },
    /// Its gang lost a member that could not be placed again in time.
    GangBroken,
}

impl EvictCause {
    /// UID of the claim (or pod) that gets the capacity; none, if it goes because its gang is broken.
    #[must_use]
    pub fn by(&self) -> Option<&str> {
        match self {
            EvictCause::Reclaimed { by } | EvictCause::Preempted { by } | EvictCause::Shrunk { by } => Some(by),
            EvictCause::GangBroken => None,
        }
    }
}

/// Where the pods of a gang are that have a place already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Home {
    /// None has.
    #[default]
    Free,
    /// In this area, so that the others have to go there.
    In(String),
    /// Not in one area, so that none can join them.
    Apart,
}

/// Why something is pending: a closed set. `Display` gives the sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// The queue that it names does not exist.
    NoSuchQueue {
        /// Its name.
        queue: String,
    },
    /// The queue names a parent that does not exist.
    NoSuchParentQueue {
        /// Name of the queue.
        queue: String,
        /// The parent that is missing on its way to the top.
        parent: String,
    },
    /// The way from the queue to the top of the tree leads in a circle.
    QueueCycle {
        /// Name of the queue.
        queue: String,
        /// The queues of the circle, each below the next, and the last below the first.
        circle: Vec<String>,
    },
    /// The queue does not admit this namespace.
    NamespaceNotAllowed {
        /// Name of the queue.
        queue: String,
        /// The namespace.
        namespace: String,
    },
    /// The claim that the pod's label names does not exist.
    NoSuchClaim {
        /// Its name.
        claim: String,
    },
    /// The claim has no group of the name that the pod's label gives.
    NoSuchGroup {
        /// Name of the group.
        group: String,
    },
    /// The group has as many pods as it may have, and this one is beyond that. Said of the pod, by its UID.
    GroupFull {
        /// Name of the group.
        group: String,
        /// Pods at most.
        max: u32,
    },
    /// Fewer pods than the group's minimum exist.
    GangIncomplete {
        /// Name of the group.
        group: String,
        /// Pods that exist and can be placed.
        have: u32,
        /// Pods needed.
        need: u32,
    },
    /// A pod asks for more than its group states.
    PodExceedsGroup {
        /// Name of the pod.
        pod: String,
        /// Resource.
        resource: String,
        /// What the pod asks for.
        asked: i64,
        /// What the group states.
        stated: i64,
    },
    /// It alone is over the limit of a queue: it can never run there.
    ExceedsLimit {
        /// Queue whose limit it is.
        queue: String,
        /// Resource.
        resource: String,
        /// What it asks for.
        asked: i64,
        /// The limit.
        limit: i64,
    },
    /// The queue (or one above it) uses too much of its limit at the moment.
    WaitingForQuota {
        /// Queue whose limit it is.
        queue: String,
        /// Resource.
        resource: String,
        /// What it asks for.
        asked: i64,
        /// What is left below the limit.
        left: i64,
    },
    /// What is free is kept for queues that do not lend it.
    KeptForOthers {
        /// The queue that keeps most of it.
        queue: String,
        /// Resource.
        resource: String,
        /// What it asks for.
        asked: i64,
        /// What is free, below the limits and in the cluster.
        free: i64,
        /// What of that is kept.
        kept: i64,
    },
    /// No node, or no set of nodes, can take it now.
    NoNodeFits {
        /// The constraint that turned most nodes away.
        constraint: String,
        /// Nodes that would be needed at once, in pods: how many pods of the gang found a place.
        placed: u32,
        /// Pods that needed one.
        need: u32,
        /// Nodes turned away by each constraint, as (constraint, nodes), largest first.
        nodes: Vec<(String, u32)>,
    },
    /// There is room, and a claim that waits for longer needs it at a time at which this one would still run.
    WaitingForReservation {
        /// No start is known: the claim has waited for long, and those who sit where it is to start have to leave
        /// first. `start` is until when others that are short may pass.
        #[serde(default)]
        hold: bool,
        /// Namespace and name of that claim, or of the pod without one.
        claim: String,
        /// When that claim is to start.
        start: Time,
        /// Milliseconds that this one is expected to run; `None` if it never ends by itself.
        length: Option<i64>,
    },
    /// Its window is not open.
    WaitingForWindow {
        /// When the window opens.
        start: Time,
        /// Its capacity will be there then, as things stand.
        kept: bool,
    },
    /// Its window passed without its having started.
    WindowOver {
        /// When the window ended.
        end: Time,
    },
    /// No area that all of its pods have to share has room for them.
    TopologyTooSmall {
        /// What kind of area.
        level: Level,
        /// What is counted: `pods`, or `GPUs` where every pod asks for equally many whole ones, or, in a NUMA node that is too
        /// small for them by that, the name of a resource in its base unit.
        unit: String,
        /// How many have to be in one area at once.
        need: u64,
        /// How many the area with the most room for them has room for.
        best: u64,
        /// Name of that area.
        area: Option<String>,
        /// How many such areas there are to choose from.
        areas: u32,
        /// Where its other pods are.
        home: Home,
    },
    /// It has no place. Whether evictions help is being looked for, and the work of one cycle was not enough: the next one
    /// goes on.
    LookingForRoom {
        /// What kind of area it is looked for in.
        level: Level,
        /// How many of them were looked at in vain.
        tried: u32,
        /// How many there are; 0 where it is not looked for in one after the other, or not yet.
        of: u32,
    },
    /// Its place is proven and the pods that stand on it are being evicted.
    WaitingForEviction {
        /// Pods that still have to go.
        pods: u32,
    },
    /// Its pods have scheduling gates.
    Gated,
    /// The API server did not bind a pod of it, though its place was there.
    BindingFailed {
        /// Name of the pod.
        pod: String,
        /// What the API server answered.
        message: String,
        /// Trying again changes nothing: somebody has to see to it.
        refused: bool,
    },
    /// It asks for what cannot be had, or cannot be understood.
    Refused {
        /// The field, and what is wrong with it.
        message: String,
    },
    /// A node whose report is too old would have fitted.
    StaleReports {
        /// How many nodes.
        nodes: u32,
    },
}
