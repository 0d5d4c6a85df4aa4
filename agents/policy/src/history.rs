//! What the guards did last, and when.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use crate::{action::GuardView, observation::Millis};

/// So many are kept.
const KEPT: usize = 10;

/// Something that a guard did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    /// When.
    pub at: Millis,
    /// Name of the guard.
    pub guard: String,
    /// What it did, and why.
    pub action: String,
}

/// The last deeds of all guards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The latest first.
    deeds: VecDeque<Arc<Deed>>,
    /// What each guard had done when it was looked at last: how often it cut, and its last action.
    known: BTreeMap<String, (u64, String)>,
}

impl History {
    /// Takes note of what the guards did since the last call.
    pub(crate) fn note(&mut self, guards: &[GuardView], now: Millis) {
        for guard in guards {
            let Some(action) = &guard.last_action else { continue };
            match self.known.get_mut(&guard.name) {
                Some((cuts, last)) if *cuts == guard.cuts && last == action => continue,
                Some(known) => *known = (guard.cuts, action.clone()),
                None => drop(self.known.insert(guard.name.clone(), (guard.cuts, action.clone()))),
            }
            self.deeds.truncate(KEPT - 1);
            self.deeds.push_front(Arc::new(Deed {
                at: now,
                guard: guard.name.clone(),
                action: action.clone(),
            }));
        }
    }

    /// The latest first.
    pub(crate) fn latest(&self) -> Vec<Arc<Deed>> {
        self.deeds.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::guard::GuardState;

    fn guard(name: &str, cuts: u64, action: &str) -> GuardView {
        GuardView {
            name: name.to_owned(),
            state: GuardState::Suppressing,
            limit: None,
            cuts,
            last_action: Some(action.to_owned()),
        }
    }

    fn told(history: &History) -> Vec<(Millis, &str, &str)> {
        let deeds = history.deeds.iter();
        deeds.map(|d| (d.at, d.guard.as_str(), d.action.as_str())).collect()
    }

    #[test]
    fn a_deed_is_noted_once_and_again_when_it_is_done_again() {
        let mut history = History::default();
        history.note(&[guard("cpu", 1, "cut"), guard("io", 0, "off")], 1_000);
        history.note(&[guard("cpu", 1, "cut"), guard("io", 0, "off")], 2_000);
        history.note(&[guard("cpu", 2, "cut"), guard("io", 0, "off")], 3_000);
        let expected = [(3_000, "cpu", "cut"), (1_000, "io", "off"), (1_000, "cpu", "cut")];
        assert_eq!(told(&history), expected);
    }

    #[test]
    fn the_last_ten_are_kept_whichever_guard_did_them() {
        let mut history = History::default();
        history.note(&[guard("io", 1, "cut")], 0);
        for n in 1..=12 {
            history.note(&[guard("cpu", n, "cut"), guard("io", 1, "cut")], n * 1_000);
        }
        let told = told(&history);
        assert_eq!(told.len(), KEPT);
        assert_eq!(told.first(), Some(&(12_000, "cpu", "cut")));
        assert_eq!(told.last(), Some(&(3_000, "cpu", "cut")));
    }
}
