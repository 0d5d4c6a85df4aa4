//! The peak that a use is expected to reach in the next minutes.

use serde::{Deserialize, Serialize};

use crate::{histogram::Histogram, observation::Millis};

/// Weight of a new squared error in the running mean: 1/64, about a minute of samples.
const ERROR_SHARE: i128 = 64;

/// Quantile of a decaying histogram, plus the spread of the errors that this quantile made on the low side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// Samples less `offset`: so, those who come and leave are counted exactly, and not by buckets.
    histogram: Histogram<5>,
    #[serde(default)]
    offset: i64,
    /// Running mean of the squared excess over the quantile.
    variance: i128,
    last: i64,
}

impl Forecast {
    /// Takes in a sample.
    pub fn add(&mut self, value: i64, now: Millis, half_life: Millis, quantile_percent: u32) {
        let value = value.max(0);
        let expected = self.quantile(quantile_percent);
        if let Some(expected) = expected {
            let excess = i128::from((value - expected).max(0));
            self.variance += (excess * excess - self.variance) / ERROR_SHARE;
        }
        self.settle(value, expected);
        self.histogram.add(value.saturating_sub(self.offset), now, half_life);
        self.last = value;
    }

    /// Samples taken in.
    pub const fn samples(&self) -> u64 {
        self.histogram.samples()
    }

    /// Takes all of the past for so much more, or less if negative: who makes up the use changed.
    pub fn shift(&mut self, by: i64) {
        self.offset = self.offset.saturating_add(by);
    }

    /// Moves the offset into the buckets where it would cost more than that does: where a sample below it would count as more
    /// than a bucket (1/32) too much, or what has left would make the buckets of what is left twice as wide. Both take that so
    /// much came or left since the last time, so that what the buckets round up does not add up.
    fn settle(&mut self, value: i64, expected: Option<i64>) {
        let Some(expected) = expected else {
            self.offset = 0;
            return;
        };
        let above = self.offset > value && self.offset > expected / 32;
        if above || self.offset.saturating_neg() > expected {
            self.histogram.shift(std::mem::take(&mut self.offset));
        }
    }

    fn quantile(&self, percent: u32) -> Option<i64> {
        Some(self.histogram.quantile(percent)?.saturating_add(self.offset).max(0))
    }

    /// The last sample.
    pub const fn last(&self) -> i64 {
        self.last
    }

    /// Quantile plus one sigma of the error, and never less than the last sample. `None` without samples.
    pub fn peak(&self, quantile_percent: u32) -> Option<i64> {
        let quantile = self.quantile(quantile_percent)?;
        let sigma = i64::try_from(self.variance.max(0).isqrt()).unwrap_or(i64::MAX);
        Some(quantile.saturating_add(sigma).max(self.last))
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

    #[test]
    fn a_steady_use_is_its_own_peak() {
        let mut f = Forecast::default();
        for i in 0..500 {
            f.add(1000, i * 1000, 3_600_000, 98);
        }
        let peak = f.peak(98).unwrap();
        assert!((1000..=1032).contains(&peak), "{peak}");
    }

    #[test]
    fn a_jump_shows_at_once_and_adds_to_the_error() {
        let mut f = Forecast::default();
        for i in 0..500 {
            f.add(1000, i * 1000, 3_600_000, 98);
        }
        f.add(4000, 500_000, 3_600_000, 98);
        assert!(f.peak(98).unwrap() >= 4000);
        f.add(1000, 501_000, 3_600_000, 98);
        // The jump is gone and rarer than the quantile looks; its error still stands for a while: sqrt(3000^2 / 64) = 375.
        let after = f.peak(98).unwrap();
        assert!((1300..=1450).contains(&after), "{after}");
    }

    fn steady(value: i64, samples: u64) -> Forecast {
        let mut f = Forecast::default();
        for i in 0..samples {
            f.add(value, i * 1000, 3_600_000, 98);
        }
        f
    }

    /// Each shift began at the upper edge of a bucket: 30 pods of 5m made 96 cores of 50.
    #[test]
    fn small_pods_that_come_and_leave_count_with_what_they_use() {
        let mut f = steady(50_000, 100);
        let before = f.quantile(98).unwrap();
        (0..30).for_each(|_| f.shift(5));
        assert_eq!(f.quantile(98), Some(before + 150));
        (0..30).for_each(|_| f.shift(-1_000));
        assert_eq!(f.quantile(98), Some(before + 150 - 30_000));
    }

    #[test]
    fn a_hundred_pods_that_come_and_leave_again_change_less_than_a_bucket_whatever_is_used_meanwhile() {
        for (pod, used) in [(1_000, 50_000), (1_000, 0), (5_000, 0), (5_000, 2_000), (60_000, 10)] {
            let mut f = steady(50_000, 10_000);
            let before = f.quantile(98).unwrap();
            for i in 0..100 {
                f.shift(pod);
                f.add(used, 10_000_000 + i, 3_600_000, 98);
                f.shift(-pod);
                f.add(used, 10_000_000 + i, 3_600_000, 98);
            }
            let after = f.quantile(98).unwrap();
            assert!(
                after.abs_diff(before) <= (before + pod).unsigned_abs() / 32,
                "{before} {after} with {pod} {used}"
            );
        }
    }

    #[test]
    fn what_is_used_after_many_have_left_is_known_as_well_as_before() {
        let mut f = steady(1_000_000, 100);
        f.shift(-999_000);
        for i in 0..10_000 {
            f.add(1_000, 100_000 + i * 1000, 3_600_000, 98);
        }
        let after = f.quantile(98).unwrap();
        assert!((1_000..=1_032).contains(&after), "{after}");
    }

    #[test]
    fn what_is_used_after_a_pod_came_is_known_below_what_it_used_before() {
        let mut f = steady(2_000, 100);
        f.shift(8_000);
        for i in 0..20_000 {
            f.add(500, 100_000 + i * 1000, 3_600_000, 98);
        }
        let after = f.quantile(98).unwrap();
        assert!((500..=516).contains(&after), "{after}");
    }

    #[test]
    fn a_forecast_that_was_stored_without_an_offset_has_none() {
        let f = steady(1_000, 100);
        let mut stored = serde_json::to_value(&f).unwrap();
        stored.as_object_mut().unwrap().remove("offset").unwrap();
        assert_eq!(serde_json::from_value::<Forecast>(stored).unwrap(), f);
    }

    #[test]
    fn without_samples_there_is_no_peak() {
        assert_eq!(Forecast::default().peak(98), None);
    }
}
