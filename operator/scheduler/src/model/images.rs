//! Big images that nodes hold already: a pod had rather be where it need not wait for its own to be fetched.
//!
//! Of the images that pods name only those are known that some node holds and that are [big](BIG_IMAGE); a pod without any
//! of them costs nothing more for it. Nodes whose images change are in a log of their own, so that nobody else values them
//! anew.

use std::collections::BTreeMap;

use crate::{
    event::BIG_IMAGE,
    intern::Fresh,
    model::{ChangeLog, Model, NodeSlot},
    slab::{ImageOrd, NodeOrd, TemplateOrd, WantedOrd},
};

/// Names of big images on one node that are looked at, the first in their order: five for each of the 50 images that a
/// kubelet tells of, which is what it does unless it is told otherwise.
const NAMES: usize = 250;

/// The big images that some node holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Images {
    /// Referred to by the nodes.
    held: Fresh<ImageOrd, String>,
    /// Those of them that the pods of some template want. Referred to by the templates.
    wanted: Fresh<WantedOrd, Vec<ImageOrd>>,
    /// By template: what its pods want of what is held, as of a version.
    by_template: Vec<(u64, Option<WantedOrd>)>,
    /// Grows when an image has its first node, or has lost its last.
    version: u64,
    /// Nodes whose images changed.
    pub(crate) changes: ChangeLog,
}

impl Images {
    fn hold(&mut self, name: &str) -> ImageOrd {
        let (image, first) = self.held.acquire(name.to_owned());
        self.version += u64::from(first);
        image
    }

    fn let_go(&mut self, image: ImageOrd) {
        self.version += u64::from(self.held.release(image).is_some());
    }

    /// True if some node holds a big image.
    #[inline]
    pub(crate) fn are_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// What of these images, which are a template's, is held somewhere.
    pub(crate) fn wanted(&mut self, template: TemplateOrd, images: &[String]) -> Option<WantedOrd> {
        if images.is_empty() {
            return None;
        }
        if self.by_template.len() <= template.index() {
            self.by_template.resize(template.index() + 1, (0, None));
        }
        let slot = self.by_template.get_mut(template.index())?;
        if slot.0 == self.version {
            return slot.1;
        }
        let mut held: Vec<ImageOrd> = images.iter().filter_map(|name| self.held.find(name)).collect();
        held.sort_unstable();
        held.dedup();
        let new = (!held.is_empty()).then(|| self.wanted.acquire(held).0);
        let (_, old) = std::mem::replace(slot, (self.version, new));
        if let Some(old) = old {
            self.wanted.release(old);
        }
        new
    }

    /// Forgets a template that is no more; its ordinal may name another one next.
    pub(crate) fn forget(&mut self, template: TemplateOrd) {
        if let Some(slot) = self.by_template.get_mut(template.index())
            && let (_, Some(old)) = std::mem::take(slot)
        {
            self.wanted.release(old);
        }
    }

    /// Images that are wanted, ascending.
    pub(crate) fn of(&self, wanted: Option<WantedOrd>) -> &[ImageOrd] {
        wanted
            .and_then(|wanted| self.wanted.value(wanted))
            .map_or(&[], |all| all)
    }

    /// Nothing is left of anybody.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.wanted.is_empty()
    }
}

impl NodeSlot {
    /// Bytes of some images that are here already.
    pub(crate) fn holds_of(&self, images: &[ImageOrd]) -> i64 {
        let wanted = self.images.iter().filter(|(image, _)| images.contains(image));
        wanted.fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }
}

impl Model {
    /// Takes in the images that a node holds. True if they are others than before.
    pub(crate) fn take_in_images(&mut self, ord: NodeOrd, images: &BTreeMap<String, i64>) -> bool {
        let known = &self.nodes[ord].images;
        if images.is_empty() && known.is_empty() {
            return false;
        }
        let big = || images.iter().filter(|(_, bytes)| **bytes >= BIG_IMAGE).take(NAMES);
        let is = |(image, bytes): &(ImageOrd, i64), (name, now): (&String, &i64)| {
            bytes == now && self.images.held.value(*image).is_some_and(|known| **known == *name)
        };
        if known.len() == big().count() && known.iter().zip(big()).all(|(known, now)| is(known, now)) {
            return false;
        }
        let now = big().map(|(name, bytes)| (self.images.hold(name), *bytes)).collect();
        let before = std::mem::replace(&mut self.nodes[ord].images, now);
        self.let_go_of_images(before);
        self.images.changes.touch(ord);
        true
    }

    /// A node holds some images no more.
    pub(crate) fn let_go_of_images(&mut self, images: Vec<(ImageOrd, i64)>) {
        for (image, _) in images {
            self.images.let_go(image);
        }
    }
}
