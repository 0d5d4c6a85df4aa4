//! `duosuan-embedded TOOL...`: builds the tools that it names and prints the path of each, a line a tool.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use duosuan_embedded::{Tool, build};

/// A build names each of some thousand packages; a log wants a line now and then.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

const TOOLS: [Tool; 5] = [
    Tool::ControlPlane,
    Tool::Kubelet,
    Tool::Kubectl,
    Tool::Helm,
    Tool::Oracle,
];

#[allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command speaks on its terminal"
)]
fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    if names.is_empty() {
        eprintln!("usage: duosuan-embedded {}", TOOLS.map(Tool::name).join("|"));
        return ExitCode::from(2);
    }
    for name in names {
        let Some(tool) = TOOLS.into_iter().find(|tool| tool.name() == name) else {
            eprintln!(
                "duosuan-embedded: unknown tool {name:?}; there are {}",
                TOOLS.map(Tool::name).join(", ")
            );
            return ExitCode::from(2);
        };
        let mut last: Option<Instant> = None;
        let progress = &mut |step: &str| {
            if last.is_none_or(|at| at.elapsed() >= BETWEEN_LINES) {
                last = Some(Instant::now());
                eprintln!("{step}");
            }
        };
        match build(tool, progress) {
            Ok(path) => println!("{}", path.display()),
            Err(error) => {
                eprintln!("duosuan-embedded: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
