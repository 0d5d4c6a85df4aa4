//! The node's parts, and what is counted of it as a whole, as a kernel's files tell of them and as they are reported.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "steady/folder.rs"]
mod folder;

use duosuan_node::{agent::Agent, kernel::Kernel, metrics::Metrics, publish::Draft, quantity, status::Parts};
use folder::Folder;
use jiff::Timestamp;

fn reported(agent: &Agent<Kernel>, report: &duosuan_policy::Report) -> duosuan_crds::NodeReportStatus {
    Draft::of(report, agent, &Parts::default(), Timestamp::UNIX_EPOCH).status
}

#[test]
fn load_paging_and_whole_disks_are_reported_and_exported() {
    let folder = Folder::of(3);
    let mut agent = folder.agent();
    let metrics = Metrics::new();
    let mut report = None;
    // Read at the first look, and at each fifth after it.
    for second in 1..=6 {
        folder.disks_busy(second * 250);
        let look = agent.look(second * 1_000);
        metrics.record("n", &look.report, &look.acted);
        report = Some(look.report);
    }
    let host = reported(&agent, &report.unwrap()).host;
    assert_eq!(host.load1.unwrap().0, "0.50");
    let paging = host.paging.unwrap();
    assert_eq!((paging.major_faults, paging.oom_kills), (30, 1));
    let pages = rustix::param::page_size() as u64 * 2048;
    assert_eq!(paging.reclaimed_direct_mebibytes, pages >> 20);
    let [disk] = host.disks.as_slice() else {
        panic!("{:?}", host.disks)
    };
    assert_eq!((disk.name.as_str(), disk.reads, disk.read_mebibytes), ("vda", 10, 1));
    assert_eq!((disk.busy_milli, disk.queue_milli), (Some(250), Some(500)));
    let text = metrics.encode();
    for line in [
        "duosuan_node_load{node=\"n\",kind=\"1m\"} 0.5",
        "duosuan_node_paging_events_total{node=\"n\",kind=\"oom_kill\"} 1",
        "duosuan_node_disk_bytes_total{node=\"n\",disk=\"vda\",kind=\"written\"} 2097152",
        "duosuan_node_disk_busy_seconds_total{node=\"n\",disk=\"vda\"} 1.5",
        "duosuan_node_disk_waited_seconds_total{node=\"n\",disk=\"vda\"} 3.0",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn a_disk_whose_counters_begin_anew_is_counted_on_and_one_that_is_gone_is_not_shown() {
    let folder = Folder::of(0);
    let (mut agent, metrics) = (folder.agent(), Metrics::new());
    let mut at = 0;
    let mut shown = |names: &[String], figure: u64| {
        folder.disks(names, figure);
        for _ in 0..5 {
            at += 1_000;
            let look = agent.look(at);
            metrics.record("n", &look.report, &look.acted);
        }
        metrics.encode()
    };
    let [sda, sdb] = ["sda", "sdb"].map(str::to_owned);
    let both = [sda.clone(), sdb];
    shown(&both, 4_000);
    let text = shown(&both, 1_000);
    for line in [
        "duosuan_node_disk_busy_seconds_total{node=\"n\",disk=\"sda\"} 1.0",
        "duosuan_node_disk_waited_seconds_total{node=\"n\",disk=\"sda\"} 1.0",
        "duosuan_node_disk_operations_total{node=\"n\",disk=\"sda\",kind=\"read\"} 1000",
        "duosuan_node_disk_bytes_total{node=\"n\",disk=\"sda\",kind=\"written\"} 512000",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    // Where one went, those that are left are listed anew at the read after it.
    let left = [sda];
    shown(&left, 1_500);
    let text = shown(&left, 2_000);
    assert!(text.contains("disk=\"sda\"} 2.0") && !text.contains("sdb"), "{text}");
}

#[test]
fn disks_are_told_of_however_many_devices_of_files_and_memory_are_listed_before_them() {
    let folder = Folder::of(0);
    let before = (0..40).flat_map(|n| [format!("loop{n}"), format!("ram{n}"), format!("zram{n}")]);
    let names: Vec<String> = before.chain(["nvme0n1".to_owned()]).collect();
    folder.disks(&names, 1);
    let report = folder.agent().look(1_000).report;
    let told: Vec<&str> = report.host.disks.iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(told, ["nvme0n1"]);
}

#[test]
fn what_each_numa_node_uses_and_could_give_adds_up_to_the_nodes_own_figures() {
    let folder = Folder::of(0);
    folder.numa([0, 0], [6 << 20, 1 << 20]);
    let mut agent = folder.agent();
    let mut report = None;
    for second in 1..=400_u64 {
        // 1.5 cores of the first NUMA node's two.
        folder.numa([second * 150, 0], [6 << 20, 1 << 20]);
        report = Some(agent.look(second * 1_000).report);
    }
    let report = report.unwrap();
    let status = reported(&agent, &report);
    let batch = report.batch_offer();
    assert!(batch.cpu > 1_000 && batch.memory > 1 << 30, "{batch:?}");
    let [first, second] = status.numa.as_slice() else {
        panic!("{:?}", status.numa)
    };
    let of = |map: &std::collections::BTreeMap<_, _>, resource: &str| match resource {
        "cpu" => quantity::milli(&map[resource]).unwrap(),
        _ => quantity::whole(&map[resource]).unwrap(),
    };
    let whole = &status.tiers.last().unwrap().reclaimable;
    for resource in ["cpu", "memory"] {
        assert_eq!(
            of(&first.usage, resource) + of(&second.usage, resource),
            of(&status.usage, resource),
            "{resource}"
        );
        let [a, b] = [first, second].map(|node| of(&node.batch_reclaimable, resource));
        assert_eq!(a + b, of(whole, resource), "{resource}");
        assert!(b > a * 3, "{resource}: more is left on the second: {a} {b}");
    }
    assert_eq!(of(&first.usage, "cpu"), 1_500);
    // Little changes a look: no files but meminfo now and then.
    assert_eq!(
        report.numa.iter().map(|n| n.capacity.cpu).sum::<i64>(),
        report.capacity.cpu
    );
}

/// Memory of a device, or of a GPU, is a NUMA node without CPUs: for it, nobody knew what any of them used.
#[test]
fn a_numa_node_of_memory_alone_uses_no_cpu_and_does_not_hide_what_the_others_use() {
    let folder = Folder::of(0);
    folder.numa([0, 0], [6 << 20, 1 << 20]);
    let of_memory = "sys/devices/system/node/node2";
    folder.put(&format!("{of_memory}/cpulist"), "\n");
    folder.put(
        &format!("{of_memory}/meminfo"),
        "Node 2 MemTotal: 8388608 kB\nNode 2 MemFree: 8388608 kB\nNode 2 Active(file): 0 kB\n",
    );
    let mut agent = folder.agent();
    let mut report = None;
    for second in 1..=10_u64 {
        folder.numa([second * 150, 0], [6 << 20, 1 << 20]);
        report = Some(agent.look(second * 1_000).report);
    }
    let used: Vec<_> = report.unwrap().numa.iter().map(|node| node.usage.cpu).collect();
    assert_eq!(used, [Some(1_500), Some(0), Some(0)]);
}
