//! Volumes that several pods use: a node gives one of what it can attach for all pods there that use the same.

use std::{borrow::Cow, sync::Arc};

use crate::{
    amount::{Amount, Totals},
    event,
    model::{Model, NodeSlot, Shape},
    slab::ResourceOrd,
};

/// A volume. By name, which tells it from all others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Volume {
    name: Arc<str>,
    pub(crate) resource: ResourceOrd,
}

impl Model {
    /// The volumes that a pod shares, each once, in the order of their names.
    pub(crate) fn volumes_of(&mut self, pod: &event::Pod) -> Vec<Volume> {
        let volumes = pod.shared_volumes.iter().map(|volume| Volume {
            name: volume.name.as_str().into(),
            resource: self.resources.named(&volume.resource),
        });
        let mut volumes: Vec<Volume> = volumes.collect();
        volumes.sort_unstable();
        volumes.dedup_by(|a, b| a.name == b.name);
        volumes
    }
}

impl Shape {
    /// The resources of which it takes any.
    pub(crate) fn resources(&self) -> impl Iterator<Item = ResourceOrd> + '_ {
        let volumes = self.volumes.iter().map(|volume| volume.resource);
        self.requests.iter().map(|(resource, _)| *resource).chain(volumes)
    }
}

impl NodeSlot {
    /// Counts the volumes of a pod in or out: the first that uses one takes one of its resource, and the last gives it back.
    pub(crate) fn count_volumes(&mut self, volumes: &[Volume], hold: bool) {
        let one = Amount::taken_in(1);
        for volume in volumes {
            let users = self.volumes.entry(volume.clone()).or_insert(0);
            let before = *users;
            *users = if hold { before + 1 } else { before.saturating_sub(1) };
            match (before, *users) {
                (0, 1) => *self.used.of_mut(volume.resource) += one,
                (1, 0) => *self.used.of_mut(volume.resource) -= one,
                _ => {}
            }
            if *users == 0 {
                self.volumes.remove(volume);
            }
        }
    }

    /// The volumes of a shape that no pod here uses yet.
    fn new_to<'a>(&'a self, shape: &'a Shape) -> impl Iterator<Item = &'a Volume> {
        let volumes = shape.volumes.iter();
        volumes.filter(|volume| !self.volumes.contains_key(*volume))
    }

    /// What the volumes of a shape that no pod here uses yet take.
    pub(crate) fn attaches(&self, shape: &Shape) -> Totals {
        let mut taken = Totals::default();
        for volume in self.new_to(shape) {
            *taken.of_mut(volume.resource) += Amount::taken_in(1);
        }
        taken
    }

    /// What one more pod of a shape takes here: what it requests, and its volumes that no pod here uses yet.
    pub(crate) fn takes<'a>(&self, shape: &'a Shape) -> Cow<'a, [(ResourceOrd, Amount)]> {
        if shape.volumes.is_empty() {
            return Cow::Borrowed(&shape.requests);
        }
        let mut all = shape.requests.clone();
        for volume in self.new_to(shape) {
            let one = Amount::taken_in(1);
            match all.iter_mut().find(|(resource, _)| *resource == volume.resource) {
                Some((_, amount)) => *amount += one,
                None => all.push((volume.resource, one)),
            }
        }
        Cow::Owned(all)
    }
}
