//! Step 6: what was placed, what has to go and what has another size becomes decisions.

use super::Round;
use crate::decision::Decision;

/// Binds, gang by gang, then evictions, then devices that are given back, then sizes.
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
                numa: seat.numa,
                allocations: round.model.allocations_of(ord),
                claim: claim.clone(),
            });
            round.model.promise_devices(ord);
            round.model.just_placed.push(ord);
        }
    }
    for (pod, cause, lost) in std::mem::take(&mut round.evicted) {
        let pod = &round.model.pods[pod];
        let claim = pod.claim.map(|claim| &round.model.claims[claim]);
        decisions.push(Decision::Evict {
            pod: pod.uid.to_string(),
            cause,
            lost,
            notice: claim.map_or(0, |claim| claim.interruption.notice),
        });
    }
    for (pod, claims) in std::mem::take(&mut round.taken_back) {
        let pod = round.model.pods[pod].uid.to_string();
        decisions.push(Decision::TakeBack { pod, claims });
    }
    decisions.extend(resized(round));
    decisions
}

/// The sizes of groups that have grown or shrunk, by age of their claims, then UID.
fn resized(round: &mut Round<'_>) -> Vec<Decision> {
    let mut sizes = Vec::new();
    for (claim, group) in std::mem::take(&mut round.resized) {
        let slot = &round.model.claims[claim];
        let Some(of) = slot.groups.iter().find(|g| *g.spec.name == *group) else {
            continue;
        };
        let count = round.model.tally(of).live;
        let resize = Decision::Resize {
            claim: slot.uid.to_string(),
            group: group.to_string(),
            count,
        };
        sizes.push((slot.created, slot.uid.clone(), group, resize));
    }
    sizes.sort_by(|a, b| (&a.0, &a.1, &a.2).cmp(&(&b.0, &b.1, &b.2)));
    sizes.into_iter().map(|(.., resize)| resize).collect()
}
