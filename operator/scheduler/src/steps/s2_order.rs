//! Step 2: whose turn it is, over the tree of queues. At each level the queues side by side are compared: those below their
//! guarantee of something that their next claim asks for go first, then those with the smaller share of the cluster by their weight. Within a queue it is priority, then
//! the share of the namespace, then age. What a queue with others below it holds itself counts as one more beside these, of
//! weight 1.
//!
//! The order is found as places are given, since each place changes the shares: but only those on the way from its queue to
//! the top, so that a turn costs a logarithm at each level and nothing is looked at again elsewhere.

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

use super::Round;
use crate::{
    amount::Amount,
    model::{Age, Model, Share, tier_index},
    slab::{ClaimOrd, PodOrd, QueueOrd},
};

/// The queues that have something waiting, the next first.
pub(super) struct Order {
    /// What is known of each queue, by its ordinal.
    branches: Vec<Branch>,
    /// The queues at the top that have something waiting in or below them.
    top: BTreeSet<Turn>,
    /// Queue of the turn that was given last.
    last: Option<QueueOrd>,
}

/// A queue, and what waits in it and below it.
#[derive(Clone, Default)]
struct Branch {
    line: Line,
    /// The queue's own line, and the queues right below it that have something waiting.
    turns: BTreeSet<Turn>,
    /// The turn of its own line, as it stands in `turns`.
    own: Option<Turn>,
    /// Its turn, as it stands among those beside it.
    turn: Option<Turn>,
    /// Its share, and that of its own line, with the number of the latest change of a node by then: they move only with what
    /// is placed.
    shares: Option<(u64, Share, Share)>,
}

/// The own claims of a queue that wait: the first of each namespace of the highest priority. Or those that grow.
#[derive(Clone, Default)]
struct Line {
    level: Option<Reverse<i32>>,
    heads: BTreeSet<Head>,
    growing: BTreeSet<Grower>,
}

/// A claim that grows, against those of its queue: each grows by itself, so that it is what the claim holds that counts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Grower {
    priority: Reverse<i32>,
    share: Share,
    age: Age,
}

impl Grower {
    fn new(model: &Model, claim: ClaimOrd) -> Grower {
        let slot = &model.claims[claim];
        Grower {
            priority: Reverse(slot.priority),
            share: model.share_of_claim(claim),
            age: Age {
                created: slot.created,
                uid: slot.uid.clone(),
                claim,
            },
        }
    }
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    share: Share,
    age: Age,
    namespace: Arc<str>,
}

/// When a queue's turn comes, against those beside it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    /// False goes first.
    has_its_guarantee: bool,
    share: Share,
    /// Of the claim that would be next.
    priority: Reverse<i32>,
    /// Of the claim that would be next.
    age: Age,
}

impl Order {
    /// The order in which things stand at first.
    pub(super) fn of(model: &mut Model) -> Order {
        let queues: Vec<QueueOrd> = model.queues.iter().map(|(queue, _)| queue).collect();
        let mut order = Order {
            branches: vec![Branch::default(); model.queues.bound()],
            top: BTreeSet::new(),
            last: None,
        };
        for queue in queues {
            model.unpark_all(queue);
            if model.queues[queue].pending.len() == 0 {
                continue;
            }
            if let Some(branch) = order.branches.get_mut(queue.index()) {
                branch.line.descend(model, queue);
            }
            order.find_turns(model, queue);
        }
        order
    }

    /// The order in which claims grow: as at first, and each has its turn again for each quantum.
    pub(super) fn of_growing(model: &Model, claims: BTreeSet<ClaimOrd>) -> Order {
        let mut order = Order {
            branches: vec![Branch::default(); model.queues.bound()],
            top: BTreeSet::new(),
            last: None,
        };
        let mut queues = BTreeSet::new();
        for claim in claims {
            let queue = model.claims[claim].queue;
            queues.insert(queue);
            order.keep(model, claim);
        }
        for queue in queues {
            order.find_turns(model, queue);
        }
        order
    }

    /// A claim that grows has one more turn.
    pub(super) fn keep(&mut self, model: &Model, claim: ClaimOrd) {
        if let Some(branch) = self.branches.get_mut(model.claims[claim].queue.index()) {
            branch.line.growing.insert(Grower::new(model, claim));
        }
    }

    /// The claim whose turn it is, until the budget is used up.
    pub(super) fn next(&mut self, round: &Round<'_>) -> Option<ClaimOrd> {
        if round.pods_left == 0 {
            return None;
        }
        if let Some(queue) = self.last.take() {
            if let Some(branch) = self.branches.get_mut(queue.index()) {
                branch.line.advance(round.model, queue);
            }
            self.find_turns(round.model, queue);
        }
        let claim = self.top.first()?.age.claim;
        let queue = round.model.claims[claim].queue;
        // Of those that grow, the one whose turn it is has it once.
        if let Some(branch) = self.branches.get_mut(queue.index()) {
            branch.line.growing.pop_first();
        }
        self.last = Some(queue);
        Some(claim)
    }

    /// Finds anew the turn of a queue and of each above it.
    fn find_turns(&mut self, model: &Model, queue: QueueOrd) {
        let Some(branch) = self.branches.get_mut(queue.index()) else {
            return;
        };
        let own_share = branch.shares_of(model, queue).1;
        let own = branch.line.turn(own_share);
        replace(&mut branch.turns, &mut branch.own, own);
        // A queue whose way to the top is broken stands alone: its claims are only told so.
        let slot = &model.queues[queue];
        let way: &[QueueOrd] = if slot.fault.is_some() { &[queue] } else { &slot.path };
        for (step, &at) in way.iter().enumerate() {
            let Some(branch) = self.branches.get_mut(at.index()) else {
                return;
            };
            let (share, _) = branch.shares_of(model, at);
            let turn = branch.turns.first().map(|next| Turn {
                has_its_guarantee: !is_owed(model, at, next.age.claim),
                share,
                priority: next.priority,
                age: next.age.clone(),
            });
            let mut was = std::mem::replace(&mut branch.turn, turn.clone());
            let beside = match way.get(step + 1) {
                None => Some(&mut self.top),
                Some(above) => self.branches.get_mut(above.index()).map(|above| &mut above.turns),
            };
            if let Some(beside) = beside {
                replace(beside, &mut was, turn);
            }
        }
    }
}

/// True if a queue uses less than it is guaranteed of something that a claim asks for: what is guaranteed of one resource
/// gives no precedence for another.
fn is_owed(model: &Model, queue: QueueOrd, claim: ClaimOrd) -> bool {
    let tier = tier_index(model.claims[claim].tier);
    model.queues[queue].below_guarantee(tier).any(|resource| {
        let asks = |pod: PodOrd| {
            let shape = model.shapes.value(model.pods[pod].shape);
            shape
                .ask
                .iter()
                .any(|(r, amount)| *r == resource && *amount > Amount::ZERO)
        };
        model.members(claim).any(asks)
    })
}

/// Puts a turn in the place of an earlier one.
fn replace(turns: &mut BTreeSet<Turn>, was: &mut Option<Turn>, is: Option<Turn>) {
    if let Some(was) = was.take() {
        turns.remove(&was);
    }
    if let Some(is) = &is {
        turns.insert(is.clone());
    }
    *was = is;
}

impl Branch {
    /// The share of a queue, and that of what it holds itself beside those below it.
    fn shares_of(&mut self, model: &Model, queue: QueueOrd) -> (Share, Share) {
        let clock = model.changes.clock();
        if let Some((_, share, own)) = self.shares.filter(|(found_at, ..)| *found_at == clock) {
            return (share, own);
        }
        let share = model.dominant_share(queue);
        let own = if model.queues[queue].children.is_empty() {
            Share::default()
        } else {
            model.share_of_own(queue)
        };
        self.shares = Some((clock, share, own));
        (share, own)
    }
}

impl Line {
    /// Goes on to the next lower priority.
    fn descend(&mut self, model: &Model, queue: QueueOrd) {
        let waiting = &model.queues[queue].pending;
        let Some(level) = waiting.level(self.level) else {
            return;
        };
        self.level = Some(level);
        let head = |(namespace, age): (&Arc<str>, &Age)| Head {
            share: model.share_of_namespace(queue, namespace),
            age: age.clone(),
            namespace: namespace.clone(),
        };
        for head in waiting.firsts(level).map(head) {
            self.heads.insert(head);
        }
    }

    /// Goes on to the next claim, after the first one had its turn.
    fn advance(&mut self, model: &Model, queue: QueueOrd) {
        let (Some(gone), Some(level)) = (self.heads.pop_first(), self.level) else {
            return;
        };
        let group = (level, gone.namespace);
        if let Some(age) = model.queues[queue].pending.after(&group, &gone.age) {
            self.heads.insert(Head {
                share: model.share_of_namespace(queue, &group.1),
                age: age.clone(),
                namespace: group.1,
            });
        }
        if self.heads.is_empty() {
            self.descend(model, queue);
        }
    }

    /// Its turn against the queues right below its queue, by the share of what the queue itself holds.
    fn turn(&self, share: Share) -> Option<Turn> {
        let (priority, age) = match (self.growing.first(), self.heads.first()) {
            (Some(grower), _) => (grower.priority, &grower.age),
            (None, head) => (self.level?, &head?.age),
        };
        Some(Turn {
            has_its_guarantee: true,
            share,
            priority,
            age: age.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Budget, Event, Time,
        event::{Pod, Queue},
        steps::s3_place,
        tests::fixtures::{node, pod, queue},
    };

    const QUEUES: usize = 6;

    fn any_queue() -> impl Strategy<Value = Queue> {
        (0..QUEUES, 0..=QUEUES, 1..4_u32, 0..4_i64).prop_map(|(i, parent, weight, guaranteed)| {
            let parent = (parent < QUEUES).then(|| format!("q{parent}"));
            let guaranteed = [("cpu", guaranteed * 1000)];
            Queue {
                weight,
                ..queue(&format!("q{i}"), parent.as_deref(), &guaranteed, &[("cpu", 9000)])
            }
        })
    }

    fn any_pod() -> impl Strategy<Value = Pod> {
        (0..40_usize, 0..QUEUES, 0..3_i32, 0..3_u8, 0..4_i64, 1..3_i64).prop_map(
            |(i, queue, priority, namespace, created, cores)| Pod {
                queue: format!("q{queue}"),
                namespace: format!("n{namespace}"),
                priority,
                created: Time(created),
                ..pod(&format!("p{i}"), cores * 1000)
            },
        )
    }

    proptest! {
        /// What is kept from turn to turn is what would be found by looking at everything again.
        #[test]
        fn each_turn_is_the_one_that_a_fresh_look_would_find(
            queues in prop::collection::vec(any_queue(), 1..8),
            pods in prop::collection::vec(any_pod(), 1..40),
        ) {
            let mut cluster = crate::Cluster::default();
            cluster.apply(Event::Node(Box::new(node("n", 12))));
            for queue in queues {
                cluster.apply(Event::Queue(Box::new(queue)));
            }
            for pod in pods {
                cluster.apply(Event::Pod(Box::new(pod)));
            }
            let mut round = Round::begin(&mut cluster, Time(0), Budget::default());
            super::super::s1_heads::look_again(&mut round);
            let mut order = Order::of(round.model);
            loop {
                let mut model = round.model.clone();
                model.park_tried();
                let fresh = Order::of(&mut model).next(&round);
                let next = order.next(&round);
                prop_assert_eq!(next, fresh);
                let Some(claim) = next else { break };
                s3_place::place(&mut round, claim);
            }
        }
    }
}
