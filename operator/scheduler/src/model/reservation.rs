//! A reservation: seats that a claim is to have at a later time, when those who sit there are expected to be gone. Nothing
//! is held for it; whoever wants to start before it is asked whether that would move it.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    event::Time,
    model::{Model, Seat},
    slab::{ClaimOrd, NodeOrd, PodOrd},
};

/// Seats of a claim at a later time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reservation {
    pub(crate) claim: ClaimOrd,
    /// When it is to start; the end of its term, if it is a hold.
    pub(crate) start: Time,
    /// When it is expected to end; `None` for never by itself.
    pub(crate) end: Option<Time>,
    pub(crate) seats: Vec<(PodOrd, Seat)>,
    /// The nodes of its seats, ascending by ordinal.
    pub(crate) nodes: Vec<NodeOrd>,
    /// It is for the claim's window, and not because the claim is the first of its queue that waits.
    pub(crate) window: bool,
    /// What makes it a hold: nobody knows when some of those leave whose place it takes, and no start is promised.
    pub(crate) hold: Option<Hold>,
}

/// For whose leaving a claim waits that has a hold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Hold {
    /// Pods whose end nobody knows, by UID.
    pub(crate) leave: BTreeSet<Arc<str>>,
    /// Milliseconds from when it was made to its start.
    pub(crate) term: i64,
}

impl Reservation {
    /// True if it has a seat on a node.
    pub(crate) fn is_on(&self, node: NodeOrd) -> bool {
        self.nodes.binary_search(&node).is_ok()
    }

    /// True if it counts on a pod's leaving, whose end nobody knows.
    pub(crate) fn awaits(&self, pod: &str) -> bool {
        self.hold.as_ref().is_some_and(|hold| hold.leave.contains(pod))
    }

    /// True if it holds its seats at a time.
    pub(crate) fn is_active(&self, at: Time) -> bool {
        self.start <= at && self.end.is_none_or(|end| end > at)
    }
}

impl Model {
    /// The reservation of a claim.
    pub(crate) fn reservation_of(&self, claim: ClaimOrd) -> Option<&Arc<Reservation>> {
        self.reservations.iter().find(|r| r.claim == claim)
    }

    /// All reservations are known to hold, as things are.
    pub(crate) fn reservations_hold(&mut self) {
        self.reserved_at = Some((self.changes.clock(), self.freed));
    }

    /// True if nothing happened since all reservations were known to hold.
    pub(crate) fn do_reservations_hold(&self) -> bool {
        self.reserved_at == Some((self.changes.clock(), self.freed))
    }

    /// Drops the reservation of a claim. What it kept out may be tried again.
    pub(crate) fn unreserve(&mut self, claim: ClaimOrd) {
        let before = self.reservations.len();
        self.reservations.retain(|r| r.claim != claim);
        if self.reservations.len() < before {
            self.freed += 1;
        }
    }
}
