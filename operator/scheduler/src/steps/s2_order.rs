//! Step 2: whose turn it is. Queues below their guarantee go first, then those with the smaller dominant share; within
//! a queue it is priority, then age. The order is found as places are given, since each place changes the shares.

use std::{cmp::Reverse, collections::BinaryHeap, ops::Bound};

use super::Round;
use crate::{
    model::{Model, PendingKey, tier_index},
    slab::{ClaimOrd, QueueOrd},
};

/// The queues that have something waiting, the next first.
pub(super) struct Order {
    turns: BinaryHeap<Reverse<Turn>>,
    /// Queue and head of the turn that was given last.
    last: Option<(QueueOrd, PendingKey)>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    /// False goes first.
    has_its_guarantee: bool,
    share: u64,
    head: PendingKey,
    queue: QueueOrd,
}

impl Order {
    /// The order in which things stand at first.
    pub(super) fn of(model: &mut Model) -> Order {
        let queues: Vec<QueueOrd> = model.queues.iter().map(|(queue, _)| queue).collect();
        for queue in queues {
            model.unpark_all(queue);
        }
        let turns = model
            .queues
            .iter()
            .filter_map(|(queue, _)| Turn::of(model, queue, None))
            .map(Reverse)
            .collect();
        Order { turns, last: None }
    }

    /// The claim whose turn it is, until the budget is used up.
    pub(super) fn next(&mut self, round: &Round<'_>) -> Option<ClaimOrd> {
        if round.pods_left == 0 {
            return None;
        }
        if let Some((queue, head)) = self.last.take()
            && let Some(turn) = Turn::of(round.model, queue, Some(&head))
        {
            self.turns.push(Reverse(turn));
        }
        let Reverse(turn) = self.turns.pop()?;
        let claim = turn.head.claim;
        self.last = Some((turn.queue, turn.head));
        Some(claim)
    }
}

impl Turn {
    /// The next turn of a queue.
    fn of(model: &Model, ord: QueueOrd, after: Option<&PendingKey>) -> Option<Turn> {
        let queue = &model.queues[ord];
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut waiting = queue.pending.range::<PendingKey, _>((from, Bound::Unbounded));
        let head = waiting.next()?.clone();
        let tier = tier_index(model.claims[head.claim].tier);
        let has_its_guarantee = !queue.below_guarantee(tier);
        Some(Turn {
            has_its_guarantee,
            share: model.dominant_share(ord),
            head,
            queue: ord,
        })
    }
}
