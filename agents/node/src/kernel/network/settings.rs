//! What the guard sets: made to hold, and taken back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use duosuan_policy::{
    Action, Network as Seen, Observation,
    network::{NETWORK, POLICE, RATES},
};
use rustix::io::Errno;

use super::{PATIENCE, PAUSE, YIELD_AT, gone, is_ours, rates, said, tc, tc::Way};
use crate::{
    fault::{self, Point},
    journal::{Entry, Key},
    kernel::Kernel,
};

impl Kernel {
    /// What there is of the network, and what went over it.
    pub(in crate::kernel) fn observe_network(&mut self, seen: &mut Observation) {
        let Some(network) = &mut self.network else {
            seen.network = None;
            return;
        };
        let entries = self.journal.entries();
        let ours = held(entries);
        let mut outcome = Ok(());
        if network.generation != self.generation {
            (network.generation, network.came, network.due) = (self.generation, self.looks, 0);
        }
        if self.looks >= network.due {
            outcome = network.find(&self.root, &self.batch, &ours, self.looks);
        }
        let rates = entries.get(&rates_key());
        let into = seen.network.get_or_insert_with(Seen::default);
        let outcome = outcome.and_then(|()| network.count(rates, ours.len(), into));
        into.unread = outcome.is_err();
        if let Err(error) = outcome {
            self.fail("netlink", said("the node's network cannot be looked at", error));
        }
    }

    /// Whether rates can be held here, as far as is known before it is tried.
    pub(in crate::kernel) const fn can_police(&self) -> bool {
        self.network.is_some()
    }

    /// Makes batch's rates hold on all of batch's links and on no other; settings that were made, and how many of them anew.
    pub(in crate::kernel) fn hold_network(&mut self, action: &Action) -> Result<[u64; 2], String> {
        let held = self.try_hold_network(action);
        match held {
            Ok(made) => {
                self.refusals.holds(&(NETWORK.to_owned(), POLICE.to_owned()));
                Ok(made)
            }
            Err((errno, message)) if self.refusals.deny(POLICE, errno, &message, self.now) => Err(message),
            Err((_, message)) => {
                self.count(POLICE, message);
                Ok([0; 2])
            }
        }
    }

    fn try_hold_network(&mut self, action: &Action) -> Result<[u64; 2], (Option<Errno>, String)> {
        let journal = |error: anyhow::Error| (None, format!("{error:#}"));
        let Some(network) = &mut self.network else {
            return Ok([0; 2]);
        };
        let rates = rates(&action.value).ok_or_else(|| (None, format!("{:?} is no pair of rates", action.value)))?;
        let [mut written, mut reasserted] = [0; 2];
        let known = self.journal.entries().get(&rates_key()).map(|e| e.new.clone());
        let astray = std::mem::take(&mut network.astray);
        let another = known.as_ref() != Some(&action.value);
        if another {
            let entry = entry(RATES.to_owned(), 0, &action.value);
            self.journal.set(entry).map_err(journal)?;
            fault::reach(Point::Journalled);
        }
        for (way, rate) in Way::BOTH.into_iter().zip(rates).filter(|_| another || astray) {
            let text = |error| (Some(error), said("batch's rate", error));
            // A number that somebody else uses is his.
            let there = tc::policed(&mut network.socket, way).map_err(text)?;
            if there.is_some_and(|police| police.rate == rate) {
                continue;
            }
            tc::police(&mut network.socket, way, rate).map_err(text)?;
            let now = tc::policed(&mut network.socket, way)
                .map_err(text)?
                .map(|police| police.rate);
            if now != Some(rate) {
                return Err((
                    None,
                    format!("batch's rate reads {now:?} where {rate} bytes a second were set"),
                ));
            }
            written += 1;
            reasserted += u64::from(!another);
        }
        if another {
            tracing::info!(to = %action.value, "{}", action.why);
        }
        let ours = held(self.journal.entries());
        if !astray && ours.iter().eq(network.found.links.keys()) {
            return Ok([written, reasserted]);
        }
        let links = network.found.links.clone();
        for index in ours.iter().filter(|index| !links.contains_key(index)) {
            let text = |error| (Some(error), said(&format!("link {index}"), error));
            network.let_go(*index, true).map_err(text)?;
            self.journal.restored(&link_key(*index)).map_err(journal)?;
            written += 1;
        }
        let mut to_hold: Vec<(u32, String)> = Vec::new();
        for (index, name) in &links {
            let text = |error| (Some(error), said(name, error));
            if !ours.contains(index) {
                to_hold.push((*index, name.clone()));
            } else if astray && !network.holds(*index).map_err(text)? {
                network.let_go(*index, true).map_err(text)?;
                self.journal.restored(&link_key(*index)).map_err(journal)?;
                // Whose link it is may have changed: a host end that comes from a pod's namespace keeps its index, and may get
                // one that was batch's. The next look finds out, and it is held again if it is batch's still.
                network.due = 0;
                let times = network.lost.entry(*index).or_default();
                *times += 1;
                if *times < YIELD_AT {
                    reasserted += 1;
                } else {
                    tracing::warn!(link = %name, "somebody keeps taking batch's rates off it: left to him");
                }
            }
        }
        if to_hold.is_empty() {
            return Ok([written, reasserted]);
        }
        let entries = to_hold.iter().map(|(index, name)| link_entry(*index, name));
        self.journal.set_all(entries.collect()).map_err(journal)?;
        fault::reach(Point::Journalled);
        let mut refused = None;
        for (index, name) in to_hold {
            match network.hold(index) {
                Ok(()) => {
                    tracing::info!(link = %name, "batch's rates hold on it");
                    written += 1;
                    continue;
                }
                Err(Errno::EXIST) => {
                    // Somebody was there before us, since it was looked at: the next look counts it as his.
                    network.due = 0;
                }
                Err(Errno::NODEV) => network.due = 0,
                Err(error) => {
                    refused = Some((Some(error), said(&name, error)));
                    gone(network.let_go(index, true)).map_err(|error| (Some(error), said(&name, error)))?;
                }
            }
            self.journal.restored(&link_key(index)).map_err(journal)?;
        }
        refused.map_or(Ok([written, reasserted]), Err)
    }

    /// Puts back what a journal entry says; true if that was anything. What cannot go yet stays in the journal.
    pub(in crate::kernel) fn release(&mut self, entry: &Entry) -> Result<bool, String> {
        let Some(network) = &mut self.network else {
            return Err(format!(
                "{} of the network was set by an agent with --network: only one with that, and with CAP_NET_ADMIN, can put it back",
                entry.file
            ));
        };
        let text = |error| said(&format!("{} ({})", entry.file, entry.new), error);
        let written = if entry.file == RATES {
            let Some(any) = network.unpolice().map_err(text)? else {
                return Ok(false);
            };
            any
        } else {
            let index = u32::try_from(entry.device).unwrap_or(0);
            network.let_go(index, true).map_err(text)?
        };
        fault::reach(Point::PutBack);
        let key = entry.key();
        self.journal.restored(&key).map_err(|e| format!("{e:#}"))?;
        fault::reach(Point::Restored);
        if written {
            tracing::info!(what = %entry.file, value = %entry.new, "took off the network");
        }
        Ok(written)
    }

    /// Waits a moment for what could not be put back at once.
    pub(in crate::kernel) fn settle_network(&mut self) -> Result<bool, String> {
        let end = Instant::now() + PATIENCE;
        loop {
            let Some(entry) = self.journal.entries().get(&rates_key()).cloned() else {
                return Ok(false);
            };
            let written = self.release(&entry)?;
            if !self.journal.entries().contains_key(&rates_key()) {
                return Ok(written);
            }
            if Instant::now() >= end {
                return Err("batch's rates cannot be taken away: filters of somebody go by them".to_owned());
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// Links that carry our filters, by the journal.
fn held(entries: &BTreeMap<Key, Entry>) -> BTreeSet<u32> {
    let ours = entries.values().filter(|entry| is_ours(entry) && entry.file != RATES);
    ours.filter_map(|entry| u32::try_from(entry.device).ok()).collect()
}

fn link_key(index: u32) -> Key {
    (NETWORK.to_owned(), format!("link {index}"))
}

fn rates_key() -> Key {
    (NETWORK.to_owned(), RATES.to_owned())
}

/// A link's entry in the journal.
fn link_entry(index: u32, name: &str) -> Entry {
    entry(format!("link {index}"), index, name)
}

fn entry(file: String, index: u32, new: &str) -> Entry {
    Entry {
        path: NETWORK.to_owned(),
        file,
        device: u64::from(index),
        inode: 0,
        old: String::new(),
        weight: None,
        new: new.to_owned(),
        was: Vec::new(),
    }
}
