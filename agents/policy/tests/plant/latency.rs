//! The latency guard: a service whose requests wait for CPUs, and take longer beside batch.

use duosuan_policy::{Bucket, Capabilities, Histogram, Report, Resources, Service};
use proptest::prelude::*;

use crate::node::{Node, SECOND, STEP_MS, guard, loads, mean, quota};

/// Time that a request takes of a CPU by itself, seconds.
const WORK: f64 = 0.002;
/// Bounds of the histogram, milliseconds.
const BOUNDS: [u64; 10] = [1, 2, 3, 5, 10, 25, 50, 100, 250, 1_000];
/// The agent reads the histogram so often.
const SCRAPE_MS: u64 = 2_000;

/// Requests arrive at random, as in an M/M/c queue. Each takes the longer the more batch runs beside it (caches, memory,
/// siblings), and so uses more CPU, too. The pressure files tell nothing.
struct Plant {
    cpus: f64,
    batch_wants: f64,
    /// How much longer a request takes where batch has all CPUs.
    coupling: f64,
    limit: Option<f64>,
    node: Node,
    batch: f64,
    counts: Vec<f64>,
    random: u64,
    last: Option<Report>,
}

/// Latency of an M/M/c queue.
#[derive(Clone, Copy)]
struct Queue {
    work: f64,
    waits: f64,
    /// Rate at which those that wait get their turn, 1/s.
    turns: f64,
}

impl Queue {
    fn new(cpus: f64, requests: f64, work: f64) -> Self {
        let rho = (requests * work / cpus).min(0.995);
        Self {
            work,
            waits: rho.powf((2.0 * (cpus + 1.0)).sqrt() - 1.0).min(1.0),
            turns: cpus * (1.0 - rho) / work,
        }
    }

    /// Part of the requests that take no longer than this, seconds: the work varies by a fifth, and some wait.
    fn within(self, seconds: f64) -> f64 {
        if seconds <= self.work {
            // The fastest take four fifths of the mean work.
            return ((seconds / self.work - 0.8) / 0.4).clamp(0.0, 1.0) * (1.0 - self.waits);
        }
        let spread = ((seconds / self.work - 0.8) / 0.4).clamp(0.0, 1.0);
        spread * (1.0 - self.waits * (-(seconds - self.work) * self.turns).exp())
    }
}

impl Plant {
    fn new(cpus: u32, batch_wants: f64, coupling: f64, objective_ms: u64, seed: u64) -> Self {
        let capacity = Resources {
            cpu: i64::from(cpus) * 1000,
            memory: 1 << 34,
        };
        let capabilities = Capabilities {
            cpu_max: true,
            ..Default::default()
        };
        let mut node = Node::new(capacity, capabilities);
        node.seen.services = vec![Service {
            name: "shop/web".to_owned(),
            quantile_milli: 990,
            threshold: objective_ms * 1000,
            histogram: None,
        }];
        Self {
            cpus: f64::from(cpus),
            batch_wants,
            coupling,
            limit: None,
            node,
            batch: 0.0,
            counts: vec![0.0; BOUNDS.len() + 1],
            random: seed,
            last: None,
        }
    }

    /// About normal, mean 0 and deviation 1.
    fn noise(&mut self) -> f64 {
        let mut uniform = || {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.random >> 11) as f64 / (1_u64 << 53) as f64
        };
        (0..12).map(|_| uniform()).sum::<f64>() - 6.0
    }

    fn queue(&self, requests: f64) -> Queue {
        Queue::new(
            self.cpus,
            requests,
            WORK * (1.0 + self.coupling * self.batch / self.cpus),
        )
    }

    /// A step with so many requests a second; answers which part of them is slow, of the hundredth that may be.
    fn step(&mut self, requests: f64) -> f64 {
        self.node.now += STEP_MS;
        let online = (requests * self.queue(requests).work).min(self.cpus);
        self.batch = self
            .batch_wants
            .min(self.limit.unwrap_or(self.cpus))
            .min(self.cpus - online)
            .max(0.0);
        let queue = self.queue(requests);
        self.node.uses(online, self.batch);
        let ended = requests * STEP_MS as f64 / 1000.0;
        let (mut before, mut sum) = (0.0, 0.0);
        for at in 0..self.counts.len() {
            let within = BOUNDS.get(at).map_or(1.0, |ms| queue.within(*ms as f64 / 1000.0));
            // What falls into a bucket is as random as arrivals are.
            let mean = ended * (within - before);
            sum += (mean + self.noise() * mean.sqrt()).max(0.0);
            self.counts[at] += sum;
            before = within;
        }
        if self.node.now.is_multiple_of(SCRAPE_MS) {
            let up_to = |at| BOUNDS.get(at).map(|ms: &u64| ms * 1000);
            let bucket = |(at, count): (usize, &f64)| Bucket {
                up_to: up_to(at),
                count: *count as u64,
            };
            self.node.seen.services[0].histogram = Some(Histogram {
                at: self.node.now,
                buckets: self.counts.iter().enumerate().map(bucket).collect(),
            });
        }
        if self.node.ticks() {
            let (actions, report) = self.node.look();
            (self.limit, self.last) = (quota(&actions), Some(report));
        }
        self.slow(queue)
    }

    fn slow(&self, queue: Queue) -> f64 {
        let threshold = self.node.seen.services[0].threshold as f64 / 1e6;
        (1.0 - queue.within(threshold)) * 100.0
    }

    /// Batch's CPU and the slow requests of those that may be, in each step.
    fn run(&mut self, seconds: u64, requests: f64) -> (Vec<f64>, Vec<f64>) {
        let (mut batch, mut slow) = (Vec::new(), Vec::new());
        for _ in 0..seconds * SECOND {
            slow.push(self.step(requests));
            batch.push(self.batch);
        }
        (batch, slow)
    }

    fn cuts(&self) -> u64 {
        guard(self.last.as_ref().unwrap(), "latency").cuts
    }
}

#[test]
fn batch_that_makes_a_service_slow_is_cut_until_it_keeps_its_objective() {
    // Alone a request takes 2.4 ms at most, beside batch everywhere 4.8; 3 are promised.
    let mut plant = Plant::new(8, 8.0, 1.0, 3, 1);
    let (batch, slow) = plant.run(180, 500.0);
    assert!(
        batch[0] > 6.0 && slow[0] > 10.0,
        "batch has {}, slow are {}",
        batch[0],
        slow[0]
    );
    let (batch, slow) = plant.run(60, 500.0);
    let kept = slow.iter().filter(|s| **s <= 1.0).count();
    assert!(kept * 10 >= slow.len() * 9, "kept in {kept} of {} steps", slow.len());
    assert!(mean(&batch) > 1.0, "batch has {} cores", mean(&batch));
}

/// Slow requests of those that may be, percent, with batch at its floor of a twentieth.
fn alone(plant: &Plant, requests: f64, coupling: f64) -> f64 {
    plant.slow(Queue::new(plant.cpus, requests, WORK * (1.0 + coupling * 0.05)))
}

#[test]
fn batch_beside_a_service_that_has_too_much_to_do_makes_it_a_quarter_slower_at_most() {
    for coupling in [0.3, 1.0] {
        let mut plant = Plant::new(8, 8.0, coupling, 3, 1);
        let requests = 2_400.0;
        let alone = alone(&plant, requests, coupling);
        assert!(alone > 2.0, "it misses its objective by itself: {alone}");
        plant.run(300, requests);
        let (batch, slow) = plant.run(1_200, requests);
        assert!(mean(&slow) <= alone * 1.3, "{} where {alone} are its own", mean(&slow));
        assert!(mean(&batch) >= 0.4, "batch has {} cores", mean(&batch));
    }
}

#[test]
fn a_service_whose_own_fault_is_over_is_protected_by_its_objective_again() {
    // Every second request takes longer than promised, whatever batch does.
    let mut plant = Plant::new(8, 8.0, 1.0, 2, 1);
    plant.run(400, 500.0);
    plant.node.seen.services[0].threshold = 3_000;
    plant.run(120, 500.0);
    let (_, slow) = plant.run(60, 500.0);
    let kept = slow.iter().filter(|s| **s <= 1.0).count();
    assert!(kept * 10 >= slow.len() * 9, "kept in {kept} of {} steps", slow.len());
}

proptest! {
    #![proptest_config(loads())]

    #[test]
    fn a_service_that_is_slow_by_itself_does_not_starve_batch(
        cpus in 2u32..64, percent in 10u32..60, batch_percent in 20u32..120, seed in any::<u64>()
    ) {
        let requests = f64::from(cpus) / WORK * f64::from(percent) / 100.0;
        let wants = f64::from(cpus) * f64::from(batch_percent) / 100.0;
        // It promises what its work alone does not allow, and batch does nothing to it.
        let mut plant = Plant::new(cpus, wants, 0.0, 2, seed);
        plant.run(400, requests);
        let (batch, _) = plant.run(1_200, requests);
        let left = wants.min(f64::from(cpus) - requests * WORK);
        prop_assert!(mean(&batch) >= left * 0.85, "batch has {} of the {left} that are left", mean(&batch));
    }

    #[test]
    fn under_a_steady_load_the_latency_guard_comes_to_rest_and_the_objective_is_kept(
        cpus in 2u32..64, percent in 10u32..60, batch_percent in 10u32..120, coupling in 0.1f64..2.0,
        objective in prop::sample::select(vec![3u64, 5, 10, 25, 50]), seed in any::<u64>()
    ) {
        let requests = f64::from(cpus) / WORK * f64::from(percent) / 100.0;
        let wants = f64::from(cpus) * f64::from(batch_percent) / 100.0;
        let mut plant = Plant::new(cpus, wants, coupling, objective, seed);
        plant.run(900, requests);
        let before = plant.cuts();
        let (_, slow) = plant.run(600, requests);
        let more = plant.cuts() - before;
        // No limit cycle: what is left is a try every four minutes, each ended by a few cuts.
        prop_assert!(more <= 10, "{more} cuts in ten minutes of steady load");
        let alone = alone(&plant, requests, coupling);
        // In ten seconds each: near its limit a queue swings from step to step. Half as many again: of a hundred requests a
        // second, chance explains a fifth more for a minute.
        let spans: Vec<f64> = slow.chunks(10 * SECOND as usize).map(mean).collect();
        let missed = spans.iter().filter(|s| **s > 1.5).count();
        prop_assert!(
            alone > 0.4 || missed * 10 <= spans.len(),
            "missed in {missed} of {} spans, {alone} of the allowed with batch at its floor", spans.len()
        );
    }

    #[test]
    fn batch_gets_what_is_left_within_a_minute_when_the_service_has_less_to_do(
        cpus in 8u32..64, percent in 40u32..70, coupling in 0.5f64..2.0, seed in any::<u64>()
    ) {
        let requests = f64::from(cpus) / WORK * f64::from(percent) / 100.0;
        let mut plant = Plant::new(cpus, f64::from(cpus), coupling, 3, seed);
        plant.run(240, requests);
        // From here on nothing that batch does makes a request slow enough.
        plant.node.seen.services[0].threshold = 1_000_000;
        plant.run(75, requests / 4.0);
        let allowed = plant.limit.unwrap_or(f64::from(cpus));
        prop_assert!(allowed >= f64::from(cpus) * 0.85, "batch may use {allowed} of {cpus} cores");
    }
}
