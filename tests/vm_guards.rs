//! The guards of memory and IO on a real kernel, and bursts of prod: what they do to batch when prod runs short, and that
//! they leave nothing behind.
//!
//! The machine has 512 MiB and a disk of 20 MiB/s. Assertions are about settings, counters and states; what QEMU does to
//! latencies says nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use anyhow::{Context, Result, ensure};

#[path = "agent/scene.rs"]
mod scene;

use scene::{ACT, BEFORE_HIGH, BEFORE_IO_WEIGHT, BEFORE_LOW, OBSERVE, Scene};

const CUTS_OF_IO: &str = "duosuan_guard_cuts_total{node=\"vm\",guard=\"io\"}";
const CUTS_OF_MEMORY: &str = "duosuan_guard_cuts_total{node=\"vm\",guard=\"memory\"}";
const DISK: &str = "/dev/vda";

/// Little is available under a fifth of the machine.
const MEMORY: &str = "{cpu: {disabled: true}, io: {disabled: true}, memory: {availablePercent: 20}}";
/// The load of `online` stalls a little by itself.
const IO: &str = "{cpu: {disabled: true}, memory: {disabled: true}, io: {stallMilli: 200}}";

/// Batch reads files and then grows until little is available.
fn shortage(scene: &Scene) -> Result<()> {
    scene.start("batch", &format!("guest cache {DISK}"))?;
    scene.wait_for("batch/memory.stat", "batch has page cache", |text| {
        figure(text, "file").is_some_and(|bytes| bytes > 64 << 20)
    })?;
    let available = scene.available()?;
    // To 18 % of the machine: less than the policy allows, and more than half of that.
    let wanted = available.saturating_sub(scene.memory()? * 18 / 100);
    scene.start("batch", &format!("guest touch {}", wanted >> 20))
}

fn figure(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.split(' ').next() == Some(name))?;
    line.split(' ').nth(1)?.parse().ok()
}

fn limited(value: &str) -> bool {
    value != BEFORE_HIGH
}

#[test]
fn a_shortage_of_memory_takes_batchs_page_cache_and_stops_its_growth_and_is_given_back() -> Result<()> {
    let scene = Scene::open("short")?;
    scene.start("online", "guest touch 24")?;
    let agent = scene.start_agent(ACT, MEMORY)?;
    let low = |value: &str| value.parse().is_ok_and(|bytes: u64| bytes >= 24 << 20);
    scene.wait_for("online/memory.low", "prod is protected", low)?;
    scene.wait_for("memory.low", "what prod is in is protected, or prod would not be", low)?;
    ensure!(scene.read("batch/memory.low")? == "0", "batch is protected");
    ensure!(
        scene.read("batch/memory.high")? == BEFORE_HIGH,
        "batch is limited without need"
    );

    shortage(&scene)?;
    scene.wait_for("batch/memory.high", "batch is limited", limited)?;
    scene.wait_for_metric("duosuan_reclaimed_bytes_total")?;
    scene.wait_for_metric(CUTS_OF_MEMORY)?;
    let high: u64 = scene.read("batch/memory.high")?.parse()?;
    // The kernel gives what is over the limit back to others, or stops who wants more.
    scene.wait_for("batch/memory.current", "batch keeps to its limit", |value| {
        value.parse().is_ok_and(|bytes: u64| bytes <= high + (4 << 20))
    })?;
    scene.start("batch", "guest touch 64")?;
    scene.wait_for("batch/memory.events", "batch is stopped where it wants more", |text| {
        figure(text, "high").is_some_and(|times| times > 0)
    })?;
    let killed = |text: &str| figure(text, "oom_kill");
    ensure!(
        killed(&scene.read("online/memory.events")?) == Some(0),
        "prod was killed"
    );

    scene.stop("batch")?;
    scene.wait_for("batch/memory.high", "the limit is lifted", |value| !limited(value))?;
    scene.end(&agent)?;
    ensure!(
        scene.read("online/memory.low")? == BEFORE_LOW,
        "the protection is not taken back"
    );
    scene.is_as_before()
}

#[test]
fn an_agent_that_was_killed_in_a_shortage_leaves_what_the_next_one_takes_back() -> Result<()> {
    let scene = Scene::open("shortkill")?;
    let agent = scene.start_agent(ACT, MEMORY)?;
    shortage(&scene)?;
    scene.wait_for("batch/memory.high", "batch is limited", limited)?;
    scene.kill(&agent)?;
    ensure!(limited(&scene.read("batch/memory.high")?), "who lifted the limit?");
    let observer = scene.start_agent(OBSERVE, MEMORY)?;
    scene.wait_for("batch/memory.high", "the limit is taken back", |value| !limited(value))?;
    // It would do it again, and says so.
    scene.wait_for_metric(CUTS_OF_MEMORY)?;
    scene.is_as_before()?;
    scene.end(&observer)?;
    scene.is_as_before()
}

#[test]
fn a_stall_of_prods_reads_cuts_batchs_io_and_calm_gives_it_back() -> Result<()> {
    let scene = Scene::open("io")?;
    let agent = scene.start_agent(ACT, IO)?;
    scene.wait_for("batch/io.weight", "batch's requests wait behind others'", |value| {
        value == "default 10"
    })?;
    scene.start("batch", &format!("guest read {DISK} 4 256 0"))?;
    scene.start("online", &format!("guest read {DISK} 1 4 20000"))?;
    scene.wait_for("batch/io.max", "batch is limited", |value| value.contains("rbps="))?;
    scene.wait_for_metric(CUTS_OF_IO)?;
    // Bytes a second in three seconds: the disk does 20 MiB, and the first cut leaves batch half of it at most.
    let rate = || -> Result<f64> {
        let total = || -> Result<u64> {
            let text = scene.read("batch/io.stat")?;
            let bytes = text.split(' ').find_map(|word| word.strip_prefix("rbytes="));
            Ok(bytes.context("batch has read nothing")?.parse()?)
        };
        let before = total()?;
        let span = scene.seconds(3)?;
        Ok((total()? - before) as f64 / span)
    };
    scene.repeat("batch reads less than 60 % of what the disk gives", || {
        let rate = rate()?;
        Ok((rate < 0.6 * f64::from(20 << 20))
            .then_some(())
            .ok_or(format!("it reads {rate:.0} bytes a second")))
    })?;
    scene.stop("online")?;
    scene.wait_for("batch/io.max", "the limit is lifted", str::is_empty)?;
    scene.end(&agent)?;
    ensure!(
        scene.read("batch/io.weight")? == format!("default {BEFORE_IO_WEIGHT}"),
        "the weight is not taken back"
    );
    scene.is_as_before()
}

#[test]
fn agents_that_are_killed_and_end_while_they_limit_batchs_io_leave_every_file_as_it_was() -> Result<()> {
    let scene = Scene::open("ioend")?;
    let agent = scene.start_agent(ACT, IO)?;
    scene.start("batch", &format!("guest read {DISK} 4 256 0"))?;
    scene.start("online", &format!("guest read {DISK} 1 4 20000"))?;
    let limited = |value: &str| value.contains("rbps=");
    scene.wait_for("batch/io.max", "batch is limited", limited)?;
    scene.kill(&agent)?;
    ensure!(limited(&scene.read("batch/io.max")?), "who lifted the limit?");
    let next = scene.start_agent(ACT, IO)?;
    // What the killed one left is still there: only its own count says that the next one judged anew.
    scene.wait_for_metric(CUTS_OF_IO)?;
    scene.wait_for("batch/io.max", "the next agent limits batch", limited)?;
    scene.end(&next)?;
    scene.is_as_before()
}

/// Prod works in bursts that its own limit stops in their middle, each of them; what it leaves of the limit between them is
/// more than that.
#[test]
fn prod_that_its_own_limit_stops_bursts_where_the_policy_lets_it_and_as_before_when_the_agent_ends() -> Result<()> {
    const MAX: &str = "online/cpu.max";
    const BURST: &str = "online/cpu.max.burst";
    /// A work of some 40 ms every half second, on a host as fast as those of today.
    const WORK: &str = "guest burst 1 10000000 460000";
    let scene = Scene::open("burst")?;
    scene.start("online", WORK)?;
    // How long the work takes here: the host says, so that the limit can stop it at two thirds.
    let used = || scene.counter("online", "usage_usec");
    let start = used()?;
    let span = scene.seconds(6)?;
    let share = (used()? - start) as f64 / 1e6 / span;
    // Work and pause alternate: of each second so much is work.
    let work = 0.46 * share / (1.0 - share).max(0.1);
    let mut quota = ((work * 1e6 * 2.0 / 3.0) as u64).clamp(2_000, 90_000);
    scene.put(MAX, &format!("{quota} 100000"))?;
    // Of the periods in which prod ran, how many in a hundred stopped it.
    let stopped = || -> Result<f64> {
        let counts = || -> Result<[u64; 2]> {
            Ok([
                scene.counter("online", "nr_periods")?,
                scene.counter("online", "nr_throttled")?,
            ])
        };
        let before = counts()?;
        scene.seconds(5)?;
        let after = counts()?;
        Ok((after[1] - before[1]) as f64 * 100.0 / (after[0] - before[0]).max(1) as f64)
    };
    let mut alone = stopped()?;
    // A host that others use is not as fast now as it was then.
    while alone <= 5.0 && quota > 2_000 {
        quota = (quota / 2).max(2_000);
        scene.put(MAX, &format!("{quota} 100000"))?;
        alone = stopped()?;
    }
    ensure!(
        alone > 5.0,
        "the limit of {quota} us stops prod in {alone:.0} % of its periods"
    );

    let agent = scene.start_agent(ACT, "{cpu: {burstPercent: 100, stallMilli: 50, floor: 10m}}")?;
    scene.wait_for(BURST, "prod may burst as far as its limit", |value| {
        value == quota.to_string()
    })?;
    scene.repeat("the limit stops prod less than half as often", || {
        let now = stopped()?;
        Ok((now * 2.0 < alone)
            .then_some(())
            .ok_or(format!("{now:.0} % of the periods, {alone:.0} % before")))
    })?;
    ensure!(scene.counter("online", "nr_bursts")? > 0, "the kernel counts no burst");
    ensure!(
        scene.read(MAX)? == format!("{quota} 100000"),
        "who changed prod's limit?"
    );

    // A policy that does not say so any more takes it back, and the end does.
    scene.rewrite_policy(ACT, "{cpu: {stallMilli: 50, floor: 10m}}")?;
    scene.wait_for(BURST, "prod may not burst any more", |value| value == "0")?;
    scene.rewrite_policy(ACT, "{cpu: {burstPercent: 50, stallMilli: 50, floor: 10m}}")?;
    scene.wait_for(BURST, "prod may burst by half of its limit", |value| {
        value == (quota / 2).to_string()
    })?;
    scene.end(&agent)?;
    ensure!(scene.read(BURST)? == "0", "the burst is not taken back");
    scene.put(MAX, "max 100000")?;
    scene.is_as_before()
}
