//! The labels of a pod in little memory: many pods have some that no other pod has.

use std::collections::BTreeMap;

/// Labels by name: two pieces of memory, however many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Labels {
    /// Key, value, key, value and so on, by key.
    text: Box<str>,
    /// Where each of them ends.
    ends: Box<[u32]>,
}

impl Labels {
    /// From a map. What lies beyond 4 GiB is left out; an API server takes 1.5 MiB.
    pub(crate) fn of(map: &BTreeMap<String, String>) -> Labels {
        if map.is_empty() {
            return Labels::default();
        }
        let mut text = String::with_capacity(map.iter().map(|(key, value)| key.len() + value.len()).sum());
        let mut ends = Vec::with_capacity(map.len() * 2);
        for part in map.iter().flat_map(|(key, value)| [key, value]) {
            text.push_str(part);
            ends.push(u32::try_from(text.len()).unwrap_or(u32::MAX));
        }
        Labels {
            text: text.into(),
            ends: ends.into(),
        }
    }

    /// Names and values, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0;
        let mut part = move |end: u32| {
            let part = self.text.get(start..end as usize).unwrap_or_default();
            start = end as usize;
            part
        };
        self.ends.chunks_exact(2).filter_map(move |ends| match *ends {
            [key, value] => Some((part(key), part(value))),
            _ => None,
        })
    }

    /// The value of a label.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(k, _)| *k == key).map(|(_, value)| value)
    }

    /// True if they are the same as in a map.
    pub(crate) fn are(&self, map: &BTreeMap<String, String>) -> bool {
        self.iter()
            .eq(map.iter().map(|(key, value)| (key.as_str(), value.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_the_map_also_where_they_run_into_each_other() {
        let map = |of: &[(&str, &str)]| of.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let one: BTreeMap<String, String> = map(&[("a", "bc"), ("d", ""), ("é", "f")]);
        let other: BTreeMap<String, String> = map(&[("a", "b"), ("cd", ""), ("é", "f")]);
        let labels = Labels::of(&one);
        assert_eq!(
            (labels.get("a"), labels.get("d"), labels.get("é"), labels.get("b")),
            (Some("bc"), Some(""), Some("f"), None)
        );
        assert_eq!(labels.iter().count(), 3);
        assert!(labels.are(&one) && !labels.are(&other) && labels != Labels::of(&other));
        assert!(Labels::default().are(&BTreeMap::new()) && !Labels::default().are(&one));
    }
}
