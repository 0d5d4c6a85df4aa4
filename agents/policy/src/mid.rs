//! What is offered to mid: prod's requests that stay unused in the long run, so that they need not be taken back with the next
//! wave of its load.
//!
//! Batch is told what the next minutes leave, and bets that pods do not peak together. Mid bets on neither. Prod's *long peak*
//! is the greatest of
//!
//! - the sum of what each pod is expected to need for itself: a high quantile of the peaks of its minutes, over days
//!   ([`policy::Mid`]); what it asked for or used at most, until a day of it was seen;
//! - the same quantile, plus a sigma of its error, of the peaks of the minutes of all together, but not more than the most of
//!   each in those days, beside which newcomers count with the most that they used: of many pods that seldom work, one always does;
//! - its peak of the next minutes, as batch's offer has it.
//!
//! Of what prod asked for, the rest stays unused. Offered is the least of that, of what the node has beyond margin, system and
//! the long peak, and of the policy's share:
//!
//! ```text
//! target = min(requests - peak, capacity - margin - system - peak, share)
//! ```
//!
//! (Koordinator's mid is the least of the first and the third; its margin is a tenth on top of the peak.)
//!
//! Both offers add up as promises do, not as amounts: batch's formula knows nothing of what is *offered* to mid. What is bound
//! in mid counts off batch's offer as prod does, at first in full and then by its own peak. So batch may be promised what mid
//! has not asked for yet or does not use now, as it may be promised what prod does not use, and gives it back at once: the next
//! report has less of it, and its guards hold it to what is left until then. Mid is promised nothing that batch could keep.

use crate::{
    action::MidTerms,
    amounts::{percent, plus},
    pasts::Newcomers,
    policy::{self, Policy},
    state::{Forecasts, State},
};

/// The terms of both resources, where batch's are known.
pub(crate) struct Known {
    /// What the node has.
    pub(crate) capacity: i64,
    /// Never offered.
    pub(crate) margin: i64,
    /// Expected peak of what is in no pod.
    pub(crate) system: Option<i64>,
    /// Prod's peak of the next minutes.
    pub(crate) peak: Option<i64>,
}

/// The terms of the offers of CPU and memory.
pub(crate) fn terms(policy: &Policy, [cpu, memory]: [Known; 2], newcomers: &Newcomers, state: &State) -> [MidTerms; 2] {
    let mid = &policy.mid;
    let [apart, _] = newcomers.used;
    let of = |known: Known, together: Option<i64>, apart: i64, own: i64, requests: i64, share: u32| {
        let together = plus(together, Some(apart));
        let peak = known
            .peak
            .zip(together)
            .map(|(next, together)| own.max(next).max(together));
        MidTerms {
            capacity: known.capacity,
            margin: known.margin,
            system: known.system,
            requests,
            peak,
            share: percent(known.capacity, share),
        }
    };
    let [cpu_most, memory_most] = state.pasts.most_in_days(policy.min_samples);
    let long = |forecasts: &Forecasts, most: Option<i64>| {
        let peak = forecasts.long.peak(mid.quantile_percent)?;
        Some(most.map_or(peak, |most| peak.min(most)))
    };
    let (own, requests) = (newcomers.own, newcomers.requests);
    [
        of(
            cpu,
            long(&state.cpu, cpu_most),
            apart.cpu,
            own.cpu,
            requests.cpu,
            mid.cpu_percent,
        ),
        of(
            memory,
            long(&state.memory, memory_most),
            apart.memory,
            own.memory,
            requests.memory,
            mid.memory_percent,
        ),
    ]
}

/// Whether too few minutes were seen for an offer to mid.
pub(crate) fn cold(mid: &policy::Mid, state: &State) -> bool {
    let samples = [&state.cpu, &state.memory].map(|of| of.long.samples());
    samples.iter().any(|samples| *samples < mid.minutes())
}
