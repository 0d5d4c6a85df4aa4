//! A report in the terms of the API.

use std::collections::BTreeMap;

use duosuan_crds::{
    NodeReportStatus, Tier as ApiTier,
    report::{
        ActionReport, DiskReport, EvictionReport, GpuReport, GuardReport, HostReport, MidOfferReport, OfferReport,
        PagingReport, Pressure, TierReport, TierWork,
    },
};
use duosuan_policy::{
    Capabilities, GuardState, GuardView, Network, Report, Resources, Signals, Tier, Unread,
    action::{Basis, MidTerms, Terms},
    eviction::Eviction,
};
use jiff::Timestamp;
use k8s_openapi::{
    apimachinery::pkg::api::resource::Quantity,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};

use crate::{intended::intended, numa, quantity, selection::Choice, services::first};

/// Conditions with the time at which each last changed.
#[derive(Clone, Debug, Default)]
pub struct Conditions(BTreeMap<&'static str, Condition>);

impl Conditions {
    /// Sets one; its transition time moves only when its status does.
    pub fn set(&mut self, kind: &'static str, status: bool, reason: &str, message: String, now: Timestamp) {
        let status = if status { "True" } else { "False" };
        let since = self
            .0
            .get(kind)
            .filter(|c| c.status == status)
            .map(|c| c.last_transition_time.clone());
        let condition = Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: since.unwrap_or(Time(now)),
            observed_generation: None,
        };
        self.0.insert(kind, condition);
    }

    /// All of them, by type.
    pub fn list(&self) -> Vec<Condition> {
        self.0.values().cloned().collect()
    }
}

/// Says of the policy and of the signals what a reader of the report wants to know first.
///
/// `observing` is about the agent, whatever mode the policy names.
pub fn judge(conditions: &mut Conditions, choice: &Choice, observing: bool, report: &Report, now: Timestamp) {
    let (good, reason, message) = match choice {
        Choice::None => (
            false,
            "NoPolicy",
            "no ColocationPolicy selects this node: nothing is offered".to_owned(),
        ),
        Choice::Refused { name, problems } => (
            false,
            "Refused",
            format!("ColocationPolicy {name} cannot be honoured: {}", problems.join("; ")),
        ),
        Choice::Policy { name, policy } if policy.suspended => (
            false,
            "Suspended",
            format!("ColocationPolicy {name} is suspended: the node is as without the agent"),
        ),
        Choice::Policy { name, .. } if observing => (
            true,
            "Observing",
            format!("ColocationPolicy {name} is followed, nothing is enforced"),
        ),
        Choice::Policy { name, .. } => (true, "Following", format!("ColocationPolicy {name} is followed")),
    };
    conditions.set("PolicyAccepted", good, reason, message, now);
    let terms = |unit: &str, t: &duosuan_policy::action::Terms| match (t.system, t.firm) {
        (Some(system), Some(firm)) => format!(
            "{}{unit} - margin {} - system {system} - prod and mid {firm} - young pods {}",
            t.capacity, t.margin, t.young
        ),
        _ => "no use known yet".to_owned(),
    };
    let message = format!(
        "cpu {}: {}; memory {}: {}",
        basis(report.cpu_basis),
        terms("m", &report.cpu_terms),
        basis(report.memory_basis),
        terms("", &report.memory_terms)
    );
    let fresh = report.cpu_basis == Basis::Fresh && report.memory_basis == Basis::Fresh;
    let reason = if fresh {
        "Fresh"
    } else {
        basis_reason(report.cpu_basis, report.memory_basis)
    };
    conditions.set("ForecastReady", fresh, reason, message, now);
    // Where the guard is off, it says why itself.
    let on = |g: &GuardView| g.name == "network" && g.state != GuardState::Off;
    let reach = report.network.as_ref().filter(|_| report.guards.iter().any(on));
    if let Some(message) = reach.and_then(Network::out_of_reach) {
        conditions.set("NetworkHeld", false, "PodsOutOfReach", message, now);
    }
    if let Some(message) = unwitnessed(&report.unwitnessed) {
        conditions.set("StallsRead", false, "FilesUnreadable", message, now);
    }
}

/// Whose stall cannot be read, the first few of them; nothing where all can.
fn unwitnessed(groups: &BTreeMap<String, Unread>) -> Option<String> {
    let what = |lost: &Unread| {
        let names = [(lost.cpu, "CPU"), (lost.memory, "memory"), (lost.io, "IO")];
        names.into_iter().filter_map(|(lost, name)| lost.then_some(name))
    };
    let shown = groups
        .iter()
        .map(|(path, lost)| format!("{path} ({})", what(lost).collect::<Vec<_>>().join(", ")));
    (!groups.is_empty()).then(|| {
        format!(
            "the guards go on without the stall of {}, which could not be read for longer than reclaim.expire: see the \
             agent's log for the files that fail",
            first(shown)
        )
    })
}

fn basis(basis: Basis) -> &'static str {
    match basis {
        Basis::Cold => "has too few samples",
        Basis::Fresh => "forecast",
        Basis::Held => "signal missing, offer held",
        Basis::Decaying => "signal missing, offer decays",
        Basis::Expired => "signal lost, nothing offered",
        Basis::Suspended => "not offered",
    }
}

fn basis_reason(cpu: Basis, memory: Basis) -> &'static str {
    match if cpu == Basis::Fresh { memory } else { cpu } {
        Basis::Cold => "ColdStart",
        Basis::Fresh => "Fresh",
        Basis::Held | Basis::Decaying => "SignalMissing",
        Basis::Expired => "SignalLost",
        Basis::Suspended => "Suspended",
    }
}

/// Parts of the node that pods can be held to.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// GPUs, by index.
    pub gpus: Vec<GpuReport>,
}

/// The status that goes into the NodeReport, without its conditions.
pub fn status(
    report: &Report,
    choice: &Choice,
    capabilities: &Capabilities,
    parts: &Parts,
    now: Timestamp,
) -> NodeReportStatus {
    let (intended, intended_more) = intended(&report.intended);
    let stall = |s: Option<i64>| u32::try_from(s.unwrap_or(0).max(0)).unwrap_or(0);
    NodeReportStatus {
        time: Some(Time(now)),
        policy: choice.name().map(str::to_owned),
        tiers: report
            .tiers
            .iter()
            .map(|view| TierReport {
                tier: tier(view.tier),
                usage: known(view.usage),
                forecast_peak: known(view.peak),
                bound: both(view.bound),
                reclaimable: match view.tier {
                    Tier::Prod => BTreeMap::new(),
                    Tier::Mid | Tier::Batch => both(view.reclaimable),
                },
                work: work(&view.work),
            })
            .collect(),
        usage: known(report.usage),
        capacity: both(report.capacity),
        system: known(report.system),
        offers: offers(report),
        mid_offers: mid_offers(report),
        pressure: Pressure {
            cpu_milli: stall(report.node_stall.cpu),
            memory_milli: stall(report.node_stall.memory),
            io_milli: stall(report.node_stall.io),
            prod_cpu_milli: stall(report.prod_stall.cpu),
            prod_memory_milli: stall(report.prod_stall.memory),
            prod_io_milli: stall(report.prod_stall.io),
        },
        numa: numa::reports(&report.numa),
        host: host(report),
        gpus: parts.gpus.clone(),
        capabilities: capabilities.names().into_iter().map(str::to_owned).collect(),
        guards: report
            .guards
            .iter()
            .map(|g| GuardReport {
                name: g.name.clone(),
                state: g.state.as_str().to_owned(),
                limit_milli: g.limit.filter(|_| !matches!(g.name.as_str(), "memory" | "network")),
                limit_bytes: g.limit.filter(|_| g.name == "memory"),
                limit_bits: g.limit.filter(|_| g.name == "network"),
                cuts: g.cuts,
                last_action: g.last_action.clone(),
            })
            .collect(),
        actions: report
            .history
            .iter()
            .map(|deed| ActionReport {
                time: Time(at(deed.at, report, now)),
                guard: deed.guard.clone(),
                action: deed.action.clone(),
            })
            .collect(),
        intended,
        intended_more,
        batch_closed: report.eviction.closed,
        evictions: report.eviction.last.iter().map(|e| eviction(e, report, now)).collect(),
        conditions: Vec::new(),
    }
}

const fn tier(tier: Tier) -> ApiTier {
    match tier {
        Tier::Prod => ApiTier::Prod,
        Tier::Mid => ApiTier::Mid,
        Tier::Batch => ApiTier::Batch,
    }
}

/// The wall's time of a moment by the agent's clock, which runs evenly whatever is done to the wall's.
fn at(moment: duosuan_policy::Millis, report: &Report, now: Timestamp) -> Timestamp {
    let age = i64::try_from(report.at.saturating_sub(moment)).unwrap_or(i64::MAX);
    let millis = now.as_millisecond().saturating_sub(age);
    Timestamp::from_millisecond(millis).unwrap_or(now)
}

fn host(report: &Report) -> HostReport {
    let host = &report.host;
    let load = |at: usize| {
        let load = host.load.as_ref().and_then(|load| load.get(at))?;
        Some(Quantity(format!("{}.{:02}", load / 100, load % 100)))
    };
    HostReport {
        load1: load(0),
        load5: load(1),
        load15: load(2),
        paging: host.paging.map(|paging| PagingReport {
            swapped_in_mebibytes: paging.swapped_in >> 20,
            swapped_out_mebibytes: paging.swapped_out >> 20,
            reclaimed_mebibytes: paging.reclaimed >> 20,
            reclaimed_direct_mebibytes: paging.reclaimed_direct >> 20,
            major_faults: paging.major_faults,
            oom_kills: paging.oom_kills,
        }),
        disks: host
            .disks
            .iter()
            .map(|disk| DiskReport {
                name: disk.name.clone(),
                reads: disk.total.io.reads,
                writes: disk.total.io.writes,
                read_mebibytes: disk.total.io.read_bytes >> 20,
                written_mebibytes: disk.total.io.written_bytes >> 20,
                busy_milli: disk.busy_milli,
                queue_milli: disk.queue_milli,
            })
            .collect(),
    }
}

fn work(of: &duosuan_policy::action::TierWork) -> TierWork {
    TierWork {
        anonymous: of.anonymous.map(quantity::mebibytes),
        page_cache: of.page_cache.map(quantity::mebibytes),
        read_mebibytes: of.io.read_bytes >> 20,
        written_mebibytes: of.io.written_bytes >> 20,
        reads: of.io.reads,
        writes: of.io.writes,
        throttled_periods: of.throttled_periods,
        throttled_seconds: of.throttled / 1_000_000,
        ooms: of.ooms,
        oom_kills: of.oom_kills,
    }
}

fn offers(report: &Report) -> Vec<OfferReport> {
    let batch = report.tier(Tier::Batch);
    let bound = batch.map(|t| t.bound).unwrap_or_default();
    let offered = report.batch_offer();
    let of = |name: &str, basis, terms: &Terms, [bound, offered]: [i64; 2], amount: fn(i64) -> Quantity| OfferReport {
        resource: name.to_owned(),
        basis: basis_name(basis).to_owned(),
        capacity: amount(terms.capacity),
        margin: amount(terms.margin),
        system_peak: terms.system.map(amount),
        prod_peak: terms.firm.map(amount),
        young_requests: amount(terms.young),
        target: terms.target().map(|target| amount(target.max(0))),
        bound: amount(bound),
        offered: amount(offered),
    };
    vec![
        of(
            "cpu",
            report.cpu_basis,
            &report.cpu_terms,
            [bound.cpu, offered.cpu],
            quantity::cores,
        ),
        of(
            "memory",
            report.memory_basis,
            &report.memory_terms,
            [bound.memory, offered.memory],
            quantity::mebibytes,
        ),
    ]
}

fn mid_offers(report: &Report) -> Vec<MidOfferReport> {
    let bound = report.tier(Tier::Mid).map(|t| t.bound).unwrap_or_default();
    let offered = report.offer(Tier::Mid);
    let of =
        |name: &str, basis, terms: &MidTerms, [bound, offered]: [i64; 2], amount: fn(i64) -> Quantity| MidOfferReport {
            resource: name.to_owned(),
            basis: basis_name(basis).to_owned(),
            prod_requests: amount(terms.requests),
            prod_peak: terms.peak.map(amount),
            capacity: amount(terms.capacity),
            margin: amount(terms.margin),
            system_peak: terms.system.map(amount),
            share: amount(terms.share),
            target: terms.target().map(amount),
            bound: amount(bound),
            offered: amount(offered),
        };
    let ([cpu, memory], [cpu_basis, memory_basis]) = (&report.mid_terms, report.mid_basis);
    vec![
        of("cpu", cpu_basis, cpu, [bound.cpu, offered.cpu], quantity::cores),
        of(
            "memory",
            memory_basis,
            memory,
            [bound.memory, offered.memory],
            quantity::mebibytes,
        ),
    ]
}

fn basis_name(basis: Basis) -> &'static str {
    match basis {
        Basis::Cold => "ColdStart",
        Basis::Fresh => "Fresh",
        Basis::Held => "Held",
        Basis::Decaying => "Decaying",
        Basis::Expired => "Lost",
        Basis::Suspended => "Suspended",
    }
}

fn eviction(past: &Eviction, report: &Report, now: Timestamp) -> EvictionReport {
    let whole = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    EvictionReport {
        time: Time(at(past.at, report, now)),
        pod: past.name.clone(),
        claim: past.gang.clone(),
        tier: Some(tier(past.tier)),
        cause: past.cause.as_str().to_owned(),
        outcome: past.outcome.as_str().to_owned(),
        lost_core_seconds: whole(past.lost.core_seconds()),
        lost_card_seconds: whole(past.lost.card_seconds()),
        message: past.why.clone(),
    }
}

fn both(r: Resources) -> BTreeMap<String, Quantity> {
    known(Signals {
        cpu: Some(r.cpu),
        memory: Some(r.memory),
    })
}

/// What is unknown is left out: zero would be a lie.
fn known(s: Signals) -> BTreeMap<String, Quantity> {
    let cpu = s.cpu.map(|v| ("cpu".to_owned(), quantity::cores(v)));
    let memory = s.memory.map(|v| ("memory".to_owned(), quantity::mebibytes(v)));
    cpu.into_iter().chain(memory).collect()
}

/// Whether something moved so far that it is worth a report before its time: an offer by 5 % of the node, its use by 20 %
/// (use swings by more than 5 % every second on a small node), a guard, an eviction, or what the offer goes by.
pub fn moved(before: &Report, after: &Report) -> bool {
    let beyond = |a: Option<i64>, b: Option<i64>, percent: i64, of: i64| match (a, b) {
        (Some(a), Some(b)) => (a - b).abs().saturating_mul(100) > of.saturating_mul(percent),
        (a, b) => a.is_some() != b.is_some(),
    };
    let (cpu, memory) = (after.capacity.cpu, after.capacity.memory);
    let offers = [Tier::Mid, Tier::Batch].iter().any(|tier| {
        let (a, b) = (before.offer(*tier), after.offer(*tier));
        beyond(Some(a.cpu), Some(b.cpu), 5, cpu) || beyond(Some(a.memory), Some(b.memory), 5, memory)
    });
    let usage = beyond(before.usage.cpu, after.usage.cpu, 20, cpu)
        || beyond(before.usage.memory, after.usage.memory, 20, memory);
    let guards = before
        .guards
        .iter()
        .map(|g| g.state)
        .ne(after.guards.iter().map(|g| g.state));
    let evictions = before.eviction.closed != after.eviction.closed || before.eviction.last != after.eviction.last;
    let bases = |report: &Report| (report.cpu_basis, report.memory_basis, report.mid_basis);
    offers || usage || guards || evictions || bases(before) != bases(after)
}
