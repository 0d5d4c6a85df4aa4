//! The clock of the edge: starts at the wall's time and then runs evenly, whatever is done to the wall clock.

use std::time::Instant;

use duosuan_policy::Millis;
use jiff::Timestamp;

/// Milliseconds since 1970 that never go back and never jump.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    offset: Millis,
    start: Instant,
}

impl Clock {
    /// Reads the wall clock, for the only time.
    pub fn start() -> Self {
        let offset = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
        Self {
            offset,
            start: Instant::now(),
        }
    }

    /// Milliseconds since 1970 by this clock.
    pub fn now(&self) -> Millis {
        self.offset
            .saturating_add(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The wall clock, for what others read.
    pub fn wall(&self) -> Timestamp {
        Timestamp::now()
    }
}
