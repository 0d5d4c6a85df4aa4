//! The list of one look: the nodes that it fits on, best first, and for the others what turns it away. It keeps its own
//! cursor in the change log, and values the nodes anew that changed since it was last asked for.

use std::collections::{BTreeMap, HashMap};

use super::{ByArea, related::Related};
use crate::{
    event::Level,
    fit::Constraint,
    model::{
        Model, NodeSlot, Shape,
        areas::LEVELS,
        kin::{self, Domain},
        rules::Check,
    },
    score::{self, Cost, Policy, Welcome},
    slab::{ImageOrd, NodeOrd},
    worth::Worths,
};

#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// Position in the change log.
    pub(super) cursor: u64,
    /// When it was last asked for.
    pub(super) asked: u64,
    /// The outlook on GPU pods with which nodes that have GPUs were valued.
    pub(super) outlook: u64,
    /// By node.
    pub(super) entries: Vec<Option<Entry>>,
    /// Nodes that fit. One for all, if its pods are kept apart by no fault domains, and no rule about other pods is judged by the
    /// parts of a topology.
    pub(super) buckets: Vec<Bucket>,
    /// Buckets by the parts and the fault domain that they stand for.
    pub(super) buckets_by_domains: HashMap<(Box<[u32]>, Domain), u32>,
    /// Its pods are kept apart by fault domains, of this level.
    apart: bool,
    level: Option<Level>,
    /// How many nodes each constraint turns away. A handful.
    pub(super) against: Vec<(Constraint, u32)>,
    /// Those that fit by area, for the levels that were asked about.
    pub(super) levels: [Option<Box<ByArea>>; LEVELS],
    /// What it has to know of other pods.
    pub(super) related: Option<Box<Related>>,
    /// Images that it had rather find there.
    wanted: Box<[ImageOrd]>,
    /// Position in the log of nodes whose images changed.
    images_cursor: u64,
    /// Position in the log of nodes whose load changed.
    loads_cursor: u64,
    /// What there was of devices that several nodes can use.
    devices: u64,
}

/// Nodes that belong to the same parts, and fail together.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub(super) domains: Box<[u32]>,
    pub(super) fault: Domain,
    /// Those that fit, as far as they can tell by themselves: by cost, then in node order.
    pub(super) fitting: BTreeMap<(Cost, u64), NodeOrd>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// `NodeSlot::epoch` at which `ever` was found.
    pub(super) epoch: u64,
    pub(super) ever: Result<Welcome, Constraint>,
    pub(super) now: Result<(Cost, u64), Constraint>,
    pub(super) bucket: u32,
}

impl Candidates {
    pub(super) fn new(model: &Model, shape: &Shape, checks: Vec<Check>, own: u64, wanted: &[ImageOrd]) -> Candidates {
        Candidates {
            related: Related::of(model, checks, own),
            apart: kin::counts(shape),
            level: model.kins.level(),
            wanted: wanted.into(),
            ..Default::default()
        }
    }

    pub(super) fn size(&self) -> usize {
        let levels: usize = self.levels.iter().flatten().map(|level| level.size()).sum();
        self.entries.len() * self.related.as_ref().map_or(1, |related| related.size()) + levels
    }

    pub(super) fn is_outdated(&self, model: &Model) -> bool {
        let other = |related: &Related| related.is_outdated(model);
        (self.apart && self.level != model.kins.level()) || self.related.as_deref().is_some_and(other)
    }

    /// Values the nodes that changed since it last looked, and says how many.
    pub(super) fn catch_up(&mut self, model: &Model, policy: Policy, worths: &mut Worths, shape: &Shape) -> u64 {
        let cursor = std::mem::replace(&mut self.cursor, model.changes.clock());
        let outlook = std::mem::replace(&mut self.outlook, model.mix.outlook.version());
        let images = std::mem::replace(&mut self.images_cursor, model.images.changes.clock());
        let loads = std::mem::replace(&mut self.loads_cursor, model.loads.clock());
        let devices = std::mem::replace(&mut self.devices, model.device_version(shape));
        let other_devices = devices != self.devices && cursor > 0;
        let by_images = self.values_images(policy).then_some((&model.images.changes, images));
        let by_load = score::values_load(policy, shape).then_some((&model.loads, loads));
        // Logs of what only some value a node by.
        let own = [by_images, by_load].into_iter().flatten();
        let own = own.filter(|(log, cursor)| log.clock() != *cursor);
        let nothing = cursor == model.changes.clock() && outlook == self.outlook && !other_devices;
        if nothing && own.clone().next().is_none() {
            return 0;
        }
        if self.entries.len() < model.nodes.bound() {
            self.entries.resize(model.nodes.bound(), None);
        }
        let mut visited = 0;
        if self.related.is_some() {
            for node in self.take_in(model, shape, cursor) {
                visited += 1;
                self.revalue(model, policy, worths, shape, node);
            }
        } else {
            for node in model.changes.since(cursor) {
                visited += 1;
                self.revalue(model, policy, worths, shape, node);
            }
        }
        if outlook != self.outlook && cursor > 0 && policy == Policy::Standard {
            let with_gpus = |(_, node): &(NodeOrd, &NodeSlot)| node.present && !node.devices.is_empty();
            for (node, _) in model.nodes.iter().filter(with_gpus) {
                visited += 1;
                self.revalue(model, policy, worths, shape, node);
            }
        }
        if other_devices {
            for (node, _) in model.nodes.iter().filter(|(_, node)| node.present) {
                visited += 1;
                self.revalue(model, policy, worths, shape, node);
            }
        }
        if cursor > 0 {
            let listed = own.flat_map(|(log, cursor)| log.since(cursor));
            // Whoever changed otherwise, too, is valued already.
            for node in listed.filter(|node| !model.changes.changed(*node, cursor)) {
                visited += 1;
                self.revalue(model, policy, worths, shape, node);
            }
        }
        visited
    }

    /// True if it counts what images of its pods a node holds already.
    fn values_images(&self, policy: Policy) -> bool {
        policy == Policy::Standard && !self.wanted.is_empty()
    }

    /// Takes in where the pods are now that its rules speak of, and says which nodes are to be valued anew.
    fn take_in(&mut self, model: &Model, shape: &Shape, cursor: u64) -> Vec<NodeOrd> {
        let mut dirty = Vec::new();
        let Some(related) = &mut self.related else { return dirty };
        for ord in model.changes.since(cursor) {
            let node = model.nodes.find(ord).filter(|n| n.present);
            related.take_in(model, shape, ord, node, &mut dirty);
        }
        if related.settle() {
            return (0..self.entries.len()).map(NodeOrd::new).collect();
        }
        dirty.sort_unstable();
        dirty.dedup();
        dirty
    }

    /// The buckets that are not turned away as a whole, each with what is wished against its nodes.
    pub(super) fn judged(&self) -> impl Iterator<Item = (&Bucket, i64)> {
        let judge = move |bucket: &Bucket| match &self.related {
            Some(related) => related.judge_domains(&bucket.domains).ok(),
            None => Some(0),
        };
        let buckets = self.buckets.iter();
        buckets.filter_map(move |bucket| Some((bucket, judge(bucket)?)))
    }

    pub(super) fn related_to(&self, node: NodeOrd) -> Result<(), Constraint> {
        let Some(related) = &self.related else { return Ok(()) };
        related.judge_node(node)?;
        related.judge_domains(related.coarse_domains(node)).map(|_| ())
    }

    /// The bucket of a node.
    fn bucket(&mut self, model: &Model, ord: NodeOrd) -> u32 {
        let domains = self.related.as_deref().map_or(&[][..], |r| r.coarse_domains(ord));
        let node = model.nodes.find(ord).filter(|_| self.apart);
        let fault = node.and_then(|node| model.kins.domain(&node.areas));
        // Mostly the one that it is in.
        let before = self.entries.get(ord.index()).copied().flatten();
        if let Some(before) = before.map(|entry| entry.bucket)
            && let Some(bucket) = self.buckets.get(before as usize)
            && (&*bucket.domains, bucket.fault) == (domains, fault)
        {
            return before;
        }
        let domains: Box<[u32]> = domains.into();
        let new = u32::try_from(self.buckets.len()).unwrap_or(u32::MAX);
        let at = *self.buckets_by_domains.entry((domains.clone(), fault)).or_insert(new);
        if at == new {
            self.buckets.push(Bucket {
                domains,
                fault,
                fitting: BTreeMap::new(),
            });
        }
        at
    }

    fn revalue(&mut self, model: &Model, policy: Policy, worths: &mut Worths, shape: &Shape, ord: NodeOrd) {
        let node = model.nodes.find(ord).filter(|n| n.present);
        let bucket = self.bucket(model, ord);
        let images = self.values_images(policy);
        let Some(slot) = self.entries.get_mut(ord.index()) else {
            return;
        };
        let new = node.map(|node| {
            let ever = match slot {
                Some(entry) if entry.epoch == node.epoch => entry.ever,
                _ => model.fits_ever(shape, node),
            };
            let mut now = value(model, policy, worths, shape, node, ever);
            if images {
                now = now.map(|cost| cost.with_images(node.holds_of(&self.wanted)));
            }
            if let (Ok(cost), Some(related)) = (now, &self.related) {
                now = related.judge_node(ord).map(|against| cost.against(against));
            }
            Entry {
                epoch: node.epoch,
                ever,
                now: now.map(|cost| (cost, node.rank)),
                bucket,
            }
        });
        let old = std::mem::replace(slot, new);
        for level in self.levels.iter_mut().flatten() {
            level.count(model, shape, ord, new.and_then(|e| e.now.ok()));
        }
        let (old, new) = (old.map(|e| (e.bucket, e.now)), new.map(|e| (e.bucket, e.now)));
        if old == new {
            return;
        }
        match old {
            Some((bucket, Ok(key))) => {
                // Another node may have taken over the rank if ranks were spread: then the key is its.
                if let Some(bucket) = self.buckets.get_mut(bucket as usize)
                    && bucket.fitting.get(&key) == Some(&ord)
                {
                    bucket.fitting.remove(&key);
                }
            }
            Some((_, Err(constraint))) => {
                if let Some((_, count)) = self.against.iter_mut().find(|(c, _)| *c == constraint) {
                    *count -= 1;
                }
                self.against.retain(|(_, count)| *count > 0);
            }
            None => {}
        }
        match new {
            Some((bucket, Ok(key))) => {
                if let Some(bucket) = self.buckets.get_mut(bucket as usize) {
                    bucket.fitting.insert(key, ord);
                }
            }
            Some((_, Err(constraint))) => add(&mut self.against, constraint, 1),
            None => {}
        }
    }
}

pub(super) fn add(against: &mut Vec<(Constraint, u32)>, constraint: Constraint, nodes: u32) {
    match against.iter_mut().find(|(c, _)| *c == constraint) {
        Some((_, count)) => *count += nodes,
        None => against.push((constraint, nodes)),
    }
}

fn value(
    model: &Model,
    policy: Policy,
    worths: &mut Worths,
    shape: &Shape,
    node: &NodeSlot,
    ever: Result<Welcome, Constraint>,
) -> Result<Cost, Constraint> {
    score::place(policy, model, worths, shape, node, ever?).map(|(cost, _)| cost)
}
