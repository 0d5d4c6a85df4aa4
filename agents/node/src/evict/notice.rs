//! Notices of evictions, and whether there still is a need for what they announce.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use duosuan_crds::ANNOTATION_EVICTION_NOTICE;
use duosuan_policy::{Cause, Millis, Tier, eviction::Eviction};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::TIMEOUT;
use crate::publish::FIELD_MANAGER;

/// Nothing must have been amiss for so long: one look that could not read something is no recovery.
const CALM: Millis = 5_000;
/// How often it is tried to take back a notice that an agent before this one left, and the time between.
pub(super) const TRIES: usize = 10;
const AGAIN: Duration = Duration::from_secs(30);

/// Whether there is a need for the evictions that are under notice.
#[derive(Debug, Default)]
pub(super) struct Needs {
    stop: CancellationToken,
    calm: Arc<AtomicBool>,
    calm_since: Option<Millis>,
}

impl Needs {
    /// Takes in a look: whether anybody may be evicted, and whether anything is amiss.
    pub(super) fn look(&mut self, allowed: bool, amiss: bool, now: Millis) {
        if !allowed {
            self.stop.cancel();
        } else if self.stop.is_cancelled() {
            self.stop = CancellationToken::new();
        }
        self.calm_since = if amiss {
            None
        } else {
            Some(self.calm_since.unwrap_or(now))
        };
        let calm = self.calm_since.is_some_and(|at| now.saturating_sub(at) >= CALM);
        self.calm.store(calm, Ordering::Relaxed);
    }

    /// Nobody is evicted any more.
    pub(super) fn end(&self) {
        self.stop.cancel();
    }

    /// Of one order. That nothing is amiss any more counts for mid alone, whose notice is long; what a stall for memory needs
    /// no look tells for sure.
    pub(super) fn of(&self, order: &Eviction) -> Need {
        let may_pass = order.tier == Tier::Mid && matches!(order.cause, Cause::Memory | Cause::CpuStall);
        Need {
            stop: self.stop.clone(),
            calm: may_pass.then(|| Arc::clone(&self.calm)),
        }
    }
}

/// Whether there is a need for one eviction.
#[derive(Debug, Default)]
pub(super) struct Need {
    stop: CancellationToken,
    /// Absent where that does not count.
    calm: Option<Arc<AtomicBool>>,
}

impl Need {
    /// Waits for the end of a notice.
    ///
    /// # Errors
    ///
    /// Why nobody is to be evicted after all, as soon as that is known.
    pub(super) async fn lasts(&self, notice: Duration) -> Result<(), &'static str> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err("the policy lets nobody be evicted any more, or the agent ends"),
            () = tokio::time::sleep(notice) => match &self.calm {
                Some(calm) if calm.load(Ordering::Relaxed) => Err("the node has recovered"),
                _ => Ok(()),
            },
        }
    }
}

/// What an agent before this one left, while it is taken back.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    tasks: JoinSet<()>,
    by_pod: BTreeMap<String, AbortHandle>,
}

impl Leftovers {
    /// Takes back the notices of these pods: `namespace/name` by UID.
    pub(super) fn take_back(&mut self, client: &Client, noticed: BTreeMap<String, String>) {
        for (uid, name) in noticed {
            let (client, id) = (client.clone(), uid.clone());
            let task = self.tasks.spawn(async move {
                let Some((namespace, name)) = name.split_once('/') else {
                    return;
                };
                let pods: Api<Pod> = Api::namespaced(client, namespace);
                tracing::info!(
                    pod = name,
                    "taking back the eviction notice that an agent before this one left"
                );
                for _ in 0..TRIES {
                    if note(&pods, name, &id, None).await {
                        return;
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            });
            self.by_pod.insert(uid, task);
        }
    }

    /// Leaves the notice of a pod as it is: it is ordered anew.
    pub(super) fn leave(&mut self, uid: &str) {
        if let Some(task) = self.by_pod.remove(uid) {
            task.abort();
        }
    }
}

/// UID and `namespace/name` of a pod that has a notice and does not leave.
pub fn left_behind(pod: &Pod) -> Option<(String, String)> {
    let stays = pod.metadata.deletion_timestamp.is_none();
    let noticed = stays && pod.annotations().contains_key(ANNOTATION_EVICTION_NOTICE);
    let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    Some((pod.uid()?, name)).filter(|_| noticed)
}

/// Writes the notice, or takes it back; of this pod, and never of its successor of the same name. False if that is to be tried
/// again; that it could not be written is no reason to stay.
pub(super) async fn note(pods: &Api<Pod>, name: &str, uid: &str, notice: Option<&str>) -> bool {
    let patch = Patch::Merge(json!({"metadata": {"uid": uid, "annotations": {ANNOTATION_EVICTION_NOTICE: notice}}}));
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let what = if notice.is_some() { "written" } else { "taken back" };
    match tokio::time::timeout(TIMEOUT, pods.patch_metadata(name, &params, &patch)).await {
        Ok(Ok(_)) => true,
        // Gone, or another pod by now.
        Ok(Err(kube::Error::Api(answer))) if matches!(answer.code, 404 | 409) => true,
        Ok(Err(error)) => {
            tracing::warn!(pod = name, "the eviction notice is not {what}: {error}");
            false
        }
        Err(_) => {
            tracing::warn!(pod = name, "the eviction notice is not {what}: no answer");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn of_the_pods_with_a_notice_those_that_leave_keep_it() {
        let of = |metadata: serde_json::Value| {
            let pod: Pod = serde_json::from_value(json!({"metadata": metadata})).unwrap();
            left_behind(&pod)
        };
        let notice = json!({"duosuan.io/eviction-notice": "x"});
        let stays = json!({"name": "p", "namespace": "ns", "uid": "u", "annotations": notice});
        assert_eq!(of(stays), Some(("u".to_owned(), "ns/p".to_owned())));
        let leaves = json!({"name": "p", "namespace": "ns", "uid": "u", "annotations": notice,
            "deletionTimestamp": "2026-01-01T00:01:00Z"});
        assert_eq!(of(leaves), None);
        assert_eq!(of(json!({"name": "p", "namespace": "ns", "uid": "u"})), None);
    }
}
