//! The schedulers that are measured, as processes.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use duosuan_embedded::{ControlPlane, Tool};
use serde::Serialize;
use tokio::process::{Child, Command};

/// Who binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scheduler {
    /// Upstream's, of the version of the API server.
    KubeScheduler,
    /// Ours.
    Duosuan,
}

impl Scheduler {
    /// `spec.schedulerName` of its pods.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scheduler::KubeScheduler => "default-scheduler",
            Scheduler::Duosuan => duosuan_crds::SCHEDULER_NAME,
        }
    }

    /// Starts its process; what it logs goes to a file in the folder of the control plane.
    pub(crate) fn start(self, plane: &ControlPlane) -> Result<Running> {
        let dir = plane.dir();
        let kubeconfig = plane.kubeconfig();
        let mut command = match self {
            Scheduler::KubeScheduler => {
                let config = dir.join("scheduler-config.yaml");
                fs::write(&config, configuration(kubeconfig)).with_context(|| format!("write {}", config.display()))?;
                let mut command = Command::new(duosuan_embedded::build(Tool::ControlPlane, &mut |_| {})?);
                command.args([
                    "kube-scheduler",
                    "--secure-port=0",
                    "--feature-gates=GenericWorkload=true",
                ]);
                command.arg("--config").arg(config);
                command
            }
            Scheduler::Duosuan => {
                let mut command = Command::new(duosuan_tests::binary::release(
                    "duosuan-controller",
                    "duosuan-operator",
                )?);
                command.arg("--kubeconfig").arg(kubeconfig);
                command.args(["--no-leader-election", "--log-level=warn"]);
                command
            }
        };
        let log = dir.join("measured.log");
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn();
        Ok(Running {
            child: child.context("start the scheduler")?,
            log,
        })
    }
}

fn configuration(kubeconfig: &Path) -> String {
    format!(
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nleaderElection: {{leaderElect: false}}\n\
         clientConnection: {{kubeconfig: {kubeconfig:?}, qps: 100000, burst: 100000, contentType: application/vnd.kubernetes.protobuf}}\n"
    )
}

/// A scheduler that runs; it is killed when this is dropped.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

/// What a process has used.
pub(crate) struct Cost {
    pub(crate) cpu_ms: f64,
    pub(crate) peak_rss_mib: f64,
}

impl Running {
    /// Waits until it has ended by itself, which no scheduler should.
    pub(crate) async fn ended(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait().await?)
    }

    /// The end of its log.
    pub(crate) fn log(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(10).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// CPU time and peak resident memory so far, from /proc.
    pub(crate) fn cost(&self) -> Result<Cost> {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id().context("the scheduler ended")?));
        let stat = fs::read_to_string(proc.join("stat"))?;
        // The name, in parentheses, may hold blanks; utime and stime are the 14th and 15th field of all (proc_pid_stat(5)).
        let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks = after
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::parse::<f64>)
            .sum::<Result<f64, _>>()?;
        #[allow(clippy::cast_precision_loss, reason = "100 on every Linux")]
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        let status = fs::read_to_string(proc.join("status"))?;
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .context("no VmHWM")?;
        let kib: f64 = peak.trim().trim_end_matches(" kB").parse()?;
        Ok(Cost {
            cpu_ms: ticks / per_second * 1000.0,
            peak_rss_mib: kib / 1024.0,
        })
    }
}
