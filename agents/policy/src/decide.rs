//! The decision, in steps: rates, samples, offers, guards, settings.

use crate::{
    action::{Action, GuardView, Report, TierView},
    amounts::plus,
    cpu,
    eviction::{self, Decided},
    guard::{Pace, Reading, ShareGuard},
    io, latency,
    llc::SCHEMATA,
    memory,
    observation::{Capabilities, Millis, Observation, Resources, Signals, Tier},
    offers,
    policy::{Mid, Mode, Policy},
    rates::Measured,
    state::State,
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
        state.numa.sample(observation, now);
        // A minute in which nothing could be sampled has no peak.
        let began = *state.minute.get_or_insert(now);
        if now.saturating_sub(began) >= Mid::MINUTE {
            state.minute = Some(now);
            state.pasts.end_minute(&policy.mid, now);
            state.cpu.end_minute(&policy.mid, now);
            state.memory.end_minute(&policy.mid, now);
        }
    }

    // 3. offers
    let bound = bound(observation);
    let offered = offers::step(policy, observation, measured, bound, state, now);
    let [prod, mid, batch] = measured.tiers;

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
    if policy.suspended || policy.network.disabled {
        state.network_guard.switch_off(None);
    } else {
        let network = state
            .network_guard
            .step(&policy.network, capabilities, observation, now);
        intended.extend(network);
    }
    let decided = evictions(
        policy,
        capabilities,
        observation,
        measured,
        (offered.cpu_terms.target(), offered.left_to_mid()),
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
    let tiers = vec![
        tier_view(Tier::Prod, offered.peaks[0], Resources::default()),
        tier_view(Tier::Mid, offered.peaks[1], offered.mid),
        tier_view(Tier::Batch, Signals::default(), offered.batch),
    ];
    let report = Report {
        at: now,
        capacity: observation.capacity,
        usage: measured.node,
        system: measured.system,
        node_stall: measured.node_stall,
        prod_stall: measured.firm_stall,
        batch_stall: measured.batch_stall,
        unwitnessed: measured.unwitnessed.clone(),
        cpu_terms: offered.cpu_terms,
        memory_terms: offered.memory_terms,
        cpu_basis: offered.cpu_basis,
        memory_basis: offered.memory_basis,
        mid_terms: offered.mid_terms,
        mid_basis: offered.mid_basis,
        cache: observation.cache,
        numa: state.numa.view(observation, measured.node, &tiers),
        host: state.hosts.follow(&observation.host),
        network: observation.network.clone(),
        slowest: state.latency_guard.slowest.clone(),
        own_misses: state.latency_guard.own_misses(),
        guards,
        history: state.history.latest(),
        eviction: state.eviction.view(decided, now),
        tiers,
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
    (left, left_to_mid): (Option<i64>, Option<i64>),
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
        floor,
        batch_cpu: measured.tiers[2].cpu,
        prod_stall: measured.prod_stall,
        cpu_threshold: i64::from(policy.cpu.stall_milli),
        mid_cpu: measured.tiers[1].cpu,
        left_to_mid,
        group_cpu: &measured.group_cpu,
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
    let (llc, memory, network) = (&state.llc_guard, &state.memory_guard, &state.network_guard);
    vec![
        share("cpu", &state.guard),
        share("io", &state.io_guard.share),
        share("latency", &state.latency_guard.share),
        view("llc", llc.state, llc.limit, llc.cuts, &llc.last_action),
        view("memory", memory.state, memory.limit, memory.cuts, &memory.last_action),
        view(
            "network",
            network.state,
            network.limit(),
            network.cuts,
            &network.last_action,
        ),
    ]
}

/// Requests by tier. Of mid and batch they are what the API says or what the cgroups say, whichever is more.
fn bound(observation: &Observation) -> [Resources; 3] {
    let mut bound = [Resources::default(); 3];
    for group in &observation.groups {
        if let Some(tier) = bound.get_mut(group.tier as usize) {
            *tier = tier.plus(group.requests);
        }
    }
    let [_, mid, batch] = &mut bound;
    *mid = mid.max(observation.bound_mid);
    *batch = batch.max(observation.bound_batch);
    bound
}
