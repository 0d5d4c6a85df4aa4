//! The node's own kernel behind [`crate::machine::Machine`].

mod actor;
mod cache;
mod containers;
mod host;
mod network;
mod observer;
mod refusals;
mod slot;
mod slow;
mod systemd;
mod undo;
mod units;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use duosuan_cgroup::{
    Cgroup,
    numa::NumaNodes,
    proc::Proc,
    resctrl::{Folders, Resctrl},
};
use duosuan_policy::{Action, Capabilities, Millis, NamedGroup, Observation, Resources, Tier};

use crate::{
    journal::{Journal, Key},
    layout::Finder,
    machine::{Acted, Failure, Machine},
    pods::PodInfo,
};

/// A failure that was not met in so many looks has ceased, and is logged when it begins anew. What is read least often is
/// read at one look of 60.
const FORGOTTEN_AFTER: u64 = 60;

/// Where the kernel is found.
#[derive(Clone, Debug)]
pub struct Roots {
    /// Root of the cgroup v2 tree.
    pub cgroup: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
    /// The journal.
    pub journal: PathBuf,
    /// `/sys`, with resctrl below it where that is mounted.
    pub sys: PathBuf,
    /// Whether links of the node are looked after: it has to be asked for, since it needs a capability and the node's own network.
    pub network: bool,
}

/// The node's own kernel.
#[derive(Debug)]
pub struct Kernel {
    root: Cgroup,
    proc: Proc,
    /// Cgroups outside pods that the policy names.
    groups: Vec<NamedGroup>,
    /// systemd, where it runs the machine.
    units: Option<units::Units>,
    /// What the kernel has.
    probed: Capabilities,
    /// The same without what it refuses.
    capabilities: Capabilities,
    finder: Finder,
    /// Cgroups that are looked at, in the order of the groups that are seen.
    held: Vec<observer::Held>,
    /// The pods as they were when that was found out.
    known: Vec<PodInfo>,
    /// Whether one that should be looked at was not there, as at the beginning all are.
    missing: bool,
    /// Cgroups that the policy names and that are not there, as was found out then.
    absent: Vec<String>,
    /// Counts up when other cgroups are looked at.
    generation: u64,
    /// Cgroups of batch at the last look.
    batch: Vec<String>,
    sys: PathBuf,
    /// CPUs by physical core.
    cores: Vec<Vec<u32>>,
    /// Absent where resctrl controls nothing.
    cache: Option<cache::Cache>,
    /// Absent where they cannot be read.
    numa: Option<NumaNodes>,
    /// Block devices by name, and whether they are whole disks.
    disks: BTreeMap<String, bool>,
    /// Absent where links are not looked after.
    network: Option<network::Network>,
    looks: u64,
    /// When it was looked last.
    now: Millis,
    journal: Journal,
    /// How often each setting was changed back lately: who fights is yielded to.
    fights: BTreeMap<Key, actor::Fight>,
    refusals: refusals::Refusals,
    /// Lists of CPUs that cannot be emptied yet, and when that was tried.
    opened: BTreeMap<Key, Millis>,
    /// Patient settings that hold, by cgroup and file, and the look at which all of them are read back again.
    settled: Vec<Action>,
    settled_until: u64,
    /// Writes for which the kernel takes its time, and what is to be said of each when it is made.
    slow: slow::Slow,
    pending: BTreeMap<Key, actor::Pending>,
    failed: Vec<Failure>,
    /// Failures that were logged already and have not ceased since, with the look at which each was met last.
    logged: BTreeMap<String, u64>,
}

impl Kernel {
    /// Opens the kernel's files, and puts back what an agent before this one left changed.
    ///
    /// # Errors
    ///
    /// If there is no cgroup v2 tree, `/proc` cannot be read, or the journal cannot be written.
    pub fn open(roots: &Roots) -> anyhow::Result<Self> {
        Self::open_with(roots, Folders::default())
    }

    /// The same, where folders of resctrl come and go in a way of their own: no emulated processor has it.
    ///
    /// # Errors
    ///
    /// As [`Kernel::open`].
    pub fn open_with(roots: &Roots, folders: Folders) -> anyhow::Result<Self> {
        let root = Cgroup::open(&roots.cgroup)
            .with_context(|| format!("no cgroups at {}: give --cgroup-root DIR", roots.cgroup.display()))?;
        if !root.has("cgroup.controllers") {
            bail!(
                "{} is no cgroup v2 tree (it has no cgroup.controllers): boot with systemd.unified_cgroup_hierarchy=1, \
                 or give --cgroup-root DIR",
                roots.cgroup.display()
            );
        }
        capacity(&roots.proc)?;
        let proc = Proc::open(&roots.proc).context("no /proc: give --proc-root DIR")?;
        let boot = boot_id(&roots.proc);
        let journal = Journal::open(&roots.journal, &boot)?;
        let mut kernel = Self {
            units: units::Units::of(&root),
            root,
            proc,
            groups: Vec::new(),
            probed: Capabilities::default(),
            capabilities: Capabilities::default(),
            finder: Finder::default(),
            held: Vec::new(),
            known: Vec::new(),
            missing: true,
            absent: Vec::new(),
            generation: 0,
            batch: Vec::new(),
            sys: roots.sys.clone(),
            cores: Vec::new(),
            cache: None,
            numa: None,
            disks: BTreeMap::new(),
            network: None,
            looks: 0,
            now: 0,
            journal,
            fights: BTreeMap::new(),
            refusals: refusals::Refusals::default(),
            opened: BTreeMap::new(),
            settled: Vec::new(),
            settled_until: 0,
            slow: slow::Slow::start().context("no thread to reclaim memory")?,
            pending: BTreeMap::new(),
            failed: Vec::new(),
            logged: BTreeMap::new(),
        };
        match NumaNodes::open(&roots.sys) {
            Ok(nodes) => kernel.numa = Some(nodes),
            Err(error) => kernel.fail("numa", error.to_string()),
        }
        let found =
            Resctrl::open(&roots.sys.join("fs/resctrl"), folders).and_then(|r| r.map_or(Ok(None), cache::Cache::of));
        match found {
            Ok(cache) => kernel.cache = cache,
            Err(error) => kernel.fail("resctrl", error.to_string()),
        }
        if roots.network {
            match network::Network::open(&roots.sys) {
                Ok(network) => kernel.network = Some(network),
                Err(message) => kernel.fail("netlink", message),
            }
        }
        let left = kernel.journal.entries().len();
        if left > 0 {
            let restored = kernel.restore();
            tracing::warn!(
                left,
                written = restored.written,
                "put back what an agent before this one left changed"
            );
        }
        if let Some(Err(error)) = kernel.network.as_mut().map(network::Network::sweep) {
            kernel.fail(
                "netlink",
                format!("links cannot be searched for what is left there: {error}"),
            );
        }
        Ok(kernel)
    }

    /// Puts everything back that was changed.
    pub fn restore(&mut self) -> Acted {
        let mut acted = self.put_all_back();
        acted.failed = std::mem::take(&mut self.failed);
        acted
    }

    /// Cgroups whose stall is prod's: triggers belong on their pressure files. Batch is in none of them.
    pub fn trigger_places(&self) -> Vec<String> {
        let firm = self.groups.iter().filter(|group| group.tier != Tier::Batch);
        let named = firm.map(|group| group.path.clone());
        let layout = self.finder.layout();
        let guaranteed = layout.pods.iter().filter(|p| p.guaranteed).map(|p| p.path.clone());
        named.chain(layout.burstable.clone()).chain(guaranteed).collect()
    }

    /// Changes when other cgroups are looked at, and with them perhaps [`Kernel::trigger_places`].
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// A cgroup below the root.
    ///
    /// # Errors
    ///
    /// If it is not there.
    pub fn group(&self, path: &str) -> Result<Cgroup, duosuan_cgroup::Error> {
        self.root.child(path)
    }

    /// Logs a failure when it begins, counts it each time.
    fn fail(&mut self, file: &str, message: String) {
        if self.logged.insert(message.clone(), self.looks).is_none() {
            tracing::warn!(file, "{message}; going on without it");
        }
        self.count(file, message);
    }

    /// Counts a failure that was logged before.
    fn count(&mut self, file: &str, message: String) {
        self.failed.push(Failure {
            file: file.to_owned(),
            message,
        });
    }

    /// Takes what the kernel refuses off what it has.
    fn lower(&mut self) {
        let denied = self.refusals.denied(self.now);
        if !denied.eq(self
            .capabilities
            .refused
            .iter()
            .map(|(f, why)| (f.as_str(), why.as_str())))
        {
            let denied = self.refusals.denied(self.now);
            let all = self.probed.clone();
            self.capabilities = denied.fold(all, |left, (file, why)| left.without(file, why));
        }
    }
}

impl Machine for Kernel {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn name(&mut self, groups: &[NamedGroup]) {
        if self.groups != groups {
            self.groups = groups.to_vec();
            // What there is to look at is found out anew.
            self.missing = true;
        }
    }

    fn observe(&mut self, pods: &[PodInfo], now: Millis, seen: &mut Observation) {
        self.now = now;
        let looks = self.looks;
        self.logged
            .retain(|_, last| looks.saturating_sub(*last) <= FORGOTTEN_AFTER);
        self.observe_groups(pods, seen);
    }

    fn act(&mut self, actions: &[Action]) -> Acted {
        let mut acted = self.act_on(actions);
        acted.failed = std::mem::take(&mut self.failed);
        acted
    }
}

/// What the node has.
///
/// # Errors
///
/// If `/proc` does not say.
pub fn capacity(proc: &Path) -> anyhow::Result<Resources> {
    let proc = Proc::open(proc).context("no /proc: give --proc-root DIR")?;
    let cpu = proc.cpu_time().context("the node's CPU time cannot be read")?;
    let memory = proc.meminfo().context("the node's memory cannot be read")?;
    Ok(Resources {
        cpu: i64::from(cpu.cpus) * 1000,
        memory: i64::try_from(memory.total).unwrap_or(i64::MAX),
    })
}

fn boot_id(proc: &Path) -> String {
    let read = std::fs::read_to_string(proc.join("sys/kernel/random/boot_id"));
    read.map(|id| id.trim().to_owned())
        .unwrap_or_else(|_| "unknown".to_owned())
}
