//! The agent on a machine that systemd runs: its settings are the units' own, so systemd keeps them, and gives them back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use anyhow::{Result, ensure};
use duosuan_tests::{
    figures::Recorder,
    vm::{Kind, Vm},
};

/// Some ten times what a reaction takes.
const LIMIT: Duration = Duration::from_secs(240);
/// What the units say before any agent: values that no default would restore by chance.
const BEFORE: &str = "CPUQuota=190% CPUWeight=37 MemoryHigh=450M IOWeight=73";
const BEFORE_MAX: &str = "190000 100000";
const POLICY: &str = "spec: {mode: MODE, guards: {cpu: {stallMilli: 50, floor: 10m}}}
groups: [{path: online.slice, tier: prod}, {path: batch.slice, tier: batch}]";

struct Scene {
    vm: Vm,
    /// Settings of both slices' cgroups, and what systemd says of the units.
    before: String,
    figures: Recorder,
}

impl Scene {
    fn open() -> Result<Self> {
        let vm = Vm::boot(&Kind::Systemd)?;
        for slice in ["online", "batch"] {
            vm.run(&format!(
                "systemd-run --slice={slice}.slice --unit={slice}-keeper sleep 100000"
            ))?;
        }
        vm.run(&format!("systemctl set-property --runtime batch.slice {BEFORE}"))?;
        vm.run("systemctl set-property --runtime online.slice MemoryLow=1M IOWeight=80")?;
        let before = settings(&vm)?;
        ensure!(
            before.contains(BEFORE_MAX),
            "the machine is not as the test wants it:\n{before}"
        );
        Ok(Self {
            vm,
            before,
            figures: Recorder::default(),
        })
    }

    fn start_agent(&self, mode: &str) -> Result<String> {
        // Not /run itself: journald has a folder of the log's name there.
        self.vm.run("mkdir -p /run/agent")?;
        self.vm.write("/run/agent/policy.yaml", &POLICY.replace("MODE", mode))?;
        self.vm.run(
            "cd /run/agent && duosuan-agent --policy policy.yaml --journal /run/agent/journal --node vm \
             --metrics-addr 127.0.0.1:9100 >> log 2>&1 & echo $!",
        )
    }

    /// Starts the load, and waits until the agent has limited batch for it.
    fn limited(&self) -> Result<()> {
        self.vm.run("systemd-run --slice=batch.slice --unit=hog guest spin 2")?;
        self.vm
            .run("systemd-run --slice=online.slice --unit=bursts guest burst 5 1000000 2000")?;
        let shell = "cat /sys/fs/cgroup/batch.slice/cpu.max";
        let limit = self.vm.wait("batch is limited", LIMIT, shell, |text| {
            (text.trim() != BEFORE_MAX).then(|| text.trim().to_owned())
        });
        limit.map(drop).map_err(|error| self.explain(error))
    }

    fn end(&self, agent: &str, signal: &str) -> Result<()> {
        self.figures.ends(&self.vm, agent)?;
        self.vm.run(&format!("kill -{signal} {agent}"))?;
        let gone = format!("[ -d /proc/{agent} ] || echo gone");
        self.vm.wait("the agent ends", LIMIT, &gone, |text| {
            text.contains("gone").then_some(())
        })
    }

    fn calm(&self) -> Result<()> {
        self.vm.run("systemctl stop hog.service bursts.service").map(drop)
    }

    /// Waits until systemd knows of the limit: it is told by a thread of its own, after the file is written.
    fn told(&self) -> Result<()> {
        let shell = "systemctl show --value -p CPUQuotaPerSecUSec batch.slice";
        let told = self.vm.wait("systemd knows of the limit", LIMIT, shell, |text| {
            (text.trim() != "1.900000s").then_some(())
        });
        told.map_err(|error| self.explain(error))
    }

    fn quota(&self) -> Result<String> {
        self.vm.run("systemctl show --value -p CPUQuotaPerSecUSec batch.slice")
    }

    fn is_as_before(&self) -> Result<()> {
        let now = settings(&self.vm)?;
        let changed: Vec<&str> = now.lines().filter(|l| !self.before.lines().any(|b| b == *l)).collect();
        let restored = now == self.before;
        self.figures.restored(restored);
        ensure!(restored, self.explain(anyhow::anyhow!("not as before: {changed:#?}")));
        Ok(())
    }

    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let log = self
            .vm
            .exec("tail -n 30 /run/agent/log")
            .map_or_else(|e| e.to_string(), |o| o.text);
        error.context(format!("the agent's log ends with\n{log}"))
    }
}

fn settings(vm: &Vm) -> Result<String> {
    let shown = "-p CPUQuotaPerSecUSec -p CPUWeight -p MemoryHigh -p MemoryLow -p IOWeight";
    let units = vm.run(&format!("systemctl show {shown} batch.slice online.slice"))?;
    Ok(format!(
        "{}\n{}\n{units}",
        vm.settings("batch.slice")?,
        vm.settings("online.slice")?
    ))
}

/// Written into the file beside systemd, the limit would be gone after the first reload.
#[test]
fn what_the_agent_sets_is_the_units_own_and_outlives_a_reload() -> Result<()> {
    let scene = Scene::open()?;
    let agent = scene.start_agent("act")?;
    scene.limited()?;
    scene.told()?;
    let weight = "systemctl show --value -p CPUWeight batch.slice";
    ensure!(
        scene.vm.run(weight)? == "idle",
        scene.explain(anyhow::anyhow!("systemd does not know that batch is idle"))
    );

    // No agent that could write again what systemd takes back.
    scene.vm.run(&format!("kill -STOP {agent}"))?;
    scene.vm.run("systemctl daemon-reload")?;
    scene
        .vm
        .run("systemctl set-property --runtime batch.slice TasksMax=9999")?;
    // Written by systemd, as all that it knows of the unit then is.
    let shell = "cat /sys/fs/cgroup/batch.slice/pids.max";
    let written = scene
        .vm
        .wait("systemd writes the unit's settings", LIMIT, shell, |text| {
            (text.trim() == "9999").then_some(())
        });
    written.map_err(|error| scene.explain(error))?;
    let limit = scene.vm.run("cat /sys/fs/cgroup/batch.slice/cpu.max")?;
    ensure!(
        limit != BEFORE_MAX,
        scene.explain(anyhow::anyhow!("systemd took the limit back: {limit}"))
    );
    ensure!(
        scene.vm.run("cat /sys/fs/cgroup/batch.slice/cpu.idle")? == "1",
        "systemd made batch busy"
    );
    scene.vm.run("systemctl set-property --runtime batch.slice TasksMax=")?;
    scene.vm.run(&format!("kill -CONT {agent}"))?;

    scene.calm()?;
    scene.end(&agent, "TERM")?;
    scene.is_as_before()?;

    // Killed, an agent leaves its limits with systemd; the next one has them taken back there.
    let agent = scene.start_agent("act")?;
    scene.limited()?;
    scene.told()?;
    scene.end(&agent, "KILL")?;
    ensure!(scene.quota()? != "1.900000s", "who lifted the limit?");
    let observer = scene.start_agent("observe")?;
    let shell = "systemctl show --value -p CPUQuotaPerSecUSec batch.slice";
    let back = |text: &str| (text.trim() == "1.900000s").then_some(());
    let back = scene.vm.wait("the limit is taken back", LIMIT, shell, back);
    back.map_err(|error| scene.explain(error))?;
    scene.calm()?;
    scene.end(&observer, "TERM")?;
    scene.vm.run("systemctl daemon-reload")?;
    scene.is_as_before()
}
