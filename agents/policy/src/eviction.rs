//! Eviction: what has to leave where the guards do not suffice. Batch, by lowest lost work, never more than needed; and mid
//! where no batch is left, by rules of its own ([`mid`]).
//!
//! Three causes lead to an order to evict through the API. Memory: less is available than the policy's line although the
//! memory guard has had its time. Stall: batch has had no page cache left to give for long, and the shortage goes on. CPU:
//! batch was held at its floor for long, and its pods asked for more than is left.
//!
//! Under a second line, and only while memory stalls somebody, batch is killed at once: the kernel would soon choose
//! somebody itself.
//!
//! What leaves is counted as freed for a minute, so that nobody is evicted for what another is about to give. From an
//! order on the node takes nothing new of mid and batch for a while, whoever it is: what was too much once would be so again.

mod mid;
mod record;

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    action::{Action, KILL, StallView},
    amounts::{mebibytes, percent},
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
/// How long the node takes nothing new of mid and batch after an order (after the notice that it gives), and after a shortage that outlasts that: 5 min and 1 min.
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
    /// Whether a guard holds batch's CPU at its floor.
    pub at_floor: bool,
    /// CPU that prod leaves to batch by the forecast, or that it has at least, milli-cores; `None` if not known.
    pub left: Option<i64>,
    /// CPU that batch has at least, milli-cores.
    pub floor: i64,
    /// CPU that batch uses, milli-cores.
    pub batch_cpu: Option<i64>,
    /// Stall of prod without mid, thousandths.
    pub prod_stall: StallView,
    /// Prod's CPU stall, thousandths, over which the CPU guard cuts.
    pub cpu_threshold: i64,
    /// CPU that mid uses, milli-cores.
    pub mid_cpu: Option<i64>,
    /// CPU that prod's peak leaves to mid, milli-cores.
    pub left_to_mid: Option<i64>,
    /// CPU that each group uses, milli-cores, by path.
    pub group_cpu: &'a BTreeMap<String, i64>,
}

/// An order to evict.
#[derive(Clone, Copy, Debug)]
struct Order {
    /// Of whom.
    tier: Tier,
    cause: Cause,
    /// What is to be freed.
    need: i64,
    /// Time between notice and eviction beyond what everybody has.
    notice: Millis,
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
    #[serde(with = "record::shared")]
    last: Arc<Vec<Eviction>>,
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
    /// When somebody was killed last.
    #[serde(skip)]
    killed_at: Option<Millis>,
    /// Who was killed and holds memory still, by UID.
    #[serde(skip)]
    killed: BTreeMap<String, Killed>,
    /// Since when each pod is on its way, by its UID: by an order, or seen so.
    #[serde(skip)]
    leaving: BTreeMap<String, Millis>,
    /// Until when a pod is not asked for again, by its UID.
    #[serde(skip)]
    barred: BTreeMap<String, Millis>,
    #[serde(skip)]
    suffered: mid::Suffered,
}

impl Order {
    /// Batch has no notice of its own.
    const fn of_batch(cause: Cause, need: i64) -> Self {
        Self {
            tier: Tier::Batch,
            cause,
            need,
            notice: 0,
        }
    }
}

/// One whose processes were killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Killed {
    at: Millis,
    /// What its end was to free, bytes.
    held: i64,
}

impl Evictor {
    /// Forgets what it waited for. What happened stays known.
    pub fn switch_off(&mut self) {
        *self = Self {
            last: std::mem::take(&mut self.last),
            ..Self::default()
        };
    }

    /// Whether the node takes nothing new of mid and batch, since some was evicted.
    pub fn closed(&self, now: Millis) -> bool {
        self.closed_until.is_some_and(|until| now < until)
    }

    /// As the report shows it.
    pub(crate) fn view(&self, decided: Decided, now: Millis) -> EvictionView {
        EvictionView {
            decided: decided.evictions,
            last: Arc::clone(&self.last),
            closed: self.closed(now),
            near: self.near,
        }
    }

    /// Takes in what became of an order.
    pub fn answer(&mut self, uid: &str, answer: Answer, now: Millis) {
        let barred = match answer {
            Answer::Evicted => None,
            Answer::Refused => Some(BARRED.0),
            Answer::Withdrawn | Answer::Failed => Some(BARRED.1),
        };
        if let Some(barred) = barred {
            self.leaving.remove(uid);
            self.barred.insert(uid.to_owned(), now.saturating_add(barred));
            // The next one need not wait.
            self.ordered = None;
        }
        let ours = self
            .last
            .iter()
            .rposition(|e| e.uid == uid && e.outcome == Outcome::Ordered);
        if let Some(at) = ours
            && let Some(eviction) = Arc::make_mut(&mut self.last).get_mut(at)
        {
            eviction.outcome = answer.outcome();
        }
    }

    /// Decides who has to leave now. Where `act` is false nothing comes of it, but for what the report says.
    pub fn step(&mut self, policy: &policy::Eviction, reading: Reading<'_>, act: bool, now: Millis) -> Decided {
        let Reading { seen, .. } = reading;
        if act && self.observed {
            (self.ordered, self.killed_at) = (None, None);
            self.leaving.clear();
        }
        self.observed = !act;
        self.forget(seen, now);
        let capacity = seen.capacity.memory;
        let line = percent(capacity, policy.available_percent);
        let fails = percent(capacity, policy.kill_percent);
        let available = seen.available();
        // Until both are known for sure nothing is waited for: unknown is neither short nor enough.
        self.short_since = match available {
            Some(a) if a < line => Some(self.short_since.unwrap_or(now)),
            _ => None,
        };
        self.floor_since = reading.at_floor.then(|| self.floor_since.unwrap_or(now));
        // Whatever it may be for: whom it costs least is asked before somebody has to go.
        let low = available.is_some_and(|a| a < line.saturating_mul(2));
        let soon = low || reading.exhausted.is_some() || self.floor_since.is_some();
        let soon = soon || self.suffered.any();
        self.near = seen.groups.iter().any(|g| g.tier != Tier::Prod) && soon;

        let mut decided = Decided::default();
        if let Some(available) = available {
            if available < fails && reading.fresh && failing(&reading) && rested(self.killed_at, PAUSE.1, now) {
                decided = self.kill(reading, available, fails, now);
            }
            let patient = self.short_since.is_some_and(|at| now.saturating_sub(at) >= PATIENCE);
            if decided.evictions.is_empty() && patient && rested(self.ordered, PAUSE.0, now) {
                let need = clear(line, capacity) - available;
                let why = format!(
                    "{} of the node's memory are available, the policy wants {}",
                    mebibytes(available),
                    mebibytes(line)
                );
                decided.evictions = self.order(reading, Order::of_batch(Cause::Memory, need), &why, now);
            }
        }
        let long = |since: Option<Millis>| since.is_some_and(|at| now.saturating_sub(at) >= policy.suppressed_for);
        let rested = rested(self.ordered, LONG_PAUSE, now);
        // Batch may have had nothing to give for long, and prod may lack nothing any more.
        let stalls = reading.fresh && reading.stall.is_some_and(|s| s > reading.threshold);
        if decided.evictions.is_empty() && rested && stalls && long(reading.exhausted) {
            let seconds = reading.exhausted.map_or(0, |at| now.saturating_sub(at) / 1000);
            let why = format!("batch has had no page cache left to give for {seconds} s, and prod still lacks memory");
            // A step of the memory guard.
            decided.evictions = self.order(reading, Order::of_batch(Cause::MemoryStall, capacity / 50), &why, now);
        }
        if decided.evictions.is_empty()
            && rested
            && long(self.floor_since)
            && let Some(left) = reading.left
        {
            let asked = self.asked(seen);
            let seconds = self.floor_since.map_or(0, |at| now.saturating_sub(at) / 1000);
            let why = format!(
                "batch was held at its floor for {seconds} s: its pods asked for {asked}m of CPU, {left}m are left"
            );
            decided.evictions = self.order(reading, Order::of_batch(Cause::Cpu, asked - left), &why, now);
        }
        let suffers = self.suffer(policy, reading, line, now);
        // An order that is not handed on would be waited for.
        if decided.evictions.is_empty() {
            decided.evictions = self.order_mid(policy, reading, suffers, line, now);
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
        let group = |uid: &str| seen.groups.iter().find(|g| key(g) == uid);
        // An order that nothing came of in a minute is forgotten; a pod that takes longer to end is still leaving.
        self.leaving.retain(|uid, since| {
            let young = now.saturating_sub(*since) < LEAVES;
            match group(uid) {
                Some(group) => young || group.pod.as_ref().is_some_and(|p| p.leaving),
                None => !seen.complete && young,
            }
        });
        // One whose memory went is as it was before: where its kubelet starts it again, it may be killed again.
        self.killed.retain(|uid, killed| {
            let young = now.saturating_sub(killed.at) < LEAVES;
            young && group(uid).map_or(!seen.complete, |g| frees(g) > killed.held / 2)
        });
        self.barred.retain(|_, until| now < *until);
    }

    /// CPU that those of batch who stay asked for, milli-cores.
    fn asked(&self, seen: &Observation) -> i64 {
        let asked = seen.batch().filter(|g| !self.leaves(g)).map(|g| g.requests.cpu);
        asked.fold(0, i64::saturating_add)
    }

    fn leaves(&self, group: &Group) -> bool {
        self.leaving.contains_key(key(group)) || self.killed.contains_key(key(group))
    }

    /// Memory is about to fail: what frees enough ends now, whatever it is asked by whom. What leaves already is first. One
    /// whose memory has outlasted his processes is not killed for it again.
    fn kill(&mut self, reading: Reading<'_>, available: i64, fails: i64, now: Millis) -> Decided {
        if !reading.capabilities.cgroup_kill {
            return Decided::default();
        }
        let seen = reading.seen;
        let candidates = seen.batch().map(|group| Candidate {
            group,
            frees: if self.killed.contains_key(key(group)) {
                0
            } else {
                frees(group)
            },
            leaving: self.leaves(group),
        });
        let need = clear(fails, seen.capacity.memory) - available;
        let victims = enough(candidates.collect(), seen, need, now);
        if victims.is_empty() {
            return Decided::default();
        }
        let why = format!(
            "{} of the node's memory are available and it stalls, the policy kills under {}",
            mebibytes(available),
            mebibytes(fails)
        );
        self.killed_at = Some(now);
        if !self.observed {
            let killed = victims.iter().map(|v| {
                let held = frees(v.group);
                (key(v.group).to_owned(), Killed { at: now, held })
            });
            self.killed.extend(killed);
        }
        let kill = |v: &Victim<'_>| Action::new(&v.group.path, KILL, "1", why.as_str());
        Decided {
            kills: victims.iter().map(kill).collect(),
            evictions: self.note(&victims, Order::of_batch(Cause::MemoryFails, need), &why, now),
        }
    }

    fn order(&mut self, reading: Reading<'_>, order: Order, why: &str, now: Millis) -> Vec<Eviction> {
        let seen = reading.seen;
        let Order { tier, cause, need, .. } = order;
        let freed = |group: &Group| match cause {
            Cause::Cpu => group.requests.cpu,
            Cause::CpuStall => reading.group_cpu.get(&group.path).copied().unwrap_or(0),
            Cause::Memory | Cause::MemoryFails | Cause::MemoryStall => frees(group),
        };
        // Of CPU, those that leave have been left out of what was asked for.
        let leaves = seen.groups.iter().filter(|g| g.tier != Tier::Prod);
        let coming = leaves.filter(|_| cause != Cause::Cpu).filter(|g| self.comes(g, now));
        let need = coming.fold(need, |need, group| need.saturating_sub(freed(group)));
        if need <= 0 {
            return Vec::new();
        }
        let candidates = seen.of(tier).map(|group| {
            let leaving = self.leaves(group);
            let kept = leaving || group.pod.is_none() || self.barred.contains_key(key(group));
            Candidate {
                group,
                frees: if kept { 0 } else { freed(group) },
                leaving,
            }
        });
        let candidates = candidates.collect();
        let victims = if matches!(cause, Cause::Cpu | Cause::CpuStall) {
            victims::choose(candidates, &seen.gangs, need, now)
        } else {
            enough(candidates, seen, need, now)
        };
        if victims.is_empty() {
            return Vec::new();
        }
        self.ordered = Some(now);
        self.note(&victims, order, why, now)
    }

    /// Whether what the group holds is about to be freed: it leaves, and not for long already. What a kill frees shows sooner.
    fn comes(&self, group: &Group, now: Millis) -> bool {
        let within = |since: Millis, limit| now.saturating_sub(since) < limit;
        match self.killed.get(key(group)) {
            Some(killed) => within(killed.at, PAUSE.0),
            None => self.leaving.get(key(group)).is_some_and(|at| within(*at, LEAVES)),
        }
    }

    fn note(&mut self, victims: &[Victim<'_>], order: Order, why: &str, now: Millis) -> Vec<Eviction> {
        let Order {
            tier, cause, notice, ..
        } = order;
        let outcome = match cause {
            _ if self.observed => Outcome::Observed,
            Cause::MemoryFails => Outcome::Killed,
            Cause::Memory | Cause::MemoryStall | Cause::Cpu | Cause::CpuStall => Outcome::Ordered,
        };
        // It leaves from the end of its notice on.
        let leaves = now.saturating_add(notice);
        if !self.observed {
            self.closed_until = self.closed_until.max(Some(leaves.saturating_add(CLOSED.0)));
        }
        let eviction = |victim: &Victim<'_>| {
            let pod = victim.group.pod.as_ref();
            let uid = key(victim.group).to_owned();
            Eviction {
                at: now,
                name: pod.map_or_else(|| uid.clone(), |p| p.name.clone()),
                uid,
                gang: pod.and_then(|p| p.gang.clone()),
                tier,
                cause,
                notice,
                why: format!("{why}; of {} its end loses least: {}", tier.as_str(), victim.price),
                lost: victim.price,
                outcome,
            }
        };
        let decided: Vec<Eviction> = victims.iter().map(eviction).collect();
        self.leaving.extend(decided.iter().map(|e| (e.uid.clone(), leaves)));
        let last = Arc::make_mut(&mut self.last);
        last.extend(decided.iter().cloned());
        let over = last.len().saturating_sub(REMEMBERED);
        last.drain(..over);
        decided
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

/// Memory that is available once the group has ended, and is not now: page cache is available already. Where it is not
/// known how much of it that is, nothing is counted on.
fn frees(group: &Group) -> i64 {
    let charged = group.memory_charged.or(group.memory);
    let frees = charged
        .zip(group.memory_reclaimable)
        .map(|(charged, cache)| charged - cache);
    frees.unwrap_or(0).max(0)
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

/// What shall be available after an eviction under this line, so that the next breath does not ask for another one: a
/// quarter more, and a hundredth of the node at least.
fn clear(line: i64, capacity: i64) -> i64 {
    line.saturating_add((line / 4).max(capacity / 100))
}
