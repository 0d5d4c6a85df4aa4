//! Links of batch that are left alone for a time, and why.

use std::collections::BTreeMap;

use duosuan_policy::Millis;

/// Somebody who took our hooks off a link so many times may have it.
const YIELD_AT: u32 = 5;
/// A loss this long after the one before is the first again; what is left to somebody is tried again
/// after as long, since who did it may be gone.
const FORGET: Millis = 600_000;
/// Whose packets go past our hooks is held again, to see whether they still do, after this long: till that shows, what batch sends is
/// taken for prod's.
const BYPASSED: Millis = 3_600_000;
/// What the kernel refused on one link is tried again after this long.
const RETRY: Millis = 120_000;

/// Why a link is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Somebody keeps taking our hooks off it.
    Taken,
    /// The kernel refuses to have hooks or filters on it.
    Refused,
    /// Somebody takes its packets before our hooks.
    Bypassed,
}

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// Times that it lost our hooks lately, and when that was last.
    losses: u32,
    lost: Millis,
    spared: Option<(Why, Millis)>,
}

/// What is known of links, by index.
#[derive(Debug, Default)]
pub(super) struct Spared(BTreeMap<u32, Link>);

impl Spared {
    /// Takes note that our hooks were taken off a link; true if it is left alone from here on.
    pub(super) fn lose(&mut self, index: u32, now: Millis) -> bool {
        let link = self.0.entry(index).or_default();
        if now.saturating_sub(link.lost) >= FORGET && link.losses > 0 && link.losses < YIELD_AT {
            link.losses = 0;
        }
        // One that was left alone before is so again at once.
        (link.losses, link.lost) = ((link.losses + 1).min(YIELD_AT), now);
        let taken = link.losses == YIELD_AT;
        if taken {
            link.spared = Some((Why::Taken, now + FORGET));
        }
        taken
    }

    /// Takes note that the kernel refuses it on this link; true if that is news.
    pub(super) fn refuse(&mut self, index: u32, now: Millis) -> bool {
        self.spare(index, Why::Refused, now + RETRY)
    }

    /// Takes note that a link's packets go past our hooks; true if that is news.
    pub(super) fn bypass(&mut self, index: u32, now: Millis) -> bool {
        self.spare(index, Why::Bypassed, now + BYPASSED)
    }

    fn spare(&mut self, index: u32, why: Why, until: Millis) -> bool {
        let link = self.0.entry(index).or_default();
        link.spared
            .replace((why, until))
            .is_none_or(|(before, _)| before != why)
    }

    /// Why a link is left alone now, if it is.
    pub(super) fn why(&self, index: u32, now: Millis) -> Option<Why> {
        let (why, until) = self.0.get(&index)?.spared?;
        (now < until).then_some(why)
    }

    /// Forgets links that are gone, and what is long over.
    pub(super) fn retain(&mut self, there: impl Fn(u32) -> bool, now: Millis) {
        self.0.retain(|index, link| {
            let over = now.saturating_sub(link.lost) >= 2 * FORGET
                && link.spared.is_none_or(|(_, until)| now >= until + FORGET);
            there(*index) && !over
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five losses in a year gave a link away for ever.
    #[test]
    fn a_link_whose_hooks_are_taken_again_and_again_is_left_alone_for_a_time_and_no_longer() {
        let mut spared = Spared::default();
        for n in 0..20 {
            assert!(!spared.lose(7, n * FORGET), "each is the first again");
        }
        let start = 100 * FORGET;
        let taken: Vec<bool> = (0..5).map(|n| spared.lose(8, start + n)).collect();
        assert_eq!(taken, [false, false, false, false, true]);
        let until = start + 4 + FORGET;
        assert_eq!(spared.why(8, until - 1), Some(Why::Taken));
        assert_eq!(spared.why(8, until), None, "it is tried again");
        assert!(spared.lose(8, until), "who did it is there still");
        assert_eq!(spared.why(8, until + FORGET), None);
        spared.retain(|_| true, until + 2 * FORGET);
        assert!(!spared.lose(8, until + 2 * FORGET), "forgotten");
        assert_eq!(spared.why(7, start), None);
    }

    #[test]
    fn what_one_link_is_refused_is_tried_again_and_told_once() {
        let mut spared = Spared::default();
        assert!(spared.refuse(7, 0));
        assert_eq!((spared.why(7, RETRY - 1), spared.why(8, 0)), (Some(Why::Refused), None));
        assert_eq!(spared.why(7, RETRY), None);
        assert!(!spared.refuse(7, RETRY));
        assert!(spared.bypass(7, RETRY), "something else");
        assert_eq!(spared.why(7, RETRY), Some(Why::Bypassed));
        spared.retain(|index| index != 7, RETRY);
        assert!(spared.refuse(7, RETRY), "another link of the same number");
    }
}
