//! Replays a record on the production core, and compares what it decides.

use std::collections::BTreeMap;

use duosuan_scheduler::{Cluster, Decision, Time, cycle};

use super::{Cycle, Entry, digest};
use crate::facts::Facts;

/// A cycle that decided otherwise than the record says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cycle {cycle} (now = {}) decides otherwise: the record has {} decisions with digest {}, the replay {} with digest {}{}",
    .recorded.now.0, .recorded.decisions, .recorded.digest, .replayed.len(), digest(.replayed), first(.recorded, .replayed)
)]
pub struct Difference {
    /// Number of the cycle in the record, from 1.
    pub cycle: u64,
    /// What the record says of it.
    pub recorded: Box<Cycle>,
    /// What was decided now.
    pub replayed: Vec<Decision>,
}

/// The first pair that differs, where the record has the decisions themselves.
fn first(recorded: &Cycle, replayed: &[Decision]) -> String {
    let Some(list) = &recorded.list else {
        return String::new();
    };
    let at = (0..list.len().max(replayed.len())).find(|&i| list.get(i) != replayed.get(i));
    match at {
        Some(i) => format!(
            "; decision {}: recorded {:?}, replayed {:?}",
            i + 1,
            list.get(i),
            replayed.get(i)
        ),
        None => String::new(),
    }
}

/// A core that is told what a record says.
#[derive(Debug, Default)]
pub struct Replay {
    cluster: Cluster,
    /// What the core was told, if that is kept.
    facts: Option<Facts>,
    estimates: BTreeMap<String, Time>,
    now: Time,
    sessions: u64,
    events: u64,
    cycles: u64,
    decisions: u64,
}

impl Replay {
    /// A replay that keeps what the core is told, to be explained where it stops.
    #[must_use]
    pub fn to_explain() -> Replay {
        Replay {
            facts: Some(Facts::default()),
            ..Replay::default()
        }
    }

    /// Takes the next entry. For a cycle, its decisions.
    ///
    /// # Errors
    ///
    /// If it decides otherwise than the record says. The core has decided then, and going on makes sense only to look
    /// at it.
    pub fn take(&mut self, entry: Entry) -> Result<Vec<Decision>, Difference> {
        match entry {
            Entry::Start { settings, now } => {
                self.cluster = Cluster::with(settings);
                self.facts = self.facts.take().map(|_| Facts::default());
                self.estimates.clear();
                self.now = now;
                self.sessions += 1;
            }
            Entry::Event(event) => {
                self.events += 1;
                if let Some(facts) = &mut self.facts {
                    facts.take(&event);
                }
                self.cluster.apply(event);
            }
            Entry::Cycle(recorded) => {
                self.cycles += 1;
                let decisions = cycle(&mut self.cluster, recorded.now, recorded.budget);
                self.decisions += decisions.len() as u64;
                self.now = recorded.now;
                self.note_estimates(&decisions);
                if decisions.len() != recorded.decisions || digest(&decisions) != recorded.digest {
                    return Err(Difference {
                        cycle: self.cycles,
                        recorded: Box::new(recorded),
                        replayed: decisions,
                    });
                }
                return Ok(decisions);
            }
            Entry::End { .. } => {}
        }
        Ok(Vec::new())
    }

    fn note_estimates(&mut self, decisions: &[Decision]) {
        for decision in decisions {
            if let Decision::Reserve { claim, start } = decision {
                match start {
                    Some(start) => drop(self.estimates.insert(claim.clone(), *start)),
                    None => drop(self.estimates.remove(claim)),
                }
            }
        }
    }

    /// The core as it stands.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What it was told in this session; `None` unless the replay [is to be explained](Replay::to_explain).
    pub fn facts(&self) -> Option<&Facts> {
        self.facts.as_ref()
    }

    /// When the last cycle was, or the session began.
    pub fn now(&self) -> Time {
        self.now
    }

    /// When a claim, or a pod without one, that waits is expected to start, by UID, if that was said.
    pub fn estimate(&self, uid: &str) -> Option<Time> {
        self.estimates.get(uid).copied()
    }

    /// Sessions that began so far.
    pub fn sessions(&self) -> u64 {
        self.sessions
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Cycles so far.
    pub fn cycles(&self) -> u64 {
        self.cycles
    }

    /// Decisions so far.
    pub fn decisions(&self) -> u64 {
        self.decisions
    }
}
