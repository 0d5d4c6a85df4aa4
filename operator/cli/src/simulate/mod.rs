//! `duosuan simulate`: the production scheduler, offline.

mod openb;

use std::{
    io::{ErrorKind, Write},
    process::ExitCode,
};

use clap::Subcommand;

/// What is simulated.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Pack the pods of Alibaba's GPU cluster trace, as the published experiment does, and say how full the GPUs get
    Openb(openb::Arguments),
}

/// Runs a simulation and prints what came of it.
pub(crate) fn main(command: Command) -> anyhow::Result<ExitCode> {
    let text = match command {
        Command::Openb(arguments) => openb::run(&arguments)?,
    };
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        // The reader of a pipe has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        other => other?,
    }
    Ok(ExitCode::SUCCESS)
}
