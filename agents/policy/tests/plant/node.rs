//! What all plants have: a node with one pod of prod and one of batch, and the agent's look at it.

use duosuan_policy::{
    Action, Capabilities, Group, GuardView, Observation, Policy, Report, Resources, Stall, State, Tier, decide,
};
use proptest::prelude::ProptestConfig;

/// Steps of the simulation, milliseconds.
pub(crate) const STEP_MS: u64 = 100;
/// Steps in a second.
pub(crate) const SECOND: u64 = 1000 / STEP_MS;
/// Random loads for each property.
pub(crate) const LOADS: u32 = 500;

/// The configuration of every property: so many loads, and none kept in files.
pub(crate) fn loads() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 100,
        ..ProptestConfig::with_cases(LOADS)
    }
}

/// A node.
pub(crate) struct Node {
    pub(crate) seen: Observation,
    pub(crate) now: u64,
    state: State,
    capabilities: Capabilities,
}

impl Node {
    pub(crate) fn new(capacity: Resources, capabilities: Capabilities) -> Self {
        let group = |path: &str, tier| Group {
            path: path.to_owned(),
            tier,
            cpu_usage: Some(0),
            memory: Some(0),
            stall: Stall {
                cpu: Some(0),
                memory: Some(0),
                io: Some(0),
            },
            ..Group::default()
        };
        Self {
            seen: Observation {
                capacity,
                cpu_busy: Some(0),
                memory_used: Some(0),
                groups: vec![group("batch", Tier::Batch), group("online", Tier::Prod)],
                complete: true,
                ..Observation::default()
            },
            now: 0,
            state: State::default(),
            capabilities,
        }
    }

    pub(crate) fn batch(&mut self) -> &mut Group {
        &mut self.seen.groups[0]
    }

    pub(crate) fn online(&mut self) -> &mut Group {
        &mut self.seen.groups[1]
    }

    /// CPU that was used in a step, cores.
    pub(crate) fn uses(&mut self, online: f64, batch: f64) {
        let micros = STEP_MS as f64 * 1000.0;
        add(&mut self.online().cpu_usage, online * micros);
        add(&mut self.batch().cpu_usage, batch * micros);
        add(&mut self.seen.cpu_busy, (online + batch) * micros);
    }

    /// Whether the second is full.
    pub(crate) fn ticks(&self) -> bool {
        self.now.is_multiple_of(1000)
    }

    pub(crate) fn look(&mut self) -> (Vec<Action>, Report) {
        decide(
            &Policy::default(),
            &self.capabilities,
            &self.seen,
            &mut self.state,
            self.now,
        )
    }
}

/// Counts on.
pub(crate) fn add(counter: &mut Option<u64>, by: f64) {
    *counter = counter.map(|c| c + by as u64);
}

/// What batch's `cpu.max` allows, cores.
pub(crate) fn quota(actions: &[Action]) -> Option<f64> {
    let action = actions.iter().find(|a| a.file == "cpu.max")?;
    let quota: f64 = action.value.split(' ').next().unwrap().parse().unwrap();
    Some(quota / 100_000.0)
}

pub(crate) fn guard<'a>(report: &'a Report, name: &str) -> &'a GuardView {
    report.guards.iter().find(|g| g.name == name).unwrap()
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
