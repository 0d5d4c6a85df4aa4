//! Counters to rates.

use std::collections::BTreeMap;

use crate::{
    action::{StallView, TierWork},
    amounts::plus,
    observation::{Group, Io, Millis, Observation, Signals, Tier, Unread, Work},
    policy::Policy,
};

/// Spans shorter than this give no rate worth having: the last rates stand.
const SHORTEST_SPAN: Millis = 50;

/// The counters seen last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    at: Option<Millis>,
    busy: Option<u64>,
    stall: [Option<u64>; 3],
    full: Option<u64>,
    groups: BTreeMap<String, Totals>,
    measured: Measured,
}

/// Totals of a group at the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Totals {
    /// CPU time, CPU stall, throttled time, memory stall, IO stall, hits of its own memory limits.
    counters: [Option<u64>; 6],
    work: Work,
    io: BTreeMap<String, Io>,
    /// CPU and memory as they were known last, and when.
    known: [Option<(i64, Millis)>; 2],
    /// Since when its stall for CPU, memory and IO could not be read.
    unread: [Option<Millis>; 3],
}

/// Rates since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Whether it is new, and so may count as a sample.
    pub fresh: bool,
    /// Used by the whole node.
    pub node: Signals,
    /// Used outside groups.
    pub system: Signals,
    /// Used by prod, mid, batch. A group whose use cannot be read counts with what was known of it last, for a while.
    pub tiers: [Signals; 3],
    /// Age of the oldest use in `tiers`, of CPU and memory: 0 where all of it is of this look.
    pub age: [Millis; 2],
    /// CPU of each group, by path.
    pub group_cpu: BTreeMap<String, i64>,
    /// Stall of the node.
    pub node_stall: StallView,
    /// Time in which everybody on the node waited for memory, thousandths.
    pub memory_full: Option<i64>,
    /// Largest stall of a group of prod or mid that its own limit does not explain, thousandths.
    pub firm_stall: StallView,
    /// The same of prod alone.
    pub prod_stall: StallView,
    /// Whether there is a group of prod or mid that may stall more than that, since nobody knows how much it does.
    pub firm_unread: Unread,
    /// Groups of prod and mid whose stall could not be read for so long that the guards go on as if they had none to tell.
    pub unwitnessed: BTreeMap<String, Unread>,
    /// Largest CPU stall of a group of batch that its own limit does not explain, thousandths.
    pub batch_stall: Option<i64>,
    /// IO a second of groups of batch, by path and device.
    pub batch_io: BTreeMap<String, BTreeMap<String, Io>>,
    /// What prod, mid, batch did and suffered since the first look, those that are gone included.
    pub work: [TierWork; 3],
}

impl Counters {
    /// Takes in an observation and answers the rates since the one before. A group's use that is missing stands as it was for
    /// the policy's `hold`, and who cannot be read is waited for until its `expire`.
    pub fn update(&mut self, seen: &Observation, policy: &Policy, now: Millis) -> &Measured {
        let span = self.at.map(|at| now.saturating_sub(at));
        if span.is_some_and(|s| s < SHORTEST_SPAN) {
            self.measured.fresh = false;
            return &self.measured;
        }
        match span {
            Some(span) => self.measure(seen, span, policy, now),
            None => self.measured = Measured::default(),
        }
        self.at = Some(now);
        self.busy = seen.cpu_busy;
        self.stall = [seen.stall.cpu, seen.stall.memory, seen.stall.io];
        self.full = seen.memory_full;
        for group in &seen.groups {
            match self.groups.get_mut(&group.path) {
                Some(totals) => totals.take(group),
                None => self.groups.entry(group.path.clone()).or_default().take(group),
            }
        }
        // Who cannot be listed has not gone, and does not begin at zero when it is seen again.
        if seen.complete && self.groups.len() > seen.groups.len() {
            self.groups.retain(|path, _| seen.group(path).is_some());
        }
        &self.measured
    }

    fn measure(&mut self, seen: &Observation, span: Millis, policy: &Policy, now: Millis) {
        let cap = |rate: i64| rate.min(seen.capacity.cpu.max(0));
        let mut tiers = [Signals {
            cpu: Some(0),
            memory: Some(0),
        }; 3];
        let (mut firm_stall, mut batch_stall) = (StallView::default(), None);
        let mut prod_stall = StallView::default();
        let mut unread = Unread::default();
        let Measured {
            group_cpu,
            batch_io,
            work,
            unwitnessed,
            ..
        } = &mut self.measured;
        unwitnessed.clear();
        for tier in &mut *work {
            (tier.anonymous, tier.page_cache) = (Some(0), Some(0));
        }
        let mut batch_groups = 0;
        let mut age = [0; 2];
        for group in &seen.groups {
            let mut totals = self.groups.get_mut(&group.path);
            let cpu = rate_of(totals.as_deref(), 0, group.cpu_usage, span).map(cap);
            let uses = totals.as_deref_mut().map_or([cpu, group.memory], |totals| {
                totals.stand_in([cpu, group.memory], policy.hold, now, &mut age)
            });
            let before = totals.as_deref();
            if let Some(work) = work.get_mut(group.tier as usize) {
                worked(work, before, group);
            }
            let rate = |index: usize, after: Option<u64>| rate_of(before, index, after, span);
            let Some(tier) = tiers.get_mut(group.tier as usize) else {
                continue;
            };
            let [cpu_use, memory_use] = uses;
            tier.cpu = plus(tier.cpu, cpu_use);
            tier.memory = plus(tier.memory, memory_use);
            match (cpu, group_cpu.get_mut(&group.path)) {
                (Some(cpu), Some(known)) => *known = cpu,
                (Some(cpu), None) => {
                    group_cpu.insert(group.path.clone(), cpu);
                }
                (None, _) => {
                    group_cpu.remove(&group.path);
                }
            }
            let stall = rate(1, group.stall.cpu).map(|s| s.min(1000)).map(|stall| {
                // Throttled time is summed over CPUs, so this subtracts rather too much for a wide pod: a pod that
                // runs into its own limit is no witness.
                (stall - rate(2, group.cpu_throttled).unwrap_or(0)).max(0)
            });
            if group.tier == Tier::Batch {
                batch_groups += 1;
                batch_stall = batch_stall.max(stall);
                match batch_io.get_mut(&group.path) {
                    Some(devices) => io_rates(devices, before, group, span),
                    None => {
                        let devices = batch_io.entry(group.path.clone()).or_default();
                        io_rates(devices, before, group, span);
                    }
                }
                continue;
            }
            firm_stall.cpu = firm_stall.cpu.max(stall);
            // A pod that runs into its own memory limit reclaims for itself: no witness either.
            let own = before.is_some_and(|b| matches!((b.counters[5], group.memory_hits), (Some(a), Some(b)) if b > a));
            let memory = rate(3, group.stall.memory).map(|s| if own { 0 } else { s.min(1000) });
            firm_stall.memory = firm_stall.memory.max(memory);
            let io = rate(4, group.stall.io).map(|s| s.min(1000));
            firm_stall.io = firm_stall.io.max(io);
            if group.tier == Tier::Prod {
                prod_stall.cpu = prod_stall.cpu.max(stall);
                prod_stall.memory = prod_stall.memory.max(memory);
                prod_stall.io = prod_stall.io.max(io);
            }
            // A counter without one before it says as little as none that could be read.
            let missing = |counter: Option<u64>, rate: Option<i64>| counter.is_some() && rate.is_none();
            let lacks = Unread {
                cpu: group.unread.cpu || missing(group.stall.cpu, stall),
                memory: group.unread.memory || missing(group.stall.memory, memory),
                io: group.unread.io || missing(group.stall.io, io),
            };
            let lost = totals
                .map(|totals| totals.lost(lacks, policy.expire, now))
                .unwrap_or_default();
            unread.cpu |= lacks.cpu && !lost.cpu;
            unread.memory |= lacks.memory && !lost.memory;
            unread.io |= lacks.io && !lost.io;
            if lost != Unread::default() {
                // Nobody is no witness for ever: batch would starve, and be evicted, for a file that is broken.
                let calm = |stall: &mut Option<i64>, lost: bool| *stall = (*stall).max(lost.then_some(0));
                calm(&mut firm_stall.cpu, lost.cpu);
                calm(&mut firm_stall.memory, lost.memory);
                calm(&mut firm_stall.io, lost.io);
                unwitnessed.insert(group.path.clone(), lost);
            }
        }
        if group_cpu.len() > seen.groups.len() {
            group_cpu.retain(|path, _| seen.group(path).is_some());
        }
        if batch_io.len() > batch_groups {
            batch_io.retain(|path, _| seen.group(path).is_some_and(|g| g.tier == Tier::Batch));
        }
        if batch_groups == seen.groups.len() {
            firm_stall = StallView {
                cpu: Some(0),
                memory: Some(0),
                io: Some(0),
            };
        }
        if !seen.complete {
            tiers = [Signals::default(); 3];
            firm_stall = StallView::default();
            prod_stall = StallView::default();
        }
        let node = Signals {
            cpu: per_milli(self.busy, seen.cpu_busy, span).map(cap),
            memory: seen.memory_used,
        };
        let sum = tiers.iter().fold(
            Signals {
                cpu: Some(0),
                memory: Some(0),
            },
            |sum, t| Signals {
                cpu: plus(sum.cpu, t.cpu),
                memory: plus(sum.memory, t.memory),
            },
        );
        let less = |a: Option<i64>, b: Option<i64>| Some((a? - b?).max(0));
        let [cpu, memory, io] = self.stall;
        let stall = |before, after| per_milli(before, after, span).map(|s| s.min(1000));
        let measured = &mut self.measured;
        measured.fresh = true;
        measured.node = node;
        measured.system = Signals {
            cpu: less(node.cpu, sum.cpu),
            memory: less(node.memory, sum.memory),
        };
        measured.tiers = tiers;
        measured.age = age;
        measured.node_stall = StallView {
            cpu: stall(cpu, seen.stall.cpu),
            memory: stall(memory, seen.stall.memory),
            io: stall(io, seen.stall.io),
        };
        measured.memory_full = stall(self.full, seen.memory_full);
        measured.firm_stall = firm_stall;
        measured.prod_stall = prod_stall;
        measured.firm_unread = unread;
        measured.batch_stall = batch_stall;
    }
}

impl Totals {
    fn take(&mut self, group: &Group) {
        self.counters = [
            group.cpu_usage,
            group.stall.cpu,
            group.cpu_throttled,
            group.stall.memory,
            group.stall.io,
            group.memory_hits,
        ];
        self.work = group.work;
        assign(&mut self.io, &group.io, |_, io| *io);
    }

    /// What of the stall could not be read for longer than `expire`.
    fn lost(&mut self, lacks: Unread, expire: Millis, now: Millis) -> Unread {
        let [cpu, memory, io] = &mut self.unread;
        let lost = |since: &mut Option<Millis>, lacks: bool| {
            *since = lacks.then(|| since.unwrap_or(now));
            since.is_some_and(|since| now.saturating_sub(since) > expire)
        };
        Unread {
            cpu: lost(cpu, lacks.cpu),
            memory: lost(memory, lacks.memory),
            io: lost(io, lacks.io),
        }
    }

    /// CPU and memory, where one is missing as it was known last, unless that is older than `hold`: then it stays unknown,
    /// for it is not zero. What the group uses beyond that is counted as the system's, since the node's use is known.
    fn stand_in(
        &mut self,
        uses: [Option<i64>; 2],
        hold: Millis,
        now: Millis,
        age: &mut [Millis; 2],
    ) -> [Option<i64>; 2] {
        let mut stand_in = uses;
        for ((used, known), age) in stand_in.iter_mut().zip(&mut self.known).zip(age) {
            match (*used, *known) {
                (Some(used), _) => *known = Some((used, now)),
                (None, Some((last, at))) if now.saturating_sub(at) <= hold => {
                    *used = Some(last);
                    *age = (*age).max(now.saturating_sub(at));
                }
                (None, _) => {}
            }
        }
        stand_in
    }
}

/// Adds what a group did since the last look. A counter that went back (a container of it is gone) adds nothing rather than
/// what was counted already.
fn worked(sum: &mut TierWork, before: Option<&Totals>, group: &Group) {
    let was = before.map_or(
        Work {
            throttled_periods: Some(0),
            ooms: Some(0),
            oom_kills: Some(0),
            io: Some(Io::default()),
            ..Work::default()
        },
        |before| before.work,
    );
    let now = &group.work;
    let more = |was: Option<u64>, now: Option<u64>| was.zip(now).map_or(0, |(was, now)| now.saturating_sub(was));
    // Both or neither: they are of the same files.
    if was.throttled_periods.is_some() && now.throttled_periods.is_some() {
        let throttled = before.map_or(Some(0), |b| b.counters[2]);
        sum.throttled = sum.throttled.saturating_add(more(throttled, group.cpu_throttled));
        sum.throttled_periods += more(was.throttled_periods, now.throttled_periods);
    }
    sum.ooms += more(was.ooms, now.ooms);
    sum.oom_kills += more(was.oom_kills, now.oom_kills);
    if let (Some(was), Some(now)) = (was.io, now.io) {
        sum.io = sum.io.with(now.with(was, u64::saturating_sub), u64::saturating_add);
    }
    sum.anonymous = plus(sum.anonymous, now.anonymous);
    sum.page_cache = plus(sum.page_cache, now.page_cache);
}

/// A group that was not there before began at zero; one that could not be read has an unknown past.
fn rate_of(before: Option<&Totals>, index: usize, after: Option<u64>, span: Millis) -> Option<i64> {
    let before = before.map_or(Some(0), |b| b.counters.get(index).copied().flatten());
    per_milli(before, after, span)
}

/// IO a second of a group that was there before; of a new one, or of a device that could not be read, nobody knows when it
/// began.
fn io_rates(rates: &mut BTreeMap<String, Io>, before: Option<&Totals>, group: &Group, span: Millis) {
    let Some(before) = before else {
        rates.clear();
        return;
    };
    assign(rates, &group.io, |device, after| {
        let Some(before) = before.io.get(device).copied() else {
            return Io::default();
        };
        let per_second = |after: u64, before: u64| after.saturating_sub(before).saturating_mul(1000) / span.max(1);
        after.with(before, per_second)
    });
}

/// Makes `into` hold what `of` makes of each entry of `from`; keys that are there already are kept.
fn assign(into: &mut BTreeMap<String, Io>, from: &BTreeMap<String, Io>, of: impl Fn(&String, &Io) -> Io) {
    if !into.keys().eq(from.keys()) {
        *into = from.keys().map(|device| (device.clone(), Io::default())).collect();
    }
    for (io, (device, after)) in into.values_mut().zip(from) {
        *io = of(device, after);
    }
}

/// Microseconds per millisecond: thousandths, of a core or of wall time. A counter that went back was born anew.
fn per_milli(before: Option<u64>, after: Option<u64>, span: Millis) -> Option<i64> {
    let (before, after) = (before?, after?);
    let delta = if after >= before { after - before } else { after };
    i64::try_from(delta / span.max(1)).ok()
}
