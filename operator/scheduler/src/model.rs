//! The model of the cluster: what is, and who holds what. Everything that decisions may depend on is in here;
//! what merely makes them fast is in [`crate::index`].

pub(crate) mod areas;
mod bulk;
pub(crate) mod cell;
pub(crate) mod changes;
pub(crate) mod claim;
pub(crate) mod device;
pub(crate) mod dra;
pub(crate) mod ending;
pub(crate) mod growth;
pub(crate) mod hopes;
mod images;
pub(crate) mod kin;
pub(crate) mod labels;
pub(crate) mod lending;
mod listing;
mod lost_work;
pub(crate) mod marks;
pub(crate) mod node;
pub(crate) mod past;
pub(crate) mod pod;
pub(crate) mod ports;
pub(crate) mod queue;
pub(crate) mod reservation;
pub(crate) mod resources;
pub(crate) mod rules;
pub(crate) mod shape;
pub(crate) mod share;
pub(crate) mod spot;
pub(crate) mod standing;
pub(crate) mod tiers;
pub(crate) mod topology;
pub(crate) mod tree;
pub(crate) mod trouble;
pub(crate) mod volumes;
pub(crate) mod waiting;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

pub(crate) use changes::ChangeLog;
pub(crate) use claim::{ClaimKey, ClaimSlot};
pub(crate) use device::DeviceUse;
pub(crate) use dra::{ClaimNeed, Dra};
pub(crate) use labels::Labels;
pub(crate) use node::NodeSlot;
pub(crate) use pod::{Place, PodSlot, Seat};
pub(crate) use queue::QueueSlot;
pub(crate) use reservation::{Hold, Reservation};
pub(crate) use resources::Resources;
pub(crate) use shape::{GpuNeed, Shape, Template};
pub(crate) use share::{Share, Users};
pub(crate) use standing::{Standing, Tally};
pub(crate) use waiting::{Age, Group, Waiting};

use crate::{
    amount::Totals,
    event::{Taint, Tier, Time},
    fragmentation::Typical,
    intern::{Counted, Fresh, Names},
    mix::Mix,
    settings::HOLD_AFTER,
    slab::{AreaOrd, ClaimOrd, ModelOrd, NodeOrd, PodOrd, QueueOrd, ShapeOrd, Slab, TaintOrd, TemplateOrd},
};

/// Everything that is known.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) nodes: Slab<NodeOrd, NodeSlot>,
    /// The node order: by name.
    pub(crate) nodes_by_name: BTreeMap<Arc<str>, NodeOrd>,
    pub(crate) pods: Slab<PodOrd, PodSlot>,
    pub(crate) pods_by_uid: HashMap<Arc<str>, PodOrd>,
    pub(crate) claims: Slab<ClaimOrd, ClaimSlot>,
    pub(crate) claims_by_key: HashMap<ClaimKey, ClaimOrd>,
    pub(crate) claims_by_uid: HashMap<Arc<str>, ClaimOrd>,
    pub(crate) queues: Slab<QueueOrd, QueueSlot>,
    pub(crate) queues_by_name: BTreeMap<Arc<str>, QueueOrd>,
    pub(crate) shapes: Counted<ShapeOrd, Shape>,
    pub(crate) templates: Counted<TemplateOrd, Template>,
    /// By template, the shape that a pod without more to it had last, in which tier. Left out of comparisons.
    pub(crate) last_shapes: Vec<Option<(Tier, ShapeOrd, Arc<Shape>)>>,
    pub(crate) resources: Resources,
    pub(crate) models: Names<ModelOrd, String>,
    pub(crate) taints: Fresh<TaintOrd, Taint>,
    /// Devices that claims are made to.
    pub(crate) dra: Dra,
    /// Big images that nodes hold.
    pub(crate) images: images::Images,
    /// Who counts for whom.
    pub(crate) marks: marks::Marks,
    /// Claims that more pods may let in. Noted as they wait, and left out of comparisons.
    pub(crate) hopes: hopes::Hopes,
    /// Nodes whose load changed and nothing else: a log of their own, so that nobody values them anew for whom load does not
    /// count.
    pub(crate) loads: ChangeLog,
    /// Claims that were tried in vain since [`Model::park_tried`].
    pub(crate) tried: Vec<ClaimOrd>,
    /// Pods of one controller, and where they sit.
    pub(crate) kins: kin::Kins,
    /// The parts that nodes are divided into.
    pub(crate) topology: topology::Topology,
    /// Sum of what the present nodes have, by tier, in the names that quotas use.
    pub(crate) capacity: [Totals; 3],
    /// What all pods hold, by tier; those of other schedulers count as prod.
    pub(crate) held: [Totals; 3],
    /// What the queues at the top keep free for themselves.
    pub(crate) kept: [Totals; 3],
    /// Some queue does not lend all of its guarantee.
    pub(crate) keeps_something: bool,
    /// Claims whose standing has to be looked at again. Each is judged by itself, so their order reaches nothing.
    pub(crate) dirty: BTreeSet<ClaimOrd>,
    /// The pods that are expected, for the policy that was told.
    pub(crate) typical: Typical,
    /// The GPU pods that were seen, and what they make expect.
    pub(crate) mix: Mix,
    /// The last epoch that a node was given.
    pub(crate) epochs: u64,
    /// Racks, blocks and zones that some node is in, and the nodes themselves.
    pub(crate) areas: areas::Areas,
    /// Nodes that changed, for the shape index.
    pub(crate) changes: ChangeLog,
    /// Claims that have had some of their pods, and not all, since `broken_since`.
    pub(crate) broken: BTreeSet<ClaimOrd>,
    /// Elastic claims that hold more than their minimum.
    pub(crate) grown: BTreeSet<ClaimOrd>,
    /// Where the search for those who could go for a claim stopped, while it goes on.
    pub(crate) searched: BTreeMap<ClaimOrd, Search>,
    /// The work of the last cycle ended before it had looked for everybody who could go.
    pub(crate) unfinished: bool,
    /// Claims that run and are expected to end, the first to end first.
    pub(crate) ending: BTreeSet<ending::EndKey>,
    /// Seats at later times: those for windows first, then in the order in which they were promised.
    pub(crate) reservations: Vec<Arc<Reservation>>,
    /// Milliseconds that a claim waits before seats are held for it, if they ever are.
    pub(crate) hold_after: Option<i64>,
    /// The starts that were last told.
    pub(crate) told_starts: BTreeMap<ClaimOrd, Time>,
    /// When all reservations were last known to hold, and which they were.
    pub(crate) reserved_at: Option<reservation::Held>,
    /// Cycles one after the other in which the search for a start was cut short.
    pub(crate) cut_short: u32,
    /// Pods that hold a seat and are on their way out: evicted by us, or being deleted.
    pub(crate) going: BTreeSet<PodOrd>,
    /// Pods that are not to be placed before some time, since binding them failed.
    pub(crate) held_back: BTreeSet<(Time, PodOrd)>,
    /// Shapes that are no more, for the shape index to forget.
    pub(crate) dead_shapes: Vec<ShapeOrd>,
    /// When a victim that was spared by time alone may go: everything is tried anew then.
    pub(crate) retry_at: Option<Time>,
    /// Grows whenever something that did not fit may fit now.
    pub(crate) freed: u64,
    /// `now` of the last cycle.
    pub(crate) now: Time,
    /// A cycle is going on.
    pub(crate) deciding: bool,
    /// Pods that the last cycle placed, until the next event: what the invariants hold us to.
    pub(crate) just_placed: Vec<PodOrd>,
}

/// Among whom it is looked for those who could go for a claim, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// What elastic claims hold above their minima; and beside that:
    Grown,
    /// Those who borrow and go first.
    FewBorrowers,
    /// All who borrow.
    Borrowers,
    /// Those of lower priority in the same queue who go first.
    FewBelow,
    /// All of those.
    Below,
    /// All of those, and all who borrow.
    All,
}

/// Where a search for those who could go for a claim stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Search {
    /// Among whom it was looked.
    pub(crate) stage: Stage,
    /// Areas that were looked at in vain; `None` if it was not looked at one after the other yet.
    pub(crate) areas: Option<BTreeSet<AreaOrd>>,
    /// Pods that the next attempt may take off the model, if the work of a whole cycle was not enough for the last one; 0 if
    /// that is not known to be so.
    pub(crate) trials: u32,
}

/// Position of a tier in arrays.
pub(crate) fn tier_index(tier: Tier) -> usize {
    match tier {
        Tier::Prod => 0,
        Tier::Mid => 1,
        Tier::Batch => 2,
    }
}

/// The tiers, in the order of their positions.
pub(crate) const TIERS: [Tier; 3] = [Tier::Prod, Tier::Mid, Tier::Batch];

impl Default for Model {
    fn default() -> Self {
        let mut model = Model {
            nodes: Slab::default(),
            nodes_by_name: BTreeMap::new(),
            pods: Slab::default(),
            pods_by_uid: HashMap::new(),
            claims: Slab::default(),
            claims_by_key: HashMap::new(),
            claims_by_uid: HashMap::new(),
            queues: Slab::default(),
            queues_by_name: BTreeMap::new(),
            shapes: Counted::default(),
            templates: Counted::default(),
            last_shapes: Vec::new(),
            resources: Resources::default(),
            models: Names::default(),
            taints: Fresh::default(),
            dra: Dra::default(),
            images: images::Images::default(),
            marks: marks::Marks::default(),
            loads: ChangeLog::default(),
            tried: Vec::new(),
            hopes: hopes::Hopes::default(),
            kins: kin::Kins::default(),
            topology: topology::Topology::default(),
            capacity: Default::default(),
            held: Default::default(),
            kept: Default::default(),
            keeps_something: false,
            dirty: BTreeSet::new(),
            typical: Typical::default(),
            mix: Mix::default(),
            epochs: 0,
            areas: areas::Areas::default(),
            changes: ChangeLog::default(),
            broken: BTreeSet::new(),
            grown: BTreeSet::new(),
            searched: BTreeMap::new(),
            unfinished: false,
            ending: BTreeSet::new(),
            reservations: Vec::new(),
            hold_after: Some(HOLD_AFTER),
            told_starts: BTreeMap::new(),
            reserved_at: None,
            cut_short: 0,
            going: BTreeSet::new(),
            held_back: BTreeSet::new(),
            dead_shapes: Vec::new(),
            retry_at: None,
            freed: 1,
            now: Time::default(),
            deciding: false,
            just_placed: Vec::new(),
        };
        model.queue_named(queue::DEFAULT);
        model
    }
}

impl Model {
    /// Counts a pod's seat: on its node, on its devices, and in its queue and those above it.
    pub(crate) fn hold(&mut self, pod: PodOrd) {
        self.count(pod, true);
    }

    /// Takes a pod's seat out of the counts; the pod still knows its seat.
    pub(crate) fn release(&mut self, pod: PodOrd) {
        self.count(pod, false);
    }

    fn count(&mut self, ord: PodOrd, hold: bool) {
        let pod = &self.pods[ord];
        let Some(seat) = pod.held_seat() else { return };
        let shape = self.shapes.value(pod.shape).clone();
        let node = &mut self.nodes[seat.node];
        node.count(ord, &shape, seat, hold);
        self.changes.touch(seat.node);
        let held = self.held.get_mut(if pod.ours { tier_index(shape.tier) } else { 0 });
        match held {
            Some(held) if hold => held.add(&shape.ask),
            Some(held) => held.sub(&shape.ask),
            None => {}
        }
        self.count_marks(ord, &shape, hold);
        self.count_kin(ord, &shape, hold);
        self.count_device_claims(ord, hold);
        let pod = &self.pods[ord];
        if let Some(claim) = pod.claim {
            let claim = &self.claims[claim];
            let tier = tier_index(shape.tier);
            self.queues[claim.queue].count_user(&claim.namespace, tier, &shape.ask, hold);
            let path = self.queues[claim.queue].path.clone();
            let in_cycle = self.changes_at();
            for queue in path.iter() {
                self.queues[*queue].settle_past(in_cycle);
                let Some(used) = self.queues[*queue].used.get_mut(tier) else {
                    continue;
                };
                if hold {
                    used.add(&shape.ask)
                } else {
                    used.sub(&shape.ask)
                }
            }
            if self.keeps_something {
                self.count_kept(&path, tier, shape.ask.iter().map(|(resource, _)| *resource));
            }
        }
    }

    /// Gives a pod without a seat one, and counts it.
    pub(crate) fn seat(&mut self, pod: PodOrd, place: Place) {
        self.pods[pod].place = place;
        self.hold(pod);
    }

    /// Takes a pod's seat away, and returns what it was.
    pub(crate) fn unseat(&mut self, pod: PodOrd) -> Place {
        self.release(pod);
        std::mem::replace(&mut self.pods[pod].place, Place::Nowhere)
    }

    /// Keeps the list of those who are going.
    pub(crate) fn note_going(&mut self, ord: PodOrd) {
        let pod = &self.pods[ord];
        let changed = if pod.place.is_taken() && (pod.leaving || pod.terminating) {
            self.going.insert(ord)
        } else {
            self.going.remove(&ord)
        };
        if changed {
            self.future_changed(ord);
        }
    }

    /// A pod's node is to have another future: what was found of it beside reservations holds no more.
    pub(crate) fn future_changed(&mut self, ord: PodOrd) {
        if let (Some(seat), false) = (self.pods[ord].place.seat(), self.reservations.is_empty()) {
            self.changes.touch(seat.node);
        }
    }

    /// The claim has to be looked at again in the next cycle.
    pub(crate) fn mark(&mut self, claim: ClaimOrd) {
        if self.reservation_of(claim).is_some() {
            self.reserved_at = None;
        }
        self.dirty.insert(claim);
    }
}

/// Equal in all that a decision may depend on. The change log is a cursor of a cache and left out.
impl PartialEq for Model {
    fn eq(&self, other: &Model) -> bool {
        self.nodes == other.nodes
            && self.nodes_by_name == other.nodes_by_name
            && self.pods == other.pods
            && self.kins.slots == other.kins.slots
            && self.pods_by_uid == other.pods_by_uid
            && self.claims == other.claims
            && self.claims_by_key == other.claims_by_key
            && self.claims_by_uid == other.claims_by_uid
            && self.queues == other.queues
            && self.queues_by_name == other.queues_by_name
            && self.capacity == other.capacity
            && self.dra == other.dra
            && self.mix == other.mix
            && self.dirty == other.dirty
            && self.broken == other.broken
            && self.grown == other.grown
            && self.searched == other.searched
            && self.ending == other.ending
            && self.reservations == other.reservations
            && self.hold_after == other.hold_after
            && self.told_starts == other.told_starts
            && self.cut_short == other.cut_short
            && self.going == other.going
            && self.held_back == other.held_back
            && self.retry_at == other.retry_at
            && self.freed == other.freed
            && self.now == other.now
            && self.just_placed == other.just_placed
    }
}
