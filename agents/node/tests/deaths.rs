//! The agent's program is killed between any two steps of what it does, and everything is as before in the end.
//!
//! A folder stands in for the kernel, so that this is quick; `vm_chaos` does the same on a real one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use clap::ValueEnum;
use duosuan_node::fault::Point;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::retry_on_intr,
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};

/// Some hundred times what it takes.
const LIMIT: Duration = Duration::from_secs(30);
/// What the agent sets at its first look: file and value.
const SET: [(&str, &str); 3] = [
    ("batch/cpu.idle", "1"),
    ("batch/io.weight", "default 10"),
    ("online/memory.low", "33554432"),
];

/// A node in a folder, with batch and prod on it.
struct Node {
    dir: tempfile::TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("cgroup/cgroup.controllers", "cpu io memory");
        for (group, weight) in [("online", "80"), ("batch", "37")] {
            for (file, text) in [
                ("cpu.idle", "0"),
                ("cpu.max", "190000 100000"),
                ("cpu.stat", "usage_usec 1"),
                ("cpu.weight", weight),
                ("io.weight", "default 73"),
                ("memory.current", "20000000"),
                ("memory.high", "max"),
                ("memory.low", "1048576"),
                ("memory.stat", "inactive_file 0\nactive_file 0\nslab_reclaimable 0"),
            ] {
                put(&format!("cgroup/{group}/{file}"), text);
            }
        }
        put("proc/stat", "cpu  1 0 1 9 0 0 0 0 0 0\ncpu0 1 0 1 9 0 0 0 0 0 0");
        put(
            "proc/meminfo",
            "MemTotal: 4000000 kB\nMemFree: 3000000 kB\nMemAvailable: 3000000 kB\n",
        );
        put(
            "policy.yaml",
            "spec: {mode: act}\ngroups: [{path: online, tier: prod}, {path: batch, tier: batch}]\n",
        );
        let before = settings(&dir.path().join("cgroup"));
        Self { dir, before }
    }

    fn agent(&self, more: &[&str]) -> Agent {
        let at = |name: &str| self.dir.path().join(name);
        let child = Command::new(env!("CARGO_BIN_EXE_duosuan-agent"))
            .env_remove("KUBERNETES_SERVICE_HOST")
            .arg("--cgroup-root")
            .arg(at("cgroup"))
            .arg("--proc-root")
            .arg(at("proc"))
            .arg("--sys-root")
            .arg(at("sys"))
            .arg("--journal")
            .arg(at("journal"))
            .arg("--policy")
            .arg(at("policy.yaml"))
            .args(["--node", "folder"])
            .args(more)
            .stderr(std::fs::File::create(at("log")).unwrap())
            .spawn()
            .unwrap();
        Agent(child)
    }

    /// An agent that dies there.
    fn dies_at(&self, (point, time): (Point, u32)) {
        let status = self.agent(&["--die-at", &name(point, time)]).ends();
        assert_eq!(status.signal(), Some(9), "{}: {status}", name(point, time));
    }

    /// An agent that dies there when it is asked to end.
    fn dies_at_the_end(&self, (point, time): (Point, u32)) {
        let agent = self.agent(&["--die-at", &name(point, time)]);
        self.is_set();
        agent.is_asked_to_end();
        let status = agent.ends();
        assert_eq!(status.signal(), Some(9), "{}: {status}", name(point, time));
    }

    /// Waits until the agent that was started last has set all that it sets. What a dead one has set is put back before it
    /// says that it protects the node.
    fn is_set(&self) {
        let start = Instant::now();
        let log = self.dir.path().join("log");
        let protects = || std::fs::read_to_string(&log).unwrap().contains("protecting");
        let holds = || protects() && SET.iter().all(|(file, value)| self.get(file) == *value);
        while !holds() {
            assert!(start.elapsed() < LIMIT, "{:?}", self.settings());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn get(&self, file: &str) -> String {
        std::fs::read_to_string(self.dir.path().join("cgroup").join(file)).unwrap()
    }

    /// What a kernel does when `cpu.idle` is ended.
    fn forgets_the_weight(&self) {
        std::fs::write(self.dir.path().join("cgroup/batch/cpu.weight"), "100").unwrap();
    }

    fn settings(&self) -> BTreeMap<PathBuf, String> {
        settings(&self.dir.path().join("cgroup"))
    }

    /// An agent that nobody kills sets everything, ends, and has put everything back.
    fn ends_as_before(&self, story: &str) {
        let agent = self.agent(&[]);
        self.is_set();
        agent.is_asked_to_end();
        let status = agent.ends();
        assert!(status.success(), "{story}: {status}");
        for (file, text) in &self.before {
            assert_eq!(self.settings()[file], *text, "{story}: {}", file.display());
        }
    }
}

fn settings(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    for group in ["online", "batch"] {
        for entry in std::fs::read_dir(root.join(group)).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            found.insert(path, text);
        }
    }
    found
}

/// An agent's process, killed when the test has failed.
struct Agent(Child);

impl Agent {
    fn is_asked_to_end(&self) {
        let process = Pid::from_child(&self.0);
        kill_process(process, Signal::TERM).unwrap();
    }

    fn ends(mut self) -> ExitStatus {
        let process = pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty()).unwrap();
        let limit = Timespec::try_from(LIMIT).unwrap();
        // Readable once it has ended.
        let mut end = [PollFd::new(&process, PollFlags::IN)];
        let ended = retry_on_intr(|| poll(&mut end, Some(&limit))).unwrap();
        assert!(ended > 0, "the agent goes on");
        self.0.wait().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn name(point: Point, time: u32) -> String {
    format!("{}:{time}", point.to_possible_value().unwrap().get_name())
}

/// Points that an agent reaches while it sets something, and how often.
const SETTING: [(Point, u32); 7] = [
    (Point::HalfCompacted, 1),
    (Point::Compacted, 1),
    (Point::Replaced, 1),
    (Point::HalfLine, 1),
    (Point::Journalled, 3),
    (Point::Written, 3),
    (Point::Verified, 3),
];
/// Those that an agent reaches while it puts that back at its start.
const PUTTING_BACK: [(Point, u32); 8] = [
    (Point::HalfCompacted, 1),
    (Point::Compacted, 1),
    (Point::Replaced, 1),
    (Point::HalfLine, 3),
    (Point::Written, 3),
    (Point::WeightLost, 1),
    (Point::PutBack, 3),
    (Point::Restored, 3),
];

fn each(points: &[(Point, u32)]) -> impl Iterator<Item = (Point, u32)> {
    points
        .iter()
        .flat_map(|(point, times)| (1..=*times).map(|time| (*point, time)))
}

#[test]
fn every_point_is_walked() {
    let walked = |point: &&Point| SETTING.iter().chain(&PUTTING_BACK).any(|(at, _)| at == *point);
    let missing: Vec<&Point> = Point::value_variants().iter().filter(|p| !walked(p)).collect();
    assert_eq!(missing, Vec::<&Point>::new());
}

#[test]
fn an_agent_that_dies_while_it_sets_something_leaves_what_the_next_one_puts_back() {
    for at in each(&SETTING) {
        let node = Node::new();
        node.dies_at(at);
        node.ends_as_before(&name(at.0, at.1));
        // And twice in a row.
        node.dies_at(at);
        node.dies_at(at);
        node.ends_as_before(&name(at.0, at.1));
    }
}

#[test]
fn an_agent_that_dies_while_it_puts_back_what_a_dead_one_left_leaves_the_rest_to_the_next_one() {
    for at in each(&PUTTING_BACK) {
        let node = Node::new();
        node.dies_at((Point::Verified, 3));
        node.forgets_the_weight();
        node.dies_at(at);
        node.ends_as_before(&name(at.0, at.1));
    }
}

#[test]
fn an_agent_that_dies_while_it_ends_leaves_the_rest_to_the_next_one() {
    // Three times it writes before it is asked to end, and once into the journal.
    for at in each(&[(Point::PutBack, 3), (Point::Restored, 3)])
        .chain((4..=6).map(|time| (Point::Written, time)))
        .chain((2..=4).map(|time| (Point::HalfLine, time)))
    {
        let node = Node::new();
        node.dies_at_the_end(at);
        node.ends_as_before(&name(at.0, at.1));
    }
}
