//! Cgroups of prod and batch in a virtual machine, and an agent that serves them.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use duosuan_tests::{
    figures::Recorder,
    metrics::values,
    vm::{Kind, Vm},
};

/// Some ten times what a reaction takes; the guard gives back by a twentieth of the node each second, and takes its time
/// before it tries again where prod stalled.
pub(crate) const LIMIT: Duration = Duration::from_secs(240);

/// What the cgroups have before any agent: values that no default would restore by chance.
pub(crate) const BEFORE_MAX: &str = "190000 100000";
pub(crate) const BEFORE_WEIGHT: &str = "37";
pub(crate) const BEFORE_HIGH: &str = "471859200";
pub(crate) const BEFORE_LOW: &str = "1048576";
pub(crate) const BEFORE_IO_WEIGHT: &str = "73";

/// Modes of the agent.
pub(crate) const ACT: &str = "act";
pub(crate) const OBSERVE: &str = "observe";

/// Nothing runs in the online cgroup but the load, so there is no noise, and any stall is the load's: a threshold below
/// what the fastest host shows. Where the load takes everything, batch with cpu.idle is left less than the default floor,
/// and there would be nothing to cut.
pub(crate) const STALL_GUARDS: &str = "{cpu: {stallMilli: 50, floor: 10m}}";

/// In the guest, whose loopback nobody else uses.
const METRICS: &str = "127.0.0.1:9100";

/// What a scene needs of its machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// More on the kernel's command line.
    pub(crate) kernel: &'static str,
    /// Controllers that its cgroups have.
    pub(crate) controllers: &'static [&'static str],
    /// More flags of its agents.
    pub(crate) flags: &'static str,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            kernel: "",
            controllers: &["cpu", "memory", "io"],
            flags: "",
        }
    }
}

/// Two cgroups of its own in the machine. Gone when dropped.
pub(crate) struct Scene {
    name: &'static str,
    flags: &'static str,
    before: String,
    vm: Arc<Vm>,
    /// What is measured.
    pub(crate) figures: Recorder,
    _turn: MutexGuard<'static, ()>,
}

/// CPUs in use.
pub(crate) struct Shares {
    pub(crate) online: f64,
    pub(crate) batch: f64,
}

impl Scene {
    /// One machine serves all tests that want one like it at the same time; they take turns.
    pub(crate) fn open(name: &'static str) -> Result<Self> {
        Self::open_with(name, Setup::default())
    }

    pub(crate) fn open_with(name: &'static str, setup: Setup) -> Result<Self> {
        static MACHINES: Mutex<BTreeMap<&str, Weak<Vm>>> = Mutex::new(BTreeMap::new());
        static TURN: Mutex<()> = Mutex::new(());
        let vm = {
            let mut machines = MACHINES.lock().unwrap_or_else(PoisonError::into_inner);
            match machines.get(setup.kernel).and_then(Weak::upgrade) {
                Some(vm) => vm,
                None => {
                    let vm = Arc::new(Vm::boot_with(&Kind::Bare, setup.kernel)?);
                    machines.insert(setup.kernel, Arc::downgrade(&vm));
                    vm
                }
            }
        };
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let controllers: Vec<String> = setup.controllers.iter().map(|name| format!("+{name}")).collect();
        let controllers = controllers.join(" ");
        let mut shell = format!(
            "cd /sys/fs/cgroup && echo '{controllers}' > cgroup.subtree_control && mkdir {name} &&
             echo '{controllers}' > {name}/cgroup.subtree_control && mkdir {name}/online {name}/batch"
        );
        let values = [
            ("cpu", "batch/cpu.max", BEFORE_MAX),
            ("cpu", "batch/cpu.weight", BEFORE_WEIGHT),
            ("memory", "batch/memory.high", BEFORE_HIGH),
            ("memory", "online/memory.low", BEFORE_LOW),
            ("io", "batch/io.weight", BEFORE_IO_WEIGHT),
        ];
        for (_, file, value) in values.iter().filter(|(of, ..)| setup.controllers.contains(of)) {
            shell.push_str(&format!(" && echo {value} > {name}/{file}"));
        }
        vm.run(&shell)?;
        let before = vm.settings(name)?;
        Ok(Self {
            name,
            flags: setup.flags,
            before,
            vm,
            figures: Recorder::default(),
            _turn: turn,
        })
    }

    /// Starts a command inside one of the cgroups.
    pub(crate) fn start(&self, cgroup: &str, command: &str) -> Result<()> {
        let procs = format!("/sys/fs/cgroup/{}/{cgroup}/cgroup.procs", self.name);
        self.vm
            .run(&format!(
                "sh -c 'echo $$ > {procs} && exec {command}' > /dev/null 2>&1 &"
            ))
            .map(drop)
    }

    /// Bursts that collide. How much CPU they want depends on the host: on a fast one 1.5 of the two CPUs, on a slow one more
    /// than there is. Prod stalls in either case.
    pub(crate) fn load(&self) -> Result<()> {
        self.start("online", "guest burst 5 1000000 2000")
    }

    /// Ends all that runs in one of the cgroups.
    pub(crate) fn stop(&self, cgroup: &str) -> Result<()> {
        self.vm
            .run(&format!("echo 1 > /sys/fs/cgroup/{}/{cgroup}/cgroup.kill", self.name))
            .map(drop)
    }

    /// Starts the agent without a cluster and returns its process.
    pub(crate) fn start_agent(&self, mode: &str, guards: &str) -> Result<String> {
        self.start_agent_by(&self.policy(mode, guards))
    }

    /// The same with a policy of the test's own.
    pub(crate) fn start_agent_by(&self, policy: &str) -> Result<String> {
        self.start_agent_under("", policy)
    }

    /// The same by a command that runs it in a way of its own, and becomes it.
    pub(crate) fn start_agent_under(&self, under: &str, policy: &str) -> Result<String> {
        self.put_policy(policy)?;
        self.vm.run(&format!("{} >> log 2>&1 & echo $!", self.command(under)))
    }

    /// Starts an agent that dies as by `kill -9` at `POINT:N`, and waits until it has.
    pub(crate) fn dies_at(&self, guards: &str, at: &str) -> Result<()> {
        self.dies_by(&self.policy(ACT, guards), at)
    }

    /// The same with a policy of the test's own.
    pub(crate) fn dies_by(&self, policy: &str, at: &str) -> Result<()> {
        self.put_policy(policy)?;
        let patience = LIMIT.as_secs() / 3;
        let command = self.command(&format!("timeout {patience}"));
        let status = self.vm.run(&format!("{command} --die-at {at} >> log 2>&1; echo $?"))?;
        ensure!(
            status == "137",
            self.explain(anyhow::anyhow!(
                "an agent that was to die at {at} ended with status {status}"
            ))
        );
        Ok(())
    }

    fn put_policy(&self, policy: &str) -> Result<()> {
        let name = self.name;
        self.vm.run(&format!("mkdir -p /run/{name}"))?;
        self.vm.write(&format!("/run/{name}/policy.yaml"), policy)
    }

    fn command(&self, under: &str) -> String {
        let name = self.name;
        format!(
            "cd /run/{name} && {under} duosuan-agent --policy policy.yaml --journal /run/{name}/journal --node vm \
             --metrics-addr {METRICS} {}",
            self.flags
        )
    }

    /// Writes the agent's policy anew; a running agent takes it in. What follows `guards` may follow here too.
    pub(crate) fn rewrite_policy(&self, mode: &str, guards: &str) -> Result<()> {
        let name = self.name;
        self.vm
            .write(&format!("/run/{name}/policy.yaml"), &self.policy(mode, guards))
    }

    fn policy(&self, mode: &str, guards: &str) -> String {
        let name = self.name;
        format!(
            "spec: {{mode: {mode}, guards: {guards}}}\ngroups: [{{path: {name}/online, tier: prod}}, {{path: {name}/batch, tier: batch}}]"
        )
    }

    /// Asks the agent to end, and waits until it has.
    pub(crate) fn end(&self, agent: &str) -> Result<()> {
        self.figures.ends(&self.vm, agent)?;
        self.vm.run(&format!("kill {agent}"))?;
        self.gone(agent)
    }

    pub(crate) fn kill(&self, agent: &str) -> Result<()> {
        self.figures.ends(&self.vm, agent)?;
        self.vm.run(&format!("kill -9 {agent}"))?;
        self.gone(agent)
    }

    pub(crate) fn vm(&self) -> &Vm {
        &self.vm
    }

    pub(crate) fn gone(&self, process: &str) -> Result<()> {
        self.vm.wait(
            "the agent ends",
            LIMIT,
            &format!("[ -d /proc/{process} ] || echo gone"),
            |text| text.contains("gone").then_some(()),
        )
    }

    pub(crate) fn read(&self, file: &str) -> Result<String> {
        self.vm.run(&format!("cat /sys/fs/cgroup/{}/{file}", self.name))
    }

    /// Writes a file of the cgroups as the test's own wish.
    pub(crate) fn put(&self, file: &str, value: &str) -> Result<()> {
        self.vm
            .run(&format!("echo {value} > /sys/fs/cgroup/{}/{file}", self.name))
            .map(drop)
    }

    pub(crate) fn counter(&self, cgroup: &str, name: &str) -> Result<u64> {
        let text = self.read(&format!("{cgroup}/cpu.stat"))?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .context("no such counter")?;
        Ok(value.trim().parse()?)
    }

    pub(crate) fn wait_for(&self, file: &str, what: &str, seen: impl Fn(&str) -> bool) -> Result<()> {
        let shell = format!("cat /sys/fs/cgroup/{}/{file}", self.name);
        self.vm
            .wait(what, LIMIT, &shell, |text| seen(text.trim()).then_some(()))
            .map_err(|e| self.explain(e))
    }

    /// Waits until the agent exports a metric that is not zero.
    pub(crate) fn wait_for_metric(&self, name: &str) -> Result<()> {
        let seen = |text: &str| values(text, name, "").any(|value| value > 0.0).then_some(());
        self.vm
            .wait(&format!("{name} is not zero"), LIMIT, &scrape(), seen)
            .map_err(|e| self.explain(e))
    }

    /// What the agent exports under this name, or under one that begins so; empty if nothing.
    pub(crate) fn metric(&self, name: &str) -> Result<Vec<f64>> {
        Ok(values(&self.vm.run(&scrape())?, name, "").collect())
    }

    /// Memory of the machine, bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        self.meminfo("MemTotal:")
    }

    /// Memory of the machine that is available, bytes.
    pub(crate) fn available(&self) -> Result<u64> {
        self.meminfo("MemAvailable:")
    }

    fn meminfo(&self, name: &str) -> Result<u64> {
        let text = self.vm.run("cat /proc/meminfo")?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .context("no such figure")?;
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kibibytes << 10)
    }

    /// Lets so many seconds of the machine pass, and answers how many it were.
    pub(crate) fn seconds(&self, seconds: u32) -> Result<f64> {
        let uptime = || -> Result<f64> { Ok(self.vm.run("cut -d' ' -f1 /proc/uptime")?.parse()?) };
        let before = uptime()?;
        self.vm.run(&format!("sleep {seconds}"))?;
        Ok(uptime()? - before)
    }

    /// Looks again and again until what is seen is good.
    pub(crate) fn repeat(&self, what: &str, look: impl Fn() -> Result<Result<(), String>>) -> Result<()> {
        let start = std::time::Instant::now();
        loop {
            let Err(seen) = look()? else { return Ok(()) };
            if start.elapsed() > LIMIT {
                return Err(self.explain(anyhow::anyhow!("{what}: not within {LIMIT:?}: {seen}")));
            }
        }
    }

    pub(crate) fn shares(&self) -> Result<Shares> {
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

    pub(crate) fn until(&self, what: &str, seen: impl Fn(&Shares) -> bool) -> Result<()> {
        self.repeat(what, || {
            let shares = self.shares()?;
            let Shares { online, batch } = shares;
            Ok(seen(&shares)
                .then_some(())
                .ok_or_else(|| format!("online uses {online:.2} CPUs, batch {batch:.2}")))
        })
    }

    pub(crate) fn is_as_before(&self) -> Result<()> {
        let now = self.vm.settings(self.name)?;
        let changed: Vec<&str> = now
            .lines()
            .filter(|line| !self.before.lines().any(|before| before == *line))
            .collect();
        let restored = now == self.before;
        self.figures.restored(restored);
        ensure!(restored, self.explain(anyhow::anyhow!("not as before: {changed:#?}")));
        Ok(())
    }

    pub(crate) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
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

fn scrape() -> String {
    format!("wget -q -O - http://{METRICS}/metrics")
}
