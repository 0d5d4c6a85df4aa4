//! How long a watch that failed rests before it is started again.

use std::time::Duration;

use tokio::time::Instant;

use super::Watched;

/// Pauses between two tries of a watch: 0.5, 1, 2, 4, 8, 8 ... s, so that a kind that is installed later is found soon.
///
/// They start from the shortest again only after a calm time.
#[derive(Debug)]
pub(super) struct Pauses {
    longest: Duration,
    tried: u32,
    last: Option<Instant>,
}

/// After so long without a failure, the pauses start from the shortest again.
pub(super) const CALM: Duration = Duration::from_secs(60);
pub(super) const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// Of a kind that most clusters do without. To serve it, an API server is started anew.
const LONGEST_PAUSE_OF_OPTIONAL: Duration = Duration::from_secs(60);

impl Pauses {
    pub(super) fn of<K: Watched>() -> Self {
        Self {
            longest: if K::OPTIONAL {
                LONGEST_PAUSE_OF_OPTIONAL
            } else {
                LONGEST_PAUSE
            },
            tried: 0,
            last: None,
        }
    }

    /// The next pause.
    pub(super) fn following(&mut self) -> Duration {
        if self
            .last
            .is_some_and(|last| last.elapsed() > CALM.max(self.longest.saturating_mul(2)))
        {
            self.tried = 0;
        }
        self.last = Some(Instant::now());
        let pause = SHORTEST_PAUSE.saturating_mul(1 << self.tried.min(7)).min(self.longest);
        self.tried = self.tried.saturating_add(1);
        pause
    }
}
