//! The present contents of a watch, reduced as they come in.

use std::collections::BTreeMap;

use kube::runtime::watcher::Event;

/// Objects by key, reduced to `V`. A relist replaces them all at once when it is complete.
#[derive(Clone, Debug)]
pub struct Mirror<V> {
    now: BTreeMap<String, V>,
    next: Option<BTreeMap<String, V>>,
    ready: bool,
}

impl<V> Default for Mirror<V> {
    fn default() -> Self {
        Self {
            now: BTreeMap::new(),
            next: None,
            ready: false,
        }
    }
}

/// What an event changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Nothing that can be seen yet.
    Nothing,
    /// The object of this key.
    One(String),
    /// Possibly every object.
    All,
}

impl<V: PartialEq> Mirror<V> {
    /// Takes in an event. `view` answers an object's key, and its reduced form, or `None` if it does not count.
    pub fn apply<K>(&mut self, event: Event<K>, view: impl Fn(&K) -> (String, Option<V>)) -> Changed {
        match event {
            Event::Init => {
                self.next = Some(BTreeMap::new());
                Changed::Nothing
            }
            Event::InitApply(object) => {
                if let (key, Some(value)) = view(&object) {
                    self.next.get_or_insert_default().insert(key, value);
                }
                Changed::Nothing
            }
            Event::InitDone => {
                self.now = self.next.take().unwrap_or_default();
                self.ready = true;
                Changed::All
            }
            Event::Apply(object) => match view(&object) {
                (key, Some(value)) if self.now.get(&key) != Some(&value) => {
                    self.now.insert(key.clone(), value);
                    Changed::One(key)
                }
                (_, Some(_)) => Changed::Nothing,
                (key, None) => self.remove(key),
            },
            Event::Delete(object) => self.remove(view(&object).0),
        }
    }

    fn remove(&mut self, key: String) -> Changed {
        if self.now.remove(&key).is_some() {
            Changed::One(key)
        } else {
            Changed::Nothing
        }
    }

    /// Whether a list has been complete once.
    pub const fn ready(&self) -> bool {
        self.ready
    }

    /// The objects.
    pub const fn objects(&self) -> &BTreeMap<String, V> {
        &self.now
    }
}
