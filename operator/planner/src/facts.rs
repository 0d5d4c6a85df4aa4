//! The latest word on every object: what was told to a core, kept to be told again with a change.

use std::collections::BTreeMap;

use duosuan_scheduler::{
    Event,
    event::{Claim, Node, Pod, Queue},
};

/// Objects as they were last told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Nodes, by name.
    pub nodes: BTreeMap<String, Node>,
    /// Pods, by UID.
    pub pods: BTreeMap<String, Pod>,
    /// Claims, by UID.
    pub claims: BTreeMap<String, Claim>,
    /// Queues, by name.
    pub queues: BTreeMap<String, Queue>,
}

impl Facts {
    /// Takes in a fact.
    pub fn take(&mut self, event: &Event) {
        match event {
            Event::Node(node) => drop(self.nodes.insert(node.name.clone(), (**node).clone())),
            Event::NodeGone(name) => drop(self.nodes.remove(name)),
            Event::Pod(pod) => drop(self.pods.insert(pod.uid.clone(), (**pod).clone())),
            Event::PodGone(uid) => drop(self.pods.remove(uid)),
            Event::Claim(claim) => drop(self.claims.insert(claim.uid.clone(), (**claim).clone())),
            Event::ClaimGone(uid) => drop(self.claims.remove(uid)),
            Event::Queue(queue) => drop(self.queues.insert(queue.name.clone(), (**queue).clone())),
            Event::QueueGone(name) => drop(self.queues.remove(name)),
            // They say how an order went, and nothing of an object.
            _ => {}
        }
    }

    /// The claim of a namespace and name.
    #[must_use]
    pub fn claim_named(&self, namespace: &str, name: &str) -> Option<&Claim> {
        self.claims
            .values()
            .find(|c| c.namespace == namespace && c.name == name)
    }

    /// The pod of a namespace and name; of several (one that ended and its successor), the youngest.
    #[must_use]
    pub fn pod_named(&self, namespace: &str, name: &str) -> Option<&Pod> {
        let named = self
            .pods
            .values()
            .filter(|p| p.namespace == namespace && p.name == name);
        named.max_by(|a, b| (a.created, &a.uid).cmp(&(b.created, &b.uid)))
    }

    /// The pods that join a claim, by age and UID.
    #[must_use]
    pub fn members(&self, claim: &Claim) -> Vec<&Pod> {
        let joins = |p: &&Pod| p.ours && p.namespace == claim.namespace && p.claim.as_ref() == Some(&claim.name);
        let mut members: Vec<&Pod> = self.pods.values().filter(joins).collect();
        members.sort_by(|a, b| (a.created, &a.uid).cmp(&(b.created, &b.uid)));
        members
    }
}
