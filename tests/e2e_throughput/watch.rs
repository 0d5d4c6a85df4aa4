//! When each pod was bound, as a watch sees it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    core::{ApiResource, NotUsed, Object},
    runtime::{WatchStreamExt, watcher},
};
use serde::{Deserialize, Serialize};
use tokio_util::task::AbortOnDropHandle;

/// A pod of which only the name is read.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Nothing {}

/// Names of bound pods with the moment at which the watch said so.
pub(crate) struct Bindings {
    seen: Arc<Mutex<HashMap<String, Instant>>>,
    _task: AbortOnDropHandle<()>,
}

impl Bindings {
    /// Begins to watch.
    pub(crate) fn watch(client: &Client) -> Bindings {
        let pods: Api<Object<Nothing, NotUsed>> =
            Api::default_namespaced_with(client.clone(), &ApiResource::erase::<Pod>(&()));
        let seen = Arc::<Mutex<HashMap<_, _>>>::default();
        let sink = Arc::clone(&seen);
        let config = watcher::Config::default().fields("spec.nodeName!=");
        let task = tokio::spawn(async move {
            let mut found = std::pin::pin!(watcher(pods, config).default_backoff().applied_objects());
            while let Some(event) = found.next().await {
                if let Ok(Some(name)) = event.map(|pod| pod.metadata.name) {
                    lock(&sink).entry(name).or_insert_with(Instant::now);
                }
            }
        });
        Bindings {
            seen,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Pods bound so far.
    pub(crate) fn len(&self) -> usize {
        lock(&self.seen).len()
    }

    /// All of them.
    pub(crate) fn take(&self) -> HashMap<String, Instant> {
        std::mem::take(&mut lock(&self.seen))
    }
}

fn lock(seen: &Mutex<HashMap<String, Instant>>) -> MutexGuard<'_, HashMap<String, Instant>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
