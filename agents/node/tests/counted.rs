//! What is counted of each tier for people to look at: read from the kernel's files, in the report and in the metrics.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "steady/folder.rs"]
mod folder;

use std::path::PathBuf;

use duosuan_node::{agent::Agent, kernel::Kernel, metrics::Metrics, publish::Draft, status::Parts};
use duosuan_policy::Report;
use folder::Folder;
use jiff::Timestamp;

/// Of ten pods the first is guaranteed and prod, and the second batch.
const PROD: usize = 0;
const BATCH: usize = 1;

struct Scene {
    folder: Folder,
    agent: Agent<Kernel>,
    metrics: Metrics,
    now: u64,
}

impl Scene {
    fn new() -> Self {
        let folder = Folder::of(10);
        let agent = folder.agent();
        let mut scene = Self {
            folder,
            agent,
            metrics: Metrics::new(),
            now: 0,
        };
        scene.looks();
        scene
    }

    /// Enough looks for each cgroup to have had its turn, and the names of the files that failed.
    fn looks(&mut self) -> (Report, Vec<String>) {
        let mut failed = Vec::new();
        let mut report = None;
        for _ in 0..6 {
            self.now += 1_000;
            let look = self.agent.look(self.now);
            self.metrics.record("n", &look.report, &look.acted);
            failed.extend(look.acted.failed.into_iter().map(|f| f.file));
            report = Some(look.report);
        }
        failed.dedup();
        (report.unwrap(), failed)
    }

    fn file(&self, pod: usize, file: &str) -> PathBuf {
        self.folder.pod_group(pod).join(file)
    }

    fn put(&self, pod: usize, file: &str, text: &str) {
        std::fs::write(self.file(pod, file), text).unwrap();
    }
}

#[test]
fn what_each_tier_reads_writes_and_suffers_is_in_the_report_and_in_the_metrics() {
    let mut scene = Scene::new();
    // Two devices, and a key that no kernel of today has.
    let io = "254:0 rbytes=10489856 wbytes=8192 rios=3 wios=2 dbytes=0 dios=0 cost.usage=7\n8:0 rbytes=5 wbytes=6 rios=1 wios=1\n";
    scene.put(PROD, "io.stat", io);
    let events = "low 0\nhigh 0\nmax 4\noom 2\noom_kill 1\noom_of_the_future 9\n";
    scene.put(PROD, "memory.events", events);
    scene.put(BATCH, "memory.events", "low 0\nhigh 0\nmax 0\noom 3\noom_kill 3\n");
    let usage = "usage_usec 1\nuser_usec 1\nsystem_usec 0\nnr_periods 9\nnr_throttled 4\nthrottled_usec 2500000\n";
    scene.put(PROD, "container/cpu.stat", usage);
    let (report, failed) = scene.looks();
    assert_eq!(failed, [""; 0]);
    let draft = Draft::of(&report, &scene.agent, &Parts::default(), Timestamp::UNIX_EPOCH);
    let [prod, _, batch] = &draft.status.tiers[..] else {
        panic!("three tiers")
    };
    // From 4096 bytes in one read to 10489856 in three, and 5 more of a disk that was not there.
    assert_eq!(
        (prod.work.read_mebibytes, prod.work.reads, prod.work.writes),
        (10, 3, 1)
    );
    assert_eq!((prod.work.ooms, prod.work.oom_kills), (2, 1));
    assert_eq!((prod.work.throttled_periods, prod.work.throttled_seconds), (4, 2));
    assert_eq!((batch.work.ooms, batch.work.oom_kills), (3, 3));
    // Seven pods of prod, each with 8 MB of its own and 12 MB of page cache.
    let first = report.tiers[0].work;
    assert_eq!(
        (first.anonymous, first.page_cache),
        (Some(56_000_000), Some(84_000_000))
    );
    let text = scene.metrics.encode();
    for line in [
        "duosuan_node_io_bytes_total{node=\"n\",tier=\"prod\",kind=\"read\"} 10485765\n",
        "duosuan_node_io_operations_total{node=\"n\",tier=\"prod\",kind=\"written\"} 1\n",
        "duosuan_node_tier_events_total{node=\"n\",tier=\"batch\",kind=\"oom_kill\"} 3\n",
        "duosuan_node_tier_events_total{node=\"n\",tier=\"prod\",kind=\"throttled\"} 4\n",
        "duosuan_node_cpu_throttled_seconds_total{node=\"n\",tier=\"prod\",kind=\"cpu.max\"} 2.5\n",
        "duosuan_node_memory_bytes{node=\"n\",tier=\"prod\",kind=\"page_cache\"} 84000000\n",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

#[test]
fn a_file_that_is_broken_is_told_of_and_the_rest_is_counted_and_one_that_is_not_there_is_nothing() {
    let mut scene = Scene::new();
    scene.put(PROD, "io.stat", "254:0 rbytes=many\n");
    scene.put(BATCH, "memory.events", "oom\n");
    let more = "low 0\nhigh 0\nmax 0\noom 1\noom_kill 1\n";
    scene.put(PROD, "memory.events", more);
    let (report, failed) = scene.looks();
    assert!(failed.contains(&"io.stat".to_owned()) && failed.contains(&"memory.events".to_owned()));
    assert_eq!(report.tiers[0].work.oom_kills, 1);
    assert!(report.tiers[0].usage.cpu.is_some() && report.tiers[2].usage.memory.is_some());

    let mut scene = Scene::new();
    for (pod, file) in [(PROD, "io.stat"), (BATCH, "memory.events"), (PROD, "memory.stat")] {
        std::fs::remove_file(scene.file(pod, file)).unwrap();
    }
    // Opened once, a file is read as long as it is open; who opens it anew finds nothing.
    scene.agent = scene.folder.agent();
    let (report, failed) = scene.looks();
    assert_eq!(failed, [""; 0]);
    assert_eq!(report.tiers[0].work.anonymous, None, "of one pod it is not known");
    assert!(
        !scene
            .metrics
            .encode()
            .contains("duosuan_node_memory_bytes{node=\"n\",tier=\"prod\"")
    );
}

/// All that it was ever throttled was counted once more.
#[test]
fn a_container_that_cannot_be_read_at_one_look_is_not_counted_twice() {
    let mut scene = Scene::new();
    let stat = |periods: u64| {
        format!(
            "usage_usec 1\nuser_usec 1\nsystem_usec 0\nnr_periods 90\nnr_throttled {periods}\nthrottled_usec {}\n",
            periods * 500_000
        )
    };
    let counted = |report: &Report| {
        let work = report.tiers[0].work;
        (work.throttled_periods, work.throttled)
    };
    scene.put(PROD, "container/cpu.stat", &stat(4));
    assert_eq!(counted(&scene.looks().0), (4, 2_000_000));
    scene.put(PROD, "container/cpu.stat", "garbled");
    let (report, failed) = scene.looks();
    assert_eq!(
        (counted(&report), failed),
        ((4, 2_000_000), vec!["cpu.stat".to_owned()])
    );
    scene.put(PROD, "container/cpu.stat", &stat(5));
    scene.looks();
    scene.put(PROD, "container/cpu.stat", &stat(6));
    // What it did while it was not read is nobody's; what it does from then on counts again.
    assert_eq!(counted(&scene.looks().0), (5, 2_500_000));
}
