//! Lost work: the price of an eviction.
//!
//! Lost work is what a pod has computed since its last checkpoint, and what it asked for until it is back where it was. The
//! last checkpoint is the last that a pod of its gang or the claim tells of; or else the last that there was if one was
//! written every interval since the start; or else the start. The scheduler has the same rule (`model/lost_work.rs`
//! there), but for the notice, which is its own to give: here a pod has its own grace.
//!
//! What it has computed is the CPU time that it used on this node, which is less than what it asked for where it was held
//! back; of the time since a checkpoint its even part. Where nothing was measured, it is what it asked for.

use serde::{Deserialize, Serialize};

use crate::observation::{Group, Millis, Pod};

/// Time that one who does not say is taken to need from its new start until it is where it was, milliseconds: half a minute
/// for its image and process, and as long to read its state. The scheduler takes the same.
const RESTART: Millis = 30_000 + 30_000;

/// Lost work. GPUs count first: their hours are the dear ones, and there is no rate of exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LostWork {
    /// Of GPUs that were asked for, card-microseconds.
    pub cards: u64,
    /// Of CPUs, core-microseconds.
    pub cores: u64,
}

impl LostWork {
    /// What a group would lose now, of a gang of which this much is known.
    pub(crate) fn of(group: &Group, gang: Told, now: Millis) -> Self {
        let Some(pod) = &group.pod else {
            return Self {
                cards: 0,
                cores: group.cpu_usage.unwrap_or(0),
            };
        };
        // Thousandths times milliseconds are microseconds.
        let asked = |milli: i64, span: Millis| u64::try_from(milli).unwrap_or(0).saturating_mul(span);
        let restart = gang.restart.unwrap_or(RESTART);
        let restart = Self {
            cards: asked(pod.cards, restart),
            cores: asked(group.requests.cpu, restart),
        };
        let lived = pod.started.map(|at| now.saturating_sub(at));
        let told = pod.checkpoint.max(gang.checkpoint);
        let since = told.map(|at| now.saturating_sub(at));
        let since = since.or_else(|| gang.since_planned_checkpoint(now));
        let Some(span) = since.or(lived) else {
            // Neither start nor checkpoint is known: all that it ever used.
            return restart.plus(Self {
                cards: 0,
                cores: group.cpu_usage.unwrap_or(0),
            });
        };
        // A checkpoint from before the start saves what was done until then, and the work began with the start.
        let span = span.min(lived.unwrap_or(span));
        let cores = match (group.cpu_usage, lived) {
            (Some(used), Some(lived)) => part(used, span, lived),
            _ => asked(group.requests.cpu, span),
        };
        restart.plus(Self {
            cards: asked(pod.cards, span),
            cores,
        })
    }

    /// In whole core-seconds.
    pub const fn core_seconds(self) -> u64 {
        self.cores / 1_000_000
    }

    /// In whole card-seconds.
    pub const fn card_seconds(self) -> u64 {
        self.cards / 1_000_000
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            cards: self.cards.saturating_add(other.cards),
            cores: self.cores.saturating_add(other.cores),
        }
    }

    /// So many pods, where `self` is the work of `of`.
    pub(crate) fn scaled(self, pods: u64, of: u64) -> Self {
        let scale = |work: u64| part(work, pods, of);
        Self {
            cards: scale(self.cards),
            cores: scale(self.cores),
        }
    }
}

/// What is told of a gang, by its claim and by its pods here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// When the first of its pods here started.
    pub(crate) started: Option<Millis>,
    /// When it last wrote a checkpoint.
    pub(crate) checkpoint: Option<Millis>,
    /// Time between two checkpoints.
    pub(crate) checkpoint_every: Option<Millis>,
    /// Time from a new start until it is where it was.
    pub(crate) restart: Option<Millis>,
}

impl Told {
    /// Takes in what a pod of it tells.
    pub(crate) fn hear(&mut self, pod: &Pod) {
        self.checkpoint = self.checkpoint.max(pod.checkpoint);
        self.started = match (self.started, pod.started) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    /// Time since the last checkpoint, if one was written every interval since the start.
    fn since_planned_checkpoint(self, now: Millis) -> Option<Millis> {
        now.saturating_sub(self.started?).checked_rem(self.checkpoint_every?)
    }
}

impl std::fmt::Display for LostWork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.card_seconds(), self.core_seconds()) {
            (0, cores) => write!(f, "{cores} core-seconds"),
            (cards, cores) => write!(f, "{cards} card-seconds and {cores} core-seconds"),
        }
    }
}

fn part(of: u64, numerator: u64, denominator: u64) -> u64 {
    let part = u128::from(of) * u128::from(numerator) / u128::from(denominator.max(1));
    u64::try_from(part).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::observation::Resources;

    const NOW: Millis = 1_000_000;

    /// A pod that has used one core for so many seconds.
    fn pod(seconds: u64) -> Group {
        Group {
            cpu_usage: Some(seconds * 1_000_000),
            pod: Some(Pod {
                started: Some(NOW - seconds * 1000),
                ..Pod::default()
            }),
            ..Group::default()
        }
    }

    fn lost(group: &Group) -> u64 {
        LostWork::of(group, Told::default(), NOW).core_seconds()
    }

    #[test]
    fn work_is_lost_since_the_last_checkpoint_else_since_the_start() {
        let mut group = pod(100);
        assert_eq!(lost(&group), 100);
        group.pod.as_mut().unwrap().checkpoint = Some(NOW - 10_000);
        assert_eq!(lost(&group), 10, "a tenth of its life");
        group.pod.as_mut().unwrap().checkpoint = Some(NOW + 5_000);
        assert_eq!(lost(&group), 0, "by a clock that is ahead");
        group.pod.as_mut().unwrap().checkpoint = Some(NOW - 500_000);
        assert_eq!(lost(&group), 100, "of a life before this one");
    }

    #[test]
    fn without_a_measurement_what_was_asked_for_counts_and_cards_count_first() {
        let mut asked = pod(100);
        (asked.cpu_usage, asked.requests) = (None, Resources { cpu: 2500, memory: 0 });
        // A minute of the restart on top.
        assert_eq!(lost(&asked), 250 + 150);
        let mut card = pod(1);
        card.pod.as_mut().unwrap().cards = 500;
        assert!(LostWork::of(&card, Told::default(), NOW) > LostWork::of(&asked, Told::default(), NOW));
        let text = LostWork {
            cards: 2_000_000,
            cores: 3_000_000,
        };
        assert_eq!(text.to_string(), "2 card-seconds and 3 core-seconds");
    }
}
