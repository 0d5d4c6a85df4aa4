//! An explanation for people and programs.

use std::fmt::Write;

use duosuan_planner::explain::{Case, Explanation, State, Target};
use duosuan_scheduler::{
    Time, amount_in_words,
    classes::NodeClass,
    query::{ClaimView, GroupView},
};
use serde::Serialize;

use crate::{
    columns,
    names::{Names, Subject, rfc3339},
};

/// Classes that are shown; --json has all of them.
const MOST_CLASSES: usize = 20;

/// UID of a pod and name of the node that it is about to get.
pub(crate) type Placed = (String, String);

/// An explanation.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    what: Subject,
    state: &'static str,
    queue: Option<String>,
    /// Pods of it that are placed now, with their nodes.
    placed_now: Vec<(String, String)>,
    groups: Vec<GroupView>,
    reason: Option<&'static str>,
    message: Option<String>,
    would_admit: Option<String>,
    /// Other single changes, larger ones.
    alternatives: Vec<String>,
    tried: u32,
    complete: bool,
    earliest_start: Option<String>,
    /// The pod that the classes speak of.
    classes_of: Option<String>,
    classes: Vec<NodeClass>,
    /// What else is to be said of what was read.
    pub(crate) remarks: Vec<String>,
}

impl Report {
    /// The explanation of a target by the names that people use. `placed` are pods that are placed just now, and `starts`
    /// says when a claim or pod is expected to start, by UID.
    pub(crate) fn new(
        case: Case<'_>,
        target: &Target,
        explanation: Explanation,
        placed: &[Placed],
        starts: &dyn Fn(&str) -> Option<Time>,
    ) -> Report {
        let names = Names(case.facts);
        let claim_of = |pod: &str| {
            let pod = case.facts.pods.get(pod)?;
            case.facts.claim_named(&pod.namespace, pod.claim.as_ref()?)
        };
        let (uid, what, claim) = match target {
            Target::Claim(uid) => (uid, names.subject(uid), Some(uid.clone())),
            Target::Pod(uid) => (uid, Subject::Pod(names.pod(uid)), claim_of(uid).map(|c| c.uid.clone())),
        };
        let view: Option<ClaimView> = claim.as_ref().and_then(|claim| case.cluster.claim(claim));
        let of_it = |pod: &str| match target {
            Target::Claim(claim) => claim_of(pod).is_some_and(|c| c.uid == *claim),
            Target::Pod(asked) => pod == asked,
        };
        let placed_now: Vec<(String, String)> = placed
            .iter()
            .filter(|(pod, _)| of_it(pod))
            .map(|(pod, node)| (names.pod(pod), node.clone()))
            .collect();
        let state = match explanation.state {
            State::Runs if !placed_now.is_empty() => "starts",
            State::Runs => "runs",
            State::Waits => "waits",
            State::Ended => "ended",
            State::Leaves => "leaves",
            State::OfAnother => "of-another-scheduler",
        };
        let mut changes = explanation.changes.into_iter().map(|found| found.change.to_string());
        // What the core says without trying stands only where nothing was tried.
        let would_admit = changes.next().or(explanation.hint.filter(|_| explanation.tried == 0));
        let of_pod = || {
            let pod = case.facts.pods.get(uid).filter(|pod| pod.ours)?;
            Some(pod.queue.clone()).filter(|queue| !queue.is_empty())
        };
        let waits = explanation.state == State::Waits;
        let start = starts(uid).or_else(|| starts(claim.as_ref()?)).filter(|_| waits);
        Report {
            what,
            state,
            queue: view.as_ref().map(|view| view.queue.clone()).or_else(of_pod),
            placed_now,
            groups: view.map(|view| view.groups).unwrap_or_default(),
            reason: explanation.reason.as_ref().map(duosuan_scheduler::Reason::name),
            message: explanation.reason.as_ref().map(ToString::to_string),
            would_admit,
            alternatives: changes.collect(),
            tried: explanation.tried,
            complete: explanation.complete,
            earliest_start: start.map(rfc3339),
            classes_of: explanation.pod.map(|pod| names.pod(&pod)),
            classes: explanation.classes,
            remarks: Vec::new(),
        }
    }

    /// What waits and what would change that, in words.
    pub(crate) fn text(&self) -> String {
        let (kind, name) = match &self.what {
            Subject::Claim(name) => ("Claim", name),
            Subject::Pod(name) => ("Pod", name),
        };
        let queue = self
            .queue
            .as_ref()
            .map_or_else(String::new, |queue| format!(", queue {queue}"));
        let state = match self.state {
            "starts" => "is placed now",
            "leaves" => "is being deleted",
            "of-another-scheduler" => "waits for another scheduler, which its spec.schedulerName names",
            "ended" => "has ended",
            other => other,
        };
        let mut text = format!("{kind} {name}{queue}: {state}\n");
        for group in &self.groups {
            let _ = writeln!(
                text,
                "  group {}: {} of {} pods placed, {} finished",
                group.name, group.placed, group.desired, group.finished
            );
        }
        for (pod, node) in &self.placed_now {
            let _ = writeln!(text, "  pod {pod} goes to node {node}");
        }
        if let (Some(reason), Some(message)) = (self.reason, &self.message) {
            let _ = writeln!(text, "\n{reason}: {message}");
        }
        self.changes(&mut text);
        if let Some(start) = &self.earliest_start {
            let _ = writeln!(text, "Expected to start at {start}, by what runs is expected to take.");
        }
        if let Some(pod) = &self.classes_of {
            let _ = writeln!(text, "\nWhat the nodes say to pod {pod} by itself:\n");
            text += &classes(&self.classes);
        }
        for remark in &self.remarks {
            let _ = writeln!(text, "\nNote: {remark}");
        }
        text
    }

    fn changes(&self, text: &mut String) {
        if let Some(change) = &self.would_admit {
            let _ = writeln!(text, "It would be admitted with {change}");
        }
        for change in &self.alternatives {
            let _ = writeln!(text, "                    or with {change}");
        }
        if self.tried == 0 && self.complete {
            return;
        }
        if self.would_admit.is_none() {
            *text += "No single change that was tried admits it.\n";
        }
        let more = if self.complete {
            ""
        } else {
            "; with more --effort, there may be smaller ones"
        };
        let _ = writeln!(text, "(Each by itself; {} changes were tried{more}.)", self.tried);
    }
}

fn classes(classes: &[NodeClass]) -> String {
    let mut table = columns::named(["NODES", "SUCH AS", "EACH HAS", "LABELS AND TAINTS", "SAY"]);
    for class in classes.iter().take(MOST_CLASSES) {
        let mut has: Vec<String> = class
            .size
            .iter()
            .filter(|(resource, _)| resource.as_str() != "pods" && resource.as_str() != "nvidia.com/gpu")
            .map(|(resource, amount)| amount_in_words(resource, *amount))
            .collect();
        has.extend(class.gpus.iter().map(|(model, count)| match model.as_str() {
            "" => format!("{count} gpu"),
            model => format!("{count} gpu {model}"),
        }));
        let labels = class.labels.iter().map(|(key, value)| format!("{key}={value}"));
        let marks: Vec<String> = labels.chain(class.taints.iter().cloned()).collect();
        let says = match (&class.against, &class.lacks) {
            (None, _) => "it fits".to_owned(),
            (Some(against), None) => against.clone(),
            (Some(against), Some(lack)) => format!("{against}: it {}", lack.words()),
        };
        table.add_row([
            class.nodes.to_string(),
            class.example.clone(),
            has.join(", "),
            marks.join(", "),
            says,
        ]);
    }
    let mut text = columns::lines(&table);
    if classes.len() > MOST_CLASSES {
        let _ = writeln!(
            text,
            " and {} more classes; --json has them",
            classes.len() - MOST_CLASSES
        );
    }
    text
}
