//! What came of a queue file.

use serde::Serialize;

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// Jobs that ran to their end: all of them.
    pub jobs: u32,
    /// Milliseconds from the first arrival to the last end.
    pub makespan_ms: i64,
    /// Milliseconds in which all cores together could have done all the work, had it been there at once and divisible.
    pub floor_ms: f64,
    /// Makespan by floor.
    pub ratio: f64,
    /// Jobs that were evicted, as often as each was.
    pub evictions: u32,
    /// Core-seconds that those had done and did again.
    pub lost_core_seconds: f64,
    /// By class, in the order of the file.
    pub classes: Vec<ClassOutcome>,
}

/// How long the jobs of a class waited.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClassOutcome {
    /// Name.
    pub name: String,
    /// Jobs.
    pub jobs: u32,
    /// Evictions of its jobs.
    pub evictions: u32,
    /// Milliseconds from a job's arrival to its first start, by percent of the jobs.
    pub wait_ms: Percentiles,
    /// Milliseconds from a job's arrival to its end.
    pub turnaround_ms: Percentiles,
}

/// Percentiles, nearest rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Percentiles {
    pub p50: i64,
    pub p90: i64,
    pub p99: i64,
    pub max: i64,
}

impl Percentiles {
    /// Of some values, in whatever order.
    pub(super) fn of(mut values: Vec<i64>) -> Percentiles {
        values.sort_unstable();
        let at = |percent: usize| {
            let rank = (values.len() * percent).div_ceil(100).max(1);
            values.get(rank - 1).copied().unwrap_or(0)
        };
        Percentiles {
            p50: at(50),
            p90: at(90),
            p99: at(99),
            max: at(100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_nearest_ranks() {
        let of = Percentiles::of((1..=200).collect());
        assert_eq!((of.p50, of.p90, of.p99, of.max), (100, 180, 198, 200));
        assert_eq!(Percentiles::of(vec![]), Percentiles::default());
    }
}
