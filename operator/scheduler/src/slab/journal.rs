//! What a table was before its entries changed, so that all changes since can be taken back for as much as was changed.

use std::collections::HashMap;

use super::{Ordinal, Slab};

/// Kept since a rehearsal began.
#[derive(Debug)]
pub(super) struct Journal<T> {
    /// Positions that there were.
    bound: usize,
    free: Vec<u32>,
    // Looked up, and put back in any order: each is of another position.
    before: HashMap<usize, Option<T>>,
    copy: fn(&T) -> T,
}

impl<K: Ordinal, T> Slab<K, T> {
    /// From now on, what entries are before they change is kept.
    pub(crate) fn keep(&mut self)
    where
        T: Clone,
    {
        self.journal = Some(Box::new(Journal {
            bound: self.slots.len(),
            free: self.free.clone(),
            before: HashMap::new(),
            copy: T::clone,
        }));
    }

    /// True from [`Slab::keep`] to [`Slab::take_back`].
    pub(crate) fn keeps(&self) -> bool {
        self.journal.is_some()
    }

    /// Makes the table what it was when [`Slab::keep`] was called.
    pub(crate) fn take_back(&mut self) {
        let Some(journal) = self.journal.take() else { return };
        for (index, before) in journal.before {
            if let Some(slot) = self.slots.get_mut(index) {
                *slot = before;
            }
        }
        self.slots.truncate(journal.bound);
        self.free = journal.free;
    }

    /// An entry is about to change.
    #[cold]
    #[inline(never)]
    pub(super) fn note(&mut self, index: usize) {
        if let Some(journal) = &mut self.journal
            && index < journal.bound
            && let Some(slot) = self.slots.get(index)
        {
            let copy = journal.copy;
            journal.before.entry(index).or_insert_with(|| slot.as_ref().map(copy));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::slab::PodOrd;

    #[test]
    fn what_changed_came_and_went_is_taken_back_with_the_order_of_free_positions() {
        let mut slab: Slab<PodOrd, String> = Slab::default();
        let all = ["a", "b", "c", "d"].map(|name| slab.insert(name.to_owned()));
        slab.remove(all[1]);
        slab.remove(all[2]);
        let before = slab.clone();
        slab.keep();
        slab[all[0]].push('!');
        slab[all[0]].push('!');
        if let Some(d) = slab.find_mut(all[3]) {
            d.clear();
        }
        slab.remove(all[3]);
        for name in ["e", "f", "g", "h"] {
            slab.insert(name.to_owned());
        }
        assert!(slab != before && slab.keeps() && !slab.clone().keeps());
        slab.take_back();
        assert!(slab == before && !slab.keeps());
        assert_eq!((slab.insert("i".into()), slab.insert("j".into())), (all[2], all[1]));
    }
}
