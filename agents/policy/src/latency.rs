//! The latency guard: a service that answers too many requests late cuts batch's CPU.
//!
//! What counts is how many requests took longer than promised, of those that the objective allows to. It is asked of the
//! requests since the limit moved last, so that each step is judged by what came of it. Batch is cut where chance does
//! not explain the number: a gross fault shows in two seconds, a slight one takes longer. A service that cannot be read
//! is not calm; one that nobody calls is.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
};

use crate::{
    action::Slowest,
    guard::{self, GuardState, Pace, ShareGuard},
    observation::{Bucket, Capabilities, Histogram, Millis, Service},
    policy,
};

/// Longest span that is looked at.
const LONGEST: Millis = 60_000;
/// A span this long may do with fewer requests, or tells that there are none.
const LONG: Millis = 10_000;
/// Where the objective allows so many slow requests, there are enough of them to judge; at once and in a long span.
const ALLOWED: (u128, u128) = (10, 3);
/// Chance explains so many standard deviations.
const DEVIATIONS: u128 = 3;
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
        self.share.switch_off();
        if let Some(why) = why {
            self.share.last_action = Some(why.to_owned());
        }
        *self = Self {
            share: std::mem::take(&mut self.share),
            ..Self::default()
        };
    }

    /// Moves by one reading.
    pub fn step(&mut self, guard: &policy::LatencyGuard, reading: Reading<'_>, now: Millis) {
        if !reading.capabilities.cpu_max {
            if self.share.state != GuardState::Off {
                let known = *reading.capabilities != Capabilities::default();
                self.switch_off(known.then_some("off: the kernel has no cpu.max here"));
            }
            return;
        }
        self.remember(reading.services);
        self.slowest = None;
        let mut unknown = false;
        for service in reading.services {
            match self.judge(service, pace(guard).threshold, reading.expire, now) {
                Verdict::Judged(milli) => {
                    if self.slowest.as_ref().is_none_or(|s| s.milli < milli) {
                        let service = service.name.clone();
                        self.slowest = Some(Slowest { service, milli });
                    }
                }
                Verdict::Quiet => {}
                Verdict::Unknown => unknown = true,
            }
        }
        let pace = pace(guard);
        let milli = self.slowest.as_ref().map(|s| s.milli);
        // One that is known to be slow is enough to cut; all have to be known to give back.
        let signal = milli
            .filter(|m| !unknown || *m > pace.threshold)
            .or((!unknown).then_some(0));
        let what: Cow<'_, str> = match &self.slowest {
            Some(slowest) => format!("slow requests of {} are at", slowest.service).into(),
            None => "slow requests are at".into(),
        };
        // Prod's CPU tells nothing here: each request takes less of it when batch is cut.
        let requests = self.requests();
        let reading = guard::Reading {
            pace,
            what: &what,
            signal,
            firm: Some(requests),
            relief: (requests / 3).max(1),
            ..reading.cpu
        };
        self.share.step(reading, now);
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

/// Requests between two readings.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// Milliseconds.
    length: Millis,
    /// Requests that took longer than promised.
    slow: u128,
    /// Thousandths of requests that the objective allows to.
    allowed_milli: u128,
}

impl Span {
    /// `None` where the histogram ends below what is promised, so that nobody knows.
    fn since(before: &Histogram, after: &Histogram, service: &Service) -> Option<Self> {
        let all = u128::from(total(after).saturating_sub(total(before)));
        Some(Self {
            length: after.at.saturating_sub(before.at),
            slow: all.saturating_sub(fast(before, after, service.threshold)?),
            allowed_milli: all * u128::from(1000_u32.saturating_sub(service.quantile_milli)),
        })
    }

    /// Slow requests, thousandths of those that the objective allows.
    fn milli(self) -> i64 {
        i64::try_from(self.slow * 1_000_000 / self.allowed_milli.max(1)).unwrap_or(i64::MAX)
    }

    /// Whether there were enough requests to say how many of them are slow.
    const fn is_enough(self) -> bool {
        let allowed = self.allowed_milli / 1000;
        allowed >= ALLOWED.0 || (self.length >= LONG && allowed >= ALLOWED.1)
    }

    /// Whether more requests were slow than `threshold`, thousandths of what is allowed, and chance does not explain it: a
    /// number of n rare events has the standard deviation sqrt(n).
    fn misses(self, threshold: i64) -> bool {
        let most = self.allowed_milli * u128::from(threshold.unsigned_abs()) / 1_000_000;
        let beyond = self.slow.saturating_sub(most);
        beyond * beyond > DEVIATIONS * DEVIATIONS * self.slow
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

fn total(histogram: &Histogram) -> u64 {
    histogram.buckets.last().map_or(0, |b| b.count)
}

/// Whether `after` counts on from `before`.
fn continues(before: &Histogram, after: &Histogram) -> bool {
    let on = |(a, b): (&Bucket, &Bucket)| a.up_to == b.up_to && a.count <= b.count;
    before.buckets.len() == after.buckets.len() && before.buckets.iter().zip(&after.buckets).all(on)
}

/// Requests between two readings that took no longer than this, microseconds. Those of a bucket are spread evenly over it,
/// as Prometheus has it; a bucket that ends there is exact. `None` if no bucket goes so far.
fn fast(before: &Histogram, after: &Histogram, threshold: u64) -> Option<u128> {
    let (mut from, mut below) = (0, 0);
    for (a, b) in before.buckets.iter().zip(&after.buckets) {
        let (up_to, count) = (b.up_to?, u128::from(b.count.saturating_sub(a.count)));
        if up_to >= threshold {
            let inside = u128::from(threshold.saturating_sub(from));
            let width = u128::from(up_to.saturating_sub(from)).max(1);
            return Some(below + count.saturating_sub(below) * inside / width);
        }
        (from, below) = (up_to, count);
    }
    None
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

    /// 100 ms for 99 of 100.
    fn service() -> Service {
        Service {
            name: "shop/web".to_owned(),
            quantile_milli: 990,
            threshold: 100_000,
            histogram: None,
        }
    }

    /// Counts up to 10 ms, 50 ms, 100 ms, 200 ms, and of all.
    fn histogram(at: Millis, counts: [u64; 5]) -> Histogram {
        let bounds = [Some(10_000), Some(50_000), Some(100_000), Some(200_000), None];
        let bucket = |(up_to, count)| Bucket { up_to, count };
        let buckets = bounds.into_iter().zip(counts).map(bucket).collect();
        Histogram { at, buckets }
    }

    struct Lab {
        guard: LatencyGuard,
        service: Service,
        counts: [u64; 5],
        now: Millis,
    }

    impl Lab {
        fn new() -> Self {
            Self {
                guard: LatencyGuard::default(),
                service: service(),
                counts: [0; 5],
                now: 1_000_000,
            }
        }

        /// Two seconds in which so many requests ended, by bucket.
        fn scrape(&mut self, ended: [u64; 5]) {
            self.now += 2_000;
            let mut sum = 0;
            for (count, ended) in self.counts.iter_mut().zip(ended) {
                sum += ended;
                *count += sum;
            }
            self.service.histogram = Some(histogram(self.now, self.counts));
            self.look();
        }

        fn look(&mut self) {
            let cpu = guard::Reading {
                unit: "m",
                capacity: 4000,
                floor: 200,
                pace: Pace::of_stall(100, 200),
                what: "",
                signal: None,
                firm: Some(1000),
                relief: 200,
                batch: Some(self.guard.share.limit.unwrap_or(3000)),
            };
            let capabilities = Capabilities {
                cpu_max: true,
                ..Capabilities::default()
            };
            let reading = Reading {
                services: std::slice::from_ref(&self.service),
                capabilities: &capabilities,
                expire: 300_000,
                cpu,
            };
            self.guard.step(&policy::LatencyGuard::default(), reading, self.now);
        }

        fn milli(&self) -> Option<i64> {
            self.guard.slowest.as_ref().map(|s| s.milli)
        }
    }

    #[test]
    fn a_bucket_that_ends_at_the_objective_is_counted_and_another_shared_out() {
        let before = histogram(0, [100, 100, 100, 100, 100]);
        let after = histogram(1, [150, 190, 200, 204, 206]);
        let fast = |threshold| fast(&before, &after, threshold);
        assert_eq!(fast(10_000), Some(50));
        assert_eq!(fast(30_000), Some(70));
        assert_eq!(fast(100_000), Some(100));
        assert_eq!(fast(150_000), Some(102));
        assert_eq!(fast(5_000), Some(25));
        // Of the two beyond the last bound nobody knows.
        assert_eq!(fast(200_001), None);
    }

    #[test]
    fn a_service_with_more_slow_requests_than_allowed_halves_batch_and_one_with_nearly_as_many_takes_a_fifth() {
        let mut lab = Lab::new();
        lab.scrape([0; 5]);
        lab.scrape([1900, 0, 0, 100, 0]);
        assert_eq!(lab.guard.share.limit, Some(1500));
        let said = lab.guard.share.last_action.clone().unwrap();
        let expected =
            "cut batch from 3000m to 1500m: slow requests of shop/web are at 5000 of 1000, the policy allows 800";
        assert_eq!(said, expected);

        let mut lab = Lab::new();
        lab.scrape([0; 5]);
        lab.scrape([990_500, 0, 0, 9_500, 0]);
        assert_eq!((lab.milli(), lab.guard.share.limit), (Some(950), Some(2400)));
    }

    #[test]
    fn a_number_that_chance_explains_cuts_nothing_and_gives_nothing_back() {
        let mut lab = Lab::new();
        lab.scrape([0; 5]);
        // 20 may be slow, the policy allows 16; 24 are.
        lab.scrape([1976, 0, 0, 24, 0]);
        assert_eq!((lab.milli(), lab.guard.share.limit), (Some(800), None));
        // Five such spans are no chance.
        for _ in 0..4 {
            lab.scrape([1976, 0, 0, 24, 0]);
        }
        assert_eq!(lab.guard.share.cuts, 1);
    }

    #[test]
    fn only_what_ended_after_a_cut_makes_the_next_one() {
        let mut lab = Lab::new();
        lab.scrape([0; 5]);
        lab.scrape([1900, 0, 0, 100, 0]);
        assert_eq!(lab.guard.share.cuts, 1);
        // The first reading after it is where the next span begins.
        lab.scrape([1900, 0, 0, 100, 0]);
        lab.look();
        assert_eq!((lab.guard.share.cuts, lab.milli()), (1, None));
        lab.scrape([1900, 0, 0, 100, 0]);
        assert_eq!(lab.guard.share.cuts, 2);
    }

    #[test]
    fn a_service_that_cannot_be_read_neither_cuts_nor_gives_back_until_it_is_given_up() {
        let mut lab = Lab::new();
        lab.scrape([0; 5]);
        lab.scrape([1900, 0, 0, 100, 0]);
        for _ in 0..290 {
            lab.now += 1_000;
            lab.look();
        }
        assert_eq!((lab.guard.share.limit, lab.guard.share.cuts), (Some(1500), 1));
        for _ in 0..120 {
            lab.now += 1_000;
            lab.look();
        }
        assert_eq!(lab.guard.share.limit, None);
    }

    #[test]
    fn a_service_that_nobody_calls_gives_batch_everything_back_within_a_minute() {
        let mut lab = Lab::new();
        lab.scrape([0; 5]);
        lab.scrape([1900, 0, 0, 100, 0]);
        let mut seconds = 0;
        while lab.guard.share.limit.is_some_and(|limit| limit < 2850) {
            lab.scrape([0; 5]);
            seconds += 2;
        }
        // Up to 95 % of where it was slow; beyond that, patience.
        assert!(seconds <= 60, "{seconds} s");
    }

    #[test]
    fn a_few_requests_judge_nobody() {
        let mut lab = Lab::new();
        lab.scrape([0; 5]);
        for n in 0..60 {
            // Four a second: in a minute they are 240, of which 2.4 may be slow. Two are.
            lab.scrape([8 - u64::from(n % 15 == 0), 0, 0, u64::from(n % 15 == 0), 0]);
            assert_eq!((lab.milli(), lab.guard.share.cuts), (None, 0));
        }
    }

    #[test]
    fn a_service_that_began_anew_is_judged_anew() {
        let mut lab = Lab::new();
        lab.scrape([0; 5]);
        lab.scrape([2000, 0, 0, 0, 0]);
        lab.counts = [0; 5];
        lab.scrape([0, 0, 0, 2000, 0]);
        assert_eq!((lab.milli(), lab.guard.share.cuts), (None, 0));
        lab.scrape([0, 0, 0, 2000, 0]);
        assert_eq!(lab.guard.share.cuts, 1);
    }
}
