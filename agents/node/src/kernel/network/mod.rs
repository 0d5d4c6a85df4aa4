//! The node's network: which links are batch's, what they carry, and the rates that they are held to.
//!
//! A packet that has left its pod's network namespace belongs to no cgroup any more, but the node's end of the pod's link
//! belongs to the pod. Which link that is, the kernel says without anybody entering the namespace: it numbers the namespaces that
//! links of the node lead to, and says the number of a process's namespace as well as that of a link's other end.
//!
//! What is made: hooks on these links, a filter on them each way, and one police action each way that all filters go by. A link
//! with hooks of somebody else is left alone. All of it is in the journal before it is made; our filters and actions are
//! known by their numbers, too, so that they are found where the journal was lost.

mod counts;
mod holding;
mod links;
#[cfg(test)]
mod scripted;
mod settings;
mod socket;
mod spared;
mod tc;
mod uplink;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use duosuan_cgroup::Cgroup;
use duosuan_policy::{Millis, network::NETWORK};
use rustix::{
    io::Errno,
    thread::{CapabilitySet, capabilities},
};

use self::{
    links::Link,
    socket::Socket,
    spared::{Spared, Why},
    tc::Way,
};
use super::refusals::PASSING;
use crate::{
    fault::{self, Point},
    journal::Entry,
};

/// Where no pod came or went, it is found out again after so many looks whose link is whose.
const REFIND: u64 = 15;
/// So many looks after one came it is found out at each look, as long as one has no process yet.
const EARLY: u64 = 10;
/// Processes of a pod that are asked for their namespace: a container may have made one of its own.
const ASKED: usize = 4;
/// A filter that was taken off is gone only after a moment, and with it what keeps the actions.
const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(5);

/// The kernel's side of the network.
#[derive(Debug)]
pub(super) struct Network {
    socket: Socket,
    sys: PathBuf,
    found: Found,
    /// Whether that was found out ever.
    known: bool,
    /// The cgroups of which that was found out, when they came, and when it is to be found out again.
    generation: u64,
    came: u64,
    due: u64,
    meters: [counts::Meter; 2],
    /// Something of ours is not as it was left.
    astray: bool,
    /// Links that were seen to go by the rates: only these can lose that.
    confirmed: BTreeSet<u32>,
    /// Links that are left alone for a time.
    spared: Spared,
    /// What came in on links of ours, and what of it our filters saw, packets, when that was last compared; and the link of which
    /// it was compared last.
    passed: BTreeMap<u32, [u64; 2]>,
    checked: u32,
    /// When the counts were read last.
    counted: Option<Millis>,
    /// What was odd with single links, to be told.
    odd: Vec<String>,
}

/// What was found out.
#[derive(Debug, Default)]
struct Found {
    uplink: Option<(u32, Option<i64>)>,
    /// Why there is none, though a route leads out.
    hidden: Option<String>,
    /// Batch's links, by index.
    links: BTreeMap<u32, String>,
    held: u32,
    apart: u32,
    taken: u32,
    refused: u32,
    bypassed: u32,
    unseen: u32,
}

/// Whether a journal entry is about the network.
pub(super) fn is_ours(entry: &Entry) -> bool {
    entry.path == NETWORK
}

/// What the kernel said, and what that may mean.
fn said(what: &str, error: Errno) -> String {
    let hint = match error {
        Errno::NOENT => ": it has no module for that (sch_ingress, cls_matchall, act_police)",
        Errno::AGAIN => ": who sets up other links keeps it, or they change all the time",
        Errno::PERM => ": CAP_NET_ADMIN is missing in the node's own network namespace",
        _ => "",
    };
    format!("{what}: {error}{hint}")
}

/// Whether an error says nothing of what was asked for: it is asked for again.
fn is_passing(error: Errno) -> bool {
    PASSING.contains(&error)
}

/// What was asked of one link or process; nothing, told of in `odd`, where the kernel has something against this one. One that has is
/// no reason to leave the others.
fn of_one<T>(outcome: Result<T, Errno>, what: &str, odd: &mut Vec<String>) -> Result<Option<T>, Errno> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_passing(error) => Err(error),
        Err(error) => {
            odd.push(said(what, error));
            Ok(None)
        }
    }
}

/// `send=N receive=N` in bits a second, as bytes a second.
fn rates(value: &str) -> Option<[u64; 2]> {
    let of = |word: &str| -> Option<u64> {
        let bits = value.split(' ').find_map(|part| part.strip_prefix(word));
        bits?.parse::<u64>().ok().map(|bits| bits / 8)
    };
    Some([of("send=")?, of("receive=")?])
}

impl Network {
    /// The way to the kernel; an error in words where there is none.
    pub(super) fn open(sys: &Path) -> Result<Self, String> {
        let may = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN));
        if !may {
            return Err("the agent has no CAP_NET_ADMIN: the network of batch is not guarded".to_owned());
        }
        let socket = Socket::open().map_err(|error| format!("no netlink socket: {error}"))?;
        Ok(Self::over(socket, sys))
    }

    fn over(socket: Socket, sys: &Path) -> Self {
        Self {
            socket,
            sys: sys.to_owned(),
            found: Found::default(),
            known: false,
            generation: 0,
            came: 0,
            due: 0,
            meters: Default::default(),
            astray: false,
            confirmed: BTreeSet::new(),
            spared: Spared::default(),
            passed: BTreeMap::new(),
            checked: 0,
            counted: None,
            odd: Vec::new(),
        }
    }

    /// Finds out which link leads out, and what keeps one from being known.
    fn find_uplink(&mut self, out: Option<u32>, found: &mut Found) -> Result<(), Errno> {
        let Some(out) = out else { return Ok(()) };
        let Some(link) = links::carried(&mut self.socket, out)? else {
            return Ok(());
        };
        match uplink::below(&self.sys, &link.name, link.kind.as_deref()) {
            Ok(name) => {
                let index = if name == link.name {
                    Some(out)
                } else {
                    uplink::index(&self.sys, &name)
                };
                let speed = links::speed(&mut self.socket, &self.sys, &name)?;
                found.uplink = index.map(|index| (index, speed));
            }
            Err(why) => found.hidden = Some(why),
        }
        Ok(())
    }

    /// Finds out which links are batch's.
    fn find(
        &mut self,
        root: &Cgroup,
        batch: &[String],
        ours: &BTreeSet<u32>,
        looks: u64,
        now: Millis,
    ) -> Result<(), Errno> {
        let out = links::way_out(&mut self.socket)?;
        let mut found = Found::default();
        self.find_uplink(out, &mut found)?;
        let mut by_namespace: BTreeMap<i32, Vec<Link>> = BTreeMap::new();
        let mut hooked = BTreeSet::new();
        if !batch.is_empty() {
            for link in links::pairs(&mut self.socket)? {
                if out != Some(link.index) {
                    by_namespace.entry(link.namespace).or_default().push(link);
                }
            }
            hooked.extend(tc::hooked(&mut self.socket)?);
            self.check(ours, now)?;
        }
        let mut waits = false;
        for path in batch {
            let processes = processes(root, path);
            if processes.is_empty() {
                waits = true;
                continue;
            }
            let (mut own, mut seen) = (None, false);
            for process in processes.into_iter().filter(|process| *process > 0) {
                let namespace = links::namespace_of(&mut self.socket, process);
                let namespace = of_one(namespace, &format!("process {process} of {path}"), &mut self.odd)?;
                seen |= namespace.is_some();
                own = namespace.flatten().and_then(|namespace| by_namespace.get(&namespace));
                if own.is_some() {
                    break;
                }
            }
            let Some(own) = own else {
                *(if seen { &mut found.apart } else { &mut found.unseen }) += 1;
                continue;
            };
            let left_alone = |link: &Link| {
                let free = ours.contains(&link.index) || !hooked.contains(&link.index);
                self.spared.why(link.index, now).or((!free).then_some(Why::Taken))
            };
            // A pod with several links is held where all of them can be.
            *match own.iter().find_map(left_alone) {
                None => &mut found.held,
                Some(Why::Taken) => &mut found.taken,
                Some(Why::Refused) => &mut found.refused,
                Some(Why::Bypassed) => &mut found.bypassed,
            } += 1;
            let free = own.iter().filter(|link| left_alone(link).is_none());
            found.links.extend(free.map(|link| (link.index, link.name.clone())));
        }
        // One that was unhooked behind our back, and one that came with hooks, look the same from here: what is in the journal
        // and has none is astray.
        self.astray |= ours
            .iter()
            .any(|index| found.links.contains_key(index) && !hooked.contains(index));
        let there: BTreeSet<u32> = by_namespace.values().flatten().map(|link| link.index).collect();
        self.spared.retain(|index| there.contains(&index), now);
        self.confirmed.retain(|index| there.contains(index));
        (self.found, self.known) = (found, true);
        self.due = looks
            + if waits && looks.saturating_sub(self.came) < EARLY {
                1
            } else {
                REFIND
            };
        self.counted = None;
        Ok(())
    }

    /// Has a link's packets go by the actions.
    fn hold(&mut self, index: u32) -> Result<(), Errno> {
        tc::hook(&mut self.socket, index)?;
        fault::reach(Point::Written);
        for way in Way::BOTH {
            tc::filter(&mut self.socket, index, way)?;
        }
        fault::reach(Point::Verified);
        Ok(())
    }

    /// Whether both filters of ours are on a link.
    fn holds(&mut self, index: u32) -> Result<bool, Errno> {
        for way in Way::BOTH {
            let found = gone(tc::filters(&mut self.socket, index, way))?;
            if found.is_none_or(|filters| filters.ours == 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes what is ours off a link: the hooks too, unless somebody else put a filter on them since. `own_hooks`: whether
    /// hooks without any filter are ours as well.
    fn let_go(&mut self, index: u32, own_hooks: bool) -> Result<bool, Errno> {
        let mut there = tc::Filters::default();
        for way in Way::BOTH {
            let found = tc::filters(&mut self.socket, index, way);
            let found = gone(found)?.unwrap_or_default();
            there.ours += found.ours;
            there.others += found.others;
        }
        if there.others == 0 && (there.ours > 0 || own_hooks) {
            return Ok(gone(tc::unhook(&mut self.socket, index))?.is_some());
        }
        for way in Way::BOTH.into_iter().filter(|_| there.ours > 0) {
            gone(tc::unfilter(&mut self.socket, index, way))?;
        }
        Ok(there.ours > 0)
    }

    /// Takes the actions away, and answers whether there were any; nothing while a filter still goes by one.
    fn unpolice(&mut self) -> Result<Option<bool>, Errno> {
        let (mut all, mut any) = (true, false);
        for way in Way::BOTH {
            let there = match tc::policed(&mut self.socket, way) {
                // Somebody else's.
                Err(Errno::EXIST) => None,
                there => there?,
            };
            if there.is_some() {
                match tc::unpolice(&mut self.socket, way) {
                    Ok(()) => any = true,
                    Err(Errno::NOENT) => {}
                    Err(Errno::PERM | Errno::BUSY) => all = false,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(all.then_some(any))
    }

    /// Takes away what an agent left whose journal is lost.
    pub(super) fn sweep(&mut self) -> Result<(), Errno> {
        for index in tc::hooked(&mut self.socket)? {
            if self.let_go(index, false)? {
                tracing::warn!(
                    index,
                    "took filters off a link that an agent before this one left there"
                );
            }
        }
        let end = Instant::now() + PATIENCE;
        while self.unpolice()?.is_none() && Instant::now() < end {
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}

/// A link that is gone, and what it had with it, is none to be told of.
fn gone<T>(outcome: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match outcome {
        Ok(done) => Ok(Some(done)),
        Err(Errno::NODEV | Errno::NOENT | Errno::INVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Some processes of a cgroup, one of each cgroup in it; 0 for one that is not in the reader's own namespace of processes.
fn processes(root: &Cgroup, path: &str) -> Vec<i32> {
    let mut found = Vec::new();
    if let Ok(group) = root.child(path) {
        first_of_each(&group, &mut found);
    }
    found
}

fn first_of_each(group: &Cgroup, into: &mut Vec<i32>) {
    let first = group.procs().ok().flatten().and_then(|all| all.first().copied());
    into.extend(first);
    for name in group.children().unwrap_or_default() {
        if into.len() >= ASKED {
            return;
        }
        if let Ok(child) = group.child(&name) {
            first_of_each(&child, into);
        }
    }
}
