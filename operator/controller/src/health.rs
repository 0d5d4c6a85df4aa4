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
    ready: bool,
    missing: Vec<&'static str>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self(watch::Sender::new(State::default()))
    }
}

impl Readiness {
    /// Says that it is so, or no longer.
    pub fn set(&self, ready: bool) {
        self.0.send_modify(|state| state.ready = ready);
    }

    /// Whether it is so.
    pub fn get(&self) -> bool {
        self.0.borrow().ready
    }

    /// Says which kinds of ours the API server does not serve.
    pub fn set_missing(&self, kinds: Vec<&'static str>) {
        self.0.send_modify(|state| state.missing = kinds);
    }

    /// What `/readyz` answers.
    fn answer(&self) -> (StatusCode, String) {
        let state = self.0.borrow();
        match (state.ready, state.missing.as_slice()) {
            (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "watches are not synced yet".to_owned()),
            (true, []) => (StatusCode::OK, "ok".to_owned()),
            (true, missing) => (StatusCode::OK, format!("ok; {}", without(missing))),
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
        ready.set(true);
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
