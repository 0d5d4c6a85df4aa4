//! What the operator is told.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, ValueEnum};

use crate::{
    record::Recording,
    site::{Site, SiteArguments},
};

/// Namespace of the components.
pub const NAMESPACE: &str = "duosuan-system";

/// How one operator runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// File with the way to the API server; without one, what kubectl would use, or the pod's own service account.
    pub kubeconfig: Option<PathBuf>,
    /// A ready way to the API server; goes before `kubeconfig`.
    pub config: Option<kube::Config>,
    /// What it is told of its cluster.
    pub site: Site,
    /// Where `/metrics` is served.
    pub metrics_addr: Option<SocketAddr>,
    /// Where `/healthz` and `/readyz` are served.
    pub health_addr: Option<SocketAddr>,
    /// Namespace of the lease.
    pub lease_namespace: String,
    /// Whether a lease decides who writes. Without it, this instance writes at once.
    pub leader_election: bool,
    /// Where all that enters the core, and what it decides, is recorded.
    pub record: Option<Recording>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            config: None,
            site: Site::default(),
            metrics_addr: None,
            health_addr: None,
            lease_namespace: NAMESPACE.to_owned(),
            leader_election: true,
            record: None,
        }
    }
}

/// Duosuan's operator: places the pods that name its scheduler, by claims and queues, and evicts and reports what that
/// takes.
#[derive(Clone, Debug, Parser)]
#[command(name = "duosuan-operator", version)]
pub struct Arguments {
    /// File with the way to the API server; without it, what kubectl would use, or the pod's own service account
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    #[allow(missing_docs, reason = "a doc comment here would become the help of the command")]
    #[command(flatten)]
    pub site: SiteArguments,
    /// Address on which /metrics is served, such as 0.0.0.0:9090
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_addr: Option<SocketAddr>,
    /// Address on which /healthz and /readyz are served, such as 0.0.0.0:8081
    #[arg(long, value_name = "ADDRESS")]
    pub health_addr: Option<SocketAddr>,
    /// Namespace of the lease that decides which of several operators writes
    #[arg(long, value_name = "NAMESPACE", default_value = NAMESPACE)]
    pub lease_namespace: String,
    /// Write without holding the lease; only for a single operator
    #[arg(long)]
    pub no_leader_election: bool,
    /// Record all that enters the scheduler, and a digest of its decisions, in FILE, for `duosuan replay FILE`.
    /// A record that is there already is kept as FILE.1
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Record the decisions themselves too, so that a replay that differs can say in which
    #[arg(long, requires = "record")]
    pub record_decisions: bool,
    /// Format of the log on standard error
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// What is logged, such as info, debug or duosuan_controller=debug,kube=warn
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "DUOSUAN_LOG")]
    pub log_level: String,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl From<Arguments> for Options {
    fn from(arguments: Arguments) -> Self {
        Self {
            kubeconfig: arguments.kubeconfig,
            config: None,
            site: arguments.site.site(),
            metrics_addr: arguments.metrics_addr,
            health_addr: arguments.health_addr,
            lease_namespace: arguments.lease_namespace,
            leader_election: !arguments.no_leader_election,
            record: arguments.record.map(|file| Recording {
                file,
                decisions: arguments.record_decisions,
            }),
        }
    }
}
