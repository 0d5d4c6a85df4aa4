//! Bindings that failed: what the API server said, and when they are tried again.

use crate::{
    decision::Reason,
    event::Time,
    model::{Model, Place},
    slab::PodOrd,
};

/// The second failure in a row is waited out for so many milliseconds, each further one twice as long as the last.
const FIRST_PAUSE: i64 = 1_000;
/// 64 s: longer than a restart of an API server takes.
const LONGEST_PAUSE: i64 = FIRST_PAUSE << 6;

/// Milliseconds to wait after so many failures in a row: 0, 1, 2, 4 ... 64 s.
fn pause(failures: u32) -> i64 {
    match failures {
        0 | 1 => 0,
        n => FIRST_PAUSE << (n - 2).min(6),
    }
    .min(LONGEST_PAUSE)
}

/// What came of the attempts to bind a pod, none of which has been confirmed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// Failures in a row.
    failures: u32,
    /// Not to be placed before; `None`: not before it is said that the API server allows it.
    until: Option<Time>,
    /// What the API server said.
    message: Box<str>,
}

impl Trouble {
    /// True while the pod is not to be placed.
    pub(crate) fn holds(&self, now: Time) -> bool {
        self.until.is_none_or(|until| until > now)
    }

    /// Why a pod of this name is not placed.
    pub(crate) fn reason(&self, pod: &str) -> Reason {
        Reason::BindingFailed {
            pod: pod.to_owned(),
            message: self.message.to_string(),
            refused: self.until.is_none(),
        }
    }
}

impl Model {
    /// A binding was not carried out. What is said of a node where the pod is not to be (any more) is passed over.
    pub(crate) fn apply_bind_failed(&mut self, uid: &str, node: &str, message: &str, lasting: bool) {
        let Some(ord) = self.pods_by_uid.get(uid).copied() else {
            return self.take_back_promises(uid);
        };
        let Place::Assumed(seat) = &self.pods[ord].place else {
            return self.take_back_promises(uid);
        };
        let seat = seat.node;
        if !node.is_empty() && *self.nodes[seat].name != *node {
            return;
        }
        self.unseat(ord);
        self.take_back_promises(uid);
        self.see_device_claims_anew(ord);
        self.note_going(ord);
        self.forget_node_if_unused(seat);
        self.freed += 1;
        let failures = self.pods[ord]
            .trouble
            .as_ref()
            .map_or(0, |t| t.failures)
            .saturating_add(1);
        let until = (!lasting).then(|| Time(self.now.0.saturating_add(pause(failures))));
        let trouble = Trouble {
            failures,
            until,
            message: message.into(),
        };
        self.pods[ord].trouble = Some(Box::new(trouble));
        self.held_back.extend(until.map(|until| (until, ord)));
        self.mark_claim_of(ord);
    }

    /// A binding that the API server refused would be carried out now.
    pub(crate) fn apply_bind_allowed(&mut self, uid: &str) {
        let Some(ord) = self.pods_by_uid.get(uid).copied() else {
            return;
        };
        let now = self.now;
        if let Some(trouble) = self.pods[ord].trouble.as_mut().filter(|t| t.until.is_none()) {
            trouble.until = Some(now);
            self.mark_claim_of(ord);
        }
    }

    /// Claims of pods that have waited long enough are looked at again.
    pub(crate) fn try_held_back(&mut self) {
        while let Some(&(until, pod)) = self.held_back.first() {
            if until > self.now {
                return;
            }
            self.held_back.pop_first();
            // It may be gone by now, and another one in its place: to look at that again does no harm.
            if self.pods.find(pod).is_some() {
                self.mark_claim_of(pod);
            }
        }
    }

    /// True if a pod's place is decided, and none of the attempts so far to bind it went well.
    pub(crate) fn is_unproven(&self, ord: PodOrd) -> bool {
        let pod = &self.pods[ord];
        pod.trouble.is_some() && matches!(pod.place, Place::Assumed(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_finite() {
        assert_eq!(
            [0, 1, 2, 3, 8, 9, u32::MAX].map(pause),
            [0, 0, 1_000, 2_000, 64_000, 64_000, 64_000]
        );
    }
}
