//! What the agent costs where nothing happens, counted and not timed: files that it opens and reads, and memory that it
//! allocates, in one cycle.
//!
//! A folder stands in for the kernel; files are counted by the kernel that the test runs on (inotify), allocations by the
//! allocator.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "steady/folder.rs"]
mod folder;
#[path = "steady/watch.rs"]
mod watch;

use duosuan_node::{agent::Agent, kernel::Kernel, metrics::Metrics};
use duosuan_policy::{NamedGroup, Tier};
use folder::Folder;
use watch::{Files, Watch};

/// Looks after which settings are read back, and what the kernel can do is probed again.
const VERIFY: u64 = 15;
const PROBE: u64 = 60;

/// An agent that has found out everything, and its clock.
struct Steady {
    folder: Folder,
    agent: Agent<Kernel>,
    metrics: Metrics,
    now: u64,
    /// The only file of which there is one that is missing.
    lacks: Option<&'static str>,
}

impl Steady {
    fn of(pods: usize) -> Self {
        let folder = Folder::of(pods);
        let agent = folder.agent();
        Self::with(folder, agent)
    }

    fn with(folder: Folder, agent: Agent<Kernel>) -> Self {
        let mut steady = Self {
            folder,
            agent,
            metrics: Metrics::new(),
            now: 1_000_000,
            lacks: None,
        };
        // The forecast has its minute, and the next read-back and the next probe are as far away as they get.
        for _ in 0..PROBE + VERIFY + 2 {
            steady.cycle();
        }
        steady
    }

    fn cycle(&mut self) {
        self.now += 1_000;
        let look = self.agent.look(self.now);
        let failed = look.acted.failed.iter().map(|f| f.file.as_str());
        assert!(
            failed.clone().all(|file| Some(file) == self.lacks),
            "{:?}",
            look.acted.failed
        );
        self.metrics.record("node", &look.report, &look.acted);
    }

    fn files(&mut self) -> Files {
        let mut watch = Watch::on(&self.folder.root());
        self.cycle();
        watch.seen()
    }

    fn allocations(&mut self) -> u64 {
        allocation_counter::measure(|| self.cycle()).count_total
    }
}

#[test]
fn a_cycle_opens_nothing_and_reads_eight_files_of_a_pod_and_of_few_a_ninth() {
    let pods = 110;
    let mut steady = Steady::of(pods);
    let files = steady.files();
    assert_eq!(files.opened, 0);
    // One in five of prod's has its IO read, of batch's its events.
    let most = 8 * pods as u64 + pods as u64 / 4;
    assert!((7 * pods as u64..=most).contains(&files.read), "{files:?}");
}

#[test]
fn a_cgroup_that_the_policy_names_and_that_is_not_there_costs_no_list() {
    let folder = Folder::of(10);
    let named = NamedGroup {
        path: "yarn".to_owned(),
        tier: Tier::Batch,
    };
    let agent = folder.agent_with(vec![named]);
    let mut steady = Steady::with(folder, agent);
    assert_eq!(steady.files().opened, 0);
}

/// A file that is missing in one cgroup is asked for at each look; those in all others that hold are not.
#[test]
fn one_patient_setting_that_does_not_hold_has_no_other_read_back() {
    let pods = 110;
    let mut steady = Steady::of(pods);
    let before = steady.files().read;
    let low = steady.folder.root().join("kubepods/memory.low");
    std::fs::remove_file(low).unwrap();
    steady.lacks = Some("memory.low");
    // Found out when it is read back.
    for _ in 0..VERIFY + 2 {
        steady.cycle();
    }
    let files = steady.files();
    assert!(files.read <= before + 5, "{} after {before}", files.read);
}

/// What holds for a pod (its protection) is named anew in each cycle; nothing is allocated to look at it.
#[test]
fn a_cycle_allocates_little_for_each_pod() {
    for pods in [10, 110, 250] {
        let counted = Steady::of(pods).allocations();
        assert!(counted <= 150 + 8 * pods as u64, "{counted} at {pods} pods");
    }
}

/// Kept open, a file still has to be read from its start.
#[test]
fn what_is_kept_open_is_read_anew() {
    let mut steady = Steady::of(10);
    steady.folder.all_used(1_000);
    steady.cycle();
    steady.folder.all_used(2_500);
    steady.now += 1_000;
    let report = steady.agent.look(steady.now).report;
    // Seven of ten pods are prod, and each used 1.5 s of CPU in a second.
    assert_eq!(report.tiers[0].usage.cpu, Some(7 * 1_500));
    assert_eq!(report.tiers[2].usage.cpu, Some(3 * 1_500));
}
