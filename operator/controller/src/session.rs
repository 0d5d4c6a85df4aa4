//! One session: from the first list of every watch to the end, or to the loss of the lease. The one task that owns the
//! core: it applies what the watches say, asks for decisions while it leads, and hands them on. A new session starts
//! from the watches alone, so that nothing that an earlier one assumed can live on.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use duosuan_scheduler::{Event, Time};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, time::DelayQueue};
use tracing::{error, info};

use crate::{
    binder::{Order, Outcome},
    core::Core,
    events::Recorder,
    health::Readiness,
    index::Index,
    measure::Gauges,
    metrics::Metrics,
    publish::{Patch, Target},
    watch::{Fact, KINDS, OURS},
};

mod evicting;
mod orders;
mod preparing;
mod statuses;
mod telling;

use evicting::Turns;
use preparing::Preparing;

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The end was asked for.
    Shutdown,
    /// Another instance may hold the lease.
    LostLease,
    /// A task that it talks to is gone, which is a mistake of the operator.
    Broken,
}

/// What the API server has of the pods that another instance may have bound last.
#[derive(Debug)]
pub enum CaughtUp {
    /// Some of them.
    Some(Vec<Fact>),
    /// That was all.
    All,
}

/// What a session talks to.
#[derive(Debug)]
pub struct Links {
    /// What the watches say.
    pub facts: mpsc::Receiver<Fact>,
    /// Bindings and evictions to carry out.
    pub orders: mpsc::UnboundedSender<Order>,
    /// What came of them.
    pub answers: mpsc::UnboundedReceiver<(Order, Outcome)>,
    /// Statuses to write.
    pub patches: mpsc::UnboundedSender<(Target, Patch)>,
    /// Whether bindings are under way.
    pub binding: watch::Sender<bool>,
    /// Whether this instance leads.
    pub leads: watch::Receiver<bool>,
    /// Asks for the pods that another instance may have bound last, before this one decides anything.
    pub catch_up: mpsc::UnboundedSender<()>,
    /// Their answer: facts that go before those of the watches.
    pub caught_up: mpsc::Receiver<CaughtUp>,
    /// Takes events.
    pub events: Recorder,
    /// What is measured.
    pub metrics: Metrics,
    /// Whether all watches are synced.
    pub ready: Readiness,
}

/// Orders that are not answered yet, at most, before further decisions wait.
const OUTSTANDING: usize = 2048;
/// Facts taken in at once.
const BATCH: usize = 256;
/// While facts keep coming, decisions are made at least so often.
const PATIENCE: Duration = Duration::from_millis(20);
/// How often statuses are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Ticks between two looks at ages, measurements and statuses of queues: 1 s.
const SLOW: u64 = 10;
/// Ticks between two comparisons of everything with what the objects say: 60 s.
const RESYNC: u64 = 600;
/// A status that was handed on is not written again before its echo or so long after.
const ECHO: Duration = Duration::from_secs(10);

/// The state of a session.
#[derive(Debug)]
pub struct Session {
    links: Links,
    cluster: Core,
    index: Index,
    unsynced: BTreeSet<&'static str>,
    /// Kinds that the API server does not serve.
    unserved: BTreeSet<&'static str>,
    /// Those of them that people were told of.
    told_unserved: BTreeSet<&'static str>,
    /// `Some(false)` while it waits for what the last leader did.
    leading: Option<bool>,
    /// Something changed since the last cycle.
    due: Option<Instant>,
    outstanding: usize,
    /// Who has to go, and has to wait for that.
    turns: Turns,
    /// How often it was looked, by UID of the pod, what became of its binding or whether it would be made.
    tries: HashMap<String, u32>,
    /// Orders that are given when their time has come.
    later: DelayQueue<Order>,
    awaited: HashMap<Target, Instant>,
    /// Claims and pods, by UID, of whose waiting an event is told if it lasts, and since when.
    untold: HashMap<String, Instant>,
    /// Pods that wait for their volumes, by UID.
    preparing: HashMap<String, Preparing>,
    gauges: Gauges,
    ticks: u64,
}

impl Session {
    /// A session that knows nothing yet, with a new core.
    pub fn new(links: Links, cluster: Core) -> Self {
        // What an earlier session missed may be there.
        links.ready.set_missing(Vec::new());
        Self {
            links,
            cluster,
            index: Index::default(),
            unsynced: KINDS.into_iter().collect(),
            unserved: BTreeSet::new(),
            told_unserved: BTreeSet::new(),
            leading: None,
            due: None,
            outstanding: 0,
            turns: Turns::default(),
            tries: HashMap::new(),
            later: DelayQueue::new(),
            awaited: HashMap::new(),
            untold: HashMap::new(),
            preparing: HashMap::new(),
            gauges: Gauges::default(),
            ticks: 0,
        }
    }

    /// Runs until the end, or until the lease is lost.
    pub async fn run(mut self, end: CancellationToken) -> Ended {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut facts = Vec::with_capacity(BATCH);
        let mut answers = Vec::with_capacity(BATCH);
        let ended = loop {
            if self.follow_lease() {
                break Ended::LostLease;
            }
            let may_decide = self.may_decide();
            tokio::select! {
                biased;
                () = end.cancelled() => break Ended::Shutdown,
                changed = self.links.leads.changed() => if changed.is_err() { break Ended::Broken },
                taken = self.links.answers.recv_many(&mut answers, BATCH) => {
                    if taken == 0 {
                        break Ended::Broken;
                    }
                    for (order, outcome) in answers.drain(..) {
                        self.answered(order, outcome);
                    }
                }
                Some(caught_up) = self.links.caught_up.recv() => self.caught_up(caught_up),
                Some(order) = std::future::poll_fn(|cx| self.later.poll_expired(cx)) => self.order_now(order.into_inner()),
                _ = tick.tick() => self.tick(),
                taken = self.links.facts.recv_many(&mut facts, BATCH) => {
                    if taken == 0 {
                        break Ended::Broken;
                    }
                    let now = self.cluster.now();
                    for fact in facts.drain(..) {
                        self.take(fact, now);
                    }
                    if self.may_decide() && self.due.is_some_and(|since| since.elapsed() > PATIENCE) {
                        self.decide();
                    }
                }
                () = std::future::ready(()), if may_decide => {
                    self.decide();
                    tokio::task::yield_now().await;
                }
            }
        };
        self.links.ready.end();
        ended
    }

    /// Follows the lease; true if it is lost.
    fn follow_lease(&mut self) -> bool {
        let leads = *self.links.leads.borrow_and_update();
        match (leads, self.leading) {
            (false, Some(_)) => return true,
            (true, None) if self.unsynced.is_empty() => {
                self.leading = Some(false);
                if self.links.catch_up.send(()).is_err() {
                    return true;
                }
            }
            _ => {}
        }
        self.links.metrics.leader.set(i64::from(leads));
        false
    }

    /// When the pods that the last leader bound are all known, decisions may begin.
    fn caught_up(&mut self, caught_up: CaughtUp) {
        if let CaughtUp::Some(facts) = caught_up {
            let now = self.cluster.now();
            for fact in facts {
                self.take(fact, now);
            }
        } else if self.leading == Some(false) {
            info!("leading: every decision is made here from now on");
            self.leading = Some(true);
            self.due = Some(Instant::now());
            self.index.touch_all();
        }
    }

    fn may_decide(&self) -> bool {
        self.leading == Some(true) && self.due.is_some() && self.outstanding < OUTSTANDING
    }

    fn take(&mut self, fact: Fact, now: Time) {
        match &fact {
            Fact::Synced { kind, served } => {
                self.unsynced.remove(kind);
                if *served {
                    self.unserved.remove(kind);
                } else if OURS.contains(kind) {
                    self.unserved.insert(kind);
                }
                self.links.ready.set_awaited(self.unsynced.iter().copied().collect());
            }
            Fact::Pod(pod) => {
                if let Some(name) = self.index.pod_name(&pod.pod.uid) {
                    self.awaited.remove(&Target::Pod(name));
                }
            }
            Fact::Claim(claim) => drop(self.awaited.remove(&Target::Claim((
                claim.claim.namespace.clone(),
                claim.claim.name.clone(),
            )))),
            Fact::PodGroup(group) => {
                let name = (group.claim.namespace.clone(), group.claim.name.clone());
                self.awaited.remove(&Target::PodGroup(name, group.version));
            }
            Fact::Queue(queue) => drop(self.awaited.remove(&Target::Queue(queue.queue.name.clone()))),
            Fact::Policy(name, _) => drop(self.awaited.remove(&Target::Policy(name.clone()))),
            Fact::PodGone(uid) => {
                self.tries.remove(uid);
                // Its claims to devices are to get nothing, either.
                self.gave_up(uid, "the pod is gone".to_owned());
            }
            _ => {}
        }
        let storage = matches!(
            fact,
            Fact::VolumeClaim(_) | Fact::VolumeClaimGone(_) | Fact::Volume(_) | Fact::VolumeGone(_)
        );
        let mut events = Vec::new();
        self.index.apply(fact, now, &mut events);
        for event in events {
            self.apply(event);
        }
        if storage {
            self.go_on_preparing();
        }
    }

    fn apply(&mut self, event: Event) {
        self.cluster.apply(event);
        self.due.get_or_insert_with(Instant::now);
    }

    /// What stood against a single pod of a claim ends without a word of the core: the claim that was missing is there,
    /// or the pod has a node.
    fn forget_what_stands_no_more(&mut self) {
        let of_a_claim = |uid: &&String| self.index.pods.get(*uid).is_some_and(|p| p.claim.is_some());
        let stands = |uid: &&String| self.cluster.reason_of_pod(uid).is_some();
        let over: Vec<String> = self
            .index
            .waiting
            .keys()
            .filter(of_a_claim)
            .filter(|uid| !stands(uid))
            .cloned()
            .collect();
        for uid in over {
            self.index.set_waiting(&uid, None);
        }
    }

    /// Debug builds see to it that the core's invariants hold.
    fn check(&self) {
        if cfg!(debug_assertions)
            && let Err(violations) = self.cluster.check()
        {
            self.links.metrics.violations.inc();
            for violation in violations {
                error!(%violation, "an invariant of the core does not hold; this is a mistake of the operator");
            }
        }
    }

    fn tick(&mut self) {
        self.ticks = self.ticks.wrapping_add(1);
        let slow = self.ticks.is_multiple_of(SLOW);
        if slow {
            for event in self.index.nodes.aged(self.cluster.now()) {
                self.apply(event);
            }
            self.tell_unserved();
            self.go_on_preparing();
            self.check();
            self.forget_what_stands_no_more();
            self.gauges.measure(&self.links.metrics, &self.index, &self.cluster);
        }
        if self.leading != Some(true) {
            return;
        }
        if slow {
            // What waits for time alone to pass.
            self.due.get_or_insert_with(Instant::now);
            self.publish_shared();
            self.tell_untold();
        }
        if self.ticks.is_multiple_of(RESYNC) {
            self.index.touch_all();
        }
        self.publish();
    }
}

#[cfg(test)]
mod tests;
