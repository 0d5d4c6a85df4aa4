//! What becomes of claims where there is no API server to say it.

use duosuan_scheduler::{ClaimAllocation, Event};

use super::{Devices, Known};
use crate::translate::dra::Claim;

impl Devices {
    /// Where there is no API server: the claims of a pod that was bound have their devices, and it may use them.
    pub fn granted(&mut self, namespace: &str, pod: &str, allocations: &[ClaimAllocation]) -> Vec<Event> {
        let mut events = Vec::new();
        for of in allocations {
            let Some(known) = self.claims.get(&(namespace.to_owned(), of.claim.clone())) else {
                continue;
            };
            let mut claim = known.claim.clone();
            claim.allocation.get_or_insert_with(|| of.allocation.clone());
            claim.reserved.push(pod.to_owned());
            events.extend(self.claim(claim));
        }
        events
    }

    /// Where there is no API server: claims of a pod have given back what they had.
    pub fn taken_back(&mut self, namespace: &str, pod: &str, claims: &[ClaimAllocation]) -> Vec<Event> {
        let mut events = Vec::new();
        for of in claims {
            if let Some(known) = self.claims.get(&(namespace.to_owned(), of.claim.clone())) {
                let mut claim = known.claim.clone();
                claim.reserved.retain(|uid| uid != pod);
                claim.allocation = None;
                events.extend(self.claim(claim));
            }
            events.push(Event::TakenBack {
                namespace: namespace.to_owned(),
                name: of.claim.clone(),
                uid: of.uid.clone(),
            });
        }
        events
    }

    /// Where there is no API server: a pod is gone. Its own claims are gone with it, and claims that nobody uses have nothing
    /// any more.
    pub fn left(&mut self, pod: &str) -> Vec<Event> {
        let concerns = |known: &&Known| {
            known.claim.owner.as_deref() == Some(pod) || known.claim.reserved.iter().any(|uid| uid == pod)
        };
        let claims: Vec<Claim> = self
            .claims
            .values()
            .filter(concerns)
            .map(|known| known.claim.clone())
            .collect();
        let mut events = Vec::new();
        for mut claim in claims {
            if claim.owner.as_deref() == Some(pod) {
                events.push(self.claim_gone((claim.namespace, claim.name)));
                continue;
            }
            claim.reserved.retain(|uid| uid != pod);
            if claim.reserved.is_empty() {
                claim.allocation = None;
            }
            events.extend(self.claim(claim));
        }
        events
    }
}
