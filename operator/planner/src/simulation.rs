//! A cluster run offline: discrete events over the production core. What the core decides is carried out at once, unless
//! an [`Edge`] or a disruption budget is against it, pods that have a run time end when it is over, and time jumps from
//! one thing that happens to the next.

use std::collections::{BTreeMap, BTreeSet};

use duosuan_scheduler::{
    Budget, ClaimAllocation, Cluster, Decision, Event, EvictCause, LostWork, Reason, Settings, Time, cycle,
};

use crate::{
    budgets::{Budgets, Disruption},
    facts::Facts,
    together::Together,
};

/// Times in a row at which nothing may be decided before the simulation is at rest: the core is then waiting for a time
/// that always comes and changes nothing.
const IDLE_WAKINGS: u32 = 1000;

/// Why a claim, or a pod without one, waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Why.
    pub reason: Reason,
    /// What the core says would admit it.
    pub counterfactual: Option<String>,
}

/// A pod that was bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Its UID.
    pub pod: String,
    /// Name of the node.
    pub node: String,
    /// Devices there, by index.
    pub devices: Vec<u16>,
    /// The NUMA node on it that its claim requires one of.
    pub numa: Option<u16>,
    /// What its claims to devices have.
    pub allocations: Vec<ClaimAllocation>,
    /// When.
    pub at: Time,
}

/// A pod that was evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// Its UID.
    pub pod: String,
    /// Why.
    pub cause: EvictCause,
    /// Work that is lost with all pods of its claim that went with it.
    pub lost: LostWork,
    /// When.
    pub at: Time,
}

/// The core does not come to rest: it decides again and again with nothing that changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the scheduler does not come to rest: after {cycles} cycles at one time it still decides {last:?}; this is a mistake of the scheduler"
)]
pub struct Restless {
    /// Cycles at that time.
    pub cycles: usize,
    /// What it decided last.
    pub last: Vec<Decision>,
}

/// What stands between the core and its cluster, and knows more than the core.
pub trait Edge {
    /// A pod is to be bound: what the core has to be told of others if it is.
    ///
    /// # Errors
    ///
    /// If it cannot be: why.
    fn bind(&mut self, bound: &Bound) -> Result<Vec<Event>, String>;

    /// Claims to devices of a pod that waits, by UID, are to give back what they have: what the core has to be told of that.
    fn take_back(&mut self, pod: &str, claims: &[ClaimAllocation]) -> Vec<Event>;

    /// A pod, by UID, has ended or is gone: what the core has to be told of others.
    fn left(&mut self, pod: &str) -> Vec<Event>;
}

/// Nothing stands between the core and its cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoEdge;

impl Edge for NoEdge {
    fn bind(&mut self, _: &Bound) -> Result<Vec<Event>, String> {
        Ok(Vec::new())
    }

    fn take_back(&mut self, _: &str, _: &[ClaimAllocation]) -> Vec<Event> {
        Vec::new()
    }

    fn left(&mut self, _: &str) -> Vec<Event> {
        Vec::new()
    }
}

/// A cluster at a simulated time.
#[derive(Clone, Debug, Default)]
pub struct Simulation<E = NoEdge> {
    edge: E,
    budgets: Budgets,
    cluster: Cluster,
    facts: Facts,
    now: Time,
    /// Milliseconds that pods run, by UID; the others run for ever.
    run_times: BTreeMap<String, i64>,
    /// When the pods that run now end.
    ends: BTreeSet<(Time, String)>,
    bound: Vec<Bound>,
    evicted: Vec<Evicted>,
    finished: Vec<(String, Time)>,
    estimates: BTreeMap<String, Time>,
}

impl Simulation {
    /// A cluster of which `events` tell everything, at `now`. Pods that are bound run, and go on for what is left of
    /// `run_times`: milliseconds by UID.
    pub fn new(now: Time, events: impl IntoIterator<Item = Event>, run_times: BTreeMap<String, i64>) -> Simulation {
        Simulation::behind(
            NoEdge,
            Disruption::default(),
            Settings::default(),
            now,
            events,
            run_times,
        )
    }
}

impl<E: Edge> Simulation<E> {
    /// [`Simulation::new`], behind an edge, which knows all that `events` tell, under disruption budgets, and with a core that
    /// decides as it is set to.
    pub fn behind(
        edge: E,
        disruption: Disruption,
        settings: Settings,
        now: Time,
        events: impl IntoIterator<Item = Event>,
        run_times: BTreeMap<String, i64>,
    ) -> Self {
        let mut simulation = Simulation {
            edge,
            budgets: Budgets::default(),
            cluster: Cluster::with(settings),
            facts: Facts::default(),
            now,
            run_times,
            ends: BTreeSet::new(),
            bound: Vec::new(),
            evicted: Vec::new(),
            finished: Vec::new(),
            estimates: BTreeMap::new(),
        };
        for event in events {
            simulation.tell(event);
        }
        simulation.budgets = Budgets::new(disruption, simulation.facts.pods.values());
        let running: Vec<String> = simulation
            .facts
            .pods
            .values()
            .filter(|p| runs(p))
            .map(|p| p.uid.clone())
            .collect();
        for pod in running {
            simulation.expect_end(pod);
        }
        simulation
    }

    fn tell(&mut self, event: Event) {
        match &event {
            Event::Pod(pod) => self.budgets.observe(self.facts.pods.get(&pod.uid), Some(pod)),
            Event::PodGone(uid) => self.budgets.observe(self.facts.pods.get(uid), None),
            _ => {}
        }
        self.facts.take(&event);
        self.cluster.apply(event);
    }

    fn expect_end(&mut self, pod: String) {
        if let Some(millis) = self.run_times.get(&pod) {
            self.ends.insert((Time(self.now.0.saturating_add(*millis)), pod));
        }
    }

    /// Runs until nothing changes any more; with `until`, to that time and no further.
    ///
    /// # Errors
    ///
    /// If the core does not come to rest.
    pub fn run(&mut self, until: Option<Time>) -> Result<(), Restless> {
        let mut idle = 0;
        self.settle()?;
        // Nothing happens while the core only waits: at the end it is as late as when something last did.
        let mut last = self.now;
        while let Some(next) = self.next_time().filter(|next| until.is_none_or(|until| *next <= until)) {
            self.now = next;
            let ended = self.end_pods();
            let decided = self.settle()?;
            if ended || decided {
                (idle, last) = (0, next);
            } else {
                idle += 1;
            }
            if idle > IDLE_WAKINGS {
                break;
            }
        }
        self.now = until.map_or(last, |until| until.max(last));
        Ok(())
    }

    fn next_time(&self) -> Option<Time> {
        let end = self.ends.first().map(|(at, _)| *at);
        let waking = self.cluster.next_time().filter(|at| *at > self.now);
        end.into_iter().chain(waking).min()
    }

    /// Ends the pods whose time is over. True if there were some.
    fn end_pods(&mut self) -> bool {
        let mut any = false;
        while let Some((at, uid)) = self.ends.pop_first_if_due(self.now) {
            any = true;
            if let Some(pod) = self.facts.pods.get(&uid) {
                let mut pod = pod.clone();
                pod.finished = true;
                self.tell(Event::Pod(Box::new(pod)));
                self.left(&uid);
                self.finished.push((uid, at));
            }
        }
        any
    }

    /// Cycles until nothing is decided, and carries all of it out that can be. True if something was.
    fn settle(&mut self) -> Result<bool, Restless> {
        // Each pod is bound and evicted at most once, after two tries and one, and a few cycles may speak only of what
        // waits.
        let limit = self.facts.pods.len().saturating_mul(4).saturating_add(100);
        let mut cycles = 0;
        let mut changed = false;
        loop {
            let decisions = cycle(&mut self.cluster, self.now, Budget::default());
            if decisions.is_empty() && !self.cluster.is_unfinished() {
                return Ok(changed);
            }
            cycles += 1;
            if cycles > limit {
                return Err(Restless {
                    cycles,
                    last: decisions,
                });
            }
            let mut together = Together::of(&decisions);
            for decision in decisions {
                if let Some(event) = together.instead_of(&decision, &self.budgets, &self.facts.pods) {
                    self.tell(event);
                    continue;
                }
                changed |= self.carry_out(decision);
            }
        }
    }

    /// Carries out a decision. True if the cluster is another one for it.
    fn carry_out(&mut self, decision: Decision) -> bool {
        match decision {
            Decision::Bind {
                pod,
                node,
                devices,
                numa,
                allocations,
                ..
            } => {
                let at = self.now;
                return self.bind(Bound {
                    pod,
                    node,
                    devices,
                    numa,
                    allocations,
                    at,
                });
            }
            Decision::Evict { pod, cause, lost, .. } => return self.evict(pod, cause, lost),
            Decision::TakeBack { pod, claims } => {
                let told = self.edge.take_back(&pod, &claims);
                told.into_iter().for_each(|event| self.tell(event));
            }
            Decision::Reserve { claim, start } => match start {
                Some(start) => drop(self.estimates.insert(claim, start)),
                None => drop(self.estimates.remove(&claim)),
            },
            // What waits is asked for at the end, with the numbers of then; who owns the pods of an elastic claim is not
            // simulated.
            _ => {}
        }
        false
    }

    fn bind(&mut self, bound: Bound) -> bool {
        let Some(known) = self.facts.pods.get(&bound.pod) else {
            return false;
        };
        let mut fact = known.clone();
        let others = match self.edge.bind(&bound) {
            Ok(others) => others,
            Err(message) => {
                self.tell(Event::BindFailed {
                    pod: bound.pod,
                    node: bound.node,
                    message,
                    lasting: false,
                });
                return false;
            }
        };
        fact.node = Some(bound.node.clone());
        fact.devices.clone_from(&bound.devices);
        fact.numa = bound.numa;
        self.tell(Event::Pod(Box::new(fact)));
        others.into_iter().for_each(|event| self.tell(event));
        self.expect_end(bound.pod.clone());
        self.bound.push(bound);
        true
    }

    fn evict(&mut self, pod: String, cause: EvictCause, lost: LostWork) -> bool {
        let known = self.facts.pods.get(&pod);
        if let Some(Err(message)) = known.map(|known| self.budgets.may_evict(known)) {
            self.tell(Event::EvictFailed { pod, message });
            return false;
        }
        self.ends.retain(|(_, ends)| *ends != pod);
        self.tell(Event::PodGone(pod.clone()));
        self.left(&pod);
        let at = self.now;
        self.evicted.push(Evicted { pod, cause, lost, at });
        true
    }

    /// A pod has ended or is gone.
    fn left(&mut self, pod: &str) {
        let others = self.edge.left(pod);
        others.into_iter().for_each(|event| self.tell(event));
    }

    /// Simulated time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// The core, to look at.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Everything that it was told, and that came of its decisions. Evicted pods are gone.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Disruption budgets with what is available now.
    #[must_use]
    pub fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// Pods that it bound, in order.
    #[must_use]
    pub fn bound(&self) -> &[Bound] {
        &self.bound
    }

    /// Pods that it evicted, in order.
    #[must_use]
    pub fn evicted(&self) -> &[Evicted] {
        &self.evicted
    }

    /// Pods that ended, with the time, in order.
    #[must_use]
    pub fn finished(&self) -> &[(String, Time)] {
        &self.finished
    }

    /// When a claim, or a pod without one, that waits is expected to start, by UID, if that was said.
    #[must_use]
    pub fn estimate(&self, uid: &str) -> Option<Time> {
        self.estimates.get(uid).copied()
    }

    /// What waits, by UID of the claim or pod, with the numbers of now.
    #[must_use]
    pub fn waits(&self) -> BTreeMap<String, Wait> {
        waits(&self.cluster, self.now)
    }
}

/// What waits in a core that has decided all it can, by UID of the claim or pod, with the numbers of now. A core that
/// has something to decide has it decided on a copy first.
#[must_use]
pub fn waits(cluster: &Cluster, now: Time) -> BTreeMap<String, Wait> {
    let mut copy = cluster.clone();
    copy.say_again();
    let mut waits = BTreeMap::new();
    for decision in cycle(&mut copy, now, Budget::default()) {
        match decision {
            Decision::Pending {
                claim,
                reason,
                counterfactual,
            } => drop(waits.insert(claim, Wait { reason, counterfactual })),
            Decision::Placed { claim } => drop(waits.remove(&claim)),
            _ => {}
        }
    }
    waits
}

/// A pod that holds its node.
fn runs(pod: &duosuan_scheduler::event::Pod) -> bool {
    pod.node.is_some() && !pod.finished
}

trait PopDue {
    /// The first, if its time has come.
    fn pop_first_if_due(&mut self, now: Time) -> Option<(Time, String)>;
}

impl PopDue for BTreeSet<(Time, String)> {
    fn pop_first_if_due(&mut self, now: Time) -> Option<(Time, String)> {
        let due = self.first().is_some_and(|(at, _)| *at <= now);
        if due { self.pop_first() } else { None }
    }
}

#[cfg(test)]
mod tests;
