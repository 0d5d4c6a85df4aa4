//! The schedulers that are measured, as processes.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use duosuan_embedded::{ControlPlane, Tool};
use kube::Client;
use serde::Serialize;
use tokio::process::{Child, Command};
use tokio_util::task::AbortOnDropHandle;

use crate::{cases::Case, ceiling};

/// Who binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scheduler {
    /// Upstream's, of the version of the API server.
    #[value(name = "kube-scheduler")]
    #[serde(rename = "kube-scheduler")]
    Upstream,
    /// Ours.
    Duosuan,
    /// Nobody: bindings are posted without deciding anything.
    Ceiling,
    /// The same, with an event for each pod.
    CeilingEvents,
}

impl Scheduler {
    /// `spec.schedulerName` of its pods.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scheduler::Upstream => "default-scheduler",
            Scheduler::Duosuan => duosuan_crds::SCHEDULER_NAME,
            Scheduler::Ceiling | Scheduler::CeilingEvents => "nobody",
        }
    }

    /// Whether nothing is decided.
    pub(crate) fn is_ceiling(self) -> bool {
        matches!(self, Scheduler::Ceiling | Scheduler::CeilingEvents)
    }

    /// Starts it; what a process logs goes to a file in the folder of the control plane.
    pub(crate) fn start(self, plane: &ControlPlane, client: &Client, case: Case) -> Result<Running> {
        let dir = plane.dir();
        let kubeconfig = plane.kubeconfig();
        let mut command = match self {
            Scheduler::Upstream => {
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
                command.envs(duosuan_tests::chart::operator_environment()?);
                command
            }
            Scheduler::Ceiling | Scheduler::CeilingEvents => {
                let post = ceiling::post(client.clone(), case, self == Scheduler::CeilingEvents);
                return Ok(Running::Posts(AbortOnDropHandle::new(tokio::spawn(post))));
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
        Ok(Running::Process {
            child: Box::new(child.context("start the scheduler")?),
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

/// A scheduler that runs; it is ended when this is dropped.
pub(crate) enum Running {
    Process { child: Box<Child>, log: PathBuf },
    Posts(AbortOnDropHandle<Result<()>>),
}

/// What a process has used.
pub(crate) struct Cost {
    pub(crate) cpu_ms: f64,
    pub(crate) peak_rss_mib: f64,
}

impl Running {
    /// Waits until it has ended by itself before its time, and says how: no scheduler should, and who posts bindings only
    /// by a mistake.
    pub(crate) async fn ended(&mut self) -> Result<String> {
        match self {
            Running::Process { child, .. } => Ok(format!("{}: {}", child.wait().await?, self.log())),
            Running::Posts(task) => match task.await? {
                Err(error) => Ok(format!("{error:#}")),
                // The watch has still to say so.
                Ok(()) => std::future::pending().await,
            },
        }
    }

    /// The end of its log.
    pub(crate) fn log(&self) -> String {
        let Running::Process { log, .. } = self else {
            return String::new();
        };
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(10).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// CPU time and peak resident memory so far, from /proc, if it has a process of its own.
    pub(crate) fn cost(&self) -> Result<Option<Cost>> {
        let Running::Process { child, .. } = self else {
            return Ok(None);
        };
        let proc = PathBuf::from(format!("/proc/{}", child.id().context("the scheduler ended")?));
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
        Ok(Some(Cost {
            cpu_ms: ticks / per_second * 1000.0,
            peak_rss_mib: kib / 1024.0,
        }))
    }
}
