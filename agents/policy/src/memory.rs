//! The memory guard: what prod asked for is the last that the kernel reclaims, and a shortage takes batch's memory first.
//!
//! A shortage is prod stalling for memory, or little memory being available. Early, batch's page cache is reclaimed
//! (`memory.reclaim`), which slows nobody but the next reader. In it, batch gets a `memory.high`: half of its page cache
//! goes at each cut, all of it where the shortage is sharp, and from then on batch grows no more. What batch holds
//! beyond its page cache no limit takes back without swap: the guard says so, and stays at it.
//!
//! What is given back is bounded by a prediction: if batch filled its new limit with memory that cannot be reclaimed,
//! as much as one and a half lines of shortage would still be available. So what is given back does not make the next
//! shortage, and the guard does not swing.
//!
//! `memory.min` is left alone: where prod's own page cache is old, the kernel would rather kill than take it.

use std::collections::BTreeMap;

use crate::{
    action::{Action, RECLAIM},
    amounts::{mebibytes, percent},
    guard::{GuardState, switched_off},
    observation::{Capabilities, Group, Millis, Observation, Tier},
    policy,
};

/// A cut shows only after this long: the kernel reclaims while others run.
const AFTER_CUT: Millis = 1_000;
/// Calm must have lasted this long before something is given back.
const CALM: Millis = 5_000;
/// Time between two steps up, and between two orders to reclaim.
const STEP: Millis = 1_000;
/// First and longest patience before a limit is lifted.
const PATIENCE: (Millis, Millis) = (15_000, 240_000);
/// A cut this long after the one before begins with the first patience again.
const FORGET: Millis = 600_000;
/// Prod stays protected this long after the last batch pod has left, so that short pods do not rewrite a hundred files each.
const PROTECT: Millis = 600_000;
/// The kernel rounds to pages, which are 64 KiB at most.
const PAGE: i64 = 64 << 10;
/// Protection of a group that asked for nothing, in steps: its use moves, the file should not.
const PROTECTION_STEP: i64 = 16 << 20;

/// The guard's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryGuard {
    /// Where it is.
    pub state: GuardState,
    /// What batch may hold, page cache included, bytes; `None` if unlimited.
    pub limit: Option<i64>,
    /// Times that it cut.
    pub cuts: u64,
    /// Last action and why.
    pub last_action: Option<String>,
    /// Since when there is a shortage although batch has nothing more to give.
    pub exhausted: Option<Millis>,
    last_cut: Option<Millis>,
    last_step: Millis,
    last_reclaim: Option<Millis>,
    calm_since: Option<Millis>,
    patience: Millis,
    /// The limit by group.
    shares: BTreeMap<String, i64>,
    batch_seen: Option<Millis>,
    /// Protection of groups that asked for nothing.
    protected: BTreeMap<String, i64>,
}

/// What the guard looks at.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// The node's groups and memory.
    pub seen: &'a Observation,
    /// What the kernel can do.
    pub capabilities: &'a Capabilities,
    /// Prod's memory stall, thousandths.
    pub stall: Option<i64>,
    /// Whether some of prod may stall more.
    pub unread: bool,
}

/// How short memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shortage {
    /// Nobody knows.
    Unknown,
    /// None.
    None,
    /// None yet, but nothing is given back.
    Near,
    /// Batch is cut.
    Here,
    /// Batch is cut to what it cannot give back.
    Sharp,
}

/// Batch's memory, bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Batch {
    charged: i64,
    reclaimable: i64,
}

impl Batch {
    fn of(group: &Group) -> Option<Self> {
        let charged = group.memory_charged?;
        let reclaimable = group.memory_reclaimable?.clamp(0, charged.max(0));
        Some(Self { charged, reclaimable })
    }

    const fn fixed(self) -> i64 {
        self.charged - self.reclaimable
    }
}

impl MemoryGuard {
    /// Forgets every limit and protection.
    pub fn switch_off(&mut self, why: Option<&str>) {
        *self = Self {
            state: GuardState::Off,
            cuts: self.cuts,
            last_action: switched_off(self.last_action.take(), why),
            ..Self::default()
        };
    }

    /// Moves by one reading and answers what should hold, or be done, now.
    pub fn step(&mut self, guard: &policy::MemoryGuard, reading: Reading<'_>, now: Millis) -> Vec<Action> {
        if !reading.capabilities.memory_high {
            // Before the first cgroup was looked at nothing is known to be there.
            let why = reading
                .capabilities
                .known()
                .then(|| reading.capabilities.lack_of("memory.high"));
            self.switch_off(why.as_deref());
            return Vec::new();
        }
        if self.state == GuardState::Off {
            self.state = GuardState::Idle;
        }
        let groups = &reading.seen.groups;
        let batch: BTreeMap<&str, Batch> = groups
            .iter()
            .filter(|g| g.tier == Tier::Batch)
            .filter_map(|g| Some((g.path.as_str(), Batch::of(g)?)))
            .collect();
        if !batch.is_empty() {
            self.batch_seen = Some(now);
        }
        let total = batch.values().fold(Batch::default(), |sum, b| Batch {
            charged: sum.charged.saturating_add(b.charged),
            reclaimable: sum.reclaimable.saturating_add(b.reclaimable),
        });
        let line = percent(reading.seen.capacity.memory, guard.available_percent);
        let available = reading.seen.available();
        let shortage = shortage(guard, &reading, available, line);
        let why = because(&reading, available);
        let limit_before = self.limit;
        match shortage {
            Shortage::Unknown | Shortage::Near => self.calm_since = None,
            Shortage::None => {
                self.exhausted = None;
                let since = *self.calm_since.get_or_insert(now);
                if now.saturating_sub(since) >= CALM && now.saturating_sub(self.last_step) >= STEP {
                    self.give_back(&reading, total, available.unwrap_or(0), line, &why, now);
                }
            }
            Shortage::Here | Shortage::Sharp => {
                self.calm_since = None;
                self.cut(&reading, total, shortage == Shortage::Sharp, &why, now);
            }
        }
        let same = self.shares.keys().map(String::as_str).eq(batch.keys().copied());
        if self.limit != limit_before || (self.limit.is_some() && !same) {
            self.share_out(&batch, reading.seen, total);
        }
        let mut actions = self.protections(&reading, now);
        actions.extend(self.limits());
        actions.extend(self.reclaim(guard, &reading, &batch, available, line, &why, now));
        actions
    }

    fn cut(&mut self, reading: &Reading<'_>, batch: Batch, sharp: bool, why: &str, now: Millis) {
        let since = self.last_cut.map(|at| now.saturating_sub(at));
        let capacity = reading.seen.capacity.memory;
        // Who holds a hundredth of the node has not made it short.
        if since.is_some_and(|s| s < AFTER_CUT) || batch.charged < capacity / 100 {
            return;
        }
        let level = self.limit.map_or(batch.charged, |limit| limit.min(batch.charged));
        let spare = (level - batch.fixed()).max(0);
        let kept = if sharp || spare < capacity / 128 { 0 } else { spare / 2 };
        let limit = pages(batch.fixed() + kept);
        if self.limit.is_some_and(|before| before <= limit) {
            if self.exhausted.is_none() {
                self.exhausted = Some(now);
                let fixed = mebibytes(batch.fixed());
                self.last_action = Some(format!("batch has no page cache left to give, it holds {fixed}: {why}"));
            }
            return;
        }
        self.patience = match since {
            // Cuts in a row are one event.
            Some(s) if s < CALM + STEP => self.patience.max(PATIENCE.0),
            Some(s) if s < FORGET => (self.patience * 2).clamp(PATIENCE.0, PATIENCE.1),
            _ => PATIENCE.0,
        };
        self.exhausted = None;
        self.limit = Some(limit);
        self.last_cut = Some(now);
        self.last_step = now;
        self.cuts = self.cuts.saturating_add(1);
        self.state = GuardState::Suppressing;
        let (from, to) = (mebibytes(level), mebibytes(limit));
        self.last_action = Some(format!("cut batch from {from} to {to}: {why}"));
    }

    fn give_back(&mut self, reading: &Reading<'_>, batch: Batch, available: i64, line: i64, why: &str, now: Millis) {
        let Some(limit) = self.limit else {
            self.state = GuardState::Idle;
            return;
        };
        self.state = GuardState::Recovering;
        self.last_step = now;
        let waited = self.last_cut.is_none_or(|at| now.saturating_sub(at) >= self.patience);
        if waited && available > line.saturating_mul(4) {
            self.limit = None;
            self.state = GuardState::Idle;
            self.last_action = Some(format!("lifted the limit: {why}"));
            return;
        }
        let room = batch.fixed().saturating_add(available - line * 3 / 2);
        let step = reading.seen.capacity.memory / 50;
        let next = pages(limit.saturating_add(step).min(room));
        if next > limit {
            self.limit = Some(next);
            let (from, to) = (mebibytes(limit), mebibytes(next));
            self.last_action = Some(format!("raised batch from {from} to {to}: {why}"));
        }
    }

    /// Each group keeps what it cannot give back; of the rest it gets a part by what it holds, or asked for.
    fn share_out(&mut self, batch: &BTreeMap<&str, Batch>, seen: &Observation, total: Batch) {
        let Some(limit) = self.limit else {
            self.shares.clear();
            return;
        };
        // A group of which nothing can be read now keeps its limit.
        let unknown = |path: &str| !batch.contains_key(path) && seen.group(path).is_some_and(|g| g.tier == Tier::Batch);
        let mut shares = std::mem::take(&mut self.shares);
        shares.retain(|path, _| unknown(path));
        let spare = (limit - total.fixed()).max(0);
        let requests = |path: &str| seen.group(path).map_or(0, |g| g.requests.memory);
        let weights: BTreeMap<&str, i64> = batch
            .iter()
            .map(|(path, b)| (*path, b.charged.max(requests(path)).max(1)))
            .collect();
        let all: i128 = weights.values().map(|w| i128::from(*w)).sum();
        shares.extend(batch.iter().map(|(path, b)| {
            let weight = weights.get(path).copied().unwrap_or(1);
            let part = i128::from(spare) * i128::from(weight) / all.max(1);
            let share = b.fixed().saturating_add(i64::try_from(part).unwrap_or(0));
            ((*path).to_owned(), pages(share).max(PAGE))
        }));
        self.shares = shares;
    }

    fn limits(&self) -> impl Iterator<Item = Action> {
        let why = self.last_action.as_deref().unwrap_or("the guard limits batch");
        self.shares
            .iter()
            .map(move |(path, share)| Action::new(path, "memory.high", share.to_string(), why))
    }

    /// Early in a shortage, the page cache of the batch pod that has most of it, a part at a time.
    #[allow(
        clippy::too_many_arguments,
        reason = "the terms of one condition, all of them computed before"
    )]
    fn reclaim(
        &mut self,
        guard: &policy::MemoryGuard,
        reading: &Reading<'_>,
        batch: &BTreeMap<&str, Batch>,
        available: Option<i64>,
        line: i64,
        why: &str,
        now: Millis,
    ) -> Option<Action> {
        let capacity = reading.seen.capacity.memory;
        let stalls = reading.stall.is_some_and(|s| s > i64::from(guard.stall_milli) / 2);
        let scarce = available.is_some_and(|a| a < line.saturating_mul(2));
        let rested = self.last_reclaim.is_none_or(|at| now.saturating_sub(at) >= STEP);
        if !(reading.capabilities.memory_reclaim && (stalls || scarce) && rested) {
            return None;
        }
        let (path, most) = batch
            .iter()
            .max_by_key(|(path, b)| (b.reclaimable, std::cmp::Reverse(**path)))?;
        let bytes = pages((most.reclaimable / 2).min(capacity / 64));
        // Not for crumbs: they are what batch is reading just now.
        if bytes < capacity / 512 {
            return None;
        }
        self.last_reclaim = Some(now);
        let why = format!("reclaim {} of batch's page cache in {path}: {why}", mebibytes(bytes));
        self.last_action = Some(why.clone());
        Some(Action::new(path, RECLAIM, bytes.to_string(), why))
    }

    /// `memory.low` for what prod and mid asked for, on their cgroups and, since the kernel grants a cgroup no more than
    /// its parent has, on all above. Only where there is batch to protect them from.
    fn protections(&mut self, reading: &Reading<'_>, now: Millis) -> Vec<Action> {
        let shared = self.batch_seen.is_some_and(|at| now.saturating_sub(at) < PROTECT);
        if !(reading.capabilities.memory_low && shared) {
            self.protected.clear();
            return Vec::new();
        }
        let mut low: BTreeMap<&str, i64> = BTreeMap::new();
        let mut kept = BTreeMap::new();
        for group in reading.seen.groups.iter().filter(|g| g.tier != Tier::Batch) {
            let bytes = if group.requests.memory > 0 {
                group.requests.memory
            } else {
                let before = self.protected.get(&group.path).copied().unwrap_or(0);
                let used = group.memory.unwrap_or(before);
                let holds = used <= before && used.saturating_mul(2) > before;
                let steps = (used / PROTECTION_STEP).saturating_add(1);
                let bytes = if holds {
                    before
                } else {
                    steps.saturating_mul(PROTECTION_STEP)
                };
                kept.insert(group.path.clone(), bytes);
                bytes
            };
            let mut add = |path| {
                let sum: &mut i64 = low.entry(path).or_default();
                *sum = sum.saturating_add(bytes);
            };
            add(group.path.as_str());
            let above = group.path.match_indices('/').filter_map(|(at, _)| group.path.get(..at));
            above.for_each(add);
        }
        self.protected = kept;
        let why = "what prod asked for is the last that the kernel reclaims";
        low.into_iter()
            .map(|(path, bytes)| Action::new(path, "memory.low", pages(bytes).to_string(), why))
            .collect()
    }
}

fn shortage(guard: &policy::MemoryGuard, reading: &Reading<'_>, available: Option<i64>, line: i64) -> Shortage {
    let threshold = i64::from(guard.stall_milli);
    let stall_over = |limit: i64| reading.stall.is_some_and(|s| s > limit);
    let less_than = |limit: i64| available.is_some_and(|a| a < limit);
    if stall_over(threshold * 2) || less_than(line / 2) {
        Shortage::Sharp
    } else if stall_over(threshold) || less_than(line) {
        Shortage::Here
    } else if available.is_none() || reading.unread || (reading.stall.is_none() && reading.capabilities.memory_pressure)
    {
        Shortage::Unknown
    } else if stall_over(threshold / 2) || less_than(line * 3 / 2) {
        Shortage::Near
    } else {
        Shortage::None
    }
}

fn because(reading: &Reading<'_>, available: Option<i64>) -> String {
    let stall = reading.stall.map_or("unknown".to_owned(), |s| format!("{s} of 1000"));
    let available = available.map_or("unknown".to_owned(), mebibytes);
    format!("prod's memory stall is {stall}, available are {available}")
}

/// Down to whole pages, as the kernel rounds.
const fn pages(bytes: i64) -> i64 {
    bytes - bytes.rem_euclid(PAGE)
}
