//! One watch per kind: objects come in, are translated at once, and leave as facts. What is read of an object is
//! gone after that; only its key is kept, to notice what vanished while the watch was down.

use std::{borrow::Cow, fmt::Debug};

use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client, Resource,
    runtime::watcher::{self, Config, Event, watcher},
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    lean::{self, Older},
    metrics::{self, Metrics},
    site::Site,
    translate::{FieldError, claim, dra, node, pod, pod_group, policy, queue, volume},
};
use keys::Keys;
use pauses::Pauses;

mod keys;
mod kinds;
mod pauses;

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

/// How an object was read.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// What pods name that are ours to place.
    pub scheduler_name: &'a str,
    /// In which version.
    pub older: Older,
}

impl<'a> Reading<'a> {
    /// In the version in which its kind is asked for first.
    #[must_use]
    pub fn of(scheduler_name: &'a str) -> Self {
        Self {
            scheduler_name,
            older: None,
        }
    }
}

/// A kind whose objects become facts.
pub trait Watched: Sized + Send + Sync + 'static {
    /// Group, empty for the core.
    const GROUP: &'static str;
    /// Kind.
    const KIND: &'static str;
    /// What is read of an object.
    type Read: kube::Resource<DynamicType = Older> + DeserializeOwned + Clone + Debug + Send + 'static;
    /// Most clusters do well without it: where it is not served, nothing is said of that.
    const OPTIONAL: bool = false;
    /// Versions that are asked for in turn where the one before is not served.
    const OLDER: &'static [&'static str] = &[];
    /// What the core knows an object by.
    fn key(object: &Self::Read) -> Option<Cow<'_, str>>;
    /// The fact that the object is there.
    ///
    /// # Errors
    ///
    /// If it cannot be understood and is better left as it was.
    fn fact(object: Self::Read, reading: Reading<'_>) -> Result<Fact, FieldError>;
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
        let mut watch = Watch::of::<K>();
        while self.watch_in_version::<K>(&mut watch).await.is_ok() {}
    }

    /// Watches one kind in one version, as long as that is served.
    async fn watch_in_version<K: Watched>(&self, watch: &mut Watch) -> Result<(), Closed> {
        let api: Api<K::Read> = Api::all_with(self.client.clone(), &watch.older);
        let config = Config::default().page_size(PAGE);
        let mut events = std::pin::pin!(watcher(api, config));
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.take::<K>(event, watch).await?,
                Err(error) => {
                    let unknown = code(&error) == Some(404);
                    if unknown && watch.turn_to_next_version(K::OLDER) {
                        return Ok(());
                    }
                    self.failed::<K>(&error, watch).await?;
                    tokio::time::sleep(watch.pauses.following()).await;
                    if unknown && !K::OLDER.is_empty() {
                        return Ok(());
                    }
                }
            }
        }
        Err(Closed)
    }

    async fn take<K: Watched>(&self, event: Event<K::Read>, watch: &mut Watch) -> Result<(), Closed> {
        // That a list begins says nothing yet of whether there is one.
        if !matches!(event, Event::Init) {
            watch.in_vain = 0;
        }
        let Watch {
            keys, synced, older, ..
        } = watch;
        match event {
            Event::Init => keys.start(),
            Event::Apply(object) | Event::InitApply(object) => {
                if let Some(key) = K::key(&object) {
                    keys.see(&key);
                    self.translate::<K>(object, *older).await?;
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
                    let objects = keys.known.len();
                    info!(kind = K::KIND, version = *older, objects, "watch is synced");
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

    async fn translate<K: Watched>(&self, object: K::Read, older: Older) -> Result<(), Closed> {
        let meta = object.meta();
        let (namespace, name) = (meta.namespace.clone(), meta.name.clone());
        let reading = Reading {
            scheduler_name: &self.site.scheduler_name,
            older,
        };
        match K::fact(object, reading) {
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

    async fn failed<K: Watched>(&self, error: &watcher::Error, watch: &mut Watch) -> Result<(), Closed> {
        let Watch { keys, synced, .. } = watch;
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

/// How the watch of one kind stands.
#[derive(Debug)]
struct Watch {
    /// The version in which it is asked for.
    older: Older,
    /// Versions that were not served since the last answer.
    in_vain: usize,
    keys: Keys,
    /// Its first list has come, or is not to be had.
    synced: bool,
    pauses: Pauses,
}

impl Watch {
    fn of<K: Watched>() -> Self {
        Self {
            older: None,
            in_vain: 0,
            keys: Keys::default(),
            synced: false,
            pauses: Pauses::of::<K>(),
        }
    }

    /// Turns to the next older version, and from the oldest to the newest, which an API server serves that was renewed. False
    /// if all were asked for in vain, one after the other: then the newest is the next one.
    fn turn_to_next_version(&mut self, older: &[&'static str]) -> bool {
        self.in_vain += 1;
        let all = self.in_vain > older.len();
        self.older = match self.older {
            _ if all => None,
            None => older.first().copied(),
            Some(version) => older.iter().skip_while(|v| **v != version).nth(1).copied(),
        };
        if all {
            self.in_vain = 0;
        }
        !all
    }
}

/// Nobody listens any more.
#[derive(Debug)]
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

#[cfg(test)]
mod tests;
