//! The point at which a replay stops: what was decided, what waits, and why.

use std::fmt::Write;

use anyhow::{anyhow, bail};
use duosuan_planner::{
    budgets::Budgets,
    explain::{Case, explain},
    facts::Facts,
    record::Replay,
    simulation,
};
use duosuan_scheduler::{Budget, Cluster, Decision, Time, cycle};

use crate::{
    explain::{Asked, Placed, Report},
    names::{Names, Subject, rfc3339},
};

/// Decisions and waits that are shown; the rest is counted.
const MOST_ROWS: usize = 100;
/// Cycles after which a copy of the core has to be done with what the recorded cycle left over.
const LEFT_OVER: u32 = 1000;

/// What is to be said of the point at which a replay stands, after a cycle with some decisions.
///
/// # Errors
///
/// If what is asked about is not there.
pub(super) fn look(
    replay: &Replay,
    last: &[Decision],
    asked: Option<&Asked>,
    effort: u32,
    json: bool,
) -> anyhow::Result<String> {
    let Some(facts) = replay.facts() else {
        bail!("the replay does not know what it was told");
    };
    let Some(asked) = asked else {
        return Ok(overview(replay, facts, last));
    };
    // A cycle has a budget: what it left over is decided on a copy before anything is said to wait.
    let (cluster, left_over) = settled(replay.cluster(), replay.now());
    let decisions = last.iter().chain(&left_over);
    let placed: Vec<Placed> = decisions
        .filter_map(|decision| match decision {
            Decision::Bind { pod, node, .. } => Some((pod.clone(), node.clone())),
            _ => None,
        })
        .collect();
    let case = Case {
        cluster: &cluster,
        facts,
        now: replay.now(),
        // A record has what the core was told, and that was none.
        budgets: &Budgets::default(),
    };
    let target = asked.target(facts)?;
    let explanation =
        explain(case, &target, effort).ok_or_else(|| anyhow!("there is no {} any more", asked.words()))?;
    let report = Report::new(case, &target, explanation, &placed, &|uid| replay.estimate(uid));
    if json {
        return Ok(serde_json::to_string(&report)?);
    }
    Ok(format!("{}\n{}", where_it_stands(replay), report.text()))
}

fn settled(cluster: &Cluster, now: Time) -> (Cluster, Vec<Decision>) {
    let mut copy = cluster.clone();
    let mut all = Vec::new();
    for _ in 0..LEFT_OVER {
        let decisions = cycle(&mut copy, now, Budget::default());
        if decisions.is_empty() {
            break;
        }
        all.extend(decisions);
    }
    (copy, all)
}

fn where_it_stands(replay: &Replay) -> String {
    format!(
        "After cycle {} at {} (session {}, event {}).",
        replay.cycles(),
        rfc3339(replay.now()),
        replay.sessions(),
        replay.events()
    )
}

fn overview(replay: &Replay, facts: &Facts, last: &[Decision]) -> String {
    let names = Names(facts);
    let mut text = where_it_stands(replay);
    let _ = writeln!(text, "\n\nIt decided:");
    if last.is_empty() {
        text += "  nothing\n";
    }
    for decision in last.iter().take(MOST_ROWS) {
        let _ = writeln!(text, "  {}", words(decision, names));
    }
    more(&mut text, last.len());
    let waits = simulation::waits(replay.cluster(), replay.now());
    let _ = writeln!(text, "\nWhat waits:");
    if waits.is_empty() {
        text += "  nothing\n";
    }
    for (uid, wait) in waits.iter().take(MOST_ROWS) {
        let _ = writeln!(
            text,
            "  {}: {}: {}",
            subject(uid, names),
            wait.reason.name(),
            wait.reason
        );
    }
    more(&mut text, waits.len());
    text
}

fn more(text: &mut String, count: usize) {
    if count > MOST_ROWS {
        let _ = writeln!(text, "  and {} more", count - MOST_ROWS);
    }
}

fn subject(uid: &str, names: Names<'_>) -> String {
    match names.subject(uid) {
        Subject::Claim(name) => format!("claim {name}"),
        Subject::Pod(name) => format!("pod {name}"),
    }
}

fn words(decision: &Decision, names: Names<'_>) -> String {
    match decision {
        Decision::Bind { pod, node, .. } => format!("pod {} goes to node {node}", names.pod(pod)),
        Decision::Evict { pod, cause, lost, .. } => {
            let cause = duosuan_controller::binder::cause_name(cause);
            format!("pod {} is evicted: {cause}; {lost} lost", names.pod(pod))
        }
        Decision::TakeBack { pod, claims } => {
            let claims: Vec<&str> = claims.iter().map(|of| of.claim.as_str()).collect();
            format!(
                "{} of pod {} give back their devices",
                claims.join(", "),
                names.pod(pod)
            )
        }
        Decision::Resize { claim, group, count } => {
            format!("group {group} of {} shall have {count} pods", subject(claim, names))
        }
        Decision::Reserve {
            claim,
            start: Some(start),
        } => format!("{} is expected to start at {}", subject(claim, names), rfc3339(*start)),
        Decision::Reserve { claim, start: None } => format!("{} has no expected start any more", subject(claim, names)),
        Decision::Pending { claim, reason, .. } => {
            format!("{} waits: {}: {reason}", subject(claim, names), reason.name())
        }
        Decision::Placed { claim } => format!("{} waits no more", subject(claim, names)),
    }
}
