//! Carries out bindings and evictions, many at a time, and says what came of each.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use duosuan_crds::{ANNOTATION_GPUS, ANNOTATION_NUMA};
use duosuan_scheduler::{EvictCause, LostWork};
use futures::{StreamExt, stream::FuturesUnordered};
use http::Request;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    devices::Grant,
    failure::{Failure, Retry},
    lean::{self, Object, Texts},
    metrics::{CauseResult, Metrics, ResultLabel},
    translate::gpu::devices_text,
    volumes::Preparation,
};

mod asking;
mod claims;
mod storage;

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
        /// The NUMA node whose cores and memory it is to use, if that matters.
        numa: Option<u16>,
        /// Claims to devices that have to say what they have before.
        grants: Vec<Grant>,
        /// An earlier try has no answer, and may be carried out until then. To bind a pod again to the same node does
        /// no harm, and the answer tells what became of the earlier try.
        open_until: Option<Instant>,
    },
    /// See whether a binding that was refused would be carried out now, without doing it.
    Probe {
        /// The pod.
        pod: PodName,
        /// The node.
        node: String,
    },
    /// Ask for the volumes of a pod that has a place.
    Prepare {
        /// The pod.
        pod: PodName,
        /// What to ask for.
        preparations: Vec<Preparation>,
    },
    /// Give back what claims to devices of a pod have, unless it has a node.
    TakeBack {
        /// The pod.
        pod: PodName,
        /// The claims, with what they have; in the answer, as the API server has them since.
        grants: Vec<Grant>,
        /// It has a place, which is let go of when that is done: the node, and why.
        place: Option<(String, String)>,
    },
    /// Evict a pod.
    Evict(Eviction),
    /// See whether all of some pods would be evicted, without doing it.
    AskToEvict {
        /// The pods: all go for one claim, which has room only if all of them do.
        evictions: Vec<Eviction>,
        /// In the answer, those that would not be evicted, and why.
        kept: Vec<(PodName, String)>,
        /// In the answer, true if no budget would ever let all go together: the others go now, and these later.
        one_by_one: bool,
    },
}

/// An eviction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// The pod.
    pub pod: PodName,
    /// Why.
    pub cause: EvictCause,
    /// What is lost with its claim.
    pub lost: LostWork,
    /// Milliseconds that it gets to end, if not its own grace period; 0 for that.
    pub notice: i64,
}

impl Order {
    /// The first try to bind a pod.
    pub fn bind(pod: PodName, node: String, devices: Vec<u16>, numa: Option<u16>, grants: Vec<Grant>) -> Order {
        Order::Bind {
            pod,
            node,
            devices,
            numa,
            grants,
            open_until: None,
        }
    }

    /// The pod that it is about; none where it is about several.
    pub fn pod(&self) -> Option<&PodName> {
        match self {
            Self::Bind { pod, .. }
            | Self::Probe { pod, .. }
            | Self::Prepare { pod, .. }
            | Self::TakeBack { pod, .. } => Some(pod),
            Self::Evict(eviction) => Some(&eviction.pod),
            Self::AskToEvict { .. } => None,
        }
    }
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done, or was done already.
    Done,
    /// The pod is gone.
    Gone,
    /// It is certainly not done, and may be tried again; what the server said.
    Failed(String),
    /// It is certainly not done, and trying again changes nothing; what the server said.
    Refused(String),
    /// It may be done or not, or be done yet; why that cannot be told.
    Unknown(String),
}

impl Outcome {
    fn label(&self, done: &'static str) -> &'static str {
        match self {
            Self::Done => done,
            Self::Gone => "gone",
            Self::Failed(_) => "failed",
            Self::Refused(_) => "refused",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// How long the API server may work on a binding before it gives up.
const BINDING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long after it was sent a binding without an answer may still be carried out: twice the timeout, which the API
/// server counts from when it has got the request.
const LATEST: Duration = Duration::from_secs(2 * BINDING_TIMEOUT.as_secs());
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

    /// Carries out one order. What comes back is the order that is to be given if it has to be tried again.
    pub async fn carry_out(&self, mut order: Order) -> (Order, Outcome) {
        let outcome = match &mut order {
            Order::Bind {
                pod,
                node,
                devices,
                numa,
                grants,
                open_until,
            } => {
                let given = annotations(devices, *numa);
                let outcome = match self.grant(pod, grants).await {
                    Outcome::Done => self.bind(pod, node, &given, open_until).await,
                    not_granted => not_granted,
                };
                if matches!(outcome, Outcome::Failed(_) | Outcome::Refused(_) | Outcome::Gone)
                    && grants.iter().any(|grant| grant.written.is_some())
                    && self.is_nowhere(pod).await
                {
                    let written = grants.iter_mut().filter(|grant| grant.written.is_some());
                    // Where that fails, it is tried where its devices are.
                    self.take_back(pod, written).await;
                }
                let result = outcome.label("bound");
                self.metrics.binds.get_or_create(&ResultLabel { result }).inc();
                outcome
            }
            Order::Probe { pod, node } => self.probe(pod, node).await,
            Order::Prepare { preparations, .. } => self.prepare(preparations).await,
            Order::TakeBack { pod, grants, .. } => {
                if self.is_nowhere(pod).await {
                    self.take_back(pod, grants.iter_mut()).await
                } else {
                    Outcome::Failed("it is not known that the pod has no node".to_owned())
                }
            }
            Order::Evict(eviction) => {
                let (outcome, result) = self.evict(eviction).await;
                self.count(eviction, result);
                outcome
            }
            Order::AskToEvict {
                evictions,
                kept,
                one_by_one,
            } => {
                (*kept, *one_by_one) = self.ask_to_evict(evictions).await;
                match kept.first() {
                    None => Outcome::Done,
                    Some((_, message)) => Outcome::Failed(message.clone()),
                }
            }
        };
        (order, outcome)
    }

    async fn bind(&self, pod: &PodName, node: &str, annotations: &Texts, open_until: &mut Option<Instant>) -> Outcome {
        let unanswered = Unanswered::default();
        let subresource = format!("binding?timeout={}s", BINDING_TIMEOUT.as_secs());
        let body = binding(pod, node, annotations);
        let answer = self.post(pod, &subresource, &body, &unanswered).await;
        // An ill server that says so again and again does not keep the question open for ever.
        if unanswered.lost() || open_until.is_none() && unanswered.any() {
            *open_until = Some(Instant::now() + LATEST);
        }
        let not_done = match answer {
            Ok(()) => return Outcome::Done,
            Err(Failure::Gone) => return Outcome::Gone,
            // Also the answer to a second try whose first was carried out but not answered.
            Err(Failure::Conflict(message)) => {
                return self.look(pod, node, Outcome::Failed(message), *open_until).await;
            }
            Err(Failure::Refused(message)) => Outcome::Refused(message),
            Err(Failure::Budget(message) | Failure::Transient(message)) => Outcome::Failed(message),
        };
        if open_until.is_some() {
            self.look(pod, node, not_done, *open_until).await
        } else {
            not_done
        }
    }

    /// Looks where a pod is, and says that it is `not_done` only if it has another node, or has none and no try may be
    /// carried out any more.
    async fn look(&self, pod: &PodName, node: &str, not_done: Outcome, open_until: Option<Instant>) -> Outcome {
        match self.get(pod).await {
            Err(Failure::Gone) => Outcome::Gone,
            Err(other) => Outcome::Unknown(other.message()),
            Ok(found) if found.metadata.uid.as_deref() != Some(&pod.uid) => Outcome::Gone,
            Ok(found) => match (found.spec.node_name.as_deref().filter(|n| !n.is_empty()), not_done) {
                (Some(found), _) if found == node => Outcome::Done,
                (None, Outcome::Failed(why) | Outcome::Refused(why))
                    if open_until.is_some_and(|until| Instant::now() < until) =>
                {
                    Outcome::Unknown(format!(
                        "it has no node yet, and a try without an answer may still be carried out: {why}"
                    ))
                }
                (_, not_done) => not_done,
            },
        }
    }

    /// True if a pod is gone or has no node: elsewhere it may be using its claims.
    async fn is_nowhere(&self, pod: &PodName) -> bool {
        match self.get(pod).await {
            Err(Failure::Gone) => true,
            Err(_) => false,
            Ok(found) => {
                found.metadata.uid.as_deref() != Some(&pod.uid)
                    || found.spec.node_name.as_deref().is_none_or(str::is_empty)
            }
        }
    }

    /// Asks for a binding without having it carried out.
    async fn probe(&self, pod: &PodName, node: &str) -> Outcome {
        let answer = self
            .post(
                pod,
                "binding?dryRun=All",
                &binding(pod, node, &Texts::new()),
                &Unanswered::default(),
            )
            .await;
        match answer {
            // It would be carried out, or has been by now: the watch says so.
            Ok(()) | Err(Failure::Conflict(_)) => Outcome::Done,
            Err(Failure::Gone) => Outcome::Gone,
            Err(Failure::Refused(message)) => Outcome::Refused(message),
            Err(other) => Outcome::Unknown(other.message()),
        }
    }

    fn count(&self, eviction: &Eviction, result: &'static str) {
        let cause = cause_name(&eviction.cause);
        let of_it = CauseResult { cause, result };
        self.metrics.evictions.get_or_create(&of_it).inc();
    }

    async fn evict(&self, eviction: &Eviction) -> (Outcome, &'static str) {
        let (pod, body) = (&eviction.pod, eviction.body());
        match self.post(pod, "eviction", &body, &Unanswered::default()).await {
            Ok(()) => (Outcome::Done, "evicted"),
            Err(Failure::Gone) => (Outcome::Gone, "gone"),
            // Its name has another owner by now, or somebody changed it at the same moment.
            Err(Failure::Conflict(message)) => match self.get(pod).await {
                Err(Failure::Gone) => (Outcome::Gone, "gone"),
                Ok(found) if found.metadata.uid.as_deref() != Some(&pod.uid) => (Outcome::Gone, "gone"),
                Ok(found) if found.metadata.deletion_timestamp.is_some() => (Outcome::Done, "evicted"),
                Ok(_) | Err(_) => (Outcome::Failed(message), "failed"),
            },
            Err(Failure::Budget(message)) => (Outcome::Failed(message), "budget"),
            Err(Failure::Refused(message)) => (Outcome::Refused(message), "refused"),
            // Whether it was carried out does not matter: to ask for it twice does no harm.
            Err(other) => (Outcome::Failed(other.message()), "failed"),
        }
    }

    async fn get(&self, pod: &PodName) -> Result<Object<lean::Pod>, Failure> {
        let api: Api<Object<lean::Pod>> = Api::namespaced_with(self.client.clone(), &pod.namespace, &None);
        self.retry.run(|| api.get(&pod.name)).await
    }

    async fn post(
        &self,
        pod: &PodName,
        subresource: &str,
        body: &Value,
        unanswered: &Unanswered,
    ) -> Result<(), Failure> {
        let path = format!("/api/v1/namespaces/{}/pods/{}/{subresource}", pod.namespace, pod.name);
        let body = body.to_string().into_bytes();
        let request = || {
            let request = Request::post(&path)
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(body.clone());
            async {
                let request = request.map_err(kube::Error::HttpError)?;
                unanswered.asked();
                let answer = self.client.request_text(request).await;
                match &answer {
                    Err(kube::Error::Api(status)) if status.code >= 500 => unanswered.answered_ill(),
                    Err(error) if lost(error) => {}
                    _ => unanswered.answered(),
                }
                answer
            }
        };
        self.retry.run(request).await.map(|_| ())
    }
}

impl Eviction {
    fn body(&self) -> Value {
        let (pod, notice) = (&self.pod, self.notice);
        // Not a second less than was promised.
        let grace = (notice > 0).then(|| notice.saturating_add(999) / 1000);
        json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": pod.namespace},
            // Never its successor of the same name.
            "deleteOptions": {"preconditions": {"uid": pod.uid}, "gracePeriodSeconds": grace},
        })
    }
}

/// What a pod has to know of its place on the node.
fn annotations(devices: &[u16], numa: Option<u16>) -> Texts {
    let gpus = (!devices.is_empty()).then(|| (ANNOTATION_GPUS.to_owned(), devices_text(devices)));
    let numa = numa.map(|id| (ANNOTATION_NUMA.to_owned(), id.to_string()));
    gpus.into_iter().chain(numa).collect()
}

fn binding(pod: &PodName, node: &str, annotations: &Texts) -> Value {
    // The API server copies the annotations of a binding into the pod.
    let annotations = (!annotations.is_empty()).then_some(annotations);
    let metadata = json!({"name": pod.name, "namespace": pod.namespace, "uid": pod.uid, "annotations": annotations});
    let target = json!({"apiVersion": "v1", "kind": "Node", "name": node});
    json!({"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target})
}

/// Counts the tries of a request that may have been carried out though nothing says so.
#[derive(Debug, Default)]
struct Unanswered {
    /// Without any answer.
    lost: AtomicU32,
    /// To which the server answered that it does not know itself.
    ill: AtomicU32,
}

impl Unanswered {
    fn asked(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    fn answered(&self) {
        self.lost.fetch_sub(1, Ordering::Relaxed);
    }

    fn answered_ill(&self) {
        self.answered();
        self.ill.fetch_add(1, Ordering::Relaxed);
    }

    fn lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed) > 0
    }

    fn any(&self) -> bool {
        self.lost() || self.ill.load(Ordering::Relaxed) > 0
    }
}

/// True if a request that failed so may have got to the server all the same: the connection was lost.
fn lost(error: &kube::Error) -> bool {
    !matches!(
        error,
        kube::Error::Api(_) | kube::Error::BuildRequest(_) | kube::Error::HttpError(_)
    )
}

/// Name of a cause, for labels and reasons.
pub fn cause_name(cause: &EvictCause) -> &'static str {
    match cause {
        EvictCause::Reclaimed { .. } => "Reclaimed",
        EvictCause::Preempted { .. } => "Preempted",
        EvictCause::Shrunk { .. } => "Shrunk",
        EvictCause::GangBroken => "GangBroken",
    }
}

#[cfg(test)]
mod tests;
