//! `duosuan explain`: why a claim or a pod waits, from a live cluster or from files.

mod report;

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{anyhow, bail};
use clap::Args;
use duosuan_controller::site::SiteArguments;
use duosuan_planner::{
    explain::{Case, Target, explain},
    facts::Facts,
    simulation::Simulation,
};

use crate::{names::namespaced, objects};

pub(crate) use report::{Placed, Report};

/// Changes that are tried, at most, on copies of the model.
pub(crate) const EFFORT: u32 = 300;

/// Flags of `duosuan explain`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "With -f, the cluster is what the files say, as for duosuan simulate cluster; without it, it is read from the API server \
once, and nothing is written. Every change that is named was tried, with the production scheduler on a copy of the model, and admits by itself."
)]
pub(crate) struct Arguments {
    /// The claim, as NAME or NAMESPACE/NAME
    #[arg(value_name = "CLAIM", required_unless_present = "pod", conflicts_with = "pod")]
    claim: Option<String>,
    /// The pod, as NAMESPACE/NAME or NAME
    #[arg(long, value_name = "NS/NAME")]
    pod: Option<String>,
    /// Namespace of a name without one
    #[arg(short = 'n', long, value_name = "NS", default_value = "default")]
    namespace: String,
    /// Kubernetes objects in YAML or JSON, instead of a live cluster; - is standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE", num_args = 1.., conflicts_with = "kubeconfig")]
    files: Vec<PathBuf>,
    /// File with the way to the API server [default: what kubectl would use]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    site: SiteArguments,
    /// Changes to try, at most
    #[arg(long, value_name = "N", default_value_t = EFFORT)]
    effort: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Explains a claim or a pod; what is to be printed.
///
/// # Errors
///
/// If the cluster cannot be read, or does not have it.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<String> {
    let asked = Asked::of(
        arguments.claim.as_deref(),
        arguments.pod.as_deref(),
        &arguments.namespace,
    )?;
    let site = arguments.site.site();
    let objects = if arguments.files.is_empty() {
        objects::from_server(arguments.kubeconfig.as_deref(), &site)?
    } else {
        objects::from_files(&arguments.files, &site)?
    };
    let now = objects.now;
    // What the next cycles decide is decided first, so that nothing is explained that is about to end.
    let mut simulation = Simulation::behind(
        objects.edge,
        objects.disruption,
        site.settings,
        now,
        objects.events,
        BTreeMap::new(),
    );
    simulation.run(Some(now))?;
    let target = asked.target(simulation.facts())?;
    let case = Case::of(&simulation);
    let explanation =
        explain(case, &target, arguments.effort).ok_or_else(|| anyhow!("there is no {} any more", asked.words()))?;
    let placed: Vec<Placed> = simulation
        .bound()
        .iter()
        .map(|bound| (bound.pod.clone(), bound.node.clone()))
        .collect();
    let mut report = Report::new(case, &target, explanation, &placed, &|uid| simulation.estimate(uid));
    report.remarks = objects.remarks;
    if arguments.json {
        return Ok(serde_json::to_string(&report)?);
    }
    Ok(report.text())
}

/// What is asked about, by namespace and name.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    /// A claim.
    Claim(String, String),
    /// A pod.
    Pod(String, String),
}

impl Asked {
    /// What the flags say.
    ///
    /// # Errors
    ///
    /// If it is no name.
    pub(crate) fn of(claim: Option<&str>, pod: Option<&str>, namespace: &str) -> anyhow::Result<Asked> {
        match (claim, pod) {
            (_, Some(pod)) => namespaced(pod, namespace).map(|(namespace, name)| Asked::Pod(namespace, name)),
            (Some(claim), None) => namespaced(claim, namespace).map(|(namespace, name)| Asked::Claim(namespace, name)),
            (None, None) => bail!("name a claim, or a pod with --pod"),
        }
    }

    /// The name with its kind, for people.
    pub(crate) fn words(&self) -> String {
        match self {
            Asked::Claim(namespace, name) => format!("claim {namespace}/{name}"),
            Asked::Pod(namespace, name) => format!("pod {namespace}/{name}"),
        }
    }

    /// The object of that name.
    ///
    /// # Errors
    ///
    /// If there is none; with those of the same name in other namespaces.
    pub(crate) fn target(&self, facts: &Facts) -> anyhow::Result<Target> {
        let (found, elsewhere): (_, Vec<&str>) = match self {
            Asked::Claim(namespace, name) => (
                facts
                    .claim_named(namespace, name)
                    .map(|claim| Target::Claim(claim.uid.clone())),
                facts
                    .claims
                    .values()
                    .filter(|c| c.name == *name)
                    .map(|c| c.namespace.as_str())
                    .collect(),
            ),
            Asked::Pod(namespace, name) => (
                facts.pod_named(namespace, name).map(|pod| Target::Pod(pod.uid.clone())),
                facts
                    .pods
                    .values()
                    .filter(|p| p.name == *name)
                    .map(|p| p.namespace.as_str())
                    .collect(),
            ),
        };
        found.ok_or_else(|| match elsewhere.as_slice() {
            [] => anyhow!("there is no {}", self.words()),
            others => anyhow!(
                "there is no {}; of that name there is one in {}",
                self.words(),
                others.join(", ")
            ),
        })
    }
}
