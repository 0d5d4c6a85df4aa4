//! What the edge keeps of the cluster beside the core: names for requests, what the objects say of themselves, and
//! what has to be said anew. Pure: facts in, events for the core out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use duosuan_crds::{CapacityClaimStatus, ColocationPolicyStatus, QueueStatus};
use duosuan_scheduler::{Event, Time, event};

use crate::{
    binder::PodName,
    devices::Devices,
    lean::{self, Kind},
    nodes::Nodes,
    translate::{
        claim,
        pod::{self, Nomination},
        policy, queue,
    },
    volumes::Volumes,
    watch::Fact,
};

mod devices;
mod pod_groups;
mod storage;
mod words;

pub use pod_groups::PodGroupEntry;
pub use words::{Evicted, Waiting};

/// Namespace and name.
pub type Namespaced = (String, String);

/// A pod of this scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEntry {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Name of its claim.
    pub claim: Option<String>,
    /// Group of that claim.
    pub group: String,
    /// Queue of a pod without a claim.
    pub queue: String,
    /// It has a node.
    pub bound: bool,
    /// It has ended.
    pub finished: bool,
    /// It is being deleted.
    pub terminating: bool,
    /// It has scheduling gates of its own.
    pub gated: bool,
    /// What its condition says of why it waits.
    pub says: Option<String>,
    /// Node that its status names as the one where room is being made for it.
    pub nominated: Option<Nomination>,
    /// Field that cannot be understood.
    pub broken: Option<String>,
}

impl PodEntry {
    /// It waits for a node.
    pub fn waits(&self) -> bool {
        !self.bound && !self.finished && !self.terminating
    }
}

/// A claim.
#[derive(Clone, Debug)]
pub struct ClaimEntry {
    /// UID.
    pub uid: String,
    /// Queue.
    pub queue: String,
    /// Groups: name, pods at least, pods at most.
    pub groups: Vec<(String, u32, u32)>,
    /// `metadata.generation`.
    pub generation: i64,
    /// Status as the API server has it; `None` if it cannot be understood.
    pub says: Option<CapacityClaimStatus>,
    /// Field that cannot be understood, or cannot be honoured.
    pub broken: Option<String>,
    /// Fields that nothing is done about yet.
    pub ignored: Vec<&'static str>,
    /// An annotation that cannot be understood.
    pub misread: Option<String>,
}

/// A queue.
#[derive(Clone, Debug)]
pub struct QueueEntry {
    /// Limits and guarantees.
    pub quotas: Vec<event::Quota>,
    /// Status as the API server has it.
    pub says: Option<QueueStatus>,
    /// `metadata.generation`.
    pub generation: i64,
}

/// A policy.
#[derive(Clone, Debug)]
pub struct PolicyEntry {
    /// Status as the API server has it.
    pub says: Option<ColocationPolicyStatus>,
    /// `metadata.generation`.
    pub generation: i64,
    /// Its kill switch is thrown.
    pub suspended: bool,
    /// Fields that nothing is done about yet.
    pub ignored: Vec<&'static str>,
}

/// Everything that the edge keeps.
#[derive(Debug, Default)]
pub struct Index {
    /// Pods of this scheduler, by UID.
    pub pods: HashMap<String, PodEntry>,
    /// UIDs of pods by the claim that they name.
    pub members: HashMap<Namespaced, BTreeSet<String>>,
    /// Claims.
    pub claims: BTreeMap<Namespaced, ClaimEntry>,
    /// Pod groups, by what they are called where claims are named.
    pub pod_groups: BTreeMap<Namespaced, PodGroupEntry>,
    claim_names: HashMap<String, Namespaced>,
    /// Queues, by name.
    pub queues: BTreeMap<String, QueueEntry>,
    /// Policies, by name.
    pub policies: BTreeMap<String, PolicyEntry>,
    /// Nodes and their reports.
    pub nodes: Nodes,
    /// Persistent volumes, and who uses them.
    pub volumes: Volumes,
    /// Devices that are claimed, and the claims.
    pub devices: Devices,
    /// Why what waits waits, by UID of the claim or pod.
    pub waiting: HashMap<String, Waiting>,
    /// Pods, by UID, of which it is not known whether they are bound, and what is said of that.
    pub unsure: HashMap<String, Waiting>,
    /// Pods, by UID, whose status names a node where room is being made, by the word of an operator of ours: this one,
    /// or one that died since.
    pub nominated: BTreeSet<String>,
    /// When what waits is expected to start, by UID of the claim or pod.
    pub estimates: HashMap<String, Time>,
    /// Why claims were evicted that are not placed again, by UID.
    pub evicted: HashMap<String, Evicted>,
    /// Claims of which something changed that their status says.
    pub changed_claims: BTreeSet<Namespaced>,
    /// Pods of which something changed that their condition says.
    pub changed_pods: BTreeSet<String>,
}

impl Index {
    /// Takes in a fact; what the core has to know of it goes to `events`.
    pub fn apply(&mut self, fact: Fact, now: Time, events: &mut Vec<Event>) {
        match fact {
            Fact::Pod(pod) => self.pod(*pod, events),
            Fact::PodGone(uid) => {
                self.remove_pod(&uid);
                self.forget(&uid);
                self.unsure.remove(&uid);
                let others = self.volumes.left(&uid);
                events.push(Event::PodGone(uid));
                self.seen_anew(others, events);
            }
            Fact::Claim(claim) => self.claim(*claim, events),
            Fact::PodGroup(group) => self.pod_group(*group, events),
            Fact::ClaimGone(uid) | Fact::PodGroupGone(uid) => {
                if let Some(name) = self.claim_names.remove(&uid) {
                    if self.claims.get(&name).is_some_and(|c| c.uid == uid) {
                        self.claims.remove(&name);
                    }
                    if self.pod_groups.get(&name).is_some_and(|g| g.uid == uid) {
                        self.pod_groups.remove(&name);
                    }
                    self.touch_members(&name);
                }
                self.forget(&uid);
                events.push(Event::ClaimGone(uid));
            }
            Fact::Queue(queue) => {
                let queue::Queue {
                    queue,
                    status,
                    generation,
                } = *queue;
                let entry = QueueEntry {
                    quotas: queue.quotas.clone(),
                    says: status,
                    generation,
                };
                let was = self.queues.insert(queue.name.clone(), entry);
                if was.is_none_or(|was| was.generation != generation) {
                    self.touch_claims();
                }
                events.push(Event::Queue(Box::new(queue)));
            }
            Fact::QueueGone(name) => {
                if self.queues.remove(&name).is_some() {
                    self.touch_claims();
                }
                events.push(Event::QueueGone(name));
            }
            Fact::Policy(name, policy) => {
                let policy::Policy {
                    rules,
                    status,
                    generation,
                    suspended,
                    ignored,
                } = *policy;
                let entry = PolicyEntry {
                    says: status,
                    generation,
                    suspended,
                    ignored,
                };
                self.policies.insert(name.clone(), entry);
                self.nodes.policy(name, Some(rules));
            }
            Fact::PolicyGone(name) => {
                self.policies.remove(&name);
                self.nodes.policy(name, None);
            }
            Fact::Namespace(namespace) => events.push(Event::Namespace(namespace)),
            Fact::NamespaceGone(name) => events.push(Event::NamespaceGone(name)),
            Fact::Node(mut node) => {
                node.allocatable.extend(self.volumes.limits(&node.name));
                events.extend(self.nodes.node(*node, now));
            }
            Fact::VolumeClaim(_)
            | Fact::VolumeClaimGone(_)
            | Fact::Volume(_)
            | Fact::VolumeGone(_)
            | Fact::StorageClass(_)
            | Fact::StorageClassGone(_)
            | Fact::Attachable(_)
            | Fact::AttachableGone(_) => self.storage(fact, now, events),
            Fact::ResourceSlice(_)
            | Fact::ResourceSliceGone(_)
            | Fact::DeviceClass(_)
            | Fact::DeviceClassGone(_)
            | Fact::ResourceClaim(_)
            | Fact::ResourceClaimGone(_) => self.device_fact(fact, events),
            Fact::NodeGone(name) => {
                self.nodes.gone(&name);
                events.push(Event::NodeGone(name));
            }
            Fact::Report(name, report) => events.extend(self.nodes.report(name, Some(*report), now)),
            Fact::ReportGone(name) => events.extend(self.nodes.report(name, None, now)),
            Fact::Synced { kind, served } => {
                if kind == "NodeReport" {
                    events.extend(self.nodes.reports_served(served, now));
                }
                if kind == lean::ResourceClaim::KIND {
                    events.push(Event::DeviceClaimsServed(served));
                }
            }
        }
    }

    fn pod(&mut self, read: pod::Pod, events: &mut Vec<Event>) {
        let pod::Pod {
            mut pod,
            volume_claims,
            unschedulable,
            nominated,
            broken,
            ..
        } = read;
        if pod.node.is_some() {
            self.unsure.remove(&pod.uid);
        }
        let known = self.pods.get(&pod.uid);
        // A pod never loses its node: this is an answer from before it was bound.
        if pod.node.is_none() && known.is_some_and(|k| k.bound) {
            return;
        }
        if pod.ours {
            let broken = broken.first().map(ToString::to_string);
            let entry = PodEntry {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                claim: pod.claim.clone(),
                group: pod.group.clone(),
                queue: pod.queue.clone(),
                bound: pod.node.is_some(),
                finished: pod.finished,
                terminating: pod.terminating,
                gated: pod.gated,
                says: unschedulable,
                nominated,
                broken: broken.clone(),
            };
            // What cannot be understood is not placed.
            pod.refused = broken;
            self.put_pod(pod.uid.clone(), entry);
        }
        let (namespace, uid) = (pod.namespace.clone(), pod.uid.clone());
        let pod = self.volumes.pod(pod, &volume_claims);
        self.seen_anew(vec![pod], events);
        if !volume_claims.is_empty() {
            // Some volumes are for one pod alone: another may have waited for this one.
            let others = self.volumes.others(&volume_claims, &namespace, &uid);
            self.seen_anew(others, events);
        }
    }

    fn put_pod(&mut self, uid: String, entry: PodEntry) {
        if self.pods.get(&uid) == Some(&entry) {
            return;
        }
        self.remove_pod(&uid);
        if entry.nominated.as_ref().is_some_and(|n| n.ours) && !entry.finished {
            self.nominated.insert(uid.clone());
        }
        if let Some(claim) = &entry.claim {
            let name = (entry.namespace.clone(), claim.clone());
            self.members.entry(name.clone()).or_default().insert(uid.clone());
            self.changed_claims.insert(name);
        }
        if entry.waits() {
            self.changed_pods.insert(uid.clone());
        }
        self.pods.insert(uid, entry);
    }

    fn remove_pod(&mut self, uid: &str) {
        self.nominated.remove(uid);
        let Some(entry) = self.pods.remove(uid) else { return };
        let Some(claim) = entry.claim else { return };
        let name = (entry.namespace, claim);
        if let Some(members) = self.members.get_mut(&name) {
            members.remove(uid);
            if members.is_empty() {
                self.members.remove(&name);
            }
        }
        self.changed_claims.insert(name);
    }

    fn claim(&mut self, read: claim::Claim, events: &mut Vec<Event>) {
        let claim::Claim {
            claim,
            generation,
            status,
            broken,
            ignored,
            misread,
        } = read;
        let name = (claim.namespace.clone(), claim.name.clone());
        let entry = ClaimEntry {
            uid: claim.uid.clone(),
            queue: claim.queue.clone(),
            groups: claim.groups.iter().map(|g| (g.name.clone(), g.min, g.max)).collect(),
            generation,
            says: status,
            broken: broken.map(|e| e.to_string()),
            ignored,
            misread: misread.map(|e| e.to_string()),
        };
        if let Some(error) = &entry.broken {
            tracing::warn!(
                namespace = name.0,
                claim = name.1,
                error,
                "a claim cannot be understood and waits"
            );
        }
        self.claims.insert(name.clone(), entry);
        self.claim_names.insert(claim.uid.clone(), name.clone());
        self.changed_claims.insert(name);
        events.push(Event::Claim(Box::new(claim)));
    }

    fn forget(&mut self, uid: &str) {
        self.waiting.remove(uid);
        self.estimates.remove(uid);
        self.evicted.remove(uid);
    }

    /// The names of a pod of this scheduler.
    pub fn pod_name(&self, uid: &str) -> Option<PodName> {
        let entry = self.pods.get(uid)?;
        Some(PodName {
            uid: uid.to_owned(),
            namespace: entry.namespace.clone(),
            name: entry.name.clone(),
        })
    }

    /// Namespace and name of a claim.
    pub fn claim_name(&self, uid: &str) -> Option<&Namespaced> {
        self.claim_names.get(uid)
    }

    fn touch(&mut self, uid: &str) {
        match self.claim_names.get(uid).cloned() {
            Some(name) => {
                self.touch_members(&name);
                self.changed_claims.insert(name);
            }
            None => drop(self.changed_pods.insert(uid.to_owned())),
        }
    }

    fn touch_members(&mut self, name: &Namespaced) {
        self.changed_pods
            .extend(self.members.get(name).into_iter().flatten().cloned());
    }

    /// Whether a claim's queue is there and can be used, claims say themselves; and the queues above it matter as well.
    fn touch_claims(&mut self) {
        self.changed_claims.extend(self.claims.keys().cloned());
    }

    /// Marks everything as changed, so that all of it is compared with what the objects say.
    pub fn touch_all(&mut self) {
        self.changed_claims = self.claims.keys().chain(self.pod_groups.keys()).cloned().collect();
        self.changed_pods = self
            .pods
            .iter()
            .filter(|(_, p)| p.waits())
            .map(|(uid, _)| uid.clone())
            .collect();
    }
}
