//! NodeReports from an API server, or from files.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use duosuan_crds::NodeReport;
use serde_json::Value;

use crate::{
    objects,
    server::{self, Listed, Server},
};

/// All reports that the API server has. Nothing is written.
///
/// # Errors
///
/// If there is no way to the API server, or it refuses.
pub(super) fn from_server(kubeconfig: Option<&Path>) -> anyhow::Result<Vec<NodeReport>> {
    server::wait(async {
        let server = Server::connect(kubeconfig).await?;
        match server.list().await? {
            Listed::All(reports) => Ok(reports),
            Listed::Unserved => bail!(
                "the API server {} does not serve NodeReports: install the definitions that `duosuan crds` prints",
                server.url()
            ),
            Listed::Refused(why) => bail!(why),
        }
    })
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
