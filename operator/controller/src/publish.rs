//! Writes statuses and conditions, a few at a time, behind the bindings. Of one object only the last word counts.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream::FuturesUnordered};
use http::Request;
use k8s_openapi::jiff::{SignedDuration, Timestamp, tz::Offset};
use kube::Client;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    binder::PodName,
    failure::{Failure, Retry},
    index::Namespaced,
    lean::{self, Kind},
    status::PodStatus,
    translate::pod_group,
};

/// Field manager of everything that the operator writes.
pub const MANAGER: &str = "duosuan-operator";

/// An object whose status is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A pod.
    Pod(PodName),
    /// A claim.
    Claim(Namespaced),
    /// A pod group, by what it is called where claims are named, in the version that is served.
    PodGroup(Namespaced, &'static str),
    /// A queue.
    Queue(String),
    /// A policy.
    Policy(String),
}

/// A request that sets a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    path: String,
    content_type: &'static str,
    body: String,
}

#[cfg(test)]
impl Patch {
    /// What is written.
    pub(crate) fn body(&self) -> &str {
        &self.body
    }
}

impl Target {
    /// The request that sets the status of a claim, pod group, queue or policy, by server-side apply.
    pub fn apply(&self, status: &impl Serialize) -> Patch {
        match self {
            Self::Claim((namespace, name)) => apply::<lean::Claim>(Some(namespace), name, status),
            Self::PodGroup((namespace, name), version) => {
                let name = pod_group::of_claim_name(name).unwrap_or(name);
                apply_in::<lean::PodGroup>(version, Some(namespace), name, status)
            }
            Self::Queue(name) => apply::<lean::Queue>(None, name, status),
            Self::Policy(name) => apply::<lean::Policy>(None, name, status),
            Self::Pod(pod) => apply::<lean::Pod>(Some(&pod.namespace), &pod.name, status),
        }
    }
}

fn apply<K: Kind>(namespace: Option<&str>, name: &str, status: &impl Serialize) -> Patch {
    apply_in::<K>(K::VERSION, namespace, name, status)
}

fn apply_in<K: Kind>(version: &str, namespace: Option<&str>, name: &str, status: &impl Serialize) -> Patch {
    let (group, plural) = (K::GROUP, K::PLURAL);
    let within = namespace.map_or_else(String::new, |n| format!("namespaces/{n}/"));
    let root = if group.is_empty() {
        format!("/api/{version}")
    } else {
        format!("/apis/{group}/{version}")
    };
    let body = json!({
        "apiVersion": if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") },
        "kind": K::KIND,
        "metadata": {"name": name, "namespace": namespace},
        "status": status,
    });
    Patch {
        path: format!("{root}/{within}{plural}/{name}/status?fieldManager={MANAGER}&force=true"),
        content_type: "application/apply-patch+yaml",
        body: body.to_string(),
    }
}

/// The request that says in a pod's condition why it waits, and where room is being made for it, as kube-scheduler does.
pub fn pod_status(pod: &PodName, says: &PodStatus, now: Timestamp) -> Patch {
    let mut status = serde_json::Map::new();
    if let Some(message) = &says.message {
        let condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": seconds(now),
        });
        status.insert("conditions".to_owned(), json!([condition]));
    }
    if let Some(nominated) = &says.nominated {
        // `null` takes it away.
        status.insert("nominatedNodeName".to_owned(), json!(nominated));
    }
    Patch {
        path: format!(
            "/api/v1/namespaces/{}/pods/{}/status?fieldManager={MANAGER}",
            pod.namespace, pod.name
        ),
        content_type: "application/strategic-merge-patch+json",
        body: json!({"metadata": {"uid": pod.uid}, "status": status}).to_string(),
    }
}

/// A time as Kubernetes writes it: whole seconds, UTC.
fn seconds(time: Timestamp) -> String {
    let whole = time
        .checked_sub(SignedDuration::from_nanos(i64::from(time.subsec_nanosecond())))
        .unwrap_or(time);
    whole
        .display_with_offset(Offset::UTC)
        .to_string()
        .replace("+00:00", "Z")
}

/// Requests in flight at most: while nothing is being bound, and while something is.
const CONCURRENCY: (usize, usize) = (16, 4);

/// Writes what comes, until the end.
pub async fn run(
    client: Client,
    retry: Retry,
    mut patches: mpsc::UnboundedReceiver<(Target, Patch)>,
    mut binding: watch::Receiver<bool>,
    end: CancellationToken,
) {
    let mut waiting: BTreeMap<Target, Patch> = BTreeMap::new();
    let mut busy: BTreeSet<Target> = BTreeSet::new();
    let mut flying = FuturesUnordered::new();
    loop {
        let room = if *binding.borrow_and_update() {
            CONCURRENCY.1
        } else {
            CONCURRENCY.0
        };
        // One request per object at a time, so that the last word is also the last to arrive.
        while flying.len() < room {
            let Some(target) = waiting.keys().find(|t| !busy.contains(*t)).cloned() else {
                break;
            };
            let Some(patch) = waiting.remove(&target) else { break };
            busy.insert(target.clone());
            flying.push(write(&client, &retry, target, patch));
        }
        tokio::select! {
            () = end.cancelled() => return,
            Some(target) = flying.next(), if !flying.is_empty() => drop(busy.remove(&target)),
            changed = binding.changed() => if changed.is_err() { return },
            patch = patches.recv() => match patch {
                Some((target, patch)) => drop(waiting.insert(target, patch)),
                None => return,
            },
        }
    }
}

async fn write(client: &Client, retry: &Retry, target: Target, patch: Patch) -> Target {
    let request = || {
        let request = Request::patch(&patch.path)
            .header(http::header::CONTENT_TYPE, patch.content_type)
            .body(patch.body.clone().into_bytes());
        async { client.request_text(request.map_err(kube::Error::HttpError)?).await }
    };
    match retry.run(request).await {
        Ok(_) => {}
        // It is gone, or another one of the same name: its own status follows.
        Err(Failure::Gone | Failure::Conflict(_)) => debug!(?target, "a status had no object any more"),
        Err(failure) => warn!(
            ?target,
            error = failure.message(),
            "a status could not be written; it is tried again when it is next looked at"
        ),
    }
    target
}

#[cfg(test)]
mod tests;
