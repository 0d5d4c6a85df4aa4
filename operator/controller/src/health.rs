//! `/metrics` on one port, `/healthz` and `/readyz` on another.

use std::net::SocketAddr;

use anyhow::Context;
use axum::{Router, http::StatusCode, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics::Metrics;

/// Whether every watch has delivered its first list, and what is missing though it has.
#[derive(Clone, Debug)]
pub struct Readiness(watch::Sender<State>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    /// Kinds of which the first list is awaited; `None` while there is no session.
    awaited: Option<Vec<&'static str>>,
    missing: Vec<&'static str>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self(watch::Sender::new(State::default()))
    }
}

impl Readiness {
    /// Says of which kinds the first list is awaited.
    pub fn set_awaited(&self, kinds: Vec<&'static str>) {
        self.0.send_modify(|state| state.awaited = Some(kinds));
    }

    /// Says that nobody watches any more.
    pub fn end(&self) {
        self.0.send_modify(|state| state.awaited = None);
    }

    /// Says which kinds of ours the API server does not serve.
    pub fn set_missing(&self, kinds: Vec<&'static str>) {
        self.0.send_modify(|state| state.missing = kinds);
    }

    /// What `/readyz` answers.
    fn answer(&self) -> (StatusCode, String) {
        let state = self.0.borrow();
        match (state.awaited.as_deref(), state.missing.as_slice()) {
            (None, _) => (StatusCode::SERVICE_UNAVAILABLE, "nothing is watched yet".to_owned()),
            (Some([]), []) => (StatusCode::OK, "ok".to_owned()),
            (Some([]), missing) => (StatusCode::OK, format!("ok; {}", without(missing))),
            (Some(awaited), _) => {
                let text = format!(
                    "the first list of {} is awaited; if it stays so, the log says why: an account that may not list them \
                     needs the ClusterRole of the chart",
                    awaited.join(", ")
                );
                (StatusCode::SERVICE_UNAVAILABLE, text)
            }
        }
    }
}

/// What is missing where some kinds of ours are not served, and how to have it.
pub fn without(kinds: &[&str]) -> String {
    format!(
        "the CRDs of {} are not installed: working without {}. To have them: duosuan crds | kubectl apply -f -",
        duosuan_crds::GROUP,
        kinds.join(", "),
    )
}

/// Serves `/metrics` until the end.
///
/// # Errors
///
/// If the address cannot be had.
pub async fn serve_metrics(
    address: SocketAddr,
    metrics: Metrics,
    end: CancellationToken,
) -> anyhow::Result<SocketAddr> {
    let app = Router::new().route(
        "/metrics",
        get(move || async move {
            match metrics.encode() {
                Ok(text) => (
                    [(
                        CONTENT_TYPE,
                        "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    )],
                    text,
                )
                    .into_response(),
                Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            }
        }),
    );
    serve("metrics", "--metrics-addr", address, app, end).await
}

/// Serves `/healthz` and `/readyz` until the end.
///
/// # Errors
///
/// If the address cannot be had.
pub async fn serve_health(address: SocketAddr, ready: Readiness, end: CancellationToken) -> anyhow::Result<SocketAddr> {
    let app = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(move || async move { ready.answer() }));
    serve("health", "--health-addr", address, app, end).await
}

async fn serve(
    what: &'static str,
    flag: &str,
    address: SocketAddr,
    app: Router,
    end: CancellationToken,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} for {what}: give {flag} a free address"))?;
    let address = listener.local_addr()?;
    info!(%address, what, "serving");
    tokio::spawn(async move {
        let served = axum::serve(listener, app)
            .with_graceful_shutdown(async move { end.cancelled().await })
            .await;
        if let Err(error) = served {
            warn!(%error, what, "the server ended");
        }
    });
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_without_the_crds_and_says_how_to_have_them() {
        let ready = Readiness::default();
        assert_eq!(ready.answer().0, StatusCode::SERVICE_UNAVAILABLE);
        ready.set_awaited(vec!["Pod", "CSINode"]);
        let (code, text) = ready.answer();
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert!(text.starts_with("the first list of Pod, CSINode is awaited"), "{text}");
        ready.set_awaited(vec![]);
        assert_eq!(ready.answer(), (StatusCode::OK, "ok".to_owned()));
        ready.set_missing(vec!["Queue", "NodeReport"]);
        let (code, text) = ready.answer();
        assert_eq!(code, StatusCode::OK);
        assert_eq!(
            text,
            "ok; the CRDs of duosuan.io are not installed: working without Queue, NodeReport. To have them: duosuan crds \
             | kubectl apply -f -"
        );
    }
}
