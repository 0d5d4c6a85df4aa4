//! The peak that a use is expected to reach in the next minutes.

use serde::{Deserialize, Serialize};

use crate::{histogram::Histogram, observation::Millis};

/// Weight of a new squared error in the running mean: 1/64, about a minute of samples.
const ERROR_SHARE: i128 = 64;

/// Quantile of a decaying histogram, plus the spread of the errors that this quantile made on the low side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    histogram: Histogram<5>,
    /// Running mean of the squared excess over the quantile.
    variance: i128,
    last: i64,
}

impl Forecast {
    /// Takes in a sample.
    pub fn add(&mut self, value: i64, now: Millis, half_life: Millis, quantile_percent: u32) {
        let value = value.max(0);
        if let Some(expected) = self.histogram.quantile(quantile_percent) {
            let excess = i128::from((value - expected).max(0));
            self.variance += (excess * excess - self.variance) / ERROR_SHARE;
        }
        self.histogram.add(value, now, half_life);
        self.last = value;
    }

    /// Samples taken in.
    pub const fn samples(&self) -> u64 {
        self.histogram.samples()
    }

    /// Takes all of the past for so much more, or less if negative: who makes up the use changed.
    pub fn shift(&mut self, by: i64) {
        self.histogram.shift(by);
    }

    /// The last sample.
    pub const fn last(&self) -> i64 {
        self.last
    }

    /// Quantile plus one sigma of the error, and never less than the last sample. `None` without samples.
    pub fn peak(&self, quantile_percent: u32) -> Option<i64> {
        let quantile = self.histogram.quantile(quantile_percent)?;
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

    #[test]
    fn without_samples_there_is_no_peak() {
        assert_eq!(Forecast::default().peak(98), None);
    }
}
