//! How `up` ended: the words, the JSON object and the exit code.

use std::{
    io::{Write, stdout},
    process::ExitCode,
};

use duosuan_crds::claim::Phase;
use serde::Serialize;

use super::{
    arguments::Arguments,
    samples::Expected,
    view::{PodCounts, Summary},
};

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Everything that can run does.
    Runs,
    /// It does not, with the reasons.
    Stuck(Vec<String>),
    /// Somebody ended it.
    Interrupted,
}

/// How it ended. Times are seconds since the command started.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) summary: Summary,
    pub(crate) seconds_to_ready: f64,
    pub(crate) seconds_to_all_bound: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Json {
    nodes: usize,
    pods_bound: usize,
    claims_running: usize,
    claims_pending: usize,
    seconds_to_ready: f64,
    seconds_to_all_bound: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu_allocation_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pods_pending: Option<usize>,
}

impl Outcome {
    /// Prints it as the flags want it and returns the exit code.
    pub(crate) fn print(&self, arguments: &Arguments) -> anyhow::Result<ExitCode> {
        if arguments.json {
            writeln!(
                stdout(),
                "{}",
                serde_json::to_string(&self.json(arguments.trace.is_some()))?
            )?;
        } else if arguments.once && self.verdict == Verdict::Runs {
            let pods = self.summary.pods;
            writeln!(
                stdout(),
                "{} pods run on {} nodes, {} wait",
                pods.running,
                self.summary.nodes,
                pods.pending
            )?;
        }
        match &self.verdict {
            Verdict::Stuck(reasons) => anyhow::bail!("not everything runs: {}", reasons.join("; ")),
            Verdict::Runs | Verdict::Interrupted => Ok(ExitCode::SUCCESS),
        }
    }

    fn json(&self, trace: bool) -> Json {
        Json {
            nodes: self.summary.nodes,
            pods_bound: self.summary.pods.bound,
            claims_running: self.summary.claims_in(Phase::Running),
            claims_pending: self.summary.claims_in(Phase::Pending),
            seconds_to_ready: hundredths(self.seconds_to_ready),
            seconds_to_all_bound: self.seconds_to_all_bound.map(hundredths),
            gpu_allocation_percent: trace.then(|| hundredths(self.summary.gpu_percent())),
            pods_pending: trace.then_some(self.summary.pods.pending),
        }
    }
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Whether what was submitted runs, as far as it can be told from one moment.
pub(crate) fn runs(summary: &Summary, expected: &Expected) -> bool {
    let pods = ours(summary, expected);
    if !expected.all {
        return pods.bound + pods.pending >= expected.pods && pods.undecided == 0;
    }
    let claims: Vec<_> = summary
        .claims
        .iter()
        .filter(|claim| claim.namespace == expected.namespace)
        .collect();
    pods.running >= expected.pods
        && claims.len() >= expected.claims
        && claims.iter().all(|claim| claim.phase != Phase::Pending)
}

/// What keeps it from running.
pub(crate) fn reasons(summary: &Summary, expected: &Expected) -> Vec<String> {
    let pods = ours(summary, expected);
    let mut reasons = Vec::new();
    if summary.nodes_ready < summary.nodes {
        reasons.push(format!(
            "{} of {} nodes are not ready",
            summary.nodes - summary.nodes_ready,
            summary.nodes
        ));
    }
    let pending = summary
        .claims
        .iter()
        .filter(|claim| claim.namespace == expected.namespace && claim.phase == Phase::Pending);
    reasons.extend(pending.map(|claim| {
        let why = if claim.reason.is_empty() {
            "the operator has not said why"
        } else {
            &claim.reason
        };
        format!("claim {}/{} is pending: {why}", claim.namespace, claim.name)
    }));
    reasons.extend(
        summary
            .reasons
            .iter()
            .map(|(why, (count, example))| format!("{count} pods are pending, such as {example}: {why}")),
    );
    let seen = pods.bound + pods.pending;
    if seen < expected.pods {
        reasons.push(format!("{seen} of {} pods exist", expected.pods));
    }
    if pods.running < pods.bound {
        reasons.push(format!(
            "{} of {} bound pods have not started",
            pods.bound - pods.running,
            pods.bound
        ));
    }
    if reasons.is_empty() {
        reasons.push("too little time (--timeout)".into());
    }
    reasons
}

fn ours(summary: &Summary, expected: &Expected) -> PodCounts {
    summary
        .by_namespace
        .get(expected.namespace)
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use duosuan_crds::Tier;

    use super::*;
    use crate::up::view::ClaimView;

    fn samples() -> Expected {
        Expected {
            namespace: "demo",
            pods: 2,
            claims: 1,
            all: true,
        }
    }

    fn summary(pods: PodCounts, phase: Phase) -> Summary {
        let claim = ClaimView {
            name: "c".into(),
            namespace: "demo".into(),
            tier: Tier::Batch,
            phase,
            reason: "no room".into(),
            ..ClaimView::default()
        };
        Summary {
            pods,
            by_namespace: [("demo".into(), pods)].into(),
            claims: vec![claim],
            ..Summary::default()
        }
    }

    #[test]
    fn samples_run_when_every_pod_and_every_claim_does() {
        let all = PodCounts {
            bound: 2,
            running: 2,
            ..PodCounts::default()
        };
        assert!(runs(&summary(all, Phase::Running), &samples()));
        assert!(runs(&summary(all, Phase::Finished), &samples()));
        assert!(!runs(&summary(all, Phase::Pending), &samples()));
        let one = PodCounts {
            bound: 2,
            running: 1,
            ..PodCounts::default()
        };
        assert!(!runs(&summary(one, Phase::Running), &samples()));
        assert!(!runs(&Summary::default(), &samples()), "before anything was seen");
    }

    #[test]
    fn a_recorded_cluster_is_full_when_each_pod_is_bound_or_has_a_reason() {
        let trace = Expected {
            all: false,
            claims: 0,
            ..samples()
        };
        let counts = PodCounts {
            bound: 1,
            pending: 1,
            ..PodCounts::default()
        };
        assert!(runs(&summary(counts, Phase::Running), &trace));
        assert!(!runs(
            &summary(PodCounts { undecided: 1, ..counts }, Phase::Running),
            &trace
        ));
        assert!(!runs(
            &summary(PodCounts { pending: 0, ..counts }, Phase::Running),
            &trace
        ));
    }

    #[test]
    fn what_does_not_run_is_told_by_name_and_reason() {
        let mut stuck = summary(
            PodCounts {
                bound: 1,
                pending: 1,
                ..PodCounts::default()
            },
            Phase::Pending,
        );
        stuck.nodes = 3;
        stuck.nodes_ready = 2;
        stuck.reasons.insert("no GPU".into(), (1, "p".into()));
        let expected = [
            "1 of 3 nodes are not ready",
            "claim demo/c is pending: no room",
            "1 pods are pending, such as p: no GPU",
            "1 of 1 bound pods have not started",
        ];
        assert_eq!(reasons(&stuck, &samples()), expected);
    }
}
