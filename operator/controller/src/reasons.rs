//! Decisions in words.

use duosuan_scheduler::{Decision, EvictCause, LostWork, Reason};

use crate::{index::Index, translate::pod_group};

/// Reason of a pod of which it is not known whether it is bound.
pub const BINDING_UNANSWERED: &str = "BindingUnanswered";
/// Reason of a pod that has a place and waits for its volumes there.
pub const WAITING_FOR_VOLUMES: &str = "WaitingForVolumes";

/// Kind of a decision, for labels.
pub fn decision_name(decision: &Decision) -> &'static str {
    match decision {
        Decision::Bind { .. } => "Bind",
        Decision::Evict { .. } => "Evict",
        Decision::TakeBack { .. } => "TakeBack",
        Decision::Resize { .. } => "Resize",
        Decision::Reserve { .. } => "Reserve",
        Decision::Pending { .. } => "Pending",
        Decision::Placed { .. } => "Placed",
    }
}

/// Why something waits, and what would change it.
pub fn message(reason: &Reason, counterfactual: Option<&str>) -> String {
    if let Reason::NoSuchClaim { claim } = reason
        && let Some(name) = pod_group::of_claim_name(claim)
    {
        return format!(
            "PodGroup {name}, which spec.schedulingGroup names, does not exist; create it in the pod's namespace"
        );
    }
    match counterfactual {
        Some(would) => format!("{reason}. {would}"),
        None => reason.to_string(),
    }
}

/// Who gets the capacity of others, as people call it.
fn named(by: &str, index: &Index) -> String {
    match (index.claim_name(by), index.pod_name(by)) {
        (Some((namespace, name)), _) => match pod_group::of_claim_name(name) {
            Some(name) => format!("PodGroup {namespace}/{name}"),
            None => format!("claim {namespace}/{name}"),
        },
        (None, Some(pod)) => format!("pod {}/{}", pod.namespace, pod.name),
        (None, None) => "another claim".to_owned(),
    }
}

/// What a claim says that was evicted and waits.
pub fn evicted_claim(cause: &EvictCause, lost: LostWork, index: &Index) -> String {
    match cause.by() {
        Some(by) => format!("evicted for {}; {lost} lost", named(by, index)),
        None => format!("evicted after it lost a pod; {lost} lost"),
    }
}

/// Why a pod was evicted, and what is lost.
pub fn evicted(cause: &EvictCause, lost: LostWork, index: &Index) -> String {
    format!("{}; {lost} lost", why_evicted(cause, index))
}

fn why_evicted(cause: &EvictCause, index: &Index) -> String {
    let named = |by: &str| named(by, index);
    match cause {
        EvictCause::Reclaimed { by } => format!(
            "Its capacity was on loan and goes back to {}, whose queue is guaranteed it",
            named(by)
        ),
        EvictCause::Preempted { by } => format!(
            "Its capacity goes to {}, which has a higher priority in the same queue",
            named(by)
        ),
        EvictCause::Shrunk { by } => format!(
            "Its group gives back what it holds above its minimum, for {}; its claim goes on",
            named(by)
        ),
        EvictCause::GangBroken => "Its gang lost a member that could not be placed again in time".to_owned(),
    }
}
