//! What Helm makes of the chart.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use duosuan_embedded::{Tool, build};

/// The repository's root, below which the chart is `charts/duosuan`.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What Helm answers when it is run in the repository's root.
///
/// # Errors
///
/// If it does not build or cannot be run.
pub fn helm(arguments: &[&str]) -> Result<Output> {
    let helm = build(Tool::Helm, &mut |_| {})?;
    // Without a home of its own Helm would read whatever the user has configured.
    let home = tempfile::tempdir()?;
    let homes = ["HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME"].map(|name| (name, home.path()));
    let mut command = Command::new(helm);
    command.args(arguments).envs(homes).current_dir(root());
    command.output().context("run helm")
}

/// What Helm says, if it does not refuse.
///
/// # Errors
///
/// If it refuses, with its words.
pub fn run(arguments: &[&str]) -> Result<String> {
    let output = helm(arguments)?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success(),
        "helm {arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

/// What the chart renders into a namespace, as for an API server of the version that the tests run.
///
/// # Errors
///
/// As [`run`].
pub fn render(namespace: &str, arguments: &[&str]) -> Result<String> {
    let mut all = vec!["template", "duosuan", "charts/duosuan", "--namespace", namespace];
    all.extend(["--kube-version", duosuan_embedded::kubernetes_version()]);
    all.extend(arguments);
    run(&all)
}
