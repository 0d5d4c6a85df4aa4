//! How many requests were slow between two readings of a histogram.

use crate::observation::{Bucket, Histogram, Millis, Service};

/// A span this long may do with fewer requests, or tells that there are none.
pub(super) const LONG: Millis = 10_000;
/// Where the objective allows so many slow requests, there are enough of them to judge; at once and in a long span.
const ALLOWED: (u128, u128) = (10, 3);
/// Chance explains so many standard deviations.
const DEVIATIONS: u128 = 3;

/// Requests between two readings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Milliseconds.
    pub(super) length: Millis,
    /// Requests that took longer than promised.
    slow: u128,
    /// Thousandths of requests that the objective allows to.
    allowed_milli: u128,
}

impl Span {
    /// `None` where the histogram ends below what is promised, so that nobody knows.
    pub(super) fn since(before: &Histogram, after: &Histogram, service: &Service) -> Option<Self> {
        let all = u128::from(total(after).saturating_sub(total(before)));
        Some(Self {
            length: after.at.saturating_sub(before.at),
            slow: all.saturating_sub(fast(before, after, service.threshold)?),
            allowed_milli: all * u128::from(1000_u32.saturating_sub(service.quantile_milli)),
        })
    }

    /// Slow requests, thousandths of those that the objective allows.
    pub(super) fn milli(self) -> i64 {
        i64::try_from(self.slow * 1_000_000 / self.allowed_milli.max(1)).unwrap_or(i64::MAX)
    }

    /// Whether there were enough requests to say how many of them are slow.
    pub(super) const fn is_enough(self) -> bool {
        let allowed = self.allowed_milli / 1000;
        allowed >= ALLOWED.0 || (self.length >= LONG && allowed >= ALLOWED.1)
    }

    /// Whether more requests were slow than `threshold`, thousandths of what is allowed, and chance does not explain it: a
    /// number of n rare events has the standard deviation sqrt(n).
    pub(super) fn misses(self, threshold: i64) -> bool {
        let most = self.allowed_milli * u128::from(threshold.unsigned_abs()) / 1_000_000;
        let beyond = self.slow.saturating_sub(most);
        beyond * beyond > DEVIATIONS * DEVIATIONS * self.slow
    }

    /// Whether so many fewer requests were slow than `threshold` that chance does not explain it.
    pub(super) fn keeps(self, threshold: i64) -> bool {
        let most = self.allowed_milli * u128::from(threshold.unsigned_abs()) / 1_000_000;
        let below = most.saturating_sub(self.slow);
        below * below > DEVIATIONS * DEVIATIONS * most
    }
}

pub(super) fn total(histogram: &Histogram) -> u64 {
    histogram.buckets.last().map_or(0, |b| b.count)
}

/// Whether `after` counts on from `before`.
pub(super) fn continues(before: &Histogram, after: &Histogram) -> bool {
    let on = |(a, b): (&Bucket, &Bucket)| a.up_to == b.up_to && a.count <= b.count;
    before.buckets.len() == after.buckets.len() && before.buckets.iter().zip(&after.buckets).all(on)
}

/// Requests between two readings that took no longer than this, microseconds. Those of a bucket are spread evenly over it,
/// as Prometheus has it; a bucket that ends there is exact. `None` if no bucket goes so far.
fn fast(before: &Histogram, after: &Histogram, threshold: u64) -> Option<u128> {
    let (mut from, mut below) = (0, 0);
    for (a, b) in before.buckets.iter().zip(&after.buckets) {
        let (up_to, count) = (b.up_to?, u128::from(b.count.saturating_sub(a.count)));
        if up_to >= threshold {
            let inside = u128::from(threshold.saturating_sub(from));
            let width = u128::from(up_to.saturating_sub(from)).max(1);
            return Some(below + count.saturating_sub(below) * inside / width);
        }
        (from, below) = (up_to, count);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts up to 10 ms, 50 ms, 100 ms, 200 ms, and of all.
    fn histogram(at: Millis, counts: [u64; 5]) -> Histogram {
        let bounds = [Some(10_000), Some(50_000), Some(100_000), Some(200_000), None];
        let bucket = |(up_to, count)| Bucket { up_to, count };
        let buckets = bounds.into_iter().zip(counts).map(bucket).collect();
        Histogram { at, buckets }
    }

    #[test]
    fn a_bucket_that_ends_at_the_objective_is_counted_and_another_shared_out() {
        let before = histogram(0, [100, 100, 100, 100, 100]);
        let after = histogram(1, [150, 190, 200, 204, 206]);
        let fast = |threshold| fast(&before, &after, threshold);
        assert_eq!(fast(10_000), Some(50));
        assert_eq!(fast(30_000), Some(70));
        assert_eq!(fast(100_000), Some(100));
        assert_eq!(fast(150_000), Some(102));
        assert_eq!(fast(5_000), Some(25));
        // Of the two beyond the last bound nobody knows.
        assert_eq!(fast(200_001), None);
    }
}
