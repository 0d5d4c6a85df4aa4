//! Looking at the kernel.
//!
//! What is looked at stays from look to look: cgroups, their files and the observation itself. Where no cgroup came or went,
//! a look opens nothing and allocates nothing.

use std::collections::BTreeMap;

use duosuan_cgroup::{Cgroup, Error, IoStat, MemoryEvents, topology};
use duosuan_policy::{Capabilities, Group, Io, Observation, Pod, Resources, Stall, Tier, Unread, Work};

use super::{
    Kernel,
    containers::{list, throttled},
};
use crate::pods::{self, PodInfo};

/// Where the file system does not count a folder's links, the containers of a pod are listed anew after this many looks.
const RELIST_CONTAINERS: u64 = 5;
/// Limits that stopped somebody are read again after this many looks.
const REREAD_QUOTAS: u64 = 15;
/// What is only counted for people is read at one look of so many, each cgroup at its turn.
const COUNT: u64 = 5;

/// A cgroup that is looked at again and again.
#[derive(Debug, Default)]
pub(super) struct Held {
    group: Option<Cgroup>,
    /// Those right below a pod's, whose throttling is the pod's, too.
    containers: Vec<Cgroup>,
    /// The cgroup's links when its containers were listed; 0 if they are to be listed.
    links: u64,
    /// The look at which it was looked at last.
    looked: u64,
    /// The looks of [`COUNT`] at which it is counted.
    turn: u64,
    /// Whether it is to be counted whosever turn it is: it never was, or could not be.
    uncounted: bool,
}

/// A cgroup to look at.
struct Target {
    path: String,
    tier: Tier,
    requests: Resources,
    pod: Option<Pod>,
}

impl Kernel {
    pub(super) fn observe_groups(&mut self, pods: &[PodInfo], seen: &mut Observation) {
        self.looks += 1;
        seen.complete = self.find(pods, seen);
        // One that went may have made room for one that nothing tells of.
        if self.look_at_all(&mut seen.groups) {
            seen.complete = self.find(pods, seen);
            self.look_at_all(&mut seen.groups);
        }
        self.probe();
        self.lower();
        self.follow_numa();
        let cpu = self.read("stat", |k| k.cpu_times(seen).map(Some));
        let memory = self.read("meminfo", |k| k.proc.meminfo().map(Some));
        let pressure = |k: &mut Self, resource: &'static str| k.read("pressure", |k| k.proc.pressure(resource));
        let waiting = pressure(self, "memory");
        self.observe_cache(seen);
        self.observe_network(seen);
        seen.stall = Stall {
            cpu: pressure(self, "cpu").map(|p| p.some.total),
            memory: waiting.map(|p| p.some.total),
            io: pressure(self, "io").map(|p| p.some.total),
        };
        seen.memory_full = waiting.and_then(|p| p.full).map(|full| full.total);
        seen.capacity = Resources {
            cpu: cpu.map_or(0, |c| i64::from(c.cpus) * 1000),
            memory: memory.map_or(0, |m| bytes(m.total)),
        };
        seen.cpu_busy = cpu.map(|c| c.busy);
        seen.memory_used = memory.map(|m| bytes(m.total.saturating_sub(m.available)));
        self.observe_numa(seen);
        self.observe_host(seen);
        if seen.cores != self.cores {
            seen.cores.clone_from(&self.cores);
        }
        let envelope = &self.finder.layout().besteffort;
        if seen.envelope != *envelope {
            seen.envelope.clone_from(envelope);
        }
        seen.bound_batch = pods::bound(pods, Tier::Batch);
        seen.bound_mid = pods::bound(pods, Tier::Mid);
    }

    /// Finds out what there is to look at. False if that could not be found out: then it is what it was.
    fn find(&mut self, pods: &[PodInfo], seen: &mut Observation) -> bool {
        let changed = match self.finder.look(&self.root) {
            Ok(changed) => changed,
            Err(error) => {
                self.fail("cgroup", error.to_string());
                return false;
            }
        };
        let another = seen.groups.len() != self.held.len();
        let came = self.absent.iter().any(|path| self.is_there(path));
        if changed || another || came || self.missing || self.known != pods {
            self.known = pods.to_vec();
            self.missing = false;
            self.generation += 1;
            let named = self.groups.iter().map(|group| &group.path);
            self.absent = named.filter(|path| !self.is_there(path)).cloned().collect();
            self.hold(self.targets(pods), &mut seen.groups);
        }
        true
    }

    /// Whether there is such a cgroup, or one that cannot be looked at, which is to be told of.
    fn is_there(&self, path: &str) -> bool {
        !matches!(self.root.child(path), Err(error) if error.is_gone())
    }

    /// Holds the targets and no other cgroups, in the order of their paths. What was held before stays open.
    fn hold(&mut self, targets: Vec<Target>, groups: &mut Vec<Group>) {
        let held = std::mem::take(&mut self.held).into_iter();
        let mut before: BTreeMap<String, (Held, Group)> = held
            .zip(std::mem::take(groups))
            .map(|(held, group)| (group.path.clone(), (held, group)))
            .collect();
        let batch = targets.iter().filter(|t| t.tier == Tier::Batch);
        self.batch = batch.map(|t| t.path.clone()).collect();
        for target in targets {
            let (held, mut group) = before.remove(&target.path).unwrap_or_default();
            group.path = target.path;
            group.tier = target.tier;
            group.requests = target.requests;
            group.pod = target.pod;
            self.held.push(held);
            groups.push(group);
        }
    }

    /// Pods in the tiers of the pod list, all others in prod; then the policy's own groups.
    fn targets(&self, pods: &[PodInfo]) -> Vec<Target> {
        let by_uid: BTreeMap<&str, &PodInfo> = pods.iter().map(|p| (p.uid.as_str(), p)).collect();
        let named = |path: &str| self.groups.iter().find(|group| group.path == path);
        let pods = self.finder.layout().pods.iter().map(|group| {
            // A static pod's cgroup carries the hash of its file, which is no UID that the API server knows.
            let info = by_uid.get(group.uid.as_str());
            let tier = named(&group.path)
                .map(|group| group.tier)
                .or(info.map(|i| i.tier))
                .unwrap_or_default();
            Target {
                path: group.path.clone(),
                tier,
                requests: info.map(|i| i.requests).unwrap_or_default(),
                pod: info.and_then(|i| i.evictable.clone()).filter(|_| tier != Tier::Prod),
            }
        });
        let named = self.groups.iter().map(|group| Target {
            path: group.path.clone(),
            tier: group.tier,
            requests: Resources::default(),
            pod: None,
        });
        let there = named.filter(|target| !self.absent.contains(&target.path));
        let mut targets: Vec<Target> = pods.chain(there).collect();
        targets.sort_by(|a, b| a.path.cmp(&b.path));
        targets.dedup_by(|a, b| a.path == b.path);
        targets
    }

    /// Looks at each cgroup that this look has not looked at yet. True if one was gone: it is held no longer.
    fn look_at_all(&mut self, groups: &mut Vec<Group>) -> bool {
        let mut held = std::mem::take(&mut self.held);
        let mut failed = Vec::new();
        let mut gone = false;
        let mut at = 0;
        while let (Some(one), Some(group)) = (held.get_mut(at), groups.get_mut(at)) {
            if one.looked < self.looks {
                one.looked = self.looks;
                match one.look(&self.root, group, &mut failed) {
                    Ok(()) => {}
                    // Gone between the listing and the look: nobody is left to count.
                    Err(error) if error.is_gone() => {
                        held.remove(at);
                        groups.remove(at);
                        gone = true;
                        continue;
                    }
                    Err(error) => {
                        failed.push(error);
                        *group = Group {
                            path: std::mem::take(&mut group.path),
                            tier: group.tier,
                            requests: group.requests,
                            pod: group.pod.take(),
                            unread: Unread {
                                cpu: true,
                                memory: true,
                                io: true,
                            },
                            ..Group::default()
                        };
                    }
                }
            }
            at += 1;
        }
        self.held = held;
        for error in failed {
            let file = error.path.file_name().unwrap_or_default().to_string_lossy();
            self.fail(&file, error.to_string());
        }
        if gone {
            self.finder.forget();
            self.missing = true;
        }
        gone
    }

    /// What this kernel can do, by what there is in any cgroup that we look at (the root has few files).
    fn probe(&mut self) {
        if self.probed != Capabilities::default() && self.looks % 60 != 1 {
            return;
        }
        let besteffort = self
            .finder
            .layout()
            .besteffort
            .as_deref()
            .and_then(|path| self.root.child(path).ok());
        let Some(group) = besteffort
            .as_ref()
            .or_else(|| self.held.first().and_then(|h| h.group.as_ref()))
        else {
            return;
        };
        let cpuset =
            group.has("cpuset.cpus") && !self.finder.layout().pods.iter().any(|pod| self.has_own_cpus(&pod.path));
        let controls = |name: &str| self.cache.as_ref().is_some_and(|cache| cache.controls(name));
        self.probed = Capabilities {
            cpuset,
            cache: controls("L3"),
            bandwidth: controls("MB"),
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
            cgroup_kill: group.has("cgroup.kill"),
            police: self.can_police(),
            refused: BTreeMap::new(),
        };
        self.capabilities.clone_from(&self.probed);
        if let Some(cores) = self.read("topology", |k| topology::cores(&k.sys).map(Some)) {
            self.cores = cores;
        }
    }

    /// Whether a container of the pod has CPUs of its own, as the kubelet's static CPU manager gives them: a cgroup above it
    /// that has none of these CPUs would take them from it.
    fn has_own_cpus(&self, pod: &str) -> bool {
        let Ok(group) = self.root.child(pod) else { return false };
        let own = |name: &String| {
            let cpus = group.child(name).and_then(|c| c.read("cpuset.cpus"));
            cpus.is_ok_and(|cpus| cpus.is_some_and(|cpus| !cpus.is_empty()))
        };
        group.children().unwrap_or_default().iter().any(own)
    }

    pub(super) fn read<T>(&mut self, file: &str, read: impl FnOnce(&Self) -> Result<Option<T>, Error>) -> Option<T> {
        match read(self) {
            Ok(value) => value,
            Err(error) => {
                self.fail(file, error.to_string());
                None
            }
        }
    }
}

impl Held {
    /// Looks at the cgroup, into `group`. A file that cannot be read is one signal less, and told of in `failed`.
    fn look(&mut self, root: &Cgroup, group: &mut Group, failed: &mut Vec<Error>) -> Result<(), Error> {
        let stat = match self.group.as_ref().map(Cgroup::cpu_stat) {
            Some(Ok(stat)) => Some(stat),
            Some(Err(error)) if !error.is_gone() => {
                failed.push(error);
                None
            }
            // Not opened yet; or the same name, another cgroup: a pod that came back between two looks.
            None | Some(Err(_)) => {
                *self = Self {
                    looked: self.looked,
                    turn: group.path.bytes().map(u64::from).sum::<u64>() % COUNT,
                    uncounted: true,
                    ..Self::default()
                };
                // Another cgroup, other counters.
                group.work = Work::default();
                signal(self.group.insert(root.child(&group.path)?).cpu_stat(), failed)?
            }
        };
        let Some(cgroup) = &self.group else { return Ok(()) };
        let batch = group.tier == Tier::Batch;
        group.cpu_usage = stat.flatten().map(|s| s.usage);
        let own = stat.flatten().and_then(|s| s.throttled);
        group.cpu_throttled = if batch {
            own
        } else {
            if let Some(links) = signal(cgroup.links(), failed)?
                && (links != self.links || (links < 2 && self.looked.is_multiple_of(RELIST_CONTAINERS)))
                && signal(list(cgroup, &mut self.containers), failed)?.is_some()
            {
                self.links = links;
            }
            let reread = (self.looked % REREAD_QUOTAS == 1).then_some(&mut group.quotas);
            let quotas = reread.map(|quotas| (group.path.as_str(), quotas));
            let stopped = [own, stat.flatten().and_then(|s| s.throttled_periods)];
            let [time, periods] = throttled(stopped, cgroup, &self.containers, &mut self.links, quotas, failed)?;
            // Those of the containers alone would be a counter that falls and rises again.
            group.work.throttled_periods = periods.filter(|_| stat.is_some());
            time
        };
        if batch {
            group.work.throttled_periods = stat.flatten().and_then(|s| s.throttled_periods);
            group.quotas.clear();
        }
        let current = signal(cgroup.memory_current(), failed)?.flatten();
        let memory = signal(cgroup.memory_stat(), failed)?;
        // Without `memory.stat` nobody knows how much of it is page cache that was not used lately.
        group.memory = current
            .zip(memory)
            .map(|(current, stat)| bytes(current.saturating_sub(stat.map_or(0, |m| m.inactive_file))));
        group.memory_charged = current.map(bytes);
        group.work.anonymous = memory.flatten().map(|m| bytes(m.anon));
        group.work.page_cache = memory.flatten().map(|m| bytes(m.file));
        group.memory_reclaimable = memory.flatten().map(|m| bytes(m.reclaimable()));
        // Batch's own limits are ours, and prod's IO is measured by how it stalls: what is left of both is counted now and then.
        let counted = self.uncounted || self.looked % COUNT == self.turn;
        let hits = if batch {
            if counted {
                let read = signal(cgroup.memory_events(), failed)?;
                self.uncounted = read.is_none();
                events(read.flatten(), &mut group.work);
            }
            if signal(io(cgroup, &mut group.io), failed)?.is_none() {
                group.io.clear();
            }
            group.work.io = (!group.io.is_empty()).then(|| sum(group.io.values()));
            Some(None)
        } else {
            group.io.clear();
            if counted {
                let mut all = Io::default();
                let add = |_: &str, stat| all = all.with(totals(stat), u64::saturating_add);
                let read = signal(cgroup.io_stat(add), failed)?;
                self.uncounted = read.is_none();
                group.work.io = read.flatten().map(|()| all);
            }
            let events_of = signal(cgroup.memory_events(), failed)?;
            events(events_of.flatten(), &mut group.work);
            events_of
        };
        group.memory_hits = hits.flatten().map(|e| e.high.saturating_add(e.max));
        // Where nobody can tell whether its own limit stalled it, its stall is no witness.
        let cpu = signal(cgroup.cpu_pressure(), failed)?.filter(|_| stat.is_some());
        let memory = signal(cgroup.memory_pressure(), failed)?.filter(|_| hits.is_some());
        let io = signal(cgroup.io_pressure(), failed)?;
        group.unread = Unread {
            cpu: cpu.is_none(),
            memory: memory.is_none(),
            io: io.is_none(),
        };
        group.stall = Stall {
            cpu: cpu.flatten().map(|p| p.some.total),
            memory: memory.flatten().map(|p| p.some.total),
            io: io.flatten().map(|p| p.some.total),
        };
        Ok(())
    }
}

/// What was read; nothing, and a failure more, if it could not be. A cgroup that is gone is an error as before.
pub(super) fn signal<T>(read: Result<T, Error>, failed: &mut Vec<Error>) -> Result<Option<T>, Error> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_gone() => Err(error),
        Err(error) => {
            failed.push(error);
            Ok(None)
        }
    }
}

fn events(read: Option<MemoryEvents>, work: &mut Work) {
    work.ooms = read.map(|events| events.oom);
    work.oom_kills = read.map(|events| events.oom_kill);
}

fn sum<'a>(devices: impl Iterator<Item = &'a Io>) -> Io {
    devices.fold(Io::default(), |all, io| all.with(*io, u64::saturating_add))
}

/// Reads a cgroup's IO by device, into `devices`.
fn io(group: &Cgroup, devices: &mut BTreeMap<String, Io>) -> Result<(), Error> {
    let mut found = 0;
    group.io_stat(|device, stat| {
        found += 1;
        match devices.get_mut(device) {
            Some(io) => *io = totals(stat),
            None => {
                devices.insert(device.to_owned(), totals(stat));
            }
        }
    })?;
    if found == devices.len() {
        return Ok(());
    }
    // A device went.
    devices.clear();
    group.io_stat(|device, stat| {
        devices.insert(device.to_owned(), totals(stat));
    })?;
    Ok(())
}

fn totals(stat: IoStat) -> Io {
    Io {
        read_bytes: stat.read_bytes,
        written_bytes: stat.written_bytes,
        reads: stat.reads,
        writes: stat.writes,
    }
}

fn bytes(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
