//! The past of each pod, so that a forecast is of the pods that are there.
//!
//! The peak of a tier is a quantile of what its pods used together: pods do not peak at the same time, and the sum of their
//! quantiles would leave much idle that nobody ever needs. But what was used together was used by the pods of then. So the
//! tier's histogram is kept as that of its *members*, whose common past it is:
//!
//! - A pod that *left* is taken out of all samples with what it used at least, with the certainty that the policy's quantile
//!   asks for (P2 where that is P98): whatever the rest did while it was there, it was not more than the sum less that. (Its
//!   peak may have been at another time than the tier's, so that to take that out could be too much.) One that leaves while
//!   most of the samples are from before it joined, within a half-life, takes along just what was added for it: otherwise the
//!   rests of jobs that come and go would add up.
//! - A pod that *came* is no member until it has a past of its own, [`Policy::warm_up`] long. Until then it counts beside the
//!   members, with its request, or with the most that it used where that is more. Then it joins: its own quantile is added to
//!   all samples that were taken without it, as if both peaked together; as these fade, the common past takes over.
//! - Together the members never used more than the sum of the most that each of them used. So that is an upper bound, too, and
//!   the smaller of both holds. (The sum of their *quantiles* is none: of many pods that seldom work, one always does.)
//!
//! Pods that are there when nothing is known yet are members at once: their past begins together.
//!
//! A pod of prod has a *long* past, too, of the peaks of its minutes: see [`crate::mid`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    amounts::plus,
    histogram::Histogram,
    observation::{Group, Millis, Observation, Resources, Tier},
    policy::{Mid, Policy},
    rates::Measured,
    state::Forecasts,
};

/// Pods with a past of their own; more than a kubelet runs. Others count as if they had just come.
const MOST: usize = 512;
/// Memory is counted in these steps, bytes: 1 MiB.
const MEMORY_STEP: i64 = 1 << 20;

/// The past of each pod of prod and mid, by the path of its cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Pasts {
    of: BTreeMap<String, Box<Past>>,
    /// Whether the forecasts are of a time when no pod had a past: they are with whoever is there.
    #[serde(skip)]
    unwritten: bool,
    /// Whether the most of each is known, which is not stored.
    #[serde(skip)]
    recalled: bool,
}

/// The past of one pod: about a kilobyte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Past {
    tier: Tier,
    since: Millis,
    /// Whether the tier's samples are with it.
    member: bool,
    cpu: Histogram<3>,
    memory: Histogram<3>,
    /// The most of both at the last sample: looks are more than samples.
    #[serde(skip)]
    most: [Option<i64>; 2],
    /// Of prod, the peaks of its minutes, of both.
    #[serde(default)]
    long: [Histogram<3>; 2],
    /// The most of both in the present minute.
    #[serde(skip)]
    minute: [Option<i64>; 2],
    /// What `long` makes expect of both, as of the last minute; nothing while it is too short.
    #[serde(skip)]
    proven: Option<[i64; 2]>,
    /// The most of both that the long past knows, as of the last minute.
    #[serde(skip)]
    greatest: [Option<i64>; 2],
    /// When it joined its tier, and what was added to both for it; nothing of one that was a member from the start.
    #[serde(default)]
    joined: Option<(Millis, [i64; 2])>,
}

/// What pods count with beside the members of their tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Newcomers {
    /// The most that those who came used, by tier.
    pub(crate) used: [Resources; 2],
    /// What young pods, members or not, asked for beyond that.
    pub(crate) unused: Resources,
    /// What prod's pods asked for.
    pub(crate) requests: Resources,
    /// What prod's pods are expected to need in the long run, each for itself.
    pub(crate) own: Resources,
}

/// A part of the two tiers that are forecast.
fn firm<T>(parts: &mut [T; 2], tier: Tier) -> Option<&mut T> {
    parts.get_mut(tier as usize)
}

impl Pasts {
    /// Those of a state that was stored when pods had none.
    pub(crate) fn unwritten() -> Self {
        Self {
            unwritten: true,
            ..Self::default()
        }
    }

    /// Takes note of who came, left, and is no newcomer any longer, and has the forecasts follow.
    pub(crate) fn follow(
        &mut self,
        seen: &Observation,
        policy: &Policy,
        cpu: &mut Forecasts,
        memory: &mut Forecasts,
        now: Millis,
    ) {
        if !self.recalled {
            for past in self.of.values_mut() {
                past.recall();
                past.prove(&policy.mid);
            }
            self.recalled = true;
        }
        if seen.unlisted {
            return;
        }
        let q = policy.quantile_percent;
        let is_firm = |group: &&Group| group.tier != Tier::Batch;
        let there = seen.groups.iter().filter(is_firm);
        let before = self.of.iter().map(|(path, past)| (path.as_str(), past.tier));
        // Both are in the order of the paths: where nobody came or went, nobody is looked up.
        let changed = !before.eq(there.map(|group| (group.path.as_str(), group.tier)));
        // Who cannot be listed has not left.
        if changed && seen.complete {
            self.of.retain(|path, past| {
                let tier = seen.group(path).map(|group| group.tier);
                if tier != Some(past.tier) && past.member {
                    past.leave(policy, cpu, memory, now);
                }
                match tier {
                    // What is known of it is known in its new tier, too, which it then joins.
                    Some(tier @ (Tier::Prod | Tier::Mid)) => {
                        past.tier = tier;
                        true
                    }
                    Some(Tier::Batch) | None => false,
                }
            });
        }
        let least = u64::from(policy.min_samples);
        if changed {
            for group in seen.groups.iter().filter(is_firm) {
                if self.of.len() < MOST && !self.of.contains_key(&group.path) {
                    let cold = cpu.of(group.tier).samples() < least && memory.of(group.tier).samples() < least;
                    let past = Past::new(group.tier, cold || self.unwritten, now);
                    self.of.insert(group.path.clone(), Box::new(past));
                }
            }
        }
        for past in self.of.values_mut().filter(|past| !past.member) {
            if !past.young(policy, now) && past.cpu.samples().min(past.memory.samples()) >= least {
                past.member = true;
                let [of_cpu, of_memory] = [&past.cpu, &past.memory].map(|past| past.quantile(q).unwrap_or(0));
                let of_memory = of_memory.saturating_mul(MEMORY_STEP);
                cpu.of_mut(past.tier).shift(of_cpu);
                memory.of_mut(past.tier).shift(of_memory);
                if past.tier == Tier::Prod {
                    cpu.shift_long(of_cpu);
                    memory.shift_long(of_memory);
                }
                past.joined = Some((now, [of_cpu, of_memory]));
            }
        }
        self.unwritten &= !seen.complete;
    }

    /// Takes in a sample of each pod, and answers what those who are no members used, by tier.
    pub(crate) fn sample(
        &mut self,
        seen: &Observation,
        rates: &Measured,
        half_life: Millis,
        now: Millis,
    ) -> [Resources; 2] {
        let mut apart = [Resources::default(); 2];
        for group in &seen.groups {
            let Some(apart) = firm(&mut apart, group.tier) else {
                continue;
            };
            let (cpu, memory) = (rates.group_cpu.get(&group.path).copied(), group.memory);
            let past = self.of.get_mut(&group.path);
            let member = past.as_ref().is_some_and(|past| past.member);
            if let Some(past) = past {
                if group.tier == Tier::Prod {
                    for (most, used) in past.minute.iter_mut().zip([cpu, memory]) {
                        *most = (*most).max(used);
                    }
                }
                if let Some(cpu) = cpu {
                    past.cpu.add(cpu, now, half_life);
                }
                if let Some(memory) = memory {
                    past.memory.add(steps(memory), now, half_life);
                }
                past.recall();
            }
            if !member {
                apart.cpu = apart.cpu.saturating_add(cpu.unwrap_or(0));
                apart.memory = apart.memory.saturating_add(memory.unwrap_or(0));
            }
        }
        apart
    }

    /// The most that the members of a tier used, each for itself, CPU and memory; nothing where one has no past, or one of less
    /// than `least` samples.
    pub(crate) fn most(&self, tier: Tier, least: u32) -> [Option<i64>; 2] {
        self.sum(tier, least, |past| past.most)
    }

    /// The same of prod, as far back as its long pasts go.
    pub(crate) fn most_in_days(&self, least: u32) -> [Option<i64>; 2] {
        self.sum(Tier::Prod, least, |past| {
            let ([cpu, memory], [long_cpu, long_memory]) = (past.most, past.greatest);
            [cpu.max(long_cpu), memory.max(long_memory)]
        })
    }

    fn sum(&self, tier: Tier, least: u32, of: impl Fn(&Past) -> [Option<i64>; 2]) -> [Option<i64>; 2] {
        let mut sum = [Some(0), Some(0)];
        for past in self.of.values().filter(|past| past.member && past.tier == tier) {
            let samples = [past.cpu.samples(), past.memory.samples()];
            for ((sum, most), samples) in sum.iter_mut().zip(of(past)).zip(samples) {
                *sum = plus(*sum, most.filter(|_| samples >= u64::from(least)));
            }
        }
        sum
    }

    /// A minute is over: its peaks are part of the long pasts.
    pub(crate) fn end_minute(&mut self, mid: &Mid, now: Millis) {
        for past in self.of.values_mut() {
            let [cpu, memory] = std::mem::take(&mut past.minute);
            let peaks = [cpu, memory.map(steps)];
            for (long, peak) in past.long.iter_mut().zip(peaks) {
                if let Some(peak) = peak {
                    long.add(peak, now, mid.half_life);
                }
            }
            past.prove(mid);
        }
    }

    /// What pods count with beside the members, and prod's in the long run.
    pub(crate) fn newcomers(&self, seen: &Observation, measured: &Measured, policy: &Policy, now: Millis) -> Newcomers {
        let mut all = Newcomers::default();
        for group in &seen.groups {
            let Some(used) = firm(&mut all.used, group.tier) else {
                continue;
            };
            let past = self.of.get(&group.path).map(Box::as_ref);
            let member = past.is_some_and(|past| past.member);
            let mut most = Resources {
                cpu: measured.group_cpu.get(&group.path).copied().unwrap_or(0),
                memory: group.memory.unwrap_or(0),
            };
            if group.tier == Tier::Prod {
                all.requests = all.requests.plus(group.requests);
                all.own = all.own.plus(long(past, group.requests, most));
            }
            if member && past.is_some_and(|past| !past.young(policy, now)) {
                continue;
            }
            if !member {
                let [cpu, memory] = past.map(|past| past.most).unwrap_or_default();
                most.cpu = most.cpu.max(cpu.unwrap_or(0));
                most.memory = most.memory.max(memory.unwrap_or(0));
                *used = used.plus(most);
            }
            let unused = &mut all.unused;
            unused.cpu = unused.cpu.saturating_add((group.requests.cpu - most.cpu).max(0));
            unused.memory = unused
                .memory
                .saturating_add((group.requests.memory - most.memory).max(0));
        }
        all
    }
}

impl Past {
    fn new(tier: Tier, member: bool, now: Millis) -> Self {
        Self {
            tier,
            since: now,
            member,
            cpu: Histogram::default(),
            memory: Histogram::default(),
            most: [None; 2],
            long: [Histogram::default(), Histogram::default()],
            minute: [None; 2],
            proven: None,
            greatest: [None; 2],
            joined: None,
        }
    }

    /// Finds out what the long past makes expect, if it is long enough.
    fn prove(&mut self, mid: &Mid) {
        let [cpu, memory] = &self.long;
        let enough = cpu.samples().min(memory.samples()) >= mid.minutes();
        let peaks = cpu
            .quantile(mid.quantile_percent)
            .zip(memory.quantile(mid.quantile_percent));
        self.proven = peaks
            .filter(|_| enough && self.tier == Tier::Prod)
            .map(|(cpu, memory)| [cpu, memory.saturating_mul(MEMORY_STEP)]);
        let greatest = memory.quantile(100).map(|memory| memory.saturating_mul(MEMORY_STEP));
        self.greatest = [cpu.quantile(100), greatest];
    }

    /// Takes it out of the samples of its tier, and of prod's long past; and forgets its own long past: should it come back from
    /// another tier, it begins anew.
    fn leave(&mut self, policy: &Policy, cpu: &mut Forecasts, memory: &mut Forecasts, now: Millis) {
        self.member = false;
        let joined = self.joined.take();
        let part = |[cpu, memory]: [&Histogram<3>; 2], quantile: u32, half_life: Millis| {
            let joined = joined.filter(|(at, _)| now.saturating_sub(*at) < half_life);
            let least = |past: &Histogram<3>| past.quantile_at_least(100_u32.saturating_sub(quantile)).unwrap_or(0);
            let least = || [least(cpu), least(memory).saturating_mul(MEMORY_STEP)];
            joined.map_or_else(least, |(_, added)| added)
        };
        let past = [&self.cpu, &self.memory];
        let [of_cpu, of_memory] = part(past, policy.quantile_percent, policy.half_life);
        cpu.of_mut(self.tier).shift(-of_cpu);
        memory.of_mut(self.tier).shift(-of_memory);
        if self.tier != Tier::Prod {
            return;
        }
        let mid = &policy.mid;
        let [of_cpu, of_memory] = part(self.long.each_ref(), mid.quantile_percent, mid.half_life);
        cpu.shift_long(-of_cpu);
        memory.shift_long(-of_memory);
        self.long = Default::default();
        (self.minute, self.proven, self.greatest) = ([None; 2], None, [None; 2]);
    }

    fn recall(&mut self) {
        let memory = self.memory.quantile(100).map(|m| m.saturating_mul(MEMORY_STEP));
        self.most = [self.cpu.quantile(100), memory];
    }

    fn young(&self, policy: &Policy, now: Millis) -> bool {
        now.saturating_sub(self.since) < policy.warm_up
    }
}

/// What a pod of prod is to be expected to need in the long run: what its long past says, and what it asked for or used at most
/// where that is too short; never less than it uses now.
fn long(past: Option<&Past>, requests: Resources, used: Resources) -> Resources {
    let expected = match past {
        Some(Past { proven: Some(long), .. }) => *long,
        _ => {
            let [cpu, memory] = past.map(|past| past.most).unwrap_or_default();
            [
                requests.cpu.max(cpu.unwrap_or(0)),
                requests.memory.max(memory.unwrap_or(0)),
            ]
        }
    };
    let [cpu, memory] = expected;
    Resources {
        cpu: cpu.max(used.cpu),
        memory: memory.max(used.memory),
    }
}

/// Memory in steps: whatever is begun counts whole.
fn steps(memory: i64) -> i64 {
    memory.max(0).saturating_add(MEMORY_STEP - 1) / MEMORY_STEP
}
