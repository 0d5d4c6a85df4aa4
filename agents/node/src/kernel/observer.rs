//! Looking at the kernel.

use std::collections::BTreeMap;

use duosuan_cgroup::{Cgroup, Error, IoStat};
use duosuan_policy::{Capabilities, Group, Io, Observation, Resources, Stall, Tier};

use super::Kernel;
use crate::{
    layout::discover,
    pods::{PodInfo, bound_batch},
};

/// The containers of a pod are listed anew after this many looks: they change rarely, and only their throttling is read.
const RELIST_CONTAINERS: u64 = 5;

/// A cgroup that is looked at again and again.
#[derive(Debug)]
pub(super) struct Held {
    group: Cgroup,
    containers: Vec<Cgroup>,
    listed: u64,
}

/// A cgroup to look at.
struct Target {
    path: String,
    tier: Tier,
    requests: Resources,
}

impl Kernel {
    pub(super) fn observe_groups(&mut self, pods: &[PodInfo]) -> Observation {
        self.looks += 1;
        let mut complete = true;
        match discover(&self.root) {
            Ok(layout) => self.layout = layout,
            Err(error) => {
                complete = false;
                self.fail("cgroup", error.to_string());
            }
        }
        let targets = self.targets(pods);
        self.held.retain(|path, _| targets.iter().any(|t| t.path == *path));
        let mut groups = Vec::with_capacity(targets.len());
        for target in targets {
            match self.look_at(&target) {
                Ok(Some(group)) => groups.push(group),
                Ok(None) => {}
                // Gone between the listing and the look: nobody is left to count.
                Err(error) if error.is_gone() => drop(self.held.remove(&target.path)),
                Err(error) => {
                    let file = error
                        .path
                        .file_name()
                        .unwrap_or_default()
                        .to_string_lossy()
                        .into_owned();
                    self.fail(&file, error.to_string());
                    groups.push(Group {
                        path: target.path,
                        tier: target.tier,
                        requests: target.requests,
                        ..Group::default()
                    });
                }
            }
        }
        groups.sort_by(|a, b| a.path.cmp(&b.path));
        self.probe();
        let cpu = self.read("stat", |k| k.proc.cpu_time().map(Some));
        let memory = self.read("meminfo", |k| k.proc.meminfo().map(Some));
        let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let total = |k: &mut Self, resource: &'static str| {
            k.read("pressure", |k| k.proc.pressure(resource)).map(|p| p.some.total)
        };
        let stall = Stall {
            cpu: total(self, "cpu"),
            memory: total(self, "memory"),
            io: total(self, "io"),
        };
        Observation {
            capacity: Resources {
                cpu: cpu.map_or(0, |c| i64::from(c.cpus) * 1000),
                memory: memory.map_or(0, |m| bytes(m.total)),
            },
            cpu_busy: cpu.map(|c| c.busy),
            memory_used: memory.map(|m| bytes(m.total.saturating_sub(m.available))),
            stall,
            groups,
            complete,
            envelope: self.layout.besteffort.clone(),
            bound_batch: bound_batch(pods),
        }
    }

    /// Pods in the tiers of the pod list, all others in prod; then the policy's own groups.
    fn targets(&self, pods: &[PodInfo]) -> Vec<Target> {
        let by_uid: BTreeMap<&str, &PodInfo> = pods.iter().map(|p| (p.uid.as_str(), p)).collect();
        let named = |path: &str| self.rules.iter().find(|r| r.path.trim_matches('/') == path);
        let pods = self.layout.pods.iter().map(|group| {
            // A static pod's cgroup carries the hash of its file, which is no UID that the API server knows.
            let info = by_uid.get(group.uid.as_str());
            let tier = named(&group.path)
                .map(|r| r.tier)
                .or(info.map(|i| i.tier))
                .unwrap_or_default();
            Target {
                path: group.path.clone(),
                tier,
                requests: info.map(|i| i.requests).unwrap_or_default(),
            }
        });
        let rules = self.rules.iter().map(|r| Target {
            path: r.path.trim_matches('/').to_owned(),
            tier: r.tier,
            requests: Resources::default(),
        });
        let mut targets: Vec<Target> = pods.chain(rules).collect();
        targets.sort_by(|a, b| a.path.cmp(&b.path));
        targets.dedup_by(|a, b| a.path == b.path);
        targets
    }

    fn look_at(&mut self, target: &Target) -> Result<Option<Group>, Error> {
        let looks = self.looks;
        let held = match self.held.entry(target.path.clone()) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let group = self.root.child(&target.path)?;
                entry.insert(Held {
                    group,
                    containers: Vec::new(),
                    listed: 0,
                })
            }
        };
        let group = &held.group;
        let stat = match group.cpu_stat() {
            // The same name, another cgroup: a pod that came back between two looks.
            Err(error) if error.is_gone() => {
                held.group = self.root.child(&target.path)?;
                held.containers.clear();
                held.listed = 0;
                held.group.cpu_stat()?
            }
            other => other?,
        };
        let group = &held.group;
        if target.tier != Tier::Batch && (held.listed == 0 || looks - held.listed >= RELIST_CONTAINERS) {
            held.listed = looks;
            let names = group.children()?;
            held.containers.retain(|c| {
                c.path()
                    .file_name()
                    .is_some_and(|n| names.iter().any(|m| n == m.as_str()))
            });
            for name in &names {
                if !held
                    .containers
                    .iter()
                    .any(|c| c.path().file_name().is_some_and(|n| n == name.as_str()))
                {
                    // One that is gone again is none.
                    held.containers.extend(group.child(name));
                }
            }
        }
        let own = stat.and_then(|s| s.throttled);
        let inner = held
            .containers
            .iter()
            .filter_map(|c| c.cpu_stat().ok().flatten().and_then(|s| s.throttled));
        let throttled = inner.fold(own, |sum, t| Some(sum.unwrap_or(0).saturating_add(t)));
        let current = group.memory_current()?;
        let memory = group.memory_stat()?;
        let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let batch = target.tier == Tier::Batch;
        // Batch's own limits are ours, and prod's IO is measured by how it stalls.
        let hits = if batch { None } else { group.memory_events()? };
        let io = if batch { group.io_stat()? } else { None };
        Ok(Some(Group {
            path: target.path.clone(),
            tier: target.tier,
            requests: target.requests,
            cpu_usage: stat.map(|s| s.usage),
            cpu_throttled: throttled,
            memory: current.map(|c| bytes(c.saturating_sub(memory.map_or(0, |m| m.inactive_file)))),
            memory_charged: current.map(bytes),
            memory_reclaimable: memory.map(|m| bytes(m.reclaimable())),
            memory_hits: hits.map(|e| e.high.saturating_add(e.max)),
            io: io
                .into_iter()
                .flatten()
                .map(|(device, stat)| (device, totals(stat)))
                .collect(),
            stall: Stall {
                cpu: group.cpu_pressure()?.map(|p| p.some.total),
                memory: group.memory_pressure()?.map(|p| p.some.total),
                io: group.io_pressure()?.map(|p| p.some.total),
            },
        }))
    }

    /// What this kernel can do, by what there is in any cgroup that we look at (the root has few files).
    fn probe(&mut self) {
        if self.capabilities != Capabilities::default() && self.looks % 60 != 1 {
            return;
        }
        let besteffort = self
            .layout
            .besteffort
            .as_deref()
            .and_then(|path| self.root.child(path).ok());
        let Some(group) = besteffort
            .as_ref()
            .or_else(|| self.held.values().next().map(|h| &h.group))
        else {
            return;
        };
        self.capabilities = Capabilities {
            cpu_idle: group.has("cpu.idle"),
            cpu_weight: group.has("cpu.weight"),
            cpu_max: group.has("cpu.max"),
            cpu_burst: group.has("cpu.max.burst"),
            pressure: matches!(group.cpu_pressure(), Ok(Some(_))),
            memory_high: group.has("memory.high"),
            memory_low: group.has("memory.low"),
            memory_reclaim: group.has("memory.reclaim"),
            memory_pressure: matches!(group.memory_pressure(), Ok(Some(_))),
            io_weight: group.has("io.weight"),
            io_bfq_weight: group.has("io.bfq.weight"),
            io_max: group.has("io.max"),
            io_pressure: matches!(group.io_pressure(), Ok(Some(_))),
        };
    }

    fn read<T>(&mut self, file: &str, read: impl FnOnce(&Self) -> Result<Option<T>, Error>) -> Option<T> {
        match read(self) {
            Ok(value) => value,
            Err(error) => {
                self.fail(file, error.to_string());
                None
            }
        }
    }
}

fn totals(stat: IoStat) -> Io {
    Io {
        read_bytes: stat.read_bytes,
        written_bytes: stat.written_bytes,
        reads: stat.reads,
        writes: stat.writes,
    }
}
