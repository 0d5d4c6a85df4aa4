//! Dense ordinals, and the table that hands them out.

mod journal;

use std::{
    fmt,
    marker::PhantomData,
    ops::{Index, IndexMut},
};

use journal::Journal;

/// An ordinal of some kind of object.
pub(crate) trait Ordinal: Copy {
    /// From a position.
    fn new(index: usize) -> Self;
    /// As a position.
    fn index(self) -> usize;
}

macro_rules! ordinals {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) struct $name(u32);

        impl $name {
            /// From a position; tables stay far below 2^32 entries.
            pub(crate) fn new(index: usize) -> Self {
                $name(u32::try_from(index).unwrap_or(u32::MAX))
            }

            /// As a position.
            #[inline]
            pub(crate) fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl Ordinal for $name {
            fn new(index: usize) -> Self {
                $name::new(index)
            }
            #[inline]
            fn index(self) -> usize {
                $name::index(self)
            }
        }
    )*};
}

ordinals! {
    /// A node. Its number says nothing about the node order, which goes by name: see `Node::rank`.
    NodeOrd,
    /// A pod.
    PodOrd,
    /// A claim, or a pod without one, which is its own claim.
    ClaimOrd,
    /// A queue.
    QueueOrd,
    /// A pool of devices.
    PoolOrd,
    /// A device of a pool, or one that a claim has.
    DeviceOrd,
    /// A claim to devices.
    DeviceClaimOrd,
    /// What is wrong with devices.
    FaultOrd,
    /// A shape.
    ShapeOrd,
    /// What decides which nodes admit a pod, whatever is held there.
    FilterOrd,
    /// What a pod says of itself, before its group adds to it.
    TemplateOrd,
    /// A resource.
    ResourceOrd,
    /// A GPU model.
    ModelOrd,
    /// A taint.
    TaintOrd,
    /// A big image that some node holds.
    ImageOrd,
    /// Big images that pods want.
    WantedOrd,
    /// What pods' relations count on nodes.
    MarkOrd,
    /// A set of marks that other pods have and that concern a pod.
    HitsOrd,
    /// Namespace and labels of pods.
    IdentityOrd,
    /// Pods of one controller.
    KinOrd,
    /// A node label that some pod's relations divide the nodes by.
    KeyOrd,
    /// A value of such a label.
    DomainOrd,
    /// A node, rack, block or zone as an area that pods share.
    AreaOrd,
}

/// A table with stable positions; freed ones are used again.
pub(crate) struct Slab<K, T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
    /// Only in a rehearsal.
    journal: Option<Box<Journal<T>>>,
    kind: PhantomData<K>,
}

/// A copy has nothing to take back.
impl<K, T: Clone> Clone for Slab<K, T> {
    fn clone(&self) -> Self {
        Slab {
            slots: self.slots.clone(),
            free: self.free.clone(),
            journal: None,
            kind: PhantomData,
        }
    }
}

impl<K, T> Default for Slab<K, T> {
    fn default() -> Self {
        Slab {
            slots: Vec::new(),
            free: Vec::new(),
            journal: None,
            kind: PhantomData,
        }
    }
}

/// Equal if the entries are; which freed position comes next does not count, since no ordinal reaches a decision.
impl<K, T: PartialEq> PartialEq for Slab<K, T> {
    fn eq(&self, other: &Self) -> bool {
        self.slots == other.slots
    }
}

impl<K, T: fmt::Debug> fmt::Debug for Slab<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.slots.iter()).finish()
    }
}

impl<K: Ordinal, T> Slab<K, T> {
    /// Puts an entry in.
    pub(crate) fn insert(&mut self, value: T) -> K {
        if let Some(index) = self.free.pop() {
            self.before(index as usize);
            if let Some(slot) = self.slots.get_mut(index as usize) {
                *slot = Some(value);
                return K::new(index as usize);
            }
        }
        self.slots.push(Some(value));
        K::new(self.slots.len() - 1)
    }

    /// Before an entry changes.
    #[inline]
    fn before(&mut self, index: usize) {
        if self.journal.is_some() {
            self.note(index);
        }
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, key: K) -> Option<T> {
        self.before(key.index());
        let taken = self.slots.get_mut(key.index())?.take();
        if taken.is_some() {
            self.free.push(u32::try_from(key.index()).unwrap_or(u32::MAX));
        }
        taken
    }

    /// An entry, if it is there.
    #[inline]
    pub(crate) fn find(&self, key: K) -> Option<&T> {
        self.slots.get(key.index())?.as_ref()
    }

    /// An entry, if it is there, to be changed.
    pub(crate) fn find_mut(&mut self, key: K) -> Option<&mut T> {
        self.before(key.index());
        self.slots.get_mut(key.index())?.as_mut()
    }

    /// All entries, by ordinal.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &T)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(i, s)| s.as_ref().map(|v| (K::new(i), v)))
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// One more than the largest ordinal that was handed out.
    pub(crate) fn bound(&self) -> usize {
        self.slots.len()
    }
}

impl<K: Ordinal, T> Index<K> for Slab<K, T> {
    type Output = T;
    #[inline]
    #[allow(
        clippy::expect_used,
        clippy::indexing_slicing,
        reason = "ordinals of dead entries are kept nowhere"
    )]
    fn index(&self, key: K) -> &T {
        self.slots[key.index()].as_ref().expect("an ordinal names a live entry")
    }
}

impl<K: Ordinal, T> IndexMut<K> for Slab<K, T> {
    #[inline]
    #[allow(
        clippy::expect_used,
        clippy::indexing_slicing,
        reason = "ordinals of dead entries are kept nowhere"
    )]
    fn index_mut(&mut self, key: K) -> &mut T {
        self.before(key.index());
        self.slots[key.index()].as_mut().expect("an ordinal names a live entry")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_position_is_used_again_and_the_others_stay() {
        let mut slab: Slab<PodOrd, &str> = Slab::default();
        let (a, b) = (slab.insert("a"), slab.insert("b"));
        assert_eq!(slab.remove(a), Some("a"));
        assert_eq!(slab.remove(a), None);
        assert_eq!(slab.insert("c"), a);
        assert_eq!((slab[b], slab.len(), slab.bound()), ("b", 2, 2));
    }
}
