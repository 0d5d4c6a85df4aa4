//! What the guard sets: made to hold, and taken back.

use std::time::{Duration, Instant};

use duosuan_policy::{
    Action, Network as Seen, Observation,
    network::{NETWORK, POLICE, RATES},
};

use super::{
    PAUSE,
    holding::{Made, Refused, held, hold, rates_key},
    is_ours, is_passing, said,
};
use crate::{
    fault::{self, Point},
    journal::Entry,
    kernel::Kernel,
};

/// How long the end of an agent waits for a kernel that is kept.
const FAREWELL: Duration = Duration::from_secs(2);

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
            // The journal's, or what a rate reads: that says nothing of what the kernel can do.
            Err((None, message)) => Err(message),
            Err((errno, message)) if self.refusals.deny(POLICE, errno, &message, self.now) => Err(message),
            Err((_, message)) => {
                self.count(POLICE, message);
                Ok([0; 2])
            }
        }
    }

    fn try_hold_network(&mut self, action: &Action) -> Result<[u64; 2], Refused> {
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
        self.try_release(entry).map_err(|(_, message)| message)
    }

    fn try_release(&mut self, entry: &Entry) -> Result<bool, Refused> {
        let Some(network) = &mut self.network else {
            let what = format!(
                "{} of the network was set by an agent with --network: only one with that, and with CAP_NET_ADMIN, can put it back",
                entry.file
            );
            return Err((None, what));
        };
        // A kernel that is kept is waited for once, and not for each link: nothing else is done meanwhile.
        network.socket.glance(true);
        let released = if entry.file == RATES {
            network.unpolice()
        } else {
            let index = u32::try_from(entry.device).unwrap_or(0);
            network.let_go(index, true).map(Some)
        };
        network.socket.glance(false);
        let text = |error| (Some(error), said(&format!("{} ({})", entry.file, entry.new), error));
        let Some(written) = released.map_err(text)? else {
            return Ok(false);
        };
        fault::reach(Point::PutBack);
        let key = entry.key();
        let noted = self.journal.restored(&key);
        noted.map_err(|error| (None, format!("{error:#}")))?;
        fault::reach(Point::Restored);
        if written {
            tracing::info!(what = %entry.file, value = %entry.new, "took off the network");
        }
        Ok(written)
    }

    /// Waits a moment for what could not be put back at once: for a kernel that is kept, and for rates by which filters went until
    /// a moment ago.
    pub(in crate::kernel) fn settle_network(&mut self) -> Result<bool, String> {
        let end = Instant::now() + FAREWELL;
        let mut written = false;
        loop {
            let ours = self.journal.entries().values().filter(|entry| is_ours(entry));
            let (mut kept, mut refused) = (None, None);
            for entry in ours.cloned().collect::<Vec<Entry>>() {
                if Instant::now() >= end {
                    kept.get_or_insert_with(|| "the kernel had no time left for batch's links".to_owned());
                    break;
                }
                match self.try_release(&entry) {
                    Ok(any) => written |= any,
                    Err((Some(error), message)) if is_passing(error) => kept = Some(message),
                    Err((_, message)) => refused = Some(message),
                }
            }
            if !self.journal.entries().values().any(is_ours) {
                return Ok(written);
            }
            if (refused.is_some() && kept.is_none()) || Instant::now() >= end {
                let used = || "batch's rates cannot be taken away: filters of somebody go by them".to_owned();
                return Err(refused.or(kept).unwrap_or_else(used));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc::channel,
    };

    use rustix::io::Errno;

    use super::{
        super::{
            Network,
            scripted::{self, Reply},
        },
        *,
    };
    use crate::kernel::Roots;

    /// Each of batch's links was waited for by itself, for a second, at each look: with a hundred of them nothing else was done
    /// for minutes, and the next agent did the same before it said that it was there.
    #[test]
    fn a_kernel_that_is_kept_is_asked_once_to_take_all_links_back_and_does_it_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("cgroup/cgroup.controllers", "cpu");
        let mut kernel = Kernel::open(&Roots {
            cgroup: dir.path().join("cgroup"),
            proc: "/proc".into(),
            journal: dir.path().join("journal"),
            sys: dir.path().join("sys"),
            network: false,
        })
        .unwrap();
        let link = |device: u64| Entry {
            path: NETWORK.to_owned(),
            file: format!("link {device}"),
            device,
            inode: 0,
            old: String::new(),
            weight: None,
            new: "held".to_owned(),
            was: Vec::new(),
        };
        kernel.journal.set_all((1..=40).map(link).collect()).unwrap();
        let (free, kept) = channel::<()>();
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let socket = scripted::kernel(move |asked| {
            count.fetch_add(1, Ordering::Relaxed);
            // Kept until this is sent, and never again.
            let _ = kept.recv();
            if asked.list {
                let bodies = Vec::new();
                return Reply::List {
                    bodies,
                    interrupted: false,
                };
            }
            Reply::Error(Errno::NOENT)
        });
        kernel.network = Some(Network::over(socket, &dir.path().join("sys")));
        for _ in 0..3 {
            kernel.act_on(&[]);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert_eq!(kernel.journal.entries().len(), 40, "what was not taken back is known");
        drop(free);
        kernel.put_all_back();
        assert!(kernel.journal.entries().is_empty());
    }
}
