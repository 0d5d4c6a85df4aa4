//! Those of the decisions of one cycle that go for the same claim: the operator evicts all of them or none, and so does
//! whoever plays its part.

use std::collections::BTreeMap;

use duosuan_scheduler::{Decision, Event, event::Pod};

use crate::budgets::{Budgets, Kept};

/// Victims by the UID of the claim for which several go, and what budgets say of them, once that was asked.
#[derive(Debug, Default)]
pub(crate) struct Together {
    victims: BTreeMap<String, Vec<String>>,
    asked: BTreeMap<String, Kept>,
}

impl Together {
    /// The victims of some decisions.
    pub(crate) fn of(decisions: &[Decision]) -> Together {
        let mut victims: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for decision in decisions {
            if let Decision::Evict { pod, cause, .. } = decision
                && let Some(by) = cause.by()
            {
                victims.entry(by.to_owned()).or_default().push(pod.clone());
            }
        }
        // Of one alone it is asked when it is evicted.
        victims.retain(|_, pods| pods.len() > 1);
        Together {
            victims,
            asked: BTreeMap::new(),
        }
    }

    /// What the core is told instead of an eviction that is not to be, since not all that go with it may; `None` for any
    /// other decision.
    pub(crate) fn instead_of(
        &mut self,
        decision: &Decision,
        budgets: &Budgets,
        pods: &BTreeMap<String, Pod>,
    ) -> Option<Event> {
        let Decision::Evict { pod, cause, .. } = decision else {
            return None;
        };
        let (by, victims) = self.victims.get_key_value(cause.by()?)?;
        let kept = self.asked.entry(by.clone()).or_insert_with(|| {
            let victims: Vec<&Pod> = victims.iter().filter_map(|uid| pods.get(uid)).collect();
            budgets.kept_of(&victims)
        });
        kept.instead_of_evicting(pod)
    }
}
