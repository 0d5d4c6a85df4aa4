//! Step 5, of devices: a claim that has devices where no node takes its pod gives them back, if nobody else uses it, so that
//! it can have others. kube-scheduler does so after its filters.

use std::collections::BTreeSet;

use super::{Round, s1_heads, s3_grow, s3_place};
use crate::{fit::Constraint, index::Look, model::ClaimNeed, slab::PodOrd};

/// Notes whom a refusal by all nodes is about, if devices of a claim of its own are a reason for it.
pub(super) fn note_stuck(round: &mut Round<'_>, look: Look) {
    let model = &*round.model;
    let claims = &model.shapes.value(look.shape).claims;
    let mut pods = claims.iter().filter_map(|need| match need {
        ClaimNeed::Own(_) => None,
        ClaimNeed::This(claim) => model.sole_user(*claim, look.shape),
    });
    let Some(pod) = pods.next() else { return };
    let against = round.index.against(model, round.policy, look);
    if against.iter().any(|(c, _)| *c == Constraint::ClaimElsewhere) {
        round.stuck.push(pod);
    }
}

/// Has the claims of those give back what they have who were stuck and have no place now, either.
pub(super) fn take_back(round: &mut Round<'_>) {
    let mut others = BTreeSet::new();
    for pod in std::mem::take(&mut round.stuck) {
        if !round.model.pods[pod].waits() {
            continue;
        }
        let (claims, users) = round.model.take_back(pod);
        if !claims.is_empty() {
            others.extend(users.iter().filter_map(|&user: &PodOrd| round.model.pods[user].claim));
            round.taken_back.push((pod, claims));
        }
    }
    if others.is_empty() {
        return;
    }
    // What they wait for is said now, and not again by the next cycle.
    s1_heads::look_again(round);
    for claim in others {
        s3_place::place(round, claim);
    }
    s3_grow::grow(round);
}
