//! How GPU pods are packed: nodes as their idle devices and cores, and the seat after which most can still be used.

use crate::{
    event,
    fragmentation::{DEVICES, Idle, Kind},
    model::{GpuNeed, Model, NodeSlot, Shape},
    slab::ModelOrd,
    worth::Worths,
};

impl Model {
    /// What matters of a pod to packing.
    pub(crate) fn kind_of_pod(&mut self, pod: &event::Pod) -> Kind {
        let template = self.template_of(pod);
        let shape = self.shape_of(&template, None, pod.tier);
        self.kind_of(&shape)
    }

    /// What matters of a shape to packing.
    pub(crate) fn kind_of(&self, shape: &Shape) -> Kind {
        let (gpus, gpu_milli, models) = match &shape.gpus {
            None => (0, 0, Vec::new()),
            Some(need) => (
                need.count,
                small(need.milli),
                need.models.iter().map(|m| number(*m)).collect(),
            ),
        };
        Kind {
            cpu_milli: self.cpu_of(shape),
            gpus,
            gpu_milli,
            models,
        }
    }

    /// Firm milli-cores that a shape takes.
    fn cpu_of(&self, shape: &Shape) -> i64 {
        let cpu = shape.requests.iter().find(|(r, _)| *r == self.resources.cpu);
        cpu.map_or(0, |(_, amount)| amount.get())
    }

    /// What is idle on a node. Its devices are taken to be of one model, the first one's.
    pub(crate) fn idle_on(&self, node: &NodeSlot) -> Idle {
        let mut free: Vec<u16> = (0..node.devices.len()).map(|i| small(node.free_milli(i))).collect();
        free.sort_unstable_by(|a, b| b.cmp(a));
        let mut idle = Idle {
            cpu_milli: (node.allocatable.of(self.resources.cpu) - node.used.of(self.resources.cpu)).get(),
            model: node.devices.first().map_or(0, |d| number(d.model)),
            free: [0; DEVICES],
        };
        // Whole devices of pods of which we do not know which they have come first: they are the freest.
        let held = usize::try_from(node.floating).unwrap_or(0);
        for (slot, free) in idle.free.iter_mut().zip(free.into_iter().skip(held)) {
            *slot = free;
        }
        idle
    }
}

fn small(milli: i64) -> u16 {
    u16::try_from(milli.clamp(0, 1000)).unwrap_or(0)
}

/// A model by its ordinal, as [`Kind`] and [`Idle`] have it.
pub(crate) fn number(model: ModelOrd) -> u32 {
    u32::try_from(model.index()).unwrap_or(u32::MAX)
}

/// The seats that a pod could get on a node, each with what is idle there afterwards. `chosen` is one that fits.
fn seats<'a>(
    model: &'a Model,
    shape: &'a Shape,
    node: &'a NodeSlot,
    idle: Idle,
    chosen: Vec<u16>,
) -> impl Iterator<Item = (Vec<u16>, Idle)> + 'a {
    let cpu = model.cpu_of(shape);
    let choices: Vec<Vec<u16>> = match &shape.gpus {
        Some(need) if !need.whole() => node.choices_of_a_share(need).into_iter().map(|d| vec![d]).collect(),
        _ => vec![chosen],
    };
    choices.into_iter().map(move |devices| {
        let after = match (&shape.gpus, devices.first()) {
            (Some(GpuNeed { count, milli, .. }), Some(&first)) => {
                idle.after(cpu, *count, small(*milli), small(node.free_milli(usize::from(first))))
            }
            _ => idle.after(cpu, 0, 0, 0),
        };
        // A pod that fits by all that placement looks at and not by this (over-committed cores) leaves nothing idle.
        (devices, after.unwrap_or_default())
    })
}

/// The seat on a node that fragmentation gradient descent takes, and its cost: 100 less the published score.
pub(crate) fn by_gradient(model: &Model, shape: &Shape, node: &NodeSlot, chosen: Vec<u16>) -> (i64, Vec<u16>) {
    let idle = model.idle_on(node);
    let before = model.typical.fragments(&idle);
    let fallback = chosen.clone();
    seats(model, shape, node, idle, chosen)
        .map(|(devices, after)| {
            (
                100 - model.typical.score(before, model.typical.fragments(&after)),
                devices,
            )
        })
        .min_by_key(|(cost, _)| *cost)
        .unwrap_or((100, fallback))
}

/// A seat that was chosen by [worth](crate::worth).
pub(crate) struct Worthy {
    /// Steps of worth that are lost by it.
    pub(crate) lost: i64,
    /// Tenths of a GPU that are left of the device that a share goes to; zero for whole devices.
    pub(crate) left: i64,
    /// Its devices.
    pub(crate) devices: Vec<u16>,
}

/// The seat on a node after which what is idle there is worth most to the pods that are expected. Of seats that lose as
/// much, a share takes the one that leaves least of its device: what it fills wholly is no fragment, whoever comes next.
pub(crate) fn by_worth(model: &Model, worths: &mut Worths, shape: &Shape, node: &NodeSlot, chosen: Vec<u16>) -> Worthy {
    let idle = model.idle_on(node);
    let milli = shape.gpus.as_ref().map_or(0, GpuNeed::total_milli);
    let share = shape.gpus.as_ref().is_some_and(|need| !need.whole());
    let fallback = chosen.clone();
    seats(model, shape, node, idle, chosen)
        .map(|(devices, after)| {
            let device = devices.first().filter(|_| share);
            Worthy {
                lost: model.mix.outlook.loss(worths, &idle, &after, milli),
                left: device.map_or(0, |&device| (node.free_milli(usize::from(device)) - milli).max(0) / 100),
                devices,
            }
        })
        .min_by_key(|seat| (seat.lost, seat.left))
        .unwrap_or(Worthy {
            lost: 0,
            left: 0,
            devices: fallback,
        })
}
