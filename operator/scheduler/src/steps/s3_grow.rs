//! Step 3, for elastic claims, when all minima had their turn and evictions are ordered: what is still free goes to those who
//! may grow, one quantum at a time, to whoever holds the smaller share. Nobody goes for it.

use super::{Round, s1_heads, s2_order::Order, s3_place};
use crate::{
    model::Model,
    slab::{ClaimOrd, PodOrd},
};

/// Lets those grow who can.
pub(super) fn grow(round: &mut Round<'_>) {
    let growing = std::mem::take(&mut round.growing);
    if growing.is_empty() {
        return;
    }
    for &claim in &growing {
        s1_heads::judge(round.model, claim, round.now);
    }
    let mut order = Order::of_growing(round.model, growing);
    while let Some(claim) = order.next(round) {
        if grow_once(round, claim) {
            if could_grow(round.model, claim) {
                order.keep(round.model, claim);
                continue;
            }
            s3_place::settle(round, claim);
        } else {
            s1_heads::judge(round.model, claim, round.now);
            round.model.park(claim);
        }
    }
}

/// True if a claim has its minimum and pods for one more quantum.
pub(super) fn could_grow(model: &Model, claim: ClaimOrd) -> bool {
    (0..model.claims[claim].groups.len()).any(|index| next_quantum(model, claim, index).is_some())
}

/// Places the next quantum of a claim: of the first of its groups that has room for one. False, and said why, if there is none.
fn grow_once(round: &mut Round<'_>, claim: ClaimOrd) -> bool {
    for index in 0..round.model.claims[claim].groups.len() {
        let Some(pods) = next_quantum(round.model, claim, index) else {
            continue;
        };
        let group = pods.first().map(|&pod| round.model.pods[pod].group.clone());
        if !s3_place::place_or_say(round, claim, pods, false) {
            round.resized.extend(group.map(|group| (claim, group)));
            return true;
        }
    }
    false
}

/// The pods of the next step of a group, if there are enough of them.
fn next_quantum(model: &Model, claim: ClaimOrd, index: usize) -> Option<Vec<PodOrd>> {
    let group = model.claims[claim].groups.get(index)?;
    if group.min() == group.max() {
        return None;
    }
    let mut tally = model.tally(group);
    let step = group.step_up(tally.live + tally.done)? as usize;
    if tally.waiting.len() < step {
        return None;
    }
    tally.waiting.truncate(step);
    Some(tally.waiting)
}
