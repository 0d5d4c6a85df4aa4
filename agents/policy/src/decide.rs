//! The decision, in steps: rates, samples, offers, guards, settings.

use crate::{
    action::{Action, Basis, GuardView, Report, Terms, TierView},
    amounts::{percent, plus},
    cpu,
    eviction::{self, Decided},
    forecast::Forecast,
    guard::{Pace, Reading, ShareGuard},
    io, latency,
    llc::SCHEMATA,
    memory,
    observation::{Capabilities, Millis, Observation, Resources, Signals, Tier},
    offer::Bounds,
    pasts::Newcomers,
    policy::{Mode, Policy},
    rates::Measured,
    state::{Forecasts, State},
};

/// Samples are a second apart; a little less counts too, since timers are late and early.
const SAMPLE_SPAN: Millis = 900;
/// A cut of the CPU guard shows in the stall only after this long: no second cut before.
const AFTER_CUT: Millis = 200;

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
    let measured = counters.update(observation, policy, now);
    state
        .pasts
        .follow(observation, policy, &mut state.cpu, &mut state.memory, now);

    // 2. samples
    if !observation.unlisted && state.sampled.is_none_or(|at| now.saturating_sub(at) >= SAMPLE_SPAN) {
        let rates = state.sampled_counters.update(observation, policy, now);
        let ([prod, mid, _], system) = (rates.tiers, rates.system);
        let (half_life, quantile) = (policy.half_life, policy.quantile_percent);
        state.sampled = Some(now);
        // The past of a tier is that of its members; who came lately counts apart.
        let apart = state.pasts.sample(observation, rates, half_life, now);
        let cpu = [prod.cpu, mid.cpu, system.cpu];
        state.cpu.add(cpu, apart.map(|of| of.cpu), now, half_life, quantile);
        let memory = [prod.memory, mid.memory, system.memory];
        state
            .memory
            .add(memory, apart.map(|of| of.memory), now, half_life, quantile);
        state.io_guard.remember(&rates.batch_io);
    }

    // 3. offers
    let bound = bound(observation);
    let newcomers = state.pasts.newcomers(observation, measured, policy, now);
    let peaks = [Tier::Prod, Tier::Mid].map(|tier| peak(state, policy, &newcomers, tier));
    let [of_prod, of_mid] = &peaks;
    let terms = |capacity, share, forecasts: &Forecasts, firm, young| Terms {
        capacity,
        margin: percent(capacity, share),
        system: forecasts.system.peak(policy.quantile_percent),
        firm,
        young,
    };
    let (capacity, unused) = (observation.capacity, newcomers.unused);
    let firm = plus(of_prod.cpu, of_mid.cpu);
    let cpu_terms = terms(capacity.cpu, policy.cpu_margin_percent, &state.cpu, firm, unused.cpu);
    let (share, firm) = (policy.memory_margin_percent, plus(of_prod.memory, of_mid.memory));
    let memory_terms = terms(capacity.memory, share, &state.memory, firm, unused.memory);
    let [prod, mid, batch] = measured.tiers;
    let closed = state.eviction.closed(now);
    let offer = |offer: &mut crate::offer::Offer, forecasts: &Forecasts, terms: &Terms, bound, age: Option<Millis>| {
        if policy.suspended {
            offer.withdraw(bound);
            return Basis::Suspended;
        }
        if forecasts.prod.samples() < u64::from(policy.min_samples) {
            offer.withdraw(bound);
            return Basis::Cold;
        }
        let target = age.filter(|_| !observation.unlisted).and_then(|_| terms.target());
        // What was too much for the node a moment ago would be so again: nothing beyond what is bound.
        let target = target.map(|target| if closed { target.min(bound) } else { target });
        offer.step(
            target,
            Bounds {
                capacity: terms.capacity,
                margin: terms.margin,
                bound,
            },
            policy,
            (now, age.unwrap_or_default()),
        )
    };
    // How old what is known is; nothing where a part of it is not.
    let [cpu_age, memory_age] = measured.age;
    let known = |[a, b, c]: [Option<i64>; 3], age| (a.is_some() && b.is_some() && c.is_some()).then_some(age);
    let cpu_basis = offer(
        &mut state.cpu_offer,
        &state.cpu,
        &cpu_terms,
        bound[2].cpu,
        known([prod.cpu, mid.cpu, measured.system.cpu], cpu_age),
    );
    let memory_basis = offer(
        &mut state.memory_offer,
        &state.memory,
        &memory_terms,
        bound[2].memory,
        known([prod.memory, mid.memory, measured.system.memory], memory_age),
    );

    // 4. guards of batch's CPU, of which the tighter one holds
    let firm = plus(prod.cpu, mid.cpu);
    let reading = Reading {
        unit: "m",
        capacity: observation.capacity.cpu,
        floor: policy.cpu.floor_on(observation.capacity.cpu),
        pace: Pace::of_stall(policy.cpu.stall_milli, AFTER_CUT),
        what: "prod stalled",
        signal: measured.firm_stall.cpu,
        unread: measured.firm_unread.cpu,
        firm,
        relief: (observation.capacity.cpu / 20).max(1),
        batch: batch.cpu,
    };
    // Without either file nothing can be cut, whatever prod suffers.
    let cuts = capabilities.cpu_max || (capabilities.cpuset && policy.cpu.confine);
    if policy.suspended || policy.cpu.disabled {
        state.guard.switch_off(None);
    } else if capabilities.known() && !cuts {
        state.guard.switch_off(Some(&capabilities.lack_of("cpu.max")));
    } else if measured.fresh {
        state.guard.step(reading, now);
    }
    if policy.suspended || policy.latency.disabled {
        state.latency_guard.switch_off(None);
    } else {
        let services = latency::Reading {
            services: &observation.services,
            capabilities,
            expire: policy.expire,
            cpu: reading,
        };
        state.latency_guard.step(&policy.latency, services, now);
    }

    // 5. settings, and the guards that answer theirs themselves
    let mut intended = if policy.suspended || policy.cpu.disabled {
        Vec::new()
    } else {
        let mut settings = cpu::weights(capabilities, observation);
        settings.extend(cpu::bursts(capabilities, observation, policy.cpu.burst_percent));
        settings
    };
    let tighter = [&state.guard, &state.latency_guard.share]
        .into_iter()
        .filter_map(|guard| Some((guard.limit?, guard.last_action.as_deref())))
        .min_by_key(|(limit, _)| *limit);
    if let Some((limit, why)) = tighter {
        let why = why.unwrap_or("the guard limits batch");
        intended.extend(cpu::limits(capabilities, observation, limit, why));
        if policy.cpu.confine {
            intended.extend(cpu::confinement(capabilities, observation, limit, why));
        }
    }
    if policy.suspended || policy.memory.disabled {
        state.memory_guard.switch_off(None);
    } else {
        let reading = memory::Reading {
            seen: observation,
            capabilities,
            // A look that came too soon has no rate of its own, and nothing is decided by an old one.
            stall: measured.firm_stall.memory.filter(|_| measured.fresh),
            unread: measured.firm_unread.memory,
        };
        intended.extend(state.memory_guard.step(&policy.memory, reading, now));
    }
    if policy.suspended || policy.io.disabled {
        state.io_guard.switch_off(None);
    } else {
        let reading = io::Reading {
            seen: observation,
            capabilities,
            stall: measured.firm_stall.io.filter(|_| measured.fresh),
            unread: measured.firm_unread.io,
        };
        let io = state.io_guard.step(&policy.io, reading, now);
        intended.extend(io);
    }
    if policy.suspended || policy.llc.disabled {
        state.llc_guard.switch_off(None);
    } else if capabilities.refused.contains_key(SCHEMATA) {
        state.llc_guard.switch_off(Some(&capabilities.lack_of(SCHEMATA)));
    } else {
        intended.extend(state.llc_guard.step(&policy.llc, observation, now));
    }
    let decided = evictions(
        policy,
        capabilities,
        observation,
        measured,
        cpu_terms.target(),
        state,
        now,
    );
    intended.extend(decided.kills.iter().cloned());
    let guards = guard_views(state);
    state.history.note(&guards, now);
    let tier_view = |tier: Tier, peaks: Signals, reclaimable| TierView {
        tier,
        usage: measured.tiers.get(tier as usize).copied().unwrap_or_default(),
        peak: peaks,
        bound: bound.get(tier as usize).copied().unwrap_or_default(),
        reclaimable,
        work: measured.work.get(tier as usize).copied().unwrap_or_default(),
    };
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
            tier_view(Tier::Prod, peaks[0], Resources::default()),
            tier_view(Tier::Mid, peaks[1], Resources::default()),
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
        unwitnessed: measured.unwitnessed.clone(),
        cpu_terms,
        memory_terms,
        cpu_basis,
        memory_basis,
        cache: observation.cache,
        slowest: state.latency_guard.slowest.clone(),
        own_misses: state.latency_guard.own_misses(),
        guards,
        history: state.history.latest(),
        eviction: state.eviction.view(decided, now),
        intended,
    };
    state.counters = counters;
    (actions, report)
}

/// 6. evictions: who has to leave where the guards do not suffice.
fn evictions(
    policy: &Policy,
    capabilities: &Capabilities,
    observation: &Observation,
    measured: &Measured,
    left: Option<i64>,
    state: &mut State,
    now: Millis,
) -> Decided {
    if policy.suspended || policy.eviction.disabled {
        state.eviction.switch_off();
        return Decided::default();
    }
    let floor = policy.cpu.floor_on(observation.capacity.cpu);
    // After a cut a guard tries a little more than the floor again and again.
    let low = |guard: &ShareGuard| guard.limit.is_some_and(|limit| limit <= floor.saturating_mul(2));
    let reading = eviction::Reading {
        seen: observation,
        capabilities,
        fresh: measured.fresh,
        stall: measured.firm_stall.memory,
        threshold: i64::from(policy.memory.stall_milli),
        full: measured.memory_full,
        exhausted: state.memory_guard.exhausted,
        at_floor: low(&state.guard) || (low(&state.latency_guard.share) && !state.latency_guard.measures()),
        left: left.map(|left| left.max(floor)),
    };
    let act = policy.mode == Mode::Act;
    state.eviction.step(&policy.eviction, reading, act, now)
}

fn guard_views(state: &State) -> Vec<GuardView> {
    let view = |name: &str, state, limit, cuts, last_action: &Option<String>| GuardView {
        name: name.to_owned(),
        state,
        limit,
        cuts,
        last_action: last_action.clone(),
    };
    let share = |name: &str, g: &ShareGuard| view(name, g.state, g.limit, g.cuts, &g.last_action);
    let (llc, memory) = (&state.llc_guard, &state.memory_guard);
    vec![
        share("cpu", &state.guard),
        share("io", &state.io_guard.share),
        share("latency", &state.latency_guard.share),
        view("llc", llc.state, llc.limit, llc.cuts, &llc.last_action),
        view("memory", memory.state, memory.limit, memory.cuts, &memory.last_action),
    ]
}

/// The peak that is expected of a tier: of its members, and the most that those who came lately used. `pasts` says why so.
fn peak(state: &State, policy: &Policy, newcomers: &Newcomers, tier: Tier) -> Signals {
    let [cpu_most, memory_most] = state.pasts.most(tier, policy.min_samples);
    let apart = newcomers.used.get(tier as usize).copied().unwrap_or_default();
    let of = |forecast: &Forecast, most: Option<i64>, apart: i64| {
        let peak = forecast.peak(policy.quantile_percent)?;
        let bounded = most.map_or(peak, |most| peak.min(most.max(forecast.last())));
        Some(bounded.saturating_add(apart))
    };
    Signals {
        cpu: of(state.cpu.of(tier), cpu_most, apart.cpu),
        memory: of(state.memory.of(tier), memory_most, apart.memory),
    }
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
