//! `duosuan top`: what the agents of nodes see, offer and do, from their reports.

mod source;
mod text;

use std::path::PathBuf;

use anyhow::{anyhow, bail};
use clap::{Args, Subcommand};
use duosuan_crds::NodeReport;
use kube::ResourceExt;
use serde_json::{Map, Value};

/// What `duosuan top` shows.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// All nodes, a line each
    Nodes {
        #[command(flatten)]
        source: Source,
    },
    /// One node: use by tier, the terms of its offer, guards, and what they did last and why
    Node {
        /// The node
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        source: Source,
    },
}

/// Where the reports come from.
#[derive(Clone, Debug, Args)]
pub(crate) struct Source {
    /// NodeReports in YAML or JSON, instead of a live cluster; - is standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE", num_args = 1.., conflicts_with = "kubeconfig")]
    files: Vec<PathBuf>,
    /// File with the way to the API server [default: what kubectl would use]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Source {
    fn reports(&self) -> anyhow::Result<Vec<NodeReport>> {
        let mut reports = if self.files.is_empty() {
            source::from_server(self.kubeconfig.as_deref())?
        } else {
            source::from_files(&self.files)?
        };
        reports.sort_by_key(ResourceExt::name_any);
        Ok(reports)
    }
}

/// Shows what is asked for; what is to be printed.
///
/// # Errors
///
/// If there are no reports, or none of that node.
pub(crate) fn run(command: &Command) -> anyhow::Result<String> {
    match command {
        Command::Nodes { source } => {
            let reports = source.reports()?;
            if reports.is_empty() {
                bail!("there is no NodeReport: does the agent run on any node?");
            }
            if !source.json {
                return Ok(text::nodes(&reports));
            }
            let nodes = reports.iter().map(json).collect::<anyhow::Result<Vec<Value>>>()?;
            Ok(Value::Object(Map::from_iter([("nodes".to_owned(), Value::Array(nodes))])).to_string())
        }
        Command::Node { name, source } => {
            let reports = source.reports()?;
            let report = reports
                .iter()
                .find(|r| r.name_any() == *name)
                .ok_or_else(|| missing(name, &reports))?;
            if source.json {
                return Ok(json(report)?.to_string());
            }
            Ok(text::node(report))
        }
    }
}

fn missing(name: &str, reports: &[NodeReport]) -> anyhow::Error {
    const FEW: usize = 5;
    let others: Vec<String> = reports.iter().take(FEW).map(ResourceExt::name_any).collect();
    match others.as_slice() {
        [] => anyhow!("there is no NodeReport {name}, nor any other: does the agent run on any node?"),
        others => anyhow!(
            "there is no NodeReport {name}: does the agent run on that node? There are reports of {}{}",
            others.join(", "),
            if reports.len() > FEW { " and others" } else { "" }
        ),
    }
}

/// The status as the API server has it, with the node's name.
fn json(report: &NodeReport) -> anyhow::Result<Value> {
    let mut object = Map::from_iter([("node".to_owned(), Value::String(report.name_any()))]);
    if let Value::Object(status) = serde_json::to_value(report.status.clone().unwrap_or_default())? {
        object.extend(status);
    }
    Ok(Value::Object(object))
}
