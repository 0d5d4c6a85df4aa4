//! Step 6: what was placed and what has to go becomes decisions.

use super::Round;
use crate::decision::Decision;

/// Binds, gang by gang, then evictions.
pub(super) fn commit(round: &mut Round<'_>) -> Vec<Decision> {
    let mut decisions = Vec::with_capacity(round.admitted.len() + round.evicted.len());
    for (claim, pods) in std::mem::take(&mut round.admitted) {
        let claim = &round.model.claims[claim];
        let claim = match claim.key {
            crate::model::ClaimKey::Named(..) => Some(claim.uid.to_string()),
            crate::model::ClaimKey::Alone(_) => None,
        };
        for ord in pods {
            let pod = &round.model.pods[ord];
            let Some(seat) = pod.place.seat() else { continue };
            decisions.push(Decision::Bind {
                pod: pod.uid.to_string(),
                node: round.model.nodes[seat.node].name.to_string(),
                devices: seat.devices.to_vec(),
                claim: claim.clone(),
            });
            round.model.just_placed.push(ord);
        }
    }
    for (pod, cause) in std::mem::take(&mut round.evicted) {
        decisions.push(Decision::Evict {
            pod: round.model.pods[pod].uid.to_string(),
            cause,
        });
    }
    decisions
}
