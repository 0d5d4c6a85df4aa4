//! What a place costs: the seam where placement policies differ. Costs are coarse integers, lower is better; equal
//! costs are decided by the node order. (Ties matter more than precision: on the openb trace a stable order with coarse
//! costs packs several points better than random ties or fine fractions.)

use serde::{Deserialize, Serialize};

use crate::{
    event::{self, BIG_IMAGE, Tier},
    fit::Constraint,
    model::{GpuNeed, Model, NodeSlot, Seat, Shape, cell::Cell, device::Closeness},
    packing,
    slab::{AreaOrd, NodeOrd},
    worth::Worths,
};

/// How places are valued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// What production uses. GPU pods: the place after which what is idle is worth most to pods like those that came
    /// so far; while too few came, the place that leaves least of the node. Prod without GPUs spreads, batch packs
    /// onto what is cold, and both go where they cost GPU pods least.
    #[default]
    Standard,
    /// Everything goes to the first node, in node order, that it fits on.
    FirstFit,
    /// Fragmentation gradient descent as published, for comparison: every pod goes where the GPUs that are idle
    /// afterwards are least in pieces that the pods of [`Cluster::expect`](crate::Cluster::expect) cannot use.
    Fgd,
}

impl Policy {
    /// All policies.
    pub const ALL: [Policy; 3] = [Policy::Standard, Policy::FirstFit, Policy::Fgd];

    /// The name that people write.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Policy::Standard => "standard",
            Policy::FirstFit => "first-fit",
            Policy::Fgd => "fgd",
        }
    }
}

/// Steps of a fraction: coarse on purpose.
pub(crate) const STEPS: i64 = 16;
/// A pod that needs no GPU avoids nodes with free ones before anything else about use is looked at: a thousandth of one
/// weighs 32, and use at most [`STEPS`].
const FREE_GPUS: i64 = 1 << 15;
/// Steps of worth that are told apart when a pod that needs no GPU takes them: with [`FREE_GPUS`] some 25 bits.
const LOST: i64 = 1000;
/// A step of worth weighs more than all tenths of a device.
const LEFT: i64 = 16;
/// What a step of load weighs, where a step of use weighs one: a load at the line weighs nearly as much as a full node
/// does. So batch packs, among nodes of about the same load, and leaves what is warm for what is cold. Use and load together
/// stay below a thousandth of a device.
const LOAD: i64 = STEPS / event::LOAD_STEPS as i64;
const _: () = assert!(STEPS + LOAD * (event::LOAD_STEPS as i64 - 1) < FREE_GPUS / 1000);
/// Bits of a cost for what is left of a node. A node with 1,024 free GPUs has use for all of them.
const PLACE: u32 = 26;
/// What images are worth at most that a node holds already: for each GiB a step of use, up to a quarter of a node; or, to
/// pods with GPUs, as many tenths of one, which is less than a step of worth. Much less than all wishes: kube-scheduler
/// lets an image count for less while few nodes hold it, lest all pods go to these; here they do so only while these are
/// little fuller than others.
const IMAGES: i64 = STEPS / 4;
/// A taint that would rather have other pods weighs more than all wishes of pods together.
const UNWELCOME: i64 = 1 << 33;
/// Such taints that are told apart. With as many, all wishes and node affinity, a cost takes 36 + 26 of 63 bits.
const TAINTS: u32 = 7;
/// What wishes of pods come to at most: with weights of 100, forty million pods.
const WISHES: i64 = UNWELCOME / 2 - 1;

/// What node affinity counts at most: more than all the terms with weights of 100 that an object has room for.
const LIKED: i64 = 1 << 20;

/// How welcome pods of a shape are on a node, whatever is held there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Welcome {
    /// Taints that would rather have other pods.
    pub(crate) unwelcome: u32,
    /// Weights of what the pods prefer in nodes, and this one has.
    pub(crate) liked: i32,
}

/// What a place costs: first what taints and pods wish, then what is left of the node. One number, since there is one for
/// each node and shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cost(i64);

impl Cost {
    /// Without what is wished of other pods.
    pub(crate) fn of(welcome: Welcome, place: i64) -> Cost {
        let liked = i64::from(welcome.liked).clamp(-LIKED, LIKED);
        let wishes = i64::from(welcome.unwelcome.min(TAINTS)) * UNWELCOME - liked;
        let half = 1 << (PLACE - 1);
        Cost((wishes << PLACE) + place.clamp(-half, half - 1))
    }

    /// As a number.
    pub(crate) fn get(self) -> i64 {
        self.0
    }

    /// From a number.
    pub(crate) fn at(cost: i64) -> Cost {
        Cost(cost)
    }

    /// What a place costs at most that differs from this one by how full the node is, and by nothing that weighs more.
    pub(crate) fn by_use_at_most(self) -> Cost {
        Cost(self.0.saturating_add(STEPS))
    }

    /// With images of the pod that are there already: so many bytes of them.
    pub(crate) fn with_images(self, bytes: i64) -> Cost {
        Cost(self.0 - (bytes / BIG_IMAGE).clamp(0, IMAGES))
    }

    /// With wishes of pods that are against it, or for it where they are negative.
    pub(crate) fn against(self, wishes: i64) -> Cost {
        Cost(self.0 + (wishes.clamp(-WISHES, WISHES) << PLACE))
    }
}

/// What it costs to place a pod of a shape on a node that it [fits ever](Model::fits_ever), and the devices that it
/// gets there; or why it does not fit there now. The wishes of pods are not in it.
pub(crate) fn place(
    policy: Policy,
    model: &Model,
    worths: &mut Worths,
    shape: &Shape,
    node: &NodeSlot,
    welcome: Welcome,
) -> Result<(Cost, Vec<u16>), Constraint> {
    let devices = model.devices_now(shape, node, None)?;
    let (here, devices) = match policy {
        Policy::FirstFit => (0, devices),
        Policy::Standard => match &shape.gpus {
            Some(_) if model.mix.outlook.version() > 0 => {
                let seat = packing::by_worth(model, worths, shape, node, devices);
                (seat.lost * LEFT + seat.left, seat.devices)
            }
            Some(need) => (gpu_leftover(need, node, &devices), devices),
            None => (plain(model, worths, shape, node), devices),
        },
        Policy::Fgd => packing::by_gradient(model, shape, node, devices),
    };
    let apart = match (policy, &shape.gpus) {
        (Policy::Standard, Some(need)) if need.count > 1 => by_closeness(node, &devices),
        _ => 0,
    };
    Ok((Cost::of(welcome, here).against(apart), devices))
}

/// The seat that a pod of a shape gets on a node where it has room, or in the part of it that an area is; `None` if it has
/// none there. Of a pod without devices, on a whole node, nothing is asked again.
pub(crate) fn seat(
    policy: Policy,
    model: &Model,
    worths: &mut Worths,
    shape: &Shape,
    node: NodeOrd,
    within: Option<AreaOrd>,
) -> Option<Seat> {
    let slot = &model.nodes[node];
    let Some(cell) = within.and_then(|area| slot.cell_of(area)) else {
        let devices = match &shape.gpus {
            None => Vec::new(),
            Some(_) => place(policy, model, worths, shape, slot, Welcome::default()).ok()?.1,
        };
        return Some(Seat {
            node,
            devices: devices.into(),
            numa: None,
            allocations: model.allocations(shape, slot).ok()?,
        });
    };
    if !model.fits_in(shape, slot, cell) {
        return None;
    }
    let devices = model.devices_now(shape, slot, Some(cell)).ok()?.into();
    let numa = match cell {
        Cell::Numa(id) => Some(id),
        Cell::Nvlink(_) => None,
    };
    Some(Seat {
        node,
        devices,
        numa,
        allocations: model.allocations(shape, slot).ok()?,
    })
}

/// What it costs a pod with several devices that they are not linked, as a wish of pods with this weight would.
fn by_closeness(node: &NodeSlot, devices: &[u16]) -> i64 {
    match node.closeness(devices) {
        Closeness::Linked => 0,
        Closeness::SameNuma => 50,
        Closeness::Apart => 100,
    }
}

/// What a place on a node costs a prod pod without GPUs at least: by [`Policy::Standard`], and besides what its use adds.
pub(crate) fn least(welcome: Welcome, node: &NodeSlot) -> Cost {
    let by_gpus = free_milli(node) * FREE_GPUS / 1000;
    Cost::of(welcome, by_gpus.min(FREE_GPUS))
}

fn free_milli(node: &NodeSlot) -> i64 {
    (0..node.devices.len()).map(|i| node.free_milli(i)).sum()
}

/// True if the load of a node counts for a shape.
pub(crate) fn values_load(policy: Policy, shape: &Shape) -> bool {
    policy == Policy::Standard && shape.tier != Tier::Prod && shape.gpus.is_none()
}

/// Pods without GPUs: to where GPU pods lose least by it; then prod to where most is left, batch and mid to where least
/// is and the load is low.
fn plain(model: &Model, worths: &mut Worths, shape: &Shape, node: &NodeSlot) -> i64 {
    let free_milli = free_milli(node);
    let by_gpus = match free_milli {
        0 => 0,
        _ if model.mix.outlook.version() == 0 => free_milli * FREE_GPUS / 1000,
        // Even where nothing is lost by what is expected, a node without free GPUs is better.
        _ => {
            FREE_GPUS
                * (1 + packing::by_worth(model, worths, shape, node, Vec::new())
                    .lost
                    .clamp(0, LOST))
        }
    };
    let mut fullest = 0;
    for &(resource, amount) in shape.requests.iter().filter(|(r, _)| *r != model.resources.pods) {
        let all = node.allocatable.of(resource).get();
        if all > 0 {
            let after = (node.used.of(resource) + amount).get();
            // At most 2^53 * 16 < 2^63.
            fullest = fullest.max(after * STEPS / all);
        }
    }
    let by_use = if shape.tier == Tier::Prod {
        fullest
    } else {
        let load = node.load.unwrap_or(event::LOAD_STEPS / 2);
        STEPS - fullest + i64::from(load) * LOAD
    };
    by_gpus + by_use
}

/// Pods with GPUs: least left over of the node, by device, and cores in proportion.
fn gpu_leftover(need: &GpuNeed, node: &NodeSlot, devices: &[u16]) -> i64 {
    let left = free_milli(node) - need.total_milli();
    let breaks_whole = devices.iter().any(|&d| !need.whole() && node.is_whole(usize::from(d)));
    left / 100 + if breaks_whole { 1000 } else { 0 }
}
