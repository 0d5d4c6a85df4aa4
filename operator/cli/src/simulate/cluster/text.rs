//! The result for people.

use std::fmt::Write;

use duosuan_crds::RESOURCE_GPU;
use duosuan_scheduler::{amount_in_words, query::ByResource};

use super::Report;
use crate::{columns, names::Subject};

/// Rows of a kind that are shown; the rest is counted, and --json has all of it.
const MOST_ROWS: usize = 40;

/// The result for people.
pub(super) fn of(report: &Report) -> String {
    let mut text = format!(
        "From {} to {}: {} pods bound, {} evicted, {} finished; {} pending.\n",
        report.started,
        report.ended,
        report.bound.len(),
        report.evicted.len(),
        report.finished.len(),
        report.pending.len()
    );
    let bound = report.bound.iter().map(|bound| {
        let numa = bound.numa.map(|id| format!("NUMA {id}"));
        let devices: Vec<String> = bound.devices.iter().map(ToString::to_string).chain(numa).collect();
        [
            bound.pod.clone(),
            bound.node.clone(),
            devices.join(","),
            bound.at.clone(),
        ]
    });
    table(&mut text, ["BOUND", "NODE", "DEVICES", "AT"], bound);
    let evicted = report.evicted.iter().map(|evicted| {
        let by = evicted.by.clone().unwrap_or_default();
        let lost = evicted.lost_work.to_string();
        [
            evicted.pod.clone(),
            by,
            evicted.reason.to_owned(),
            lost,
            evicted.at.clone(),
        ]
    });
    table(&mut text, ["EVICTED", "FOR", "REASON", "LOST", "AT"], evicted);
    waits(&mut text, report);
    let queues = report.queues.iter().flat_map(|queue| {
        queue.tiers.iter().map(|tier| {
            [
                queue.name.clone(),
                tier.tier.as_str().to_owned(),
                amounts(&tier.used),
                amounts(&tier.limit),
            ]
        })
    });
    table(&mut text, ["QUEUE", "TIER", "USED", "LIMIT"], queues);
    let nodes = report
        .nodes
        .iter()
        .map(|node| [node.name.clone(), amounts(&node.used), amounts(&node.free)]);
    table(&mut text, ["NODE", "USED", "FREE"], nodes);
    remarks(&mut text, report);
    text
}

fn waits(text: &mut String, report: &Report) {
    if report.pending.is_empty() {
        return;
    }
    *text += "\n PENDING\n";
    for pending in report.pending.iter().take(MOST_ROWS) {
        let (kind, name) = match &pending.what {
            Subject::Claim(name) => ("claim", name),
            Subject::Pod(name) => ("pod", name),
        };
        let _ = writeln!(text, " {kind} {name}: {}: {}", pending.reason, pending.message);
        if let Some(change) = &pending.would_admit {
            let _ = writeln!(text, "   would be admitted with {change}");
        }
        if let Some(start) = &pending.earliest_start {
            let _ = writeln!(text, "   expected to start at {start}");
        }
    }
    more(text, report.pending.len());
}

fn remarks(text: &mut String, report: &Report) {
    if !(report.not_acted_on.is_empty() && report.skipped.is_empty() && report.of_other_schedulers.is_empty()) {
        *text += "\n";
    }
    for read in &report.not_acted_on {
        let _ = writeln!(text, "Not acted on: {} {}: {}", read.objects, read.kind, read.effect);
    }
    for (scheduler, pods) in &report.of_other_schedulers {
        let _ = writeln!(
            text,
            "Left alone: {pods} pods without a node name scheduler {scheduler}; --scheduler-name {scheduler} places them"
        );
    }
    if !report.skipped.is_empty() {
        let kinds: Vec<String> = report.skipped.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
        let _ = writeln!(text, "Skipped: {}", kinds.join(", "));
    }
}

fn amounts(amounts: &ByResource) -> String {
    let words: Vec<String> = amounts
        .iter()
        // The same devices, as their plugin counts them.
        .filter(|(resource, _)| resource.as_str() != RESOURCE_GPU || !amounts.contains_key("gpu"))
        .map(|(resource, amount)| amount_in_words(resource, *amount))
        .collect();
    words.join(", ")
}

fn table<const N: usize>(text: &mut String, header: [&str; N], rows: impl Iterator<Item = [String; N]>) {
    let mut table = columns::named(header);
    let mut count = 0;
    for row in rows {
        count += 1;
        if count <= MOST_ROWS {
            table.add_row(row);
        }
    }
    if count == 0 {
        return;
    }
    *text += "\n";
    *text += &columns::lines(&table);
    more(text, count);
}

fn more(text: &mut String, count: usize) {
    if count > MOST_ROWS {
        let _ = writeln!(text, " and {} more; --json has them", count - MOST_ROWS);
    }
}
