//! The scheduling core as a session drives it: whatever it is told and asked is recorded, if that is wanted. Everything
//! that changes it goes through here, so that no record can lack anything.

use std::ops::Deref;

use duosuan_planner::record::Entry;
use duosuan_scheduler::{Budget, Cluster, Decision, Event, Policy, Time, cycle};

use crate::{record::Recorder, session::now};

/// The core of one session. Reads as a [`Cluster`].
#[derive(Debug, Default)]
pub struct Core {
    cluster: Cluster,
    record: Recorder,
}

impl Core {
    /// An empty core, which is recorded from now on.
    pub fn new(record: Recorder) -> Self {
        let policy = Policy::default();
        if record.is_on() {
            record.entry(Entry::Start { now: now(), policy });
        }
        Self {
            cluster: Cluster::with_policy(policy),
            record,
        }
    }

    /// Takes in one fact.
    pub fn apply(&mut self, event: Event) {
        if self.record.is_on() {
            self.record.entry(Entry::Event(event.clone()));
        }
        self.cluster.apply(event);
    }

    /// Decides what to do now.
    pub fn cycle(&mut self, now: Time, budget: Budget) -> Vec<Decision> {
        let decisions = cycle(&mut self.cluster, now, budget);
        if self.record.is_on() {
            self.record.decided(now, budget, decisions.clone());
        }
        decisions
    }
}

impl Deref for Core {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}
