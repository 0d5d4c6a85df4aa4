//! `duosuan`: the command line tool, also usable as a kubectl plugin by the name `kubectl-duosuan`.

mod crds;
mod simulate;
mod up;

use std::{io::Write, process::ExitCode};

use clap::{Parser, Subcommand};

/// One Kubernetes cluster for online services, big data, AI training and inference.
#[derive(Debug, Parser)]
#[command(name = "duosuan", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a control plane, nodes, the operator and agents on this machine, run samples on them, and watch
    Up(up::Arguments),
    /// Run the production scheduler offline
    #[command(subcommand)]
    Simulate(simulate::Command),
    /// Print all CustomResourceDefinitions as YAML
    Crds,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Up(arguments) => up::main(arguments),
        Command::Simulate(command) => simulate::main(command),
        Command::Crds => crds::print().map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        // One line, whatever the causes say.
        let line = format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ");
        let _closed = writeln!(std::io::stderr(), "duosuan: {line}");
        ExitCode::FAILURE
    })
}
