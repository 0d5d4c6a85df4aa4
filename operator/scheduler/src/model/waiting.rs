//! A list of claims that wait: by priority, then by namespace, then by age and UID. Whose turn it is among the namespaces of
//! one priority depends on what each of them holds, which changes with every place that is given: see step 2.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Arc, LazyLock},
};

use crate::{event::Time, slab::ClaimOrd};

/// Priority, the highest first, and namespace.
pub(crate) type Group = (Reverse<i32>, Arc<str>);

/// No namespace comes before it.
static FIRST: LazyLock<Arc<str>> = LazyLock::new(|| "".into());

/// Age, then UID.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Age {
    pub(crate) created: Time,
    pub(crate) uid: Arc<str>,
    pub(crate) claim: ClaimOrd,
}

/// Claims that wait.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Waiting {
    groups: BTreeMap<Group, BTreeSet<Age>>,
    len: usize,
}

impl Waiting {
    /// Adds a claim.
    pub(crate) fn insert(&mut self, group: Group, age: Age) {
        if self.groups.entry(group).or_default().insert(age) {
            self.len += 1;
        }
    }

    /// Takes a claim out. False if it was not there.
    pub(crate) fn remove(&mut self, group: &Group, age: &Age) -> bool {
        let Some(ages) = self.groups.get_mut(group) else {
            return false;
        };
        let removed = ages.remove(age);
        if removed {
            self.len -= 1;
        }
        if ages.is_empty() {
            self.groups.remove(group);
        }
        removed
    }

    /// True if a claim is in the list.
    pub(crate) fn contains(&self, group: &Group, age: &Age) -> bool {
        self.groups.get(group).is_some_and(|ages| ages.contains(age))
    }

    /// Takes in all of another list, which is empty then.
    pub(crate) fn append(&mut self, other: &mut Waiting) {
        if other.len == 0 {
            return;
        }
        if self.len == 0 {
            std::mem::swap(self, other);
        }
        for (group, mut ages) in std::mem::take(&mut other.groups) {
            self.groups.entry(group).or_default().append(&mut ages);
        }
        self.len += std::mem::take(&mut other.len);
    }

    /// How many claims there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The highest priority below another one (or of all) that somebody has.
    pub(crate) fn level(&self, below: Option<Reverse<i32>>) -> Option<Reverse<i32>> {
        let group = match below {
            None => self.groups.first_key_value().map(|(group, _)| group),
            // No priority lies between two neighbours, so the first group after the last possible one of `below`.
            Some(Reverse(below)) => {
                let next = Reverse(below.checked_sub(1)?);
                self.groups
                    .range((next, FIRST.clone())..)
                    .next()
                    .map(|(group, _)| group)
            }
        };
        group.map(|(priority, _)| *priority)
    }

    /// The first of each namespace of a priority.
    pub(crate) fn firsts(&self, level: Reverse<i32>) -> impl Iterator<Item = (&Arc<str>, &Age)> + '_ {
        let groups = self.groups.range((level, FIRST.clone())..);
        groups
            .take_while(move |((priority, _), _)| *priority == level)
            .filter_map(|((_, namespace), ages)| Some((namespace, ages.first()?)))
    }

    /// The next of a group after another.
    pub(crate) fn after(&self, group: &Group, age: &Age) -> Option<&Age> {
        let ages = self.groups.get(group)?;
        ages.range::<Age, _>((Bound::Excluded(age), Bound::Unbounded)).next()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn age(created: i64, uid: &str) -> Age {
        Age {
            created: Time(created),
            uid: uid.into(),
            claim: ClaimOrd::new(0),
        }
    }

    #[test]
    fn levels_go_down_and_each_namespace_has_its_first() {
        let mut list = Waiting::default();
        for (priority, namespace, created, uid) in
            [(5, "a", 2, "x"), (5, "a", 1, "y"), (5, "b", 9, "z"), (1, "a", 0, "w")]
        {
            list.insert((Reverse(priority), namespace.into()), age(created, uid));
        }
        let top = list.level(None).unwrap();
        assert_eq!(top, Reverse(5));
        let firsts: Vec<&str> = list.firsts(top).map(|(_, age)| &*age.uid).collect();
        assert_eq!(firsts, ["y", "z"]);
        let group = (top, "a".into());
        assert_eq!(&*list.after(&group, &age(1, "y")).unwrap().uid, "x");
        assert_eq!(list.after(&group, &age(2, "x")), None);
        assert_eq!(list.level(Some(top)), Some(Reverse(1)));
        assert_eq!(list.level(Some(Reverse(1))), None);
        assert_eq!(list.level(Some(Reverse(i32::MIN))), None);
    }

    #[test]
    fn a_list_counts_what_is_in_it() {
        let (mut a, mut b) = (Waiting::default(), Waiting::default());
        let group: Group = (Reverse(0), "n".into());
        a.insert(group.clone(), age(1, "x"));
        a.insert(group.clone(), age(1, "x"));
        b.insert(group.clone(), age(2, "y"));
        a.append(&mut b);
        assert_eq!((a.len(), b.len()), (2, 0));
        assert!(a.remove(&group, &age(1, "x")) && !a.remove(&group, &age(1, "x")));
        assert!(a.remove(&group, &age(2, "y")));
        assert_eq!(a, Waiting::default());
    }
}
