//! The way to the API server, and what is looked at before anything is watched.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Context, anyhow, bail};
use http::Request;
use kube::{
    Client, Config, CustomResourceExt,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::options::Options;

/// Tries with credentials that the API server refuses: a mounted token may be renewed just now.
const REFUSALS: u32 = 4;
/// First pause between tries; each further one is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The way to the API server that the options name.
///
/// # Errors
///
/// If there is none, or the file cannot be read.
pub async fn config(options: &Options) -> anyhow::Result<Config> {
    let mut config = match (&options.config, &options.kubeconfig) {
        (Some(config), _) => config.clone(),
        (None, Some(file)) => from_file(file).await?,
        (None, None) => Config::infer()
            .await
            .context("no way to the API server: give --kubeconfig FILE, or run in a pod with a service account")?,
    };
    // Each request has its own rule of when it is tried again.
    config.default_retry = false;
    Ok(config)
}

async fn from_file(file: &Path) -> anyhow::Result<Config> {
    let name = file.display();
    let kubeconfig = Kubeconfig::read_from(file).map_err(|error| match error {
        KubeconfigError::ReadConfig(error, _) => anyhow!("--kubeconfig {name} cannot be read: {error}"),
        other => anyhow!("--kubeconfig {name} cannot be read: {}", chain(&other)),
    })?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    config.map_err(|error| {
        anyhow!(
            "--kubeconfig {name} does not say how to reach an API server: {}",
            chain(&error)
        )
    })
}

/// Waits until the API server answers. `None` if the end came first.
///
/// # Errors
///
/// If the API server keeps refusing the credentials.
pub async fn wait_for_api(client: &Client, server: &str, end: &CancellationToken) -> anyhow::Result<Option<()>> {
    let mut pause = FIRST_PAUSE;
    let mut refusals: u32 = 0;
    loop {
        let answer = tokio::select! {
            () = end.cancelled() => return Ok(None),
            answer = tokio::time::timeout(TIMEOUT, client.apiserver_version()) => answer,
        };
        match answer {
            Ok(Ok(version)) => {
                info!(server, version = version.git_version, "the API server answers");
                return Ok(Some(()));
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 401 => {
                refusals = refusals.saturating_add(1);
                if refusals >= REFUSALS {
                    bail!(
                        "the API server at {server} refuses the credentials (401 {}): the token or certificate is wrong or expired; get a new one",
                        status.message
                    );
                }
                warn!(server, "the API server refuses the credentials (401)");
            }
            // It answers, and keeps its version to itself.
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => return Ok(Some(())),
            Ok(Err(error)) => warn!(
                server,
                error = chain(&error),
                "the API server cannot be reached; trying again"
            ),
            Err(_) => warn!(
                server,
                seconds = TIMEOUT.as_secs(),
                "the API server does not answer; trying again"
            ),
        }
        tokio::select! { () = end.cancelled() => return Ok(None), () = tokio::time::sleep(pause) => {} }
        pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// Says whether our kinds are served, and in the version that this operator was built with.
pub async fn check_kinds(client: &Client) {
    let version = format!("{}/v1alpha1", duosuan_crds::GROUP);
    let path = format!("/openapi/v3/apis/{version}");
    let Ok(request) = Request::get(path).body(Vec::new()) else {
        return;
    };
    match client.request::<Value>(request).await {
        Ok(served) => {
            for (kind, ours) in schemas() {
                let missing = match schema_of(&served, &kind) {
                    Some(theirs) => missing_fields(&ours, theirs),
                    // The watch of this kind says that it is not there.
                    None => continue,
                };
                if !missing.is_empty() {
                    let fields = missing.into_iter().collect::<Vec<_>>().join(", ");
                    warn!(
                        kind,
                        fields,
                        "the installed CRD is older than this operator and lacks fields; bring it up to date: duosuan crds | kubectl apply -f -"
                    );
                }
            }
        }
        // They are not installed, which their watches say, or have been only just: their description follows later.
        Err(kube::Error::Api(status)) if status.code == 404 => {
            debug!("no description of the CRDs; not looking whether they are up to date");
        }
        Err(error) => warn!(%error, "cannot see whether the CRDs are up to date"),
    }
}

/// Our kinds and their schemas, as this operator was built with them.
fn schemas() -> Vec<(String, Value)> {
    let crds = [
        duosuan_crds::CapacityClaim::crd(),
        duosuan_crds::Queue::crd(),
        duosuan_crds::ColocationPolicy::crd(),
        duosuan_crds::NodeReport::crd(),
    ];
    crds.into_iter()
        .filter_map(|crd| {
            let version = crd.spec.versions.into_iter().next()?;
            let schema = version.schema?.open_api_v3_schema?;
            Some((crd.spec.names.kind, serde_json::to_value(schema).ok()?))
        })
        .collect()
}

fn schema_of<'a>(openapi: &'a Value, kind: &str) -> Option<&'a Value> {
    let schemas = openapi.pointer("/components/schemas")?.as_object()?;
    schemas.values().find(|schema| {
        let kinds = schema.get("x-kubernetes-group-version-kind").and_then(Value::as_array);
        kinds.is_some_and(|list| {
            list.iter()
                .any(|gvk| gvk.get("kind").and_then(Value::as_str) == Some(kind))
        })
    })
}

/// Paths of the fields of `ours` that `theirs` does not have.
fn missing_fields(ours: &Value, theirs: &Value) -> BTreeSet<String> {
    let mut missing = BTreeSet::new();
    for part in ["spec", "status"] {
        let part_of = |schema: &Value| schema.get("properties").and_then(|p| p.get(part)).cloned();
        if let Some(ours) = part_of(ours) {
            match part_of(theirs) {
                Some(theirs) => compare(&ours, &theirs, part, &mut missing),
                None => drop(missing.insert(part.to_owned())),
            }
        }
    }
    missing
}

fn compare(ours: &Value, theirs: &Value, path: &str, missing: &mut BTreeSet<String>) {
    if let (Some(ours), Some(theirs)) = (ours.get("items"), theirs.get("items")) {
        compare(ours, theirs, &format!("{path}[]"), missing);
    }
    let Some(fields) = ours.get("properties").and_then(Value::as_object) else {
        return;
    };
    for (name, field) in fields {
        let path = format!("{path}.{name}");
        match theirs.get("properties").and_then(|p| p.get(name)) {
            Some(other) => compare(field, other, &path, missing),
            None => drop(missing.insert(path)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use super::*;

    #[test]
    fn a_crd_that_lacks_a_field_is_older() {
        let (kind, ours) = schemas().into_iter().next().unwrap();
        assert_eq!(kind, "CapacityClaim");
        assert_eq!(missing_fields(&ours, &ours), BTreeSet::new());
        let mut older = ours.clone();
        let group = &mut older["properties"]["spec"]["properties"]["groups"]["items"]["properties"];
        group.as_object_mut().unwrap().remove("gpus");
        assert_eq!(
            missing_fields(&ours, &older),
            BTreeSet::from(["spec.groups[].gpus".to_owned()])
        );
    }
}
