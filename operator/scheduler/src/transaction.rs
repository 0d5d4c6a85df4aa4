//! Changes of the live model that can be taken back: the undo log.

use crate::{
    model::{Model, Place},
    slab::{NodeOrd, PodOrd},
};

/// A transaction: ends in [`Transaction::commit`] or [`Transaction::rollback`].
#[derive(Debug, Default)]
#[must_use = "a transaction ends in commit or rollback"]
pub(crate) struct Transaction {
    undo: Vec<Undo>,
}

#[derive(Debug)]
struct Undo {
    pod: PodOrd,
    /// The seat that it had; nowhere, if it got one.
    had: Place,
    /// Whose state changed by it, and what that was.
    state: Option<(NodeOrd, u64)>,
}

fn state(model: &Model, place: &Place) -> Option<(NodeOrd, u64)> {
    let node = place.seat()?.node;
    Some((node, model.changes.state(node)))
}

impl Transaction {
    /// Gives a pod a seat.
    pub(crate) fn seat(&mut self, model: &mut Model, pod: PodOrd, place: Place) {
        let state = state(model, &place);
        model.seat(pod, place);
        let had = Place::Nowhere;
        self.undo.push(Undo { pod, had, state });
    }

    /// Takes a pod's seat away.
    pub(crate) fn unseat(&mut self, model: &mut Model, pod: PodOrd) {
        let state = state(model, &model.pods[pod].place);
        let had = model.unseat(pod);
        self.undo.push(Undo { pod, had, state });
    }

    /// How far it has got: a point to roll back to.
    pub(crate) fn mark(&self) -> usize {
        self.undo.len()
    }

    /// Takes back everything after a mark, latest first.
    pub(crate) fn rollback_to(&mut self, model: &mut Model, mark: usize) {
        while self.undo.len() > mark {
            let Some(Undo { pod, had, state }) = self.undo.pop() else {
                break;
            };
            if had == Place::Nowhere {
                model.unseat(pod);
            } else {
                model.seat(pod, had);
            }
            if let Some((node, state)) = state {
                model.changes.restore(node, state);
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

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "tests"
    )]
    use super::*;
    use crate::{
        event::Pod,
        model::Seat,
        tests::fixtures::{World, gpu_node, gpu_pod, queue, share, whole},
    };

    #[test]
    fn a_rollback_leaves_the_model_as_it_was_and_a_mark_keeps_what_was_before_it() {
        let mut world = World::with([
            gpu_node("a", 4, "A100").into(),
            queue("top", None, &[], &[]).into(),
            queue("q", Some("top"), &[("gpu", 2000)], &[("gpu", 4000)]).into(),
        ]);
        for (uid, gpus) in [("p", share(300)), ("q", whole(2)), ("r", share(700))] {
            let mut pod = Pod {
                queue: "q".into(),
                ..gpu_pod(uid, gpus)
            };
            pod.host_ports = vec![format!("TCP/0.0.0.0/{}", uid.len() + pod.name.len())];
            world.tell(pod);
        }
        let model = &mut world.cluster.model;
        let pods: Vec<PodOrd> = ["p", "q", "r"].map(|uid| model.pods_by_uid[uid]).to_vec();
        let node = model.nodes_by_name["a"];
        let seat = |devices: &[u16]| Seat {
            node,
            devices: devices.into(),
            numa: None,
            allocations: Box::default(),
        };
        model.seat(pods[0], Place::Bound(seat(&[3])));
        let before = model.clone();
        let state = |model: &Model| model.changes.state(node);

        let mut transaction = Transaction::default();
        transaction.seat(model, pods[1], Place::Assumed(seat(&[0, 1])));
        let (mark, middle) = (transaction.mark(), model.clone());
        transaction.unseat(model, pods[0]);
        transaction.seat(model, pods[2], Place::Nominated(seat(&[3])));
        assert!(*model != middle);
        assert_ne!(state(model), state(&middle));
        transaction.rollback_to(model, mark);
        assert!(*model == middle);
        assert_eq!(state(model), state(&middle));
        assert_ne!(state(model), state(&before));
        transaction.rollback(model);
        assert!(*model == before);
        assert_eq!(state(model), state(&before));
    }
}
