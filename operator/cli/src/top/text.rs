//! Reports of nodes for people. Amounts are written as the report has them, as kubectl would.

use std::{collections::BTreeMap, fmt::Write};

use duosuan_crds::{
    NodeReport, NodeReportStatus, Tier,
    report::{DiskReport, EvictionReport, GuardReport, MidOfferReport, NumaReport, OfferReport, TierReport},
};
use duosuan_scheduler::LostWork;
use k8s_openapi::apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Time};
use kube::ResourceExt;

use crate::columns;

/// In the place of what is not known, or does not exist.
const NOTHING: &str = "-";

/// All nodes, a line each.
pub(super) fn nodes(reports: &[NodeReport]) -> String {
    let header = [
        "NODE",
        "POLICY",
        "CPU",
        "OF",
        "MEMORY",
        "OF",
        "BATCH CPU",
        "OF",
        "BATCH MEMORY",
        "OF",
        "GUARDS",
        "REPORTED",
    ];
    let rows = reports.iter().map(|report| {
        let status = report.status.clone().unwrap_or_default();
        let batch = status.tiers.iter().find(|t| t.tier == Tier::Batch);
        let of_batch = |amounts: fn(&TierReport) -> &BTreeMap<String, Quantity>, name: &str| {
            batch.map_or(NOTHING.to_owned(), |tier| amount(amounts(tier), name))
        };
        let closed = status.batch_closed.then(|| "closed to batch".to_owned());
        let guards = status.guards.iter().filter(|g| g.state != "Idle").map(brief);
        let busy: Vec<String> = closed.into_iter().chain(guards).collect();
        vec![
            report.name_any(),
            status.policy.clone().unwrap_or_else(|| NOTHING.to_owned()),
            amount(&status.usage, "cpu"),
            amount(&status.capacity, "cpu"),
            amount(&status.usage, "memory"),
            amount(&status.capacity, "memory"),
            of_batch(|t| &t.usage, "cpu"),
            of_batch(|t| &t.reclaimable, "cpu"),
            of_batch(|t| &t.usage, "memory"),
            of_batch(|t| &t.reclaimable, "memory"),
            match (&status.time, busy.as_slice()) {
                (None, _) => NOTHING.to_owned(),
                (Some(_), []) => "calm".to_owned(),
                (Some(_), busy) => busy.join(", "),
            },
            time(status.time.as_ref()),
        ]
    });
    table(&header, rows)
}

/// One node, with the reasons.
pub(super) fn node(report: &NodeReport) -> String {
    let status = report.status.clone().unwrap_or_default();
    if status.time.is_none() {
        return format!("Node {}: its agent has not reported yet\n", report.name_any());
    }
    let policy = status.policy.as_deref().map_or_else(
        || "no policy selects it".to_owned(),
        |policy| format!("it follows policy {policy}"),
    );
    let mut text = format!(
        "Node {}: {policy}; reported {}\n",
        report.name_any(),
        time(status.time.as_ref())
    );
    for condition in status.conditions.iter().filter(|c| c.status != "True") {
        let _ = writeln!(text, "{}: {}", condition.reason, condition.message);
    }
    if status.batch_closed {
        text += "It takes nothing new of mid and batch: some was evicted lately. What runs stays.\n";
    }
    text += "\n";
    text += &usage(&status);
    if !status.tiers.is_empty() {
        text += "\n";
        text += &work(&status.tiers);
    }
    if !status.offers.is_empty() {
        text += "\n";
        text += &offers(&status.offers);
    }
    if !status.mid_offers.is_empty() {
        text += "\n";
        text += &mid_offers(&status.mid_offers);
    }
    text += "\n";
    text += &stalls(&status);
    if !status.guards.is_empty() {
        text += "\n";
        text += &guards(&status.guards);
    }
    if status.numa.iter().any(|numa| !numa.batch_reclaimable.is_empty()) {
        text += "\n";
        text += &numa(&status.numa);
    }
    let host = &status.host;
    if let (Some(one), Some(five), Some(fifteen)) = (&host.load1, &host.load5, &host.load15) {
        let _ = writeln!(
            text,
            "\nLoad of 1, 5 and 15 minutes: {}, {}, {}",
            one.0, five.0, fifteen.0
        );
    }
    if let Some(paging) = &host.paging {
        let _ = writeln!(
            text,
            "Paging since boot: {}Mi swapped in, {}Mi out; {}Mi reclaimed in the background, {}Mi by who waited for it; {} major \
             faults, {} processes killed for want of memory",
            paging.swapped_in_mebibytes,
            paging.swapped_out_mebibytes,
            paging.reclaimed_mebibytes,
            paging.reclaimed_direct_mebibytes,
            paging.major_faults,
            paging.oom_kills
        );
    }
    if !host.disks.is_empty() {
        text += "\n";
        text += &disks(&host.disks);
    }
    if !status.actions.is_empty() {
        text += "\n";
        let rows = status
            .actions
            .iter()
            .map(|a| vec![time(Some(&a.time)), a.guard.clone(), a.action.clone()]);
        text += &table(&["LAST ACTIONS", "GUARD", "WHAT AND WHY"], rows);
    }
    if !status.intended.is_empty() {
        text += "\n";
        text += &intended(&status);
    }
    if !status.evictions.is_empty() {
        text += "\n";
        text += &evictions(&status.evictions);
    }
    text
}

fn usage(status: &NodeReportStatus) -> String {
    let header = [
        "TIER",
        "CPU",
        "EXPECTED PEAK",
        "REQUESTED",
        "MEMORY",
        "EXPECTED PEAK",
        "REQUESTED",
    ];
    let none = BTreeMap::new();
    let row = |name: &str, [usage, peak, bound]: [&BTreeMap<String, Quantity>; 3]| {
        let of = |resource: &str| [usage, peak, bound].map(|amounts| amount(amounts, resource));
        let mut row = vec![name.to_owned()];
        row.extend(of("cpu"));
        row.extend(of("memory"));
        row
    };
    let mut rows: Vec<Vec<String>> = status
        .tiers
        .iter()
        .map(|t| row(t.tier.as_str(), [&t.usage, &t.forecast_peak, &t.bound]))
        .collect();
    rows.push(row("system", [&status.system, &none, &none]));
    rows.push(row("whole node", [&status.usage, &none, &status.capacity]));
    table(&header, rows.into_iter())
}

/// What each tier did and suffered since the agent's start.
fn work(tiers: &[TierReport]) -> String {
    let header = [
        "SINCE THE START",
        "ANONYMOUS",
        "PAGE CACHE",
        "READ",
        "WRITTEN",
        "THROTTLED",
        "PERIODS",
        "OOM",
        "KILLED",
    ];
    let perhaps = |amount: &Option<Quantity>| amount.as_ref().map_or(NOTHING.to_owned(), |a| a.0.clone());
    let rows = tiers.iter().map(|tier| {
        let w = &tier.work;
        vec![
            tier.tier.as_str().to_owned(),
            perhaps(&w.anonymous),
            perhaps(&w.page_cache),
            format!("{}Mi", w.read_mebibytes),
            format!("{}Mi", w.written_mebibytes),
            format!("{} s", w.throttled_seconds),
            w.throttled_periods.to_string(),
            w.ooms.to_string(),
            w.oom_kills.to_string(),
        ]
    });
    table(&header, rows)
}

/// The formula, a column for each term.
fn offers(offers: &[OfferReport]) -> String {
    let header = [
        "OFFERED TO BATCH",
        "CAPACITY",
        "- MARGIN",
        "- SYSTEM PEAK",
        "- PROD PEAK",
        "- YOUNG PODS",
        "= TARGET",
        "BOUND",
        "OFFERED",
        "BY",
    ];
    let perhaps = |amount: &Option<Quantity>| amount.as_ref().map_or(NOTHING.to_owned(), |a| a.0.clone());
    let rows = offers.iter().map(|o| {
        vec![
            o.resource.clone(),
            o.capacity.0.clone(),
            o.margin.0.clone(),
            perhaps(&o.system_peak),
            perhaps(&o.prod_peak),
            o.young_requests.0.clone(),
            perhaps(&o.target),
            o.bound.0.clone(),
            o.offered.0.clone(),
            o.basis.clone(),
        ]
    });
    table(&header, rows)
}

/// The same of mid: the target is the least of three.
fn mid_offers(offers: &[MidOfferReport]) -> String {
    let header = [
        "OFFERED TO MID",
        "PROD REQUESTED",
        "- LONG PEAK",
        "CAPACITY",
        "- MARGIN",
        "- SYSTEM PEAK",
        "- LONG PEAK",
        "SHARE",
        "LEAST = TARGET",
        "BOUND",
        "OFFERED",
        "BY",
    ];
    let perhaps = |amount: &Option<Quantity>| amount.as_ref().map_or(NOTHING.to_owned(), |a| a.0.clone());
    let rows = offers.iter().map(|o| {
        vec![
            o.resource.clone(),
            o.prod_requests.0.clone(),
            perhaps(&o.prod_peak),
            o.capacity.0.clone(),
            o.margin.0.clone(),
            perhaps(&o.system_peak),
            perhaps(&o.prod_peak),
            o.share.0.clone(),
            perhaps(&o.target),
            o.bound.0.clone(),
            o.offered.0.clone(),
            o.basis.clone(),
        ]
    });
    table(&header, rows)
}

/// What each NUMA node has, uses and could give.
fn numa(nodes: &[NumaReport]) -> String {
    let header = [
        "NUMA", "CPU", "OF", "TO MID", "TO BATCH", "MEMORY", "OF", "TO MID", "TO BATCH",
    ];
    let rows = nodes.iter().map(|n| {
        let mut row = vec![n.index.to_string()];
        for (resource, has) in [("cpu", &n.cpu), ("memory", &n.memory)] {
            row.extend([amount(&n.usage, resource), has.0.clone()]);
            row.extend([&n.mid_reclaimable, &n.batch_reclaimable].map(|offer| amount(offer, resource)));
        }
        row
    });
    table(&header, rows)
}

fn disks(disks: &[DiskReport]) -> String {
    let header = ["DISK", "READS", "READ", "WRITES", "WRITTEN", "BUSY", "UNDER WAY"];
    let milli = |milli: Option<i64>, unit: i64, what: &str| {
        milli.map_or(NOTHING.to_owned(), |m| {
            format!("{}.{}{what}", m / unit, m % unit * 10 / unit)
        })
    };
    let rows = disks.iter().map(|d| {
        vec![
            d.name.clone(),
            d.reads.to_string(),
            format!("{}Mi", d.read_mebibytes),
            d.writes.to_string(),
            format!("{}Mi", d.written_mebibytes),
            milli(d.busy_milli, 10, " %"),
            milli(d.queue_milli, 1000, ""),
        ]
    });
    table(&header, rows)
}

fn stalls(status: &NodeReportStatus) -> String {
    let p = &status.pressure;
    let row = |name: &str, stalls: [u32; 3]| {
        let mut row = vec![name.to_owned()];
        row.extend(stalls.map(|s| format!("{}.{} %", s / 10, s % 10)));
        row
    };
    let rows = [
        row("whole node", [p.cpu_milli, p.memory_milli, p.io_milli]),
        row("prod", [p.prod_cpu_milli, p.prod_memory_milli, p.prod_io_milli]),
    ];
    table(&["STALLED FOR", "CPU", "MEMORY", "IO"], rows.into_iter())
}

fn guards(guards: &[GuardReport]) -> String {
    let rows = guards
        .iter()
        .map(|g| vec![g.name.clone(), g.state.clone(), limit(g), g.cuts.to_string()]);
    table(&["GUARD", "STATE", "ALLOWS BATCH", "CUTS"], rows)
}

/// As `limitMilli` is described in the API: of some guards it is a part, of the others milli-cores.
fn limit(guard: &GuardReport) -> String {
    let part = |milli: i64, of: &str| format!("{}.{} % of {of}", milli / 10, milli % 10);
    if let Some(bits) = guard.limit_bits {
        return format!("{} Mbit/s", bits / 1_000_000);
    }
    match (guard.limit_milli, guard.limit_bytes) {
        (_, Some(bytes)) => format!("{}Mi", bytes >> 20),
        (Some(milli), None) if guard.name == "io" => part(milli, "its IO"),
        (Some(milli), None) if guard.name == "llc" => part(milli, "the cache"),
        (Some(milli), None) => format!("{milli}m"),
        (None, None) => "everything".to_owned(),
    }
}

/// What an agent that only observes would do.
fn intended(status: &NodeReportStatus) -> String {
    let rows = status.intended.iter().map(|i| {
        let place = match i.count {
            0 | 1 => i.cgroup.clone(),
            count => format!("{} and {} more", i.cgroup, count - 1),
        };
        vec![i.file.clone(), i.value.clone(), place, i.why.clone()]
    });
    let mut text = table(&["WOULD SET", "TO", "IN", "WHY"], rows);
    if status.intended_more > 0 {
        let _ = writeln!(text, "and {} settings more", status.intended_more);
    }
    text
}

/// Whom the node evicted, the latest first.
fn evictions(evictions: &[EvictionReport]) -> String {
    let header = ["LAST EVICTIONS", "POD", "CLAIM", "CAUSE", "OUTCOME", "LOST", "WHY"];
    let rows = evictions.iter().rev().map(|e| {
        let lost = LostWork {
            milli_card_seconds: e.lost_card_seconds.saturating_mul(1000),
            milli_core_seconds: e.lost_core_seconds.saturating_mul(1000),
        };
        vec![
            time(Some(&e.time)),
            e.pod.clone(),
            e.claim.clone().unwrap_or_else(|| NOTHING.to_owned()),
            e.cause.clone(),
            e.outcome.clone(),
            lost.to_string(),
            e.message.clone(),
        ]
    });
    table(&header, rows)
}

/// A guard in a few words.
fn brief(guard: &GuardReport) -> String {
    match guard.state.as_str() {
        "Off" => format!("{} off", guard.name),
        _ => format!("{} {} to {}", guard.name, guard.state.to_lowercase(), limit(guard)),
    }
}

fn amount(amounts: &BTreeMap<String, Quantity>, resource: &str) -> String {
    amounts.get(resource).map_or(NOTHING.to_owned(), |a| a.0.clone())
}

fn time(time: Option<&Time>) -> String {
    time.map_or("never".to_owned(), |time| {
        time.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    })
}

fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = columns::named(header.to_vec());
    table.add_rows(rows);
    columns::lines(&table)
}
