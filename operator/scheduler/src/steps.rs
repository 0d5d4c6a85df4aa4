//! A cycle, step by step. Step 4, reservations and backfill, is woven into step 3: a claim that finds no place gets its
//! reservation before the next one has its turn.

mod candidates;
mod s1_heads;
mod s2_order;
mod s3_grow;
mod s3_place;
mod s3_room;
mod s3_topology;
mod s3_unit;
mod s4_backfill;
mod s4_future;
mod s4_hold;
mod s4_reserve;
mod s4_search;
mod s5_areas;
mod s5_attempt;
mod s5_reclaim;
mod s5_take_back;
mod s6_commit;
mod s7_explain;
mod s7_topology;
mod victims;

pub(crate) use s5_reclaim::GRACE;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    Budget, Cluster,
    decision::{ClaimAllocation, Decision, EvictCause, Reason},
    event::Time,
    index::{Index, Look},
    lost::LostWork,
    model::{Model, Search},
    score::Policy,
    slab::{ClaimOrd, PodOrd},
};

/// Pods up to which debug builds check the invariants after each cycle. The check looks at every pod: with more of them,
/// whoever drives the core calls it every so often.
const CHECKED_PODS: usize = 500;

/// Passes over those who wait in one cycle at most: the second one is for those whom a reservation kept out that is no
/// more since the first.
const PASSES: u32 = 4;

/// Decides what to do now. `now` never runs backwards between calls; if it does, the later time stays.
///
/// The model already counts what is decided. A cycle after a cycle, with no event and no time that matters between
/// them, decides nothing.
pub fn cycle(cluster: &mut Cluster, now: Time, budget: Budget) -> Vec<Decision> {
    let mut round = Round::begin(cluster, now, budget);
    s1_heads::look_again(&mut round);
    s4_reserve::review(&mut round);
    for _ in 0..PASSES {
        let freed = round.model.freed;
        round.model.park_tried();
        let mut order = s2_order::Order::of(round.model);
        while let Some(claim) = order.next(&round) {
            s3_place::place(&mut round, claim);
        }
        // Whoever has to be near others, or is spread as they are, may have got its chance after its turn; and a
        // reservation that is no more, or has moved, may have kept others out.
        let rising = round.model.hopes.take_rising();
        if (rising.is_empty() && round.model.freed == freed) || round.pods_left == 0 {
            break;
        }
        round.blocked.retain(|claim| !rising.contains(claim));
    }
    if !round.unguarded {
        round.model.reservations_hold();
    }
    s5_reclaim::reclaim(&mut round);
    s3_grow::grow(&mut round);
    s5_take_back::take_back(&mut round);
    s5_reclaim::release_broken(&mut round);
    round.model.park_tried();
    s4_reserve::review(&mut round);
    s4_search::note_cut(&mut round);
    let mut decisions = s6_commit::commit(&mut round);
    s4_reserve::tell(&mut round, &mut decisions);
    s7_explain::explain(&mut round, &mut decisions);
    cluster.model.deciding = false;
    if cfg!(debug_assertions) && cluster.model.pods.len() <= CHECKED_PODS {
        debug_assert_eq!(cluster.check(), Ok(()), "the invariants hold after each cycle");
    }
    decisions
}

/// What a cycle works on and what it has come to.
struct Round<'a> {
    model: &'a mut Model,
    index: &'a mut Index,
    policy: Policy,
    now: Time,
    /// Pods that may still be placed.
    pods_left: u32,
    /// Pods that may still be taken off the model on trial.
    trials_left: u32,
    /// Pods that a cycle may take off the model on trial.
    trials: u32,
    /// Pods that may still be taken off the model to compare what was found with something else.
    compares_left: u32,
    /// Where the search for those who could go for the claim whose turn it is stopped in the last cycle.
    goes_on: Option<Search>,
    /// What those cost who run.
    prices: candidates::Prices,
    /// Pods that may still be moved on trial to find reservations.
    moves_left: u32,
    /// Claims for which reservations may still be tried at other seats.
    ways_left: u32,
    /// Searches for a start that were made, by queue.
    tried_heads: s4_reserve::TriedHeads,
    /// What is asked before a pod gets a seat.
    guard: Option<s4_backfill::Guard>,
    /// Somebody who has the right of way was placed without being asked: reservations may have moved.
    unguarded: bool,
    /// Pods that were placed together, claim by claim.
    admitted: Vec<(ClaimOrd, Vec<PodOrd>)>,
    /// Claims that have their minimum and may grow.
    growing: BTreeSet<ClaimOrd>,
    /// Claims whose minimum found no place in this cycle.
    blocked: Vec<ClaimOrd>,
    evicted: Vec<(PodOrd, EvictCause, LostWork)>,
    /// Pods that fitted nowhere, maybe because of what their claims to devices have.
    stuck: Vec<PodOrd>,
    /// Pods whose claims give back what they have.
    taken_back: Vec<(PodOrd, Vec<ClaimAllocation>)>,
    /// Groups of elastic claims that have another size now.
    resized: BTreeSet<(ClaimOrd, Arc<str>)>,
    /// What is to be said of claims; the last word counts.
    said: Vec<(ClaimOrd, Option<Waits>)>,
    /// What is to be said of pods by themselves.
    said_of_pods: Vec<(PodOrd, Reason)>,
    /// The nearest node for those who look alike, in words, and the number of the latest change of a node by then.
    nearest: HashMap<Look, (u64, Option<String>)>,
}

/// Why something waits, and what would change that.
#[derive(Clone, Debug)]
struct Waits {
    reason: Reason,
    counterfactual: Option<String>,
}

impl<'a> Round<'a> {
    fn begin(cluster: &'a mut Cluster, now: Time, budget: Budget) -> Round<'a> {
        let Cluster { model, index, policy } = cluster;
        model.now = model.now.max(now);
        model.settle_pasts();
        model.deciding = true;
        model.unfinished = false;
        model.just_placed.clear();
        model.learn();
        model.try_held_back();
        if model.retry_at.is_some_and(|at| at <= model.now) {
            model.retry_at = None;
            model.freed += 1;
        }
        let cut_short = model.cut_short;
        Round {
            now: model.now,
            model,
            index,
            policy: *policy,
            pods_left: budget.pods,
            trials_left: budget.pods,
            trials: budget.pods,
            compares_left: s5_areas::COMPARED,
            goes_on: None,
            prices: candidates::Prices::default(),
            moves_left: s4_search::moves(cut_short),
            ways_left: s4_reserve::WAYS,
            tried_heads: s4_reserve::TriedHeads::new(),
            guard: None,
            unguarded: false,
            admitted: Vec::new(),
            growing: BTreeSet::new(),
            blocked: Vec::new(),
            evicted: Vec::new(),
            stuck: Vec::new(),
            taken_back: Vec::new(),
            resized: BTreeSet::new(),
            said: Vec::new(),
            said_of_pods: Vec::new(),
            nearest: HashMap::new(),
        }
    }

    fn say(&mut self, claim: ClaimOrd, reason: Reason, counterfactual: Option<String>) {
        self.said.push((claim, Some(Waits { reason, counterfactual })));
    }
}
