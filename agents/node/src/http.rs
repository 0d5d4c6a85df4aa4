//! Metrics and health, each on a port of its own.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Context;
use axum::{
    Router,
    http::{StatusCode, header},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{clock::Clock, metrics::Metrics};

/// An agent that has not looked at its node for so long, milliseconds, is not healthy.
const STUCK: u64 = 10_000;

/// When the agent last looked, 0 before the first time.
#[derive(Debug, Default)]
pub struct Pulse(AtomicU64);

impl Pulse {
    /// It looked now.
    pub fn beat(&self, now: u64) {
        self.0.store(now, Ordering::Relaxed);
    }

    fn last(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Serves /metrics.
///
/// # Errors
///
/// If the address is taken.
pub async fn serve_metrics(
    addr: SocketAddr,
    metrics: Arc<Metrics>,
    end: CancellationToken,
) -> anyhow::Result<SocketAddr> {
    let kind = [(
        header::CONTENT_TYPE,
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
    )];
    let handler = move || {
        let text = metrics.encode();
        async move { (kind, text) }
    };
    serve(
        "--metrics-addr",
        addr,
        Router::new().route("/metrics", get(handler)),
        end,
    )
    .await
}

/// Serves /healthz and /readyz.
///
/// # Errors
///
/// If the address is taken.
pub async fn serve_health(
    addr: SocketAddr,
    pulse: Arc<Pulse>,
    clock: Clock,
    end: CancellationToken,
) -> anyhow::Result<SocketAddr> {
    let ready = Arc::clone(&pulse);
    let healthy = move || async move {
        let last = pulse.last();
        if last == 0 || clock.now().saturating_sub(last) < STUCK {
            (StatusCode::OK, "ok\n")
        } else {
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "the agent has not looked at its node for 10 s\n",
            )
        }
    };
    let ready = move || async move {
        if ready.last() > 0 {
            (StatusCode::OK, "ok\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "not yet looked at the node\n")
        }
    };
    let router = Router::new()
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready));
    serve("--health-addr", addr, router, end).await
}

async fn serve(flag: &str, addr: SocketAddr, router: Router, end: CancellationToken) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(addr)
        .await
        .with_context(|| format!("{flag} {addr} cannot be served: give another"))?;
    let bound = listener.local_addr()?;
    tokio::spawn(async move {
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(end.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!("serving {bound}: {error}");
        }
    });
    Ok(bound)
}
