//! What the operator is told.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{Parser, ValueEnum};
use duosuan_crds::{LABEL_BLOCK, LABEL_NVLINK, LABEL_RACK, LABEL_ZONE, SCHEDULER_NAME};
use duosuan_scheduler::Settings;

use crate::{
    record::Recording,
    translate::{
        node::{DRIVER_MEMORY, LocationLabels},
        quantity,
    },
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
    /// `spec.schedulerName` of the pods to place.
    pub scheduler_name: String,
    /// Labels that say where nodes stand.
    pub location_labels: LocationLabels,
    /// Bytes that the driver keeps of a GPU's memory, where a node's report does not say it.
    pub driver_memory: i64,
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
    /// How the core decides.
    pub settings: Settings,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            config: None,
            scheduler_name: SCHEDULER_NAME.to_owned(),
            location_labels: LocationLabels::default(),
            driver_memory: DRIVER_MEMORY,
            metrics_addr: None,
            health_addr: None,
            lease_namespace: NAMESPACE.to_owned(),
            leader_election: true,
            record: None,
            settings: Settings::default(),
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
    /// Name in spec.schedulerName of the pods to place
    #[arg(long, value_name = "NAME", default_value = SCHEDULER_NAME)]
    pub scheduler_name: String,
    /// Key of the node label that names a node's zone, for claims with a topology
    #[arg(long, value_name = "KEY", default_value = LABEL_ZONE)]
    pub zone_label: String,
    /// Key of the node label that names a node's block, the racks under one spine
    #[arg(long, value_name = "KEY", default_value = LABEL_BLOCK)]
    pub block_label: String,
    /// Key of the node label that names a node's rack
    #[arg(long, value_name = "KEY", default_value = LABEL_RACK)]
    pub rack_label: String,
    /// Key of the node label that names a node's NVLink domain, the servers of a rack whose GPUs are linked with each other
    #[arg(long, value_name = "KEY", default_value = LABEL_NVLINK)]
    pub nvlink_label: String,
    /// What the driver keeps of a GPU's memory, where the node's report does not say it: shares of the device get what is
    /// left of it, as whole devices do not
    #[arg(long, value_name = "QUANTITY", default_value = "1Gi")]
    pub gpu_driver_memory: DriverMemory,
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
    /// How long the first claim of a queue waits, where nobody knows when those who run end, before seats are held for it, or
    /// never. Sooner, a gang waits less under a stream of small pods, and more stands idle until its last seat is free; what
    /// states an expected duration that ends in time is let past it in any case
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    pub hold_after: HoldAfter,
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

/// After how long seats are held for what waits; `None`: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldAfter(pub Option<Duration>);

impl FromStr for HoldAfter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self(None));
        }
        let duration = duosuan_crds::Duration(text.to_owned()).parse();
        duration.map(|d| Self(Some(d))).map_err(|e| format!("{e}, or never"))
    }
}

/// What the driver keeps of a GPU's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverMemory(pub i64);

impl FromStr for DriverMemory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = quantity::amount("memory", text).map_err(|e| format!("{e}; write it as 600Mi or 1Gi, or 0"))?;
        Ok(Self(bytes))
    }
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
            scheduler_name: arguments.scheduler_name,
            location_labels: LocationLabels {
                zone: arguments.zone_label,
                block: arguments.block_label,
                rack: arguments.rack_label,
                nvlink: arguments.nvlink_label,
            },
            driver_memory: arguments.gpu_driver_memory.0,
            metrics_addr: arguments.metrics_addr,
            health_addr: arguments.health_addr,
            lease_namespace: arguments.lease_namespace,
            leader_election: !arguments.no_leader_election,
            record: arguments.record.map(|file| Recording {
                file,
                decisions: arguments.record_decisions,
            }),
            settings: Settings {
                hold_after: arguments
                    .hold_after
                    .0
                    .map(|after| i64::try_from(after.as_millis()).unwrap_or(i64::MAX)),
                ..Settings::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn how_long_it_is_waited_before_seats_are_held_is_a_duration_or_never() {
        let hold_after = |arguments: &[&str]| {
            let arguments = Arguments::try_parse_from([&["duosuan-operator"], arguments].concat());
            arguments.map(|arguments| Options::from(arguments).settings.hold_after)
        };
        assert_eq!(hold_after(&[]).unwrap(), Settings::default().hold_after);
        assert_eq!(hold_after(&["--hold-after", "1h30m"]).unwrap(), Some(5_400_000));
        assert_eq!(hold_after(&["--hold-after", "never"]).unwrap(), None);
        // At once, or never: who writes it says which.
        let error = hold_after(&["--hold-after", "0s"]).unwrap_err().to_string();
        assert!(
            error.contains("\"0s\" is zero") && error.contains("or never"),
            "{error}"
        );
    }

    #[test]
    fn what_a_driver_keeps_of_a_gpu_is_a_quantity_or_nothing() {
        let driver_memory = |arguments: &[&str]| {
            let arguments = Arguments::try_parse_from([&["duosuan-operator"], arguments].concat());
            arguments.map(|arguments| Options::from(arguments).driver_memory)
        };
        assert_eq!(driver_memory(&[]).unwrap(), DRIVER_MEMORY);
        assert_eq!(driver_memory(&["--gpu-driver-memory", "600Mi"]).unwrap(), 600 << 20);
        assert_eq!(driver_memory(&["--gpu-driver-memory", "0"]).unwrap(), 0);
        for wrong in ["much", "-1Gi"] {
            let error = driver_memory(&[&format!("--gpu-driver-memory={wrong}")])
                .unwrap_err()
                .to_string();
            assert!(error.contains("600Mi"), "{error}");
        }
    }
}
