//! The IO guard: a disk on which prod's requests wait behind batch's.

use std::collections::BTreeMap;

use duosuan_policy::{Capabilities, Io, Report, Resources};
use proptest::prelude::*;

use crate::node::{Node, SECOND, STEP_MS, add, guard, loads};

const DISK: &str = "254:0";

/// Prod stalls as a queue does, with a power of how busy the disk is.
struct Plant {
    /// Bytes a second that the disk can do.
    disk: f64,
    batch_wants: f64,
    coupling: f64,
    limit: Option<f64>,
    node: Node,
    batch: f64,
}

impl Plant {
    fn new(disk: f64, batch_wants: f64, coupling: f64) -> Self {
        let capacity = Resources {
            cpu: 8000,
            memory: 1 << 34,
        };
        let capabilities = Capabilities {
            io_max: true,
            io_pressure: true,
            ..Default::default()
        };
        let mut node = Node::new(capacity, capabilities);
        node.batch().io = BTreeMap::from([(DISK.to_owned(), Io::default())]);
        Self {
            disk,
            batch_wants,
            coupling,
            limit: None,
            node,
            batch: 0.0,
        }
    }

    fn step(&mut self, online: f64) -> (f64, Option<Report>) {
        self.node.now += STEP_MS;
        let allowed = self.limit.unwrap_or(self.disk);
        self.batch = self.batch_wants.min(allowed).min(self.disk - online).max(0.0);
        let busy = ((online + self.coupling * self.batch) / self.disk).clamp(0.0, 1.0);
        let stall = if online > 0.0 { busy.powi(4) } else { 0.0 };
        let seconds = STEP_MS as f64 / 1000.0;
        let io = self.node.batch().io.get_mut(DISK).unwrap();
        io.read_bytes += (self.batch * seconds) as u64;
        io.reads += (self.batch * seconds / 65_536.0) as u64;
        add(&mut self.node.online().stall.io, stall * STEP_MS as f64 * 1000.0);
        (stall, self.node.ticks().then(|| self.look()))
    }

    fn look(&mut self) -> Report {
        let (actions, report) = self.node.look();
        self.limit = actions.iter().find(|a| a.file == format!("io.max {DISK}")).map(|a| {
            let bytes = a.value.split_once("rbps=").unwrap().1.split_once(' ').unwrap().0;
            bytes.parse().unwrap()
        });
        report
    }

    fn run(&mut self, seconds: u64, online: f64) -> (Report, f64) {
        let (mut last, mut stalls) = (None, 0.0);
        for _ in 0..seconds * SECOND {
            let (stall, report) = self.step(online);
            (last, stalls) = (report.or(last), stalls + stall);
        }
        (last.unwrap(), stalls / (seconds * SECOND) as f64)
    }
}

fn cuts(report: &Report) -> u64 {
    guard(report, "io").cuts
}

#[test]
fn prods_io_stall_cuts_batch_and_batch_has_its_disk_back_a_minute_after() {
    let mut plant = Plant::new(200e6, 150e6, 1.0);
    plant.run(30, 1e6);
    let before = plant.batch;
    let (report, _) = plant.run(30, 80e6);
    assert!(cuts(&report) > 0);
    assert!(plant.batch < before * 0.6, "batch still does {} a second", plant.batch);
    plant.run(75, 0.0);
    assert!(plant.batch >= before * 0.95, "batch does {} a second", plant.batch);
}

proptest! {
    #![proptest_config(loads())]

    #[test]
    fn under_a_steady_load_the_io_guard_comes_to_rest(
        online in 1u32..60, batch in 1u32..150, coupling in 0.3f64..1.5
    ) {
        let disk = 200e6;
        let online = disk * f64::from(online) / 100.0;
        let mut plant = Plant::new(disk, disk * f64::from(batch) / 100.0, coupling);
        let (before, _) = plant.run(900, online);
        let (after, stalled) = plant.run(600, online);
        let more = cuts(&after) - cuts(&before);
        prop_assert!(more <= 10, "{more} cuts in ten minutes of steady load");
        let alone = (online / disk).powi(4);
        prop_assert!(stalled <= 0.11_f64.max(alone * 1.5 + 0.05), "prod stalls {stalled}, alone it would {alone}");
    }
}
