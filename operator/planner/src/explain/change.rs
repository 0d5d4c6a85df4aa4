//! Single changes, in words and as facts for a copy of the model.

use std::fmt;

use duosuan_scheduler::{
    Event, Tier, amount_in_words,
    event::{Claim, GpuRequest, Node, Pod, Queue, Toleration},
};

use super::{Case, Subject};

/// Thousandths of a device.
pub(super) const DEVICE: i64 = 1000;
/// Whole devices in the name that their plugin gives them.
const PLUGIN_GPU: &str = "nvidia.com/gpu";
/// Label that names the node itself.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// One change of one thing. Amounts are in the core's base units, `gpu` in thousandths of devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A limit of a queue is higher.
    Limit {
        /// Name of the queue.
        queue: String,
        /// Tier of the quota.
        tier: Tier,
        /// Resource, as quotas call it.
        resource: String,
        /// By how much.
        more: i64,
    },
    /// A queue lends more.
    LendLimit {
        /// Name of the queue.
        queue: String,
        /// Tier of the quota.
        tier: Tier,
        /// Resource, as quotas call it.
        resource: String,
        /// By how much.
        more: i64,
    },
    /// The queue exists.
    Queue {
        /// Its name.
        queue: String,
    },
    /// The queue admits the namespace.
    Namespace {
        /// Name of the queue.
        queue: String,
        /// The namespace.
        namespace: String,
    },
    /// There are more nodes of a class, empty.
    Nodes {
        /// Name of a node of that class.
        like: String,
        /// How many.
        count: u32,
    },
    /// The agents of nodes report again.
    Reports,
    /// Pods ask for less.
    Less {
        /// Group of the pods; empty for a pod without a claim.
        group: String,
        /// Resource, as the pods call it; `gpu` for devices.
        resource: String,
        /// By how much each.
        less: i64,
    },
    /// The claim starts with fewer pods.
    Fewer {
        /// The group.
        group: String,
        /// Pods that it has at least.
        min: u32,
        /// How many fewer these are.
        fewer: u32,
    },
    /// There are more pods of a group.
    Pods {
        /// The group.
        group: String,
        /// How many.
        more: u32,
    },
    /// The pods tolerate a taint.
    Tolerate {
        /// The taint, as `KEY=VALUE:EFFECT`.
        taint: String,
    },
    /// The pods run on nodes of any label.
    AnyNode,
    /// The pods take any model of GPU.
    AnyModel,
    /// The pods do not mind which pods run beside them.
    AnyNeighbour,
    /// The areas that pods have to share are a preference.
    AnyArea,
    /// The pods have no scheduling gates.
    NoGates,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Limit {
                queue,
                tier,
                resource,
                more,
            } => {
                let more = amount_in_words(resource, *more);
                write!(f, "{more} more in the {} limit of queue {queue}", tier.as_str())
            }
            Change::LendLimit {
                queue,
                tier,
                resource,
                more,
            } => {
                let more = amount_in_words(resource, *more);
                write!(f, "{more} more in the {} lendLimit of queue {queue}", tier.as_str())
            }
            Change::Queue { queue } => write!(f, "a queue of the name {queue}"),
            Change::Namespace { queue, namespace } => {
                write!(f, "namespace {namespace} among those that queue {queue} admits")
            }
            Change::Nodes { like, count: 1 } => write!(f, "one more node like {like}"),
            Change::Nodes { like, count } => write!(f, "{count} more nodes like {like}"),
            Change::Reports => f.write_str("new reports from the agents of the nodes whose reports are too old"),
            Change::Less { group, resource, less } => {
                let less = amount_in_words(resource, *less);
                match group.as_str() {
                    "" => write!(f, "{less} less asked for"),
                    group => write!(f, "{less} less per pod of group {group}"),
                }
            }
            Change::Fewer { group, min, fewer } => {
                let pods = if *fewer == 1 { "pod" } else { "pods" };
                write!(f, "{fewer} {pods} fewer in group {group}, {min} at least")
            }
            Change::Pods { group, more } => {
                let pods = if *more == 1 { "pod" } else { "pods" };
                write!(f, "{more} more {pods} of group {group}")
            }
            Change::Tolerate { taint } => write!(f, "a toleration of taint {taint}"),
            Change::AnyNode => f.write_str("no node selector and no node affinity"),
            Change::AnyModel => f.write_str("any model of GPU accepted"),
            Change::AnyNeighbour => f.write_str("no required pod affinity, anti-affinity or topology spread"),
            Change::AnyArea => f.write_str("the required topology as a preferred one"),
            Change::NoGates => f.write_str("no scheduling gates"),
        }
    }
}

impl Change {
    /// The change as facts. Without any, it changes nothing here.
    pub(super) fn events(&self, case: Case<'_>, subject: &Subject<'_>) -> Vec<Event> {
        let pods = |group: Option<&str>, change: &dyn Fn(&mut Pod)| -> Vec<Event> {
            let of_group = |pod: &&&Pod| group.is_none_or(|group| pod.group == group);
            let changed = subject.pods.iter().filter(of_group).map(|pod| {
                let mut pod = (*pod).clone();
                change(&mut pod);
                Event::Pod(Box::new(pod))
            });
            changed.collect()
        };
        let claim = |change: &dyn Fn(&mut Claim)| -> Vec<Event> {
            let changed = subject.claim.map(|claim| {
                let mut claim = claim.clone();
                change(&mut claim);
                Event::Claim(Box::new(claim))
            });
            changed.into_iter().collect()
        };
        match self {
            Change::Limit {
                queue,
                tier,
                resource,
                more,
            } => changed_queue(case, queue, |queue| {
                let quota = queue.quotas.iter_mut().find(|quota| quota.tier == *tier);
                if let Some(limit) = quota.and_then(|quota| quota.limit.get_mut(resource)) {
                    *limit = limit.saturating_add(*more);
                }
            }),
            Change::LendLimit {
                queue,
                tier,
                resource,
                more,
            } => changed_queue(case, queue, |queue| {
                let quota = queue.quotas.iter_mut().find(|quota| quota.tier == *tier);
                if let Some(limit) = quota.and_then(|quota| quota.lend_limit.get_mut(resource)) {
                    *limit = limit.saturating_add(*more);
                }
            }),
            Change::Queue { queue } => vec![Event::Queue(Box::new(Queue {
                name: queue.clone(),
                weight: 1,
                ..Queue::default()
            }))],
            Change::Namespace { queue, namespace } => {
                changed_queue(case, queue, |queue| queue.namespaces.push(namespace.clone()))
            }
            Change::Nodes { like, count } => {
                let Some(node) = case.facts.nodes.get(like) else {
                    return Vec::new();
                };
                (1..=*count)
                    .map(|number| Event::Node(Box::new(another(node, number))))
                    .collect()
            }
            Change::Reports => {
                let stale = case.facts.nodes.values().filter(|node| node.stale).cloned();
                stale
                    .map(|node| Event::Node(Box::new(Node { stale: false, ..node })))
                    .collect()
            }
            Change::Less { group, resource, less } => {
                let mut events = claim(&|claim| {
                    let of_group = claim.groups.iter_mut().filter(|g| g.name == *group);
                    of_group.for_each(|g| ask_less(&mut g.requests, &mut g.gpus, resource, *less));
                });
                events.extend(pods(Some(group), &|pod| {
                    ask_less(&mut pod.requests, &mut pod.gpus, resource, *less);
                }));
                events
            }
            Change::Fewer { group, min, .. } => claim(&|claim| {
                let of_group = claim.groups.iter_mut().filter(|g| g.name == *group);
                of_group.for_each(|g| g.min = *min);
            }),
            Change::Pods { group, more } => {
                let Some(pod) = subject.pods.iter().find(|pod| pod.group == *group) else {
                    return Vec::new();
                };
                let more = (1..=*more).map(|number| Pod {
                    uid: format!("{}+{number}", pod.uid),
                    name: format!("{}+{number}", pod.name),
                    ..(*pod).clone()
                });
                more.map(|pod| Event::Pod(Box::new(pod))).collect()
            }
            Change::Tolerate { taint } => {
                let (key, effect) = taint.rsplit_once(':').unwrap_or((taint, ""));
                let (key, value) = key.split_once('=').unwrap_or((key, ""));
                pods(None, &|pod| {
                    pod.tolerations.push(Toleration {
                        key: key.to_owned(),
                        exists: false,
                        value: value.to_owned(),
                        effect: effect.to_owned(),
                    });
                })
            }
            Change::AnyNode => {
                let mut events = claim(&|claim| claim.groups.iter_mut().for_each(|g| g.node_terms.clear()));
                events.extend(pods(None, &|pod| pod.node_terms.clear()));
                events
            }
            Change::AnyModel => {
                let any = |gpus: &mut Option<GpuRequest>| {
                    if let Some(gpus) = gpus {
                        gpus.models.clear();
                    }
                };
                let mut events = claim(&|claim| claim.groups.iter_mut().for_each(|g| any(&mut g.gpus)));
                events.extend(pods(None, &|pod| any(&mut pod.gpus)));
                events
            }
            Change::AnyNeighbour => pods(None, &|pod| pod.rules = None),
            Change::AnyArea => claim(&|claim| {
                let groups = claim.groups.iter_mut().filter_map(|group| group.topology.as_mut());
                groups
                    .chain(claim.topology.as_mut())
                    .for_each(|topology| topology.required = false);
            }),
            Change::NoGates => pods(None, &|pod| pod.gated = false),
        }
    }
}

fn changed_queue(case: Case<'_>, name: &str, change: impl Fn(&mut Queue)) -> Vec<Event> {
    let changed = case.facts.queues.get(name).map(|queue| {
        let mut queue = queue.clone();
        change(&mut queue);
        Event::Queue(Box::new(queue))
    });
    changed.into_iter().collect()
}

/// A new node of the class of another: empty, well, and with a name of its own.
fn another(node: &Node, number: u32) -> Node {
    let mut node = node.clone();
    node.name = format!("{}+{number}", node.name);
    if node.labels.contains_key(HOSTNAME) {
        node.labels.insert(HOSTNAME.to_owned(), node.name.clone());
    }
    node.stale = false;
    node.unschedulable = false;
    node.gpus.iter_mut().for_each(|gpu| gpu.unhealthy = false);
    node
}

/// What one pod asks for of a resource; `gpu` in thousandths of devices.
pub(super) fn asked(pod: &Pod, claim: Option<&Claim>, resource: &str) -> i64 {
    if resource != "gpu" {
        return pod.requests.get(resource).copied().unwrap_or_default();
    }
    let of_group = || {
        let group = claim?.groups.iter().find(|group| group.name == pod.group)?;
        group.gpus.as_ref()
    };
    let gpus = pod.gpus.as_ref().or_else(of_group);
    gpus.map_or(0, |gpus| i64::from(gpus.count) * i64::from(gpus.milli))
}

fn ask_less(
    requests: &mut duosuan_scheduler::event::Amounts,
    gpus: &mut Option<GpuRequest>,
    resource: &str,
    less: i64,
) {
    if resource != "gpu" {
        if let Some(amount) = requests.get_mut(resource) {
            *amount = (*amount - less).max(0);
        }
        return;
    }
    let Some(gpus) = gpus else { return };
    if i64::from(gpus.milli) == DEVICE {
        let devices = less / DEVICE;
        gpus.count = u16::try_from(i64::from(gpus.count) - devices).unwrap_or(1).max(1);
        if let Some(amount) = requests.get_mut(PLUGIN_GPU) {
            *amount = i64::from(gpus.count);
        }
    } else {
        gpus.milli = u16::try_from(i64::from(gpus.milli) - less).unwrap_or(1).max(1);
    }
}
