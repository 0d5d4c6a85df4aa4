//! What an online service has of the agent on a real kernel: how soon a spike is answered, what its own histogram brings
//! about, and how its latency is beside batch.
//!
//! Under emulation times say little: they are measured and reported, and of them only this is asserted, that the service
//! comes to keep its objective.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use anyhow::{Context, Result, ensure};
use duosuan_tests::figures::percentile;

#[path = "agent/scene.rs"]
mod scene;

use scene::{ACT, BEFORE_MAX, BEFORE_WEIGHT, STALL_GUARDS, Scene};

const SPIKES: usize = 10;
/// Each with the agent and without it.
const RUNS: usize = 5;
const PORT: u16 = 9200;
const CUTS: &str = "duosuan_guard_cuts_total{node=\"vm\",guard=\"latency\"}";

impl Scene {
    /// Starts the service in the online cgroup: two threads, each with so much to do every 20 ms.
    fn serve(&self, iterations: u32) -> Result<()> {
        self.start("online", &format!("guest service {PORT} 2 {iterations} 20000"))?;
        self.repeat("the service answers", || {
            Ok(self.ask("metrics").map(drop).map_err(|error| error.to_string()))
        })
    }

    fn ask(&self, path: &str) -> Result<String> {
        self.vm().run(&format!("wget -q -O - http://127.0.0.1:{PORT}/{path}"))
    }

    /// Milliseconds that so many percent of the requests of so many seconds took at most.
    fn latency(&self, percent: usize, seconds: u32) -> Result<f64> {
        self.ask("samples")?;
        self.seconds(seconds)?;
        let samples = self.ask("samples")?;
        let samples: Vec<f64> = samples.lines().filter_map(|line| line.parse().ok()).collect();
        ensure!(!samples.is_empty(), "the service has served nobody");
        Ok(percentile(&samples, percent) / 1000.0)
    }

    /// Busy and all time of the node's CPUs, in the kernel's ticks.
    fn busy(&self) -> Result<[f64; 2]> {
        let text = self
            .vm()
            .run("awk '/^cpu / {print $2 + $3 + $4 + $7 + $8, $2 + $3 + $4 + $5 + $6 + $7 + $8}' /proc/stat")?;
        let (busy, all) = text.split_once(' ').context("no CPU time")?;
        Ok([busy.parse()?, all.parse()?])
    }
}

#[test]
fn every_spike_of_online_load_is_answered_by_a_limit_of_batch() -> Result<()> {
    let scene = Scene::open("spike")?;
    scene.start("batch", "guest spin 2")?;
    let mut times = Vec::new();
    for _ in 0..SPIKES {
        // A new one each time: it knows of no spike before, and waits for nothing.
        let agent = scene.start_agent(ACT, STALL_GUARDS)?;
        scene.wait_for("batch/cpu.idle", "batch runs idle", |value| value == "1")?;
        scene.seconds(2)?;
        ensure!(
            scene.read("batch/cpu.max")? == BEFORE_MAX,
            "batch is limited before the spike"
        );
        let time = scene.vm().run(
            "guest spike /sys/fs/cgroup/spike/online/cgroup.procs /sys/fs/cgroup/spike/batch/cpu.max 5 1000000 2000",
        );
        times.push(time.map_err(|error| scene.explain(error))?.parse()?);
        scene.end(&agent)?;
        scene.is_as_before()?;
    }
    scene.figures.measure(|figures| {
        figures.spike_to_suppressed_ms_p50 = Some(percentile(&times, 50));
        figures.spike_to_suppressed_ms_p99 = Some(percentile(&times, 99));
    });
    Ok(())
}

/// Batch has twenty times the weight of online and the CPU guard is off, so that the histogram alone can help.
#[test]
fn a_histogram_that_misses_its_objective_cuts_batch_until_it_keeps_it() -> Result<()> {
    let scene = Scene::open("latency")?;
    scene.put("batch/cpu.weight", "2000")?;
    scene.serve(4_000_000)?;
    // What the service promises is what it keeps alone on this host, with room.
    let threshold = (scene.latency(90, 5)? * 3.0).ceil();
    scene.start("batch", "guest spin 4")?;
    let objective =
        format!("{{histogram: request_seconds, port: {PORT}, threshold: {threshold}ms, quantileMilli: 900}}");
    let agent = scene.start_agent_by(&format!(
        "spec: {{mode: act, guards: {{cpu: {{disabled: true}}, memory: {{disabled: true}}, io: {{disabled: true}}}}}}
groups: [{{path: latency/online, tier: prod, latency: {objective}}}, {{path: latency/batch, tier: batch}}]"
    ))?;
    scene.wait_for("batch/cpu.max", "batch is limited", |value| value != BEFORE_MAX)?;
    scene.wait_for_metric(CUTS)?;
    scene.wait_for_metric("duosuan_service_slow_requests_ratio")?;
    scene.repeat("the service keeps its objective beside batch", || {
        let latency = scene.latency(90, 3)?;
        Ok((latency <= threshold)
            .then_some(())
            .ok_or(format!("{latency:.1} ms, {threshold} ms are promised")))
    })?;
    let shares = scene.shares()?;
    ensure!(shares.batch > 0.0, "batch was stopped altogether");
    ensure!(scene.read("batch/cpu.idle")? == "0", "the CPU guard is off, and acts");

    // A service that nobody calls misses nothing.
    scene.ask("stop")?;
    scene.wait_for("batch/cpu.max", "the limit is lifted", |value| value == BEFORE_MAX)?;
    scene.end(&agent)?;
    scene.put("batch/cpu.weight", BEFORE_WEIGHT)?;
    scene.is_as_before()
}

/// The three settings alternate in one boot, so that what else the host does meets all of them.
#[test]
fn an_online_service_and_batch_share_a_node_that_is_full() -> Result<()> {
    let scene = Scene::open("beside")?;
    scene.serve(250_000)?;
    scene.start("batch", "guest spin 2")?;
    scene.put("batch/cgroup.freeze", "1")?;
    let agent = scene.start_agent(ACT, "{}")?;
    let (mut with, mut without, mut busy, mut all) = (Vec::new(), Vec::new(), 0.0, 0.0);
    for _ in 0..RUNS {
        let alone = scene.latency(99, 3)?;
        scene.put("batch/cgroup.freeze", "0")?;
        scene.wait_for("batch/cpu.idle", "batch runs idle", |value| value == "1")?;
        let before = scene.busy()?;
        let used = scene.counter("batch", "usage_usec")?;
        with.push(scene.latency(99, 3)? / alone);
        let after = scene.busy()?;
        busy += after[0] - before[0];
        all += after[1] - before[1];
        ensure!(scene.counter("batch", "usage_usec")? > used, "batch did nothing");
        scene.rewrite_policy(ACT, "{}, suspended: true")?;
        scene.wait_for("batch/cpu.idle", "batch is let go", |value| value == "0")?;
        without.push(scene.latency(99, 3)? / alone);
        scene.put("batch/cgroup.freeze", "1")?;
        scene.rewrite_policy(ACT, "{}")?;
    }
    let percent = busy / all * 100.0;
    scene.figures.measure(|figures| {
        figures.online_p99_ratio = Some(percentile(&with, 50));
        figures.online_p99_ratio_range = Some([percentile(&with, 0), percentile(&with, 100)]);
        figures.online_p99_ratio_without_agent = Some(percentile(&without, 50));
        figures.node_cpu_percent = Some(percent);
    });
    ensure!(percent > 60.0, "batch fills the node to {percent:.0} % only");
    scene.end(&agent)?;
    scene.put("batch/cgroup.freeze", "0")?;
    scene.is_as_before()
}
