//! What a watch remembers of the objects that are there.

use std::collections::HashSet;

/// Keys of the objects that are there.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pub(super) known: HashSet<Box<str>>,
    /// Those that a list that is under way has not named yet.
    unseen: HashSet<Box<str>>,
}

impl Keys {
    /// A list begins.
    pub(super) fn start(&mut self) {
        // A list that did not end leaves its rest in `unseen`.
        self.unseen.extend(self.known.drain());
    }

    pub(super) fn see(&mut self, key: &str) {
        self.unseen.remove(key);
        if !self.known.contains(key) {
            self.known.insert(key.into());
        }
    }

    pub(super) fn forget(&mut self, key: &str) {
        self.unseen.remove(key);
        self.known.remove(key);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty() && self.unseen.is_empty()
    }

    /// A list ends: what it did not name is gone.
    pub(super) fn finish(&mut self) -> Vec<String> {
        let mut gone: Vec<String> = self.unseen.drain().map(String::from).collect();
        gone.sort_unstable();
        gone
    }
}
