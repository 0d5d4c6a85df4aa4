//! Plain shapes: prod pods that ask for no device, no host port, no volume of others and nothing of other pods. All of them that the same nodes
//! admit share one [tree](super::headroom), so that a thousand shapes cost no more than one. What a tree cannot tell
//! quickly is left to a list.

use std::collections::BTreeSet;

use super::{
    headroom::{Found, Headroom, Scratch},
    lineup::Lineup,
};
use crate::{
    event::{PreferredNodes, Term, Tier, Toleration},
    intern::Counted,
    model::{Model, Shape},
    slab::{FilterOrd, NodeOrd, ShapeOrd},
    worth::Worths,
};

/// Leaves of all trees together that are kept: at two places of 80 bytes each for three resources, 160 MiB (of 200 each for
/// [as many as a tree knows](super::headroom::RESOURCES), 400 MiB). 128 filters on 5,000 nodes, of 8,192 leaves each.
const LEAVES: usize = 1 << 20;
/// How often a shape of which its tree could not tell is left to its list, before the tree is tried again.
const PAUSE: u32 = 64;

/// What decides which nodes admit a plain pod, and how welcome it is there, whatever is held there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Filter {
    terms: Vec<Term>,
    volume_terms: Vec<Term>,
    preferred: Vec<PreferredNodes>,
    tolerations: Vec<Toleration>,
}

/// A shape that was asked for.
#[derive(Debug)]
struct Known {
    filter: FilterOrd,
    /// How often it is left to its list yet.
    pause: u32,
    /// What was found last, where none was refused: at which clock of the change log, and by which outlook.
    last: Option<(u64, u64, Found)>,
}

/// The trees of all filters that were asked for lately.
#[derive(Debug, Default)]
pub(super) struct Plain {
    filters: Counted<FilterOrd, Filter>,
    /// By shape.
    known: Vec<Option<Known>>,
    /// By filter, with when it was last asked for.
    trees: Vec<Option<(u64, Headroom)>>,
    lineup: Lineup,
    scratch: Scratch,
    leaves: usize,
    clock: u64,
}

impl Plain {
    /// True for shapes that trees know of, if no other pod speaks of them.
    pub(super) fn includes(shape: &Shape) -> bool {
        shape.tier == Tier::Prod
            && shape.gpus.is_none()
            && shape.ports.is_empty()
            && shape.volumes.is_empty()
            && shape.rules.is_none()
    }

    /// The best node for a plain shape that is none of some.
    pub(super) fn best(
        &mut self,
        model: &Model,
        worths: &mut Worths,
        ord: ShapeOrd,
        refused: &BTreeSet<NodeOrd>,
        visited: &mut u64,
    ) -> Found {
        let shape = model.shapes.value(ord);
        let filters = &mut self.filters;
        if self.known.len() <= ord.index() {
            self.known.resize_with(ord.index() + 1, || None);
        }
        let Some(slot) = self.known.get_mut(ord.index()) else {
            return Found::Unknown;
        };
        let known = slot.get_or_insert_with(|| Known {
            filter: filters.acquire(Filter {
                terms: shape.terms.clone(),
                volume_terms: shape.volume_terms.clone(),
                preferred: shape.preferred.clone(),
                tolerations: shape.tolerations.clone(),
            }),
            pause: 0,
            last: None,
        });
        let now = (model.changes.clock(), model.mix.outlook.version());
        if refused.is_empty()
            && let Some((clock, outlook, found)) = known.last
            && (clock, outlook) == now
        {
            return found;
        }
        if known.pause > 0 {
            known.pause -= 1;
            return Found::Unknown;
        }
        let filter = known.filter;
        self.make_room(filter, model.nodes.bound());
        let Some((asked, tree)) = self.trees.get_mut(filter.index()).and_then(Option::as_mut) else {
            return Found::Unknown;
        };
        *asked = self.clock;
        let mut found = Found::Unknown;
        if tree.covers(shape) {
            self.leaves -= tree.size();
            *visited += tree.catch_up(model, shape, &mut self.lineup);
            self.leaves += tree.size();
            found = tree.best(
                model,
                shape,
                &self.lineup,
                worths,
                refused,
                (&mut self.scratch, visited),
            );
        }
        if let Some(known) = self.known.get_mut(ord.index()).and_then(Option::as_mut) {
            if found == Found::Unknown {
                known.pause = PAUSE;
            } else if refused.is_empty() {
                known.last = Some((now.0, now.1, found));
            }
        }
        found
    }

    /// Has a tree for a filter, if need be instead of those that were not asked for longest.
    fn make_room(&mut self, filter: FilterOrd, size: usize) {
        self.clock += 1;
        if self.trees.len() <= filter.index() {
            self.trees.resize_with(filter.index() + 1, || None);
        }
        if self.trees.get(filter.index()).is_some_and(Option::is_some) {
            return;
        }
        while self.leaves + size.next_power_of_two() > LEAVES {
            let all = self.trees.iter().enumerate();
            // `asked` is different for each.
            let oldest = all.filter_map(|(i, tree)| Some((tree.as_ref()?.0, i))).min();
            let Some((_, oldest)) = oldest else { break };
            self.drop_tree(oldest);
        }
        if let Some(slot) = self.trees.get_mut(filter.index()) {
            *slot = Some((self.clock, Headroom::default()));
        }
    }

    fn drop_tree(&mut self, index: usize) {
        if let Some((_, tree)) = self.trees.get_mut(index).and_then(Option::take) {
            self.leaves -= tree.size();
        }
    }

    /// Forgets a shape that is no more; its ordinal may name another one next.
    pub(super) fn forget(&mut self, shape: ShapeOrd) {
        if let Some(gone) = self.known.get_mut(shape.index()).and_then(Option::take)
            && self.filters.release(gone.filter)
        {
            self.drop_tree(gone.filter.index());
        }
    }

    /// Shapes that are known.
    #[cfg(test)]
    pub(super) fn shapes(&self) -> usize {
        self.known.iter().flatten().count()
    }
}
