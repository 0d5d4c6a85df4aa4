//! What a session has carried out, and what it makes of what came of it.

use std::time::Duration;

use duosuan_scheduler::{Budget, Decision, Event, EvictCause, Reason};
use serde_json::Value;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{OUTSTANDING, Session, evicting::Together};
use crate::{
    binder::{Eviction, Order, Outcome, PodName},
    devices::Grant,
    index::Waiting,
    lean::{self, Object},
    metrics, reasons,
    translate::dra,
    watch::Fact,
};

/// A binding without an answer is asked for again after 1, 2, 4 ... 64 s.
const LONGEST_DELAY: u32 = 6;

impl Session {
    /// One cycle of the core.
    pub(super) fn decide(&mut self) {
        self.due = None;
        let room = OUTSTANDING.saturating_sub(self.outstanding);
        let pods = u32::try_from(room).unwrap_or(u32::MAX);
        let began = Instant::now();
        let decisions = self.cluster.cycle(self.cluster.now(), Budget { pods });
        self.links.metrics.cycle_seconds.observe(began.elapsed().as_secs_f64());
        let binds = decisions.iter().filter(|d| matches!(d, Decision::Bind { .. })).count();
        if binds >= room || self.cluster.is_unfinished() {
            self.due = Some(Instant::now());
        }
        let mut together = Together::new();
        for decision in decisions {
            self.carry_out(decision, &mut together);
        }
        self.order_evictions(together);
    }

    fn carry_out(&mut self, decision: Decision, together: &mut Together) {
        let kind = reasons::decision_name(&decision);
        self.links
            .metrics
            .decisions
            .get_or_create(&metrics::Kind { kind })
            .inc();
        match decision {
            // The core waits longer after each failure, so that a pod that only it knows costs little.
            Decision::Bind {
                pod,
                node,
                devices,
                numa,
                allocations,
                ..
            } => match self.index.pod_name(&pod) {
                Some(pod) => {
                    let grants = self.index.devices.grants(&pod.namespace, allocations);
                    self.place(pod, node, devices, numa, grants);
                }
                None => self.apply(Event::BindFailed {
                    pod,
                    node,
                    message: "the pod is not known to the operator".to_owned(),
                    lasting: false,
                }),
            },
            Decision::Evict {
                pod,
                cause,
                lost,
                notice,
            } => match self.index.pod_name(&pod) {
                Some(pod) => {
                    if !matches!(cause, EvictCause::Shrunk { .. }) {
                        let note = reasons::evicted_claim(&cause, lost, &self.index);
                        self.index.set_evicted(&pod.uid, note);
                    }
                    // What is released because it is broken makes room for nobody.
                    let by = cause.by().unwrap_or(&pod.uid).to_owned();
                    together.entry(by).or_default().push(Eviction {
                        pod,
                        cause,
                        lost,
                        notice,
                    });
                }
                None => self.apply(Event::EvictFailed {
                    pod,
                    message: "the pod is not known to the operator".to_owned(),
                }),
            },
            Decision::TakeBack { pod, claims } => {
                if let Some(pod) = self.index.pod_name(&pod) {
                    let grants = self.index.devices.grants(&pod.namespace, claims);
                    self.order(Order::TakeBack {
                        pod,
                        grants,
                        place: None,
                    });
                }
            }
            Decision::Resize { claim, group, count } => self.tell_size(&claim, &group, count),
            Decision::Reserve { claim, start } => self.index.set_estimate(&claim, start),
            Decision::Placed { claim } => {
                self.untold.remove(&claim);
                self.index.set_waiting(&claim, None);
            }
            Decision::Pending {
                claim,
                reason,
                counterfactual,
            } => {
                let waiting = Waiting {
                    reason: reason.name(),
                    message: reasons::message(&reason, counterfactual.as_deref()),
                };
                let passing = matches!(reason, Reason::GangIncomplete { .. } | Reason::NoSuchClaim { .. });
                self.tell_waiting_when_due(&claim, &waiting, passing);
                self.index.set_waiting(&claim, Some(waiting));
            }
        }
    }

    pub(super) fn order(&mut self, order: Order) {
        self.outstanding = self.outstanding.saturating_add(1);
        self.links
            .binding
            .send_if_modified(|binding| !std::mem::replace(binding, true));
        // If the binder is gone, so is this session.
        let _ = self.links.orders.send(order);
    }

    /// Gives an order after a while, longer each time for the same pod.
    fn order_later(&mut self, order: Order) {
        let Some(pod) = order.pod() else { return };
        let times = self.tries.entry(pod.uid.clone()).or_default();
        let delay = Duration::from_secs(1 << (*times).min(LONGEST_DELAY));
        *times = times.saturating_add(1);
        self.later.insert(order, delay);
    }

    /// The time of an order has come. What the watch has said meanwhile need not be asked for.
    pub(super) fn order_now(&mut self, order: Order) {
        let Some(uid) = order.pod().map(|pod| pod.uid.clone()) else {
            return;
        };
        if self.index.pods.get(&uid).is_some_and(|pod| !pod.bound && !pod.finished) {
            return match order {
                // Nobody else can get its place there, and it is not to be bound to what is not there.
                Order::Bind { pod, node, grants, .. } if self.index.nodes.get(&node).is_none() => {
                    let message = format!("node {node} is gone");
                    if grants.is_empty() {
                        return self.not_bound(pod, node, message);
                    }
                    // Its claims may have devices there, and are to have others before it goes elsewhere.
                    let place = Some((node, message));
                    self.order(Order::TakeBack { pod, grants, place });
                }
                order => self.order(order),
            };
        }
        if let Order::TakeBack { pod, grants, place } = order {
            if self.index.pods.get(&uid).is_some_and(|pod| pod.bound) {
                // It uses them.
                return self.taken_back(pod, grants, place);
            }
            return self.order(Order::TakeBack { pod, grants, place });
        }
        if let Order::Bind { grants, .. } = &order
            && !grants.is_empty()
            && !self.index.pods.contains_key(&uid)
        {
            // What became of its claims is not known: to ask for the binding finds out, and takes back what was written.
            return self.order(order);
        }
        self.tries.remove(&uid);
        if let Order::Bind { node, .. } = &order
            && self.cluster.seat_of_pod(&uid).is_some_and(|(seat, _)| seat == node)
        {
            self.tell(&order);
        }
    }

    /// Takes in what came of an order.
    pub(super) fn answered(&mut self, order: Order, outcome: Outcome) {
        self.outstanding = self.outstanding.saturating_sub(1);
        if self.outstanding == 0 {
            self.links.binding.send_replace(false);
        }
        if let Outcome::Failed(error) | Outcome::Refused(error) | Outcome::Unknown(error) = &outcome {
            let pod = order.pod();
            info!(
                pod = pod.map(|pod| &pod.name),
                namespace = pod.map(|pod| &pod.namespace),
                error,
                ?order,
                "an order failed"
            );
        }
        match (order, outcome) {
            (order @ Order::Bind { .. }, outcome) => self.bound_or_not(order, outcome),
            (Order::TakeBack { pod, grants, place }, Outcome::Done | Outcome::Gone) => {
                self.taken_back(pod, grants, place);
            }
            // It may be done or not: nobody gets the devices, nor is anybody bound with them, until that is known.
            (order @ Order::TakeBack { .. }, _) => self.order_later(order),
            (Order::Probe { pod, .. }, Outcome::Done) => {
                self.tries.remove(&pod.uid);
                self.apply(Event::BindAllowed { pod: pod.uid });
            }
            (
                Order::Prepare { pod, preparations },
                Outcome::Failed(why) | Outcome::Refused(why) | Outcome::Unknown(why),
            ) => self.unprepared(&pod.uid, &preparations, why),
            (Order::Prepare { .. }, Outcome::Done) => self.go_on_preparing(),
            (Order::Evict(eviction), outcome) => {
                let namespace = eviction.pod.namespace.clone();
                match outcome {
                    Outcome::Done => self.tell(&Order::Evict(eviction)),
                    // The watch says so too.
                    Outcome::Gone => {}
                    Outcome::Failed(message) | Outcome::Refused(message) | Outcome::Unknown(message) => {
                        self.not_evicted(&eviction, message);
                    }
                }
                self.ended([namespace.as_str()].into_iter());
            }
            (Order::Probe { .. } | Order::Prepare { .. }, Outcome::Gone) => {}
            (order @ Order::Probe { .. }, _) => self.order_later(order),
            (
                Order::AskToEvict {
                    evictions,
                    kept,
                    one_by_one,
                },
                _,
            ) => self.asked_to_evict(evictions, &kept, one_by_one),
        }
    }

    fn bound_or_not(&mut self, order: Order, outcome: Outcome) {
        let Order::Bind { pod, node, grants, .. } = &order else {
            return;
        };
        let (pod, node, claims) = (pod.clone(), node.clone(), !grants.is_empty());
        // What was written of them counts before the pod waits again, or ends before the watch has said it.
        let written: Vec<Value> = grants.iter().filter_map(|grant| grant.written.clone()).collect();
        self.take_written(written);
        match outcome {
            Outcome::Done => {
                self.index.set_unsure(&pod.uid, None);
                self.tries.remove(&pod.uid);
                self.tell(&order);
            }
            // The watch says so too; but not that nothing else will be written into its claims.
            Outcome::Gone if claims => self.not_bound(pod, node, "the pod is gone".to_owned()),
            Outcome::Gone => {}
            Outcome::Failed(message) => self.not_bound(pod, node, message),
            Outcome::Refused(message) => {
                self.index.set_unsure(&pod.uid, None);
                self.index.volumes.unplaced(&pod.uid);
                self.apply(Event::BindFailed {
                    pod: pod.uid.clone(),
                    node: node.clone(),
                    message,
                    lasting: true,
                });
                self.order_later(Order::Probe { pod, node });
            }
            // It may sit there by now. Until it is known that it does not, nobody else may.
            Outcome::Unknown(error) => {
                warn!(
                    pod = pod.name,
                    namespace = pod.namespace,
                    node,
                    error,
                    "it is not known whether a pod is bound; its place is kept until that is found out"
                );
                let message = format!(
                    "the API server has not answered whether the pod is bound to node {node}; its place there is kept \
                     until it does: {error}"
                );
                let reason = reasons::BINDING_UNANSWERED;
                self.index.set_unsure(&pod.uid, Some(Waiting { reason, message }));
                self.order_later(order);
            }
        }
    }

    /// Claims are as the API server has them since something was written into them: the watch says so later.
    fn take_written(&mut self, claims: Vec<Value>) {
        let now = self.cluster.now();
        for claim in claims {
            let read: Result<Object<lean::ResourceClaim>, _> = serde_json::from_value(claim);
            let Ok(read) = read.map(dra::claim) else { continue };
            // The watch may have said already that it is gone.
            if self.index.devices.has(&read) {
                self.take(Fact::ResourceClaim(Box::new(read)), now);
            }
        }
    }

    /// Claims of a pod have given back what they had, or somebody uses it: nothing of that is under way any more.
    fn taken_back(&mut self, pod: PodName, grants: Vec<Grant>, place: Option<(String, String)>) {
        self.tries.remove(&pod.uid);
        let (written, claims): (Vec<_>, Vec<_>) = grants.into_iter().map(|grant| (grant.written, grant.of)).unzip();
        self.take_written(written.into_iter().flatten().collect());
        if let Some((node, message)) = place {
            return self.not_bound(pod, node, message);
        }
        for of in claims {
            self.apply(Event::TakenBack {
                namespace: pod.namespace.clone(),
                name: of.claim,
                uid: of.uid,
            });
        }
    }

    /// A pod is certainly not bound, and may be elsewhere: its place is free again.
    fn not_bound(&mut self, pod: PodName, node: String, message: String) {
        self.index.set_unsure(&pod.uid, None);
        self.index.volumes.unplaced(&pod.uid);
        self.tries.remove(&pod.uid);
        self.apply(Event::BindFailed {
            pod: pod.uid,
            node,
            message,
            lasting: false,
        });
    }
}
