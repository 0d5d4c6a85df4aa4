//! Which nodes are refused to whom, since a pod there would move a reservation. Found once, a refusal holds as long as the
//! node is what it was: a thousand pods beside a gang's promised seats find out of each seat once that it is not for them.
//!
//! What a node will be when the reservations start follows from its own state, which who sits there is part of, from the
//! reservations, and from when those who sit there are expected to end. Whenever that changes but for the passing of time, the
//! node counts as changed (`Model::future_changed`); and by the passing of time ends are only ever expected later, which
//! leaves a refusal right.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use crate::{
    amount::{Amount, Amounts},
    model::{Model, Reservation},
    slab::{NodeOrd, ResourceOrd, ShapeOrd},
};

/// Sets of reservations whose refusals are kept: pods that end at different times are to spare different ones.
const SETS: usize = 64;
/// Refusals of all sets together that are kept: at some 100 bytes each, 100 MiB.
const REFUSALS: usize = 1 << 20;

/// Some reservations, and the nodes that they refuse.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    /// The reservations that are not to be moved.
    pub(crate) spared: Vec<Arc<Reservation>>,
    /// All reservations that hold seats at their time.
    pub(crate) others: Vec<Arc<Reservation>>,
    refusals: HashMap<ShapeOrd, Refused>,
    count: usize,
    /// What is left on each node beside the seats, and the state of the node for which that holds.
    left: HashMap<NodeOrd, (u64, Left)>,
    /// Places of those that are spared whose pods have rules about others, or others about them, by a version of these rules.
    related: Option<(u64, Vec<usize>)>,
}

/// What the reservations that have seats on a node leave of it, of the resources that those need. A pod that requests more
/// would move one of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Left(Amounts);

impl Left {
    /// No more is left of a resource than some amount.
    pub(crate) fn at_most(&mut self, resource: ResourceOrd, amount: Amount) {
        match self.0.iter_mut().find(|(known, _)| *known == resource) {
            Some((_, left)) => *left = amount.min(*left),
            None => self.0.push((resource, amount)),
        }
    }

    fn is_exceeded_by(&self, requests: &[(ResourceOrd, Amount)]) -> bool {
        let left = |resource| self.0.iter().find(|(known, _)| *known == resource);
        requests
            .iter()
            .any(|(resource, amount)| left(*resource).is_some_and(|(_, left)| amount > left))
    }
}

/// The nodes that are refused to pods of one shape.
#[derive(Debug, Default)]
struct Refused {
    /// Position in the change log.
    cursor: u64,
    /// Outlook by which pods choose among the cards of a node.
    outlook: u64,
    nodes: BTreeSet<NodeOrd>,
    /// The state of each node when it was refused.
    states: HashMap<NodeOrd, u64>,
}

impl Beside {
    /// No refusals yet.
    pub(crate) fn new(spared: Vec<Arc<Reservation>>, others: Vec<Arc<Reservation>>) -> Beside {
        Beside {
            spared,
            others,
            ..Beside::default()
        }
    }

    fn is_of(&self, spared: &[Arc<Reservation>], others: &[Arc<Reservation>]) -> bool {
        let same = |ours: &[Arc<Reservation>], theirs: &[Arc<Reservation>]| {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        same(&self.spared, spared) && same(&self.others, others)
    }

    /// The reservations whose pods have rules about others, or others about them: they can be moved from afar.
    pub(crate) fn related(&mut self, model: &mut Model) -> impl Iterator<Item = &Arc<Reservation>> {
        let version = model.marks.version();
        if self.related.as_ref().is_none_or(|(as_of, _)| *as_of != version) {
            let spared = self.spared.iter().enumerate();
            let related = spared.filter(|(_, r)| model.is_related(r)).map(|(at, _)| at).collect();
            self.related = Some((version, related));
        }
        let related = self.related.iter().flat_map(|(_, related)| related);
        related.filter_map(|at| self.spared.get(*at))
    }

    /// The nodes that are refused to a shape, as far as that is known.
    pub(crate) fn refused(&mut self, model: &Model, shape: ShapeOrd) -> &BTreeSet<NodeOrd> {
        let known = self.refusals.entry(shape).or_default();
        let outlook = std::mem::replace(&mut known.outlook, model.mix.outlook.version());
        let cursor = std::mem::replace(&mut known.cursor, model.changes.clock());
        if outlook != known.outlook && model.shapes.value(shape).gpus.is_some() {
            self.count -= known.nodes.len();
            (known.nodes, known.states) = Default::default();
        }
        if !known.nodes.is_empty() {
            for node in model.changes.since(cursor) {
                let is_other = |state: &u64| *state != model.changes.state(node);
                if known.states.get(&node).is_some_and(is_other) {
                    known.states.remove(&node);
                    known.nodes.remove(&node);
                    self.count -= 1;
                }
            }
        }
        &known.nodes
    }

    /// The nodes, as they are, of which it is not known what is left.
    pub(crate) fn not_weighed(&self, model: &Model) -> Vec<NodeOrd> {
        let nodes: BTreeSet<NodeOrd> = self.spared.iter().flat_map(|r| r.nodes()).collect();
        let known = |node: &NodeOrd| {
            self.left
                .get(node)
                .is_some_and(|(state, _)| *state == model.changes.state(*node))
        };
        nodes.into_iter().filter(|node| !known(node)).collect()
    }

    /// What is left on a node, as it is.
    pub(crate) fn weigh(&mut self, model: &Model, node: NodeOrd, left: Left) {
        self.left.insert(node, (model.changes.state(node), left));
    }

    /// Refuses to a shape the nodes on which it requests more than is left; of all it has to be known what is.
    pub(crate) fn refuse_by_weight(&mut self, model: &Model, shape: ShapeOrd) {
        let requests = &model.shapes.value(shape).requests;
        let exceeded = self.left.iter().filter(|(_, (_, left))| left.is_exceeded_by(requests));
        for node in exceeded.map(|(node, _)| *node).collect::<Vec<_>>() {
            self.refuse(model, shape, node);
        }
    }

    /// A node, as it is, is refused to a shape.
    pub(crate) fn refuse(&mut self, model: &Model, shape: ShapeOrd, node: NodeOrd) {
        if self.count >= REFUSALS {
            self.refusals.clear();
            self.count = 0;
        }
        let known = self.refusals.entry(shape).or_default();
        known.states.insert(node, model.changes.state(node));
        if known.nodes.insert(node) {
            self.count += 1;
        }
    }
}

/// What was found beside the latest sets of reservations.
#[derive(Debug, Default)]
pub(super) struct Kept(VecDeque<Beside>);

impl Kept {
    /// What is known of some reservations, which is to be put back.
    pub(super) fn take(&mut self, spared: Vec<Arc<Reservation>>, others: Vec<Arc<Reservation>>) -> Beside {
        let known = self.0.iter().position(|beside| beside.is_of(&spared, &others));
        let known = known.and_then(|at| self.0.remove(at));
        known.unwrap_or_else(|| Beside::new(spared, others))
    }

    /// Puts back what was taken.
    pub(super) fn put(&mut self, beside: Beside) {
        self.0.push_front(beside);
        self.0.truncate(SETS);
        while self.0.len() > 1 && self.0.iter().map(|beside| beside.count).sum::<usize>() > REFUSALS {
            self.0.pop_back();
        }
    }

    /// Forgets all: there are no reservations.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Forgets a shape that is no more; its ordinal may name another one next.
    pub(super) fn forget(&mut self, shape: ShapeOrd) {
        for beside in &mut self.0 {
            if let Some(gone) = beside.refusals.remove(&shape) {
                beside.count -= gone.nodes.len();
            }
        }
    }
}
