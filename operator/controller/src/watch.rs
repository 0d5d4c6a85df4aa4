//! One watch per kind: objects come in, are translated at once, and leave as facts. What is read of an object is
//! gone after that; only its key is kept, to notice what vanished while the watch was down.

use std::{borrow::Cow, collections::HashSet, fmt::Debug, time::Duration};

use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Config, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    lean,
    metrics::{self, Metrics},
    site::Site,
    translate::{FieldError, claim, dra, node, pod, pod_group, policy, queue, volume},
};

mod kinds;

/// Something that a watch says.
#[derive(Clone, Debug)]
pub enum Fact {
    /// A pod is there.
    Pod(Box<pod::Pod>),
    /// A pod, by UID, is gone.
    PodGone(String),
    /// A node is there.
    Node(Box<duosuan_scheduler::event::Node>),
    /// A node, by name, is gone.
    NodeGone(String),
    /// The report of a node, by name, is there.
    Report(String, Box<node::Report>),
    /// The report of a node, by name, is gone.
    ReportGone(String),
    /// A claim is there.
    Claim(Box<claim::Claim>),
    /// A claim, by UID, is gone.
    ClaimGone(String),
    /// A queue is there.
    Queue(Box<queue::Queue>),
    /// A queue, by name, is gone.
    QueueGone(String),
    /// A pod group is there.
    PodGroup(Box<pod_group::PodGroup>),
    /// A pod group, by UID, is gone.
    PodGroupGone(String),
    /// A policy, by name, is there.
    Policy(String, Box<policy::Policy>),
    /// A policy, by name, is gone.
    PolicyGone(String),
    /// A namespace is there.
    Namespace(Box<duosuan_scheduler::event::Namespace>),
    /// A namespace, by name, is gone.
    NamespaceGone(String),
    /// A claim to a persistent volume is there.
    VolumeClaim(Box<volume::VolumeClaim>),
    /// A claim to a persistent volume, by `namespace/name`, is gone.
    VolumeClaimGone(String),
    /// A persistent volume is there.
    Volume(Box<volume::Volume>),
    /// A persistent volume, by name, is gone.
    VolumeGone(String),
    /// A storage class is there.
    StorageClass(Box<volume::Class>),
    /// A storage class, by name, is gone.
    StorageClassGone(String),
    /// What a node can attach is known.
    Attachable(Box<volume::Attachable>),
    /// What a node, by name, can attach is not known any more.
    AttachableGone(String),
    /// A slice of devices is there.
    ResourceSlice(Box<dra::Slice>),
    /// A slice of devices, by name, is gone.
    ResourceSliceGone(String),
    /// A class of devices is there.
    DeviceClass(Box<dra::Class>),
    /// A class of devices, by name, is gone.
    DeviceClassGone(String),
    /// A claim to devices is there.
    ResourceClaim(Box<dra::Claim>),
    /// A claim to devices, by `namespace/name`, is gone.
    ResourceClaimGone(String),
    /// The watch of a kind has delivered its first list; `served` is false if the API server does not know the kind.
    Synced {
        /// The kind.
        kind: &'static str,
        /// Whether the API server knows it.
        served: bool,
    },
}

/// The kinds that are watched, written down once: `$with!(first, second ...)`.
macro_rules! watched_kinds {
    ($with:ident) => {
        $with!(
            Node,
            Pod,
            Namespace,
            Claim,
            Queue,
            Report,
            Policy,
            VolumeClaim,
            Volume,
            StorageClass,
            CsiNode,
            PodGroup,
            ResourceSlice,
            DeviceClass,
            ResourceClaim
        )
    };
}

macro_rules! names {
    ($($kind:ident),*) => { [$(<lean::$kind as Watched>::KIND),*] };
}

/// Kinds that are watched.
pub const KINDS: [&str; 15] = watched_kinds!(names);

/// Something that is done with each kind that is watched.
pub trait EachKind {
    /// Why the rest is not done.
    type Error;

    /// Does it with one kind.
    ///
    /// # Errors
    ///
    /// If the rest is not to be done.
    fn with<K: Watched>(&mut self) -> impl Future<Output = Result<(), Self::Error>>;
}

/// Does something with each kind that is watched, one after the other.
///
/// # Errors
///
/// The first error of one of them.
pub async fn each_kind<E: EachKind>(each: &mut E) -> Result<(), E::Error> {
    macro_rules! in_turn {
        ($($kind:ident),*) => { $(each.with::<lean::$kind>().await?;)* };
    }
    watched_kinds!(in_turn);
    Ok(())
}

/// Those of them that are defined by our CRDs.
pub const OURS: [&str; 4] = [
    <lean::Claim as Watched>::KIND,
    <lean::Queue as Watched>::KIND,
    <lean::Report as Watched>::KIND,
    <lean::Policy as Watched>::KIND,
];

/// A kind whose objects become facts.
pub trait Watched: Sized + Send + Sync + 'static {
    /// Group, empty for the core.
    const GROUP: &'static str;
    /// Kind.
    const KIND: &'static str;
    /// What is read of an object.
    type Read: kube::Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static;
    /// Most clusters do well without it: where it is not served, nothing is said of that.
    const OPTIONAL: bool = false;
    /// What the core knows an object by.
    fn key(object: &Self::Read) -> Option<Cow<'_, str>>;
    /// The fact that the object is there.
    ///
    /// # Errors
    ///
    /// If it cannot be understood and is better left as it was.
    fn fact(object: Self::Read, scheduler_name: &str) -> Result<Fact, FieldError>;
    /// The fact that it is gone.
    fn gone(key: String) -> Fact;
}

/// Objects in one answer to a list request. The answer is held whole, as text and as objects: half a megabyte of each.
pub const PAGE: u32 = 250;

/// What all watches share.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "a client has none")]
pub struct Watcher {
    /// Client; its requests may last.
    pub client: Client,
    /// What the operator is told of its cluster.
    pub site: Site,
    /// Where the facts go.
    pub facts: mpsc::Sender<Fact>,
    /// Counts what fails.
    pub metrics: Metrics,
}

impl Watcher {
    /// Watches all kinds until the end.
    pub async fn run(self, end: CancellationToken) {
        macro_rules! at_once {
            ($($kind:ident),*) => { async { tokio::join!($(self.watch::<lean::$kind>()),*) } };
        }
        let all = watched_kinds!(at_once);
        tokio::select! { () = end.cancelled() => {} _ = all => {} }
    }

    /// Watches one kind until nobody listens any more.
    async fn watch<K: Watched>(&self) {
        let api: Api<K::Read> = Api::all_with(self.client.clone(), &());
        let config = Config::default().page_size(PAGE);
        let mut events = std::pin::pin!(watcher(api, config).backoff(Pauses::of::<K>()));
        let mut keys = Keys::default();
        let mut synced = false;
        while let Some(event) = events.next().await {
            let sent = match event {
                Ok(event) => self.take::<K>(event, &mut keys, &mut synced).await,
                Err(error) => self.failed::<K>(&error, &mut keys, &mut synced).await,
            };
            if sent.is_err() {
                return;
            }
        }
    }

    async fn take<K: Watched>(&self, event: Event<K::Read>, keys: &mut Keys, synced: &mut bool) -> Result<(), Closed> {
        match event {
            Event::Init => keys.start(),
            Event::Apply(object) | Event::InitApply(object) => {
                if let Some(key) = K::key(&object) {
                    keys.see(&key);
                    self.translate::<K>(object).await?;
                }
            }
            Event::Delete(object) => {
                if let Some(key) = K::key(&object) {
                    keys.forget(&key);
                    self.send(K::gone(key.into_owned())).await?;
                }
            }
            Event::InitDone => {
                for key in keys.finish() {
                    self.send(K::gone(key)).await?;
                }
                if !*synced {
                    info!(kind = K::KIND, objects = keys.known.len(), "watch is synced");
                }
                *synced = true;
                self.send(Fact::Synced {
                    kind: K::KIND,
                    served: true,
                })
                .await?;
            }
        }
        Ok(())
    }

    async fn translate<K: Watched>(&self, object: K::Read) -> Result<(), Closed> {
        let meta = object.meta();
        let (namespace, name) = (meta.namespace.clone(), meta.name.clone());
        match K::fact(object, &self.site.scheduler_name) {
            Ok(mut fact) => {
                self.site.complete(&mut fact);
                self.send(fact).await
            }
            Err(error) => {
                self.metrics
                    .broken_objects
                    .get_or_create(&metrics::Kind { kind: K::KIND })
                    .inc();
                warn!(kind = K::KIND, namespace, name, %error, "an object cannot be understood and is left as it was");
                Ok(())
            }
        }
    }

    async fn failed<K: Watched>(
        &self,
        error: &watcher::Error,
        keys: &mut Keys,
        synced: &mut bool,
    ) -> Result<(), Closed> {
        let code = code(error);
        // Without a rule for it, the API server does not even say whether it serves a kind.
        let unserved = code == Some(404) && !K::GROUP.is_empty() || code == Some(403) && K::OPTIONAL;
        if !(unserved && K::OPTIONAL) {
            self.metrics
                .watch_restarts
                .get_or_create(&metrics::Kind { kind: K::KIND })
                .inc();
        }
        match code {
            // Whoever forgets a claim gives its devices away. One API server of several may not serve it for a moment.
            _ if unserved && K::KIND == <lean::ResourceClaim as Watched>::KIND && !keys.is_empty() => {
                warn!(kind = K::KIND, %error, "may not be watched for the moment; what is known of it stays");
                Ok(())
            }
            _ if unserved => {
                // The session says so, once for all kinds.
                debug!(kind = K::KIND, "the API server does not serve this kind");
                *synced = true;
                keys.start();
                for key in keys.finish() {
                    self.send(K::gone(key)).await?;
                }
                self.send(Fact::Synced {
                    kind: K::KIND,
                    served: false,
                })
                .await
            }
            Some(403) => {
                warn!(kind = K::KIND, %error, "may not list and watch this kind; give this account the role that the chart has for it");
                Ok(())
            }
            Some(401) => {
                warn!(kind = K::KIND, %error, "the API server refuses the credentials; is the token expired?");
                Ok(())
            }
            // It is busy, or makes ready to serve a kind that has just been defined.
            Some(429) => {
                info!(kind = K::KIND, %error, "the API server asks to wait; the watch is started again");
                Ok(())
            }
            Some(410) => {
                debug!(kind = K::KIND, %error, "the watch starts again with a list");
                Ok(())
            }
            _ => {
                warn!(kind = K::KIND, %error, at = %Timestamp::now(), "a watch failed and is started again");
                Ok(())
            }
        }
    }

    async fn send(&self, fact: Fact) -> Result<(), Closed> {
        self.facts.send(fact).await.map_err(|_| Closed)
    }
}

/// Pauses between two tries of a watch: 0.5, 1, 2, 4, 8, 8 ... s, so that a kind that is installed later is found soon.
///
/// They start from the shortest again only after a calm time. (That a list begins is a success to the stream, and would
/// start them anew before each failure of that list.)
#[derive(Debug)]
struct Pauses {
    longest: Duration,
    tried: u32,
    last: Option<Instant>,
}

/// After so long without a failure, the pauses start from the shortest again.
const CALM: Duration = Duration::from_secs(60);
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// Of a kind that most clusters do without. To serve it, an API server is started anew.
const LONGEST_PAUSE_OF_OPTIONAL: Duration = Duration::from_secs(60);

impl Pauses {
    fn of<K: Watched>() -> Self {
        Self {
            longest: if K::OPTIONAL {
                LONGEST_PAUSE_OF_OPTIONAL
            } else {
                LONGEST_PAUSE
            },
            tried: 0,
            last: None,
        }
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self
            .last
            .is_some_and(|last| last.elapsed() > CALM.max(self.longest.saturating_mul(2)))
        {
            self.tried = 0;
        }
        self.last = Some(Instant::now());
        let pause = SHORTEST_PAUSE.saturating_mul(1 << self.tried.min(7)).min(self.longest);
        self.tried = self.tried.saturating_add(1);
        Some(pause)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {}
}

/// Nobody listens any more.
struct Closed;

fn code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

/// Keys of the objects that are there.
#[derive(Debug, Default)]
struct Keys {
    known: HashSet<Box<str>>,
    /// Those that a list that is under way has not named yet.
    unseen: HashSet<Box<str>>,
}

impl Keys {
    /// A list begins.
    fn start(&mut self) {
        // A list that did not end leaves its rest in `unseen`.
        self.unseen.extend(self.known.drain());
    }

    fn see(&mut self, key: &str) {
        self.unseen.remove(key);
        if !self.known.contains(key) {
            self.known.insert(key.into());
        }
    }

    fn forget(&mut self, key: &str) {
        self.unseen.remove(key);
        self.known.remove(key);
    }

    fn is_empty(&self) -> bool {
        self.known.is_empty() && self.unseen.is_empty()
    }

    /// A list ends: what it did not name is gone.
    fn finish(&mut self) -> Vec<String> {
        let mut gone: Vec<String> = self.unseen.drain().map(String::from).collect();
        gone.sort_unstable();
        gone
    }
}

#[cfg(test)]
mod tests;
