//! What a session tells people of in events.

use std::{borrow::Cow, time::Duration};

use duosuan_scheduler::EvictCause;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Session;
use crate::{
    binder::{Eviction, Order, PodName, cause_name},
    events::{Note, Regarding},
    health,
    index::Waiting,
    lean::{self, Kind},
    reasons,
    translate::pod_group,
};

/// What is missing while a claim and its pods are being made, one object after the other, is not worth an event.
const PASSING: Duration = Duration::from_secs(3);

impl Session {
    /// Tells of what is done.
    pub(super) fn tell(&mut self, order: &Order) {
        let (pod, warning, reason, action, note) = match order {
            Order::Bind { pod, node, .. } => (
                pod,
                false,
                "Scheduled",
                "Binding",
                format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name),
            ),
            Order::Evict(Eviction { pod, cause, lost, .. }) => (
                pod,
                true,
                cause_name(cause),
                "Evicting",
                reasons::evicted(cause, *lost, &self.index),
            ),
            Order::Probe { .. } | Order::Prepare { .. } | Order::TakeBack { .. } | Order::AskToEvict { .. } => return,
        };
        self.links.events.record(Note {
            regarding: about_pod(pod.clone()),
            warning,
            reason,
            action,
            note,
        });
    }

    /// Tells the pod that it was to go and stays, and whoever waits for its place.
    pub(super) fn tell_not_evicted(&mut self, pod: &PodName, cause: &EvictCause, message: &str) {
        let again = "this is tried again within a minute";
        let note = format!("The pod shall be evicted and could not be; {again}: {message}");
        let mut notes = vec![(about_pod(pod.clone()), note)];
        if let EvictCause::Reclaimed { by } = cause
            && let Some(regarding) = self.about(by)
        {
            let PodName { namespace, name, .. } = pod;
            let note = format!("Pod {namespace}/{name} shall make room and could not be evicted; {again}: {message}");
            notes.push((regarding, note));
        }
        for (regarding, note) in notes {
            self.links.events.record(Note {
                regarding,
                warning: true,
                reason: "EvictionFailed",
                action: "Evicting",
                note,
            });
        }
    }

    /// Tells a claim that a group of it has another size.
    pub(super) fn tell_size(&mut self, claim: &str, group: &str, count: u32) {
        let Some(regarding) = self.about(claim) else { return };
        self.links.events.record(Note {
            regarding,
            warning: false,
            reason: "Resized",
            action: "Resizing",
            note: format!("Group {group} has room for {count} pods now"),
        });
    }

    /// Tells why a claim, or a pod, waits: at once, or only if it still does so after a while.
    pub(super) fn tell_waiting_when_due(&mut self, uid: &str, waiting: &Waiting, passing: bool) {
        if passing {
            self.untold.entry(uid.to_owned()).or_insert_with(Instant::now);
        } else {
            self.untold.remove(uid);
            self.tell_waiting(uid, waiting);
        }
    }

    /// Tells of what has waited for longer than it takes to make all objects of a gang.
    pub(super) fn tell_untold(&mut self) {
        let due = self
            .untold
            .extract_if(|_, since| since.elapsed() >= PASSING)
            .map(|(uid, _)| uid);
        for uid in due.collect::<Vec<_>>() {
            if let Some(waiting) = self.index.waiting.get(&uid).cloned() {
                self.tell_waiting(&uid, &waiting);
            }
        }
    }

    fn tell_waiting(&mut self, uid: &str, waiting: &Waiting) {
        let Some(regarding) = self.about(uid) else { return };
        let note = waiting.message.clone();
        self.links.events.record(Note {
            regarding,
            warning: true,
            reason: "FailedScheduling",
            action: "Scheduling",
            note,
        });
    }

    /// Tells once, when all is known, of the kinds of ours that the API server does not serve, and again if others become so.
    pub(super) fn tell_unserved(&mut self) {
        if !self.unsynced.is_empty() || self.unserved == self.told_unserved {
            return;
        }
        let kinds: Vec<&'static str> = self.unserved.iter().copied().collect();
        self.links.ready.set_missing(kinds.clone());
        if self.unserved.is_subset(&self.told_unserved) {
            let served: Vec<_> = self.told_unserved.difference(&self.unserved).copied().collect();
            info!("{} are served now", served.join(", "));
        } else {
            warn!("{}", health::without(&kinds));
        }
        self.told_unserved.clone_from(&self.unserved);
    }

    /// The claim or pod of a UID.
    fn about(&self, uid: &str) -> Option<Regarding> {
        let Some((namespace, name)) = self.index.claim_name(uid) else {
            return self.index.pod_name(uid).map(about_pod);
        };
        let (api_version, kind, name) = match pod_group::of_claim_name(name) {
            Some(group) => {
                let entry = self.index.pod_groups.get(&(namespace.clone(), name.clone()))?;
                let api_version = format!("{}/{}", lean::PodGroup::GROUP, entry.version);
                (Cow::from(api_version), lean::PodGroup::KIND, group)
            }
            None => ("duosuan.io/v1alpha1".into(), lean::Claim::KIND, name.as_str()),
        };
        Some(Regarding {
            api_version,
            kind,
            namespace: namespace.clone(),
            name: name.to_owned(),
            uid: uid.to_owned(),
        })
    }
}

fn about_pod(pod: PodName) -> Regarding {
    Regarding {
        api_version: "v1".into(),
        kind: "Pod",
        namespace: pod.namespace,
        name: pod.name,
        uid: pod.uid,
    }
}
