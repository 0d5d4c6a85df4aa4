//! A folder that holds what a kernel shows of a node with many pods.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use duosuan_node::{
    agent::Agent,
    kernel::{Kernel, Roots},
    pods::PodInfo,
    selection::Choice,
};
use duosuan_policy::{NamedGroup, Policy, Resources, State, Tier};

/// Of ten pods, so many are guaranteed, and so many batch; the rest are burstable.
const OF_TEN: (usize, usize) = (1, 3);

/// A node of prod and batch pods with a container each.
pub(crate) struct Folder {
    dir: tempfile::TempDir,
    pods: Vec<PodInfo>,
}

impl Folder {
    pub(crate) fn of(pods: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = Self { dir, pods: Vec::new() };
        folder.put("cgroup/cgroup.controllers", "cpuset cpu io memory pids");
        folder.group("cgroup/kubepods", 0);
        folder.group("cgroup/kubepods/besteffort", 0);
        folder.group("cgroup/kubepods/burstable", 0);
        for n in 0..pods {
            folder.pod(n);
        }
        for (file, text) in [
            ("stat", node_stat()),
            ("meminfo", meminfo()),
            ("loadavg", "0.50 0.40 0.30 2/300 4000".to_owned()),
            ("vmstat", vmstat()),
            ("diskstats", diskstats(0)),
        ] {
            folder.put(&format!("proc/{file}"), &text);
        }
        std::fs::create_dir_all(folder.dir.path().join("sys/block/vda")).unwrap();
        for resource in ["cpu", "memory", "io"] {
            folder.put(&format!("proc/pressure/{resource}"), &pressure(1000));
        }
        folder
    }

    /// Has its disks been busy for so many milliseconds, by two requests at a time.
    pub(crate) fn disks_busy(&self, milliseconds: u64) {
        self.put("proc/diskstats", &diskstats(milliseconds));
    }

    /// These lines of disks alone, as the kernel lists them.
    pub(crate) fn disks(&self, names: &[String], figure: u64) {
        let line = |name: &String| {
            self.put(&format!("sys/block/{name}/size"), "1");
            format!("8 0 {name} {figure} 0 {figure} 0 {figure} 0 {figure} 0 0 {figure} {figure}\n")
        };
        let lines: String = names.iter().map(line).collect();
        self.put("proc/diskstats", &lines);
    }

    /// Two NUMA nodes, of two CPUs and 8 GiB each, of which so many ticks and so much memory, KiB, were used.
    pub(crate) fn numa(&self, ticks: [u64; 2], used: [u64; 2]) {
        let all: u64 = ticks.iter().sum();
        let line = |name: &str, ticks: u64| format!("cpu{name} {ticks} 0 0 9000 0 0 0 0 0 0\n");
        let mut stat = line(" ", all);
        for (node, (ticks, used)) in ticks.into_iter().zip(used).enumerate() {
            for cpu in [2 * node, 2 * node + 1] {
                stat += &line(&cpu.to_string(), ticks / 2);
            }
            let total = 8 << 20;
            let line = |key: &str, kib: u64| format!("Node {node} {key}: {kib} kB\n");
            let meminfo = line("MemTotal", total) + &line("MemFree", total - used) + &line("Active(file)", 0);
            let folder = format!("sys/devices/system/node/node{node}");
            self.put(&format!("{folder}/meminfo"), &meminfo);
            self.put(&format!("{folder}/cpulist"), &format!("{}-{}", 2 * node, 2 * node + 1));
        }
        self.put("proc/stat", &stat);
        let [a, b] = used;
        let available = (16 << 20) - a - b;
        self.put(
            "proc/meminfo",
            &format!("MemTotal: {} kB\nMemAvailable: {available} kB", 16 << 20),
        );
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("cgroup")
    }

    pub(crate) fn pods(&self) -> Vec<PodInfo> {
        self.pods.clone()
    }

    pub(crate) fn put(&self, file: &str, text: &str) {
        let path = self.dir.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{text}\n")).unwrap();
    }

    fn pod(&mut self, n: usize) {
        let (uid, (class, tier)) = (uid(n), class(n));
        let path = format!("cgroup/kubepods/{class}pod{uid}");
        self.group(&path, n);
        self.group(&format!("{path}/container"), n);
        let name = format!("default/pod-{n}");
        let batch = (tier == Tier::Batch).then(|| duosuan_policy::Pod {
            uid: uid.clone(),
            name: name.clone(),
            gang: Some(format!("default/claim-{}", n / 20)),
            ..duosuan_policy::Pod::default()
        });
        self.pods.push(PodInfo {
            uid,
            name,
            node: "node".to_owned(),
            tier,
            requests: Resources {
                cpu: 100,
                memory: 64 << 20,
            },
            burstable: tier == Tier::Prod,
            latency: None,
            evictable: batch,
        });
    }

    fn group(&self, path: &str, n: usize) {
        for (file, text) in [
            ("cpu.idle", "0".to_owned()),
            ("cpu.max", "max 100000".to_owned()),
            ("cpu.max.burst", "0".to_owned()),
            ("cpu.weight", "100".to_owned()),
            ("io.max", String::new()),
            ("io.weight", "default 100".to_owned()),
            ("memory.current", (20_000_000 + n * 4096).to_string()),
            (
                "memory.events",
                "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0".to_owned(),
            ),
            ("memory.high", "max".to_owned()),
            ("memory.low", "0".to_owned()),
            ("memory.reclaim", String::new()),
            ("memory.stat", memory_stat()),
            (
                "io.stat",
                "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0".to_owned(),
            ),
        ] {
            self.put(&format!("{path}/{file}"), &text);
        }
        for resource in ["cpu", "memory", "io"] {
            self.put(&format!("{path}/{resource}.pressure"), &pressure(n));
        }
        self.pass(&self.dir.path().join(path), 0, n);
    }

    /// Lets a group have used so many milliseconds of CPU.
    fn pass(&self, group: &Path, milliseconds: u64, n: usize) {
        let usage = milliseconds * 1000 + n as u64;
        let text = format!(
            "usage_usec {usage}\nuser_usec {usage}\nsystem_usec 0\nnice_usec 0\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\nnr_bursts 0\nburst_usec 0\n"
        );
        std::fs::write(group.join("cpu.stat"), text).unwrap();
    }

    /// Lets every group have used so many milliseconds of CPU since the beginning.
    pub(crate) fn all_used(&self, milliseconds: u64) {
        for n in 0..self.pods.len() {
            self.pass(&self.pod_group(n), milliseconds, n);
        }
    }

    /// A pod's cgroup.
    pub(crate) fn pod_group(&self, n: usize) -> PathBuf {
        let (class, _) = class(n);
        self.root().join(format!("kubepods/{class}pod{}", uid(n)))
    }

    fn container(&self, n: usize) -> PathBuf {
        self.pod_group(n).join("container")
    }

    /// Gives a pod's container a limit, by which it was stopped for so many microseconds.
    pub(crate) fn limit(&self, n: usize, cpu_max: &str, throttled: u64) {
        let container = self.container(n);
        std::fs::write(container.join("cpu.max"), format!("{cpu_max}\n")).unwrap();
        let stat = std::fs::read_to_string(container.join("cpu.stat")).unwrap();
        let stat = stat.replace("throttled_usec 0", &format!("throttled_usec {throttled}"));
        std::fs::write(container.join("cpu.stat"), stat).unwrap();
    }

    /// A file of a pod's container.
    pub(crate) fn read_container(&self, n: usize, file: &str) -> String {
        std::fs::read_to_string(self.container(n).join(file)).unwrap()
    }

    /// What an agent has of it.
    pub(crate) fn kernel(&self) -> Kernel {
        let roots = Roots {
            cgroup: self.root(),
            proc: self.dir.path().join("proc"),
            journal: self.dir.path().join("journal"),
            sys: self.dir.path().join("sys"),
            network: false,
        };
        Kernel::open(&roots).unwrap()
    }

    /// An agent that serves it, with a policy that acts.
    pub(crate) fn agent(&self) -> Agent<Kernel> {
        self.agent_with(Vec::new())
    }

    /// The same, where the policy names cgroups outside the pods.
    pub(crate) fn agent_with(&self, groups: Vec<NamedGroup>) -> Agent<Kernel> {
        let mut agent = Agent::new(self.kernel(), State::default());
        agent.set_pods(self.pods.clone());
        agent.follow(Choice::Policy {
            name: "steady".to_owned(),
            policy: Policy {
                groups,
                ..Policy::default()
            },
        });
        agent
    }
}

fn uid(n: usize) -> String {
    format!("{n:08x}-0000-4000-8000-000000000000")
}

/// The folder of a pod's class, and its tier.
fn class(n: usize) -> (&'static str, Tier) {
    let (guaranteed, batch) = OF_TEN;
    match n % 10 {
        at if at < guaranteed => ("", Tier::Prod),
        at if at < guaranteed + batch => ("besteffort/", Tier::Batch),
        _ => ("burstable/", Tier::Prod),
    }
}

fn pressure(total: usize) -> String {
    let line = format!("avg10=0.00 avg60=0.00 avg300=0.00 total={total}");
    format!("some {line}\nfull {line}")
}

/// As long as a kernel's: sixty keys.
fn memory_stat() -> String {
    let mut text = "anon 8000000\nfile 12000000\nshmem 0\ninactive_file 6000000\nslab_reclaimable 100000".to_owned();
    for key in 0..55 {
        write!(text, "\nworkingset_something_{key} {}", key * 1_000).unwrap();
    }
    text
}

fn meminfo() -> String {
    let mut text = "MemTotal:       65536000 kB\nMemFree:        30000000 kB\nMemAvailable:   50000000 kB".to_owned();
    for key in 0..50 {
        write!(text, "\nSomething{key}:  {key} kB").unwrap();
    }
    text
}

/// Of a node with sixteen CPUs.
fn node_stat() -> String {
    let mut text = "cpu  100000 0 20000 900000 100 0 50 0 0 0".to_owned();
    for cpu in 0..16 {
        write!(text, "\ncpu{cpu} 6250 0 1250 56250 6 0 3 0 0 0").unwrap();
    }
    text + "\nintr 1 2 3\nctxt 4"
}

/// As long as a kernel's: a hundred and eighty keys.
fn vmstat() -> String {
    let mut text =
        "pswpin 256\npswpout 512\npgmajfault 30\npgsteal_kswapd 1024\npgsteal_direct 2048\noom_kill 1".to_owned();
    for key in 0..175 {
        let _ = write!(text, "\nnr_some_counter_{key} {}", key * 1_000);
    }
    text
}

/// A disk with a partition, and one that never did anything.
fn diskstats(busy: u64) -> String {
    let disk = |name: &str| format!("254 0 {name} 10 1 2048 7 20 2 4096 8 0 {busy} {} 0 0 0 0 0 0", busy * 2);
    format!("{}\n{}\n7 0 loop0 0 0 0 0 0 0 0 0 0 0 0", disk("vda"), disk("vda1"))
}
