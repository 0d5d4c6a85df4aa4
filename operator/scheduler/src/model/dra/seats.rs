//! What a shape gets of a node's devices, and whether a seat still can have what it was to have.

use std::sync::Arc;

use super::{
    allocate::{MOST, NoDevices, Pick},
    claims::USERS,
};
use crate::{
    decision::ClaimAllocation,
    event::{
        AllocatedDevice, DeviceAllocation, DeviceClaimSpec, DeviceOption, DeviceRequest, NODE_NAME, Operator, Reach,
        Requirement, Term,
    },
    fit::Constraint,
    model::{ClaimNeed, Model, NodeSlot, PodSlot, Seat, Shape},
    selector,
    slab::{DeviceClaimOrd, PodOrd},
};

/// What the claims of a seat have, claim by claim.
pub(crate) type Allocations = Box<[Arc<DeviceAllocation>]>;

/// What a claim has, or a place in the search for what it is to have.
enum Part<'a> {
    Has(&'a Arc<DeviceAllocation>),
    Gets(usize),
}

impl Model {
    /// Whether a node has devices for the claims of a shape.
    pub(crate) fn devices_claimed(&self, shape: &Shape, node: &NodeSlot) -> Result<(), Constraint> {
        if shape.claims.is_empty() {
            return Ok(());
        }
        let mut specs = Vec::new();
        self.parts(shape, node, &mut specs)?;
        self.dra.allocate(node, &specs).map(drop).map_err(Constraint::of)
    }

    /// The devices that the claims of a shape get on a node.
    pub(crate) fn allocations(&self, shape: &Shape, node: &NodeSlot) -> Result<Allocations, Constraint> {
        if shape.claims.is_empty() {
            return Ok(Allocations::default());
        }
        let mut specs = Vec::new();
        let parts = self.parts(shape, node, &mut specs)?;
        let picks = self.dra.allocate(node, &specs).map_err(Constraint::of)?;
        let found = parts.into_iter().map(|part| match part {
            Part::Has(allocation) => allocation.clone(),
            Part::Gets(claim) => Arc::new(allocation_of(picks.iter().filter(|pick| pick.claim == claim), node)),
        });
        Ok(found.collect())
    }

    /// What the claims of a shape have already, and what is to be found for the others.
    fn parts<'a>(
        &'a self,
        shape: &'a Shape,
        node: &NodeSlot,
        specs: &mut Vec<&'a DeviceClaimSpec>,
    ) -> Result<Vec<Part<'a>>, Constraint> {
        let mut parts = Vec::with_capacity(shape.claims.len());
        for need in &shape.claims {
            let spec = match need {
                ClaimNeed::Own(spec) => spec,
                ClaimNeed::This(ord) => {
                    let Some(slot) = self.dra.claims.find(*ord) else {
                        return Err(Constraint::DeviceClaims);
                    };
                    if let Some(allocation) = slot.allocation() {
                        if !selector::matches(&allocation.nodes, node) {
                            return Err(Constraint::ClaimElsewhere);
                        }
                        if self.users_of(*ord) >= USERS {
                            return Err(Constraint::ClaimInUse);
                        }
                        parts.push(Part::Has(allocation));
                        continue;
                    }
                    &slot.spec
                }
            };
            parts.push(Part::Gets(specs.len()));
            specs.push(spec);
        }
        Ok(parts)
    }

    /// How many use a claim whom a new one would be beside.
    fn users_of(&self, ord: DeviceClaimOrd) -> usize {
        let slot = &self.dra.claims[ord];
        let named = slot.reserved.len();
        if named + slot.seats as usize >= USERS {
            let unnamed = |pod: &&PodOrd| {
                let pod = &self.pods[**pod];
                pod.held_seat().is_some() && !slot.reserved.contains(&pod.uid)
            };
            // Those that wait and are named already are let in by name.
            let waiting = slot.pods.iter().filter(|pod| {
                let pod = &self.pods[**pod];
                pod.held_seat().is_none() && slot.reserved.contains(&pod.uid)
            });
            return (named + slot.pods.iter().filter(unnamed).count()).saturating_sub(waiting.count());
        }
        named
    }

    /// True if the devices of a seat can be had, or are had already by the claims that they are for.
    pub(crate) fn seat_has_devices(&self, shape: &Shape, node: &NodeSlot, seat: &Seat) -> bool {
        if shape.claims.is_empty() {
            return true;
        }
        let mut specs = Vec::new();
        let Ok(parts) = self.parts(shape, node, &mut specs) else {
            return false;
        };
        let mut to_get = Vec::new();
        let pairs = parts.iter().zip(&seat.allocations);
        for (part, allocation) in pairs {
            match part {
                Part::Has(has) if *has != allocation => return false,
                Part::Has(_) => {}
                Part::Gets(_) => to_get.push(&**allocation),
            }
        }
        parts.len() == seat.allocations.len() && self.dra.has_room_for(node, &to_get)
    }

    /// What the claims of a pod with a seat have.
    pub(crate) fn allocations_of(&self, pod: PodOrd) -> Vec<ClaimAllocation> {
        let pod = &self.pods[pod];
        let Some(seat) = pod.place.seat() else {
            return Vec::new();
        };
        let pairs = pod.device_claims.iter().zip(&seat.allocations);
        let said = pairs.map(|(claim, allocation)| {
            let slot = &self.dra.claims[*claim];
            ClaimAllocation {
                claim: slot.name.1.to_string(),
                uid: slot.uid.to_string(),
                allocation: (**allocation).clone(),
            }
        });
        said.collect()
    }

    /// True if the shape of a pod still says how its claims stand.
    pub(crate) fn knows_its_claims(&self, pod: &PodSlot) -> bool {
        pod.device_claims.is_empty() || self.shapes.value(pod.shape).claims == self.claim_needs(pod)
    }

    /// The first request of a shape that a node has too few free devices for, and some that are meant: its name, how many
    /// it asks for, and how many more would have to be free.
    pub(crate) fn devices_missing(&self, shape: &Shape, node: &NodeSlot) -> Option<(String, i64, i64)> {
        let mut specs = Vec::new();
        self.parts(shape, node, &mut specs).ok()?;
        let requests = specs.iter().flat_map(|spec| &spec.requests);
        let mut lacks = requests.filter_map(|request| {
            let [option] = request.options.as_slice() else {
                return None;
            };
            // More than that no node ever has for it.
            let count = option.count.filter(|count| *count <= MOST)?;
            let has = |count: u32| {
                let option = DeviceOption {
                    count: Some(count),
                    ..option.clone()
                };
                let spec = DeviceClaimSpec {
                    requests: vec![DeviceRequest {
                        name: request.name.clone(),
                        options: vec![option],
                    }],
                    ..DeviceClaimSpec::default()
                };
                self.dra.allocate(node, &[&spec]).map(drop)
            };
            if !self.dra.has_any(node, option) || has(count) != Err(NoDevices::TooFew) {
                return None;
            }
            let free = (0..count).rev().find(|&count| has(count).is_ok())?;
            Some((request.name.clone(), count.into(), i64::from(count) - i64::from(free)))
        });
        lacks.next()
    }
}

impl Constraint {
    fn of(none: NoDevices) -> Constraint {
        match none {
            NoDevices::TooFew => Constraint::DeviceClaims,
            NoDevices::Fault(fault) => Constraint::DeviceFault(fault),
            NoDevices::TooMuchWork => Constraint::DeviceSearch,
        }
    }
}

/// The allocation that some devices are, for a pod on a node.
fn allocation_of<'a>(picks: impl Iterator<Item = &'a Pick<'a>>, node: &NodeSlot) -> DeviceAllocation {
    let (mut devices, mut here, mut term) = (Vec::new(), false, Term::new());
    for pick in picks {
        match &pick.device.is.reach {
            Reach::Everywhere => {}
            Reach::Node(_) => here = true,
            // One term is all that the API server admits.
            Reach::Nodes(terms) => {
                for requirement in terms.iter().flatten() {
                    if !term.contains(requirement) {
                        term.push(requirement.clone());
                    }
                }
            }
        }
        devices.push(AllocatedDevice {
            request: pick.option.name.clone(),
            driver: pick.pool.key.0.to_string(),
            pool: pick.pool.key.1.to_string(),
            device: pick.device.is.name.clone(),
            share: pick.share(),
        });
    }
    if here {
        term = vec![Requirement {
            key: NODE_NAME.to_owned(),
            operator: Operator::In,
            values: vec![node.name.to_string()],
        }];
    }
    DeviceAllocation {
        devices,
        nodes: if term.is_empty() { Vec::new() } else { vec![term] },
    }
}
