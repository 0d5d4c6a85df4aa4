//! What claims, queues, policies and pods say of themselves: decided here, compared with what they say already, and
//! written only if it differs in more than a time. Pure.

use duosuan_crds::{CapacityClaimStatus, claim::Phase, claim::Placed};
use duosuan_scheduler::Cluster;
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use crate::{
    index::{ClaimEntry, Index, Namespaced, PodEntry},
    translate::pod_group,
};

mod policy;

pub use policy::policy;

/// Condition of a claim: each group has at least its minimum of bound pods.
pub const ADMITTED: &str = "Admitted";
/// Condition of a claim, queue or policy, only where it is false: some fields state wishes that nothing is done about yet,
/// or that cannot be understood.
pub const HONOURED: &str = "Honoured";
/// Condition of a queue, only where it is false: its way to the top of the tree is broken.
pub const USABLE: &str = "Usable";
/// Condition of a claim that runs, only where it is false: its queue is gone, broken or not for it.
pub const QUEUE_USABLE: &str = "QueueUsable";
/// Reason of a claim or pod with a field that cannot be understood.
pub const BROKEN: &str = "Invalid";

/// The status that a claim shall have, if it is not what it has.
pub fn claim(index: &Index, cluster: &Cluster, name: &Namespaced, now: Timestamp) -> Option<CapacityClaimStatus> {
    let entry = index.claims.get(name)?;
    let wanted = wanted_claim(index, cluster, name, entry, now);
    let same = entry.says.as_ref().is_some_and(|says| *says == wanted);
    (!same).then_some(wanted)
}

fn wanted_claim(
    index: &Index,
    cluster: &Cluster,
    name: &Namespaced,
    entry: &ClaimEntry,
    now: Timestamp,
) -> CapacityClaimStatus {
    let says = entry.says.clone().unwrap_or_default();
    let pods: Vec<_> = index
        .members
        .get(name)
        .into_iter()
        .flatten()
        .filter_map(|uid| index.pods.get(uid))
        .collect();
    let count = |group: &str, of: &dyn Fn(&PodEntry) -> bool| {
        u32::try_from(pods.iter().filter(|p| p.group == group && of(p)).count()).unwrap_or(u32::MAX)
    };
    let placed: Vec<Placed> = entry
        .groups
        .iter()
        .map(|(group, _, max)| Placed {
            group: group.clone(),
            count: count(group, &|p| p.bound && !p.finished),
            desired: *max,
        })
        .collect();
    // Bound pods by the API server's word, and ended ones by the core's, which remembers those that were cleared away.
    let view = cluster.claim(&entry.uid).unwrap_or_default();
    let ended = |group: &str| view.groups.iter().find(|g| g.name == group).map_or(0, |g| g.finished);
    let whole = !entry.groups.is_empty()
        && entry
            .groups
            .iter()
            .all(|(group, min, _)| count(group, &|p| p.bound && !p.finished).saturating_add(ended(group)) >= *min);
    let all_ended = pods.iter().all(|p| p.finished);
    let phase =
        if all_ended && (says.phase == Phase::Finished || (whole && entry.groups.iter().any(|(g, ..)| ended(g) > 0))) {
            Phase::Finished
        } else if whole && pods.iter().any(|p| p.bound) {
            Phase::Running
        } else {
            Phase::Pending
        };
    let unsure = || index.members.get(name)?.iter().find_map(|uid| index.unsure.get(uid));
    let waiting = index.waiting.get(&entry.uid).or_else(unsure);
    let (reason, message) = match (phase, &entry.broken, waiting) {
        (Phase::Running | Phase::Finished, ..) => (None, None),
        (Phase::Pending, Some(broken), _) => (Some(BROKEN.to_owned()), Some(broken.clone())),
        (Phase::Pending, None, Some(waiting)) => {
            let message = match index.evicted.get(&entry.uid) {
                Some(evicted) => format!("{} ({})", waiting.message, evicted.note),
                None => waiting.message.clone(),
            };
            (Some(waiting.reason.to_owned()), Some(message))
        }
        // Not decided yet; what was said last still stands.
        (Phase::Pending, None, None) => (says.reason.clone(), says.message.clone()),
    };
    let admitted = phase != Phase::Pending;
    let condition = Condition {
        type_: ADMITTED.to_owned(),
        status: if admitted { "True" } else { "False" }.to_owned(),
        reason: if admitted {
            "Placed".to_owned()
        } else {
            reason.clone().unwrap_or_else(|| "Pending".to_owned())
        },
        message: if admitted {
            "each group has at least its minimum of bound pods".to_owned()
        } else {
            message.clone().unwrap_or_else(|| "not decided yet".to_owned())
        },
        observed_generation: Some(entry.generation),
        last_transition_time: Time(now),
    };
    let estimated_start = index.estimates.get(&entry.uid).filter(|_| phase == Phase::Pending);
    CapacityClaimStatus {
        phase,
        placed_pods: placed.iter().map(|group| group.count).sum(),
        desired_pods: placed.iter().map(|group| group.desired).sum(),
        placed,
        reason,
        message,
        estimated_start: estimated_start
            .and_then(|t| Timestamp::from_millisecond(t.0).ok())
            .map(Time),
        loan: says.loan,
        conditions: usable(
            honoured(
                with_condition(says.conditions, condition),
                &entry.ignored,
                entry.misread.as_deref(),
                entry.generation,
                now,
            ),
            QUEUE_USABLE,
            // One that waits has this as its reason.
            view.barred.filter(|_| phase == Phase::Running).map(|barred| {
                let words = format!("{barred}; what runs goes on, and nothing more of it is placed");
                (barred.name(), words)
            }),
            entry.generation,
            now,
        ),
    }
}

/// Conditions with [`HONOURED`] set if there are fields that nothing is done about, or something that could not be
/// understood, and without it if there are none.
pub(crate) fn honoured(
    mut conditions: Vec<Condition>,
    ignored: &[&str],
    misread: Option<&str>,
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let yet = (!ignored.is_empty()).then(|| format!("nothing is done about {} yet", ignored.join(", ")));
    let words: Vec<String> = yet.into_iter().chain(misread.map(str::to_owned)).collect();
    if words.is_empty() {
        conditions.retain(|c| c.type_ != HONOURED);
        return conditions;
    }
    let condition = Condition {
        type_: HONOURED.to_owned(),
        status: "False".to_owned(),
        reason: "FieldsIgnored".to_owned(),
        message: words.join("; "),
        observed_generation: Some(generation),
        last_transition_time: Time(now),
    };
    with_condition(conditions, condition)
}

/// Conditions with a queue's or its user's set if something is wrong (reason and message), and without it if nothing is.
pub(crate) fn usable(
    mut conditions: Vec<Condition>,
    kind: &str,
    wrong: Option<(&str, String)>,
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let Some((reason, message)) = wrong else {
        conditions.retain(|c| c.type_ != kind);
        return conditions;
    };
    let condition = Condition {
        type_: kind.to_owned(),
        status: "False".to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: Some(generation),
        last_transition_time: Time(now),
    };
    with_condition(conditions, condition)
}

/// Conditions with one of them set; its time stays if its status does.
fn with_condition(mut conditions: Vec<Condition>, mut condition: Condition) -> Vec<Condition> {
    match conditions.iter_mut().find(|c| c.type_ == condition.type_) {
        Some(old) => {
            if old.status == condition.status {
                condition.last_transition_time = old.last_transition_time.clone();
            }
            *old = condition;
        }
        None => conditions.push(condition),
    }
    conditions
}

/// The condition that a pod group shall have, if it is not what it has: that its pods were bound, as many as it needs,
/// which is never taken back, or why not.
pub fn pod_group(index: &Index, name: &Namespaced, now: Timestamp) -> Option<Condition> {
    let entry = index.pod_groups.get(name)?;
    if entry.says.as_ref().is_some_and(|(scheduled, _)| *scheduled) {
        return None;
    }
    let members = index.members.get(name).into_iter().flatten();
    let bound = members
        .filter(|uid| index.pods.get(*uid).is_some_and(|p| p.bound))
        .count();
    let scheduled = bound >= entry.min as usize;
    let (status, reason, message) = if scheduled {
        (
            "True",
            "Scheduled",
            format!("{bound} of its pods are bound, and it needs {}", entry.min),
        )
    } else {
        ("False", "Unschedulable", index.waiting.get(&entry.uid)?.message.clone())
    };
    let same = entry.says.as_ref() == Some(&(scheduled, message.clone()));
    (!same).then(|| Condition {
        type_: pod_group::scheduled_condition(entry.version).to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: Some(entry.generation),
        last_transition_time: Time(now),
    })
}

/// What a pod's status shall say of how it waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodStatus {
    /// Message of its condition `PodScheduled`, where that is to change.
    pub message: Option<String>,
    /// Its `nominatedNodeName`, where that is to change; `Some(None)`: it shall name no node any more.
    pub nominated: Option<Option<String>>,
}

/// What a pod's status shall say of how it waits, if it does not say so already.
pub fn pod(index: &Index, cluster: &Cluster, uid: &str) -> Option<PodStatus> {
    let pod = index.pods.get(uid)?;
    let status = PodStatus {
        message: why_it_waits(index, uid, pod).filter(|wanted| pod.says.as_ref() != Some(wanted)),
        nominated: nominated(index, cluster, uid, pod),
    };
    (status != PodStatus::default()).then_some(status)
}

fn why_it_waits(index: &Index, uid: &str, pod: &PodEntry) -> Option<String> {
    // The API server itself says of a pod that it has gates.
    if !pod.waits() || pod.gated {
        return None;
    }
    match &pod.broken {
        Some(broken) => Some(broken.clone()),
        None => index.why(uid, pod).map(|waiting| waiting.message.clone()),
    }
}

/// A node is named while others go from there to make room, and no longer. What somebody else nominated stays.
fn nominated(index: &Index, cluster: &Cluster, uid: &str, pod: &PodEntry) -> Option<Option<String>> {
    let kept = cluster.kept_seat_of_pod(uid).filter(|_| pod.waits());
    match kept {
        Some(node) => (pod.nominated.as_ref().map(|n| n.node.as_str()) != Some(node)).then(|| Some(node.to_owned())),
        None => index.nominated.contains(uid).then_some(None),
    }
}

#[cfg(test)]
mod tests;
