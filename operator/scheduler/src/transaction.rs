//! Changes of the live model that can be taken back: the undo log.

use crate::{
    model::{Model, Place},
    slab::PodOrd,
};

/// A transaction: ends in [`Transaction::commit`] or [`Transaction::rollback`].
#[derive(Debug, Default)]
#[must_use = "a transaction ends in commit or rollback"]
pub(crate) struct Transaction {
    undo: Vec<Undo>,
}

#[derive(Debug)]
enum Undo {
    Seated(PodOrd),
    Unseated(PodOrd, Place),
}

impl Transaction {
    /// Gives a pod a seat.
    pub(crate) fn seat(&mut self, model: &mut Model, pod: PodOrd, place: Place) {
        model.seat(pod, place);
        self.undo.push(Undo::Seated(pod));
    }

    /// Takes a pod's seat away.
    pub(crate) fn unseat(&mut self, model: &mut Model, pod: PodOrd) {
        let place = model.unseat(pod);
        self.undo.push(Undo::Unseated(pod, place));
    }

    /// How far it has got: a point to roll back to.
    pub(crate) fn mark(&self) -> usize {
        self.undo.len()
    }

    /// Takes back everything after a mark, latest first.
    pub(crate) fn rollback_to(&mut self, model: &mut Model, mark: usize) {
        while self.undo.len() > mark {
            match self.undo.pop() {
                Some(Undo::Seated(pod)) => {
                    model.unseat(pod);
                }
                Some(Undo::Unseated(pod, place)) => model.seat(pod, place),
                None => break,
            }
        }
    }

    /// Takes everything back.
    pub(crate) fn rollback(mut self, model: &mut Model) {
        self.rollback_to(model, 0);
    }

    /// Leaves everything as it is.
    pub(crate) fn commit(self) {}
}
