//! The scheduling core as a session drives it: whatever it is told and asked is recorded, if that is wanted. Everything
//! that changes it goes through here, so that no record can lack anything.

use std::ops::Deref;

use duosuan_planner::record::Entry;
use duosuan_scheduler::{Budget, Cluster, Decision, Event, Settings, Time, cycle};

use crate::{clock::Clock, record::Recorder};

/// The core of one session. Reads as a [`Cluster`].
#[derive(Debug, Default)]
pub struct Core {
    cluster: Cluster,
    record: Recorder,
    clock: Clock,
}

impl Core {
    /// An empty core that decides in this way, and is recorded from now on.
    pub fn new(record: Recorder, clock: Clock, settings: Settings) -> Self {
        if record.is_on() {
            let now = clock.now();
            record.entry(Entry::Start { now, settings });
        }
        Self {
            cluster: Cluster::with(settings),
            record,
            clock,
        }
    }

    /// What time it is for the core.
    pub fn now(&self) -> Time {
        self.clock.now()
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
