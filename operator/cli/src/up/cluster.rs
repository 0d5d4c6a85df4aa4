//! The cluster that `up` works on: an embedded one, or one that exists.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use duosuan_embedded::{ControlPlane, Options, Tool, build_until};
use http::{HeaderName, HeaderValue};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio_util::sync::CancellationToken;

use super::{Stopped, arguments::Arguments, report::Reporter};

/// How long an existing API server may take to answer the first request.
const FIRST_ANSWER: Duration = Duration::from_secs(15);

/// A cluster to work on.
pub(crate) struct Cluster {
    /// As its administrator.
    pub(crate) client: Client,
    config: Config,
    /// Path to tell the user.
    pub(crate) kubeconfig: PathBuf,
    plane: Option<Mutex<ControlPlane>>,
}

impl Cluster {
    /// Steps 1 and 2: builds and starts a control plane, or connects to the given cluster.
    pub(crate) async fn get(
        arguments: &Arguments,
        reporter: &Arc<Reporter>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Cluster> {
        if let Some(path) = &arguments.kubeconfig {
            let found = Cluster::connect(path, None);
            return tokio::select! { found = found => found, () = stop.cancelled() => Err(Stopped.into()) };
        }
        let halt = Arc::new(AtomicBool::new(false));
        let _on_drop = {
            let (halt, stop) = (halt.clone(), stop.clone());
            AbortOnDrop(tokio::spawn(async move {
                stop.cancelled().await;
                halt.store(true, Ordering::Relaxed);
            }))
        };
        let options = Options {
            dir: arguments.dir.clone(),
            port: arguments.port,
            controller_manager: true,
            kwok: true,
            ..Options::default()
        };
        let reporter = reporter.clone();
        let started = tokio::task::spawn_blocking(move || {
            reporter.step("building the control plane from upstream source (the first time takes some minutes)");
            let binary = build_until(Tool::ControlPlane, &mut |progress| reporter.build(progress), &halt)?;
            reporter.step("starting etcd, kube-apiserver, kube-controller-manager and kwok");
            ControlPlane::start_until(
                &Options {
                    binary: Some(binary),
                    ..options
                },
                &halt,
            )
        });
        match started.await.context("starting the control plane panicked")? {
            Ok(plane) => {
                let path = plane.kubeconfig().to_owned();
                Cluster::connect(&path, Some(plane)).await
            }
            Err(duosuan_embedded::Error::Stopped) => Err(Stopped.into()),
            Err(error) => Err(error.into()),
        }
    }

    async fn connect(path: &Path, plane: Option<ControlPlane>) -> anyhow::Result<Cluster> {
        let file = Kubeconfig::read_from(path).with_context(|| format!("read the kubeconfig {}", path.display()))?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .with_context(|| format!("{} names no usable cluster and user", path.display()))?;
        let client =
            Client::try_from(config.clone()).with_context(|| format!("use the kubeconfig {}", path.display()))?;
        let server = config.cluster_url.clone();
        match tokio::time::timeout(FIRST_ANSWER, client.apiserver_version()).await {
            Ok(Ok(_)) => {}
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403) => bail!(
                "the API server {server} refuses the user of {} ({}): get new credentials",
                path.display(),
                status.message
            ),
            failed => {
                let why = match failed {
                    Ok(Err(error)) => plain(error),
                    _ => anyhow!("no answer in {} s", FIRST_ANSWER.as_secs()),
                };
                return Err(why.context(format!(
                    "the API server {server} of {} cannot be reached",
                    path.display()
                )));
            }
        }
        let kubeconfig = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        Ok(Cluster {
            client,
            config,
            kubeconfig,
            plane: plane.map(Mutex::new),
        })
    }

    /// Whether it was started here.
    pub(crate) fn embedded(&self) -> bool {
        self.plane.is_some()
    }

    /// The administrator's way in, as the given service account of `duosuan-system`: so that the access rules are used
    /// on every run.
    pub(crate) fn as_service_account(&self, name: &str) -> anyhow::Result<Config> {
        let mut config = self.config.clone();
        let namespace = duosuan_controller::options::NAMESPACE;
        let mut add = |header: &'static str, value: String| {
            let value = HeaderValue::from_str(&value).with_context(|| format!("{value:?} is no header value"))?;
            config.headers.push((HeaderName::from_static(header), value));
            anyhow::Ok(())
        };
        add("impersonate-user", format!("system:serviceaccount:{namespace}:{name}"))?;
        add("impersonate-group", "system:serviceaccounts".into())?;
        add("impersonate-group", format!("system:serviceaccounts:{namespace}"))?;
        add("impersonate-group", "system:authenticated".into())?;
        Ok(config)
    }

    /// Returns when a component of the embedded control plane has ended by itself.
    pub(crate) async fn failure(&self) -> anyhow::Error {
        let Some(plane) = &self.plane else {
            return std::future::pending().await;
        };
        loop {
            let checked = plane
                .lock()
                .map_err(|_| anyhow!("a check of the control plane panicked"))
                .map(|mut plane| plane.check());
            match checked {
                Ok(Ok(())) => tokio::time::sleep(Duration::from_secs(1)).await,
                Ok(Err(error)) => return error.into(),
                Err(error) => return error,
            }
        }
    }

    /// Ends what was started.
    pub(crate) async fn end(self) {
        // Removing some hundred megabytes of data takes a moment.
        let _panicked = tokio::task::spawn_blocking(move || drop(self.plane)).await;
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// kube's errors hide the cause that a user needs behind several layers; the innermost one says it.
pub(crate) fn plain(error: kube::Error) -> anyhow::Error {
    if let kube::Error::Api(status) = &error {
        return anyhow!("{} ({})", status.message, status.code);
    }
    let mut cause: &dyn std::error::Error = &error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    anyhow!("{cause}")
}
