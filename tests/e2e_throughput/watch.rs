//! When each pod was bound, as a watch sees it.

use std::{collections::HashMap, time::Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    core::{ApiResource, NotUsed, Object},
    runtime::{WatchStreamExt, watcher},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch::{Receiver, channel};
use tokio_util::task::AbortOnDropHandle;

/// A pod of which only the name is read.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Nothing {}

/// Names of bound pods with the moment at which the watch said so.
pub(crate) struct Bindings {
    seen: Receiver<HashMap<String, Instant>>,
    _task: AbortOnDropHandle<()>,
}

impl Bindings {
    /// Begins to watch.
    pub(crate) fn watch(client: &Client) -> Bindings {
        let pods: Api<Object<Nothing, NotUsed>> =
            Api::default_namespaced_with(client.clone(), &ApiResource::erase::<Pod>(&()));
        let (sink, seen) = channel(HashMap::new());
        let config = watcher::Config::default().fields("spec.nodeName!=");
        let task = tokio::spawn(async move {
            let mut found = std::pin::pin!(watcher(pods, config).default_backoff().applied_objects());
            while let Some(event) = found.next().await {
                if let Ok(Some(name)) = event.map(|pod| pod.metadata.name) {
                    sink.send_modify(|seen| {
                        seen.entry(name).or_insert_with(Instant::now);
                    });
                }
            }
        });
        Bindings {
            seen,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Waits until so many pods are bound.
    pub(crate) async fn reach(&self, pods: usize) -> Result<()> {
        let mut seen = self.seen.clone();
        let reached = seen.wait_for(|seen| seen.len() >= pods).await;
        reached.map(drop).context("the watch of bound pods ended")
    }

    /// All that were bound so far.
    pub(crate) fn all(&self) -> HashMap<String, Instant> {
        self.seen.borrow().clone()
    }
}
