//! The agent's flags.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, ValueEnum};

use crate::fault::Death;

/// The node agent of Duosuan: keeps online services fast while batch uses what they leave.
#[derive(Clone, Debug, Parser)]
#[command(name = "duosuan-agent", version)]
pub struct Options {
    /// Kubeconfig of the API server. Without it, the service account of the pod; without that too, `--policy` is needed.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of this node.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node: Option<String>,
    /// Root of the cgroup v2 tree, as it is mounted here.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/cgroup")]
    pub cgroup_root: PathBuf,
    /// Where /proc is mounted.
    #[arg(long, value_name = "DIR", default_value = "/proc")]
    pub proc_root: PathBuf,
    /// Where /sys is mounted. The guard of cache and memory bandwidth is off where no resctrl is mounted at fs/resctrl in it.
    #[arg(long, value_name = "DIR", default_value = "/sys")]
    pub sys_root: PathBuf,
    /// Looks after the links of batch's pods, for the guard of the network. Needs CAP_NET_ADMIN, and the node's own namespaces of
    /// network and processes; without these the agent says so and goes on.
    #[arg(long)]
    pub network: bool,
    /// Policy from a file, in the place of ColocationPolicies: `spec` as theirs, and `groups` with cgroups outside pods by
    /// tier. Read anew when it changes. With it and no API server the agent protects the node alone.
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// `observe` does everything but act, whatever the policy says.
    #[arg(long, value_enum, default_value_t = ModeFlag::Act)]
    pub mode: ModeFlag,
    /// Address of /metrics.
    #[arg(long, value_name = "ADDR")]
    pub metrics_addr: Option<SocketAddr>,
    /// Address of /healthz and /readyz.
    #[arg(long, value_name = "ADDR")]
    pub health_addr: Option<SocketAddr>,
    /// What was changed in the kernel, to be put back after a crash; the forecast lies beside it. It must outlive the
    /// agent's container.
    #[arg(long, value_name = "FILE", default_value = "/var/lib/duosuan/journal")]
    pub journal: PathBuf,
    /// Instead of protecting a node: ends the agents of this namespace, takes batch's resources off all nodes and deletes the
    /// NodeReports. Helm runs it before it uninstalls the chart.
    #[arg(long, value_name = "NAMESPACE", conflicts_with = "policy")]
    pub leave: Option<String>,
    /// Form of the log.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// For tests: dies there as by `kill -9`.
    #[arg(long, value_name = "POINT:N", hide = true)]
    pub die_at: Option<Death>,
}

/// Whether to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeFlag {
    /// As the policy says.
    Act,
    /// Only observe and report.
    Observe,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}
