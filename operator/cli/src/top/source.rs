//! NodeReports from an API server, or from files.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use duosuan_controller::{Options, connect};
use duosuan_crds::NodeReport;
use kube::{Api, Client, api::ListParams};
use serde_json::Value;

use crate::objects;

/// Reports in one answer.
const PAGE: u32 = 500;

/// All reports that the API server has. Nothing is written.
///
/// # Errors
///
/// If there is no way to the API server, or it refuses.
pub(super) fn from_server(kubeconfig: Option<&Path>) -> anyhow::Result<Vec<NodeReport>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(list(kubeconfig))
}

async fn list(kubeconfig: Option<&Path>) -> anyhow::Result<Vec<NodeReport>> {
    let options = Options {
        kubeconfig: kubeconfig.map(Path::to_owned),
        ..Options::default()
    };
    let config = connect::config(&options).await?;
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config).with_context(|| format!("use the way to {server}"))?;
    let api: Api<NodeReport> = Api::all(client);
    let mut page = ListParams::default().limit(PAGE);
    let mut reports = Vec::new();
    loop {
        let list = match api.list(&page).await {
            Ok(list) => list,
            Err(kube::Error::Api(status)) if status.code == 404 => {
                bail!(
                    "the API server {server} does not serve NodeReports: install the definitions that `duosuan crds` prints"
                )
            }
            Err(error) => return Err(error).with_context(|| format!("cannot list NodeReports of {server}")),
        };
        reports.extend(list.items);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(reports),
        }
    }
}

/// The reports in files; other objects are passed over.
///
/// # Errors
///
/// If a file cannot be read, or a report in it is broken: with file, document and field.
pub(super) fn from_files(files: &[PathBuf]) -> anyhow::Result<Vec<NodeReport>> {
    let mut reports = Vec::new();
    for file in files {
        for (place, value) in objects::documents_of(file)? {
            if value.get("kind").and_then(Value::as_str) != Some("NodeReport") {
                continue;
            }
            let report =
                serde_path_to_error::deserialize(value).with_context(|| format!("{place} is no NodeReport"))?;
            reports.push(report);
        }
    }
    Ok(reports)
}
