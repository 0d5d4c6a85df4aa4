//! Eviction: what has to leave where the guards do not suffice. Batch alone, by lowest lost work, never more than needed.
//!
//! Three causes lead to an order to evict through the API. Memory: less is available than the policy's line although the
//! memory guard has had its time. Stall: batch has had no page cache left to give for long, and the shortage goes on. CPU:
//! batch was held at its floor for long, and its pods asked for more than is left.
//!
//! Under a second line, and only while memory stalls somebody, batch is killed at once: the kernel would soon choose
//! somebody itself.
//!
//! What leaves is counted as freed for a minute, so that nobody is evicted for what another is about to give. From an
//! order on the node takes no new batch for a while, whoever it is: what was too much once would be so again.

mod record;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    action::{Action, KILL},
    observation::{Capabilities, Group, Millis, Observation, Tier},
    policy,
    victims::{self, Candidate, Victim},
};
pub use record::{Answer, Cause, Eviction, EvictionView, Outcome};

/// Memory must have been short this long: the guard takes batch's page cache within a second or two, and what prod
/// frees by itself costs nobody his work.
const PATIENCE: Millis = 5_000;
/// Time between two rounds of orders for want of memory, and of kills. A kill shows within a second.
const PAUSE: (Millis, Millis) = (5_000, 1_000);
/// Time between two rounds for a cause that has lasted for long already.
const LONG_PAUSE: Millis = 60_000;
/// How long what leaves is counted as freed, and an order without an answer as carried out.
const LEAVES: Millis = 60_000;
/// How long one whom his disruption budget keeps is not asked for again, and after an order that failed.
const BARRED: (Millis, Millis) = (30_000, 10_000);
/// How long the node takes no new batch after an order, and after a shortage that outlasts that: 5 min and 1 min.
const CLOSED: (Millis, Millis) = (300_000, 60_000);
/// Full memory stall of the node, thousandths, over which memory is about to fail.
const FULL: i64 = 50;
/// Evictions that are remembered.
const REMEMBERED: usize = 10;

/// What an eviction looks at.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// The node.
    pub seen: &'a Observation,
    /// What the kernel can do.
    pub capabilities: &'a Capabilities,
    /// Whether the stalls are of now: the first look knows none, and one that came too soon knows old ones.
    pub fresh: bool,
    /// Prod's memory stall, thousandths.
    pub stall: Option<i64>,
    /// Prod's memory stall, thousandths, over which the memory guard cuts.
    pub threshold: i64,
    /// Time in which everybody waited for memory, thousandths.
    pub full: Option<i64>,
    /// Since when the memory guard has had nothing more to take.
    pub exhausted: Option<Millis>,
    /// Whether the CPU guard holds batch at its floor.
    pub at_floor: bool,
    /// CPU that prod leaves to batch by the forecast, or that it has at least, milli-cores; `None` if not known.
    pub left: Option<i64>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decided {
    /// All of it.
    pub evictions: Vec<Eviction>,
    /// Of that, what is done to the kernel.
    pub kills: Vec<Action>,
}

/// What is remembered of evictions. When the node takes batch again survives a restart, and so do the last evictions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evictor {
    closed_until: Option<Millis>,
    last: Vec<Eviction>,
    #[serde(skip)]
    near: bool,
    /// The last step only observed: what it would have ordered is on no way.
    #[serde(skip)]
    observed: bool,
    #[serde(skip)]
    short_since: Option<Millis>,
    #[serde(skip)]
    floor_since: Option<Millis>,
    #[serde(skip)]
    ordered: Option<Millis>,
    #[serde(skip)]
    killed: Option<Millis>,
    /// Since when each pod is on its way, by its UID: by an order, or seen so.
    #[serde(skip)]
    leaving: BTreeMap<String, Millis>,
    /// Until when a pod is not asked for again, by its UID.
    #[serde(skip)]
    barred: BTreeMap<String, Millis>,
}

impl Evictor {
    /// Forgets what it waited for. What happened stays known.
    pub fn switch_off(&mut self) {
        *self = Self {
            closed_until: None,
            last: std::mem::take(&mut self.last),
            ..Self::default()
        };
    }

    /// Whether the node takes no new batch, since some was evicted.
    pub fn closed(&self, now: Millis) -> bool {
        self.closed_until.is_some_and(|until| now < until)
    }

    /// As the report shows it.
    pub(crate) fn view(&self, decided: &Decided, now: Millis) -> EvictionView {
        let ordered = |e: &&Eviction| matches!(e.outcome, Outcome::Ordered | Outcome::Killed) && e.uid != e.name;
        EvictionView {
            orders: decided.evictions.iter().filter(ordered).cloned().collect(),
            decided: decided.evictions.clone(),
            last: self.last.clone(),
            closed: self.closed(now),
            near: self.near,
        }
    }

    /// Takes in what became of an order.
    pub fn answer(&mut self, uid: &str, answer: Answer, now: Millis) {
        let barred = match answer {
            Answer::Evicted => None,
            Answer::Refused => Some(BARRED.0),
            Answer::Failed => Some(BARRED.1),
        };
        if let Some(barred) = barred {
            self.leaving.remove(uid);
            self.barred.insert(uid.to_owned(), now.saturating_add(barred));
            // The next one need not wait.
            self.ordered = None;
        }
        let ours = self.last.iter_mut().rev().find(|e| e.uid == uid);
        if let Some(eviction) = ours.filter(|e| e.outcome == Outcome::Ordered) {
            eviction.outcome = match answer {
                Answer::Evicted => Outcome::Evicted,
                Answer::Refused => Outcome::Refused,
                Answer::Failed => Outcome::Failed,
            };
        }
    }

    /// Decides who has to leave now. Where `act` is false nothing comes of it, but for what the report says.
    pub fn step(&mut self, policy: &policy::Eviction, reading: Reading<'_>, act: bool, now: Millis) -> Decided {
        let Reading { seen, .. } = reading;
        if act && self.observed {
            (self.ordered, self.killed) = (None, None);
            self.leaving.clear();
        }
        self.observed = !act;
        self.forget(seen, now);
        let capacity = seen.capacity.memory;
        let line = percent(capacity, policy.available_percent);
        let fails = percent(capacity, policy.kill_percent);
        let available = seen.memory_used.map(|used| (capacity - used).max(0));
        // Most looks decide nothing, and need no list.
        let batch = || seen.groups.iter().filter(|g| g.tier == Tier::Batch);
        self.near = batch().next().is_some() && available.is_some_and(|a| a < line.saturating_mul(2));
        // Until both are known for sure nothing is waited for: unknown is neither short nor enough.
        self.short_since = match available {
            Some(a) if a < line => Some(self.short_since.unwrap_or(now)),
            _ => None,
        };
        self.floor_since = reading.at_floor.then(|| self.floor_since.unwrap_or(now));

        let mut decided = Decided::default();
        if let Some(available) = available {
            if available < fails && reading.fresh && failing(&reading) && rested(self.killed, PAUSE.1, now) {
                self.kill(
                    &batch().collect::<Vec<_>>(),
                    reading,
                    (available, fails),
                    act,
                    &mut decided,
                    now,
                );
            }
            let patient = self.short_since.is_some_and(|at| now.saturating_sub(at) >= PATIENCE);
            if decided.evictions.is_empty() && patient && rested(self.ordered, PAUSE.0, now) {
                let need = clear(line, capacity) - available;
                let why = format!(
                    "{} of the node's memory are available, the policy wants {}",
                    mebibytes(available),
                    mebibytes(line)
                );
                self.order(
                    &batch().collect::<Vec<_>>(),
                    seen,
                    Cause::Memory,
                    need,
                    &why,
                    act,
                    &mut decided,
                    now,
                );
            }
        }
        let long = |since: Option<Millis>| since.is_some_and(|at| now.saturating_sub(at) >= policy.suppressed_for);
        let rested = rested(self.ordered, LONG_PAUSE, now);
        if decided.evictions.is_empty() && rested && long(reading.exhausted) {
            let seconds = reading.exhausted.map_or(0, |at| now.saturating_sub(at) / 1000);
            let why = format!("batch has had no page cache left to give for {seconds} s, and prod still lacks memory");
            // A step of the memory guard.
            self.order(
                &batch().collect::<Vec<_>>(),
                seen,
                Cause::MemoryStall,
                capacity / 50,
                &why,
                act,
                &mut decided,
                now,
            );
        }
        if decided.evictions.is_empty()
            && rested
            && long(self.floor_since)
            && let Some(left) = reading.left
        {
            let asked = batch().filter(|g| !self.leaves(g)).map(|g| g.requests.cpu);
            let asked: i64 = asked.fold(0, i64::saturating_add);
            let seconds = self.floor_since.map_or(0, |at| now.saturating_sub(at) / 1000);
            let why = format!(
                "batch was held at its floor for {seconds} s: its pods asked for {asked}m of CPU, {left}m are left"
            );
            self.order(
                &batch().collect::<Vec<_>>(),
                seen,
                Cause::Cpu,
                asked - left,
                &why,
                act,
                &mut decided,
                now,
            );
        }
        if self.closed(now) && self.short_since.is_some() {
            self.closed_until = self.closed_until.max(Some(now.saturating_add(CLOSED.1)));
        }
        decided
    }

    fn forget(&mut self, seen: &Observation, now: Millis) {
        let pods = seen.groups.iter().filter_map(|g| g.pod.as_ref());
        for pod in pods.filter(|p| p.leaving) {
            if !self.leaving.contains_key(&pod.uid) {
                self.leaving.insert(pod.uid.clone(), now);
            }
        }
        // An order that nothing came of in a minute is forgotten; a pod that takes longer to end is still leaving.
        self.leaving.retain(|uid, since| {
            let young = now.saturating_sub(*since) < LEAVES;
            match seen.groups.iter().find(|g| key(g) == uid) {
                Some(group) => young || group.pod.as_ref().is_some_and(|p| p.leaving),
                None => !seen.complete && young,
            }
        });
        self.barred.retain(|_, until| now < *until);
        if self.closed_until.is_some_and(|until| now >= until) {
            self.closed_until = None;
        }
    }

    fn leaves(&self, group: &Group) -> bool {
        self.leaving.contains_key(key(group))
    }

    /// Memory is about to fail: what frees enough ends now, whatever it is asked by whom. What leaves already is first.
    fn kill(
        &mut self,
        batch: &[&Group],
        reading: Reading<'_>,
        (available, fails): (i64, i64),
        act: bool,
        decided: &mut Decided,
        now: Millis,
    ) {
        if !reading.capabilities.cgroup_kill {
            return;
        }
        let seen = reading.seen;
        let candidates = batch.iter().map(|group| Candidate {
            group,
            frees: frees(group),
            leaving: self.leaves(group),
        });
        let need = clear(fails, seen.capacity.memory) - available;
        let victims = enough(candidates.collect(), seen, need, now);
        let why = format!(
            "{} of the node's memory are available and it stalls, the policy kills under {}",
            mebibytes(available),
            mebibytes(fails)
        );
        for victim in &victims {
            decided
                .kills
                .push(Action::new(&victim.group.path, KILL, "1", why.as_str()));
        }
        if !victims.is_empty() {
            self.killed = Some(now);
            let outcome = if act { Outcome::Killed } else { Outcome::Observed };
            self.note(&victims, Cause::MemoryFails, outcome, &why, decided, now);
        }
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "one cause with its terms, all of them computed before"
    )]
    fn order(
        &mut self,
        batch: &[&Group],
        seen: &Observation,
        cause: Cause,
        need: i64,
        why: &str,
        act: bool,
        decided: &mut Decided,
        now: Millis,
    ) {
        let freed = |group: &Group| match cause {
            Cause::Cpu => group.requests.cpu,
            Cause::Memory | Cause::MemoryFails | Cause::MemoryStall => frees(group),
        };
        // Of CPU, those that leave have been left out of what was asked for.
        let coming = batch.iter().filter(|_| cause != Cause::Cpu).filter(|g| {
            let since = self.leaving.get(key(g));
            since.is_some_and(|at| now.saturating_sub(*at) < LEAVES)
        });
        let need = coming.fold(need, |need, group| need.saturating_sub(freed(group)));
        if need <= 0 {
            return;
        }
        let candidates = batch.iter().map(|group| {
            let leaving = self.leaves(group);
            let kept = leaving || group.pod.is_none() || self.barred.contains_key(key(group));
            Candidate {
                group,
                frees: if kept { 0 } else { freed(group) },
                leaving,
            }
        });
        let candidates = candidates.collect();
        let victims = if cause == Cause::Cpu {
            victims::choose(candidates, &seen.gangs, need, now)
        } else {
            enough(candidates, seen, need, now)
        };
        if !victims.is_empty() {
            self.ordered = Some(now);
            let outcome = if act { Outcome::Ordered } else { Outcome::Observed };
            self.note(&victims, cause, outcome, why, decided, now);
        }
    }

    fn note(
        &mut self,
        victims: &[Victim<'_>],
        cause: Cause,
        outcome: Outcome,
        why: &str,
        decided: &mut Decided,
        now: Millis,
    ) {
        if outcome != Outcome::Observed {
            self.closed_until = self.closed_until.max(Some(now.saturating_add(CLOSED.0)));
        }
        for victim in victims {
            let pod = victim.group.pod.as_ref();
            let uid = key(victim.group).to_owned();
            self.leaving.insert(uid.clone(), now);
            let eviction = Eviction {
                at: now,
                name: pod.map_or_else(|| uid.clone(), |p| p.name.clone()),
                uid,
                gang: pod.and_then(|p| p.gang.clone()),
                cause,
                why: format!("{why}; of batch its end loses least: {}", victim.price),
                lost: victim.price,
                outcome,
            };
            decided.evictions.push(eviction.clone());
            self.last.push(eviction);
        }
        let over = self.last.len().saturating_sub(REMEMBERED);
        self.last.drain(..over);
    }
}

/// Whoever holds a hundredth of the node has not made it short: where batch holds no more than that, nobody is taken.
fn enough<'a>(candidates: Vec<Candidate<'a>>, seen: &'a Observation, need: i64, now: Millis) -> Vec<Victim<'a>> {
    let all = candidates.iter().fold(0_i64, |sum, c| sum.saturating_add(c.frees));
    if all < seen.capacity.memory / 100 {
        return Vec::new();
    }
    victims::choose(candidates, &seen.gangs, need, now)
}

/// Memory that is available once the group has ended, and is not now: page cache is available already.
fn frees(group: &Group) -> i64 {
    let charged = group.memory_charged.or(group.memory).unwrap_or(0);
    (charged - group.memory_reclaimable.unwrap_or(0)).max(0)
}

/// A stall says that little memory is not merely memory well used: everybody waits for it, or prod does more than its
/// guard bears. A kernel that measures neither is believed by its memory alone.
fn failing(reading: &Reading<'_>) -> bool {
    match (reading.full, reading.stall) {
        (None, None) => true,
        (full, stall) => full.is_some_and(|f| f >= FULL) || stall.is_some_and(|s| s > reading.threshold),
    }
}

fn rested(last: Option<Millis>, pause: Millis, now: Millis) -> bool {
    last.is_none_or(|at| now.saturating_sub(at) >= pause)
}

/// What is known of the group by: the pod's UID, or the path of one that is no pod's.
fn key(group: &Group) -> &str {
    group.pod.as_ref().map_or(group.path.as_str(), |p| p.uid.as_str())
}

fn percent(of: i64, percent: u32) -> i64 {
    let part = i128::from(of) * i128::from(percent) / 100;
    i64::try_from(part).unwrap_or(of)
}

/// What shall be available after an eviction under this line, so that the next breath does not ask for another one: a
/// quarter more, and a hundredth of the node at least.
fn clear(line: i64, capacity: i64) -> i64 {
    line.saturating_add((line / 4).max(capacity / 100))
}

fn mebibytes(bytes: i64) -> String {
    format!("{} MiB", bytes >> 20)
}
