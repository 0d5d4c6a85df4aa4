//! A decaying histogram of integers: what was seen lately counts, what was seen long ago fades.

use serde::{Deserialize, Serialize};

use crate::observation::Millis;

/// Weight of a fresh sample. Large, so that a sample ten half-lives old still counts 2^10.
const FRESH: u64 = 1 << 20;
/// Ageing happens in sixteenths of a half-life: each multiplies by 2^(-1/16) = 62757 / 65536.
const AGEINGS_PER_HALF_LIFE: u64 = 16;
const AGEING: u64 = 62_757;

/// A decaying histogram. A value is answered as the upper edge of its bucket, so never too low.
///
/// Each power of two is split in 2^`BITS` buckets: with 5, a value is known to 1/32 = 3 %; with 3, to 1/8, in a quarter of the
/// memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram<const BITS: u32 = 5> {
    #[serde(
        serialize_with = "sparse::serialize",
        deserialize_with = "sparse::deserialize::<BITS, _>"
    )]
    buckets: Vec<u64>,
    aged: Millis,
    samples: u64,
}

impl<const BITS: u32> Histogram<BITS> {
    /// Takes in a sample; negative counts as 0. `now` that goes back counts as no time passed.
    pub fn add(&mut self, value: i64, now: Millis, half_life: Millis) {
        self.age(now, half_life);
        put(&mut self.buckets, bucket_of::<BITS>(value.max(0).unsigned_abs()), FRESH);
        self.samples = self.samples.saturating_add(1);
    }

    /// Samples taken in since it was made.
    pub const fn samples(&self) -> u64 {
        self.samples
    }

    /// The value that `percent` of the weight is not above; `None` if there is none.
    pub fn quantile(&self, percent: u32) -> Option<i64> {
        self.bucket_at(percent).map(|bucket| top(upper_edge::<BITS>(bucket)))
    }

    /// As [`Self::quantile`], answered as the lower edge of the bucket, so never too high.
    pub fn quantile_at_least(&self, percent: u32) -> Option<i64> {
        let bucket = self.bucket_at(percent)?;
        Some(match bucket {
            0 => 0,
            above => top(upper_edge::<BITS>(above - 1).saturating_add(1)),
        })
    }

    /// Takes every value for so much more, or less if negative, as if it had been so all along: by the nearest edge of a bucket,
    /// so half a bucket too low at worst. (Rounded up, to and fro would add up.)
    pub fn shift(&mut self, by: i64) {
        if by == 0 || self.buckets.is_empty() {
            return;
        }
        let before = std::mem::take(&mut self.buckets);
        for (bucket, weight) in before.into_iter().enumerate().filter(|(_, weight)| *weight > 0) {
            let value = top(upper_edge::<BITS>(bucket)).saturating_add(by);
            let value = value.max(0).unsigned_abs();
            let bucket = bucket_of::<BITS>(value);
            let above = upper_edge::<BITS>(bucket) - value;
            let below = bucket
                .checked_sub(1)
                .filter(|below| value - upper_edge::<BITS>(*below) < above);
            put(&mut self.buckets, below.unwrap_or(bucket), weight);
        }
    }

    /// The first bucket up to which `percent` of the weight lies.
    fn bucket_at(&self, percent: u32) -> Option<usize> {
        let total: u128 = self.buckets.iter().map(|&w| u128::from(w)).sum();
        if total == 0 {
            return None;
        }
        let wanted = (total * u128::from(percent.min(100))).div_ceil(100);
        let mut seen = 0;
        for (bucket, &weight) in self.buckets.iter().enumerate() {
            seen += u128::from(weight);
            if weight > 0 && seen >= wanted {
                return Some(bucket);
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

/// Adds weight to a bucket.
fn put(buckets: &mut Vec<u64>, bucket: usize, weight: u64) {
    if buckets.len() <= bucket {
        buckets.resize(bucket + 1, 0);
    }
    if let Some(known) = buckets.get_mut(bucket) {
        *known = known.saturating_add(weight);
    }
}

/// Exact below 2^`BITS`, then 2^`BITS` buckets for each power of two.
fn bucket_of<const BITS: u32>(value: u64) -> usize {
    let steps = 1 << BITS;
    if value < steps {
        return value as usize;
    }
    let power = value.ilog2() - BITS;
    let step = (value >> power) - steps;
    (steps + u64::from(power) * steps + step) as usize
}

fn upper_edge<const BITS: u32>(bucket: usize) -> u64 {
    let (bucket, steps) = (bucket as u64, 1 << BITS);
    if bucket < steps {
        return bucket;
    }
    let (power, step) = ((bucket - steps) / steps, (bucket - steps) % steps);
    let edge = u128::from(steps + step + 1) << power;
    u64::try_from(edge - 1).unwrap_or(u64::MAX)
}

fn top(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Most buckets are empty: written are those that are not, by number.
mod sparse {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[derive(Deserialize)]
    #[serde(untagged, expecting = "buckets are numbers with weights, or weights")]
    enum Stored {
        Sparse(Vec<(usize, u64)>),
        /// As they were stored at first: the weight of each, empty ones too. (An empty list is both, and says the same.)
        Dense(Vec<u64>),
    }

    pub(super) fn serialize<S: Serializer>(buckets: &[u64], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(buckets.iter().enumerate().filter(|(_, weight)| **weight > 0))
    }

    pub(super) fn deserialize<'de, const BITS: u32, D: Deserializer<'de>>(from: D) -> Result<Vec<u64>, D::Error> {
        // What a value of 63 bits needs: all that are exact, then as many for each power of two above.
        let most = (64 - BITS as usize) << BITS;
        let beyond = |bucket| D::Error::custom(format!("bucket {bucket} is beyond {most}"));
        let filled = match Stored::deserialize(from)? {
            Stored::Sparse(filled) => filled,
            Stored::Dense(buckets) if buckets.len() > most => return Err(beyond(buckets.len() - 1)),
            Stored::Dense(buckets) => return Ok(buckets),
        };
        let mut buckets = Vec::new();
        for (bucket, weight) in filled {
            if bucket >= most {
                return Err(beyond(bucket));
            }
            super::put(&mut buckets, bucket, weight);
        }
        Ok(buckets)
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

    const HOUR: Millis = 3_600_000;

    #[test]
    fn an_empty_histogram_has_no_quantile() {
        assert_eq!(Histogram::<5>::default().quantile(98), None);
    }

    #[test]
    fn what_is_a_half_life_old_counts_half() {
        let mut h = Histogram::<5>::default();
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
        let mut h = Histogram::<5>::default();
        h.add(5, HOUR, HOUR);
        h.add(5, 0, HOUR);
        assert_eq!(h.quantile(100), Some(5));
        assert_eq!(h.samples(), 2);
    }

    #[test]
    fn it_survives_being_written_and_read() {
        let mut h = Histogram::<5>::default();
        for i in 0..1000 {
            h.add(i * 17, i as u64 * 1000, HOUR);
        }
        let text = serde_json::to_string(&h).unwrap();
        assert_eq!(serde_json::from_str::<Histogram<5>>(&text).unwrap(), h);
    }

    #[test]
    fn a_bucket_that_no_value_has_is_refused() {
        let read = |bucket: usize| format!(r#"{{"buckets":[[{bucket},1]],"aged":0,"samples":1}}"#);
        // With three bits there are fewer than with five.
        for bucket in [488, 600, 99_999] {
            let error = serde_json::from_str::<Histogram<3>>(&read(bucket)).unwrap_err();
            let words = format!("bucket {bucket} is beyond 488");
            assert!(error.to_string().contains(&words), "{error}");
        }
        let last: Histogram<3> = serde_json::from_str(&read(487)).unwrap();
        assert_eq!(last.quantile(100), Some(i64::MAX));
        let mut most = Histogram::<3>::default();
        most.add(i64::MAX, 0, HOUR);
        assert!(serde_json::from_str::<Histogram<3>>(&serde_json::to_string(&most).unwrap()).is_ok());
        serde_json::from_str::<Histogram<5>>(&read(600)).unwrap();
    }

    #[test]
    fn buckets_that_were_stored_with_the_empty_ones_are_read_as_well() {
        let read = |buckets: &str| {
            serde_json::from_str::<Histogram<3>>(&format!(r#"{{"buckets":{buckets},"aged":7,"samples":1}}"#))
        };
        assert_eq!(read("[0,0,1048576]").unwrap(), read("[[2,1048576]]").unwrap());
        assert_eq!(read("[0,0,1048576]").unwrap().quantile(98), Some(2));
        assert_eq!(read("[]").unwrap().quantile(98), None);
        read(&format!("{:?}", [1; 488])).unwrap();
        let error = read(&format!("{:?}", [1; 489])).unwrap_err();
        assert!(error.to_string().contains("bucket 488 is beyond 488"), "{error}");
    }

    proptest! {
        #[test]
        fn the_two_edges_of_a_value_enclose_it_however_coarse_the_buckets(value in 0i64..1 << 40) {
            let mut h = Histogram::<3>::default();
            h.add(value, 0, HOUR);
            let (low, high) = (h.quantile_at_least(50).unwrap(), h.quantile(50).unwrap());
            prop_assert!(low <= value && value <= high);
            prop_assert!(high - low <= value / 8 + 1);
        }

        #[test]
        fn what_is_shifted_keeps_its_weight_and_is_at_most_half_a_bucket_too_low_or_too_high(
            values in prop::collection::vec(0i64..1 << 30, 1..50), by in -(1i64 << 30)..1 << 30, p in 1u32..=100
        ) {
            let mut h = Histogram::<5>::default();
            for v in values {
                h.add(v, 0, HOUR);
            }
            let before = h.quantile(p).unwrap();
            h.shift(by);
            let (wanted, after) = ((before + by).max(0), h.quantile(p).unwrap());
            prop_assert!(after.abs_diff(wanted) <= wanted.unsigned_abs() / 64 + 1, "{wanted} {after}");
        }

        #[test]
        fn a_value_is_answered_no_lower_and_at_most_a_thirty_second_higher(value in 0i64..i64::MAX) {
            let mut h = Histogram::<5>::default();
            h.add(value, 0, HOUR);
            let answer = h.quantile(50).unwrap();
            prop_assert!(answer >= value);
            prop_assert!(answer - value <= value / 32 + 1);
        }

        #[test]
        fn a_higher_quantile_is_no_lower(values in prop::collection::vec(0i64..1 << 40, 1..200), p in 1u32..100) {
            let mut h = Histogram::<5>::default();
            for v in values {
                h.add(v, 0, HOUR);
            }
            prop_assert!(h.quantile(p).unwrap() <= h.quantile(p + 1).unwrap());
        }
    }
}
