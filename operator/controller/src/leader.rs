//! Who writes: the holder of a lease.

use std::time::Duration;

use futures::{StreamExt, future::BoxFuture};
use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::{Api, Client, runtime::watcher::watch_object};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Name of the lease.
pub const LEASE: &str = "duosuan-operator";

/// Decides whether this instance writes.
pub trait Election: Send {
    /// Takes part until the end, says in `leads` whether this instance writes, and gives that up before it returns.
    fn run(self: Box<Self>, leads: watch::Sender<bool>, end: CancellationToken) -> BoxFuture<'static, ()>;
}

/// No election: this instance writes.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl Election for Alone {
    fn run(self: Box<Self>, leads: watch::Sender<bool>, end: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            leads.send_replace(true);
            end.cancelled().await;
            leads.send_replace(false);
        })
    }
}

/// Election by a lease.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "a client has none")]
pub struct ByLease {
    /// Client whose requests end in time: one that hangs must not outlive the lease.
    pub client: Client,
    /// Namespace of the lease.
    pub namespace: String,
    /// Who this instance is.
    pub identity: String,
    /// How long the lease holds without being renewed, in seconds.
    pub duration: u64,
    /// How long before that it is renewed, in seconds.
    pub grace: u64,
}

/// Longest wait for one request about the lease.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failed request.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest wait for the release of the lease at the end.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(400);

impl ByLease {
    /// A lease of 15 s, renewed 10 s before it ends.
    pub fn new(client: Client, namespace: String, identity: String) -> Self {
        Self {
            client,
            namespace,
            identity,
            duration: 15,
            grace: 10,
        }
    }

    async fn manager(&self) -> Result<LeaseManager, kube_lease_manager::LeaseManagerError> {
        LeaseManagerBuilder::new(self.client.clone(), LEASE)
            .with_namespace(&self.namespace)
            .with_identity(&self.identity)
            .with_field_manager(format!("{LEASE}-{}", self.identity))
            .with_duration(self.duration)
            .with_grace(self.grace)
            .build()
            .await
    }

    /// Returns when another instance that held the lease has released it: the manager of a follower would sleep until
    /// the lease had ended. (A lease that nobody held yet is the manager's own business.)
    async fn released(&self) {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut changes = std::pin::pin!(watch_object(api, LEASE));
        let mut held = false;
        while let Some(change) = changes.next().await {
            match change {
                Ok(lease) => match lease.and_then(|l| l.spec).and_then(|s| s.holder_identity) {
                    Some(holder) => held = holder != self.identity,
                    None if held => return,
                    None => {}
                },
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Whether the lease is this instance's for a while yet, by the API server's word.
    async fn still_held(&self) -> bool {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let Ok(Ok(lease)) = tokio::time::timeout(REQUEST_TIMEOUT, api.get(LEASE)).await else {
            return false;
        };
        let Some(spec) = lease.spec else { return false };
        let age = spec.renew_time.map(|t| Timestamp::now().duration_since(t.0).as_secs());
        let young = age.is_some_and(|age| age < i64::try_from(self.grace).unwrap_or(0));
        spec.holder_identity.as_ref() == Some(&self.identity) && young
    }

    async fn take_part(&self, leads: &watch::Sender<bool>, end: &CancellationToken) {
        loop {
            let manager = tokio::select! {
                () = end.cancelled() => return,
                manager = self.manager() => manager,
            };
            let manager = match manager {
                Ok(manager) => manager,
                Err(error) => {
                    let namespace = &self.namespace;
                    warn!(%error, namespace, lease = LEASE, "cannot read or create the lease; create the namespace, give --lease-namespace, or check the role of this account");
                    pause(PAUSE, end).await;
                    continue;
                }
            };
            self.follow(&manager, leads, end).await;
            let held = leads.send_replace(false);
            if end.is_cancelled() {
                if held {
                    let released = tokio::time::timeout(RELEASE_TIMEOUT, manager.release()).await;
                    info!(
                        released = matches!(released, Ok(Ok(()))),
                        lease = LEASE,
                        "gave the lease up"
                    );
                }
                return;
            }
        }
    }

    /// Follows one manager until the end, until it lost the lease, or until it can get it sooner by asking anew.
    async fn follow(&self, manager: &LeaseManager, leads: &watch::Sender<bool>, end: &CancellationToken) {
        // From the first failed renewal on, what is left of the lease, less the request that failed and the last look.
        let left = Duration::from_secs(self.grace)
            .saturating_sub(REQUEST_TIMEOUT.saturating_mul(2))
            .saturating_sub(PAUSE);
        let mut lost_at: Option<tokio::time::Instant> = None;
        loop {
            let leading = *leads.borrow();
            tokio::select! {
                () = end.cancelled() => return,
                () = self.released(), if !leading => return,
                () = at(lost_at) => {
                    // A later renewal may have succeeded: the manager tells only of changes.
                    if self.still_held().await {
                        lost_at = None;
                        continue;
                    }
                    warn!(lease = LEASE, "the lease could not be renewed in time; another may hold it now");
                    return;
                }
                changed = manager.changed() => match changed {
                    Ok(holds) => {
                        lost_at = None;
                        leads.send_replace(holds);
                        info!(holds, identity = self.identity, lease = LEASE, "the lease changed hands");
                        if leading && !holds { return; }
                    }
                    Err(error) => {
                        warn!(%error, lease = LEASE, "cannot renew or get the lease");
                        if leading { lost_at.get_or_insert_with(|| tokio::time::Instant::now() + left); }
                        pause(PAUSE, end).await;
                    }
                },
            }
        }
    }
}

async fn at(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn pause(time: Duration, end: &CancellationToken) {
    tokio::select! { () = end.cancelled() => {} () = tokio::time::sleep(time) => {} }
}

impl Election for ByLease {
    fn run(self: Box<Self>, leads: watch::Sender<bool>, end: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.take_part(&leads, &end).await })
    }
}
