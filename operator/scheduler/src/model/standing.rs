//! How the pods of a group stand, and so the group.

use crate::{
    model::{Model, Place, claim::GroupSlot},
    slab::PodOrd,
};

/// How a pod stands in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It finished.
    Done,
    /// A seat is kept for it.
    Nominated,
    /// It runs, is bound or about to be.
    Live,
    /// It has scheduling gates.
    Gated,
    /// It asks for more than the group states.
    Exceeds,
    /// It is left alone for a while, since binding it failed.
    Held,
    /// It can be placed.
    Waits,
    /// It is on its way out.
    Leaves,
}

/// How a group stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Pods that run, are bound or about to be.
    pub(crate) live: u32,
    /// Pods that finished.
    pub(crate) done: u32,
    /// Pods that have a seat kept for them.
    pub(crate) nominated: u32,
    /// Pods with scheduling gates.
    pub(crate) gated: u32,
    /// Pods that are left alone for a while, since binding them failed.
    pub(crate) held: Vec<PodOrd>,
    /// First pod that asks for more than the group states.
    pub(crate) exceeding: Option<PodOrd>,
    /// Pods that can be placed, by creation time, then UID.
    pub(crate) waiting: Vec<PodOrd>,
}

impl Model {
    /// How a pod stands in its group.
    pub(crate) fn standing(&self, ord: PodOrd) -> Standing {
        let pod = &self.pods[ord];
        if pod.finished {
            Standing::Done
        } else if matches!(pod.place, Place::Nominated(_)) {
            Standing::Nominated
        } else if pod.is_live() {
            Standing::Live
        } else if !pod.waits() {
            Standing::Leaves
        } else if pod.gated {
            Standing::Gated
        } else if pod.exceeds.is_some() {
            Standing::Exceeds
        } else if pod.trouble.as_ref().is_some_and(|t| t.holds(self.now)) {
            Standing::Held
        } else {
            Standing::Waits
        }
    }

    /// How a group stands.
    pub(crate) fn tally(&self, group: &GroupSlot) -> Tally {
        let mut tally = Tally {
            done: group.done_and_gone,
            ..Default::default()
        };
        for &ord in &group.members {
            match self.standing(ord) {
                Standing::Done => tally.done += 1,
                Standing::Nominated => tally.nominated += 1,
                Standing::Live => tally.live += 1,
                Standing::Gated => tally.gated += 1,
                Standing::Exceeds => tally.exceeding = tally.exceeding.or(Some(ord)),
                Standing::Held => tally.held.push(ord),
                Standing::Waits => tally.waiting.push(ord),
                Standing::Leaves => {}
            }
        }
        tally
    }
}
