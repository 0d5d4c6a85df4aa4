//! The agent on a real kernel: what it does to batch when online stalls, and that it leaves nothing behind.
//!
//! The machine has two cores. Assertions are about settings, counters and shares with wide margins; what QEMU does to
//! latencies says nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use anyhow::{Result, ensure};

#[path = "agent/scene.rs"]
mod scene;

use scene::{ACT, BEFORE_MAX, BEFORE_WEIGHT, OBSERVE, STALL_GUARDS, Scene, Setup};

/// A scene with batch at work.
fn open(name: &'static str) -> Result<Scene> {
    let scene = Scene::open(name)?;
    scene.start("batch", "guest spin 2")?;
    Ok(scene)
}

#[test]
fn a_stall_of_online_cuts_batch_and_calm_gives_it_back() -> Result<()> {
    let scene = open("stall")?;
    let agent = scene.start_agent(ACT, STALL_GUARDS)?;
    scene.wait_for("batch/cpu.idle", "batch runs idle from the start", |value| value == "1")?;
    let alone = scene.shares()?.batch;
    let throttled = scene.counter("batch", "nr_throttled")?;

    scene.load()?;
    scene.wait_for("batch/cpu.max", "batch is limited", |value| value != BEFORE_MAX)?;
    scene.until(
        "batch has less than half of what it had, and less than online",
        |shares| shares.batch * 2.0 < alone && shares.batch < shares.online,
    )?;
    ensure!(
        scene.counter("batch", "nr_throttled")? > throttled,
        "the limit has stopped nobody"
    );

    scene.stop("online")?;
    scene.wait_for("batch/cpu.max", "the limit is lifted", |value| value == BEFORE_MAX)?;
    scene.until("batch has its CPU again", |shares| shares.batch * 1.5 > alone)?;
    scene.end(&agent)?;
    scene.is_as_before()
}

#[test]
fn an_agent_that_ends_while_it_limits_batch_leaves_every_file_as_it_was() -> Result<()> {
    let scene = open("end")?;
    let agent = scene.start_agent(ACT, STALL_GUARDS)?;
    scene.load()?;
    scene.wait_for("batch/cpu.max", "batch is limited", |value| value != BEFORE_MAX)?;
    scene.end(&agent)?;
    scene.is_as_before()
}

#[test]
fn an_agent_that_was_killed_leaves_a_limit_and_the_next_one_knows_what_was_before() -> Result<()> {
    let scene = open("kill")?;
    let agent = scene.start_agent(ACT, STALL_GUARDS)?;
    scene.load()?;
    scene.wait_for("batch/cpu.max", "batch is limited", |value| value != BEFORE_MAX)?;
    scene.kill(&agent)?;
    ensure!(scene.read("batch/cpu.max")? != BEFORE_MAX, "who lifted the limit?");
    ensure!(scene.read("batch/cpu.idle")? == "1", "who made batch busy?");

    let next = scene.start_agent(ACT, STALL_GUARDS)?;
    scene.wait_for(
        "batch/cpu.max",
        "the next agent limits batch by its own judgement",
        |value| value != BEFORE_MAX,
    )?;
    scene.kill(&next)?;
    let last = scene.start_agent(ACT, STALL_GUARDS)?;
    scene.wait_for_metric("duosuan_node_capacity")?;
    scene.end(&last)?;
    scene.is_as_before()
}

#[test]
fn an_agent_that_only_observes_takes_back_what_a_killed_one_left() -> Result<()> {
    let scene = open("rollback")?;
    let agent = scene.start_agent(ACT, STALL_GUARDS)?;
    scene.load()?;
    scene.wait_for("batch/cpu.max", "batch is limited", |value| value != BEFORE_MAX)?;
    scene.kill(&agent)?;
    let observer = scene.start_agent(OBSERVE, STALL_GUARDS)?;
    scene.wait_for("batch/cpu.max", "the limit is taken back", |value| value == BEFORE_MAX)?;
    scene.wait_for("batch/cpu.weight", "the weight is back", |value| value == BEFORE_WEIGHT)?;
    scene.is_as_before()?;
    scene.end(&observer)?;
    scene.is_as_before()
}

#[test]
fn in_mode_observe_the_agent_says_what_it_would_do_and_changes_nothing() -> Result<()> {
    let scene = open("observe")?;
    let agent = scene.start_agent(OBSERVE, STALL_GUARDS)?;
    scene.load()?;
    scene.wait_for_metric("duosuan_guard_cuts_total")?;
    scene.is_as_before()?;
    scene.end(&agent)?;
    scene.is_as_before()
}

/// The machine has two cores of one thread; batch gets the last one as soon as its limit is no more than that. The kernel
/// takes no empty list of CPUs while somebody runs in the cgroup, so that batch gets a list of all until it has ended.
#[test]
fn batch_that_is_cut_runs_on_whole_cores_and_has_all_of_them_again() -> Result<()> {
    const CONFINE: &str = "{cpu: {stallMilli: 50, floor: 10m, confine: true}}";
    let setup = Setup {
        controllers: &["cpu", "memory", "io", "cpuset"],
        ..Setup::default()
    };
    let scene = Scene::open_with("confine", setup)?;
    scene.start("batch", "guest spin 2")?;
    let all = scene.read("batch/cpuset.cpus.effective")?;
    let on_last = |value: &str| value == "1";
    let confined = || scene.wait_for("batch/cpuset.cpus", "batch has the last core alone", on_last);
    let opened = || scene.wait_for("batch/cpuset.cpus", "batch has all cores", |value| value == all);
    ensure!(all == "0-1", "the machine has CPUs {all}");

    let agent = scene.start_agent(ACT, CONFINE)?;
    scene.load()?;
    confined()?;
    ensure!(
        on_last(&scene.read("batch/cpuset.cpus.effective")?),
        "the kernel gave it others"
    );
    let allowed = scene.vm().run(
        "for process in $(cat /sys/fs/cgroup/confine/batch/cgroup.procs); do
             grep -h Cpus_allowed_list /proc/$process/task/*/status; done | sort -u",
    )?;
    ensure!(
        allowed.split_whitespace().eq(["Cpus_allowed_list:", "1"]),
        "batch may run on {allowed}"
    );
    ensure!(
        scene.read("online/cpuset.cpus.effective")? == all,
        "online was confined"
    );

    scene.kill(&agent)?;
    ensure!(
        on_last(&scene.read("batch/cpuset.cpus")?),
        "who gave batch its cores back?"
    );
    let observer = scene.start_agent(OBSERVE, CONFINE)?;
    opened()?;
    ensure!(
        scene.read("batch/cpuset.cpus.effective")? == all,
        "the kernel gave it others"
    );
    scene.end(&observer)?;

    let next = scene.start_agent(ACT, CONFINE)?;
    confined()?;
    scene.end(&next)?;
    opened()?;

    // The journal has not forgotten that there was no list at all.
    scene.stop("batch")?;
    let last = scene.start_agent(OBSERVE, CONFINE)?;
    scene.wait_for("batch/cpuset.cpus", "batch has no list of CPUs", str::is_empty)?;
    scene.is_as_before()?;
    scene.end(&last)?;
    scene.is_as_before()
}
