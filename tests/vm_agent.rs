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

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use duosuan_tests::vm::{Kind, Vm};

/// Some ten times what a reaction takes; the guard gives back by a twentieth of the node each second, and takes its time
/// before it tries again where prod stalled.
const LIMIT: Duration = Duration::from_secs(240);

/// What the batch cgroup has before any agent: values that no default would restore by chance.
const BEFORE_MAX: &str = "190000 100000";
const BEFORE_WEIGHT: &str = "37";

/// In the guest, whose loopback nobody else uses.
const METRICS: &str = "127.0.0.1:9100";
const ACT: &str = "act";
const OBSERVE: &str = "observe";

#[test]
fn a_stall_of_online_cuts_batch_and_calm_gives_it_back() -> Result<()> {
    let scene = Scene::open("stall")?;
    let agent = scene.start_agent(ACT)?;
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

    scene.calm()?;
    scene.wait_for("batch/cpu.max", "the limit is lifted", |value| value == BEFORE_MAX)?;
    scene.until("batch has its CPU again", |shares| shares.batch * 1.5 > alone)?;
    scene.end(&agent)?;
    scene.is_as_before()
}

#[test]
fn an_agent_that_ends_while_it_limits_batch_leaves_every_file_as_it_was() -> Result<()> {
    let scene = Scene::open("end")?;
    let agent = scene.start_agent(ACT)?;
    scene.load()?;
    scene.wait_for("batch/cpu.max", "batch is limited", |value| value != BEFORE_MAX)?;
    scene.end(&agent)?;
    scene.is_as_before()
}

#[test]
fn an_agent_that_was_killed_leaves_a_limit_and_the_next_one_knows_what_was_before() -> Result<()> {
    let scene = Scene::open("kill")?;
    let agent = scene.start_agent(ACT)?;
    scene.load()?;
    scene.wait_for("batch/cpu.max", "batch is limited", |value| value != BEFORE_MAX)?;
    scene.kill(&agent)?;
    ensure!(scene.read("batch/cpu.max")? != BEFORE_MAX, "who lifted the limit?");
    ensure!(scene.read("batch/cpu.idle")? == "1", "who made batch busy?");

    let next = scene.start_agent(ACT)?;
    scene.wait_for(
        "batch/cpu.max",
        "the next agent limits batch by its own judgement",
        |value| value != BEFORE_MAX,
    )?;
    scene.kill(&next)?;
    let last = scene.start_agent(ACT)?;
    scene.wait_for_metric("duosuan_node_capacity")?;
    scene.end(&last)?;
    scene.is_as_before()
}

#[test]
fn an_agent_that_only_observes_takes_back_what_a_killed_one_left() -> Result<()> {
    let scene = Scene::open("rollback")?;
    let agent = scene.start_agent(ACT)?;
    scene.load()?;
    scene.wait_for("batch/cpu.max", "batch is limited", |value| value != BEFORE_MAX)?;
    scene.kill(&agent)?;
    let observer = scene.start_agent(OBSERVE)?;
    scene.wait_for("batch/cpu.max", "the limit is taken back", |value| value == BEFORE_MAX)?;
    scene.wait_for("batch/cpu.weight", "the weight is back", |value| value == BEFORE_WEIGHT)?;
    scene.is_as_before()?;
    scene.end(&observer)?;
    scene.is_as_before()
}

#[test]
fn in_mode_observe_the_agent_says_what_it_would_do_and_changes_nothing() -> Result<()> {
    let scene = Scene::open("observe")?;
    let agent = scene.start_agent(OBSERVE)?;
    scene.load()?;
    scene.wait_for_metric("duosuan_guard_cuts_total")?;
    scene.is_as_before()?;
    scene.end(&agent)?;
    scene.is_as_before()
}

/// Two cgroups of its own in the machine, with batch at work in the one. Gone when dropped.
struct Scene {
    name: &'static str,
    before: String,
    vm: Arc<Vm>,
    _turn: MutexGuard<'static, ()>,
}

/// CPUs in use.
struct Shares {
    online: f64,
    batch: f64,
}

impl Scene {
    /// One machine serves all tests that want one at the same time; they take turns.
    fn open(name: &'static str) -> Result<Self> {
        static MACHINE: Mutex<Weak<Vm>> = Mutex::new(Weak::new());
        static TURN: Mutex<()> = Mutex::new(());
        let vm = {
            let mut machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
            match machine.upgrade() {
                Some(vm) => vm,
                None => {
                    let vm = Arc::new(Vm::boot(&Kind::Bare)?);
                    *machine = Arc::downgrade(&vm);
                    vm
                }
            }
        };
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        vm.run(&format!(
            "cd /sys/fs/cgroup && echo '+cpu +memory +io' > cgroup.subtree_control && mkdir {name} &&
             echo '+cpu +memory +io' > {name}/cgroup.subtree_control && mkdir {name}/online {name}/batch &&
             echo {BEFORE_MAX} > {name}/batch/cpu.max && echo {BEFORE_WEIGHT} > {name}/batch/cpu.weight"
        ))?;
        let before = vm.settings(name)?;
        let scene = Self {
            name,
            before,
            vm,
            _turn: turn,
        };
        scene.start("batch", "guest spin 2")?;
        Ok(scene)
    }

    /// Starts a command inside one of the cgroups.
    fn start(&self, cgroup: &str, command: &str) -> Result<()> {
        let procs = format!("/sys/fs/cgroup/{}/{cgroup}/cgroup.procs", self.name);
        self.vm
            .run(&format!(
                "sh -c 'echo $$ > {procs} && exec {command}' > /dev/null 2>&1 &"
            ))
            .map(drop)
    }

    /// Bursts that collide. How much CPU they want depends on the host: on a fast one 1.5 of the two CPUs, on a slow one
    /// more than there is. Prod stalls in either case.
    fn load(&self) -> Result<()> {
        self.start("online", "guest burst 5 1000000 2000")
    }

    fn calm(&self) -> Result<()> {
        self.vm
            .run(&format!("echo 1 > /sys/fs/cgroup/{}/online/cgroup.kill", self.name))
            .map(drop)
    }

    /// Starts the agent without a cluster and returns its process.
    fn start_agent(&self, mode: &str) -> Result<String> {
        let name = self.name;
        // Nothing runs in the online cgroup but the load, so there is no noise, and any stall is the load's: a threshold
        // below what the fastest host shows. Where the load takes everything, batch with cpu.idle is left less than the
        // default floor, and there would be nothing to cut.
        let policy = format!(
            "spec: {{mode: {mode}, guards: {{cpu: {{stallMilli: 50, floor: 10m}}}}}}\ngroups: [{{path: {name}/online, tier: prod}}, {{path: {name}/batch, tier: batch}}]"
        );
        self.vm.run(&format!("mkdir -p /run/{name}"))?;
        self.vm.write(&format!("/run/{name}/policy.yaml"), &policy)?;
        self.vm.run(&format!(
            "cd /run/{name} && duosuan-agent --policy policy.yaml --journal /run/{name}/journal --node vm \
             --metrics-addr {METRICS} >> log 2>&1 & echo $!"
        ))
    }

    /// Asks the agent to end, and waits until it has.
    fn end(&self, agent: &str) -> Result<()> {
        self.vm.run(&format!("kill {agent}"))?;
        self.gone(agent)
    }

    fn kill(&self, agent: &str) -> Result<()> {
        self.vm.run(&format!("kill -9 {agent}"))?;
        self.gone(agent)
    }

    fn gone(&self, process: &str) -> Result<()> {
        self.vm.wait(
            "the agent ends",
            LIMIT,
            &format!("[ -d /proc/{process} ] || echo gone"),
            |text| text.contains("gone").then_some(()),
        )
    }

    fn read(&self, file: &str) -> Result<String> {
        self.vm.run(&format!("cat /sys/fs/cgroup/{}/{file}", self.name))
    }

    fn counter(&self, cgroup: &str, name: &str) -> Result<u64> {
        let text = self.read(&format!("{cgroup}/cpu.stat"))?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .context("no such counter")?;
        Ok(value.trim().parse()?)
    }

    fn wait_for(&self, file: &str, what: &str, seen: impl Fn(&str) -> bool) -> Result<()> {
        let shell = format!("cat /sys/fs/cgroup/{}/{file}", self.name);
        self.vm
            .wait(what, LIMIT, &shell, |text| seen(text.trim()).then_some(()))
            .map_err(|e| self.explain(e))
    }

    /// Waits until the agent exports a metric that is not zero.
    fn wait_for_metric(&self, name: &str) -> Result<()> {
        let shell = format!("wget -q -O - http://{METRICS}/metrics");
        let seen = |text: &str| {
            let mut values = text
                .lines()
                .filter(|line| line.starts_with(name))
                .filter_map(|line| line.rsplit(' ').next());
            values
                .any(|value| value.parse().is_ok_and(|value: f64| value > 0.0))
                .then_some(())
        };
        self.vm
            .wait(&format!("{name} is not zero"), LIMIT, &shell, seen)
            .map_err(|e| self.explain(e))
    }

    fn shares(&self) -> Result<Shares> {
        let look = || -> Result<[f64; 3]> {
            let uptime = self.vm.run("cut -d' ' -f1 /proc/uptime")?.parse()?;
            let used = |cgroup| self.counter(cgroup, "usage_usec").map(|usec| usec as f64 / 1e6);
            Ok([uptime, used("online")?, used("batch")?])
        };
        let before = look()?;
        self.vm.run("sleep 3")?;
        let after = look()?;
        let share = |at: usize| (after[at] - before[at]) / (after[0] - before[0]);
        Ok(Shares {
            online: share(1),
            batch: share(2),
        })
    }

    fn until(&self, what: &str, seen: impl Fn(&Shares) -> bool) -> Result<()> {
        let start = std::time::Instant::now();
        loop {
            let shares = self.shares()?;
            if seen(&shares) {
                return Ok(());
            }
            if start.elapsed() > LIMIT {
                let Shares { online, batch } = shares;
                let error =
                    anyhow::anyhow!("{what}: not within {LIMIT:?}, online uses {online:.2} CPUs, batch {batch:.2}");
                return Err(self.explain(error));
            }
        }
    }

    fn is_as_before(&self) -> Result<()> {
        let now = self.vm.settings(self.name)?;
        let changed: Vec<&str> = now
            .lines()
            .filter(|line| !self.before.lines().any(|before| before == *line))
            .collect();
        ensure!(
            now == self.before,
            self.explain(anyhow::anyhow!("not as before: {changed:#?}"))
        );
        Ok(())
    }

    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let log = self
            .vm
            .exec(&format!("tail -n 20 /run/{}/log", self.name))
            .map_or_else(|e| e.to_string(), |output| output.text);
        let metrics = self
            .vm
            .exec(&format!(
                "wget -q -O - http://{METRICS}/metrics | grep '^duosuan_node_[up]\\|^duosuan_guard'"
            ))
            .map_or_else(|e| e.to_string(), |output| output.text);
        error.context(format!("the agent's log ends with\n{log}\nand it measures\n{metrics}"))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let name = self.name;
        let _ = self.vm.run(&format!(
            "kill -9 $(pidof duosuan-agent); cd /sys/fs/cgroup; echo 1 > {name}/cgroup.kill;
             while grep -q 'populated 1' {name}/cgroup.events; do sleep 0.1; done; rmdir {name}/online {name}/batch {name}"
        ));
    }
}
