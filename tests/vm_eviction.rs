//! The last resort on a real kernel: where memory is about to fail, batch is killed, and online lives on.
//!
//! The machine has 512 MiB. Batch takes memory until less is available than the policy's lines, and then wants more: the
//! memory guard's limit stops it there, so that it stalls for memory, as everybody does before the kernel kills.
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

use scene::{ACT, Scene};

const GUARDS: &str = "{cpu: {disabled: true}, io: {disabled: true}, memory: {availablePercent: 25}}";
const KILLS: &str = "duosuan_node_evictions_total{node=\"vm\",tier=\"batch\",cause=\"MemoryFails\",outcome=\"Killed\"}";

fn policy(disabled: bool) -> String {
    format!("{GUARDS}, eviction: {{disabled: {disabled}, availablePercent: 23, killPercent: 20}}")
}

#[test]
fn batch_that_brings_memory_to_fail_is_killed_and_online_survives() -> Result<()> {
    let scene = Scene::open("fails")?;
    scene.start("online", "guest touch 24")?;
    let agent = scene.start_agent(ACT, &policy(true))?;
    // To 18 % of the machine, and then more.
    let wanted = scene.available()?.saturating_sub(scene.memory()? * 18 / 100);
    scene.start("batch", &format!("guest touch {}", wanted >> 20))?;
    scene.wait_for("batch/memory.high", "batch is limited", |value| {
        value != scene::BEFORE_HIGH
    })?;
    scene.start("batch", "guest touch 64")?;
    let stalls = |text: &str| text.lines().any(|l| l.starts_with("full") && !l.contains("avg10=0.00"));
    scene.wait_for("batch/memory.pressure", "batch stalls", stalls)?;

    // Switched off, eviction kills nobody.
    scene.seconds(10)?;
    let lives = |text: &str| text.contains("populated 1");
    ensure!(lives(&scene.read("batch/cgroup.events")?), "who killed batch?");
    scene.rewrite_policy(ACT, &policy(false))?;
    scene.wait_for("batch/cgroup.events", "batch is killed", |text| !lives(text))?;
    scene.wait_for_metric(KILLS)?;
    ensure!(lives(&scene.read("online/cgroup.events")?), "online does not live");
    ensure!(
        scene.read("memory.events")?.lines().any(|line| line == "oom_kill 0"),
        "the kernel has killed somebody"
    );
    let (available, memory) = (scene.available()?, scene.memory()?);
    ensure!(
        available * 2 > memory,
        "only {available} of {memory} bytes are available"
    );
    scene.end(&agent)?;
    scene.is_as_before()
}
