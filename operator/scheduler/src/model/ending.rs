//! When what runs is expected to end: what reservations are made of.

use std::sync::Arc;

use crate::{
    event::Time,
    model::{ClaimSlot, Model},
    slab::{ClaimOrd, PodOrd},
};

/// Milliseconds after which a pod that is on its way out is expected to be gone: the grace period that Kubernetes gives
/// by default, 30 s.
pub(crate) const LEAVING: i64 = 30_000;

/// Part of its length by which a claim that outlives its estimate is expected to go on at first. It doubles each time it
/// is outlived again: who is late by a little mostly ends soon, and who is late by much does not.
const LATE: i64 = 16;

/// Order of those that run and are expected to end: by that time, then age, then UID.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EndKey {
    pub(crate) end: Time,
    pub(crate) created: Time,
    pub(crate) uid: Arc<str>,
    pub(crate) claim: ClaimOrd,
}

impl ClaimSlot {
    /// Milliseconds that it is expected to hold what it has, if it starts at some time; `None` if it never ends by itself.
    pub(crate) fn length_from(&self, start: Time) -> Option<i64> {
        let stated = self.expected_duration.filter(|length| *length > 0);
        let window = self.window.map(|w| w.end.0.saturating_sub(start.0));
        let window = window.filter(|length| *length > 0);
        match (stated, window) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        }
    }

    /// When it ends if it starts at some time and keeps to its estimate.
    pub(crate) fn end_from(&self, start: Time) -> Option<Time> {
        let length = self.length_from(start)?;
        Some(Time(start.0.saturating_add(length)))
    }

    /// When it is expected to end, as seen from `now`; later than that, while there is a later time. `None` if it does not run, or never ends
    /// by itself.
    pub(crate) fn expected_end(&self, now: Time) -> Option<Time> {
        let started = self.started?;
        let length = self.length_from(started)?;
        let estimate = started.0.saturating_add(length);
        if estimate > now.0 {
            return Some(Time(estimate));
        }
        let mut late = (length / LATE).max(1);
        // At the end of time nothing is later than now.
        while late < i64::MAX && estimate.saturating_add(late) <= now.0 {
            late = late.saturating_mul(2);
        }
        Some(Time(estimate.saturating_add(late)))
    }
}

impl Model {
    /// Keeps the list of those that run and are expected to end.
    pub(crate) fn note_end(&mut self, ord: ClaimOrd) {
        let claim = &self.claims[ord];
        let runs = claim.listed_running.then_some(claim.started).flatten();
        let end = runs.and_then(|started| claim.end_from(started));
        if end == claim.listed_end {
            return;
        }
        let key = |end| EndKey {
            end,
            created: claim.created,
            uid: claim.uid.clone(),
            claim: ord,
        };
        let (old, new) = (claim.listed_end.map(key), end.map(key));
        if let Some(old) = old {
            self.ending.remove(&old);
        }
        self.ending.extend(new);
        self.claims[ord].listed_end = end;
        if !self.reservations.is_empty() {
            for pod in self.members(ord).collect::<Vec<_>>() {
                self.future_changed(pod);
            }
        }
    }

    /// Takes a claim off the list of those that are expected to end.
    pub(crate) fn forget_end(&mut self, ord: ClaimOrd) {
        let claim = &mut self.claims[ord];
        if let Some(end) = claim.listed_end.take() {
            let key = EndKey {
                end,
                created: claim.created,
                uid: claim.uid.clone(),
                claim: ord,
            };
            self.ending.remove(&key);
        }
    }

    /// Claims in the order in which they are expected to end, up to `limit` of them and to a time, as seen from now.
    pub(crate) fn endings(&self, until: Option<Time>, limit: usize) -> Vec<(Time, ClaimOrd)> {
        let now = self.now;
        let mut all: Vec<(Time, &EndKey)> = Vec::new();
        // Those that are late are first on the list, and not in the order in which they are expected now.
        for key in &self.ending {
            let late = key.end <= now;
            if !late && (all.len() >= limit || until.is_some_and(|until| key.end > until)) {
                break;
            }
            if let Some(end) = self.claims[key.claim].expected_end(now) {
                all.push((end, key));
            }
        }
        all.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.cmp(b.1)));
        all.retain(|(end, _)| until.is_none_or(|until| *end <= until));
        all.truncate(limit);
        all.into_iter().map(|(end, key)| (end, key.claim)).collect()
    }

    /// When a pod that holds a seat is expected to leave it; `None` for never by itself.
    pub(crate) fn pod_ends(&self, pod: PodOrd) -> Option<Time> {
        if self.going.contains(&pod) {
            return Some(Time(self.now.0.saturating_add(LEAVING)));
        }
        let claim = self.pods[pod].claim?;
        self.claims[claim].expected_end(self.now)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::{
        event::{Claim, Window},
        tests::fixtures::{World, claim},
    };

    fn slot(of: Claim, started: i64) -> ClaimSlot {
        let mut world = World::with([of.into()]);
        let model = &mut world.cluster.model;
        let ord = *model.claims_by_uid.values().next().unwrap();
        model.claims[ord].started = Some(Time(started));
        model.claims[ord].clone()
    }

    #[test]
    fn who_outlives_the_estimate_is_expected_to_go_on_for_a_while_that_doubles() {
        let mut of = claim("c", "q", &[("w", 1, 1, 1)]);
        of.expected_duration = Some(1600);
        let slot = slot(of, 1000);
        let ends = [1000, 2599, 2600, 2699, 2700, 2799, 2800, 3001].map(|now| slot.expected_end(Time(now)).unwrap().0);
        assert_eq!(ends, [2600, 2600, 2700, 2700, 2800, 2800, 3000, 3400]);
    }

    /// It was doubled for ever.
    #[test]
    fn at_the_end_of_time_the_estimate_of_one_that_is_late_ends_too() {
        let mut of = claim("c", "q", &[("w", 1, 1, 1)]);
        for length in [1, 1600, i64::MAX] {
            of.expected_duration = Some(length);
            let end = slot(of.clone(), 1000).expected_end(Time(i64::MAX));
            assert_eq!(end, Some(Time(i64::MAX)));
        }
    }

    #[test]
    fn a_window_ends_what_states_no_duration_and_nothing_else_ends_by_itself() {
        let mut of = claim("c", "q", &[("w", 1, 1, 1)]);
        assert_eq!(slot(of.clone(), 0).expected_end(Time(0)), None);
        of.window = Some(Window {
            start: Time(100),
            end: Time(500),
        });
        assert_eq!(slot(of.clone(), 100).expected_end(Time(100)), Some(Time(500)));
        of.expected_duration = Some(50);
        assert_eq!(slot(of, 100).expected_end(Time(100)), Some(Time(150)));
    }
}
