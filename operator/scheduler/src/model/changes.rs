//! The log of node changes. Each node is in it once, at its latest change, so that a shape that looks after a long
//! time revalues each changed node once, and the log never holds more than one entry per node.
//!
//! Beside that each node has a state: a number that a change makes another, and that is the old one again when the change
//! was taken back. What was found out of a node holds as long as its state is the same.

use crate::slab::NodeOrd;

const NONE: u32 = u32::MAX;

/// Nodes by their latest change, as a list through the nodes.
#[derive(Clone, Debug)]
pub(crate) struct ChangeLog {
    links: Vec<Link>,
    newest: u32,
    clock: u64,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    at: u64,
    state: u64,
    older: u32,
    newer: u32,
}

impl Default for ChangeLog {
    fn default() -> Self {
        ChangeLog {
            links: Vec::new(),
            newest: NONE,
            clock: 0,
        }
    }
}

impl ChangeLog {
    /// Number of the latest change.
    pub(crate) fn clock(&self) -> u64 {
        self.clock
    }

    /// The node changed.
    #[allow(
        clippy::indexing_slicing,
        reason = "links are indexed by nodes that are in the list, which is as long"
    )]
    pub(crate) fn touch(&mut self, node: NodeOrd) {
        let index = node.index();
        if index >= self.links.len() {
            self.links.resize(
                index + 1,
                Link {
                    at: 0,
                    state: 0,
                    older: NONE,
                    newer: NONE,
                },
            );
        }
        self.clock += 1;
        let this = u32::try_from(index).unwrap_or(NONE);
        if self.newest != this {
            let Link { older, newer, .. } = self.links[index];
            if older != NONE {
                self.links[older as usize].newer = newer;
            }
            if newer != NONE {
                self.links[newer as usize].older = older;
            }
            if self.newest != NONE {
                self.links[self.newest as usize].newer = this;
            }
            self.links[index].older = self.newest;
            self.links[index].newer = NONE;
            self.newest = this;
        }
        self.links[index].at = self.clock;
        self.links[index].state = self.clock;
    }

    /// What a node is now; two equal states of one node are the same.
    pub(crate) fn state(&self, node: NodeOrd) -> u64 {
        self.links.get(node.index()).map_or(0, |link| link.state)
    }

    /// All that changed since a node had this state was taken back.
    pub(crate) fn restore(&mut self, node: NodeOrd, state: u64) {
        if let Some(link) = self.links.get_mut(node.index()) {
            link.state = state;
        }
    }

    /// True if a node changed after `cursor`.
    pub(crate) fn changed(&self, node: NodeOrd, cursor: u64) -> bool {
        self.links.get(node.index()).is_some_and(|link| link.at > cursor)
    }

    /// Nodes that changed after `cursor`, the latest first.
    pub(crate) fn since(&self, cursor: u64) -> impl Iterator<Item = NodeOrd> + '_ {
        let mut at = self.newest;
        std::iter::from_fn(move || {
            let link = self.links.get(at as usize)?;
            if link.at <= cursor {
                return None;
            }
            let node = NodeOrd::new(at as usize);
            at = link.older;
            Some(node)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn since(log: &ChangeLog, cursor: u64) -> Vec<usize> {
        log.since(cursor).map(NodeOrd::index).collect()
    }

    #[test]
    fn each_node_is_listed_once_at_its_latest_change() {
        let mut log = ChangeLog::default();
        for node in [0, 1, 2, 1, 0, 0] {
            log.touch(NodeOrd::new(node));
        }
        assert_eq!(since(&log, 0), [0, 1, 2]);
        let cursor = log.clock();
        assert!(since(&log, cursor).is_empty());
        log.touch(NodeOrd::new(2));
        log.touch(NodeOrd::new(0));
        assert_eq!(since(&log, cursor), [0, 2]);
        let changed = [0, 1, 2, 3].map(|node| log.changed(NodeOrd::new(node), cursor));
        assert_eq!(changed, [true, false, true, false]);
        assert_eq!(since(&log, 0), [0, 2, 1]);
    }
}
