//! What the guard sets: made to hold, and taken back.

use std::time::Instant;

use duosuan_policy::{
    Action, Network as Seen, Observation,
    network::{NETWORK, POLICE, RATES},
};
use rustix::io::Errno;

use super::{
    PATIENCE, PAUSE,
    holding::{Made, held, hold, rates_key},
    said,
};
use crate::{
    fault::{self, Point},
    journal::Entry,
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
        network.socket.glance(true);
        if network.generation != self.generation {
            (network.generation, network.came, network.due) = (self.generation, self.looks, 0);
        }
        let found = if self.looks >= network.due {
            network.find(&self.root, &self.batch, &ours, self.looks, self.now)
        } else {
            Ok(())
        };
        let rates = entries.get(&rates_key());
        let into = seen.network.get_or_insert_with(Seen::default);
        // Whose links were whose a moment ago is as good as known; where it never was, there is nothing to count.
        let counted = match found {
            Err(error) if !network.known => Err(error),
            _ => network.count(rates, ours.len(), self.now, into),
        };
        network.socket.glance(false);
        into.unread = counted.is_err();
        let odd = std::mem::take(&mut network.odd);
        let failed = found.err().or(counted.err());
        for message in odd {
            self.fail("netlink", message);
        }
        if let Some(error) = failed {
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
        let Some(network) = &mut self.network else {
            return Ok([0; 2]);
        };
        network.socket.glance(true);
        let mut made = Made::default();
        let outcome = hold(network, &mut self.journal, action, self.now, &mut made);
        network.socket.glance(false);
        for message in std::mem::take(&mut network.odd) {
            self.fail(POLICE, message);
        }
        outcome.map(|()| [made.written, made.reasserted])
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
