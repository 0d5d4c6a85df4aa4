//! `duosuan up`: everything on one machine, with one command.
//!
//! 1 build, 2 control plane, 3 CRDs and access rules, 4 nodes, 5 operator and agents, 6 work, 7 watch. [`run`] is the list.

mod apply;
mod arguments;
mod cluster;
mod install;
mod log;
mod nodes;
mod outcome;
mod parts;
mod report;
mod samples;
mod screen;
mod table;
mod trace;
mod view;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub(crate) use arguments::Arguments;

use cluster::Cluster;
use outcome::Outcome;
use report::Reporter;

/// Runs `up` and returns the exit code. Whatever way it ends, what it started has ended before.
pub(crate) fn main(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(until_signal(arguments));
    // A task that does not heed its cancellation must not keep the command from ending.
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

async fn until_signal(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let stop = CancellationToken::new();
    let once = arguments.once;
    let mut work = std::pin::pin!(run(arguments, stop.clone()));
    let code = tokio::select! {
        done = &mut work => return done,
        _ = interrupt.recv() => 130_u8,
        _ = terminate.recv() => 143_u8,
    };
    stop.cancel();
    // A second signal ends it on the spot; the children then end by their closed pipes.
    let ended = tokio::select! {
        done = work => done,
        _ = interrupt.recv() => return Ok(ExitCode::from(130)),
        _ = terminate.recv() => return Ok(ExitCode::from(143)),
    };
    match ended {
        // A signal is how one ends `up` without --once; with it, the question was not answered.
        Ok(_) | Err(_) if once => Ok(ExitCode::from(code)),
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(error) if stop.is_cancelled() && error.is::<Stopped>() => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
    }
}

/// The user asked to end before there was anything to show.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
pub(crate) struct Stopped;

async fn run(arguments: Arguments, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let reporter = Arc::new(Reporter::start());
    log::start(&arguments)?;

    let cluster = Cluster::get(&arguments, &reporter, &stop).await?;
    let result = on_cluster(&arguments, &reporter, &cluster, &stop).await;
    reporter.step("ending what was started");
    cluster.end().await;
    reporter.finish();
    let outcome = result?;
    outcome.print(&arguments)
}

async fn on_cluster(
    arguments: &Arguments,
    reporter: &Reporter,
    cluster: &Cluster,
    stop: &CancellationToken,
) -> anyhow::Result<Outcome> {
    let work = async {
        install::install(&cluster.client, reporter).await?;
        let nodes = nodes::prepare(arguments, cluster, reporter).await?;
        let parts = parts::Parts::start(arguments, cluster, &nodes.simulated).await?;
        let seconds_to_ready = reporter.seconds();
        let expected = if arguments.trace.is_some() {
            trace::submit(&cluster.client, reporter).await?
        } else {
            samples::submit(&cluster.client, reporter).await?
        };
        anyhow::Ok((parts, (expected, seconds_to_ready)))
    };
    let (mut parts, work) = tokio::select! {
        done = work => done?,
        () = stop.cancelled() => anyhow::bail!(Stopped),
        error = cluster.failure() => return Err(error),
    };
    let metrics = parts.metrics;
    let outcome = tokio::select! {
        outcome = screen::watch(arguments, reporter, cluster, metrics, work, stop) => outcome,
        error = cluster.failure() => Err(error),
        error = parts.failure() => Err(error),
    };
    parts.end().await;
    outcome
}
