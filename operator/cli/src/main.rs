//! `duosuan`: the command line tool, also usable as a kubectl plugin by the name `kubectl-duosuan`.

mod columns;
mod crds;
mod explain;
mod names;
mod objects;
mod replay;
mod server;
mod simulate;
mod top;
mod up;

use std::{
    io::{ErrorKind, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

/// One Kubernetes cluster for online services, big data, AI training and inference.
#[derive(Debug, Parser)]
#[command(name = "duosuan", version)]
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
    /// Repeat what an operator recorded with --record, and say whether this build decides the same
    Replay(replay::Arguments),
    /// Say why a claim or a pod waits, and the smallest single change that would admit it
    Explain(explain::Arguments),
    /// Show what the agents of nodes see, offer and do, and why
    #[command(subcommand)]
    Top(top::Command),
    /// Print all CustomResourceDefinitions as YAML
    Crds,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Up(arguments) => up::main(arguments),
        Command::Simulate(command) => simulate::run(command).and_then(|text| print(&text)),
        Command::Replay(arguments) => replay::run(&arguments).and_then(|text| print(&text)),
        Command::Explain(arguments) => explain::run(&arguments).and_then(|text| print(&text)),
        Command::Top(command) => top::run(&command).and_then(|text| print(&text)),
        Command::Crds => crds::yaml().and_then(|text| print(&text)),
    };
    result.unwrap_or_else(|error| {
        // One line, whatever the causes say.
        let line = format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ");
        let _closed = writeln!(std::io::stderr(), "duosuan: {line}");
        ExitCode::FAILURE
    })
}

/// Prints the whole result of a command.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        // The reader of a pipe has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        other => other?,
    }
    Ok(ExitCode::SUCCESS)
}
