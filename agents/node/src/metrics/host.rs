//! Metrics of the node's parts and of what is counted of it as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError, atomic::AtomicU64},
};

use duosuan_policy::{Report, host::HostView};
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::{Registry, Unit},
};

use super::{
    Float,
    labels::{DiskKindLabels, DiskLabels, KindLabels, NumaLabels, NumaTierLabels},
    plain, raise, raise_anew, show, with_unit,
};

/// These metrics.
#[derive(Debug)]
pub(super) struct HostMetrics {
    load: Family<KindLabels, Float>,
    paging: Family<KindLabels, Counter>,
    faults: Family<KindLabels, Counter>,
    operations: Family<DiskKindLabels, Counter>,
    bytes: Family<DiskKindLabels, Counter>,
    busy: Family<DiskLabels, Counter<f64, AtomicU64>>,
    waited: Family<DiskLabels, Counter<f64, AtomicU64>>,
    /// Disks that are shown, by node.
    disks: Mutex<BTreeMap<String, BTreeSet<String>>>,
    numa_usage: Family<NumaLabels, Float>,
    numa_reclaimable: Family<NumaTierLabels, Float>,
}

impl HostMetrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        Self {
            load: plain(
                r,
                "node_load",
                "Processes that ran or waited, in the mean of 1, 5 and 15 minutes",
            ),
            paging: with_unit(
                r,
                "node_paging",
                "Moved by the node's memory management, by kind: swapped_in, swapped_out, reclaimed, reclaimed_direct",
                Unit::Bytes,
            ),
            faults: plain(
                r,
                "node_paging_events",
                "What the node's memory management had happen, by kind: major_fault, oom_kill",
            ),
            operations: plain(
                r,
                "node_disk_operations",
                "Reads and writes of a disk, by kind: read, written",
            ),
            bytes: with_unit(
                r,
                "node_disk",
                "Moved from and to a disk, by kind: read, written",
                Unit::Bytes,
            ),
            busy: with_unit(
                r,
                "node_disk_busy",
                "Time in which a request was under way at a disk",
                Unit::Seconds,
            ),
            waited: with_unit(
                r,
                "node_disk_waited",
                "The same, counted once for each request",
                Unit::Seconds,
            ),
            disks: Mutex::default(),
            numa_usage: plain(r, "node_numa_usage", "Used now, by NUMA node"),
            numa_reclaimable: plain(r, "node_numa_reclaimable", "Offered to a tier, by NUMA node"),
        }
    }

    pub(super) fn record(&self, node: &str, report: &Report) {
        self.numa(node, report);
        // It is read now and then, and written here as often.
        if report.host.at == Some(report.at) {
            self.host(node, &report.host);
        }
    }

    fn host(&self, node: &str, host: &HostView) {
        let mut labels = KindLabels {
            node: node.to_owned(),
            kind: "",
        };
        for (at, kind) in ["1m", "5m", "15m"].into_iter().enumerate() {
            labels.kind = kind;
            let load = host.load.as_ref().and_then(|load| load.get(at));
            show(&self.load, &labels, load.map(|load| f64::from(*load) / 100.0));
        }
        if let Some(paging) = host.paging {
            for (kind, bytes) in [
                ("swapped_in", paging.swapped_in),
                ("swapped_out", paging.swapped_out),
                ("reclaimed", paging.reclaimed),
                ("reclaimed_direct", paging.reclaimed_direct),
            ] {
                labels.kind = kind;
                raise(&self.paging.get_or_create(&labels), bytes);
            }
            for (kind, count) in [("major_fault", paging.major_faults), ("oom_kill", paging.oom_kills)] {
                labels.kind = kind;
                raise(&self.faults.get_or_create(&labels), count);
            }
        }
        self.forget_others(node, host);
        for disk in &host.disks {
            let of = DiskLabels {
                node: node.to_owned(),
                disk: disk.name.clone(),
            };
            for (family, micros) in [(&self.busy, disk.total.busy), (&self.waited, disk.total.waited)] {
                let seconds = micros as f64 / 1e6;
                // The kernel counts in 32 bits, and another disk may have come under the name.
                if seconds < family.get_or_create(&of).get() {
                    family.remove(&of);
                }
                let counter = family.get_or_create(&of);
                counter.inc_by((seconds - counter.get()).max(0.0));
            }
            let mut of = DiskKindLabels {
                node: of.node,
                disk: of.disk,
                kind: "read",
            };
            let io = disk.total.io;
            raise_anew(&self.operations, &of, io.reads);
            raise_anew(&self.bytes, &of, io.read_bytes);
            of.kind = "written";
            raise_anew(&self.operations, &of, io.writes);
            raise_anew(&self.bytes, &of, io.written_bytes);
        }
    }

    /// Shows the disks that are gone no more.
    fn forget_others(&self, node: &str, host: &HostView) {
        let now: BTreeSet<String> = host.disks.iter().map(|disk| disk.name.clone()).collect();
        let mut shown = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        let before = shown.insert(node.to_owned(), now.clone()).unwrap_or_default();
        for disk in before.difference(&now) {
            let (node, disk) = (node.to_owned(), disk.clone());
            let of = DiskLabels { node, disk };
            self.busy.remove(&of);
            self.waited.remove(&of);
            let DiskLabels { node, disk } = of;
            let mut of = DiskKindLabels {
                node,
                disk,
                kind: "read",
            };
            for kind in ["read", "written"] {
                of.kind = kind;
                self.operations.remove(&of);
                self.bytes.remove(&of);
            }
        }
    }

    fn numa(&self, node: &str, report: &Report) {
        let cores = |milli: i64| milli as f64 / 1000.0;
        for part in report.numa.iter() {
            let numa = part.index.to_string();
            let labels = |resource| NumaLabels {
                node: node.to_owned(),
                numa: numa.clone(),
                resource,
            };
            show(&self.numa_usage, &labels("cpu"), part.usage.cpu.map(cores));
            show(&self.numa_usage, &labels("memory"), part.usage.memory.map(|b| b as f64));
            for (tier, offered) in [("mid", part.mid), ("batch", part.batch)] {
                let set = |resource, amount| {
                    let labels = NumaTierLabels {
                        node: node.to_owned(),
                        numa: numa.clone(),
                        tier,
                        resource,
                    };
                    self.numa_reclaimable.get_or_create(&labels).set(amount);
                };
                set("cpu", cores(offered.cpu));
                set("memory", offered.memory as f64);
            }
        }
    }
}
