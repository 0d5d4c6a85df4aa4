//! What is offered to batch and to mid, and how it comes about.

use crate::{
    action::{Basis, MidTerms, Terms},
    amounts::{percent, plus},
    forecast::Forecast,
    mid::{self, Known},
    observation::{Millis, Observation, Resources, Signals, Tier},
    offer::{Bounds, Offer},
    pasts::Newcomers,
    policy::{Mid, Policy},
    rates::Measured,
    state::{Forecasts, State},
};

/// All that is offered.
pub(crate) struct Offered {
    /// Expected peaks of prod and mid.
    pub(crate) peaks: [Signals; 2],
    pub(crate) cpu_terms: Terms,
    pub(crate) memory_terms: Terms,
    pub(crate) cpu_basis: Basis,
    pub(crate) memory_basis: Basis,
    pub(crate) batch: Resources,
    pub(crate) mid_terms: [MidTerms; 2],
    pub(crate) mid_basis: [Basis; 2],
    pub(crate) mid: Resources,
}

impl Offered {
    /// CPU that prod's peak of the next minutes leaves to mid, milli-cores.
    pub(crate) fn left_to_mid(&self) -> Option<i64> {
        let [prod, _] = self.peaks;
        let used = self.cpu_terms.margin.saturating_add(self.cpu_terms.system?);
        Some((self.cpu_terms.capacity - used.saturating_add(prod.cpu?)).max(0))
    }
}

/// Where an offer may go, and what keeps it from that.
struct Step {
    target: Option<i64>,
    bounds: Bounds,
    /// Too few samples.
    cold: bool,
    /// The policy wants no such offer.
    unwanted: bool,
    /// How old what is known is; nothing where a part of it is not.
    age: Option<Millis>,
}

/// Moves all offers by what was measured.
pub(crate) fn step(
    policy: &Policy,
    observation: &Observation,
    measured: &Measured,
    bound: [Resources; 3],
    state: &mut State,
    now: Millis,
) -> Offered {
    let newcomers = state.pasts.newcomers(observation, measured, policy, now);
    let peaks = [Tier::Prod, Tier::Mid].map(|tier| peak(state, policy, &newcomers, tier));
    let [of_prod, of_mid] = peaks;
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
    let known = |terms: &Terms, peak| Known {
        capacity: terms.capacity,
        margin: terms.margin,
        system: terms.system,
        peak,
    };
    let both = [known(&cpu_terms, of_prod.cpu), known(&memory_terms, of_prod.memory)];
    let mid_terms = mid::terms(policy, both, &newcomers, state);

    let closed = state.eviction.closed(now);
    let step = |offer: &mut Offer, step: Step| {
        let Step { bounds, age, .. } = step;
        if policy.suspended || step.unwanted {
            offer.withdraw(bounds.bound);
            return Basis::Suspended;
        }
        if step.cold {
            offer.withdraw(bounds.bound);
            return Basis::Cold;
        }
        let target = age.filter(|_| !observation.unlisted).and(step.target);
        // What was too much for the node a moment ago would be so again: nothing beyond what is bound.
        let target = target.map(|target| if closed { target.min(bounds.bound) } else { target });
        offer.step(target, bounds, policy, (now, age.unwrap_or_default()))
    };
    let [prod, mid, _] = measured.tiers;
    let [cpu_age, memory_age] = measured.age;
    let seen = |[a, b, c]: [Option<i64>; 3], age| (a.is_some() && b.is_some() && c.is_some()).then_some(age);
    let ages = [
        seen([prod.cpu, mid.cpu, measured.system.cpu], cpu_age),
        seen([prod.memory, mid.memory, measured.system.memory], memory_age),
    ];
    let [_, of_mid, of_batch] = bound;
    let batch = |terms: &Terms, bound, cold, age| Step {
        target: terms.target(),
        bounds: Bounds {
            capacity: terms.capacity,
            margin: terms.margin,
            bound,
            growth_span: Policy::GROWTH_SPAN,
        },
        cold,
        unwanted: false,
        age,
    };
    let cold = |forecasts: &Forecasts| forecasts.prod.samples() < u64::from(policy.min_samples);
    let of_cpu = batch(&cpu_terms, of_batch.cpu, cold(&state.cpu), ages[0]);
    let of_memory = batch(&memory_terms, of_batch.memory, cold(&state.memory), ages[1]);
    let cpu_basis = step(&mut state.cpu_offer, of_cpu);
    let memory_basis = step(&mut state.memory_offer, of_memory);

    let cold = mid::cold(&policy.mid, state);
    let to_mid = |terms: &MidTerms, bound, percent: u32, age| Step {
        target: terms.target(),
        bounds: Bounds {
            capacity: terms.capacity,
            margin: terms.margin,
            bound,
            growth_span: Mid::GROWTH_SPAN,
        },
        cold,
        unwanted: percent == 0,
        age,
    };
    let [cpu, memory] = &mid_terms;
    let of_cpu = to_mid(cpu, of_mid.cpu, policy.mid.cpu_percent, ages[0]);
    let of_memory = to_mid(memory, of_mid.memory, policy.mid.memory_percent, ages[1]);
    let [cpu, memory] = &mut state.mid_offers;
    let mid_basis = [step(cpu, of_cpu), step(memory, of_memory)];
    let mid = Resources {
        cpu: cpu.value(),
        memory: memory.value(),
    };
    Offered {
        peaks,
        cpu_terms,
        memory_terms,
        cpu_basis,
        memory_basis,
        batch: Resources {
            cpu: state.cpu_offer.value(),
            memory: state.memory_offer.value(),
        },
        mid_terms,
        mid_basis,
        mid,
    }
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
