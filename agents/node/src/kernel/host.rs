//! Looking at the node's parts: its NUMA nodes; and, now and then, at its load, its paging and its disks.

use duosuan_cgroup::{Error, numa, proc::CpuTime};
use duosuan_policy::{
    Io, Observation, Resources,
    observation::{Disk, NumaNode, Paging},
};

use super::Kernel;

/// What is only looked at by people is read at one look of so many.
const COUNT: u64 = 5;
/// Whether other nodes or CPUs are online is asked at one look of so many, of which memory is read at each.
const FOLLOW: u64 = 3 * COUNT;
/// Most disks that are told of.
const DISKS: usize = 64;

impl Kernel {
    /// Finds the NUMA nodes, where others are online than before.
    pub(super) fn follow_numa(&mut self) {
        if self.looks % FOLLOW == 1
            && let Some(Err(error)) = self.numa.as_mut().map(numa::NumaNodes::follow)
        {
            self.fail("numa", error.to_string());
        }
    }

    fn numa_nodes(&self) -> &[numa::NumaNode] {
        self.numa.as_ref().map(numa::NumaNodes::nodes).unwrap_or_default()
    }

    /// CPU time of the whole node, and of its NUMA nodes where there are several, into `seen`.
    pub(super) fn cpu_times(&self, seen: &mut Observation) -> Result<CpuTime, Error> {
        let nodes = self.numa_nodes();
        if !nodes
            .iter()
            .map(|node| node.index)
            .eq(seen.numa.iter().map(|part| part.index))
        {
            seen.numa = nodes
                .iter()
                .map(|node| NumaNode {
                    index: node.index,
                    ..NumaNode::default()
                })
                .collect();
        }
        let parts = &mut seen.numa;
        if let [part] = parts.as_mut_slice() {
            let time = self.proc.cpu_time();
            part.cpu_busy = time.as_ref().ok().map(|time| time.busy);
            return time;
        }
        for part in parts.iter_mut() {
            (part.capacity.cpu, part.cpu_busy) = (0, None);
        }
        let mut each = |cpu: u32, busy: u64| {
            let of = nodes.iter().zip(parts.iter_mut());
            for (_, part) in of.filter(|(node, _)| node.cpus.binary_search(&cpu).is_ok()) {
                part.capacity.cpu += 1_000;
                part.cpu_busy = Some(part.cpu_busy.unwrap_or(0).saturating_add(busy));
            }
        };
        let wanted: Option<&mut dyn FnMut(u32, u64)> = if nodes.is_empty() { None } else { Some(&mut each) };
        let time = self.proc.cpu_times(wanted);
        // Memory alone (CXL, HBM), or all its CPUs are offline: nobody is busy there, which is not that nobody knows.
        if time.is_ok() && parts.iter().any(|part| part.cpu_busy.is_some()) {
            for part in parts.iter_mut() {
                part.cpu_busy.get_or_insert(0);
            }
        }
        time
    }

    /// Memory of the NUMA nodes. Where there is one, it is the node's.
    pub(super) fn observe_numa(&mut self, seen: &mut Observation) {
        let (capacity, used) = (seen.capacity, seen.memory_used);
        if let [part] = seen.numa.as_mut_slice() {
            (part.capacity, part.memory_used) = (capacity, used);
            return;
        }
        if self.looks % COUNT != 1 {
            return;
        }
        let mut failed = Vec::new();
        for (node, part) in self.numa_nodes().iter().zip(&mut seen.numa) {
            match node.memory() {
                Ok(memory) => {
                    part.capacity = Resources {
                        memory: bytes(memory.total),
                        ..part.capacity
                    };
                    part.memory_used = Some(bytes(memory.used));
                }
                Err(error) => {
                    part.memory_used = None;
                    failed.push(error);
                }
            }
        }
        for error in failed {
            self.fail("node/meminfo", error.to_string());
        }
    }

    /// Load, paging and disks.
    pub(super) fn observe_host(&mut self, seen: &mut Observation) {
        if self.looks % COUNT != 1 {
            return;
        }
        let host = &mut seen.host;
        host.load = self.read("loadavg", |k| k.proc.load());
        let page = rustix::param::page_size() as u64;
        host.paging = self.read("vmstat", |k| k.proc.vmstat()).map(|stat| Paging {
            swapped_in: stat.swapped_in.saturating_mul(page),
            swapped_out: stat.swapped_out.saturating_mul(page),
            major_faults: stat.major_faults,
            reclaimed: stat.reclaimed.saturating_mul(page),
            reclaimed_direct: stat.reclaimed_direct.saturating_mul(page),
            oom_kills: stat.oom_kills,
        });
        let (mut whole, sys) = (std::mem::take(&mut self.disks), self.sys.join("block"));
        let mut found = 0;
        let disks = &mut host.disks;
        let read = self.read("diskstats", |k| {
            k.proc.diskstats(|name, stat| {
                // The many devices of memory and files are listed before the disks.
                let made = ["loop", "ram", "zram"].iter().any(|kind| name.starts_with(kind));
                if made || (stat.reads == 0 && stat.writes == 0) {
                    return;
                }
                // Partitions are part of a disk. A slash in a name is none in a path.
                let known = whole.get(name).copied();
                let is_whole = known.unwrap_or_else(|| {
                    let is_whole = sys.join(name.replace('/', "!")).exists();
                    whole.insert(name.to_owned(), is_whole);
                    is_whole
                });
                if !is_whole || found >= DISKS {
                    return;
                }
                found += 1;
                let disk = Disk {
                    io: Io {
                        read_bytes: stat.read_bytes,
                        written_bytes: stat.written_bytes,
                        reads: stat.reads,
                        writes: stat.writes,
                    },
                    busy: stat.busy,
                    waited: stat.waited,
                };
                match disks.get_mut(name) {
                    Some(known) => *known = disk,
                    None => drop(disks.insert(name.to_owned(), disk)),
                }
            })
        });
        self.disks = whole;
        if read.is_none() || found < disks.len() {
            // One went, or nothing is known of any: what is left is listed anew the next time.
            disks.clear();
            self.disks.clear();
        }
        let something = host.load.is_some() || host.paging.is_some() || !host.disks.is_empty();
        host.at = something.then_some(self.now);
    }
}

fn bytes(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
