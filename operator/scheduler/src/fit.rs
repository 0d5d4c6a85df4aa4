//! Whether a pod of some shape fits on a node, and if not, why not.

use crate::{
    event::{Taint, Tier},
    model::{Model, NodeSlot, Seat, Shape, cell::Cell, device::Comer},
    score::Welcome,
    selector,
    slab::{FaultOrd, NodeOrd, ResourceOrd, TaintOrd},
};

/// Taint that an unschedulable node counts as having.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// What turns a pod away from a node. The first that does, in this order, is the one that is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Constraint {
    /// `spec.unschedulable`.
    Unschedulable,
    /// A taint that is not tolerated.
    Taint(TaintOrd),
    /// Node selector or node affinity, its own or that of its volumes.
    Affinity,
    /// No device of an allowed model.
    GpuModel,
    /// A host port that is held.
    HostPort,
    /// Too little of a resource is left.
    Resource(ResourceOrd),
    /// Too few devices, or too little on each, are left.
    Gpus,
    /// A claim to devices has them elsewhere.
    ClaimElsewhere,
    /// A claim to devices is used by as many as may.
    ClaimInUse,
    /// Too few devices that its claims mean are left.
    DeviceClaims,
    /// It cannot be said which devices its claims mean, or all of them are meant and not all are known.
    DeviceFault(FaultOrd),
    /// There are too many ways to choose devices for its claims.
    DeviceSearch,
    /// The node's report is too old for this tier; everything else fits.
    Stale,
    /// The node's load is over the line of its policy; everything else fits.
    Hot,
    /// The node has no label that a required topology spread divides the nodes by.
    SpreadLabel,
    /// Required topology spread.
    Spread,
    /// None of the pods is near that have to be, or the node lacks a topology label.
    PodAffinity,
    /// A pod is near that must not be.
    PodAntiAffinity,
    /// A pod is near that does not want this one.
    ExistingAntiAffinity,
}

impl Model {
    /// The taint of that ordinal, while some node has it.
    pub(crate) fn taint(&self, ord: TaintOrd) -> Option<&Taint> {
        self.taints.value(ord).map(|taint| &**taint)
    }

    /// A constraint in words.
    pub(crate) fn word(&self, constraint: Constraint) -> String {
        match constraint {
            Constraint::Unschedulable => "unschedulable".into(),
            Constraint::Taint(taint) => match self.taint(taint) {
                Some(taint) if taint.value.is_empty() => format!("taint {}:{}", taint.key, taint.effect),
                Some(taint) => format!("taint {}={}:{}", taint.key, taint.value, taint.effect),
                None => "taint".into(),
            },
            Constraint::Affinity => "node affinity".into(),
            Constraint::GpuModel => "GPU model".into(),
            Constraint::HostPort => "host port".into(),
            Constraint::Resource(resource) => format!("insufficient {}", self.resources.name(resource)),
            Constraint::Gpus => "insufficient free GPUs".into(),
            // The words are kube-scheduler's.
            Constraint::ClaimElsewhere => "resourceclaim not available on the node".into(),
            Constraint::ClaimInUse => "resourceclaim in use".into(),
            Constraint::DeviceClaims => "cannot allocate all claims".into(),
            Constraint::DeviceFault(fault) => self.dra.fault(fault).unwrap_or("cannot allocate all claims").to_owned(),
            Constraint::DeviceSearch => "cannot allocate all claims (the search for devices was given up)".into(),
            Constraint::Stale => "stale report".into(),
            Constraint::Hot => "load over the policy's line".into(),
            Constraint::SpreadLabel => "topology spread (no such label)".into(),
            Constraint::Spread => "topology spread".into(),
            Constraint::PodAffinity => "pod affinity".into(),
            Constraint::PodAntiAffinity => "pod anti-affinity".into(),
            Constraint::ExistingAntiAffinity => "anti-affinity of pods that are there".into(),
        }
    }

    /// What of the answer does not depend on what is held: how welcome such pods are, or why they are not let in.
    pub(crate) fn fits_ever(&self, shape: &Shape, node: &NodeSlot) -> Result<Welcome, Constraint> {
        if node.unschedulable {
            let taint = crate::event::Taint {
                key: UNSCHEDULABLE.into(),
                value: String::new(),
                effect: "NoSchedule".into(),
            };
            if !selector::tolerated(&taint, &shape.tolerations) {
                return Err(Constraint::Unschedulable);
            }
        }
        let mut unwelcome = 0;
        for &ord in &node.taints {
            let Some(taint) = self.taint(ord) else { continue };
            if !selector::tolerated(taint, &shape.tolerations) {
                match taint.effect.as_str() {
                    "NoSchedule" | "NoExecute" => return Err(Constraint::Taint(ord)),
                    _ => unwelcome += 1,
                }
            }
        }
        if !selector::matches(&shape.terms, node) || !selector::matches(&shape.volume_terms, node) {
            return Err(Constraint::Affinity);
        }
        if let Some(need) = &shape.gpus {
            let any = (0..node.devices.len()).any(|i| node.allows(need, i));
            if !need.models.is_empty() && !node.devices.is_empty() && !any {
                return Err(Constraint::GpuModel);
            }
        }
        let liked = shape.preferred.iter().filter(|p| selector::meets(&p.term, node));
        let liked = liked.fold(0_i32, |sum, preferred| sum.saturating_add(preferred.weight));
        Ok(Welcome { unwelcome, liked })
    }

    /// What of the answer depends on what is held, but for the devices.
    pub(crate) fn fits_now(&self, shape: &Shape, node: &NodeSlot) -> Result<(), Constraint> {
        if !shape.ports.is_empty() && node.port_conflict(&shape.ports) {
            return Err(Constraint::HostPort);
        }
        for &(resource, amount) in node.takes(shape).iter() {
            if node.used.of(resource) + amount > node.allocatable.of(resource) {
                return Err(Constraint::Resource(resource));
            }
        }
        Ok(())
    }

    /// True if a node's report is too old for a shape.
    pub(crate) fn too_stale(&self, shape: &Shape, node: &NodeSlot) -> bool {
        node.stale && shape.tier != Tier::Prod
    }

    /// The devices that a shape gets on a node that it [fits ever](Model::fits_ever), in one of its cells if one is given, or
    /// why it does not fit there now.
    pub(crate) fn devices_now(
        &self,
        shape: &Shape,
        node: &NodeSlot,
        cell: Option<Cell>,
    ) -> Result<Vec<u16>, Constraint> {
        self.fits_now(shape, node)?;
        let devices = match &shape.gpus {
            None => Vec::new(),
            Some(need) => node.choose_devices(need, cell).ok_or(Constraint::Gpus)?,
        };
        self.devices_claimed(shape, node)?;
        if self.too_stale(shape, node) {
            return Err(Constraint::Stale);
        }
        if node.hot {
            return Err(Constraint::Hot);
        }
        Ok(devices)
    }

    /// True if a pod fits on exactly this seat.
    pub(crate) fn fits_seat(&self, shape: &Shape, seat: &Seat) -> bool {
        let node = self.nodes.find(seat.node);
        self.has_room_for(shape, seat, Comer::New) && node.is_some_and(|node| self.fits_ever(shape, node).is_ok())
    }

    /// True if there is room on exactly this seat: enough for a pod that was there, which stays on a node that new pods
    /// do not get any more.
    pub(crate) fn has_room_for(&self, shape: &Shape, seat: &Seat, comer: Comer) -> bool {
        let Some(node) = self.nodes.find(seat.node).filter(|n| n.present) else {
            return false;
        };
        self.fits_now(shape, node).is_ok()
            && seat.numa.is_none_or(|id| self.fits_in(shape, node, Cell::Numa(id)))
            && shape
                .gpus
                .as_ref()
                .is_none_or(|need| node.devices_fit(need, &seat.devices, comer))
            && self.seat_has_devices(shape, node, seat)
    }

    /// True if a node takes no new pod of a shape for now, whatever room it has: its load is over the line, or its report
    /// too old.
    pub(crate) fn takes_nothing_new(&self, shape: &Shape, ord: NodeOrd) -> bool {
        self.nodes
            .find(ord)
            .is_none_or(|node| node.hot || self.too_stale(shape, node))
    }
}
