//! Has batch's rates hold on batch's links and on no other.

use std::collections::{BTreeMap, BTreeSet};

use duosuan_policy::{
    Action, Millis,
    network::{NETWORK, RATES},
};
use rustix::io::Errno;

use super::{
    Network, gone, is_ours, is_passing, of_one, rates, said,
    spared::Why,
    tc::{self, Way},
};
use crate::{
    fault::{self, Point},
    journal::{Entry, Journal, Key},
};

/// Settings that were made, and how many of them anew.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) written: u64,
    pub(super) reasserted: u64,
}

/// What was refused, and how.
pub(super) type Refused = (Option<Errno>, String);

fn journalled(error: anyhow::Error) -> Refused {
    (None, format!("{error:#}"))
}

/// Makes the rates hold on all of batch's links and on no other. What the kernel has against one link is told of that link, which
/// is left alone for a time: the others are held all the same.
pub(super) fn hold(
    network: &mut Network,
    journal: &mut Journal,
    action: &Action,
    now: Millis,
    made: &mut Made,
) -> Result<(), Refused> {
    let astray = std::mem::take(&mut network.astray);
    let outcome = police(network, journal, action, astray, made).and_then(|()| {
        let ours = held(journal.entries());
        if !astray && ours.iter().eq(network.found.links.keys()) {
            return Ok(());
        }
        let_go(network, journal, &ours, now, made)?;
        let to_hold = to_hold(network, journal, &ours, astray, now, made)?;
        take_hold(network, journal, to_hold, now, made)
    });
    if outcome.is_err() {
        // It was not seen to its end.
        network.astray |= astray;
    }
    outcome
}

/// Makes the two actions, with these rates.
fn police(
    network: &mut Network,
    journal: &mut Journal,
    action: &Action,
    astray: bool,
    made: &mut Made,
) -> Result<(), Refused> {
    let rates = rates(&action.value).ok_or_else(|| (None, format!("{:?} is no pair of rates", action.value)))?;
    let another = journal
        .entries()
        .get(&rates_key())
        .is_none_or(|known| known.new != action.value);
    if another {
        let entry = entry(RATES.to_owned(), 0, &action.value);
        journal.set(entry).map_err(journalled)?;
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
        made.written += 1;
        made.reasserted += u64::from(!another);
    }
    if another {
        tracing::info!(to = %action.value, "{}", action.why);
    }
    Ok(())
}

/// Lets links of ours go that are not batch's, or not to be held, any more.
fn let_go(
    network: &mut Network,
    journal: &mut Journal,
    ours: &BTreeSet<u32>,
    now: Millis,
    made: &mut Made,
) -> Result<(), Refused> {
    let over = ours.iter().filter(|index| !network.found.links.contains_key(index));
    for index in over.copied().collect::<Vec<u32>>() {
        if network.spared.why(index, now) == Some(Why::Refused) {
            // It stays in the journal, and is tried again when its time is over.
            continue;
        }
        let what = format!("link {index}");
        let outcome = network.let_go(index, true);
        match of_one(outcome, &what, &mut network.odd).map_err(|error| (Some(error), said(&what, error)))? {
            Some(_) => {
                journal.restored(&link_key(index)).map_err(journalled)?;
                made.written += 1;
            }
            None => drop(network.spared.refuse(index, now)),
        }
    }
    Ok(())
}

/// Links that have to be held anew, by index and name. One that was unhooked behind our back is let go first, and left to who did it
/// where he keeps doing it.
fn to_hold(
    network: &mut Network,
    journal: &mut Journal,
    ours: &BTreeSet<u32>,
    astray: bool,
    now: Millis,
    made: &mut Made,
) -> Result<Vec<(u32, String)>, Refused> {
    let mut to_hold = Vec::new();
    for (index, name) in network.found.links.clone() {
        if !ours.contains(&index) {
            to_hold.push((index, name));
            continue;
        }
        if !astray {
            continue;
        }
        let text = |error| (Some(error), said(&name, error));
        let holds = network.holds(index);
        let holds = of_one(holds, &name, &mut network.odd).map_err(text)?;
        if holds == Some(true) {
            network.confirmed.insert(index);
        }
        if holds != Some(false) {
            // What this one does not say, its place in the journal goes on to say.
            continue;
        }
        let outcome = network.let_go(index, true);
        if of_one(outcome, &name, &mut network.odd).map_err(text)?.is_none() {
            network.spared.refuse(index, now);
            continue;
        }
        journal.restored(&link_key(index)).map_err(journalled)?;
        // Whose link it is may have changed: a host end that comes from a pod's namespace keeps its index, and may get
        // one that was batch's. The next look finds out, and it is held again if it is batch's still.
        network.due = 0;
        if !network.confirmed.remove(&index) {
            // Nobody took what the kernel had no time to give.
            continue;
        }
        if network.spared.lose(index, now) {
            tracing::warn!(link = %name, "somebody keeps taking batch's rates off it: left to him for a time");
        } else {
            made.reasserted += 1;
        }
    }
    Ok(to_hold)
}

/// Puts hooks and filters on links.
fn take_hold(
    network: &mut Network,
    journal: &mut Journal,
    to_hold: Vec<(u32, String)>,
    now: Millis,
    made: &mut Made,
) -> Result<(), Refused> {
    if to_hold.is_empty() {
        return Ok(());
    }
    let entries = to_hold.iter().map(|(index, name)| link_entry(*index, name));
    journal.set_all(entries.collect()).map_err(journalled)?;
    fault::reach(Point::Journalled);
    let mut refused = Vec::new();
    let mut passing = None;
    for (index, name) in to_hold {
        match network.hold(index) {
            Ok(()) => {
                tracing::info!(link = %name, "batch's rates hold on it");
                network.confirmed.insert(index);
                made.written += 1;
                continue;
            }
            // Somebody was there before us, since it was looked at: the next look counts it as his. Or it is gone.
            Err(Errno::EXIST | Errno::NODEV) => {}
            Err(error) if is_passing(error) => {
                // It may be done yet: it stays in the journal, and is looked after again.
                network.astray = true;
                passing = Some((Some(error), said(&name, error)));
                continue;
            }
            Err(error) => {
                refused.push((index, error, said(&name, error)));
                let undone = gone(network.let_go(index, true));
                if undone.is_err() {
                    network.odd.extend(undone.err().map(|error| said(&name, error)));
                    continue;
                }
            }
        }
        network.due = 0;
        network.found.links.remove(&index);
        journal.restored(&link_key(index)).map_err(journalled)?;
    }
    // Where not one link is held, it is the kernel that cannot do it, if it says such a thing.
    let none = held(journal.entries()).is_empty();
    let mut of_kernel = refused
        .iter()
        .filter(|(_, error, _)| matches!(*error, Errno::NOENT | Errno::PERM | Errno::ACCESS));
    if let Some((_, error, message)) = of_kernel.next().filter(|_| none) {
        return Err((Some(*error), message.clone()));
    }
    for (index, _, message) in refused {
        network.spared.refuse(index, now);
        network.odd.push(message);
    }
    passing.map_or(Ok(()), Err)
}

/// Links that carry our filters, by the journal.
pub(super) fn held(entries: &BTreeMap<Key, Entry>) -> BTreeSet<u32> {
    let ours = entries.values().filter(|entry| is_ours(entry) && entry.file != RATES);
    ours.filter_map(|entry| u32::try_from(entry.device).ok()).collect()
}

fn link_key(index: u32) -> Key {
    (NETWORK.to_owned(), format!("link {index}"))
}

pub(super) fn rates_key() -> Key {
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

#[cfg(test)]
mod tests;
