//! Step 5: operator and agents, in this process, as the service accounts that they have in a cluster.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use duosuan_node::simulated::{FleetOptions, run_fleet};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{arguments::Arguments, cluster::Cluster};

/// The running parts.
pub(crate) struct Parts {
    pub(crate) metrics: Metrics,
    tasks: Vec<(&'static str, JoinHandle<anyhow::Result<()>>)>,
    stop: CancellationToken,
    /// Ends the parts also where the value is just dropped, as on Ctrl-C while the work is being submitted.
    _on_drop: DropGuard,
}

/// Where metrics are served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metrics {
    pub(crate) operator: SocketAddr,
    /// Those of all simulated agents, if there are any.
    pub(crate) agents: Option<SocketAddr>,
}

/// How long the parts may take to end by themselves.
const GRACE: Duration = Duration::from_secs(2);

impl Parts {
    pub(crate) async fn start(arguments: &Arguments, cluster: &Cluster, simulated: &[String]) -> anyhow::Result<Parts> {
        let stop = CancellationToken::new();
        let operator_metrics = match arguments.metrics_addr {
            Some(address) => address,
            None => free_address()?,
        };
        let options = duosuan_controller::Options {
            config: Some(cluster.as_service_account("duosuan-operator")?),
            metrics_addr: Some(operator_metrics),
            ..duosuan_controller::Options::default()
        };
        let operator = tokio::spawn(duosuan_controller::run(options, stop.clone()));
        let mut tasks = vec![("operator", operator)];
        let mut metrics = Metrics {
            operator: operator_metrics,
            agents: None,
        };
        if !simulated.is_empty() {
            let mut options = FleetOptions::new(simulated.to_vec());
            // A thousand reports every 15 s would leave a laptop's API server no time for pods.
            options.report_period =
                Duration::from_secs(15).max(Duration::from_millis(50 * u64::try_from(simulated.len())?));
            let counted = Arc::new(duosuan_node::metrics::Metrics::new());
            options.metrics = Some(counted.clone());
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            metrics.agents = Some(duosuan_node::http::serve_metrics(any, counted, stop.clone()).await?);
            tasks.push((
                "agents",
                tokio::spawn(run_fleet(cluster.client.clone(), options, stop.clone())),
            ));
        }
        Ok(Parts {
            metrics,
            tasks,
            _on_drop: stop.clone().drop_guard(),
            stop,
        })
    }

    /// Returns when a part has ended without being asked to.
    pub(crate) async fn failure(&mut self) -> anyhow::Error {
        let ended = futures::future::select_all(self.tasks.iter_mut().map(|(name, task)| {
            Box::pin(async move {
                match task.await {
                    Ok(Ok(())) => anyhow!("the {name} ended without being asked to"),
                    Ok(Err(error)) => error.context(format!("the {name} failed")),
                    Err(error) => anyhow!("the {name} panicked: {error}"),
                }
            })
        }));
        let (error, at, _) = ended.await;
        drop(self.tasks.remove(at));
        error
    }

    /// Ends them; the operator gives its lease back.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        let tasks = self.tasks.into_iter().map(|(_, mut task)| async move {
            if tokio::time::timeout(GRACE, &mut task).await.is_err() {
                task.abort();
            }
        });
        futures::future::join_all(tasks).await;
    }
}

/// A free port of loopback.
fn free_address() -> anyhow::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|socket| socket.local_addr())
        .context("find a free port for the metrics")
}
