//! Step 1: looks again at each claim that something happened to, and lists it among those that wait, or not.

use std::collections::BTreeSet;

use super::Round;
use crate::{
    decision::Reason,
    event::Time,
    model::{ClaimKey, Model, Place, Standing},
    slab::{ClaimOrd, PodOrd},
};

/// Looks at each claim that something happened to.
pub(super) fn look_again(round: &mut Round<'_>) {
    for claim in std::mem::take(&mut round.model.dirty) {
        if round.model.claims.find(claim).is_none() {
            continue;
        }
        round.model.unpark(claim);
        let was_said = round.model.claims[claim].reported.is_some();
        let waits = judge(round.model, claim, round.now);
        if !waits && was_said {
            round.said.push((claim, None));
        }
        look_at_pods(round, claim);
    }
}

/// Lists a claim in its queue according to how it stands. True if something of it waits.
pub(super) fn judge(model: &mut Model, ord: ClaimOrd, now: Time) -> bool {
    let claim = &model.claims[ord];
    let (mut short, mut more, mut live, mut nominated, mut done, mut unfinished) =
        (false, false, 0_u32, 0_u32, 0_u32, false);
    for group in &claim.groups {
        let (mut have, mut waits) = (group.done_and_gone, false);
        done += group.done_and_gone;
        for standing in group.members.iter().map(|&p| model.standing(p)) {
            have += u32::from(matches!(standing, Standing::Live | Standing::Done));
            live += u32::from(standing == Standing::Live);
            done += u32::from(standing == Standing::Done);
            nominated += u32::from(standing == Standing::Nominated);
            waits |= standing == Standing::Waits;
        }
        short |= have < group.min();
        more |= have < group.max() && waits;
        unfinished |= group.members.iter().any(|&p| !model.pods[p].finished);
    }
    let over = done > 0 && !unfinished;
    // Of a pod without a claim nothing is missing when it leaves.
    let misses = match claim.key {
        ClaimKey::Named(..) => short,
        ClaimKey::Alone(_) => model.members(ord).any(|p| model.pods[p].waits()),
    };
    let pending = claim.known && !over && (misses || more || nominated > 0);
    // A place that is decided mends nothing while binding its pod keeps failing; and what has no pod that is bound has
    // nothing to be released.
    // One whose eviction is ordered still is, until it goes: it may be refused.
    let is_bound = |p: PodOrd| matches!(model.pods[p].place, Place::Bound(_)) && !model.pods[p].terminating;
    let unproven = || matches!(claim.key, ClaimKey::Named(..)) && model.members(ord).any(|p| model.is_unproven(p));
    let is_broken = !claim.loose && (misses || unproven()) && model.members(ord).any(is_bound);
    model.list(ord, pending, live > 0);
    let claim = &model.claims[ord];
    if live == 0 {
        model.claims[ord].started = None;
    } else if claim.known && !short && claim.started.is_none() {
        model.claims[ord].started = Some(started_at(model, ord, now));
        model.claims[ord].no_hold_until = Time::default();
    }
    model.note_end(ord);
    model.note_grown(ord);
    let claim = &mut model.claims[ord];
    claim.short = short;
    if claim.known && is_broken {
        claim.broken_since.get_or_insert(now);
        model.broken.insert(ord);
    } else {
        claim.broken_since = None;
        model.broken.remove(&ord);
    }
    pending
}

/// When a claim came to have its minima, by what its pods tell of their starts; one that tells nothing started now. Who was
/// not there to see it knows it all the same.
fn started_at(model: &Model, ord: ClaimOrd, now: Time) -> Time {
    let mut last: Option<Time> = None;
    let mut first: Option<Time> = None;
    for group in &model.claims[ord].groups {
        let live = group
            .members
            .iter()
            .map(|&p| &model.pods[p])
            .filter(|pod| pod.is_live());
        let mut starts: Vec<Time> = live.map(|pod| pod.started.unwrap_or(now)).collect();
        starts.sort_unstable();
        let missing = model
            .have(group)
            .saturating_sub(u32::try_from(starts.len()).unwrap_or(u32::MAX));
        first = first.into_iter().chain(starts.first().copied()).min();
        // Of a group that needs nobody, nobody is waited for.
        if let Some(needed) = group.min().saturating_sub(missing).checked_sub(1) {
            last = last.max(starts.get(needed as usize).copied());
        }
    }
    last.or(first).map_or(now, |at| at.min(now))
}

/// What is to be said of single pods that can be placed with none of their claim.
fn look_at_pods(round: &mut Round<'_>, ord: ClaimOrd) {
    let model = &mut *round.model;
    let claim = &model.claims[ord];
    let mut about: Vec<(PodOrd, Reason)> = Vec::new();
    if claim.known {
        let strays = claim.strays.iter().filter(|&&p| model.pods[p].waits());
        about.extend(strays.map(|&p| {
            (
                p,
                Reason::NoSuchGroup {
                    group: model.pods[p].group.to_string(),
                },
            )
        }));
        let joined = matches!(claim.key, ClaimKey::Named(..));
        for group in claim.groups.iter().filter(|_| joined) {
            let exceeding = group.members.iter().filter(|&&p| model.pods[p].waits());
            about.extend(exceeding.filter_map(|&p| Some((p, model.pods[p].exceeds.as_deref()?.clone()))));
            let held = group.members.iter().map(|&p| (p, &model.pods[p]));
            let held = held.filter(|(_, pod)| pod.waits() && !pod.gated && pod.exceeds.is_none());
            about.extend(held.filter_map(|(p, pod)| {
                let trouble = pod.trouble.as_ref().filter(|t| t.holds(model.now))?;
                Some((p, trouble.reason(&pod.name)))
            }));
            if group.members.len() > group.max() as usize {
                let tally = model.tally(group);
                let room = group.max().saturating_sub(tally.live + tally.done + tally.nominated) as usize;
                let full = || Reason::GroupFull {
                    group: group.spec.name.clone(),
                    max: group.max(),
                };
                about.extend(tally.waiting.iter().skip(room).map(|&p| (p, full())));
            }
        }
    } else if let ClaimKey::Named(_, name) = &claim.key {
        let waiting = model.members(ord).filter(|&p| model.pods[p].waits());
        about.extend(waiting.map(|p| {
            (
                p,
                Reason::NoSuchClaim {
                    claim: name.to_string(),
                },
            )
        }));
    }
    // A pod without a claim has nothing said of it by itself.
    if about.is_empty() && matches!(claim.key, ClaimKey::Alone(_)) {
        return;
    }
    let named: BTreeSet<PodOrd> = about.iter().map(|(p, _)| *p).collect();
    let others: Vec<PodOrd> = model.members(ord).filter(|p| !named.contains(p)).collect();
    for pod in others {
        model.pods[pod].reported = None;
    }
    for (pod, reason) in about {
        if model.pods[pod].reported.as_deref() != Some(&reason) {
            model.pods[pod].reported = Some(Box::new(reason.clone()));
            round.said_of_pods.push((pod, reason));
        }
    }
}
