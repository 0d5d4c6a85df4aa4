//! `/metrics` on one port, `/healthz` and `/readyz` on another.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context;
use axum::{Router, http::StatusCode, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics::Metrics;

/// Whether every watch has delivered its first list.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Says that it is so, or no longer.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    /// Whether it is so.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
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
    let app = Router::new().route("/healthz", get(|| async { "ok" })).route(
        "/readyz",
        get(move || async move {
            if ready.get() {
                (StatusCode::OK, "ok")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "watches are not synced yet")
            }
        }),
    );
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
