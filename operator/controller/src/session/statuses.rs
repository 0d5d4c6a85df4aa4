//! What a session writes about objects, while it leads.

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::{ECHO, Session};
use crate::{
    index::Namespaced,
    measure,
    publish::{Patch, Target, pod_status},
    status,
};

impl Session {
    /// Writes the statuses of what changed.
    pub(super) fn publish(&mut self) {
        let now = Timestamp::now();
        self.awaited.retain(|_, since| since.elapsed() < ECHO);
        for name in std::mem::take(&mut self.index.changed_claims) {
            if let Some(group) = self.index.pod_groups.get(&name) {
                let version = group.version;
                self.publish_pod_group(name, version, now);
                continue;
            }
            let target = Target::Claim(name.clone());
            if self.awaited.contains_key(&target) {
                self.index.changed_claims.insert(name);
            } else if let Some(status) = status::claim(&self.index, &self.cluster, &name, now) {
                let patch = target.apply(&status);
                self.hand_on(target, patch);
            }
        }
        // Few, and where their place is kept may change without a word.
        self.index.changed_pods.extend(self.index.nominated.iter().cloned());
        for uid in std::mem::take(&mut self.index.changed_pods) {
            let Some(name) = self.index.pod_name(&uid) else {
                continue;
            };
            let target = Target::Pod(name.clone());
            if self.awaited.contains_key(&target) {
                self.index.changed_pods.insert(uid);
            } else if let Some(says) = status::pod(&self.index, &self.cluster, &uid) {
                self.hand_on(target, pod_status(&name, &says, now));
            }
        }
    }

    fn publish_pod_group(&mut self, name: Namespaced, version: &'static str, now: Timestamp) {
        let target = Target::PodGroup(name.clone(), version);
        if self.awaited.contains_key(&target) {
            self.index.changed_claims.insert(name);
        } else if let Some(condition) = status::pod_group(&self.index, &name, now) {
            let patch = target.apply(&serde_json::json!({"conditions": [condition]}));
            self.hand_on(target, patch);
        }
    }

    /// Writes the statuses of queues and policies, which change with everything.
    pub(super) fn publish_shared(&mut self) {
        for name in self.index.policies.keys().cloned().collect::<Vec<_>>() {
            let target = Target::Policy(name.clone());
            if self.awaited.contains_key(&target) {
                continue;
            }
            if let Some(status) = status::policy(&self.index, &name, Timestamp::now()) {
                let patch = target.apply(&status);
                self.hand_on(target, patch);
            }
        }
        for (name, status) in measure::queues(&self.index, &self.cluster, Timestamp::now()) {
            let target = Target::Queue(name);
            if !self.awaited.contains_key(&target) {
                let patch = target.apply(&status);
                self.hand_on(target, patch);
            }
        }
    }

    fn hand_on(&mut self, target: Target, patch: Patch) {
        self.awaited.insert(target.clone(), Instant::now());
        let _ = self.links.patches.send((target, patch));
    }
}
