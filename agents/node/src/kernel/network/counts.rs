//! What goes over the links, and whether batch's part of it comes by our hooks.

use std::collections::{BTreeMap, BTreeSet};

use duosuan_policy::{Millis, Network as Seen, network::Uplink};
use rustix::io::Errno;

use super::{
    Network, gone, links, of_one, rates,
    tc::{self, Police, Way},
};
use crate::journal::Entry;

/// Links of ours whose packets are looked after at one time, each at its turn.
const CHECKED: usize = 16;
/// Of so many packets of a link, some come by our hooks.
const ENOUGH: u64 = 200;
/// Counts are not read sooner than this after the ones before: no rate is told by them.
const SPAN: Millis = 900;
/// A count that goes on while what is counted comes and goes.
#[derive(Debug, Default)]
pub(super) struct Meter {
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

impl Network {
    /// Finds links of ours whose packets do not come by our hooks: who has programs of the newer sort on a link (tcx, as Cilium has
    /// since Linux 6.6), or takes packets off it before, is shown by no list of netlink's, but by the counts.
    pub(super) fn check(&mut self, ours: &BTreeSet<u32>, now: Millis) -> Result<(), Errno> {
        let after = ours.iter().filter(|index| **index > self.checked);
        let before = ours.iter().filter(|index| **index <= self.checked);
        let turn: Vec<u32> = after.chain(before).take(CHECKED).copied().collect();
        for index in turn {
            self.checked = index;
            let what = format!("link {index}");
            let carried = links::carried(&mut self.socket, index);
            let filters = gone(tc::filters(&mut self.socket, index, Way::Send));
            let carried = of_one(carried, &what, &mut self.odd)?.flatten();
            let seen = of_one(filters, &what, &mut self.odd)?
                .flatten()
                .and_then(|filters| filters.seen);
            let Some((carried, seen)) = carried.zip(seen) else {
                continue;
            };
            let counts = [carried.packets_received, seen];
            let [came, met] = match self.passed.get(&index) {
                Some([came, met]) => [counts[0].checked_sub(*came), counts[1].checked_sub(*met)],
                None => [None; 2],
            };
            match came.zip(met) {
                // Too few to tell.
                Some((came, _)) if came < ENOUGH => continue,
                Some((came, met)) if met < came / 100 => {
                    self.passed.remove(&index);
                    if self.spared.bypass(index, now) {
                        tracing::warn!(
                            link = %carried.name, came, met,
                            "its packets do not come by the agent's hooks: somebody takes them before, as programs of tcx do; left alone"
                        );
                    }
                }
                Some(_) | None => drop(self.passed.insert(index, counts)),
            }
        }
        self.passed.retain(|index, _| ours.contains(index));
        Ok(())
    }

    /// Counts what went over the link that leads out, and what of it was batch's, into `seen`, unless that was done just now.
    pub(super) fn count(
        &mut self,
        held: Option<&Entry>,
        links_held: usize,
        now: Millis,
        seen: &mut Seen,
    ) -> Result<(), Errno> {
        if self.counted.is_some_and(|at| now.saturating_sub(at) < SPAN) {
            return Ok(());
        }
        let out = match self.found.uplink {
            Some((index, speed)) => links::carried(&mut self.socket, index)?.map(|found| (found, speed)),
            None => None,
        };
        match out {
            Some((link, speed)) => {
                let uplink = seen.uplink.get_or_insert_with(Uplink::default);
                (uplink.name, uplink.speed, uplink.sent, uplink.received) =
                    (link.name, speed, link.sent, link.received);
            }
            None => {
                seen.uplink = None;
                if self.found.uplink.is_some() {
                    // It may be another one by now.
                    self.due = 0;
                }
            }
        }
        let found = &self.found;
        seen.hidden.clone_from(&found.hidden);
        (seen.held, seen.apart, seen.taken) = (found.held, found.apart, found.taken);
        (seen.refused, seen.bypassed, seen.unseen) = (found.refused, found.bypassed, found.unseen);
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
            for (index, name) in &self.found.links {
                let carried = links::carried(&mut self.socket, *index);
                // What comes in on the node's end is what the pod sends.
                if let Some(carried) = of_one(carried, name, &mut self.odd)?.flatten() {
                    sent.insert(*index, carried.received);
                    received.insert(*index, carried.sent);
                }
            }
        }
        let [sent, received] = &mut self.meters;
        let [sent_now, received_now] = parts;
        seen.sent.bytes = sent.take(sent_now);
        seen.received.bytes = received.take(received_now);
        seen.at = now;
        self.counted = Some(now);
        Ok(())
    }
}

/// Whether an action is what we made it, and each link has a filter that goes by it.
fn is_as_left(police: &Police, rate: u64, links: usize) -> bool {
    police.rate == rate && usize::try_from(police.filters).is_ok_and(|filters| filters == links)
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
