//! A guard of a share: what prod suffers cuts what batch may use by a factor, calm gives it back by steps. CPU, IO and
//! latency go by it.
//!
//! Additive increase, multiplicative decrease, as in TCP, with what keeps it from swinging: between calm and the
//! threshold it holds; the level up to which prod did not suffer is remembered, and passed again only after a patience that
//! doubles with every try in vain, or at once when prod's own use has fallen.

use serde::{Deserialize, Serialize};

use crate::observation::Millis;

/// Calm must have lasted this long before something is given back.
const CALM: Millis = 2_000;
/// First and longest patience before the level of the last stall is tried again.
const PATIENCE: (Millis, Millis) = (15_000, 240_000);
/// A cut this long after the one before begins with the first patience again.
const FORGET: Millis = 600_000;

/// Where the guard is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuardState {
    /// Batch is not limited.
    #[default]
    Idle,
    /// Batch was cut, and prod is not yet calm.
    Suppressing,
    /// Batch gets back what it had.
    Recovering,
    /// Switched off.
    Off,
}

impl GuardState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Idle, Self::Suppressing, Self::Recovering, Self::Off];

    /// The name as the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Suppressing => "Suppressing",
            Self::Recovering => "Recovering",
            Self::Off => "Off",
        }
    }
}

/// The guard's memory. What is shared is counted in a unit of the caller's choice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareGuard {
    /// Where it is.
    pub state: GuardState,
    /// What batch may use; `None` if unlimited.
    pub limit: Option<i64>,
    /// Times that it cut.
    pub cuts: u64,
    /// Last action and why.
    pub last_action: Option<String>,
    last_cut: Option<Millis>,
    last_step: Millis,
    moved: Option<Millis>,
    calm_since: Option<Millis>,
    /// The level up to which prod did not suffer, as far as is known, and prod's use when it did.
    ceiling: Option<(i64, Option<i64>)>,
    /// The level from which the last step up went.
    raised_from: Option<i64>,
    patience: Millis,
}

/// When a guard moves, and how far. The signal is in thousandths.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Signal over which batch is cut.
    pub threshold: i64,
    /// Signal over which half goes at once, not a fifth.
    pub sharp: i64,
    /// Signal up to which prod is calm, and batch gets something back.
    pub calm: i64,
    /// A cut shows in the signal only after this long: no second cut before.
    pub settles: Millis,
    /// Time between two steps up.
    pub rest: Millis,
    /// A step up is this part of the capacity.
    pub step: i64,
    /// A step up beyond the level at which prod last stalled is this part of the capacity.
    pub careful_step: i64,
}

impl Pace {
    /// That of a stall, which shows at once: steps of a twentieth and a fiftieth each second.
    pub fn of_stall(stall_milli: u32, settles: Millis) -> Self {
        let threshold = i64::from(stall_milli);
        Self {
            threshold,
            sharp: threshold * 2,
            calm: threshold / 2,
            settles,
            rest: 1_000,
            step: 20,
            careful_step: 50,
        }
    }
}

/// What the guard looks at.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// The unit in words: `m`.
    pub unit: &'a str,
    /// All that there is of it.
    pub capacity: i64,
    /// Batch is never cut below this.
    pub floor: i64,
    /// When it moves, and how far.
    pub pace: Pace,
    /// What is measured, in words: `prod stalled`.
    pub what: &'a str,
    /// What prod suffers, thousandths: its stall, or its latency of what was promised. `None` is unknown.
    pub signal: Option<i64>,
    /// Whether somebody may suffer more than that, since nobody knows how much he does.
    pub unread: bool,
    /// What prod has to do: what it uses, or how many requests it gets.
    pub firm: Option<i64>,
    /// Where it has so much less to do than when it suffered, it needs the room no more.
    pub relief: i64,
    /// What batch uses.
    pub batch: Option<i64>,
}

impl ShareGuard {
    /// Forgets every limit; says why, where there is more to say than that it is switched off.
    pub fn switch_off(&mut self, why: Option<&str>) {
        *self = Self {
            state: GuardState::Off,
            cuts: self.cuts,
            last_action: switched_off(self.last_action.take(), why),
            ..Self::default()
        };
    }

    /// Sets the limit for another reason than a reading.
    pub(crate) fn hold(&mut self, limit: Option<i64>, state: GuardState, why: String, now: Millis) {
        (self.limit, self.state, self.last_action) = (limit, state, Some(why));
        (self.moved, self.last_step, self.calm_since) = (Some(now), now, None);
    }

    /// Takes note that prod suffers at any level: the next steps up need no more patience than after a first cut.
    pub(crate) fn dare(&mut self, why: String) {
        self.patience = PATIENCE.0;
        self.last_action = Some(why);
    }

    /// When the limit changed last: what was measured before says nothing about it.
    pub const fn moved(&self) -> Option<Millis> {
        self.moved
    }

    /// Moves by one reading. A reading without a signal changes nothing: unknown is not calm, nor is who may suffer more than
    /// those of whom it is known.
    pub fn step(&mut self, reading: Reading<'_>, now: Millis) {
        if self.state == GuardState::Off {
            self.state = GuardState::Idle;
        }
        let pace = reading.pace;
        match reading.signal {
            None => self.calm_since = None,
            Some(signal) if signal > pace.threshold => {
                self.calm_since = None;
                self.cut(reading, signal, now);
            }
            Some(signal) if signal <= pace.calm && !reading.unread => {
                let since = *self.calm_since.get_or_insert(now);
                if now.saturating_sub(since) >= CALM && now.saturating_sub(self.last_step) >= pace.rest {
                    self.give_back(reading, signal, now);
                }
            }
            Some(_) => self.calm_since = None,
        }
    }

    fn cut(&mut self, reading: Reading<'_>, signal: i64, now: Millis) {
        let since = self.last_cut.map(|at| now.saturating_sub(at));
        if since.is_some_and(|s| s < reading.pace.settles) {
            return;
        }
        let Reading { unit, floor, what, .. } = reading;
        let threshold = reading.pace.threshold;
        let allowed = self.limit.unwrap_or(reading.capacity);
        // A limit far above what batch uses would be no cut at all.
        let level = reading.batch.map_or(allowed, |used| allowed.min(used.max(floor)));
        if level <= floor && (self.limit.is_some() || reading.batch.is_some_and(|used| used < floor)) {
            // Batch has nothing more to give: the stall is prod's own.
            return;
        }
        let limit = if signal > reading.pace.sharp {
            level / 2
        } else {
            level * 4 / 5
        }
        .max(floor);
        self.patience = match since {
            // Cuts without a step up between them are one event.
            Some(_) if self.state == GuardState::Suppressing => self.patience.max(PATIENCE.0),
            Some(s) if s < FORGET => (self.patience * 2).clamp(PATIENCE.0, PATIENCE.1),
            _ => PATIENCE.0,
        };
        // Where a step up was too much, the level before it was not.
        let good = (level * 19 / 20).min(self.raised_from.take().unwrap_or(level));
        self.ceiling = Some((good, reading.firm));
        self.limit = Some(limit);
        self.last_cut = Some(now);
        self.last_step = now;
        self.moved = Some(now);
        self.cuts = self.cuts.saturating_add(1);
        self.state = GuardState::Suppressing;
        self.last_action = Some(format!(
            "cut batch from {level}{unit} to {limit}{unit}: {what} {signal} of 1000, the policy allows {threshold}"
        ));
    }

    fn give_back(&mut self, reading: Reading<'_>, signal: i64, now: Millis) {
        let Some(limit) = self.limit else {
            self.state = GuardState::Idle;
            return;
        };
        self.state = GuardState::Recovering;
        self.last_step = now;
        let part = |of: i64| (reading.capacity / of.max(1)).max(1);
        let large = part(reading.pace.step);
        let waited = self.last_cut.is_none_or(|at| now.saturating_sub(at) >= self.patience);
        let mut step = large;
        let mut most = reading.capacity;
        if let Some((good, firm_then)) = self.ceiling {
            let relieved = matches!((firm_then, reading.firm), (Some(then), Some(now)) if then - now >= reading.relief);
            if relieved {
                self.ceiling = None;
            } else if waited {
                step = part(reading.pace.careful_step);
            } else {
                most = good;
            }
        }
        let next = limit.saturating_add(step).min(most.max(limit));
        if next >= reading.capacity {
            self.limit = None;
            self.moved = Some(now);
            self.raised_from = Some(limit);
            self.ceiling = None;
            self.state = GuardState::Idle;
            self.last_action = Some(format!(
                "lifted the limit: {what} {signal} of 1000",
                what = reading.what
            ));
        } else if next > limit {
            self.limit = Some(next);
            self.moved = Some(now);
            self.raised_from = Some(limit);
            self.last_action = Some(format!(
                "raised batch from {limit}{unit} to {next}{unit}: {what} {signal} of 1000",
                unit = reading.unit,
                what = reading.what
            ));
        }
    }
}

/// The last action of a guard that is off: why it is, or what it did before.
pub(crate) fn switched_off(before: Option<String>, why: Option<&str>) -> Option<String> {
    match why {
        // Said again at each look, it is the same text.
        Some(why) if before.as_deref() != Some(why) => Some(why.to_owned()),
        _ => before,
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "tests"
    )]
    use super::*;

    fn reading(signal: Option<i64>, firm: i64, batch: i64) -> Reading<'static> {
        Reading {
            unit: "m",
            capacity: 4000,
            floor: 200,
            pace: Pace::of_stall(100, 200),
            what: "prod stalled",
            signal,
            unread: false,
            firm: Some(firm),
            relief: 200,
            batch: Some(batch),
        }
    }

    #[test]
    fn a_stall_cuts_batch_to_half_of_what_it_uses() {
        let mut g = ShareGuard::default();
        g.step(reading(Some(400), 1000, 3000), 10_000);
        assert_eq!((g.limit, g.state, g.cuts), (Some(1500), GuardState::Suppressing, 1));
        assert!(g.last_action.unwrap().contains("cut batch from 3000m to 1500m"));
    }

    #[test]
    fn it_never_cuts_below_the_floor_and_counts_no_cut_there() {
        let mut g = ShareGuard::default();
        for i in 0..20 {
            let reading = Reading {
                floor: 500,
                ..reading(Some(900), 3500, 500)
            };
            g.step(reading, 10_000 + i * 1000);
        }
        assert_eq!((g.limit, g.cuts), (Some(500), 1));
    }

    #[test]
    fn a_stall_without_batch_is_not_batchs_fault() {
        let mut g = ShareGuard::default();
        g.step(reading(Some(900), 4000, 0), 10_000);
        assert_eq!((g.limit, g.state), (None, GuardState::Idle));
    }

    #[test]
    fn when_prods_load_is_gone_batch_has_everything_back_within_a_minute() {
        let mut g = ShareGuard::default();
        for i in 0..10 {
            g.step(reading(Some(600), 3000, 900), 10_000 + i * 1000);
        }
        assert_eq!(g.limit, Some(200));
        let spike_over = 20_000;
        let mut lifted = None;
        for i in 0..120 {
            let now = spike_over + i * 1000;
            g.step(reading(Some(0), 500, g.limit.unwrap_or(3500)), now);
            if g.limit.is_none() {
                lifted.get_or_insert(now - spike_over);
            }
        }
        assert!(lifted.unwrap() <= 60_000, "{lifted:?}");
        assert_eq!(g.state, GuardState::Idle);
    }

    /// One that could not be read stood beside a calm one, and batch was given back what the guard had taken for both.
    #[test]
    fn who_may_suffer_more_than_is_known_is_given_cuts_and_nothing_back() {
        let mut g = ShareGuard::default();
        let unread = |stall| Reading {
            unread: true,
            ..reading(Some(stall), 1000, 1500)
        };
        g.step(unread(400), 10_000);
        assert_eq!(g.limit, Some(750));
        for i in 0..100 {
            g.step(unread(0), 11_000 + i * 1000);
        }
        assert_eq!(g.limit, Some(750));
    }

    #[test]
    fn a_missing_stall_neither_cuts_nor_gives_back() {
        let mut g = ShareGuard::default();
        g.step(reading(Some(400), 1000, 3000), 10_000);
        for i in 0..100 {
            g.step(reading(None, 1000, 1500), 11_000 + i * 1000);
        }
        assert_eq!(g.limit, Some(1500));
    }
}
