//! Plain shapes: prod pods that ask for no device, no host port, no volume of others, nothing of other pods and have no claim to
//! devices. All of them that the same nodes admit share one [tree](super::headroom), so that a thousand shapes cost no more
//! than one. What a tree cannot tell quickly is left to a list.

use std::collections::{BTreeSet, HashMap};

use super::{
    apart::Apart,
    headroom::{Found, Headroom, Scratch},
    lineup::{Lineups, Part},
};
use crate::{
    event::{PreferredNodes, Term, Tier, Toleration},
    intern::Counted,
    model::{Model, Shape, kin::Domain},
    score::Cost,
    slab::{FilterOrd, NodeOrd, ShapeOrd},
    worth::Worths,
};

/// Leaves of all trees together that are kept: at two places of 80 bytes each for three resources, 160 MiB (of 200 each for
/// [as many as a tree knows](super::headroom::RESOURCES), 400 MiB). 128 filters on 5,000 nodes, of 8,192 leaves each;
/// half of them, if they are of replicas as well.
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

/// The nodes of a part that a filter admits.
type Tree = (FilterOrd, Part);

/// The trees of all filters that were asked for lately.
#[derive(Debug, Default)]
pub(super) struct Plain {
    filters: Counted<FilterOrd, Filter>,
    /// By shape.
    known: Vec<Option<Known>>,
    // Looked up; the one that was asked for longest ago is one alone.
    /// By filter, then part, with when it was last asked for.
    trees: Vec<HashMap<Part, (u64, Headroom)>>,
    lineups: Lineups,
    scratch: Scratch,
    leaves: usize,
    clock: u64,
}

/// A pod that a place is sought for, and where it is not to go.
#[derive(Clone, Copy)]
pub(super) struct Sought<'a> {
    pub(super) model: &'a Model,
    pub(super) ord: ShapeOrd,
    pub(super) refused: &'a BTreeSet<NodeOrd>,
}

impl Sought<'_> {
    fn shape(&self) -> &Shape {
        self.model.shapes.value(self.ord)
    }
}

/// A pod that is kept apart from its kin, with the filter of its shape.
#[derive(Clone, Copy)]
struct Seeker<'a> {
    sought: Sought<'a>,
    apart: Apart<'a>,
    filter: FilterOrd,
}

/// The bounds say too little.
struct Unknown;

/// What a place costs, then in node order.
type Place = (Cost, u64, NodeOrd);

impl Plain {
    /// True for shapes that trees know of, if no other pod speaks of them.
    pub(super) fn includes(shape: &Shape) -> bool {
        shape.tier == Tier::Prod
            && shape.gpus.is_none()
            && shape.ports.is_empty()
            && shape.volumes.is_empty()
            && shape.rules.is_none()
            && shape.claims.is_empty()
    }

    /// The best node for a plain shape.
    pub(super) fn best(&mut self, sought: Sought<'_>, worths: &mut Worths, visited: &mut u64) -> Found {
        let model = sought.model;
        let now = (model.changes.clock(), model.mix.outlook.version());
        let all = sought.refused.is_empty();
        let Some(known) = self.known(sought) else {
            return Found::Unknown;
        };
        if all
            && let Some((clock, outlook, found)) = known.last
            && (clock, outlook) == now
        {
            return found;
        }
        if Self::rests(known) {
            return Found::Unknown;
        }
        let tree = (known.filter, Part::Whole);
        let found = if self.catch_up(sought, tree, visited) {
            self.search(sought, tree, worths, (|_| false, 0), visited)
        } else {
            Found::Unknown
        };
        if let Some(known) = self.known(sought) {
            if found == Found::Unknown {
                known.pause = PAUSE;
            } else if all {
                known.last = Some((now.0, now.1, found));
            }
        }
        found
    }

    /// The node for a plain shape that is kept apart from its kin.
    pub(super) fn best_apart(
        &mut self,
        sought: Sought<'_>,
        apart: Apart<'_>,
        worths: &mut Worths,
        visited: &mut u64,
    ) -> Found {
        let Some(known) = self.known(sought) else {
            return Found::Unknown;
        };
        let filter = known.filter;
        if Self::rests(known) {
            return Found::Unknown;
        }
        let seeker = Seeker { sought, apart, filter };
        match self.search_apart(seeker, worths, visited) {
            Ok(Some((cost, _, node))) => Found::Node(node, cost),
            Ok(None) => Found::Nowhere,
            Err(Unknown) => {
                if let Some(known) = self.known(sought) {
                    known.pause = PAUSE;
                }
                Found::Unknown
            }
        }
    }

    fn search_apart(
        &mut self,
        seeker: Seeker<'_>,
        worths: &mut Worths,
        visited: &mut u64,
    ) -> Result<Option<Place>, Unknown> {
        let Seeker { sought, apart, filter } = seeker;
        let domains: Vec<Domain> = apart.domains().collect();
        let mut least = None;
        for domain in &domains {
            let part = apart.part(*domain);
            if !self.catch_up(sought, (filter, part), visited) {
                return Err(Unknown);
            }
            let tree = self.trees.get(filter.index()).and_then(|trees| trees.get(&part));
            let here = tree.and_then(|(_, tree)| tree.least(sought.model, sought.shape(), &mut self.scratch));
            least = least.into_iter().chain(here).min();
        }
        let Some(least) = least else { return Ok(None) };
        let mut cheapest = None;
        for alike in apart.farthest_first().chunk_by(|a, b| a.0 == b.0) {
            let Some(((_, _, most), _)) = alike.first() else {
                continue;
            };
            let among = alike.iter().map(|(_, domain)| *domain);
            let Some(found) = self.cheapest(seeker, among, *most, worths, visited)? else {
                continue;
            };
            // What the best costs is mostly not needed: it costs no less than the bounds say.
            if found.0 > least.by_use_at_most() {
                if cheapest.is_none() {
                    cheapest = self.cheapest(seeker, domains.iter().copied(), u32::MAX, worths, visited)?;
                }
                if cheapest.is_some_and(|(cheapest, _, _)| found.0 > cheapest.by_use_at_most()) {
                    continue;
                }
            }
            return Ok(Some(found));
        }
        Ok(None)
    }

    /// The cheapest place in some fault domains, on a node with so many kin at most.
    fn cheapest(
        &mut self,
        Seeker { sought, apart, filter }: Seeker<'_>,
        domains: impl Iterator<Item = Domain>,
        most: u32,
        worths: &mut Worths,
        visited: &mut u64,
    ) -> Result<Option<Place>, Unknown> {
        let mut best: Option<Place> = None;
        for domain in domains {
            let tree = (filter, apart.part(domain));
            let too_near = (|node| apart.on(node) > most, apart.nodes());
            match self.search(sought, tree, worths, too_near, visited) {
                Found::Unknown => return Err(Unknown),
                Found::Nowhere => {}
                Found::Node(node, cost) => {
                    let found = (cost, sought.model.nodes[node].rank, node);
                    best = Some(best.map_or(found, |best| best.min(found)));
                }
            }
        }
        Ok(best)
    }

    /// What is known of a shape.
    fn known(&mut self, sought: Sought<'_>) -> Option<&mut Known> {
        let index = sought.ord.index();
        if self.known.len() <= index {
            self.known.resize_with(index + 1, || None);
        }
        let filters = &mut self.filters;
        let slot = self.known.get_mut(index)?;
        Some(slot.get_or_insert_with(|| {
            let shape = sought.shape();
            Known {
                filter: filters.acquire(Filter {
                    terms: shape.terms.clone(),
                    volume_terms: shape.volume_terms.clone(),
                    preferred: shape.preferred.clone(),
                    tolerations: shape.tolerations.clone(),
                }),
                pause: 0,
                last: None,
            }
        }))
    }

    /// True if a shape is left to its list this time.
    fn rests(known: &mut Known) -> bool {
        let rests = known.pause > 0;
        known.pause = known.pause.saturating_sub(1);
        rests
    }

    /// Has a tree take in the nodes that changed. False if it does not cover what the shape requests.
    fn catch_up(&mut self, sought: Sought<'_>, (filter, part): Tree, visited: &mut u64) -> bool {
        let model = sought.model;
        if self.lineups.get(part).is_none() {
            self.drop_trees(|_, part| !part.is_there(model));
        }
        let nodes = self
            .lineups
            .caught_up(model, part)
            .map_or(0, |lineup| lineup.nodes().len());
        self.make_room((filter, part), nodes);
        let tree = self
            .trees
            .get_mut(filter.index())
            .and_then(|trees| trees.get_mut(&part));
        let (Some((asked, tree)), Some(lineup)) = (tree, self.lineups.get(part)) else {
            return false;
        };
        *asked = self.clock;
        let covers = tree.covers(sought.shape());
        if covers {
            self.leaves -= tree.size();
            *visited += tree.catch_up(model, sought.shape(), lineup);
            self.leaves += tree.size();
        }
        covers
    }

    /// The best node by a tree that has caught up.
    fn search(
        &mut self,
        sought: Sought<'_>,
        (filter, part): Tree,
        worths: &mut Worths,
        (too_near, many): (impl Fn(NodeOrd) -> bool, usize),
        visited: &mut u64,
    ) -> Found {
        let tree = self.trees.get(filter.index()).and_then(|trees| trees.get(&part));
        let (Some((_, tree)), Some(lineup)) = (tree, self.lineups.get(part)) else {
            return Found::Unknown;
        };
        let refused = |node: NodeOrd| sought.refused.contains(&node) || too_near(node);
        let refused = (refused, sought.refused.len() + many);
        let scratch = (&mut self.scratch, visited);
        tree.best(sought.model, sought.shape(), lineup, worths, refused, scratch)
    }

    /// Has a tree of so many nodes, if need be instead of those that were not asked for longest.
    fn make_room(&mut self, (filter, part): Tree, nodes: usize) {
        self.clock += 1;
        if self.trees.len() <= filter.index() {
            self.trees.resize_with(filter.index() + 1, HashMap::new);
        }
        if self
            .trees
            .get(filter.index())
            .is_some_and(|trees| trees.contains_key(&part))
        {
            return;
        }
        while self.leaves + nodes.next_power_of_two() > LEAVES {
            let all = self.trees.iter().flat_map(HashMap::values);
            // `asked` is different for each.
            let Some(oldest) = all.map(|(asked, _)| *asked).min() else {
                break;
            };
            self.drop_trees(|asked, _| asked == oldest);
        }
        if let Some(trees) = self.trees.get_mut(filter.index()) {
            trees.insert(part, (self.clock, Headroom::default()));
        }
    }

    /// Drops trees, by when they were last asked for and their parts.
    fn drop_trees(&mut self, go: impl Fn(u64, Part) -> bool) {
        let leaves = &mut self.leaves;
        for trees in &mut self.trees {
            trees.retain(|part, (asked, tree)| {
                let goes = go(*asked, *part);
                *leaves -= if goes { tree.size() } else { 0 };
                !goes
            });
        }
    }

    /// Forgets a shape that is no more; its ordinal may name another one next.
    pub(super) fn forget(&mut self, shape: ShapeOrd) {
        if let Some(gone) = self.known.get_mut(shape.index()).and_then(Option::take)
            && self.filters.release(gone.filter)
        {
            let gone = self.trees.get_mut(gone.filter.index()).map(std::mem::take);
            self.leaves -= gone
                .into_iter()
                .flatten()
                .map(|(_, (_, tree))| tree.size())
                .sum::<usize>();
        }
    }

    /// Shapes that are known.
    #[cfg(test)]
    pub(super) fn shapes(&self) -> usize {
        self.known.iter().flatten().count()
    }
}
