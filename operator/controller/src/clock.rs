//! What time it is: read here, and given to everything else.

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use duosuan_scheduler::Time;

/// Says what time it is.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Time + Send + Sync>);

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

impl Default for Clock {
    /// The clock of the system.
    fn default() -> Self {
        Self(Arc::new(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Time(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
        }))
    }
}

impl Clock {
    /// The clock that the runtime's timers follow, so that a test can let it run ahead.
    #[cfg(test)]
    pub(crate) fn of_the_runtime() -> Self {
        let (began, start) = (Self::default().now(), tokio::time::Instant::now());
        Self(Arc::new(move || {
            Time(began.0 + i64::try_from(start.elapsed().as_millis()).unwrap_or(i64::MAX))
        }))
    }

    /// The time.
    pub fn now(&self) -> Time {
        (self.0)()
    }
}
