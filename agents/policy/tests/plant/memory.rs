//! The memory guard: what prod and batch hold, and how prod stalls when little is left.

use duosuan_policy::{Capabilities, GuardState, GuardView, Report, Resources};
use proptest::prelude::*;

use crate::node::{self, Node, SECOND, STEP_MS, add, loads};

const MIB: i64 = 1 << 20;
/// A node of 16 GiB, so a line of shortage at 5 %.
const NODE: i64 = 16 << 30;
const LINE: i64 = NODE / 20;
const SYSTEM: i64 = 512 * MIB;

/// Batch grows until it has what it wants or its limit stops it, and reads files beside that; its page cache makes room
/// for its own growth and for prod's. Without swap it never gives back what it wrote itself.
struct Plant {
    prod: i64,
    batch_wants: i64,
    /// Bytes a second.
    growth: i64,
    files: i64,
    /// How much prod stalls while there is page cache to be dropped first, thousandths.
    coupling: u64,
    own: i64,
    cache: i64,
    limit: Option<i64>,
    node: Node,
    least_available: i64,
}

impl Plant {
    fn new(prod: i64, batch_wants: i64, growth: i64, files: i64, coupling: u64) -> Self {
        let capacity = Resources {
            cpu: 8000,
            memory: NODE,
        };
        let capabilities = Capabilities {
            memory_high: true,
            memory_low: true,
            memory_reclaim: true,
            memory_pressure: true,
            ..Default::default()
        };
        let mut node = Node::new(capacity, capabilities);
        for (group, memory) in node.seen.groups.iter_mut().zip([0, 4 << 30]) {
            group.requests = Resources { cpu: 1000, memory };
            group.memory_charged = Some(0);
            group.memory_hits = Some(0);
        }
        Self {
            prod,
            batch_wants,
            growth,
            files,
            coupling,
            own: 0,
            cache: 0,
            limit: None,
            node,
            least_available: NODE,
        }
    }

    fn available(&self) -> i64 {
        (NODE - SYSTEM - self.prod - self.own).max(0)
    }

    fn step(&mut self) -> Option<Report> {
        self.node.now += STEP_MS;
        let tenth = |per_second: i64| per_second * i64::try_from(STEP_MS).unwrap() / 1000;
        let allowed = self.limit.unwrap_or(NODE);
        let grown = (self.own + tenth(self.growth)).min(self.batch_wants).min(allowed);
        self.own = self.own.max(grown).min(NODE - SYSTEM - self.prod).max(0);
        let read = self.cache + tenth(512 * MIB);
        self.cache = read
            .min(self.files)
            .min(self.available())
            .min((allowed - self.own).max(0));
        let available = self.available();
        self.least_available = self.least_available.min(available);
        let tight = NODE * 3 / 100;
        let mut stall = u64::try_from((tight - available).max(0) * 1000 / tight).unwrap();
        if available - self.cache < NODE / 100 && self.cache > 0 {
            stall += self.coupling;
        }
        let stalled = stall.min(1000) * STEP_MS;
        add(&mut self.node.online().stall.memory, stalled as f64);
        // Once a second, or when the trigger would fire.
        (self.node.ticks() || stall > 500).then(|| self.look())
    }

    fn look(&mut self) -> Report {
        self.node.seen.memory_used = Some(NODE - self.available());
        let batch = self.node.batch();
        batch.memory = Some(self.own);
        batch.memory_charged = Some(self.own + self.cache);
        batch.memory_reclaimable = Some(self.cache);
        let (actions, report) = self.node.look();
        let value = |file: &str| {
            let action = actions.iter().find(|a| a.file == file && a.path == "batch")?;
            Some(action.value.parse::<i64>().unwrap())
        };
        self.limit = value("memory.high");
        self.cache = (self.cache - value("memory.reclaim").unwrap_or(0)).max(0);
        report
    }

    fn run(&mut self, seconds: u64) -> Report {
        let mut last = None;
        for _ in 0..seconds * SECOND {
            last = self.step().or(last);
        }
        last.unwrap()
    }
}

fn guard(report: &Report) -> &GuardView {
    node::guard(report, "memory")
}

#[test]
fn batch_that_grows_into_a_shortage_is_stopped_and_grows_on_when_prod_leaves_room() {
    let mut plant = Plant::new(9 << 30, 12 << 30, 200 * MIB, 2 << 30, 0);
    let report = plant.run(120);
    assert_eq!(guard(&report).state, GuardState::Suppressing, "{:?}", guard(&report));
    assert!(plant.least_available > LINE / 2 - 400 * MIB);
    let held = plant.own;
    plant.prod = 3 << 30;
    plant.run(5);
    assert!(plant.own < held + LINE, "nothing is given back in the first seconds");
    plant.run(70);
    assert!(
        plant.own >= 11 << 30,
        "batch holds {} MiB a minute after",
        plant.own / MIB
    );
}

proptest! {
    #![proptest_config(loads())]

    #[test]
    fn under_a_steady_load_the_memory_guard_comes_to_rest(
        prod in 1i64..14, wants in 1i64..16, growth in 10i64..600, files in 0i64..8, coupling in 0u64..120
    ) {
        let mut plant = Plant::new(prod << 30, wants << 30, growth * MIB, files << 30, coupling);
        let before = guard(&plant.run(1200)).cuts;
        let after = guard(&plant.run(900)).cuts;
        // No limit cycle: what is left is a try every four minutes, each ended by a few cuts.
        prop_assert!(after - before <= 12, "{} cuts in 15 minutes of steady load", after - before);
    }

    #[test]
    fn batch_takes_no_more_than_half_the_line_and_what_grows_in_two_seconds(
        prod in 1i64..14, wants in 1i64..16, growth in 10i64..150, files in 0i64..8
    ) {
        let mut plant = Plant::new(prod << 30, wants << 30, growth * MIB, files << 30, 0);
        plant.run(600);
        let least = (LINE / 2 - 2 * growth * MIB).min(NODE - SYSTEM - (prod << 30));
        prop_assert!(plant.least_available >= least, "{} MiB were available", plant.least_available / MIB);
    }

    #[test]
    fn what_prod_leaves_is_back_within_a_minute(
        high in 10i64..14, low in 1i64..6, wants in 4i64..16, files in 0i64..4
    ) {
        let mut plant = Plant::new(high << 30, wants << 30, 2048 * MIB, files << 30, 0);
        plant.run(300);
        plant.prod = low << 30;
        plant.run(75);
        let left = (wants << 30).min(NODE - SYSTEM - (low << 30) - LINE * 3 / 2);
        prop_assert!(plant.own * 100 >= left * 85, "batch holds {} of {} MiB", plant.own / MIB, left / MIB);
    }
}
