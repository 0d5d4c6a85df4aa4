//! What the core says of claims and pods, until it says something else: why they wait, when they are expected to start, and
//! that they were evicted.

use duosuan_scheduler::Time;

use super::{Index, Namespaced, PodEntry};

/// Why a claim, or a pod without one, waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Name of the reason.
    pub reason: &'static str,
    /// The sentence.
    pub message: String,
}

/// That a claim was evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// Why, as its status says it.
    pub note: String,
    /// How many of its pods that was ordered for and not refused.
    pub pods: u32,
}

impl Index {
    /// Notes why the claim of a pod is evicted.
    pub fn set_evicted(&mut self, pod: &str, note: String) {
        let Some((name, uid)) = self.claim_of(pod) else { return };
        let pods = self.evicted.get(&uid).map_or(0, |evicted| evicted.pods);
        let pods = pods.saturating_add(1);
        self.evicted.insert(uid, Evicted { note, pods });
        self.changed_claims.insert(name);
    }

    /// A pod was to be evicted and stays. Its claim was not evicted if all that were to go stay.
    pub fn set_not_evicted(&mut self, pod: &str) {
        let Some((name, uid)) = self.claim_of(pod) else { return };
        let Some(evicted) = self.evicted.get_mut(&uid) else {
            return;
        };
        evicted.pods = evicted.pods.saturating_sub(1);
        if evicted.pods == 0 {
            self.evicted.remove(&uid);
            self.changed_claims.insert(name);
        }
    }

    /// Name and UID of the claim of a pod.
    fn claim_of(&self, pod: &str) -> Option<(Namespaced, String)> {
        let pod = self.pods.get(pod)?;
        let name = (pod.namespace.clone(), pod.claim.clone()?);
        let uid = self.claims.get(&name)?.uid.clone();
        Some((name, uid))
    }

    /// Notes why a claim, or a pod without one, waits; `None` if it does so no more.
    pub fn set_waiting(&mut self, uid: &str, waiting: Option<Waiting>) {
        match waiting {
            Some(waiting) => drop(self.waiting.insert(uid.to_owned(), waiting)),
            None => self.forget(uid),
        }
        self.touch(uid);
    }

    /// Notes that it is not known whether a pod is bound; `None` if it is.
    pub fn set_unsure(&mut self, uid: &str, waiting: Option<Waiting>) {
        let changed = match waiting {
            Some(waiting) => self.unsure.insert(uid.to_owned(), waiting.clone()).as_ref() != Some(&waiting),
            None => self.unsure.remove(uid).is_some(),
        };
        if changed && let Some(pod) = self.pods.get(uid) {
            let claim = pod.claim.clone().map(|claim| (pod.namespace.clone(), claim));
            self.changed_claims.extend(claim);
            self.changed_pods.insert(uid.to_owned());
        }
    }

    /// Notes when a claim, or a pod without one, is expected to start; `None` if that is not known any more.
    pub fn set_estimate(&mut self, uid: &str, start: Option<Time>) {
        match start {
            Some(start) => drop(self.estimates.insert(uid.to_owned(), start)),
            None => drop(self.estimates.remove(uid)),
        }
        self.touch(uid);
    }

    /// Why a pod waits: for its own reason, or for that of its claim.
    pub fn why(&self, uid: &str, pod: &PodEntry) -> Option<&Waiting> {
        let of_claim = || {
            let name = (pod.namespace.clone(), pod.claim.clone()?);
            let claim = self.claims.get(&name).map(|claim| &claim.uid);
            self.waiting
                .get(claim.or_else(|| self.pod_groups.get(&name).map(|group| &group.uid))?)
        };
        self.unsure.get(uid).or_else(|| self.waiting.get(uid)).or_else(of_claim)
    }
}
