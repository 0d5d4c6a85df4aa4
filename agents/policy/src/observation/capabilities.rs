//! What a node's kernel can do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{llc::SCHEMATA, network::POLICE};

/// What the kernel under this node can do. Probed, never assumed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// `cpu.idle`.
    pub cpu_idle: bool,
    /// `cpu.weight`.
    pub cpu_weight: bool,
    /// `cpu.max`.
    pub cpu_max: bool,
    /// `cpu.max.burst`.
    pub cpu_burst: bool,
    /// `cpu.pressure`.
    pub pressure: bool,
    /// `memory.high`.
    pub memory_high: bool,
    /// `memory.low`.
    pub memory_low: bool,
    /// `memory.reclaim`.
    pub memory_reclaim: bool,
    /// `memory.pressure`.
    pub memory_pressure: bool,
    /// `io.weight`. It takes effect where the kernel's cost model is switched on for the device (`io.cost.qos`).
    pub io_weight: bool,
    /// `io.bfq.weight`: some device has the BFQ scheduler.
    pub io_bfq_weight: bool,
    /// `io.max`.
    pub io_max: bool,
    /// `io.pressure`.
    pub io_pressure: bool,
    /// `cpuset.cpus`, and no container has CPUs of its own.
    pub cpuset: bool,
    /// The last-level cache can be shared out by resctrl.
    pub cache: bool,
    /// The memory bandwidth can be shared out by resctrl.
    pub bandwidth: bool,
    /// `cgroup.kill`.
    pub cgroup_kill: bool,
    /// Traffic of links can be held to a rate, and the agent may do so.
    pub police: bool,
    /// Files that are there and that the kernel refuses to set now, and how. What they are for counts as not there.
    pub refused: BTreeMap<String, String>,
}

impl Capabilities {
    /// Without what a file is for, since the kernel refuses to set it.
    #[must_use]
    pub fn without(mut self, file: &str, why: &str) -> Self {
        match file {
            "cgroup.kill" => self.cgroup_kill = false,
            "cpu.idle" => self.cpu_idle = false,
            "cpu.max" => self.cpu_max = false,
            "cpu.max.burst" => self.cpu_burst = false,
            "cpu.weight" => self.cpu_weight = false,
            "cpuset.cpus" => self.cpuset = false,
            "io.bfq.weight" => self.io_bfq_weight = false,
            "io.max" => self.io_max = false,
            "io.weight" => self.io_weight = false,
            "memory.high" => self.memory_high = false,
            "memory.low" => self.memory_low = false,
            "memory.reclaim" => self.memory_reclaim = false,
            POLICE => self.police = false,
            SCHEMATA => (self.cache, self.bandwidth) = (false, false),
            _ => {}
        }
        self.refused.insert(file.to_owned(), why.to_owned());
        self
    }

    /// Why a guard that needs the file is off.
    pub(crate) fn lack_of(&self, file: &str) -> String {
        match self.refused.get(file) {
            Some(why) => format!("off: the kernel refuses {file}: {why}; tried again in some minutes"),
            None => format!("off: the kernel has no {file} here"),
        }
    }

    /// Whether anything has been found out yet.
    pub(crate) fn known(&self) -> bool {
        *self != Self::default()
    }

    /// Names of what is there, in a fixed order, as the NodeReport lists them.
    pub fn names(&self) -> Vec<&'static str> {
        let there = self.features().into_iter().filter(|(_, there)| *there);
        there.map(|(name, _)| name).collect()
    }

    /// What there may be, by name, and whether it is there.
    pub const fn features(&self) -> [(&'static str, bool); 18] {
        [
            ("cgroup.kill", self.cgroup_kill),
            ("cpu.idle", self.cpu_idle),
            ("cpu.max", self.cpu_max),
            ("cpu.max.burst", self.cpu_burst),
            ("cpu.pressure", self.pressure),
            ("cpu.weight", self.cpu_weight),
            ("cpuset.cpus", self.cpuset),
            ("io.bfq.weight", self.io_bfq_weight),
            ("io.max", self.io_max),
            ("io.pressure", self.io_pressure),
            ("io.weight", self.io_weight),
            ("memory.high", self.memory_high),
            ("memory.low", self.memory_low),
            ("memory.pressure", self.memory_pressure),
            ("memory.reclaim", self.memory_reclaim),
            ("resctrl.L3", self.cache),
            ("resctrl.MB", self.bandwidth),
            (POLICE, self.police),
        ]
    }
}
