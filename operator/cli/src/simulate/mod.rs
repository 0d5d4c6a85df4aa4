//! `duosuan simulate`: the production scheduler, offline.

mod cluster;
mod openb;
mod queues;

use clap::Subcommand;

/// What is simulated.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a cluster from files of Kubernetes objects, and say what is placed where, and what waits and why
    Cluster(cluster::Arguments),
    /// Pack the pods of Alibaba's GPU cluster trace, as the published experiment does, and say how full the GPUs get
    Openb(openb::Arguments),
    /// Run streams of jobs through cohorts of queues, and say how long all of it takes against the least that it could
    Queues(queues::Arguments),
}

/// Runs a simulation; what is to be printed.
pub(crate) fn run(command: Command) -> anyhow::Result<String> {
    match command {
        Command::Cluster(arguments) => cluster::run(&arguments),
        Command::Openb(arguments) => openb::run(&arguments),
        Command::Queues(arguments) => queues::run(&arguments),
    }
}
