//! A reservation: seats that a claim is to have at a later time, when those who sit there are expected to be gone. Nothing
//! is held for it; whoever wants to start before it is asked whether that would move it.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    amount::Amounts,
    event::Time,
    model::{Model, Seat},
    slab::{ClaimOrd, IdentityOrd, NodeOrd, PodOrd, ShapeOrd},
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
    /// The nodes of its seats, ascending by ordinal, each with the places of those seats in their list.
    by_node: Vec<(NodeOrd, usize)>,
    /// One of its pods of each shape and identity: of those that are alike in what they ask of others, and others of them.
    kinds: Vec<PodOrd>,
    /// What its pods ask for together.
    pub(crate) ask: Amounts,
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

/// When all reservations were known to hold, and which these were.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    clock: u64,
    freed: u64,
    all: Vec<Arc<Reservation>>,
}

impl Held {
    /// True if the first reservations were these.
    pub(crate) fn begins_with(&self, first: &[Arc<Reservation>], then: &Arc<Reservation>) -> bool {
        let all = first.iter().chain([then]);
        self.all.len() > first.len() && self.all.iter().zip(all).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

impl Reservation {
    /// A reservation of seats from a time on.
    pub(crate) fn new(model: &Model, claim: ClaimOrd, start: Time, seats: Vec<(PodOrd, Seat)>) -> Reservation {
        let mut by_node: Vec<(NodeOrd, usize)> = seats.iter().enumerate().map(|(i, (_, s))| (s.node, i)).collect();
        by_node.sort_unstable();
        let pods: Vec<PodOrd> = seats.iter().map(|(pod, _)| *pod).collect();
        let mut kinds = BTreeSet::new();
        let slot = &model.claims[claim];
        Reservation {
            claim,
            start,
            end: slot.end_from(start),
            by_node,
            ask: model.ask_of_pods(&pods),
            kinds: pods.into_iter().filter(|pod| kinds.insert(model.kind(*pod))).collect(),
            seats,
            window: slot.window.is_some(),
            hold: None,
        }
    }

    /// Its pods, in the order of their seats.
    pub(crate) fn pods(&self) -> Vec<PodOrd> {
        self.seats.iter().map(|(pod, _)| *pod).collect()
    }

    /// True if its pods are what they were when it was made, and are to take as long.
    pub(crate) fn is_as_asked(&self, model: &Model, pods: &[PodOrd]) -> bool {
        let kinds: BTreeSet<_> = self.kinds.iter().map(|pod| model.kind(*pod)).collect();
        let slot = model.claims.find(self.claim);
        slot.is_some_and(|slot| slot.end_from(self.start) == self.end)
            && pods
                .iter()
                .all(|pod| model.pods.find(*pod).is_some() && kinds.contains(&model.kind(*pod)))
            && model.ask_of_pods(pods) == self.ask
    }

    /// True if it has a seat on a node.
    pub(crate) fn is_on(&self, node: NodeOrd) -> bool {
        self.seats_on(node).next().is_some()
    }

    /// Its seats on a node, in their order.
    pub(crate) fn seats_on(&self, node: NodeOrd) -> impl Iterator<Item = &(PodOrd, Seat)> {
        let first = self.by_node.partition_point(|(other, _)| *other < node);
        let from = self.by_node.get(first..).unwrap_or_default().iter();
        from.take_while(move |(other, _)| *other == node)
            .filter_map(|(_, at)| self.seats.get(*at))
    }

    /// The nodes on which it has seats, ascending by ordinal.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeOrd> {
        let mut last = None;
        self.by_node
            .iter()
            .map(|(node, _)| *node)
            .filter(move |node| last.replace(*node) != Some(*node))
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
    /// What a pod asks of nodes and others, and what others ask of it; `None` if there is no such pod.
    fn kind(&self, pod: PodOrd) -> Option<(ShapeOrd, IdentityOrd)> {
        let slot = self.pods.find(pod)?;
        Some((slot.shape, slot.identity))
    }

    /// True if pods of a reservation have rules about others, or others about them.
    pub(crate) fn is_related(&mut self, r: &Reservation) -> bool {
        r.kinds.iter().any(|pod| {
            if self.pods.find(*pod).is_none() {
                return false;
            }
            let look = self.look(*pod);
            look.hits.is_some() || self.marks.compiled(look.shape).is_some()
        })
    }

    /// The reservation of a claim.
    pub(crate) fn reservation_of(&self, claim: ClaimOrd) -> Option<&Arc<Reservation>> {
        self.reservations.iter().find(|r| r.claim == claim)
    }

    /// All reservations are known to hold, as things are.
    pub(crate) fn reservations_hold(&mut self) {
        self.reserved_at = Some(Held {
            clock: self.changes.clock(),
            freed: self.freed,
            all: self.reservations.clone(),
        });
    }

    /// True if nothing happened since all reservations were known to hold.
    pub(crate) fn do_reservations_hold(&self) -> bool {
        let at = self.reserved_at.as_ref();
        at.is_some_and(|at| (at.clock, at.freed) == (self.changes.clock(), self.freed))
    }

    /// The nodes on which something happened, or did not that was expected, since all reservations were known to hold.
    pub(crate) fn changed_since(&self, held: &Held) -> BTreeSet<NodeOrd> {
        let late = self.ending.iter().take_while(|key| key.end <= self.now);
        let overdue = late
            .flat_map(|key| self.members(key.claim))
            .chain(self.going.iter().copied());
        let overdue = overdue.filter_map(|pod| Some(self.pods[pod].place.seat()?.node));
        overdue.chain(self.changes.since(held.clock)).collect()
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
