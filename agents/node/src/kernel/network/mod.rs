//! The node's network: which links are batch's, what they carry, and the rates that they are held to.
//!
//! A packet that has left its pod's network namespace belongs to no cgroup any more, but the node's end of the pod's link
//! belongs to the pod. Which link that is, the kernel says without anybody entering the namespace: it numbers the namespaces that
//! links of the node lead to, and says the number of a process's namespace as well as that of a link's other end.
//!
//! What is made: hooks on these links, a filter on them each way, and one police action each way that all filters go by. A link
//! with hooks of somebody else is left alone. All of it is in the journal before it is made; our filters and actions are
//! known by their numbers, too, so that they are found where the journal was lost.

mod links;
mod settings;
mod socket;
mod tc;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use duosuan_cgroup::Cgroup;
use duosuan_policy::{
    Network as Seen,
    network::{NETWORK, Uplink},
};
use rustix::{
    io::Errno,
    thread::{CapabilitySet, capabilities},
};

use self::{
    links::Link,
    socket::Socket,
    tc::{Police, Way},
};
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
/// Somebody who took our hooks off a link so many times may have it.
const YIELD_AT: u32 = 5;
/// A filter that was taken off is gone only after a moment, and with it what keeps the actions.
const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(5);

/// The kernel's side of the network.
#[derive(Debug)]
pub(super) struct Network {
    socket: Socket,
    sys: PathBuf,
    found: Found,
    /// The cgroups of which that was found out, when they came, and when it is to be found out again.
    generation: u64,
    came: u64,
    due: u64,
    meters: [Meter; 2],
    /// Something of ours is not as it was left.
    astray: bool,
    /// How often each link lost our hooks.
    lost: BTreeMap<u32, u32>,
}

/// What was found out.
#[derive(Debug, Default)]
struct Found {
    uplink: Option<(u32, Option<i64>)>,
    /// Batch's links, by index.
    links: BTreeMap<u32, String>,
    held: u32,
    apart: u32,
    taken: u32,
    unseen: u32,
}

/// A count that goes on while what is counted comes and goes.
#[derive(Debug, Default)]
struct Meter {
    parts: BTreeMap<u32, u64>,
    total: u64,
}

/// The part that an action of ours counts, beside those of links by their indexes.
const ACTION: u32 = 0;

impl Meter {
    /// Takes in the counts of all parts. What a link counted before it was first seen does not count, nor does what is lost where
    /// it begins anew. An action of ours counts from its beginning: it takes over from the links, and what went by it until it
    /// is first seen would be taken for prod's.
    fn take(&mut self, parts: BTreeMap<u32, u64>) -> u64 {
        for (part, now) in &parts {
            let new = if *part == ACTION { 0 } else { *now };
            let before = self.parts.get(part).copied().unwrap_or(new);
            self.total += now.saturating_sub(before);
        }
        self.parts = parts;
        self.total
    }
}

/// Whether a journal entry is about the network.
pub(super) fn is_ours(entry: &Entry) -> bool {
    entry.path == NETWORK
}

/// What the kernel said, and what that may mean.
fn said(what: &str, error: Errno) -> String {
    let hint = match error {
        Errno::NOENT => ": it has no module for that (sch_ingress, cls_matchall, act_police)",
        Errno::PERM => ": CAP_NET_ADMIN is missing in the node's own network namespace",
        _ => "",
    };
    format!("{what}: {error}{hint}")
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
        Ok(Self {
            socket: Socket::open().map_err(|error| format!("no netlink socket: {error}"))?,
            sys: sys.to_owned(),
            found: Found::default(),
            generation: 0,
            came: 0,
            due: 0,
            meters: Default::default(),
            astray: false,
            lost: BTreeMap::new(),
        })
    }

    /// Finds out which links are batch's.
    fn find(&mut self, root: &Cgroup, batch: &[String], ours: &BTreeSet<u32>, looks: u64) -> Result<(), Errno> {
        let out = links::way_out(&mut self.socket)?;
        let mut found = Found::default();
        if let Some(index) = out
            && let Some((name, _)) = links::carried(&mut self.socket, index)?
        {
            found.uplink = Some((index, links::speed(&self.sys, &name)));
        }
        let mut by_namespace: BTreeMap<i32, Vec<Link>> = BTreeMap::new();
        let mut hooked = BTreeSet::new();
        if !batch.is_empty() {
            for link in links::pairs(&mut self.socket)? {
                if out != Some(link.index) {
                    by_namespace.entry(link.namespace).or_default().push(link);
                }
            }
            hooked.extend(tc::hooked(&mut self.socket)?);
        }
        let mut waits = false;
        for path in batch {
            let processes = processes(root, path);
            if processes.is_empty() {
                waits = true;
                continue;
            }
            let mut own = None;
            for process in processes.iter().filter(|process| **process > 0) {
                let namespace = links::namespace_of(&mut self.socket, *process)?;
                own = namespace.and_then(|namespace| by_namespace.get(&namespace));
                if own.is_some() {
                    break;
                }
            }
            let Some(own) = own else {
                let seen = processes.iter().any(|process| *process > 0);
                *(if seen { &mut found.apart } else { &mut found.unseen }) += 1;
                continue;
            };
            let free = |link: &&Link| {
                let lost = self.lost.get(&link.index).is_some_and(|times| *times >= YIELD_AT);
                ours.contains(&link.index) || !(lost || hooked.contains(&link.index))
            };
            // A pod with several links is held where all of them can be.
            let all = own.iter().filter(free).count() == own.len();
            *(if all { &mut found.held } else { &mut found.taken }) += 1;
            found
                .links
                .extend(own.iter().filter(free).map(|link| (link.index, link.name.clone())));
        }
        // One that was unhooked behind our back, and one that came with hooks, look the same from here: what is in the journal
        // and has none is astray.
        self.astray |= ours
            .iter()
            .any(|index| found.links.contains_key(index) && !hooked.contains(index));
        let there = |index: &u32| by_namespace.values().flatten().any(|link| link.index == *index);
        self.lost.retain(|index, _| there(index));
        self.found = found;
        self.due = looks
            + if waits && looks.saturating_sub(self.came) < EARLY {
                1
            } else {
                REFIND
            };
        Ok(())
    }

    /// Counts what went over the link that leads out, and what of it was batch's, into `seen`.
    fn count(&mut self, held: Option<&Entry>, links_held: usize, seen: &mut Seen) -> Result<(), Errno> {
        let out = match self.found.uplink {
            Some((index, speed)) => links::carried(&mut self.socket, index)?.map(|found| (found, speed)),
            None => None,
        };
        match out {
            Some(((name, carried), speed)) => {
                let uplink = seen.uplink.get_or_insert_with(Uplink::default);
                if uplink.name != name {
                    uplink.name = name;
                }
                (uplink.speed, uplink.sent, uplink.received) = (speed, carried.sent, carried.received);
            }
            None => {
                seen.uplink = None;
                // It may be another one by now.
                self.due = 0;
            }
        }
        (seen.held, seen.apart, seen.taken, seen.unseen) =
            (self.found.held, self.found.apart, self.found.taken, self.found.unseen);
        let wanted = held.and_then(|entry| rates(&entry.new));
        let mut parts: [BTreeMap<u32, u64>; 2] = Default::default();
        let [sent, received] = &mut parts;
        if let Some(wanted) = wanted {
            let mut dropped = [0; 2];
            let each = Way::BOTH
                .into_iter()
                .zip(wanted)
                .zip([sent, received])
                .zip(&mut dropped);
            for (((way, rate), bytes), dropped) in each {
                let police = tc::policed(&mut self.socket, way)?;
                self.astray |= !police.is_some_and(|police| is_as_left(&police, rate, links_held));
                if let Some(police) = police {
                    bytes.insert(ACTION, police.bytes);
                    *dropped = u64::from(police.dropped);
                }
            }
            [seen.sent.dropped, seen.received.dropped] = dropped;
        } else {
            for index in self.found.links.keys() {
                // What comes in on the node's end is what the pod sends.
                if let Some((_, carried)) = links::carried(&mut self.socket, *index)? {
                    sent.insert(*index, carried.received);
                    received.insert(*index, carried.sent);
                }
            }
        }
        let [sent, received] = &mut self.meters;
        let [sent_now, received_now] = parts;
        seen.sent.bytes = sent.take(sent_now);
        seen.received.bytes = received.take(received_now);
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
            if tc::filters(&mut self.socket, index, way)?.ours == 0 {
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

/// Whether an action is what we made it, and each link has a filter that goes by it.
fn is_as_left(police: &Police, rate: u64, links: usize) -> bool {
    police.rate == rate && usize::try_from(police.filters).is_ok_and(|filters| filters == links)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Batch's traffic of the look in which its rates are set first would be taken for prod's, and batch be cut for it.
    #[test]
    fn nothing_is_lost_when_the_count_goes_over_from_links_to_the_action_that_holds_them() {
        let mut meter = Meter::default();
        let links = |a, b| BTreeMap::from([(7, a), (8, b)]);
        assert_eq!(meter.take(links(1_000, 50)), 0, "what was before is not counted");
        assert_eq!(meter.take(links(1_100, 60)), 110);
        assert_eq!(meter.take(BTreeMap::from([(ACTION, 90)])), 200);
        assert_eq!(meter.take(BTreeMap::from([(ACTION, 95)])), 205);
        assert_eq!(meter.take(links(2_000, 500)), 205);
    }
}
