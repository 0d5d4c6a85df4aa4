//! A pod: its facts, its seat, and how it comes and goes.

use std::sync::{Arc, LazyLock};

use crate::{
    decision::Reason,
    event::{self, Tier, Time},
    model::{Model, dra::Allocations, trouble::Trouble},
    slab::{ClaimOrd, DeviceClaimOrd, IdentityOrd, KinOrd, NodeOrd, PodOrd, ShapeOrd, TemplateOrd},
};

/// Milliseconds for which a pod is left alone after its eviction was refused, each time twice as long: a disruption
/// budget that is used up recovers when a pod has started, which takes seconds, or when somebody sees to it.
const REFUSED: [i64; 5] = [5_000, 10_000, 20_000, 40_000, 60_000];

/// The group of pods that name none.
static NO_GROUP: LazyLock<Arc<str>> = LazyLock::new(|| "".into());

/// Where a pod sits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) node: NodeOrd,
    /// Devices on it, ascending; empty without a GPU request, or if we do not know which it has.
    pub(crate) devices: Box<[u16]>,
    /// The NUMA node on it whose cores and memory it is to use, if it has to use those of one.
    pub(crate) numa: Option<u16>,
    /// What its claims to devices have there, claim by claim; empty if it has no claims, or was bound by others.
    pub(crate) allocations: Allocations,
}

/// Whether a pod has a seat, and how sure that is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Place {
    /// It has none.
    #[default]
    Nowhere,
    /// Kept for it until the pods that sit there are gone.
    Nominated(Seat),
    /// Decided by us, not confirmed yet.
    Assumed(Seat),
    /// Seen in the pod.
    Bound(Seat),
}

impl Place {
    /// The seat, if there is one.
    pub(crate) fn seat(&self) -> Option<&Seat> {
        match self {
            Place::Nowhere => None,
            Place::Nominated(seat) | Place::Assumed(seat) | Place::Bound(seat) => Some(seat),
        }
    }

    /// True for a seat that the pod has, not one that it waits for.
    pub(crate) fn is_taken(&self) -> bool {
        matches!(self, Place::Assumed(_) | Place::Bound(_))
    }
}

/// A pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodSlot {
    pub(crate) uid: Arc<str>,
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) created: Time,
    pub(crate) priority: i32,
    /// Nobody of lower priority goes for it.
    pub(crate) never_preempts: bool,
    /// Its claim; `None` if it is another scheduler's.
    pub(crate) claim: Option<ClaimOrd>,
    /// Group that its label names.
    pub(crate) group: Arc<str>,
    pub(crate) template: TemplateOrd,
    pub(crate) shape: ShapeOrd,
    /// Namespace and labels, as others' rules see it.
    pub(crate) identity: IdentityOrd,
    /// Those of the same controller.
    pub(crate) kin: Option<KinOrd>,
    pub(crate) place: Place,
    /// Claims to devices that it uses, while it may be placed yet.
    pub(crate) device_claims: Box<[DeviceClaimOrd]>,
    /// When it started on its node, if that was told.
    pub(crate) started: Option<Time>,
    /// When it wrote its last checkpoint.
    pub(crate) last_checkpoint: Option<Time>,
    pub(crate) finished: bool,
    pub(crate) terminating: bool,
    pub(crate) gated: bool,
    /// Why it is never to be placed as it is.
    pub(crate) refused: Option<Box<str>>,
    pub(crate) ours: bool,
    /// It is in the [mix](crate::mix) already.
    pub(crate) counted: bool,
    /// We decided to evict it.
    pub(crate) leaving: bool,
    /// The claim that waits for it to be gone.
    pub(crate) leaving_for: Option<ClaimOrd>,
    /// Not to be evicted before.
    pub(crate) refused_until: Time,
    /// How often its eviction was refused.
    pub(crate) refusals: u32,
    /// What came of the attempts to bind it, until one is confirmed.
    pub(crate) trouble: Option<Box<Trouble>>,
    /// Why it is not placed as it is: it is refused, or asks for more than its group states.
    pub(crate) exceeds: Option<Box<Reason>>,
    /// What was last said of this pod by itself (not of its claim).
    pub(crate) reported: Option<Box<Reason>>,
}

impl PodSlot {
    /// The seat, which counts. A finished pod has none.
    #[inline]
    pub(crate) fn held_seat(&self) -> Option<&Seat> {
        self.place.seat()
    }

    /// True if it could be placed now, as far as it alone is concerned.
    pub(crate) fn waits(&self) -> bool {
        self.ours && !self.finished && !self.terminating && !self.leaving && self.place == Place::Nowhere
    }

    /// True if it runs or is about to, and is not on its way out.
    pub(crate) fn is_live(&self) -> bool {
        !self.finished && !self.terminating && !self.leaving && self.place.is_taken()
    }
}

impl Model {
    /// Takes in a pod.
    pub(crate) fn apply_pod(&mut self, event: &event::Pod) {
        if event.uid.is_empty() {
            return;
        }
        let known = self.pods_by_uid.get(event.uid.as_str()).copied();
        if let Some(ord) = known
            && self.confirms(ord, event)
        {
            return;
        }
        let previous = known.map(|ord| (ord, self.take_out(ord)));
        let template = self.template_of(event);
        let template = self.templates.acquire(template);
        let identity = self.identity_of(event);
        let mut slot = PodSlot {
            uid: event.uid.as_str().into(),
            namespace: self.marks.identity(identity).namespace.clone(),
            name: event.name.as_str().into(),
            created: event.created,
            priority: event.priority,
            never_preempts: event.never_preempts,
            claim: None,
            group: if event.group.is_empty() {
                NO_GROUP.clone()
            } else {
                event.group.as_str().into()
            },
            template,
            shape: ShapeOrd::new(0),
            identity,
            kin: self.kins.acquire(&event.owner),
            place: Place::Nowhere,
            device_claims: Box::default(),
            started: event.started,
            last_checkpoint: event.last_checkpoint,
            finished: event.finished,
            terminating: event.terminating,
            gated: event.gated,
            refused: event.refused.as_deref().map(Into::into),
            ours: event.ours,
            counted: false,
            leaving: false,
            leaving_for: None,
            refused_until: Time::default(),
            refusals: 0,
            trouble: None,
            exceeds: None,
            reported: None,
        };
        if let Some((_, old)) = &previous {
            // Neither a pod's end nor its deletion is ever taken back: what says otherwise came late.
            slot.finished |= old.finished;
            slot.terminating |= old.terminating;
            slot.counted = old.counted;
            slot.started = slot.started.or(old.started);
            slot.leaving = old.leaving;
            slot.leaving_for = old.leaving_for;
            slot.refused_until = old.refused_until;
            slot.refusals = old.refusals;
            slot.trouble.clone_from(&old.trouble);
            slot.reported = old.reported.clone();
        }
        slot.place = self.place_of(event, previous.as_ref().map(|(_, old)| &old.place), &slot);
        if matches!(slot.place, Place::Bound(_)) {
            slot.trouble = None;
        }
        let ord = match previous {
            Some((ord, ref old)) => {
                self.pods[ord] = slot;
                self.put_in(ord, event);
                let new = &self.pods[ord];
                // One that is being deleted is no longer counted where pods are spread.
                let counted = |model: &Model| !model.marks.counting(old.identity).is_empty();
                if old.held_seat() != new.held_seat()
                    || !self.hold_alike(old, new)
                    || old.identity != new.identity
                    || (old.terminating != new.terminating && counted(self))
                {
                    self.freed += 1;
                }
                self.let_go(ord, old);
                ord
            }
            None => {
                let uid = slot.uid.clone();
                let ord = self.pods.insert(slot);
                self.pods_by_uid.insert(uid, ord);
                self.mix.note(ord);
                self.put_in(ord, event);
                if self.pods[ord].held_seat().is_some() {
                    self.raise_hopes(ord);
                }
                ord
            }
        };
        if self.pods[ord].finished {
            self.no_longer_awaited(ord);
        }
    }

    /// True if two states of a pod take the same of a node and keep the same others from it. Where it wants to be does not
    /// count once it has a seat: a pod is told with its volumes' places as long as it has none.
    fn hold_alike(&self, old: &PodSlot, new: &PodSlot) -> bool {
        if old.shape == new.shape {
            return true;
        }
        let (a, b) = (self.shapes.value(old.shape), self.shapes.value(new.shape));
        new.held_seat().is_some()
            && (&a.requests, &a.ask, &a.gpus, &a.ports, &a.volumes, &a.rules)
                == (&b.requests, &b.ask, &b.gpus, &b.ports, &b.volumes, &b.rules)
            && a.tier == b.tier
    }

    /// The common cases of the watch telling what is known, and of it confirming what we decided: no count changes, and
    /// nothing has to be looked at again. (Every word that is written into a pod's status comes back this way.)
    fn confirms(&mut self, ord: PodOrd, event: &event::Pod) -> bool {
        let pod = &self.pods[ord];
        let same = pod.ours == event.ours
            && pod.finished == event.finished
            && pod.terminating == event.terminating
            && pod.gated == event.gated
            && pod.refused.as_deref() == event.refused.as_deref()
            && pod.priority == event.priority
            && pod.never_preempts == event.never_preempts
            && pod.created == event.created
            && *pod.group == *event.group
            && *pod.namespace == *event.namespace
            && *self.kins.uid(pod.kin) == *event.owner
            && self.marks.identity(pod.identity).labels.are(&event.labels)
            && *pod.name == *event.name
            && (!pod.ours || pod.claim.is_some_and(|c| self.claims[c].key.is_of(event)))
            && (!pod.ours || event.claim.is_some() || self.same_alone(ord, event))
            && self.uses_device_claims(pod, event)
            && (pod.finished || self.same_place(&pod.place, event));
        if !same {
            return false;
        }
        let template = self.template_of(event);
        let pod = &self.pods[ord];
        if **self.templates.value(pod.template) != template {
            return false;
        }
        let pod = &mut self.pods[ord];
        pod.last_checkpoint = event.last_checkpoint;
        pod.started = event.started.or(pod.started);
        if event.node.as_deref().is_some_and(|n| !n.is_empty()) {
            let place = std::mem::take(&mut self.pods[ord].place);
            let first = matches!(place, Place::Assumed(_));
            self.pods[ord].place = match place {
                Place::Assumed(seat) => Place::Bound(seat),
                other => other,
            };
            let had_trouble = self.pods[ord].trouble.take().is_some();
            // From now on it counts that others of its gang are not there.
            let breaks = |c| self.claims[c].short && self.claims[c].broken_since.is_none();
            if first && (had_trouble || self.pods[ord].claim.is_some_and(breaks)) {
                self.mark_claim_of(ord);
            }
        }
        true
    }

    /// True if an event leaves a pod where we think that it is.
    fn same_place(&self, place: &Place, event: &event::Pod) -> bool {
        match (place, event.node.as_deref().filter(|n| !n.is_empty())) {
            (_, None) => true,
            (Place::Assumed(seat) | Place::Bound(seat), Some(node)) => {
                *self.nodes[seat.node].name == *node
                    && (event.devices.is_empty() || *event.devices == *seat.devices)
                    && (event.numa.is_none() || event.numa == seat.numa)
            }
            (Place::Nowhere | Place::Nominated(_), Some(_)) => false,
        }
    }

    /// True if a pod without a claim has the queue and tier that the event says.
    fn same_alone(&self, ord: PodOrd, event: &event::Pod) -> bool {
        self.pods[ord].claim.is_some_and(|claim| {
            let claim = &self.claims[claim];
            claim.tier == event.tier && *self.queues[claim.queue].name == *crate::model::queue::or_default(&event.queue)
        })
    }

    /// The place that a pod has after an event. A binding is never taken back by the API server, so an event without a
    /// node tells nothing new.
    fn place_of(&mut self, event: &event::Pod, old: Option<&Place>, slot: &PodSlot) -> Place {
        if slot.finished {
            return Place::Nowhere;
        }
        if let Some(name) = event.node.as_deref().filter(|n| !n.is_empty()) {
            let node = self.node_named(name);
            let mut devices = event.devices.clone();
            devices.sort_unstable();
            devices.dedup();
            let same = old.and_then(Place::seat).filter(|seat| seat.node == node);
            let devices = match same {
                Some(seat) if devices.is_empty() => seat.devices.clone(),
                _ => devices.into(),
            };
            let numa = event.numa.or(same.and_then(|seat| seat.numa));
            return Place::Bound(Seat {
                node,
                devices,
                numa,
                allocations: same.map(|seat| seat.allocations.clone()).unwrap_or_default(),
            });
        }
        match old {
            None | Some(Place::Nowhere) => Place::Nowhere,
            Some(Place::Bound(seat)) => Place::Bound(seat.clone()),
            Some(Place::Assumed(seat)) if slot.ours => Place::Assumed(seat.clone()),
            Some(Place::Nominated(seat))
                if slot.ours && !slot.terminating && !slot.finished && !slot.gated && slot.refused.is_none() =>
            {
                Place::Nominated(seat.clone())
            }
            Some(Place::Assumed(_) | Place::Nominated(_)) => Place::Nowhere,
        }
    }

    /// A pod is gone.
    pub(crate) fn apply_pod_gone(&mut self, uid: &str) {
        let Some(ord) = self.pods_by_uid.get(uid).copied() else {
            return;
        };
        let old = self.take_out(ord);
        if old.held_seat().is_some() {
            self.freed += 1;
        }
        if old.finished
            && let Some(claim) = old.claim
            && let Some(group) = self.claims[claim]
                .groups
                .iter_mut()
                .find(|g| *g.spec.name == *old.group)
        {
            group.done_and_gone += 1;
        }
        self.no_longer_awaited(ord);
        self.pods_by_uid.remove(uid);
        self.pods.remove(ord);
        self.let_go(ord, &old);
    }

    /// The API server refused an eviction.
    pub(crate) fn apply_evict_failed(&mut self, uid: &str) {
        let Some(ord) = self.stays_after_all(uid) else { return };
        let now = self.now;
        let pod = &mut self.pods[ord];
        let [.., longest] = REFUSED;
        let pause = REFUSED.get(pod.refusals as usize).copied().unwrap_or(longest);
        pod.refused_until = Time(now.0.saturating_add(pause));
        pod.refusals = pod.refusals.saturating_add(1);
    }

    /// An eviction is not made, though nothing is against it.
    pub(crate) fn apply_evict_called_off(&mut self, uid: &str) {
        self.stays_after_all(uid);
    }

    /// A pod that was about to be evicted stays; `None` if there is no such pod.
    fn stays_after_all(&mut self, uid: &str) -> Option<PodOrd> {
        let ord = self.pods_by_uid.get(uid).copied()?;
        if !self.pods[ord].leaving {
            return None;
        }
        self.no_longer_awaited(ord);
        self.pods[ord].leaving = false;
        self.note_going(ord);
        self.mark_claim_of(ord);
        Some(ord)
    }

    pub(crate) fn mark_claim_of(&mut self, ord: PodOrd) {
        if let Some(claim) = self.pods[ord].claim {
            self.mark(claim);
        }
    }

    /// The claim that waits for this pod to go waits no more for it.
    fn no_longer_awaited(&mut self, ord: PodOrd) {
        if let Some(claim) = self.pods[ord].leaving_for.take() {
            self.claims[claim].awaiting.remove(&ord);
            self.mark(claim);
        }
    }

    /// Takes a pod out of all counts and out of its claim, and returns what it was.
    fn take_out(&mut self, ord: PodOrd) -> PodSlot {
        self.release(ord);
        self.going.remove(&ord);
        let old = self.pods[ord].clone();
        if let Some(claim) = old.claim {
            self.leave_claim(ord, claim);
        }
        self.leave_device_claims(ord);
        old
    }

    /// Puts a pod into its claim, gives it its shape, and counts its seat.
    fn put_in(&mut self, ord: PodOrd, event: &event::Pod) {
        if event.ours {
            let claim = self.claim_for(ord, event);
            self.pods[ord].claim = Some(claim);
            self.join_claim(ord, claim);
        }
        self.use_device_claims(ord, event);
        self.give_shape(ord, event.tier);
        self.hold(ord);
        self.note_going(ord);
    }

    /// Gives up what an earlier state of a pod referred to.
    fn let_go(&mut self, _ord: PodOrd, old: &PodSlot) {
        self.let_go_of_template(old.template);
        self.let_go_of_shape(old.shape);
        self.let_go_of_identity(old.identity);
        if let Some(kin) = old.kin {
            self.kins.release(kin);
        }
        if let Some(seat) = old.place.seat() {
            self.forget_node_if_unused(seat.node);
        }
        if let Some(claim) = old.claim {
            self.start_anew_if_empty(claim);
            self.forget_claim_if_unused(claim);
        }
    }

    /// Finds the shape that a pod has in its claim. The caller has taken it out of the counts, and lets go of the
    /// shape that it had.
    pub(crate) fn give_shape(&mut self, ord: PodOrd, alone: Tier) {
        let pod = &self.pods[ord];
        let template = self.templates.value(pod.template).clone();
        let claim = pod.claim.map(|c| &self.claims[c]);
        let tier = claim.map_or(alone, |c| c.tier);
        let group = claim
            .and_then(|c| c.groups.iter().find(|g| *g.spec.name == *pod.group))
            .map(|g| g.spec.clone());
        let shape = self.shape_for(ord, &template, group.as_deref(), tier);
        let refused = self.pods[ord].refused.as_deref().map(|message| Reason::Refused {
            message: message.to_owned(),
        });
        let exceeds = refused
            .or_else(|| self.pod_contradicts(&template.requests, tier))
            .or_else(|| group.and_then(|group| self.exceeds(ord, &template, &group)))
            .or_else(|| self.device_claims_against(&self.pods[ord]));
        let pod = &mut self.pods[ord];
        pod.shape = shape;
        pod.exceeds = exceeds.map(Box::new);
        if pod.exceeds.is_some() && matches!(pod.place, Place::Nominated(_)) {
            // The seat was kept for what it was before.
            pod.place = Place::Nowhere;
        }
    }
}
