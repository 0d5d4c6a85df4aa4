//! Watches of the API server that go on whatever happens, and say once in words what is wrong.

use std::{fmt::Debug, sync::Mutex};

use duosuan_crds::ColocationPolicy;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;

/// An event of one of the kinds that an agent watches.
#[allow(
    clippy::large_enum_variant,
    reason = "there is one at a time, and it is consumed at once"
)]
pub enum Watched {
    /// A pod.
    Pod(Event<Pod>),
    /// A node.
    Node(Event<Node>),
    /// A policy.
    Policy(Event<ColocationPolicy>),
}

/// Events of all objects of a kind that `config` selects. Errors are logged when they begin or change, and retried with
/// growing pauses, for ever: the node is protected meanwhile by what is known.
pub fn watch<K>(client: &Client, config: watcher::Config) -> impl Stream<Item = Event<K>> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let kind = K::kind(&());
    let said = Mutex::new(None::<String>);
    watcher(Api::<K>::all(client.clone()), config)
        .default_backoff()
        .filter_map(move |event| {
            let mut said = said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let event = match event {
                Ok(event) => {
                    if said.take().is_some() {
                        tracing::info!(%kind, "watching again");
                    }
                    Some(event)
                }
                Err(error) => {
                    let message = explain(&kind, &error);
                    if said.as_ref() != Some(&message) {
                        tracing::warn!(%kind, "{message}; retrying");
                        *said = Some(message);
                    }
                    None
                }
            };
            std::future::ready(event)
        })
}

/// What is wrong with a watch, and what to do about it.
fn explain(kind: &str, error: &watcher::Error) -> String {
    let (watcher::Error::InitialListFailed(cause)
    | watcher::Error::WatchStartFailed(cause)
    | watcher::Error::WatchFailed(cause)) = error
    else {
        return format!("watching {kind}: {error}");
    };
    match cause {
        kube::Error::Api(answer) => match answer.code {
            401 => "the API server does not accept the token: renew the kubeconfig or the service account's token"
                .to_owned(),
            403 => format!(
                "not allowed to watch {kind}: install the access rules of the chart ({})",
                answer.message
            ),
            404 => format!("the API server does not know {kind}: install the CRDs of charts/duosuan/crds"),
            code => format!("watching {kind}: the API server answers {code}: {}", answer.message),
        },
        other => format!("the API server cannot be reached to watch {kind}: {}", chain(other)),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = cause.source();
    }
    text
}
