//! Points at which a test has the agent die as by `kill -9`: between any two steps of a change.
//!
//! The program that is tested is the one that is used: armed by `--die-at`, which `--help` does not show. Not armed, a point
//! is one look at a value that nobody has set.

use std::{
    str::FromStr,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use clap::ValueEnum;
use rustix::process::{Signal, getpid, kill_process};

/// A moment in the life of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Point {
    /// Half of what is to be in the journal is in it.
    HalfLine,
    /// A change is in the journal, and not in the kernel.
    Journalled,
    /// The kernel has a value that was not read back yet.
    Written,
    /// A change was read back, and nobody has been told of it.
    Verified,
    /// `cpu.idle` is ended, and the weight that the kernel forgot with it is not back.
    WeightLost,
    /// An old value is back, and the journal still has the change.
    PutBack,
    /// The journal says that an old value is back.
    Restored,
    /// Half of a journal that is to replace a longer one is written.
    HalfCompacted,
    /// All of it is written, and stands beside the one that it is to replace.
    Compacted,
    /// It has replaced that, and is not open yet.
    Replaced,
}

/// Where to die: `POINT:N`, at the Nth time that the point is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// The point.
    pub point: Point,
    /// The time at which it is reached, from 1.
    pub time: u32,
}

impl FromStr for Death {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (point, time) = text.split_once(':').ok_or("give POINT:N")?;
        let time = time.parse().ok().filter(|time| *time > 0);
        Ok(Self {
            point: Point::from_str(point, false)?,
            time: time.ok_or("N counts from 1")?,
        })
    }
}

static DEATH: OnceLock<(Point, AtomicU32)> = OnceLock::new();

/// Has this process die there.
pub(crate) fn arm(death: Death) {
    // Of two, the first comes first.
    let _ = DEATH.set((death.point, AtomicU32::new(death.time)));
}

/// Dies here, if that is meant.
pub(crate) fn reach(point: Point) {
    if is_due(point) {
        die();
    }
}

/// Whether to die here, after what is half done then.
pub(crate) fn is_due(point: Point) -> bool {
    let death = DEATH.get().filter(|(at, _)| *at == point);
    death.is_some_and(|(_, left)| left.fetch_sub(1, Ordering::Relaxed) == 1)
}

/// Ends as by `kill -9`: nothing is dropped, nothing is said.
pub(crate) fn die() {
    // The kernel refuses nobody to end himself.
    let _ = kill_process(getpid(), Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_is_a_point_and_a_time_from_1() {
        let death = Death {
            point: Point::HalfLine,
            time: 3,
        };
        assert_eq!("half-line:3".parse(), Ok(death));
        for (text, words) in [
            ("half-line", "POINT:N"),
            ("half-line:0", "from 1"),
            ("nowhere:1", "nowhere"),
        ] {
            let error = text.parse::<Death>().err().unwrap_or_default();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
