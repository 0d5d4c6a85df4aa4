//! The decision, in steps: rates, samples, offers, guards, settings.

use crate::{
    action::{Action, Basis, GuardView, Report, Terms, TierView},
    guard::{GuardState, Reading, ShareGuard},
    memory,
    observation::{Capabilities, Group, Millis, Observation, Resources, Signals, Tier},
    offer::Bounds,
    policy::{Mode, Policy},
    rates::Measured,
    state::{Forecasts, State},
};

/// Samples are a second apart; a little less counts too, since timers are late and early.
const SAMPLE_SPAN: Millis = 900;
/// A cut of the CPU guard shows in the stall only after this long: no second cut before.
const AFTER_CUT: Millis = 200;
/// Period of `cpu.max`, microseconds. The kernel's default.
const PERIOD: i64 = 100_000;

/// Answers which settings should hold in the kernel now, and what there is to report.
///
/// `now` must not go back. Whatever setting the caller made before and is not in the answer goes back to what it was.
/// With a suspended policy or in mode `observe` the answer has no settings.
pub fn decide(
    policy: &Policy,
    capabilities: &Capabilities,
    observation: &Observation,
    state: &mut State,
    now: Millis,
) -> (Vec<Action>, Report) {
    // 1. rates
    let mut counters = std::mem::take(&mut state.counters);
    let measured = counters.update(observation, now);
    let young = young_requests(policy, observation, measured, state, now);

    // 2. samples
    if state.sampled.is_none_or(|at| now.saturating_sub(at) >= SAMPLE_SPAN) {
        let rates = state.sampled_counters.update(observation, now);
        let ([prod, mid, _], system) = (rates.tiers, rates.system);
        let (half_life, quantile) = (policy.half_life, policy.quantile_percent);
        state.sampled = Some(now);
        state.cpu.add([prod.cpu, mid.cpu, system.cpu], now, half_life, quantile);
        state
            .memory
            .add([prod.memory, mid.memory, system.memory], now, half_life, quantile);
        state.io_guard.remember(&rates.batch_io);
    }

    // 3. offers
    let bound = bound(observation);
    let cpu_terms = terms(
        &state.cpu,
        policy,
        observation.capacity.cpu,
        policy.cpu_margin_percent,
        young.cpu,
    );
    let memory_terms = terms(
        &state.memory,
        policy,
        observation.capacity.memory,
        policy.memory_margin_percent,
        young.memory,
    );
    let [prod, mid, batch] = measured.tiers;
    let offer = |offer: &mut crate::offer::Offer, forecasts: &Forecasts, terms: &Terms, bound, known: bool| {
        if policy.suspended {
            offer.withdraw(bound);
            return Basis::Suspended;
        }
        if forecasts.prod.samples() < u64::from(policy.min_samples) {
            offer.withdraw(bound);
            return Basis::Cold;
        }
        let target = if known { terms.target() } else { None };
        offer.step(
            target,
            Bounds {
                capacity: terms.capacity,
                margin: terms.margin,
                bound,
            },
            policy,
            now,
        )
    };
    let known = |a: Option<i64>, b: Option<i64>, c: Option<i64>| a.is_some() && b.is_some() && c.is_some();
    let cpu_basis = offer(
        &mut state.cpu_offer,
        &state.cpu,
        &cpu_terms,
        bound[2].cpu,
        known(prod.cpu, mid.cpu, measured.system.cpu),
    );
    let memory_basis = offer(
        &mut state.memory_offer,
        &state.memory,
        &memory_terms,
        bound[2].memory,
        known(prod.memory, mid.memory, measured.system.memory),
    );

    // 4. guards
    if policy.suspended || policy.cpu.disabled {
        state.guard.switch_off();
    } else if measured.fresh {
        let firm = prod.cpu.zip(mid.cpu).map(|(a, b)| a + b);
        let reading = Reading {
            unit: "m",
            capacity: observation.capacity.cpu,
            floor: policy.cpu.floor_on(observation.capacity.cpu),
            threshold: i64::from(policy.cpu.stall_milli),
            settles: AFTER_CUT,
            stall: measured.firm_stall.cpu,
            firm,
            batch: batch.cpu,
        };
        state.guard.step(reading, now);
    }

    // 5. settings
    let mut intended = if state.guard.state == GuardState::Off {
        Vec::new()
    } else {
        settings(
            capabilities,
            observation,
            state.guard.limit,
            state.guard.last_action.as_deref(),
        )
    };
    if policy.suspended || policy.memory.disabled {
        state.memory_guard.switch_off(None);
    } else {
        let reading = memory::Reading {
            seen: observation,
            capabilities,
            // A look that came too soon has no rate of its own, and nothing is decided by an old one.
            stall: measured.firm_stall.memory.filter(|_| measured.fresh),
        };
        intended.extend(state.memory_guard.step(&policy.memory, reading, now));
    }
    if policy.suspended || policy.io.disabled {
        state.io_guard.switch_off(None);
    } else {
        let mut stall = measured.firm_stall;
        stall.io = stall.io.filter(|_| measured.fresh);
        let io = state.io_guard.step(&policy.io, capabilities, observation, stall, now);
        intended.extend(io);
    }
    let guards = guard_views(state);
    state.history.note(&guards, now);
    let tier_view = |tier: Tier, peaks: Signals, reclaimable| TierView {
        tier,
        usage: measured.tiers.get(tier as usize).copied().unwrap_or_default(),
        peak: peaks,
        bound: bound.get(tier as usize).copied().unwrap_or_default(),
        reclaimable,
    };
    let q = policy.quantile_percent;
    let (actions, intended) = match policy.mode {
        Mode::Act => (intended, Vec::new()),
        Mode::Observe => (Vec::new(), intended),
    };
    let report = Report {
        at: now,
        capacity: observation.capacity,
        usage: measured.node,
        system: measured.system,
        tiers: vec![
            tier_view(
                Tier::Prod,
                Signals {
                    cpu: state.cpu.prod.peak(q),
                    memory: state.memory.prod.peak(q),
                },
                Resources::default(),
            ),
            tier_view(
                Tier::Mid,
                Signals {
                    cpu: state.cpu.mid.peak(q),
                    memory: state.memory.mid.peak(q),
                },
                Resources::default(),
            ),
            tier_view(
                Tier::Batch,
                Signals::default(),
                Resources {
                    cpu: state.cpu_offer.value(),
                    memory: state.memory_offer.value(),
                },
            ),
        ],
        node_stall: measured.node_stall,
        prod_stall: measured.firm_stall,
        batch_stall: measured.batch_stall,
        cpu_terms,
        memory_terms,
        cpu_basis,
        memory_basis,
        guards,
        history: state.history.latest(),
        intended,
    };
    state.counters = counters;
    (actions, report)
}

fn guard_views(state: &State) -> Vec<GuardView> {
    let memory = &state.memory_guard;
    let share = |name: &str, guard: &ShareGuard| GuardView {
        name: name.to_owned(),
        state: guard.state,
        limit: guard.limit,
        cuts: guard.cuts,
        last_action: guard.last_action.clone(),
    };
    vec![
        share("cpu", &state.guard),
        share("io", &state.io_guard.share),
        GuardView {
            name: "memory".to_owned(),
            state: memory.state,
            limit: memory.limit,
            cuts: memory.cuts,
            last_action: memory.last_action.clone(),
        },
    ]
}

/// What prod and mid pods that are new here asked for and do not use yet: their past is no witness for them.
fn young_requests(
    policy: &Policy,
    observation: &Observation,
    measured: &Measured,
    state: &mut State,
    now: Millis,
) -> Resources {
    if observation.complete {
        state.first_seen.retain(|path, _| observation.group(path).is_some());
    }
    let mut young = Resources::default();
    for group in &observation.groups {
        let since = match state.first_seen.get(&group.path) {
            Some(&since) => since,
            None => {
                state.first_seen.insert(group.path.clone(), now);
                now
            }
        };
        if group.tier == Tier::Batch || now.saturating_sub(since) >= policy.warm_up {
            continue;
        }
        let used = measured.group_cpu.get(&group.path).copied().unwrap_or(0);
        young.cpu = young.cpu.saturating_add((group.requests.cpu - used).max(0));
        young.memory = young
            .memory
            .saturating_add((group.requests.memory - group.memory.unwrap_or(0)).max(0));
    }
    young
}

/// Requests by tier. Batch is what the API says or what the cgroups say, whichever is more.
fn bound(observation: &Observation) -> [Resources; 3] {
    let mut bound = [Resources::default(); 3];
    for group in &observation.groups {
        if let Some(tier) = bound.get_mut(group.tier as usize) {
            tier.cpu = tier.cpu.saturating_add(group.requests.cpu);
            tier.memory = tier.memory.saturating_add(group.requests.memory);
        }
    }
    let [_, _, batch] = &mut bound;
    batch.cpu = batch.cpu.max(observation.bound_batch.cpu);
    batch.memory = batch.memory.max(observation.bound_batch.memory);
    bound
}

fn terms(forecasts: &Forecasts, policy: &Policy, capacity: i64, margin_percent: u32, young: i64) -> Terms {
    let q = policy.quantile_percent;
    let firm = forecasts
        .prod
        .peak(q)
        .zip(forecasts.mid.peak(q))
        .map(|(a, b)| a.saturating_add(b));
    let margin = i128::from(capacity) * i128::from(margin_percent) / 100;
    Terms {
        capacity,
        margin: i64::try_from(margin).unwrap_or(capacity),
        system: forecasts.system.peak(q),
        firm,
        young,
    }
}

/// Batch groups idle, or of the least weight; and a limit on them together while the guard asks for one.
fn settings(
    capabilities: &Capabilities,
    observation: &Observation,
    limit: Option<i64>,
    why: Option<&str>,
) -> Vec<Action> {
    let batch: Vec<&Group> = observation.groups.iter().filter(|g| g.tier == Tier::Batch).collect();
    let mut settings = Vec::new();
    for group in batch.iter().filter(|g| !weighted_by_kubelet(observation, g)) {
        let (file, value, why) = if capabilities.cpu_idle {
            ("cpu.idle", "1", "batch runs when nobody else wants the CPU")
        } else if capabilities.cpu_weight {
            (
                "cpu.weight",
                "1",
                "batch has the least weight, this kernel knows no cpu.idle",
            )
        } else {
            continue;
        };
        settings.push(Action::new(&group.path, file, value.to_owned(), why));
    }
    let Some(limit) = limit.filter(|_| capabilities.cpu_max && !batch.is_empty()) else {
        return settings;
    };
    let why = why.unwrap_or("the guard limits batch");
    // The kubelet's besteffort cgroup holds batch pods, but others too: with one of those in it, each batch pod is limited.
    if let Some(envelope) = observation.batch_alone_in() {
        settings.push(Action::new(envelope, "cpu.max", quota(limit), why));
        return settings;
    }
    let total: i64 = batch.iter().map(|g| g.requests.cpu.max(1)).sum();
    for group in &batch {
        let share = i128::from(limit) * i128::from(group.requests.cpu.max(1)) / i128::from(total.max(1));
        settings.push(Action::new(
            &group.path,
            "cpu.max",
            quota(i64::try_from(share).unwrap_or(limit)),
            why,
        ));
    }
    settings
}

/// Whether the kubelet owns the group's cpu.weight, which cpu.idle changes too.
///
/// From 1.36 on it reads the weight of a pod's cgroup back into the pod's status and admits by that after a restart. An
/// idle pod reads weight 0, which it takes for 1.8e12 cores (unsigned 0 - 1), so that it fails every other pod with a
/// CPU request as OutOfcpu: seen on 1.37.2 in tests/vm. Nothing is lost: below a besteffort cgroup that is not itself
/// idle, an idle pod made prod stall no less there (22 to 24 % of the time either way).
fn weighted_by_kubelet(observation: &Observation, group: &Group) -> bool {
    let kubelet = observation.envelope.as_deref().and_then(|e| e.rsplit_once('/'));
    kubelet.is_some_and(|(kubepods, _)| {
        group
            .path
            .strip_prefix(kubepods)
            .is_some_and(|rest| rest.starts_with('/'))
    })
}

/// Milli-cores as `cpu.max` spells them. The kernel takes no quota under 1 ms.
fn quota(limit: i64) -> String {
    format!("{} {PERIOD}", (limit.saturating_mul(PERIOD) / 1000).max(1000))
}
