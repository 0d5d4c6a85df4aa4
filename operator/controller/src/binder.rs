//! Carries out bindings and evictions, many at a time, and says what came of each.

use std::time::Duration;

use duosuan_crds::ANNOTATION_GPUS;
use duosuan_scheduler::EvictCause;
use futures::{StreamExt, stream::FuturesUnordered};
use http::Request;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    failure::{Failure, Retry},
    lean::{self, Object},
    metrics::{CauseResult, Metrics, ResultLabel},
    translate::gpu::devices_text,
};

/// A pod, by all its names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodName {
    /// UID.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// Something to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Bind a pod.
    Bind {
        /// The pod.
        pod: PodName,
        /// The node.
        node: String,
        /// Devices on that node.
        devices: Vec<u16>,
    },
    /// Evict a pod.
    Evict {
        /// The pod.
        pod: PodName,
        /// Why.
        cause: EvictCause,
    },
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done, or was done already.
    Done,
    /// The pod is gone.
    Gone,
    /// It is not done; what the server said.
    Failed(String),
}

/// Requests in flight at most.
const CONCURRENCY: usize = 64;
/// How long requests in flight may take after the end was asked for: less than a second, with the release of the lease.
const LAST_ANSWERS: Duration = Duration::from_millis(400);

/// Makes the requests.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "a client has none")]
pub struct Binder {
    client: Client,
    retry: Retry,
    metrics: Metrics,
}

impl Binder {
    /// A binder that talks through this client.
    pub fn new(client: Client, retry: Retry, metrics: Metrics) -> Self {
        Self { client, retry, metrics }
    }

    /// Carries out orders as they come, until the end; then waits shortly for the answers that are still due.
    pub async fn run(
        self,
        mut orders: mpsc::UnboundedReceiver<Order>,
        answers: mpsc::UnboundedSender<(Order, Outcome)>,
        end: CancellationToken,
    ) {
        let mut flying = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                () = end.cancelled() => break,
                Some(answer) = flying.next(), if !flying.is_empty() => {
                    if answers.send(answer).is_err() {
                        return;
                    }
                }
                order = orders.recv(), if flying.len() < CONCURRENCY => match order {
                    Some(order) => flying.push(self.carry_out(order)),
                    None => break,
                },
            }
        }
        let last = async { while flying.next().await.is_some() {} };
        if tokio::time::timeout(LAST_ANSWERS, last).await.is_err() {
            tracing::warn!(
                "some bindings were not answered before the end; the next holder of the lease sees what became of them"
            );
        }
    }

    /// Carries out one order.
    pub async fn carry_out(&self, order: Order) -> (Order, Outcome) {
        let outcome = match &order {
            Order::Bind { pod, node, devices } => {
                let outcome = self.bind(pod, node, devices).await;
                let result = match outcome {
                    Outcome::Done => "bound",
                    Outcome::Gone => "gone",
                    Outcome::Failed(_) => "failed",
                };
                self.metrics.binds.get_or_create(&ResultLabel { result }).inc();
                outcome
            }
            Order::Evict { pod, cause } => {
                let (outcome, result) = self.evict(pod).await;
                self.metrics
                    .evictions
                    .get_or_create(&CauseResult {
                        cause: cause_name(cause),
                        result,
                    })
                    .inc();
                outcome
            }
        };
        (order, outcome)
    }

    async fn bind(&self, pod: &PodName, node: &str, devices: &[u16]) -> Outcome {
        // The API server copies the annotations of a binding into the pod.
        let annotations = (!devices.is_empty()).then(|| json!({ANNOTATION_GPUS: devices_text(devices)}));
        let metadata =
            json!({"name": pod.name, "namespace": pod.namespace, "uid": pod.uid, "annotations": annotations});
        let target = json!({"apiVersion": "v1", "kind": "Node", "name": node});
        let body = json!({"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target});
        match self.post(pod, "binding", &body).await {
            Ok(()) => Outcome::Done,
            Err(Failure::Gone) => Outcome::Gone,
            // Also the answer to a second try whose first was carried out but not answered.
            Err(Failure::Conflict(message)) => self.look(pod, node, message).await,
            Err(other) => Outcome::Failed(other.message()),
        }
    }

    /// Looks where a pod is that could not be bound since it was not as expected.
    async fn look(&self, pod: &PodName, node: &str, message: String) -> Outcome {
        let api: Api<Object<lean::Pod>> = self.pods(&pod.namespace);
        match self.retry.run(|| api.get(&pod.name)).await {
            Err(Failure::Gone) => Outcome::Gone,
            Err(other) => Outcome::Failed(other.message()),
            Ok(found) if found.metadata.uid.as_deref() != Some(&pod.uid) => Outcome::Gone,
            Ok(found) if found.spec.node_name.as_deref() == Some(node) => Outcome::Done,
            Ok(_) => Outcome::Failed(message),
        }
    }

    async fn evict(&self, pod: &PodName) -> (Outcome, &'static str) {
        let body = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": pod.namespace},
            // Never its successor of the same name.
            "deleteOptions": {"preconditions": {"uid": pod.uid}},
        });
        match self.post(pod, "eviction", &body).await {
            Ok(()) => (Outcome::Done, "evicted"),
            Err(Failure::Gone | Failure::Conflict(_)) => (Outcome::Gone, "gone"),
            Err(Failure::Budget(message)) => (Outcome::Failed(message), "budget"),
            Err(other) => (Outcome::Failed(other.message()), "failed"),
        }
    }

    fn pods(&self, namespace: &str) -> Api<Object<lean::Pod>> {
        Api::namespaced_with(self.client.clone(), namespace, &())
    }

    async fn post(&self, pod: &PodName, subresource: &str, body: &Value) -> Result<(), Failure> {
        let path = format!("/api/v1/namespaces/{}/pods/{}/{subresource}", pod.namespace, pod.name);
        let body = body.to_string().into_bytes();
        let request = || {
            let request = Request::post(&path)
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(body.clone());
            async { self.client.request_text(request.map_err(kube::Error::HttpError)?).await }
        };
        self.retry.run(request).await.map(|_| ())
    }
}

/// Name of a cause, for labels and reasons.
pub fn cause_name(cause: &EvictCause) -> &'static str {
    match cause {
        EvictCause::Reclaimed { .. } => "Reclaimed",
        EvictCause::GangBroken => "GangBroken",
    }
}

#[cfg(test)]
mod tests;
