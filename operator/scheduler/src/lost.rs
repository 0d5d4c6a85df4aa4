//! Lost work: the price of an eviction.

use std::{fmt, ops::AddAssign};

use serde::{Deserialize, Serialize};

/// Work that is lost when pods go: for how long each has computed since the last checkpoint, and takes to be back where it
/// was, times what it holds. A pod with GPUs counts by these, every other by its cores. Cards are compared first: an hour
/// of one is worth more than any number of cores that a victim could hold beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LostWork {
    /// Thousandths of a card, times seconds.
    pub milli_card_seconds: i64,
    /// Milli-cores, times seconds.
    pub milli_core_seconds: i64,
}

impl LostWork {
    /// What is lost in a time (ms) by who holds so much: thousandths of cards, or milli-cores where there is no card.
    pub(crate) fn of(millis: i64, (cards, cores): (i64, i64)) -> LostWork {
        let times = |held: i64| {
            let seconds = i128::from(held) * i128::from(millis.max(0)) / 1000;
            i64::try_from(seconds).unwrap_or(i64::MAX)
        };
        LostWork {
            milli_card_seconds: times(cards),
            milli_core_seconds: if cards > 0 { 0 } else { times(cores) },
        }
    }
}

impl AddAssign for LostWork {
    fn add_assign(&mut self, other: LostWork) {
        self.milli_card_seconds = self.milli_card_seconds.saturating_add(other.milli_card_seconds);
        self.milli_core_seconds = self.milli_core_seconds.saturating_add(other.milli_core_seconds);
    }
}

/// As people say it: `3.2 card-hours`, `40.0 core-minutes`, `no work`.
impl fmt::Display for LostWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (of, milli_seconds) in [("card", self.milli_card_seconds), ("core", self.milli_core_seconds)] {
            if milli_seconds > 0 {
                parts.push(in_words(of, milli_seconds));
            }
        }
        if parts.is_empty() {
            return f.write_str("no work");
        }
        write!(f, "{} of work", parts.join(" and "))
    }
}

fn in_words(of: &str, milli_seconds: i64) -> String {
    let (unit, seconds) = match milli_seconds {
        m if m >= 3_600_000 => ("hours", 3600),
        m if m >= 60_000 => ("minutes", 60),
        _ => ("seconds", 1),
    };
    // To the nearest tenth.
    let tenths = (i128::from(milli_seconds) + 50 * seconds) / (100 * seconds);
    format!("{}.{} {of}-{unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_work_reads_as_people_write_it() {
        let words = |millis, held| LostWork::of(millis, held).to_string();
        assert_eq!(words(1_440_000, (8000, 64_000)), "3.2 card-hours of work");
        assert_eq!(words(600_000, (0, 4000)), "40.0 core-minutes of work");
        assert_eq!(words(1500, (500, 0)), "0.8 card-seconds of work");
        assert_eq!(words(-1, (500, 0)), "no work");
        let mut both = LostWork::of(3_600_000, (1000, 0));
        both += LostWork::of(60_000, (0, 1000));
        assert_eq!(both.to_string(), "1.0 card-hours and 1.0 core-minutes of work");
    }

    #[test]
    fn absurd_amounts_do_not_overflow() {
        let mut most = LostWork::of(i64::MAX, (i64::MAX, i64::MAX));
        most += most;
        assert_eq!(most.milli_card_seconds, i64::MAX);
        assert!(most.to_string().contains("card-hours"));
    }
}
