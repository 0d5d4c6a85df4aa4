//! What the agent needs of a node, be it a kernel or a simulation.

use duosuan_policy::{Action, Capabilities, Millis, NamedGroup, Observation};

use crate::pods::PodInfo;

/// A node to look at and to act on.
pub trait Machine {
    /// What it can do. Probed once.
    fn capabilities(&self) -> &Capabilities;

    /// Counts these cgroups outside pods to their tiers from the next look on, and no others that an earlier call named.
    fn name(&mut self, _groups: &[NamedGroup]) {}

    /// Looks at it, into `seen`, which holds what the look before saw, or nothing. What cannot be read is absent in it, never
    /// an error: the rest goes on.
    fn observe(&mut self, pods: &[PodInfo], now: Millis, seen: &mut Observation);

    /// Makes `actions` hold, all of them and nothing else: whatever an earlier call set and this one does not name goes
    /// back to what it was before. Writes only differences.
    fn act(&mut self, actions: &[Action]) -> Acted;
}

/// What came of acting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acted {
    /// Files written.
    pub written: u64,
    /// Of these, files that somebody else had changed since.
    pub reasserted: u64,
    /// Memory that was reclaimed from batch, bytes.
    pub reclaimed: u64,
    /// Cgroups whose processes were killed.
    pub killed: u64,
    /// What could not be done, by file.
    pub failed: Vec<Failure>,
}

/// A kernel file that could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Name of the file: `cpu.max`.
    pub file: String,
    /// Path and cause.
    pub message: String,
}
