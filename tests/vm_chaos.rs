//! What is done to the agent on a real kernel: it is killed at any moment, clocks jump, files are read-only. It goes
//! on, and leaves nothing behind.
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

use scene::{ACT, BEFORE_MAX, OBSERVE, STALL_GUARDS, Scene};

fn limited(scene: &Scene) -> Result<()> {
    scene.wait_for("batch/cpu.max", "batch is limited", |value| value != BEFORE_MAX)
}

/// Points that an agent reaches while it sets something, and where it dies while it puts back what such a one left. In a
/// folder `agents/node/tests/deaths.rs` walks each of them at each of its times.
const SETTING: [&str; 6] = [
    "half-line:1",
    "journalled:1",
    "journalled:3",
    "written:2",
    "written:3",
    "verified:2",
];
const PUTTING_BACK: [&str; 10] = [
    "half-compacted:1",
    "compacted:1",
    "replaced:1",
    "half-line:2",
    "written:1",
    "written:2",
    "weight-lost:1",
    "put-back:1",
    "put-back:3",
    "restored:2",
];

#[test]
fn an_agent_that_is_killed_in_any_phase_leaves_what_the_next_one_takes_back() -> Result<()> {
    let scene = Scene::open("phases")?;
    scene.start("batch", "guest spin 2")?;
    scene.load()?;
    let put_back = |story: &str| -> Result<()> {
        let next = scene.start_agent(OBSERVE, STALL_GUARDS)?;
        scene.wait_for_metric("duosuan_node_capacity")?;
        scene.is_as_before().with_context(|| story.to_owned())?;
        scene.kill(&next)
    };
    for at in SETTING {
        scene.dies_at(STALL_GUARDS, at)?;
        put_back(at)?;
    }
    for at in PUTTING_BACK {
        scene.dies_at(STALL_GUARDS, "verified:3")?;
        scene.dies_at(STALL_GUARDS, at)?;
        put_back(at)?;
    }
    // Not by chance: batch is limited when the agent is killed, and stays so, which is the safe way.
    let agent = scene.start_agent(ACT, STALL_GUARDS)?;
    limited(&scene)?;
    scene.kill(&agent)?;
    ensure!(
        scene.read("batch/cpu.max")? != BEFORE_MAX,
        "who lifted the limit of a killed agent?"
    );
    let last = scene.start_agent(OBSERVE, STALL_GUARDS)?;
    scene.wait_for_metric("duosuan_node_capacity")?;
    scene.is_as_before()?;
    scene.end(&last)?;

    // And the last one of a long row sets all of it again, and ends.
    let agent = scene.start_agent(ACT, STALL_GUARDS)?;
    limited(&scene)?;
    scene.stop("online")?;
    scene.end(&agent)?;
    scene.is_as_before()
}

#[test]
fn a_clock_that_jumps_neither_stops_the_guard_nor_what_it_gives_back() -> Result<()> {
    let scene = Scene::open("clock")?;
    scene.start("batch", "guest spin 2")?;
    let agent = scene.start_agent(ACT, STALL_GUARDS)?;
    scene.wait_for("batch/cpu.idle", "batch runs idle from the start", |value| value == "1")?;
    let jump = |seconds: i64| scene.vm().run(&format!("date -s @$(($(date +%s) + {seconds}))"));
    for seconds in [-7_200, 86_400 * 400] {
        jump(seconds)?;
        scene.load()?;
        limited(&scene)?;
        jump(-seconds)?;
        scene.stop("online")?;
        scene.wait_for("batch/cpu.max", "the limit is lifted", |value| value == BEFORE_MAX)?;
    }
    scene.end(&agent)?;
    scene.is_as_before()?;
    // What the agent stored is of the future now: the next one begins anew, and works.
    jump(-7_200)?;
    let next = scene.start_agent(ACT, STALL_GUARDS)?;
    scene.load()?;
    limited(&scene)?;
    scene.end(&next)?;
    jump(7_200)?;
    scene.is_as_before()
}

#[test]
fn a_file_that_is_read_only_is_an_error_that_is_counted_and_the_rest_goes_on() -> Result<()> {
    let scene = Scene::open("readonly")?;
    let vm = scene.vm();
    let file = "/sys/fs/cgroup/readonly/batch/cpu.max";
    vm.run(&format!(
        "mount --bind {file} {file} && mount -o remount,ro,bind {file}"
    ))?;
    scene.start("batch", "guest spin 2")?;
    let agent = scene.start_agent(ACT, STALL_GUARDS)?;
    scene.wait_for("batch/cpu.idle", "batch runs idle", |value| value == "1")?;
    scene.load()?;
    scene.wait_for_metric("duosuan_kernel_errors_total{node=\"vm\",file=\"cpu.max\"}")?;
    ensure!(
        scene.read("batch/cpu.max")? == BEFORE_MAX,
        "who wrote a read-only file?"
    );
    // Writable again, it is written at the next try.
    vm.run(&format!("umount {file}"))?;
    limited(&scene)?;
    scene.end(&agent)?;
    scene.is_as_before()
}
