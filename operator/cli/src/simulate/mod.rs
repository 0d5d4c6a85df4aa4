//! `duosuan simulate`: the production scheduler, offline.

mod openb;

use clap::Subcommand;

/// What is simulated.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Pack the pods of Alibaba's GPU cluster trace, as the published experiment does, and say how full the GPUs get
    Openb(openb::Arguments),
}

/// Runs a simulation; what is to be printed.
pub(crate) fn run(command: Command) -> anyhow::Result<String> {
    match command {
        Command::Openb(arguments) => openb::run(&arguments),
    }
}
