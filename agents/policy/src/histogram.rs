//! A decaying histogram of integers: what was seen lately counts, what was seen long ago fades.

use serde::{Deserialize, Serialize};

use crate::observation::Millis;

/// Each power of two is split in this many buckets, so that a value is known to 1/32 = 3 %.
const STEPS: u64 = 1 << STEP_BITS;
const STEP_BITS: u32 = 5;
/// Weight of a fresh sample. Large, so that a sample ten half-lives old still counts 2^10.
const FRESH: u64 = 1 << 20;
/// Ageing happens in sixteenths of a half-life: each multiplies by 2^(-1/16) = 62757 / 65536.
const AGEINGS_PER_HALF_LIFE: u64 = 16;
const AGEING: u64 = 62_757;

/// A decaying histogram. A value is answered as the upper edge of its bucket, so never too low.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    buckets: Vec<u64>,
    aged: Millis,
    samples: u64,
}

impl Histogram {
    /// Takes in a sample; negative counts as 0. `now` that goes back counts as no time passed.
    pub fn add(&mut self, value: i64, now: Millis, half_life: Millis) {
        self.age(now, half_life);
        let bucket = bucket_of(value.max(0).unsigned_abs());
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        if let Some(weight) = self.buckets.get_mut(bucket) {
            *weight = weight.saturating_add(FRESH);
        }
        self.samples = self.samples.saturating_add(1);
    }

    /// Samples taken in since it was made.
    pub const fn samples(&self) -> u64 {
        self.samples
    }

    /// The value that `percent` of the weight is not above; `None` if there is none.
    pub fn quantile(&self, percent: u32) -> Option<i64> {
        let total: u128 = self.buckets.iter().map(|&w| u128::from(w)).sum();
        if total == 0 {
            return None;
        }
        let wanted = (total * u128::from(percent.min(100))).div_ceil(100);
        let mut seen = 0;
        for (bucket, &weight) in self.buckets.iter().enumerate() {
            seen += u128::from(weight);
            if weight > 0 && seen >= wanted {
                return Some(i64::try_from(upper_edge(bucket)).unwrap_or(i64::MAX));
            }
        }
        None
    }

    fn age(&mut self, now: Millis, half_life: Millis) {
        if self.samples == 0 {
            self.aged = now;
            return;
        }
        let step = (half_life / AGEINGS_PER_HALF_LIFE).max(1);
        let steps = now.saturating_sub(self.aged) / step;
        if steps == 0 {
            return;
        }
        self.aged += steps * step;
        if steps >= 40 * AGEINGS_PER_HALF_LIFE {
            // 2^-40: nothing is left of it. The count of samples stays, so a long sleep is no cold start.
            self.buckets.clear();
            return;
        }
        for _ in 0..steps {
            for weight in &mut self.buckets {
                *weight = ((u128::from(*weight) * u128::from(AGEING)) >> 16) as u64;
            }
        }
    }
}

/// Exact below `STEPS`, then `STEPS` buckets for each power of two.
fn bucket_of(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    let power = value.ilog2() - STEP_BITS;
    let step = (value >> power) - STEPS;
    (STEPS + u64::from(power) * STEPS + step) as usize
}

fn upper_edge(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let (power, step) = ((bucket - STEPS) / STEPS, (bucket - STEPS) % STEPS);
    let edge = u128::from(STEPS + step + 1) << power;
    u64::try_from(edge - 1).unwrap_or(u64::MAX)
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

    const HOUR: Millis = 3_600_000;

    #[test]
    fn an_empty_histogram_has_no_quantile() {
        assert_eq!(Histogram::default().quantile(98), None);
    }

    #[test]
    fn what_is_a_half_life_old_counts_half() {
        let mut h = Histogram::default();
        for _ in 0..100 {
            h.add(1000, 0, HOUR);
        }
        for _ in 0..51 {
            h.add(10, HOUR, HOUR);
        }
        // 100 halved is 50 against 51 fresh ones.
        assert_eq!(h.quantile(50), Some(10));
        assert!(h.quantile(51).unwrap() >= 1000);
    }

    #[test]
    fn a_clock_that_goes_back_changes_nothing() {
        let mut h = Histogram::default();
        h.add(5, HOUR, HOUR);
        h.add(5, 0, HOUR);
        assert_eq!(h.quantile(100), Some(5));
        assert_eq!(h.samples(), 2);
    }

    #[test]
    fn it_survives_being_written_and_read() {
        let mut h = Histogram::default();
        for i in 0..1000 {
            h.add(i * 17, i as u64 * 1000, HOUR);
        }
        let text = serde_json::to_string(&h).unwrap();
        assert_eq!(serde_json::from_str::<Histogram>(&text).unwrap(), h);
    }

    proptest! {
        #[test]
        fn a_value_is_answered_no_lower_and_at_most_a_thirty_second_higher(value in 0i64..i64::MAX) {
            let mut h = Histogram::default();
            h.add(value, 0, HOUR);
            let answer = h.quantile(50).unwrap();
            prop_assert!(answer >= value);
            prop_assert!(answer - value <= value / 32 + 1);
        }

        #[test]
        fn a_higher_quantile_is_no_lower(values in prop::collection::vec(0i64..1 << 40, 1..200), p in 1u32..100) {
            let mut h = Histogram::default();
            for v in values {
                h.add(v, 0, HOUR);
            }
            prop_assert!(h.quantile(p).unwrap() <= h.quantile(p + 1).unwrap());
        }
    }
}
