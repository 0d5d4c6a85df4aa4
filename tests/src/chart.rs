//! What Helm makes of the chart.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, bail, ensure};
use duosuan_embedded::{Tool, build};
use k8s_openapi::api::apps::v1::Deployment;

use crate::cluster::objects;

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

/// The environment that the chart gives the operator's process, by name.
///
/// # Errors
///
/// As [`render`], and if there is no operator.
pub fn operator_environment() -> Result<Vec<(String, String)>> {
    let rendered = render("duosuan-system", &["--show-only", "templates/operator.yaml"])?;
    for object in objects(&rendered)? {
        if object.types.as_ref().is_some_and(|types| types.kind == "Deployment") {
            let operator: Deployment = object.try_parse()?;
            let pod = operator.spec.template.spec;
            let container = pod.and_then(|pod| pod.containers.into_iter().next());
            let given = container.and_then(|container| container.env).unwrap_or_default();
            let given = given.into_iter();
            return Ok(given
                .filter_map(|variable| Some((variable.name, variable.value?)))
                .collect());
        }
    }
    bail!("the chart has no Deployment of the operator")
}
