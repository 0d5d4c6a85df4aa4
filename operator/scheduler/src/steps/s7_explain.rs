//! Step 7: says of what waits why it does, once per change, and of what waits no more that it is placed.

use std::borrow::Cow;

use super::{Round, Waits, s3_place::NoPlace, s7_topology};
use crate::{
    decision::{Decision, Reason},
    event::Time,
    fit::Constraint,
    index::Look,
    reason,
    slab::ClaimOrd,
};

/// Appends what is to be said, by age and UID.
pub(super) fn explain(round: &mut Round<'_>, decisions: &mut Vec<Decision>) {
    let mut words: Vec<(Time, Decision)> = Vec::new();
    for (pod, reason) in std::mem::take(&mut round.said_of_pods) {
        let pod = &round.model.pods[pod];
        let said = Decision::Pending {
            claim: pod.uid.to_string(),
            reason,
            counterfactual: None,
        };
        words.push((pod.created, said));
    }
    let mut said = std::mem::take(&mut round.said);
    said.sort_by_key(|(claim, _)| *claim);
    said.dedup_by(|later, before| {
        let again = later.0 == before.0;
        if again {
            std::mem::swap(later, before);
        }
        again
    });
    for (ord, waits) in said {
        let claim = &mut round.model.claims[ord];
        let uid = || claim.uid.to_string();
        match waits {
            Some(Waits { reason, counterfactual }) => {
                // A refusal by the nodes is not what was said last, even if it was found again in this cycle.
                if !matches!(reason, Reason::NoNodeFits { .. } | Reason::StaleReports { .. }) {
                    claim.blocked_by = None;
                }
                if claim
                    .reported
                    .as_deref()
                    .is_some_and(|told| told.is_the_same_as(&reason))
                {
                    continue;
                }
                words.push((
                    claim.created,
                    Decision::Pending {
                        claim: uid(),
                        reason: reason.clone(),
                        counterfactual,
                    },
                ));
                claim.reported = Some(Box::new(reason));
            }
            None => {
                claim.blocked_by = None;
                if claim.reported.take().is_some() {
                    words.push((
                        claim.created,
                        Decision::Placed {
                            claim: claim.uid.to_string(),
                        },
                    ));
                }
            }
        }
    }
    words.sort_by(|a, b| (a.0, about(&a.1)).cmp(&(b.0, about(&b.1))));
    decisions.extend(words.into_iter().map(|(_, said)| said));
}

fn about(decision: &Decision) -> &str {
    match decision {
        Decision::Pending { claim, .. } | Decision::Placed { claim } => claim,
        _ => "",
    }
}

/// Says that pods found no place together. Costs next to nothing where that was said before.
pub(super) fn say_no_place(round: &mut Round<'_>, claim: ClaimOrd, no_place: &NoPlace) {
    if let Some(reason) = &no_place.topology {
        round.say(claim, (**reason).clone(), s7_topology::counterfactual(reason));
        return;
    }
    let Some(first) = round.index.first_against(round.model, round.policy, no_place.look) else {
        let reason = Reason::NoNodeFits {
            constraint: "no node".into(),
            placed: no_place.placed,
            need: no_place.need,
            nodes: Vec::new(),
        };
        round.say(
            claim,
            reason,
            Some("it would be tried when the cluster has a node".into()),
        );
        return;
    };
    let by = Some((first, no_place.placed));
    if round.model.claims[claim].blocked_by == by {
        return;
    }
    round.model.claims[claim].blocked_by = by;
    let against = round.index.against(round.model, round.policy, no_place.look);
    let stale = against
        .iter()
        .find(|(c, _)| *c == Constraint::Stale)
        .map(|(_, nodes)| *nodes);
    if let Some(nodes) = stale {
        let change = "it would be placed as soon as these nodes' agents report again";
        round.say(claim, Reason::StaleReports { nodes }, Some(change.into()));
        return;
    }
    let nodes: Vec<(String, u32)> = against.iter().map(|&(c, n)| (round.model.word(c), n)).collect();
    let constraint = round.model.word(first);
    // For a gang, one change of one node lets in one more pod, and no more is promised.
    let subject = if no_place.need.saturating_sub(no_place.placed) > 1 {
        "one more of its pods"
    } else {
        "it"
    };
    let hot = against
        .iter()
        .find(|(c, _)| *c == Constraint::Hot)
        .map(|(_, nodes)| *nodes);
    let change = match hot {
        Some(nodes) => Some(format!(
            "{subject} would fit as soon as the load of one of {nodes} nodes falls below the line of its policy"
        )),
        None => nearest(round, no_place.look).map(|change| format!("{subject} would fit if {change}")),
    };
    let reason = Reason::NoNodeFits {
        constraint,
        placed: no_place.placed,
        need: no_place.need,
        nodes,
    };
    round.say(claim, reason, change);
}

/// The next refusal by the nodes is news again.
pub(super) fn forget_block(round: &mut Round<'_>, claim: ClaimOrd) {
    round.model.claims[claim].blocked_by = None;
}

/// The smallest single change of one node that would let one pod of a shape in, if one resource is all that lacks. All nodes
/// are looked at, so that it is found once for all who look alike, until a node changes.
fn nearest(round: &mut Round<'_>, look: Look) -> Option<String> {
    let clock = round.model.changes.clock();
    if let Some((_, words)) = round.nearest.get(&look).filter(|(found_at, _)| *found_at == clock) {
        return words.clone();
    }
    let words = find_nearest(round, look);
    round.nearest.insert(look, (clock, words.clone()));
    words
}

fn find_nearest(round: &mut Round<'_>, look: Look) -> Option<String> {
    let (model, index, policy) = (&*round.model, &mut *round.index, round.policy);
    let shape = model.shapes.value(look.shape);
    let mut best: Option<(i128, u64, String)> = None;
    for (ord, node) in model.nodes.iter().filter(|(_, n)| n.present && !n.hot) {
        index.work.changes_tried += 1;
        let refused = model.fits_ever(shape, node).is_err()
            || node.port_conflict(&shape.ports)
            || index.related(model, policy, look, ord).is_err();
        if refused {
            continue;
        }
        let takes = node.takes(shape);
        let mut lacking = takes.iter().filter_map(|&(resource, amount)| {
            let lack = node.used.of(resource) + amount - node.allocatable.of(resource);
            (lack.get() > 0).then_some((resource, lack.get(), node.allocatable.of(resource).get()))
        });
        let first = lacking.next();
        let claimed = || model.devices_missing(shape, node);
        let (lack, size, name) = match (first, lacking.next(), &shape.gpus) {
            (Some((resource, lack, all)), None, None) if shape.claims.is_empty() => {
                (lack, all, Cow::Borrowed(model.resources.name(resource)))
            }
            (None, None, Some(need)) if need.whole() && shape.claims.is_empty() => {
                let all = i64::try_from(node.devices.len()).unwrap_or(i64::MAX);
                (i64::from(need.count) - node.whole_devices(), all, "GPU".into())
            }
            (None, None, None) => match claimed() {
                Some((request, count, lack)) => (lack, count, format!("device for request {request}").into()),
                None => continue,
            },
            _ => continue,
        };
        // In thousandths of what the node has, so that cores and bytes compare.
        let part = i128::from(lack) * 1000 / i128::from(size.max(1));
        if lack > 0 && best.as_ref().is_none_or(|b| (part, node.rank) < (b.0, b.1)) {
            let more = reason::amount(&name, lack);
            best = Some((part, node.rank, format!("{more} more were free on node {}", node.name)));
        }
    }
    best.map(|(_, _, words)| words)
}

/// What would change a refusal by a queue.
pub(super) fn counterfactual_of_queue(reason: &Reason) -> Option<String> {
    match reason {
        Reason::NoSuchQueue { queue } => Some(format!("create queue {queue}, or name one that exists")),
        Reason::NoSuchParentQueue { queue, parent } => Some(format!(
            "create queue {parent}, or give queue {queue} a parent that exists"
        )),
        Reason::QueueCycle { circle, .. } => Some(format!(
            "give one of the queues {} another parent, or none",
            circle.join(", ")
        )),
        Reason::NamespaceNotAllowed { queue, namespace } => Some(format!(
            "add namespace {namespace} to queue {queue}, or name another queue"
        )),
        Reason::ExceedsLimit {
            queue,
            resource,
            asked,
            limit,
        } => {
            let more = reason::amount(resource, asked - limit);
            Some(format!("raise the limit of queue {queue} by {more}, or ask for less"))
        }
        Reason::WaitingForQuota {
            queue,
            resource,
            asked,
            left,
        } => {
            let more = reason::amount(resource, asked - left);
            Some(format!(
                "raise the limit of queue {queue} by {more}, or wait until it uses that much less"
            ))
        }
        Reason::KeptForOthers {
            queue,
            resource,
            asked,
            free,
            kept,
        } => {
            let more = reason::amount(resource, asked.saturating_add(*kept).saturating_sub(*free));
            Some(format!(
                "raise the lendLimit of queue {queue} by {more}, or wait until that much more is free"
            ))
        }
        _ => None,
    }
}
