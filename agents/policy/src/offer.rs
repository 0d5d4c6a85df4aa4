//! The offer of one resource: down at once, up slowly, and what happens when its signal is missing.

use serde::{Deserialize, Serialize};

use crate::{action::Basis, observation::Millis, policy::Policy};

/// An offer as it moves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    value: i64,
    /// From where and when the present growth counts.
    base: Option<(i64, Millis)>,
    /// The value at the last good signal and its time.
    good: Option<(i64, Millis)>,
}

/// What bounds an offer.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// What the node has.
    pub capacity: i64,
    /// Never offered.
    pub margin: i64,
    /// What is bound: the offer is never below.
    pub bound: i64,
    /// The time in which it may grow by the policy's part of the capacity.
    pub growth_span: Millis,
}

impl Offer {
    /// The offer as it stands.
    pub const fn value(&self) -> i64 {
        self.value
    }

    /// Falls back to what is bound.
    pub fn withdraw(&mut self, bound: i64) {
        *self = Self {
            value: bound.max(0),
            ..Self::default()
        };
    }

    /// Moves towards `target`, or copes with not having one. The signal behind it is of `age` before `now`: what is lost for
    /// good was good until then.
    pub fn step(
        &mut self,
        target: Option<i64>,
        bounds: Bounds,
        policy: &Policy,
        (now, age): (Millis, Millis),
    ) -> Basis {
        let floor = bounds.bound.max(0);
        let most = (bounds.capacity - bounds.margin).max(floor);
        let Some(target) = target else {
            return self.decay(floor, most, policy, now);
        };
        let target = target.clamp(floor, most);
        let (base, since) = *self.base.get_or_insert((self.value, now));
        // Growth beyond the last half minute does not add up: a sleeping agent wakes to no jump.
        let elapsed = now.saturating_sub(since);
        let room = i128::from(bounds.capacity.max(0)) * i128::from(policy.growth_percent) * i128::from(elapsed)
            / (100 * i128::from(bounds.growth_span.max(1)));
        let allowed = base.saturating_add(i64::try_from(room).unwrap_or(i64::MAX));
        self.value = if target <= self.value {
            target
        } else {
            allowed.max(self.value).min(target)
        }
        .max(floor);
        if self.value >= target || target <= base {
            self.base = Some((self.value, now));
        }
        self.good = Some((self.value, now.saturating_sub(age)));
        Basis::Fresh
    }

    fn decay(&mut self, floor: i64, most: i64, policy: &Policy, now: Millis) -> Basis {
        // A growth that was under way does not go on while nothing is seen, nor is it made up for later.
        self.base = None;
        let Some((held, since)) = self.good else {
            self.value = floor;
            return Basis::Cold;
        };
        let age = now.saturating_sub(since);
        let held = held.clamp(floor, most);
        if age <= policy.hold {
            self.value = held.min(self.value).max(floor);
            return Basis::Held;
        }
        let left = policy.expire.saturating_sub(age);
        if left == 0 {
            self.value = floor;
            return Basis::Expired;
        }
        let span = policy.expire.saturating_sub(policy.hold).max(1);
        let above = i128::from(held - floor) * i128::from(left) / i128::from(span);
        // A floor that rises lifts the offer to it, no further.
        self.value = floor
            .saturating_add(i64::try_from(above).unwrap_or(0))
            .min(self.value.max(floor));
        Basis::Decaying
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "tests"
    )]
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds {
        capacity: 10_000,
        margin: 1_000,
        bound: 500,
        growth_span: Policy::GROWTH_SPAN,
    };

    fn warm(policy: &Policy) -> (Offer, Millis) {
        let mut offer = Offer::default();
        let mut now = 0;
        while offer.value() < 6_000 {
            offer.step(Some(6_000), BOUNDS, policy, (now, 0));
            now += 1_000;
        }
        (offer, now - 1_000)
    }

    #[test]
    fn it_grows_a_tenth_of_the_node_in_half_a_minute_and_falls_at_once() {
        let policy = Policy::default();
        let mut offer = Offer::default();
        for now in (0..=30_000).step_by(100) {
            offer.step(Some(9_000), BOUNDS, &policy, (now, 0));
        }
        assert_eq!(offer.value(), 1_000);
        offer.step(Some(700), BOUNDS, &policy, (30_100, 0));
        assert_eq!(offer.value(), 700);
        offer.step(Some(0), BOUNDS, &policy, (30_200, 0));
        assert_eq!(offer.value(), 500);
    }

    #[test]
    fn a_missing_signal_holds_then_decays_then_ends_at_what_is_bound() {
        let policy = Policy::default();
        let (mut offer, t) = warm(&policy);
        assert_eq!(offer.step(None, BOUNDS, &policy, (t + 60_000, 0)), Basis::Held);
        assert_eq!(offer.value(), 6_000);
        assert_eq!(offer.step(None, BOUNDS, &policy, (t + 180_000, 0)), Basis::Decaying);
        assert_eq!(offer.value(), 500 + 5_500 / 2);
        assert_eq!(offer.step(None, BOUNDS, &policy, (t + 300_000, 0)), Basis::Expired);
        assert_eq!(offer.value(), 500);
    }

    #[test]
    fn a_signal_that_was_never_there_offers_only_what_is_bound() {
        let mut offer = Offer::default();
        assert_eq!(offer.step(None, BOUNDS, &Policy::default(), (5, 0)), Basis::Cold);
        assert_eq!(offer.value(), 500);
    }

    proptest! {
        #[test]
        fn never_below_what_is_bound_nor_over_the_margin_nor_faster_than_the_slew(
            steps in prop::collection::vec((prop::option::of(-5_000i64..20_000), 0i64..12_000, 1u64..40_000), 1..120)
        ) {
            let policy = Policy::default();
            let mut offer = Offer::default();
            let (mut now, mut before) = (0, 0);
            for (target, bound, wait) in steps {
                now += wait;
                let bounds = Bounds { bound, ..BOUNDS };
                offer.step(target, bounds, &policy, (now, 0));
                prop_assert!(offer.value() >= bound);
                prop_assert!(offer.value() <= bound.max(bounds.capacity - bounds.margin));
                let room = 10_000 * 10 * wait as i64 / (100 * 30_000) + 1;
                prop_assert!(offer.value() <= bound.max(before + room), "{} after {before} in {wait} ms", offer.value());
                before = offer.value();
            }
        }
    }
}
