//! What the index keeps of Kubernetes' own pod groups.

use duosuan_scheduler::Event;

use super::Index;
use crate::translate::pod_group;

/// A pod group of Kubernetes' own.
#[derive(Clone, Debug)]
pub struct PodGroupEntry {
    /// UID.
    pub uid: String,
    /// The version in which it was read, and is written.
    pub version: &'static str,
    /// `metadata.generation`.
    pub generation: i64,
    /// Pods that it needs to be scheduled; at least 1.
    pub min: u32,
    /// What its condition says: whether it was scheduled, and why or why not.
    pub says: Option<(bool, String)>,
}

impl Index {
    /// Takes in a pod group: to the core it is a claim.
    pub(super) fn pod_group(&mut self, read: pod_group::PodGroup, events: &mut Vec<Event>) {
        let pod_group::PodGroup {
            claim,
            version,
            generation,
            says,
        } = read;
        let name = (claim.namespace.clone(), claim.name.clone());
        let entry = PodGroupEntry {
            uid: claim.uid.clone(),
            version,
            generation,
            min: claim.groups.iter().map(|g| g.min).sum::<u32>().max(1),
            says,
        };
        self.pod_groups.insert(name.clone(), entry);
        self.claim_names.insert(claim.uid.clone(), name.clone());
        self.changed_claims.insert(name);
        events.push(Event::Claim(Box::new(claim)));
    }
}
