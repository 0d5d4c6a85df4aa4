//! The CPU guard: a queueing model of online and batch load on the same CPUs.

use duosuan_policy::{Capabilities, Report, Resources};
use proptest::prelude::*;

use crate::node::{Node, SECOND, STEP_MS, add, guard, loads, mean, quota};

/// Online work arrives as in an M/M/c queue; batch takes what it is allowed to. The share of time in which some online
/// request waits follows Sakasegawa's approximation rho^(sqrt(2(c+1))) of the probability to wait.
struct Plant {
    cpus: f64,
    batch_wants: f64,
    /// How much a running batch task hurts in spite of cpu.idle: wake-ups, caches, siblings.
    coupling: f64,
    limit: Option<f64>,
    node: Node,
    batch_used: f64,
    last: Option<Report>,
}

impl Plant {
    fn new(cpus: u32, batch_wants: f64, coupling: f64) -> Self {
        let capacity = Resources {
            cpu: i64::from(cpus) * 1000,
            memory: 1 << 34,
        };
        let capabilities = Capabilities {
            cpu_idle: true,
            cpu_max: true,
            pressure: true,
            ..Default::default()
        };
        Self {
            cpus: f64::from(cpus),
            batch_wants,
            coupling,
            limit: None,
            node: Node::new(capacity, capabilities),
            batch_used: 0.0,
            last: None,
        }
    }

    fn cuts(&self) -> u64 {
        guard(self.last.as_ref().unwrap(), "cpu").cuts
    }

    /// One step of 100 ms; the agent looks once a second, or at once when the PSI trigger would fire (150 ms in 1 s).
    fn step(&mut self, online: f64, since_look: &mut f64) -> f64 {
        self.node.now += STEP_MS;
        let online = online.min(self.cpus);
        self.batch_used = self
            .batch_wants
            .min(self.limit.unwrap_or(self.cpus))
            .min(self.cpus - online)
            .max(0.0);
        let rho = ((online + self.coupling * self.batch_used) / self.cpus).clamp(0.0, 1.0);
        let stall = rho.powf((2.0 * (self.cpus + 1.0)).sqrt() + 1.0);
        self.node.uses(online, self.batch_used);
        add(&mut self.node.online().stall.cpu, stall * STEP_MS as f64 * 1000.0);
        *since_look += stall * STEP_MS as f64;
        if self.node.ticks() || *since_look >= 150.0 {
            *since_look = 0.0;
            let (actions, report) = self.node.look();
            (self.limit, self.last) = (quota(&actions), Some(report));
        }
        stall
    }
}

struct Run {
    stalls: Vec<f64>,
    batch: Vec<f64>,
}

fn run(plant: &mut Plant, seconds: u64, online: impl Fn(u64) -> f64) -> Run {
    let mut run = Run {
        stalls: vec![],
        batch: vec![],
    };
    let mut since_look = 0.0;
    for step in 0..seconds * SECOND {
        run.stalls.push(plant.step(online(step * STEP_MS), &mut since_look));
        run.batch.push(plant.batch_used);
    }
    run
}

#[test]
fn a_spike_cuts_batch_within_a_second_and_batch_is_back_within_a_minute_after_it() {
    let mut plant = Plant::new(8, 8.0, 0.5);
    let spike = |ms: u64| if (60_000..120_000).contains(&ms) { 6.0 } else { 1.0 };
    let run = run(&mut plant, 200, spike);
    let at = |s: f64| (s * 1000.0) as usize / STEP_MS as usize;
    let before = mean(&run.batch[at(50.0)..at(60.0)]);
    assert!(
        run.batch[at(61.5)] < 2.0 * 0.85,
        "batch still uses {}",
        run.batch[at(61.5)]
    );
    let calm = mean(&run.stalls[at(62.0)..at(120.0)]);
    assert!(
        calm < 0.3,
        "prod stalls {calm} of the time in the spike, alone it would 0.22"
    );
    let after = mean(&run.batch[at(180.0)..at(200.0)]);
    assert!(
        after >= before * 0.95,
        "batch had {before} before the spike and has {after} a minute after it"
    );
}

proptest! {
    #![proptest_config(loads())]

    #[test]
    fn under_a_steady_load_the_guard_comes_to_rest(
        cpus in 2u32..64, online_percent in 5u32..70, batch_percent in 10u32..150, coupling in 0.3f64..1.0
    ) {
        let online = f64::from(cpus) * f64::from(online_percent) / 100.0;
        let mut plant = Plant::new(cpus, f64::from(cpus) * f64::from(batch_percent) / 100.0, coupling);
        run(&mut plant, 900, |_| online);
        let before = plant.cuts();
        let late = run(&mut plant, 600, |_| online);
        let more = plant.cuts() - before;
        // No limit cycle: what is left is a try every four minutes, each ended by a cut or two.
        prop_assert!(more <= 8, "{more} cuts in ten minutes of steady load");
        let stalled = mean(&late.stalls);
        let alone = (online / f64::from(cpus)).powf((2.0 * (f64::from(cpus) + 1.0)).sqrt() + 1.0);
        prop_assert!(stalled <= 0.11_f64.max(alone * 1.5 + 0.05), "prod stalls {stalled}, alone it would {alone}");
    }

    #[test]
    fn batch_gets_what_is_left_within_a_minute_when_online_falls(
        cpus in 2u32..64, high in 60u32..95, coupling in 0.3f64..1.0
    ) {
        let (high, low) = (f64::from(cpus) * f64::from(high) / 100.0, 0.0);
        let mut plant = Plant::new(cpus, f64::from(cpus), coupling);
        run(&mut plant, 120, |_| high);
        let after = run(&mut plant, 75, |_| low);
        let last = after.batch.last().copied().unwrap();
        // What is left is where prod would stall at half the threshold: with nobody online there is no bound but that.
        let rho = 0.05_f64.powf(1.0 / ((2.0 * (f64::from(cpus) + 1.0)).sqrt() + 1.0));
        let left = (rho / coupling).min(1.0) * f64::from(cpus);
        prop_assert!(last >= left * 0.85, "batch has {last} of the {left} that are left");
    }
}
