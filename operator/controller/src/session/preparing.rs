//! Pods with a place whose volumes are not there yet: the volumes are asked for, and the pod is bound when they are.

use std::time::Duration;

use duosuan_scheduler::Event;
use tokio::time::Instant;

use super::Session;
use crate::{
    binder::{Order, PodName},
    devices::Grant,
    index::Waiting,
    reasons,
    volumes::{Preparation, Stand},
};

/// How long volumes may take to come into being: kube-scheduler's default, too.
const PATIENCE: Duration = Duration::from_secs(600);

/// A pod that waits for its volumes on the node that it is to get.
#[derive(Debug)]
pub(super) struct Preparing {
    pod: PodName,
    node: String,
    devices: Vec<u16>,
    numa: Option<u16>,
    grants: Vec<Grant>,
    since: Instant,
    given: Vec<Preparation>,
    /// The API server has shown that all is asked for: what is missing after that was taken back.
    asked: bool,
}

impl Session {
    /// A pod gets its node, when its volumes are there.
    pub(super) fn place(
        &mut self,
        pod: PodName,
        node: String,
        devices: Vec<u16>,
        numa: Option<u16>,
        grants: Vec<Grant>,
    ) {
        let stand = match self.index.nodes.get(&node) {
            Some(seen) => self.index.volumes.stand(&pod.uid, seen),
            None => Stand::Ready,
        };
        let given = match stand {
            Stand::Ready => {
                self.index.volumes.placed(&pod.uid);
                return self.order(Order::bind(pod, node, devices, numa, grants));
            }
            Stand::Impossible(why) => return self.not_to_be(pod.uid, node, why),
            Stand::Waiting => Vec::new(),
            Stand::Wanting(preparations) => preparations,
        };
        let message = format!("waits for its volumes on node {node}: see the events of its persistentvolumeclaims");
        let reason = reasons::WAITING_FOR_VOLUMES;
        self.index.set_unsure(&pod.uid, Some(Waiting { reason, message }));
        self.index.volumes.placed(&pod.uid);
        self.index.volumes.give(&given);
        let preparing = Preparing {
            pod: pod.clone(),
            node,
            devices,
            numa,
            grants,
            since: Instant::now(),
            asked: given.is_empty(),
            given: given.clone(),
        };
        self.preparing.insert(pod.uid.clone(), preparing);
        if !given.is_empty() {
            self.order(Order::Prepare {
                pod,
                preparations: given,
            });
        }
    }

    /// Something of storage has changed, or time has passed: binds the pods whose volumes are there.
    pub(super) fn go_on_preparing(&mut self) {
        let mut uids: Vec<String> = self.preparing.keys().cloned().collect();
        // In order, so that the same facts have the same orders follow.
        uids.sort_unstable();
        for uid in uids {
            let Some(preparing) = self.preparing.get_mut(&uid) else {
                continue;
            };
            let stand = match self.index.nodes.get(&preparing.node) {
                Some(node) => self.index.volumes.stand(&uid, node),
                None => Stand::Impossible(format!("node {} is gone", preparing.node)),
            };
            match stand {
                Stand::Ready => {
                    if let Some(Preparing {
                        pod,
                        node,
                        devices,
                        numa,
                        grants,
                        ..
                    }) = self.preparing.remove(&uid)
                    {
                        self.index.set_unsure(&uid, None);
                        self.order(Order::bind(pod, node, devices, numa, grants));
                    }
                }
                Stand::Impossible(why) => self.gave_up(&uid, why),
                Stand::Wanting(_) if preparing.asked => {
                    self.gave_up(
                        &uid,
                        "a volume could not be made: see the events of its persistentvolumeclaims".into(),
                    );
                }
                Stand::Wanting(_) | Stand::Waiting if preparing.since.elapsed() > PATIENCE => {
                    let why = format!(
                        "its volumes were not there after {} s: see the events of its persistentvolumeclaims",
                        PATIENCE.as_secs()
                    );
                    self.gave_up(&uid, why);
                }
                Stand::Wanting(_) => {}
                Stand::Waiting => preparing.asked = true,
            }
        }
    }

    /// The volumes of a pod will not be there: its place is free again.
    pub(super) fn gave_up(&mut self, uid: &str, why: String) {
        if let Some(preparing) = self.forget_preparing(uid) {
            self.not_to_be(preparing.pod.uid, preparing.node, why);
        }
    }

    /// Nothing is prepared for a pod any more.
    pub(super) fn forget_preparing(&mut self, uid: &str) -> Option<Preparing> {
        let preparing = self.preparing.remove(uid)?;
        self.index.set_unsure(uid, None);
        self.index.volumes.take_back(&preparing.given);
        Some(preparing)
    }

    /// A preparation failed. One that was given up meanwhile, and begun anew, is not meant.
    pub(super) fn unprepared(&mut self, uid: &str, preparations: &[Preparation], why: String) {
        if self.preparing.get(uid).is_some_and(|p| p.given == preparations) {
            self.gave_up(uid, why);
        }
    }

    fn not_to_be(&mut self, pod: String, node: String, message: String) {
        self.index.volumes.unplaced(&pod);
        self.apply(Event::BindFailed {
            pod,
            node,
            message,
            lasting: false,
        });
    }
}
