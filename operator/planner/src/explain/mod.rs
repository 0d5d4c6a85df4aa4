//! Why something waits, and what would change that: the reason that the core gives, what each class of nodes says, and
//! the smallest single change that would admit it, found by trying changes on copies of the model.

mod change;
mod search;

use duosuan_scheduler::{
    Cluster, Decision, Event, Reason, Time,
    classes::NodeClass,
    event::{Claim, Pod},
    query::ClaimPhase,
};

use crate::{
    budgets::Budgets,
    facts::Facts,
    simulation::{self, Edge, Simulation},
    together::Together,
};

pub use change::Change;
pub use search::Found;

/// A core that has decided all it can, with what it was told.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The core.
    pub cluster: &'a Cluster,
    /// What it was told.
    pub facts: &'a Facts,
    /// When.
    pub now: Time,
    /// Disruption budgets, with what is available now.
    pub budgets: &'a Budgets,
}

impl<'a> Case<'a> {
    /// A simulation where it stands.
    #[must_use]
    pub fn of<E: Edge>(simulation: &'a Simulation<E>) -> Case<'a> {
        Case {
            cluster: simulation.cluster(),
            facts: simulation.facts(),
            now: simulation.now(),
            budgets: simulation.budgets(),
        }
    }
}

/// What is asked about, by UID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A claim.
    Claim(String),
    /// A pod.
    Pod(String),
}

/// Where something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits.
    Waits,
    /// It holds what it asked for at least.
    Runs,
    /// It has ended.
    Ended,
    /// A pod that is being deleted.
    Leaves,
    /// A pod of another scheduler that has no node.
    OfAnother,
}

/// Why something waits.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Where it stands.
    pub state: State,
    /// Why, if it waits. A claim that runs may wait for more than its minimum.
    pub reason: Option<Reason>,
    /// What the core itself says would help, found without trying.
    pub hint: Option<String>,
    /// Single changes that would admit it, each tried, the smallest first.
    pub changes: Vec<Found>,
    /// How many changes were tried.
    pub tried: u32,
    /// False if the effort was used up before everything was tried: there may be a smaller change.
    pub complete: bool,
    /// UID of the pod that the classes are about: itself, or the first of its pods that has no node.
    pub pod: Option<String>,
    /// What each class of nodes says to that pod by itself, largest class first.
    pub classes: Vec<NodeClass>,
}

/// Explains something; tries at most `effort` changes. `None` if nobody knows it.
#[must_use]
pub fn explain(case: Case<'_>, target: &Target, effort: u32) -> Option<Explanation> {
    let subject = Subject::of(case, target)?;
    let state = subject.state(case, target);
    let waits = simulation::waits(case.cluster, case.now);
    let own = match target {
        Target::Claim(uid) | Target::Pod(uid) => waits.get(uid),
    };
    let of_claim = || waits.get(&subject.claim?.uid);
    // A pod that has its node waits for nothing, whatever its claim waits for.
    let wait = own.or_else(|| of_claim().filter(|_| state == State::Waits));
    let pod = subject.pods.first().filter(|pod| pod.ours);
    let classes = pod.and_then(|pod| case.cluster.classes(&pod.uid)).unwrap_or_default();
    let outcome = match wait.filter(|_| state == State::Waits) {
        Some(wait) => search::search(case, target, &subject, &wait.reason, &classes, effort),
        // There is nothing to look for.
        None => search::Outcome {
            complete: true,
            ..search::Outcome::default()
        },
    };
    Some(Explanation {
        state,
        reason: wait.map(|wait| wait.reason.clone()),
        hint: wait.and_then(|wait| wait.counterfactual.clone()),
        changes: outcome.found,
        tried: outcome.tried,
        complete: outcome.complete,
        pod: pod.filter(|_| !classes.is_empty()).map(|pod| pod.uid.clone()),
        classes,
    })
}

/// The smallest single change that would admit what waits for a reason, and how many changes were tried, at most `effort`.
#[must_use]
pub fn would_admit(case: Case<'_>, target: &Target, reason: &Reason, effort: u32) -> (Option<Found>, u32) {
    let Some(subject) = Subject::of(case, target) else {
        return (None, 0);
    };
    let pod = subject.pods.first().filter(|pod| pod.ours);
    let classes = pod.and_then(|pod| case.cluster.classes(&pod.uid)).unwrap_or_default();
    let outcome = search::search(case, target, &subject, reason, &classes, effort);
    (outcome.found.into_iter().next(), outcome.tried)
}

/// Who would be admitted.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    /// The claim, unless it is a pod without one.
    pub(crate) claim: Option<&'a Claim>,
    /// Pods that have no node and could get one, by age and UID; a pod that is asked about is the first of them.
    pub(crate) pods: Vec<&'a Pod>,
}

impl<'a> Subject<'a> {
    fn of(case: Case<'a>, target: &Target) -> Option<Subject<'a>> {
        let (claim, asked) = match target {
            Target::Claim(uid) => (Some(case.facts.claims.get(uid)?), None),
            Target::Pod(uid) => {
                let pod = case.facts.pods.get(uid)?;
                let claim = pod.claim.as_ref().filter(|_| pod.ours);
                let claim = claim.and_then(|name| case.facts.claim_named(&pod.namespace, name));
                (claim, Some(pod))
            }
        };
        let waits = |pod: &&Pod| {
            !pod.finished && !pod.terminating && pod.node.is_none() && case.cluster.seat_of_pod(&pod.uid).is_none()
        };
        let members = claim.map(|claim| case.facts.members(claim)).unwrap_or_default();
        let others = members
            .into_iter()
            .filter(|pod| asked.is_none_or(|asked| asked.uid != pod.uid));
        let pods = asked.into_iter().chain(others).filter(waits).collect();
        Some(Subject { claim, pods })
    }

    fn state(&self, case: Case<'_>, target: &Target) -> State {
        match target {
            Target::Claim(uid) => match case.cluster.claim(uid).map(|view| view.phase) {
                Some(ClaimPhase::Running) => State::Runs,
                Some(ClaimPhase::Finished) => State::Ended,
                Some(ClaimPhase::Pending) | None => State::Waits,
            },
            Target::Pod(uid) => match case.facts.pods.get(uid) {
                Some(pod) if pod.finished => State::Ended,
                Some(pod) if pod.terminating => State::Leaves,
                Some(pod) if pod.node.is_some() || case.cluster.seat_of_pod(uid).is_some() => State::Runs,
                Some(pod) if !pod.ours => State::OfAnother,
                _ => State::Waits,
            },
        }
    }
}

/// Rounds in which a changed copy may have others evicted before it is asked who was admitted.
const ROUNDS: u32 = 4;

/// True if a target is admitted after some events. `copy` is a copy of the core, and stays one.
pub(crate) fn admitted_after(copy: &mut Cluster, case: Case<'_>, target: &Target, events: Vec<Event>) -> bool {
    copy.rehearse(|changed| is_admitted(changed, case, target, events))
}

fn is_admitted(copy: &mut Cluster, case: Case<'_>, target: &Target, events: Vec<Event>) -> bool {
    events.into_iter().for_each(|event| copy.apply(event));
    let mut budgets = case.budgets.clone();
    for _ in 0..ROUNDS {
        let decisions = duosuan_scheduler::cycle(copy, case.now, duosuan_scheduler::Budget::default());
        let admitted = match target {
            Target::Claim(uid) => copy.claim(uid).is_some_and(|view| view.phase != ClaimPhase::Pending),
            Target::Pod(uid) => copy.seat_of_pod(uid).is_some(),
        };
        if admitted {
            return true;
        }
        if decisions.is_empty() {
            return false;
        }
        let mut together = Together::of(&decisions);
        for decision in decisions {
            if let Some(event) = together.instead_of(&decision, &budgets, &case.facts.pods) {
                copy.apply(event);
                continue;
            }
            let Decision::Evict { pod, .. } = decision else {
                continue;
            };
            let known = case.facts.pods.get(&pod);
            if let Some(Err(message)) = known.map(|known| budgets.may_evict(known)) {
                copy.apply(Event::EvictFailed { pod, message });
                continue;
            }
            budgets.observe(known, None);
            copy.apply(Event::PodGone(pod));
        }
    }
    false
}

#[cfg(test)]
mod tests;
