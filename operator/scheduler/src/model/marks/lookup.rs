//! Marks, found by the labels of pods.

use std::collections::HashMap;

use crate::{
    model::{Labels, rules::Mark},
    slab::MarkOrd,
};

/// Marks by a label that whoever they speak of must have, so that few are looked at for a pod.
#[derive(Clone, Debug, Default)]
pub(super) struct Lookup {
    by_label: HashMap<String, HashMap<String, Vec<MarkOrd>>>,
    rest: Vec<MarkOrd>,
}

impl Lookup {
    /// Puts a mark in or takes it out, as `change` does with each list that it belongs to.
    pub(super) fn change(&mut self, mark: &Mark, change: impl Fn(&mut Vec<MarkOrd>)) {
        let mut anchor = None;
        for peers in mark.peers() {
            let (found, possible) = peers.anchor();
            if !possible {
                return;
            }
            anchor = anchor.or(found);
        }
        let Some(anchor) = anchor else {
            return change(&mut self.rest);
        };
        let values = self.by_label.entry(anchor.key.clone()).or_default();
        let mut named: Vec<&String> = anchor.values.iter().collect();
        named.sort_unstable();
        named.dedup();
        for value in named {
            let marks = values.entry(value.clone()).or_default();
            change(marks);
            if marks.is_empty() {
                values.remove(value);
            }
        }
        if values.is_empty() {
            self.by_label.remove(&anchor.key);
        }
    }

    /// Marks that may speak of a pod with some labels.
    pub(super) fn near(&self, labels: &Labels) -> impl Iterator<Item = MarkOrd> {
        let by_label = labels
            .iter()
            .filter_map(|(key, value)| self.by_label.get(key)?.get(value));
        by_label.flatten().chain(&self.rest).copied()
    }
}
