//! Interning: equal values get one ordinal.

use std::{collections::HashMap, hash::Hash, marker::PhantomData, sync::Arc};

use crate::slab::{Ordinal, Slab};

/// Values that stay for ever: the few names of resources and models.
#[derive(Clone, Debug)]
pub(crate) struct Names<K, T> {
    values: Vec<T>,
    // Looked up, never iterated: its order reaches nothing.
    ordinals: HashMap<T, u32>,
    kind: PhantomData<K>,
}

impl<K, T> Default for Names<K, T> {
    fn default() -> Self {
        Names {
            values: Vec::new(),
            ordinals: HashMap::new(),
            kind: PhantomData,
        }
    }
}

impl<K: Ordinal, T: Clone + Eq + Hash> Names<K, T> {
    /// The ordinal of a value, a new one if need be.
    pub(crate) fn intern<Q>(&mut self, value: &Q) -> K
    where
        Q: ?Sized + Eq + Hash + ToOwned<Owned = T>,
        T: std::borrow::Borrow<Q>,
    {
        if let Some(&index) = self.ordinals.get(value) {
            return K::new(index as usize);
        }
        let owned: T = value.to_owned();
        let index = self.values.len();
        self.values.push(owned.clone());
        self.ordinals.insert(owned, u32::try_from(index).unwrap_or(u32::MAX));
        K::new(index)
    }

    /// The ordinal of a value that is known.
    pub(crate) fn find<Q>(&self, value: &Q) -> Option<K>
    where
        Q: ?Sized + Eq + Hash,
        T: std::borrow::Borrow<Q>,
    {
        self.ordinals.get(value).map(|&index| K::new(index as usize))
    }

    /// The value of an ordinal.
    pub(crate) fn value(&self, key: K) -> Option<&T> {
        self.values.get(key.index())
    }
}

/// Values that live as long as something refers to them.
#[derive(Clone, Debug)]
pub(crate) struct Counted<K, T> {
    slots: Slab<K, (Arc<T>, u32)>,
    // Looked up, never iterated.
    ordinals: HashMap<Arc<T>, u32>,
}

impl<K: Ordinal, T: Eq + Hash> Default for Counted<K, T> {
    fn default() -> Self {
        Counted {
            slots: Slab::default(),
            ordinals: HashMap::new(),
        }
    }
}

impl<K: Ordinal, T: Eq + Hash> Counted<K, T> {
    /// One more reference to a value.
    pub(crate) fn acquire(&mut self, value: T) -> K {
        if let Some(&index) = self.ordinals.get(&value) {
            let key = K::new(index as usize);
            self.slots[key].1 += 1;
            return key;
        }
        let shared = Arc::new(value);
        let key = self.slots.insert((shared.clone(), 1));
        self.ordinals
            .insert(shared, u32::try_from(key.index()).unwrap_or(u32::MAX));
        key
    }

    /// One more reference to a value that is known to be there. False if another one has its ordinal, or none.
    pub(crate) fn acquire_known(&mut self, key: K, value: &Arc<T>) -> bool {
        match self.slots.find_mut(key) {
            Some((known, references)) if Arc::ptr_eq(known, value) => {
                *references += 1;
                true
            }
            _ => false,
        }
    }

    /// One reference less. True if it was the last one and the value is gone.
    pub(crate) fn release(&mut self, key: K) -> bool {
        let slot = &mut self.slots[key];
        slot.1 -= 1;
        if slot.1 > 0 {
            return false;
        }
        if let Some((value, _)) = self.slots.remove(key) {
            self.ordinals.remove(&value);
        }
        true
    }

    /// The value of an ordinal, shared.
    #[inline]
    pub(crate) fn value(&self, key: K) -> &Arc<T> {
        &self.slots[key].0
    }

    /// All ordinals and values, by ordinal.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &Arc<T>)> {
        self.slots.iter().map(|(key, (value, _))| (key, value))
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// References to the value of an ordinal.
    pub(crate) fn references(&self, key: K) -> u32 {
        self.slots[key].1
    }
}

/// Values that live as long as something refers to them, and whose ordinals are never used again: what was derived from
/// a value that is gone may lie about without harm.
#[derive(Clone, Debug)]
pub(crate) struct Fresh<K, T> {
    values: HashMap<K, (Arc<T>, u32)>,
    // Looked up, never iterated.
    ordinals: HashMap<Arc<T>, K>,
    next: usize,
}

impl<K, T> Default for Fresh<K, T> {
    fn default() -> Self {
        Fresh {
            values: HashMap::new(),
            ordinals: HashMap::new(),
            next: 0,
        }
    }
}

impl<K: Ordinal + Eq + Hash, T: Eq + Hash> Fresh<K, T> {
    /// One more reference to a value. True if it was not there before.
    pub(crate) fn acquire(&mut self, value: T) -> (K, bool) {
        if let Some(&key) = self.ordinals.get(&value) {
            if let Some((_, references)) = self.values.get_mut(&key) {
                *references += 1;
            }
            return (key, false);
        }
        let key = K::new(self.next);
        self.next += 1;
        let value = Arc::new(value);
        self.ordinals.insert(value.clone(), key);
        self.values.insert(key, (value, 1));
        (key, true)
    }

    /// One reference less. The value, if that was the last one.
    pub(crate) fn release(&mut self, key: K) -> Option<Arc<T>> {
        let (_, references) = self.values.get_mut(&key)?;
        *references -= 1;
        if *references > 0 {
            return None;
        }
        let (value, _) = self.values.remove(&key)?;
        self.ordinals.remove(&value);
        Some(value)
    }

    /// The value of an ordinal.
    pub(crate) fn value(&self, key: K) -> Option<&Arc<T>> {
        self.values.get(&key).map(|(value, _)| value)
    }

    /// The ordinal of a value that is there.
    pub(crate) fn find(&self, value: &T) -> Option<K> {
        self.ordinals.get(value).copied()
    }

    /// Whether there are no values.
    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// How many values there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::{ResourceOrd, ShapeOrd};

    #[test]
    fn equal_names_share_an_ordinal() {
        let mut names: Names<ResourceOrd, String> = Names::default();
        let cpu = names.intern("cpu");
        assert_eq!((names.intern("cpu"), names.find("gpu")), (cpu, None));
        assert_eq!(names.value(cpu).map(String::as_str), Some("cpu"));
    }

    #[test]
    fn a_counted_value_goes_with_its_last_reference() {
        let mut shapes: Counted<ShapeOrd, u64> = Counted::default();
        let a = shapes.acquire(7);
        assert_eq!(shapes.acquire(7), a);
        assert_eq!(shapes.references(a), 2);
        assert!(!shapes.release(a));
        let seven = shapes.value(a).clone();
        assert!(shapes.acquire_known(a, &seven));
        assert!(!shapes.release(a));
        assert!(shapes.release(a));
        assert_eq!(shapes.len(), 0);
        assert!(!shapes.acquire_known(a, &seven));
        assert_eq!(shapes.acquire(8), a);
        assert!(!shapes.acquire_known(a, &seven), "the ordinal names another value");
    }
}
