//! What is on disk when an agent dies at the worst moment, and what the next one makes of it.
//!
//! A folder stands in for the kernel: it remembers what was written, and that is all that is asked here. What a kernel
//! does with the values is tested on one, in `tests/vm`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::path::{Path, PathBuf};

use duosuan_node::{
    kernel::{Kernel, Roots},
    machine::Machine,
};
use duosuan_policy::{Action, NamedGroup, Observation, Tier};

const MAX: &str = "max 100000";

/// A batch cgroup in a folder.
struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir_all(node.root()).unwrap();
        node.put("cgroup.controllers", "cpu memory\n");
        node.cgroup("batch");
        node
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("cgroup")
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    fn cgroup(&self, name: &str) {
        std::fs::create_dir_all(self.root().join(name)).unwrap();
        for (file, value) in [
            ("cpu.max", MAX),
            ("cpu.idle", "0"),
            ("cpu.weight", "39"),
            ("cpu.stat", "usage_usec 1"),
        ] {
            self.put(&format!("{name}/{file}"), value);
        }
    }

    fn put(&self, file: &str, value: &str) {
        std::fs::write(self.root().join(file), format!("{value}\n")).unwrap();
    }

    fn get(&self, file: &str) -> String {
        std::fs::read_to_string(self.root().join(file))
            .unwrap()
            .trim_end()
            .to_owned()
    }

    fn agent(&self) -> Kernel {
        let roots = Roots {
            cgroup: self.root(),
            proc: Path::new("/proc").to_owned(),
            journal: self.journal(),
            sys: self.dir.path().join("sys"),
            network: false,
        };
        let mut kernel = Kernel::open(&roots).unwrap();
        kernel.name(&[NamedGroup {
            path: "batch".to_owned(),
            tier: Tier::Batch,
        }]);
        kernel
    }

    fn settings(&self) -> [String; 3] {
        ["cpu.max", "cpu.idle", "cpu.weight"].map(|file| self.get(&format!("batch/{file}")))
    }
}

fn set(file: &str, value: &str) -> Action {
    Action {
        path: "batch".to_owned(),
        file: file.to_owned(),
        value: value.to_owned(),
        why: "a test".to_owned(),
    }
}

#[test]
fn what_is_not_asked_for_any_more_goes_back() {
    let node = Node::new();
    let mut agent = node.agent();
    let acted = agent.act(&[set("cpu.max", "50000 100000"), set("cpu.idle", "1")]);
    assert_eq!((acted.written, acted.failed.len()), (2, 0));
    assert_eq!(node.settings(), ["50000 100000", "1", "39"]);
    assert_eq!(
        agent
            .act(&[set("cpu.max", "50000 100000"), set("cpu.idle", "1")])
            .written,
        0,
        "only differences"
    );
    agent.act(&[set("cpu.idle", "1")]);
    assert_eq!(node.settings(), [MAX, "1", "39"]);
    agent.restore();
    assert_eq!(node.settings(), [MAX, "0", "39"]);
}

#[test]
fn the_weight_that_a_kernel_forgets_with_cpu_idle_is_put_back() {
    let node = Node::new();
    let mut agent = node.agent();
    agent.act(&[set("cpu.idle", "1")]);
    node.put("batch/cpu.weight", "100");
    agent.restore();
    assert_eq!(node.settings(), [MAX, "0", "39"]);
}

#[test]
fn a_limit_that_was_there_before_is_tightened_and_never_loosened() {
    let node = Node::new();
    node.put("batch/cpu.max", "90000 50000");
    let mut agent = node.agent();
    agent.act(&[set("cpu.max", "120000 100000")]);
    assert_eq!(node.get("batch/cpu.max"), "120000 100000");
    agent.act(&[set("cpu.max", "190000 100000")]);
    assert_eq!(node.get("batch/cpu.max"), "90000 50000");
    agent.restore();
    assert_eq!(node.get("batch/cpu.max"), "90000 50000");
}

#[test]
fn after_a_kill_the_next_agent_puts_back_the_first_value_not_the_last() {
    let node = Node::new();
    let mut agent = node.agent();
    for value in ["90000 100000", "45000 100000", "22500 100000"] {
        agent.act(&[set("cpu.max", value)]);
    }
    drop(agent);
    assert_eq!(node.get("batch/cpu.max"), "22500 100000");
    drop(node.agent());
    assert_eq!(node.get("batch/cpu.max"), MAX);
}

#[test]
fn a_death_between_journal_and_kernel_is_put_back_at_each_step() {
    let node = Node::new();
    let mut agent = node.agent();
    agent.act(&[set("cpu.max", "90000 100000")]);
    agent.act(&[set("cpu.max", "45000 100000")]);
    drop(agent);
    // The second write was in the journal and did not reach the kernel.
    node.put("batch/cpu.max", "90000 100000");
    drop(node.agent());
    assert_eq!(node.get("batch/cpu.max"), MAX);

    let mut agent = node.agent();
    agent.act(&[set("cpu.max", "45000 100000")]);
    drop(agent);
    // Neither did the first.
    node.put("batch/cpu.max", MAX);
    drop(node.agent());
    assert_eq!(node.get("batch/cpu.max"), MAX);
}

#[test]
fn what_somebody_else_wrote_since_is_left_to_him() {
    let node = Node::new();
    let mut agent = node.agent();
    agent.act(&[set("cpu.max", "45000 100000")]);
    drop(agent);
    node.put("batch/cpu.max", "70000 100000");
    drop(node.agent());
    assert_eq!(node.get("batch/cpu.max"), "70000 100000");
}

#[test]
fn another_cgroup_of_the_same_name_is_not_touched() {
    let node = Node::new();
    let mut agent = node.agent();
    agent.act(&[set("cpu.max", "45000 100000")]);
    drop(agent);
    std::fs::rename(node.root().join("batch"), node.root().join("old")).unwrap();
    node.cgroup("batch");
    node.put("batch/cpu.max", "45000 100000");
    drop(node.agent());
    assert_eq!(node.get("batch/cpu.max"), "45000 100000");
}

#[test]
fn a_cgroup_that_is_gone_stops_nobody() {
    let node = Node::new();
    let mut agent = node.agent();
    agent.act(&[set("cpu.max", "45000 100000")]);
    std::fs::remove_dir_all(node.root().join("batch")).unwrap();
    assert_eq!(agent.act(&[set("cpu.max", "45000 100000")]).failed, []);
    assert_eq!(agent.restore().failed, []);
    drop(agent);
    node.agent();
}

#[test]
fn what_is_changed_back_is_set_again_and_counted_until_it_is_a_fight() {
    let node = Node::new();
    let mut agent = node.agent();
    agent.act(&[set("cpu.max", "45000 100000")]);
    node.put("batch/cpu.max", MAX);
    let acted = agent.act(&[set("cpu.max", "45000 100000")]);
    assert_eq!((acted.written, acted.reasserted), (1, 1));
    let mut yielded = None;
    for round in 0..60 {
        node.put("batch/cpu.max", MAX);
        let acted = agent.act(&[set("cpu.max", "45000 100000")]);
        if let [failure] = acted.failed.as_slice() {
            assert!(
                failure.message.contains("somebody else keeps writing"),
                "{}",
                failure.message
            );
            yielded.get_or_insert(round);
        }
    }
    assert!(yielded.is_some_and(|round| round < 30), "{yielded:?}");
    assert_eq!(node.get("batch/cpu.max"), MAX);

    // He writes no more. That showed to nobody who did not write either: the setting was left to him for ever.
    let mut seen = Observation::default();
    agent.observe(&[], 29_999, &mut seen);
    assert_eq!(agent.act(&[set("cpu.max", "45000 100000")]).written, 0);
    agent.observe(&[], 30_000, &mut seen);
    assert_eq!(agent.act(&[set("cpu.max", "45000 100000")]).written, 1);
    // If he does again, it is his again at once.
    for now in [31_000, 32_000] {
        node.put("batch/cpu.max", MAX);
        agent.observe(&[], now, &mut seen);
        assert_eq!(agent.act(&[set("cpu.max", "45000 100000")]).written, 0, "{now}");
    }
}

#[test]
fn a_file_that_this_kernel_lacks_is_a_failure_with_its_path_and_nothing_else() {
    let node = Node::new();
    let mut agent = node.agent();
    let acted = agent.act(&[set("cpu.nice", "1"), set("cpu.max", "45000 100000")]);
    assert_eq!(acted.written, 1);
    assert_eq!(acted.failed.len(), 1);
    assert!(
        acted.failed[0]
            .message
            .ends_with("batch/cpu.nice: this kernel does not have it"),
        "{:?}",
        acted.failed
    );
}

#[test]
fn a_folder_that_is_no_cgroup_tree_is_refused_with_what_to_give() {
    let node = Node::new();
    let roots = Roots {
        cgroup: node.dir.path().to_owned(),
        proc: "/proc".into(),
        journal: node.journal(),
        sys: node.dir.path().join("sys"),
        network: false,
    };
    let error = format!("{:#}", Kernel::open(&roots).unwrap_err());
    assert!(
        error.contains("is no cgroup v2 tree") && error.contains("--cgroup-root DIR"),
        "{error}"
    );
}

#[test]
fn what_is_seen_of_a_folder_is_what_stands_in_it() {
    let node = Node::new();
    node.put("batch/cpu.stat", "usage_usec 77");
    node.put("batch/memory.current", "5000");
    node.put("batch/memory.stat", "inactive_file 1000");
    std::fs::create_dir_all(node.root().join("kubepods/burstable/poda-1")).unwrap();
    node.put("kubepods/burstable/poda-1/cpu.stat", "usage_us");
    let mut agent = node.agent();
    let mut seen = Observation::default();
    agent.observe(&[], 0, &mut seen);
    assert!(seen.complete);
    let batch = &seen.groups[0];
    assert_eq!((batch.path.as_str(), batch.tier), ("batch", Tier::Batch));
    assert_eq!((batch.cpu_usage, batch.memory), (Some(77), Some(4000)));
    // A pod that nobody knows is prod, and one that cannot be read is unknown, not idle.
    let pod = &seen.groups[1];
    assert_eq!(
        (pod.path.as_str(), pod.tier, pod.cpu_usage),
        ("kubepods/burstable/poda-1", Tier::Prod, None)
    );
    assert_eq!(agent.act(&[]).failed[0].file, "cpu.stat");
}

/// A node without a kubelet has only what its policy names, and that may come later than the agent.
#[test]
fn a_named_cgroup_is_seen_when_it_comes_and_not_when_it_is_gone() {
    let node = Node::new();
    let mut agent = node.agent();
    let mut seen = Observation::default();
    let mut look = |agent: &mut Kernel| {
        agent.observe(&[], 0, &mut seen);
        assert!(seen.complete);
        seen.groups
            .iter()
            .map(|g| (g.path.clone(), g.cpu_usage))
            .collect::<Vec<_>>()
    };
    let batch = vec![("batch".to_owned(), Some(1))];
    assert_eq!(look(&mut agent), batch);
    std::fs::rename(node.root().join("batch"), node.dir.path().join("away")).unwrap();
    let mut other = node.agent();
    assert_eq!(look(&mut other), []);
    assert_eq!(look(&mut other), []);
    std::fs::rename(node.dir.path().join("away"), node.root().join("batch")).unwrap();
    assert_eq!(look(&mut other), batch);
    assert_eq!(other.act(&[]).failed, []);
}
