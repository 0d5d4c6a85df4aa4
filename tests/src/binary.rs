//! The project's own binaries, for tests that run them as processes.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Builds a binary of the workspace, in the tests' own profile, unless it is up to date, and returns its path. So a test
/// never runs an old one, and finds it wherever cargo puts it.
///
/// # Errors
///
/// If it does not build.
pub fn binary(name: &str) -> Result<PathBuf> {
    // With the features of the whole workspace's tests, as its dependencies are there already: for the package alone, or
    // without what tests depend on, most of them would be built a second time. There are no examples; that they are asked
    // for makes cargo count what tests depend on.
    build(name, &["--workspace", "--examples"])
}

/// A binary of a package built as users run it: for measurements.
///
/// # Errors
///
/// If it does not build.
pub fn release(package: &str, name: &str) -> Result<PathBuf> {
    build(name, &["--release", "--package", package])
}

fn build(name: &str, more: &[&str]) -> Result<PathBuf> {
    let mut build = cargo();
    build
        .args(["build", "--locked", "--bin", name])
        .args(more)
        .arg("--message-format=json-render-diagnostics");
    let output = build.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("run {}", build.get_program().to_string_lossy()))?;
    ensure!(output.status.success(), "{name} does not build: {}", output.status);
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)))
        .next_back();
    executable.with_context(|| format!("cargo names no executable of {name}"))
}

/// Cargo, in the folder of the workspace.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo tells a test of its own package would look to build scripts (ring's, for one) like a change, and all
    // that depends on them would be built again each time.
    for (variable, _) in env::vars_os() {
        if variable.to_string_lossy().starts_with("CARGO_PKG_") || variable == "CARGO_MANIFEST_DIR" {
            cargo.env_remove(variable);
        }
    }
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    cargo
}
