//! A tree over the node order that knows of each stretch of nodes how much is free at most and how full they are at least:
//! with it the best node for a plain pod is found without a list of its own, whatever it requests.
//!
//! Bounds only say where not to look. What a place costs is found by [`score::place`] alone, node by node, so that the
//! answer is the one that a look at every node would give.

use super::lineup::Lineup;
use crate::{
    model::{Model, NodeSlot, Shape},
    score::{self, Cost, Policy, Welcome},
    slab::{NodeOrd, ResourceOrd},
    worth::Worths,
};

/// A whole node, where shares of nodes are compared: 2^10 * 3^2 * 5^4 * 7 * 11, a multiple of the sizes that nodes
/// commonly have, of which round requests are exact shares. Were these rounded, a node that a pod fills to just a step of
/// the cost would seem to be below that.
const WHOLE: i64 = 443_520_000;
/// Bits of an amount that a share is found with: with the 29 of [`WHOLE`] they stay below 2^63.
const BITS: u32 = 34;
/// Bounds that one search looks at, at most. Some thirty are enough where one resource runs short everywhere.
const STEPS: u32 = 512;
/// What a look at a node itself weighs against that.
const LOOK: u32 = 8;
/// Resources that one tree tells apart.
pub(super) const RESOURCES: usize = 8;
/// Costs more than any place.
const NEVER: i64 = i64::MAX;

/// What a search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The best node, and what a place there costs.
    Node(NodeOrd, Cost),
    /// There is none.
    Nowhere,
    /// The bounds say too little: a list has to be made.
    Unknown,
}

/// The nodes that admit some pods, as a tree in an array: the children of `i` are `2i` and `2i + 1`, and the leaves are the
/// positions of the line-up.
#[derive(Debug, Default)]
pub(super) struct Headroom {
    /// Position in the change log.
    cursor: u64,
    /// Version of the line-up that it was built for.
    built: Option<u64>,
    /// Resources that pods asked for.
    resources: Vec<ResourceOrd>,
    /// Leaves: a power of two.
    size: usize,
    /// What a place costs at least, besides by use.
    least: Vec<i64>,
    /// By place in the tree, then resource.
    bounds: Vec<Bound>,
    /// By position: the node's epoch, and what it ever says.
    ever: Vec<(u64, Option<Welcome>)>,
}

/// What some nodes have of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bound {
    /// Free at most.
    free: i64,
    /// Share in use at least, of [`WHOLE`].
    share: i64,
    /// Allocatable at most.
    all: i64,
}

const EMPTY: Bound = Bound {
    free: i64::MIN,
    share: WHOLE,
    all: 0,
};

/// What a search needs memory for, kept from one to the next.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    asks: Vec<Ask>,
    /// Places of the tree that are still to be looked at, the next last.
    ahead: Vec<usize>,
}

/// What a pod requests of a resource.
#[derive(Clone, Copy, Debug)]
struct Ask {
    /// Position among the resources of the tree.
    at: usize,
    amount: i64,
    /// Its use counts for the cost.
    counts: bool,
}

/// What share of [`WHOLE`] a part is, rounded down.
fn share_of(part: i64, all: i64) -> i64 {
    if all <= 0 {
        return 0;
    }
    let shift = (i64::BITS - all.leading_zeros()).saturating_sub(BITS);
    let part = part.clamp(0, all) >> shift;
    part * WHOLE / (((all - 1) >> shift) + 1)
}

#[allow(
    clippy::indexing_slicing,
    reason = "arrays of the tree are as long as the tree, and places come from its size"
)]
impl Headroom {
    /// Leaves, for the bound on all trees.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Knows of the resources that a shape requests. False if these are too many.
    pub(super) fn covers(&mut self, shape: &Shape) -> bool {
        let unknown = |(resource, _): &&(ResourceOrd, _)| !self.resources.contains(resource);
        let unknown: Vec<ResourceOrd> = shape
            .requests
            .iter()
            .filter(unknown)
            .map(|(resource, _)| *resource)
            .collect();
        if self.resources.len() + unknown.len() > RESOURCES {
            return false;
        }
        if !unknown.is_empty() {
            self.resources.extend(unknown);
            self.built = None;
        }
        true
    }

    /// Takes in the nodes that changed, and says how many. The shape stands for all whom the same nodes admit.
    pub(super) fn catch_up(&mut self, model: &Model, shape: &Shape, lineup: &Lineup) -> u64 {
        let cursor = std::mem::replace(&mut self.cursor, model.changes.clock());
        if self.built != Some(lineup.version()) {
            return self.build(model, shape, lineup);
        }
        let mut visited = 0;
        for ord in model.changes.since(cursor) {
            let Some(position) = lineup.position(ord) else { continue };
            visited += 1;
            self.take_in(
                model,
                shape,
                position,
                model.nodes.find(ord).filter(|n| lineup.holds(n)),
            );
            self.rise(self.size + position);
        }
        visited
    }

    fn build(&mut self, model: &Model, shape: &Shape, lineup: &Lineup) -> u64 {
        let nodes = lineup.nodes().len();
        self.built = Some(lineup.version());
        self.size = nodes.next_power_of_two();
        self.ever = vec![(0, None); nodes];
        self.least = vec![NEVER; 2 * self.size];
        self.bounds = vec![EMPTY; 2 * self.size * self.resources.len()];
        for (position, ord) in lineup.nodes().enumerate() {
            self.take_in(
                model,
                shape,
                position,
                model.nodes.find(ord).filter(|n| lineup.holds(n)),
            );
        }
        for at in (1..self.size).rev() {
            self.join(at);
        }
        nodes as u64
    }

    /// Takes in a node; none where it has left the part that is lined up, which keeps its position.
    fn take_in(&mut self, model: &Model, shape: &Shape, position: usize, node: Option<&NodeSlot>) {
        let at = self.size + position;
        let width = self.resources.len();
        let bounds = &mut self.bounds[at * width..(at + 1) * width];
        let (epoch, ever) = &mut self.ever[position];
        self.least[at] = NEVER;
        bounds.fill(EMPTY);
        let Some(node) = node.filter(|node| node.present && !node.hot) else {
            return;
        };
        if *epoch != node.epoch {
            (*epoch, *ever) = (node.epoch, model.fits_ever(shape, node).ok());
        }
        let Some(welcome) = *ever else { return };
        self.least[at] = score::least(welcome, node).get();
        for (bound, &resource) in bounds.iter_mut().zip(&self.resources) {
            let (all, used) = (node.allocatable.of(resource), node.used.of(resource));
            *bound = Bound {
                free: (all - used).get(),
                share: share_of(used.get(), all.get()),
                all: all.get(),
            };
        }
    }

    /// Brings those above a place up to date.
    fn rise(&mut self, leaf: usize) {
        let mut at = leaf / 2;
        while at > 0 && self.join(at) {
            at /= 2;
        }
    }

    /// Finds the bounds of two together. False if they are what they were.
    fn join(&mut self, at: usize) -> bool {
        let width = self.resources.len();
        let least = self.least[2 * at].min(self.least[2 * at + 1]);
        let mut changed = std::mem::replace(&mut self.least[at], least) != least;
        for i in 0..width {
            let (a, b) = (self.bounds[2 * at * width + i], self.bounds[(2 * at + 1) * width + i]);
            let both = Bound {
                free: a.free.max(b.free),
                share: a.share.min(b.share),
                all: a.all.max(b.all),
            };
            changed |= std::mem::replace(&mut self.bounds[at * width + i], both) != both;
        }
        changed
    }

    /// What the cheapest of some places costs at least.
    fn bound(&self, at: usize, asks: &[Ask]) -> i64 {
        let least = self.least[at];
        if least == NEVER {
            return NEVER;
        }
        let mut fullest = 0;
        let mut known = (i64::MIN, i64::MIN, 0);
        let bounds = &self.bounds[at * self.resources.len()..];
        for ask in asks {
            let bound = bounds[ask.at];
            if bound.free < ask.amount {
                return NEVER;
            }
            if ask.counts {
                if (known.0, known.1) != (ask.amount, bound.all) {
                    known = (ask.amount, bound.all, share_of(ask.amount, bound.all));
                }
                fullest = fullest.max(bound.share + known.2);
            }
        }
        least.saturating_add(fullest * score::STEPS / WHOLE)
    }

    /// What the resources that a pod requests are to this tree.
    fn ask(&self, model: &Model, shape: &Shape, asks: &mut Vec<Ask>) {
        let requested = shape.requests.iter().filter_map(|&(resource, amount)| {
            Some(Ask {
                at: self.resources.iter().position(|r| *r == resource)?,
                amount: amount.get(),
                counts: resource != model.resources.pods,
            })
        });
        asks.clear();
        asks.extend(requested);
    }

    /// What the best node for a plain pod costs at least; `None` if there is none.
    pub(super) fn least(&self, model: &Model, shape: &Shape, scratch: &mut Scratch) -> Option<Cost> {
        self.ask(model, shape, &mut scratch.asks);
        let least = self.bound(1, &scratch.asks);
        (least < NEVER).then(|| Cost::at(least))
    }

    /// The best node for a plain pod that is none of those that are refused, of which there are about so many.
    pub(super) fn best(
        &self,
        model: &Model,
        shape: &Shape,
        lineup: &Lineup,
        worths: &mut Worths,
        (refused, many): (impl Fn(NodeOrd) -> bool, usize),
        (scratch, visited): (&mut Scratch, &mut u64),
    ) -> Found {
        self.ask(model, shape, &mut scratch.asks);
        let Scratch { asks, ahead } = scratch;
        ahead.clear();
        let mut cost = |position: usize| -> Option<(Cost, NodeOrd)> {
            let (_, ever) = self.ever.get(position)?;
            let ord = lineup.at(position).filter(|ord| !refused(*ord))?;
            *visited += 1;
            let placed = score::place(Policy::Standard, model, worths, shape, &model.nodes[ord], (*ever)?);
            placed.ok().map(|(cost, _)| (cost, ord))
        };
        // Nothing costs less than `at_most`; the first that costs as much is the best.
        let mut at_most = self.bound(1, asks);
        // To pass over one takes its own bound and, where all beside it are refused, some of those above it.
        let enough = STEPS.saturating_add(u32::try_from(4 * many).unwrap_or(u32::MAX));
        let mut steps: u32 = 0;
        while at_most < NEVER {
            let mut next = NEVER;
            ahead.push(1);
            while let Some(at) = ahead.pop() {
                steps += 1;
                if steps > enough {
                    return Found::Unknown;
                }
                let bound = self.bound(at, asks);
                if bound > at_most {
                    next = next.min(bound);
                } else if at < self.size {
                    ahead.push(2 * at + 1);
                    ahead.push(2 * at);
                } else if let Some((cost, node)) = cost(at - self.size) {
                    if cost.get() <= at_most {
                        return Found::Node(node, cost);
                    }
                    next = next.min(cost.get());
                    steps += LOOK;
                }
            }
            at_most = next;
        }
        Found::Nowhere
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::amount::Amount;

    proptest! {
        /// Were it ever more, the tree would pass over the best node.
        #[test]
        fn shares_are_at_most_what_they_are(all in 1..=Amount::LARGEST.get(), parts in (0.0..1.0_f64, 0.0..1.0_f64)) {
            #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "any amounts will do")]
            let part = |of: f64| (all as f64 * of) as i64 / 2;
            let (used, amount) = (part(parts.0), part(parts.1));
            let steps = (share_of(used, all) + share_of(amount, all)) * score::STEPS / WHOLE;
            let exact = i128::from(used + amount) * i128::from(score::STEPS) / i128::from(all);
            prop_assert!(i128::from(steps) <= exact && exact <= i128::from(steps) + 1);
        }
    }

    #[test]
    fn round_shares_of_common_sizes_are_exact() {
        for cores in [1, 2, 4, 8, 10, 12, 16, 20, 32, 40, 48, 56, 64, 80, 96, 112, 128] {
            let all = cores * 1000;
            for used in (0..all).step_by(50) {
                let steps = (share_of(used, all) + share_of(50, all)) * score::STEPS / WHOLE;
                assert_eq!(steps, (used + 50) * score::STEPS / all, "{used} of {all}");
            }
        }
        let (mi, gi) = (1 << 20, 1 << 30);
        assert_eq!(
            share_of(8 * gi - 512 * mi, 32 * gi) + share_of(512 * mi, 32 * gi),
            WHOLE / 4
        );
    }
}
