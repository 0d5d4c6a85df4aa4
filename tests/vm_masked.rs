//! The agent on a kernel that lacks a part of what it uses: it says what is absent, and does the rest.
//!
//! One boot without pressure and without the IO controller serves all of them; `cpu.idle` is masked by a mount. What the
//! agent does on such a kernel is shown by its memory guard, which needs none of these.
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

use scene::{ACT, BEFORE_HIGH, BEFORE_WEIGHT, Scene, Setup};

const SETUP: Setup = Setup {
    kernel: "psi=0 cgroup_disable=io",
    controllers: &["cpu", "memory"],
    flags: "",
};
/// Little is available under a fifth of the machine.
const GUARDS: &str = "{memory: {availablePercent: 20}}";

fn feature(name: &str) -> String {
    format!("duosuan_node_kernel_feature{{node=\"vm\",feature=\"{name}\"}}")
}

fn errors(file: &str) -> String {
    format!("duosuan_kernel_errors_total{{node=\"vm\",file=\"{file}\"}}")
}

/// Batch grows until little is available, and is limited.
fn memory_is_guarded(scene: &Scene) -> Result<()> {
    let wanted = scene.available()?.saturating_sub(scene.memory()? * 18 / 100);
    scene.start("batch", &format!("guest touch {}", wanted >> 20))?;
    scene.wait_for("batch/memory.high", "batch is limited", |value| value != BEFORE_HIGH)
}

/// Waits until the agent says of each feature whether the kernel has it.
fn are(scene: &Scene, there: bool, features: &[&str]) -> Result<()> {
    for name in features {
        scene.repeat(&format!("{name} is said to be there: {there}"), || {
            let said = scene.metric(&feature(name))?;
            Ok((said == [f64::from(u8::from(there))])
                .then_some(())
                .ok_or(format!("{said:?}")))
        })?;
    }
    Ok(())
}

#[test]
fn a_kernel_without_pressure_and_io_is_said_to_be_one_and_the_rest_goes_on() -> Result<()> {
    let scene = Scene::open_with("masked", SETUP)?;
    ensure!(
        scene.vm().exec("cat /proc/pressure/cpu")?.status != 0,
        "this kernel has pressure"
    );
    ensure!(scene.read("batch/io.max").is_err(), "this kernel has the IO controller");
    scene.start("batch", "guest spin 1")?;
    let agent = scene.start_agent(ACT, GUARDS)?;
    scene.wait_for("batch/cpu.idle", "batch runs idle", |value| value == "1")?;
    let absent = [
        "cpu.pressure",
        "io.max",
        "io.pressure",
        "io.weight",
        "memory.pressure",
        "resctrl.L3",
    ];
    are(&scene, false, &absent)?;
    are(
        &scene,
        true,
        &[
            "cpu.idle",
            "cpu.max",
            "cpu.weight",
            "memory.high",
            "memory.low",
            "memory.reclaim",
        ],
    )?;
    memory_is_guarded(&scene)?;
    // What is not there is no failure, whenever it is looked for.
    let failed = scene.metric("duosuan_kernel_errors_total")?;
    ensure!(
        failed.is_empty(),
        scene.explain(anyhow::anyhow!("{failed:?} kernel files failed"))
    );
    scene.end(&agent)?;
    scene.is_as_before()
}

/// What no file is, as a device is none, is absent to the agent.
#[test]
fn without_cpu_idle_batch_has_the_least_weight() -> Result<()> {
    let scene = Scene::open_with("noidle", SETUP)?;
    let file = "/sys/fs/cgroup/noidle/batch/cpu.idle";
    scene.vm().run(&format!("mount --bind /dev/null {file}"))?;
    scene.start("batch", "guest spin 1")?;
    let agent = scene.start_agent(ACT, GUARDS)?;
    scene.wait_for("batch/cpu.weight", "batch has the least weight", |value| value == "1")?;
    are(&scene, false, &["cpu.idle"])?;
    memory_is_guarded(&scene)?;
    scene.end(&agent)?;
    ensure!(
        scene.read("batch/cpu.weight")? == BEFORE_WEIGHT,
        "the weight is not taken back"
    );
    scene.vm().run(&format!("umount {file}"))?;
    scene.is_as_before()
}

#[test]
fn cpu_idle_that_is_read_only_is_counted_and_the_least_weight_does() -> Result<()> {
    let scene = Scene::open_with("roidle", SETUP)?;
    let file = "/sys/fs/cgroup/roidle/batch/cpu.idle";
    scene.vm().run(&format!(
        "mount --bind {file} {file} && mount -o remount,ro,bind {file}"
    ))?;
    scene.start("batch", "guest spin 1")?;
    let agent = scene.start_agent(ACT, GUARDS)?;
    scene.wait_for_metric(&errors("cpu.idle"))?;
    scene.wait_for("batch/cpu.weight", "batch has the least weight", |value| value == "1")?;
    are(&scene, false, &["cpu.idle"])?;
    ensure!(scene.read("batch/cpu.idle")? == "0", "who wrote a read-only file?");
    memory_is_guarded(&scene)?;
    scene.end(&agent)?;
    scene.vm().run(&format!("umount {file}"))?;
    scene.is_as_before()
}
