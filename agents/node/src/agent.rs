//! One node's agent without its edges: it observes, decides and acts once for each call.

use std::collections::{BTreeMap, BTreeSet};

use duosuan_policy::{
    Answer, Gang, Millis, Mode, Observation, Policy, Report, Resources, Service, State, Tier, decide,
};

use crate::{
    machine::{Acted, Machine},
    pods::PodInfo,
    selection::Choice,
};

/// One node's agent.
#[derive(Debug)]
pub struct Agent<M> {
    /// The node.
    pub machine: M,
    /// What it remembers.
    pub state: State,
    choice: Choice,
    pods: Vec<PodInfo>,
    /// What the last look saw.
    seen: Observation,
    services: Vec<Service>,
    gangs: BTreeMap<String, Gang>,
    observe_only: bool,
    unlisted: bool,
}

/// What came of one look.
#[derive(Clone, Debug)]
pub struct Look {
    /// What is seen, offered and meant.
    pub report: Report,
    /// What was done.
    pub acted: Acted,
}

impl<M: Machine> Agent<M> {
    /// An agent without a policy, which neither offers nor acts.
    pub fn new(machine: M, state: State) -> Self {
        Self {
            machine,
            state,
            choice: Choice::None,
            pods: Vec::new(),
            seen: Observation::default(),
            services: Vec::new(),
            gangs: BTreeMap::new(),
            observe_only: false,
            unlisted: false,
        }
    }

    /// Does everything but act, whatever the policy says.
    pub fn observe_only(&mut self, yes: bool) {
        self.observe_only = yes;
    }

    /// Whether it learns nothing from the next look on, since the list of pods or the policy is yet to come. It protects all
    /// the same.
    pub fn unlisted(&mut self, yes: bool) {
        self.unlisted = yes;
    }

    /// Whether it does everything but act, by its own flag or by the policy.
    pub fn observes(&self) -> bool {
        let by_policy = matches!(&self.choice, Choice::Policy { policy, .. } if policy.mode == Mode::Observe);
        self.observe_only || by_policy
    }

    /// Whether it may evict anybody, by its own flag and by the policy.
    pub fn evicts(&self) -> bool {
        let by_policy =
            matches!(&self.choice, Choice::Policy { policy, .. } if !policy.suspended && !policy.eviction.disabled);
        by_policy && !self.observes()
    }

    /// The policy that holds from the next look on.
    pub fn follow(&mut self, choice: Choice) {
        match &choice {
            Choice::Policy { policy, .. } => self.machine.name(&policy.groups),
            Choice::None | Choice::Refused { .. } => self.machine.name(&[]),
        }
        self.choice = choice;
    }

    /// What it follows.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// The pods from the next look on.
    pub fn set_pods(&mut self, pods: Vec<PodInfo>) {
        self.pods = pods;
    }

    /// The services that state a latency objective, from the next look on.
    pub fn set_services(&mut self, services: Vec<Service>) {
        self.services = services;
    }

    /// Gangs of its pods of mid and batch, by `namespace/claim`, from the next look on.
    pub fn set_gangs(&mut self, gangs: BTreeMap<String, Gang>) {
        self.gangs = gangs;
    }

    /// Gangs of its pods of mid and batch, by `namespace/claim`, in the order of their names.
    pub fn gang_names(&self) -> BTreeSet<String> {
        let pods = self.pods.iter().filter_map(|p| p.evictable.as_ref());
        pods.filter_map(|p| p.gang.clone()).collect()
    }

    /// Takes in what became of an order to evict a pod.
    pub fn evicted(&mut self, uid: &str, answer: Answer, now: Millis) {
        self.state.evicted(uid, answer, now);
    }

    /// What the API says is bound in a tier.
    pub fn bound(&self, tier: Tier) -> Resources {
        crate::pods::bound(&self.pods, tier)
    }

    /// Observes, decides, acts.
    pub fn look(&mut self, now: Millis) -> Look {
        self.machine.observe(&self.pods, now, &mut self.seen);
        self.seen.unlisted = self.unlisted;
        if self.seen.services != self.services {
            self.seen.services.clone_from(&self.services);
        }
        if self.seen.gangs != self.gangs {
            self.seen.gangs.clone_from(&self.gangs);
        }
        let policy = self.policy();
        let (actions, report) = decide(&policy, self.machine.capabilities(), &self.seen, &mut self.state, now);
        let acted = self.machine.act(&actions);
        Look { report, acted }
    }

    /// Without a sound policy nothing is offered and nothing is touched.
    fn policy(&self) -> Policy {
        let mut policy = match &self.choice {
            Choice::Policy { policy, .. } => policy.clone(),
            Choice::None | Choice::Refused { .. } => Policy {
                suspended: true,
                ..Policy::default()
            },
        };
        if self.observe_only {
            policy.mode = Mode::Observe;
        }
        policy
    }
}
