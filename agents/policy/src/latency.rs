//! The latency guard: a service that answers too many requests late cuts batch's CPU.
//!
//! What counts is how many requests took longer than promised, of those that the objective allows to. It is asked of the
//! requests since the limit moved last, so that each step is judged by what came of it. Batch is cut where chance does
//! not explain the number: a gross fault shows in two seconds, a slight one takes longer. A service that cannot be read
//! is not calm; one that nobody calls is. What a service misses by itself is not laid to batch (`latency/own.rs`).

mod own;
mod span;

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
};

use crate::{
    action::Slowest,
    guard::{self, GuardState, Pace, ShareGuard},
    observation::{Capabilities, Histogram, Millis, Service},
    policy,
};
use own::{Finding, Own};
use span::{LONG, Span, continues, total};

/// Longest span that is looked at.
const LONGEST: Millis = 60_000;
/// A histogram older than this says nothing about now.
const STALE: Millis = 10_000;
/// Requests that were under way when the limit moved have ended.
const SETTLES: Millis = 1_000;
/// As many slow requests as the objective allows, thousandths.
const OBJECTIVE: i64 = 1000;

/// The guard's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatencyGuard {
    /// What batch may use, milli-cores.
    pub share: ShareGuard,
    /// The service with the most slow requests of those that it may have.
    pub slowest: Option<Slowest>,
    histories: BTreeMap<String, VecDeque<Histogram>>,
    /// What services miss by themselves, by name.
    own: BTreeMap<String, Own>,
    /// Batch is at its floor to find that out anew; what it was allowed before.
    before: Option<Option<i64>>,
}

/// What the guard looks at.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// Services that state an objective.
    pub services: &'a [Service],
    /// What the kernel can do.
    pub capabilities: &'a Capabilities,
    /// A service that could not be read for so long counts no more, milliseconds.
    pub expire: Millis,
    /// The node's CPU as the CPU guard looks at it.
    pub cpu: guard::Reading<'a>,
}

/// What a service's histogram says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Its slow requests, thousandths of those that the objective allows.
    Judged(i64),
    /// Nobody calls it, or too rarely to judge it.
    Quiet,
    /// It says nothing now, and did or will.
    Unknown,
}

impl LatencyGuard {
    /// Forgets every limit.
    pub fn switch_off(&mut self, why: Option<&str>) {
        self.share.switch_off(why);
        *self = Self {
            share: std::mem::take(&mut self.share),
            ..Self::default()
        };
    }

    /// Moves by one reading.
    pub fn step(&mut self, guard: &policy::LatencyGuard, reading: Reading<'_>, now: Millis) {
        if !reading.capabilities.cpu_max {
            let why = reading
                .capabilities
                .known()
                .then(|| reading.capabilities.lack_of("cpu.max"));
            self.switch_off(why.as_deref());
            return;
        }
        self.remember(reading.services);
        self.find_own(&reading, now);
        let pace = pace(guard);
        let mut slowest: Option<(i64, &str)> = None;
        let mut charged: Option<(i64, &str)> = None;
        let mut unknown = false;
        for service in reading.services {
            let own = self.own.get(&service.name).copied();
            let bearable = own.map_or(pace.threshold, Own::bearable);
            match self.judge(service, bearable, reading.expire, now) {
                Verdict::Judged(milli) => {
                    let more = |than: Option<(i64, &str)>, milli| than.is_none_or(|(most, _)| most < milli);
                    if more(slowest, milli) {
                        slowest = Some((milli, &service.name));
                    }
                    let of_batch = own.map_or(milli, |own| own.beyond(milli, pace.threshold));
                    if more(charged, of_batch) {
                        charged = Some((of_batch, &service.name));
                    }
                }
                Verdict::Quiet => {}
                Verdict::Unknown => unknown = true,
            }
        }
        self.slowest = slowest.map(|(milli, service)| Slowest {
            service: service.to_owned(),
            milli,
        });
        if self.measures() {
            return;
        }
        // One that is known to be slow is enough to cut; all have to be known to give back.
        let signal = charged
            .map(|(milli, _)| milli)
            .filter(|m| !unknown || *m > pace.threshold)
            .or((!unknown).then_some(0));
        let what: Cow<'_, str> = match charged {
            Some((_, service)) if self.own.contains_key(service) => {
                format!("slow requests of {service}, but for what it misses by itself, are at").into()
            }
            Some((_, service)) => format!("slow requests of {service} are at").into(),
            None => "slow requests are at".into(),
        };
        // Prod's CPU tells nothing here: each request takes less of it when batch is cut.
        let requests = self.requests();
        let reading = guard::Reading {
            pace,
            what: &what,
            signal,
            unread: false,
            firm: Some(requests),
            relief: (requests / 3).max(1),
            ..reading.cpu
        };
        self.share.step(reading, now);
    }

    /// Whether batch is at its floor only to find out what services miss by themselves.
    pub fn measures(&self) -> bool {
        self.before.is_some()
    }

    /// Services that miss their objective by themselves, and by how much.
    pub fn own_misses(&self) -> Vec<Slowest> {
        let miss = |(service, own): (&String, &Own)| Slowest {
            service: service.clone(),
            milli: own.milli,
        };
        self.own.iter().map(miss).collect()
    }

    /// Finds out what services miss by themselves while batch is at its floor, and takes it there from time to time for that.
    fn find_own(&mut self, reading: &Reading<'_>, now: Millis) {
        let Reading { services, expire, .. } = *reading;
        let moved = self.share.moved().unwrap_or(0);
        let settled = moved.saturating_add(SETTLES);
        self.own.retain(|name, own| {
            let service = services.iter().find(|s| s.name == *name);
            let lately = service.zip(self.histories.get(name)).and_then(|(service, past)| {
                let newest = past.back()?;
                // Whatever batch had in that time: it was no less than its floor.
                let before = past.iter().rev().find(|h| newest.at.saturating_sub(h.at) >= LONG)?;
                Span::since(before, newest, service)
            });
            service.is_some() && !lately.is_some_and(|span| own.is_over(span))
        });
        let floor = reading.cpu.floor;
        if self.share.limit.is_none_or(|limit| limit > floor) {
            if self.measures() || self.own.values().any(|own| own.is_old(now)) {
                self.before.get_or_insert(self.share.limit);
                let why =
                    "took batch to its floor for half a minute, to find out anew what services miss by themselves";
                self.share
                    .hold(Some(floor), GuardState::Suppressing, why.to_owned(), now);
            }
            return;
        }
        let mut found = Vec::new();
        for service in services {
            let known = self.own.get(&service.name).copied();
            let from = known.map_or(settled, |own| settled.max(own.at));
            let finding = match self.histories.get(&service.name) {
                Some(past) => own::find(past, service, from, expire, now),
                None => Finding::Keeps,
            };
            match finding {
                Finding::Own(milli) => {
                    let more = known.is_none_or(|own| milli > own.bearable());
                    if more {
                        found.push(format!("{} at {milli}", service.name));
                    }
                    // Found again after a step up that was too much, it is nothing new.
                    if more || self.measures() || known.is_some_and(|own| own.is_old(now)) {
                        self.own.insert(service.name.clone(), Own { milli, at: now });
                    }
                }
                Finding::Keeps => drop(self.own.remove(&service.name)),
                Finding::Open => {}
            }
        }
        if !found.is_empty() {
            self.share.dare(format!(
                "with batch at its floor services miss their objectives, too, which is not batch's fault: slow requests are, \
                 of 1000 that may be, of {}",
                found.join(", of ")
            ));
        }
        if self.own.values().all(|own| own.at > moved)
            && let Some(before) = self.before.take()
            && !self.own.is_empty()
        {
            let state = before.map_or(GuardState::Idle, |_| GuardState::Recovering);
            let why = "gave batch back what it had: services miss their objectives with it at its floor, too";
            self.share.hold(before, state, why.to_owned(), now);
        }
    }

    fn remember(&mut self, services: &[Service]) {
        self.histories
            .retain(|name, _| services.iter().any(|s| s.name == *name));
        for service in services {
            let Some(seen) = &service.histogram else { continue };
            let history = self.histories.entry(service.name.clone()).or_default();
            match history.back() {
                Some(last) if last.at == seen.at => continue,
                // Began anew, or another histogram.
                Some(last) if !continues(last, seen) => history.clear(),
                _ => {}
            }
            history.push_back(seen.clone());
            while history.get(1).is_some_and(|h| seen.at.saturating_sub(h.at) >= LONGEST) {
                history.pop_front();
            }
        }
    }

    /// Requests of all services in the last seconds, thousandths a second.
    fn requests(&self) -> i64 {
        let of = |history: &VecDeque<Histogram>| {
            let newest = history.back()?;
            let lately = history.iter().rev().find(|h| newest.at.saturating_sub(h.at) >= LONG);
            let before = lately.or(history.front())?;
            let requests = total(newest).saturating_sub(total(before)).saturating_mul(1_000_000);
            i64::try_from(requests / newest.at.saturating_sub(before.at).max(1)).ok()
        };
        self.histories.values().filter_map(of).fold(0, i64::saturating_add)
    }

    fn judge(&self, service: &Service, threshold: i64, expire: Millis, now: Millis) -> Verdict {
        let history = self.histories.get(&service.name);
        let Some((newest, oldest)) = history.and_then(|h| Some((h.back()?, h.front()?))) else {
            // Not up yet. One that never answers would keep batch down for ever.
            return Verdict::Quiet;
        };
        match now.saturating_sub(newest.at) {
            age if age > expire => return Verdict::Quiet,
            age if age > STALE => return Verdict::Unknown,
            _ => {}
        }
        let Some(since_then) = Span::since(oldest, newest, service) else {
            return Verdict::Quiet;
        };
        let since = self.share.moved().map_or(0, |at| at.saturating_add(SETTLES));
        let mut judged = None;
        for before in history
            .into_iter()
            .flatten()
            .rev()
            .skip(1)
            .take_while(|h| h.at >= since)
        {
            let Some(span) = Span::since(before, newest, service) else {
                break;
            };
            if span.misses(threshold) {
                return Verdict::Judged(span.milli());
            }
            if judged.is_none() && span.is_enough() {
                // Not over the threshold by more than chance: it may be at it.
                judged = Some(Verdict::Judged(span.milli().min(threshold)));
            }
        }
        let lately = history.into_iter().flatten().rev().find(|h| newest.at - h.at >= LONG);
        let silent = lately.is_some_and(|h| total(h) == total(newest));
        let rare = since_then.length >= LONGEST && !since_then.is_enough();
        let otherwise = if silent || rare {
            Verdict::Quiet
        } else {
            Verdict::Unknown
        };
        judged.unwrap_or(otherwise)
    }
}

/// A latency answers late: batch gets an eighth each time that it was judged, and everything back within a minute.
fn pace(guard: &policy::LatencyGuard) -> Pace {
    let threshold = i64::from(guard.budget_percent) * OBJECTIVE / 100;
    Pace {
        threshold,
        sharp: OBJECTIVE,
        calm: threshold / 2,
        settles: SETTLES,
        rest: 4_000,
        step: 8,
        careful_step: 25,
    }
}

#[cfg(test)]
mod tests;
