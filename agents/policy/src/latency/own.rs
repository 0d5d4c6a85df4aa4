//! What a service misses by itself: it has more slow requests than its objective allows although batch is at its floor.
//!
//! The rule: where batch has been at its floor for half a minute, and a service has missed its objective in that time by
//! more than chance explains, and gets no better, batch is not why. What it misses then is its own. From there on batch
//! answers only for what comes on top: it grows again, by careful steps, and is cut where the service misses a quarter more
//! than by itself.
//!
//! Faults end. What was found out counts for ten minutes; then batch is at its floor for another half minute, so that it is
//! found out anew, and has back at once what it had. A service that misses less than half of it has no such fault any
//! more, and its objective counts again.

use std::collections::VecDeque;

use super::{LONGEST, OBJECTIVE, STALE, span::Span};
use crate::observation::{Histogram, Millis, Service};

/// What is missed while batch has been at its floor for so long is no fault of its own.
const PROOF: Millis = 30_000;
/// For so long it counts.
const COUNTS: Millis = 600_000;
/// A service that misses a quarter less at the end of the proof than at its beginning gets better: of four parts, three.
const BETTER: (i64, i64) = (3, 4);

/// What a service misses by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Own {
    /// Its slow requests, thousandths of those that the objective allows.
    pub(super) milli: i64,
    /// When it was found out.
    pub(super) at: Millis,
}

impl Own {
    /// Whether it is to be found out anew.
    pub(super) const fn is_old(self, now: Millis) -> bool {
        now.saturating_sub(self.at) >= COUNTS
    }

    /// What the service may miss beside batch.
    pub(super) const fn bearable(self) -> i64 {
        self.milli.saturating_add(self.milli / 4)
    }

    /// What of `milli` batch answers for: `threshold` where it is as much as is bearable.
    pub(super) fn beyond(self, milli: i64, threshold: i64) -> i64 {
        let beyond = i128::from(milli.saturating_sub(self.milli).max(0));
        let part = beyond * i128::from(threshold) / i128::from((self.milli / 4).max(1));
        i64::try_from(part).unwrap_or(i64::MAX)
    }

    /// Whether the service misses so much less by now that there is no such fault any more.
    pub(super) fn is_over(self, lately: Span) -> bool {
        lately.is_enough() && lately.keeps(self.milli / 2)
    }
}

/// What half a minute with batch at its floor shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// The service misses its objective by itself.
    Own(i64),
    /// It keeps its objective, or nobody calls it.
    Keeps,
    /// Nobody can tell yet.
    Open,
}

/// What a service's past since `from` shows, batch having been at its floor. One that could not be read for as long as
/// `expire` counts no more.
pub(super) fn find(
    past: &VecDeque<Histogram>,
    service: &Service,
    from: Millis,
    expire: Millis,
    now: Millis,
) -> Finding {
    let Some(newest) = past.back() else {
        return Finding::Keeps;
    };
    match now.saturating_sub(newest.at) {
        age if age > expire => return Finding::Keeps,
        age if age > STALE => return Finding::Open,
        _ => {}
    }
    let since = |from: Millis| past.iter().find(|h| h.at >= from).unwrap_or(newest);
    let first = since(from);
    let Some(span) = Span::since(first, newest, service) else {
        return Finding::Keeps;
    };
    if span.length < PROOF {
        return Finding::Open;
    }
    if !span.misses(OBJECTIVE) {
        let known = span.is_enough() || span.length >= LONGEST;
        return if known { Finding::Keeps } else { Finding::Open };
    }
    let middle = since(first.at + span.length / 2);
    let halves = Span::since(first, middle, service).zip(Span::since(middle, newest, service));
    let better = halves.is_some_and(|(a, b)| {
        i128::from(b.milli()) * i128::from(BETTER.1) < i128::from(a.milli()) * i128::from(BETTER.0)
    });
    if better {
        Finding::Open
    } else {
        Finding::Own(span.milli())
    }
}
