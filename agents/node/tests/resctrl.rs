//! Batch's group in resctrl. No emulated processor has it, so a folder stands in for the kernel's: it keeps what was written
//! last, and its groups come with their files and go with them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use duosuan_cgroup::resctrl::Folders;
use duosuan_node::{
    agent::Agent,
    kernel::{Kernel, Roots},
    machine::Machine,
    selection::Choice,
};
use duosuan_policy::{GuardState, NamedGroup, Policy, State, Tier};

const WHOLE: &str = "    L3:0=fffff;1=fffff\n    MB:0=100;1=100\n";
/// A fifth of 20 ways and half of the bandwidth.
const PART: &str = "L3:0=f;1=f\nMB:0=50;1=50\n";

/// A node with a task of prod, 41, and one of batch, 42.
struct Node {
    dir: tempfile::TempDir,
    folders: Folders,
}

fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

impl Node {
    fn new() -> Self {
        let node = Self {
            dir: tempfile::tempdir().unwrap(),
            folders: Folders {
                create: |path| {
                    fs::create_dir(path)?;
                    fs::write(path.join("schemata"), WHOLE)?;
                    fs::write(path.join("tasks"), "")
                },
                remove: |path| fs::remove_dir_all(path),
            },
        };
        node.put("cgroup/cgroup.controllers", "cpu memory\n");
        for (group, thread) in [("online", "41\n"), ("batch", "\n")] {
            node.put(&format!("cgroup/{group}/cpu.stat"), "usage_usec 1\n");
            node.put(&format!("cgroup/{group}/cgroup.threads"), thread);
        }
        node.put("cgroup/batch/cgroup.threads", "");
        node.put("cgroup/batch/container/cgroup.threads", "42\n");
        node.put("sys/fs/resctrl/schemata", WHOLE);
        node.put("sys/fs/resctrl/tasks", "1\n41\n42\n");
        node.put("sys/fs/resctrl/info/L3/cbm_mask", "fffff\n");
        node.put("sys/fs/resctrl/info/L3/min_cbm_bits", "1\n");
        node.put("sys/fs/resctrl/info/MB/min_bandwidth", "10\n");
        node.put("sys/fs/resctrl/info/MB/bandwidth_gran", "10\n");
        node.put("sys/fs/resctrl/mon_data/mon_L3_00/llc_occupancy", "4096\n");
        node
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn put(&self, file: &str, text: &str) {
        put(&self.path(file), text);
    }

    fn get(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.path(file)).ok()
    }

    fn kernel(&self) -> Kernel {
        let roots = Roots {
            cgroup: self.path("cgroup"),
            proc: "/proc".into(),
            journal: self.path("journal"),
            sys: self.path("sys"),
            network: false,
        };
        Kernel::open_with(&roots, self.folders).unwrap()
    }

    fn agent(&self) -> Agent<Kernel> {
        let mut agent = Agent::new(self.kernel(), State::default());
        agent.follow(Choice::Policy {
            name: "p".to_owned(),
            policy: Policy {
                groups: vec![group("online", Tier::Prod), group("batch", Tier::Batch)],
                ..Policy::default()
            },
        });
        agent
    }

    fn group(&self) -> (Option<String>, Option<String>) {
        let group = |file| self.get(&format!("sys/fs/resctrl/duosuan-batch/{file}"));
        (group("schemata"), group("tasks"))
    }
}

fn group(path: &str, tier: Tier) -> NamedGroup {
    NamedGroup {
        path: path.to_owned(),
        tier,
    }
}

fn held() -> (Option<String>, Option<String>) {
    (Some(PART.to_owned()), Some("42".to_owned()))
}

#[test]
fn batchs_tasks_get_a_part_of_the_cache_and_nothing_is_left_of_it_after() {
    let node = Node::new();
    let mut agent = node.agent();
    let look = agent.look(1_000);
    assert_eq!(look.acted.failed, []);
    assert_eq!(node.group(), held());
    assert_eq!(node.get("sys/fs/resctrl/schemata").as_deref(), Some(WHOLE));
    let names = agent.machine.capabilities().names();
    assert!(
        names.contains(&"resctrl.L3") && names.contains(&"resctrl.MB"),
        "{names:?}"
    );
    let guard = look.report.guards.iter().find(|g| g.name == "llc").unwrap();
    assert_eq!((guard.state, guard.limit), (GuardState::Suppressing, Some(200)));
    // What holds is not written again.
    assert_eq!(agent.look(2_000).acted.written, 0);
    agent.machine.restore();
    assert_eq!(node.group(), (None, None));
}

#[test]
fn a_task_that_came_later_follows_and_one_of_a_third_group_is_left_there() {
    let node = Node::new();
    let mut agent = node.agent();
    agent.look(1_000);
    node.put("cgroup/batch/other/cgroup.threads", "43\n44\n");
    // Somebody else has placed 44.
    node.put("sys/fs/resctrl/tasks", "1\n41\n43\n");
    for second in 2..8 {
        agent.look(second * 1_000);
    }
    assert_eq!(node.group().1.as_deref(), Some("43"));
}

#[test]
fn a_task_that_is_batchs_no_more_goes_back_to_the_default_group() {
    let node = Node::new();
    let mut agent = node.agent();
    agent.look(1_000);
    fs::remove_dir_all(node.path("cgroup/batch/container")).unwrap();
    for second in 2..8 {
        agent.look(second * 1_000);
    }
    assert_eq!(node.get("sys/fs/resctrl/tasks").as_deref(), Some("42"));
}

#[test]
fn what_an_agent_that_was_killed_left_is_given_up_by_the_next_one() {
    let node = Node::new();
    let mut agent = node.agent();
    agent.look(1_000);
    drop(agent);
    assert_eq!(node.group(), held());
    drop(node.kernel());
    assert_eq!(node.group(), (None, None));
    // Killed between the journal and the kernel: there is nothing to give up, and nothing amiss.
    let mut agent = node.agent();
    agent.look(1_000);
    drop(agent);
    fs::remove_dir_all(node.path("sys/fs/resctrl/duosuan-batch")).unwrap();
    assert_eq!(node.kernel().restore().failed, []);
}

#[test]
fn what_somebody_else_changed_is_set_again_and_a_group_that_he_removed_is_made_anew() {
    let node = Node::new();
    let mut agent = node.agent();
    agent.look(1_000);
    node.put("sys/fs/resctrl/duosuan-batch/schemata", WHOLE);
    assert_eq!(agent.look(2_000).acted.written, 1);
    assert_eq!(node.group().0.as_deref(), Some(PART));
    fs::remove_dir_all(node.path("sys/fs/resctrl/duosuan-batch")).unwrap();
    let failed = agent.look(3_000).acted.failed;
    assert!(
        failed[0].message.contains("somebody else removed the group"),
        "{failed:?}"
    );
    for second in 4..40 {
        agent.look(second * 1_000);
    }
    assert_eq!(node.group(), held());
}

/// The guard claimed to hold batch to its part meanwhile.
#[test]
fn a_processor_without_a_class_left_is_asked_again_after_two_minutes_and_the_guard_is_off_till_then() {
    let mut node = Node::new();
    node.folders.create = |_| Err(io::Error::from_raw_os_error(28));
    let mut agent = node.agent();
    let mut failures = agent.look(1_000).acted.failed.len();
    for second in 2..=121 {
        let look = agent.look(second * 1_000);
        failures += look.acted.failed.len();
        let guard = look.report.guards.iter().find(|g| g.name == "llc").unwrap();
        let off = guard.state == GuardState::Off;
        assert_eq!(off, second <= 120, "{guard:?} at {second}");
        let why = guard.last_action.as_deref().unwrap();
        assert!(!off || why.contains("off: the kernel refuses schemata: "), "{why}");
    }
    assert_eq!(failures, 2);
    assert_eq!(node.kernel().restore().written, 0);
}
