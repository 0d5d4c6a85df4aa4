//! Lent amounts that were raised count only when the node's own kubelet knows of them too.

use std::collections::VecDeque;

use duosuan_scheduler::Time;

/// How long a raised amount must have stood before it counts: 3 s. The kubelet admits pods by its own watch of its
/// node, normally well under 1 s behind the API server, and fails for good what is over the amount it still sees;
/// three times that second leaves room for a slow one.
pub(super) const SETTLE: i64 = 3 * 1000;

/// One amount: what counts, and the raises over it that have not stood for long enough, lowest and oldest first.
#[derive(Debug, Default)]
pub(super) struct Settling {
    settled: i64,
    raises: VecDeque<(i64, Time)>,
}

impl Settling {
    /// An amount that is believed as it stands.
    pub(super) fn known(amount: i64) -> Self {
        Self {
            settled: amount,
            raises: VecDeque::new(),
        }
    }

    /// The node says another amount: less counts at once, more when it has stood.
    pub(super) fn say(&mut self, amount: i64, now: Time) {
        self.advance(now);
        self.settled = self.settled.min(amount);
        // At least this much has stood since the first raise that went as far.
        let mut since = now;
        while let Some((_, at)) = self.raises.pop_back_if(|(raised, _)| *raised >= amount) {
            since = at;
        }
        if amount > self.settled {
            self.raises.push_back((amount, since));
        }
    }

    /// Whether a raise has stood for long enough and is not counted yet.
    pub(super) fn due(&self, now: Time) -> bool {
        self.raises
            .front()
            .is_some_and(|(_, since)| now.0.saturating_sub(since.0) >= SETTLE)
    }

    /// What counts now.
    pub(super) fn advance(&mut self, now: Time) -> i64 {
        while self.due(now) {
            if let Some((amount, _)) = self.raises.pop_front() {
                self.settled = amount;
            }
        }
        self.settled
    }
}
