//! Flags of `duosuan up`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

/// Flags of `duosuan up`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Builds and data are kept in target/embedded of the checkout, or in ~/.cache/duosuan of an installed \
                  binary; DUOSUAN_CACHE names another folder."
)]
pub(crate) struct Arguments {
    /// Nodes to create
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub(crate) nodes: u32,
    /// End when everything runs (exit code 0) or cannot (exit code 1, with the reasons)
    #[arg(long)]
    pub(crate) once: bool,
    /// Print one JSON object at the end; progress goes to standard error
    #[arg(long)]
    pub(crate) json: bool,
    /// Create the nodes and pods of a recorded cluster instead of the samples
    #[arg(long, value_name = "NAME", conflicts_with_all = ["nodes", "kubeconfig"])]
    pub(crate) trace: Option<Trace>,
    /// Use the cluster of this file instead of starting one: CRDs, access rules and samples are applied to it, and stay
    #[arg(long, value_name = "FILE", conflicts_with_all = ["nodes", "dir", "port"])]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// With --once: seconds until what does not run counts as not running [default: 120; 900 with --trace]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// Keep data, logs and kubeconfig of the control plane in this folder instead of one that is removed at the end
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Port of the API server on 127.0.0.1 [default: a free one]
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Address of the operator's metrics [default: a free port of 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics_addr: Option<SocketAddr>,
    /// Write the log of operator and agents to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// What is logged, such as info or duosuan_controller=debug
    #[arg(long, value_name = "LEVEL", default_value = "warn", env = "DUOSUAN_LOG")]
    pub(crate) log_level: String,
}

/// Recorded clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Trace {
    /// Alibaba's heterogeneous GPU cluster: 1,213 nodes, 6,212 GPUs, 8,152 pods
    Openb,
}

impl Arguments {
    /// How long `--once` waits after the work was submitted.
    pub(crate) fn patience(&self) -> Duration {
        let default = if self.trace.is_some() { 900 } else { 120 };
        Duration::from_secs(self.timeout.unwrap_or(default))
    }
}
