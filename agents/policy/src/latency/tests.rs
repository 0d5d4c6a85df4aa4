//! The latency guard, reading by reading.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
use super::*;
use crate::observation::Bucket;

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

    fn cpu(&self) -> guard::Reading<'static> {
        guard::Reading {
            unit: "m",
            capacity: 4000,
            floor: 200,
            pace: Pace::of_stall(100, 200),
            what: "",
            signal: None,
            unread: false,
            firm: Some(1000),
            relief: 200,
            batch: Some(self.guard.share.limit.unwrap_or(3000)),
        }
    }

    fn look(&mut self) {
        let cpu = self.cpu();
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

/// Seconds until it is so.
fn seconds_until(lab: &mut Lab, ended: [u64; 5], so: impl Fn(&LatencyGuard) -> bool) -> u64 {
    let before = lab.now;
    while !so(&lab.guard) {
        lab.scrape(ended);
        assert!(lab.now - before < 900_000, "{:?}", lab.guard.share);
    }
    (lab.now - before) / 1000
}

/// A twentieth of the requests is slow, five times what may be.
const SLOW: [u64; 5] = [1900, 0, 0, 100, 0];

#[test]
fn a_service_that_is_slow_with_batch_at_its_floor_too_is_slow_by_itself_and_batch_grows_again() {
    let mut lab = Lab::new();
    lab.scrape([0; 5]);
    seconds_until(&mut lab, SLOW, |g| g.share.limit == Some(200));
    let cuts = lab.guard.share.cuts;
    let proof = seconds_until(&mut lab, SLOW, |g| !g.own_misses().is_empty());
    assert!((30..=36).contains(&proof), "{proof}");
    let slow = Slowest {
        service: "shop/web".to_owned(),
        milli: 5000,
    };
    assert_eq!(lab.guard.own_misses(), [slow]);
    let said = lab.guard.share.last_action.clone().unwrap();
    assert!(
        said.ends_with("not batch's fault: slow requests are, of 1000 that may be, of shop/web at 5000"),
        "{said}"
    );
    let back = seconds_until(&mut lab, SLOW, |g| g.share.limit.is_none());
    // By a twenty-fifth of the node each six seconds.
    assert!((60..=240).contains(&back), "{back}");
    assert_eq!(lab.guard.share.cuts, cuts);
}

#[test]
fn what_a_service_misses_by_itself_is_found_out_anew_and_batch_has_back_at_once_what_it_had() {
    let mut lab = Lab::new();
    lab.scrape([0; 5]);
    seconds_until(&mut lab, SLOW, |g| !g.own_misses().is_empty());
    let learned = lab.now;
    seconds_until(&mut lab, SLOW, LatencyGuard::measures);
    assert!((600..=605).contains(&((lab.now - learned) / 1000)));
    assert_eq!(lab.guard.share.limit, Some(200));
    let proof = seconds_until(&mut lab, SLOW, |g| !g.measures());
    assert!((30..=36).contains(&proof), "{proof}");
    assert_eq!((lab.guard.share.limit, lab.guard.own_misses().len()), (None, 1));
}

#[test]
fn a_fault_that_is_over_is_forgotten_and_the_objective_counts_again() {
    let mut lab = Lab::new();
    lab.scrape([0; 5]);
    seconds_until(&mut lab, SLOW, |g| !g.own_misses().is_empty());
    let over = seconds_until(&mut lab, [2000, 0, 0, 0, 0], |g| g.own_misses().is_empty());
    assert!(over <= 20, "{over}");
    seconds_until(&mut lab, [2000, 0, 0, 0, 0], |g| g.share.limit.is_none());
    let cuts = lab.guard.share.cuts;
    // Twice what may be: less than it missed by itself before.
    let cut = seconds_until(&mut lab, [1960, 0, 0, 40, 0], |g| g.share.cuts > cuts);
    assert!(cut <= 10, "{cut}");
}

#[test]
fn a_service_that_gets_better_with_batch_at_its_floor_has_no_fault_of_its_own() {
    let mut lab = Lab::new();
    lab.scrape([0; 5]);
    seconds_until(&mut lab, SLOW, |g| g.share.limit == Some(200));
    // It works off what has piled up.
    for left in (0..25).rev() {
        lab.scrape([2000 - 4 * left, 0, 0, 4 * left, 0]);
        assert_eq!(lab.guard.own_misses(), []);
    }
}

#[test]
fn beside_a_service_that_is_slow_by_itself_batch_makes_it_a_quarter_slower_at_most() {
    let mut lab = Lab::new();
    lab.scrape([0; 5]);
    let slow = |lab: &Lab| 100 + u64::try_from(lab.guard.share.limit.unwrap_or(4000) - 200).unwrap() / 10;
    let mut lately = Vec::new();
    for n in 0..900 {
        let slow = slow(&lab);
        lab.scrape([2000 - slow, 0, 0, slow, 0]);
        if n >= 300 {
            lately.push(slow);
        }
    }
    let mean = lately.iter().sum::<u64>() / 600;
    assert!((105..=125).contains(&mean), "{mean}");
    assert!(*lately.iter().max().unwrap() <= 140);
}

#[test]
fn a_guard_that_was_off_already_says_what_the_kernel_lacks() {
    let mut guard = LatencyGuard::default();
    let lab = Lab::new();
    let mut look = |capabilities: &Capabilities| {
        let reading = Reading {
            services: &[],
            capabilities,
            expire: 300_000,
            cpu: lab.cpu(),
        };
        guard.step(&policy::LatencyGuard::default(), reading, lab.now);
        guard.share.last_action.clone()
    };
    // Before the first cgroup was looked at nothing is known to be there.
    assert_eq!(look(&Capabilities::default()), None);
    let weight = Capabilities {
        cpu_weight: true,
        ..Capabilities::default()
    };
    assert_eq!(look(&weight).unwrap(), "off: the kernel has no cpu.max here");
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
